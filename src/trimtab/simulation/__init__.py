"""Replay of a history: the same loop as in service runs in virtual time, to compare retraining policies."""

from trimtab.simulation.faults import Fault, fault, read_faults
from trimtab.simulation.generating.streams import Shift, Stream, Truth, shift, stream
from trimtab.simulation.policies import Policy, Refit, Standing, alarm, every, naive, never, project, ungated
from trimtab.simulation.policy_search import PolicyChoice, choose_policy, grid
from trimtab.simulation.scorecard import Scorecard, scorecards

__all__ = [
    "Fault",
    "Policy",
    "PolicyChoice",
    "Refit",
    "Scorecard",
    "Shift",
    "Standing",
    "Stream",
    "Truth",
    "alarm",
    "choose_policy",
    "every",
    "fault",
    "grid",
    "naive",
    "never",
    "project",
    "read_faults",
    "scorecards",
    "shift",
    "stream",
    "ungated",
]


def __dir__() -> list[str]:
    return __all__
