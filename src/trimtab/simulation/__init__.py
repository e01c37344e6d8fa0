"""The same loop in virtual time, several policies side by side."""

from trimtab.simulation.faults import Fault, fault, read_faults
from trimtab.simulation.policies import Policy, Refit, Standing, every, naive, never, project, ungated
from trimtab.simulation.scorecard import Scorecard, scorecards
from trimtab.simulation.streams import Shift, Stream, Truth, shift, stream

__all__ = [
    "Fault",
    "Policy",
    "Refit",
    "Scorecard",
    "Shift",
    "Standing",
    "Stream",
    "Truth",
    "every",
    "fault",
    "naive",
    "never",
    "project",
    "read_faults",
    "scorecards",
    "shift",
    "stream",
    "ungated",
]
