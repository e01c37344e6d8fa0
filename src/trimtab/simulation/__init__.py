"""The same loop in virtual time, several policies side by side."""

from trimtab.simulation.policies import Policy, Refit, Standing, every, naive, never, project, ungated
from trimtab.simulation.streams import Shift, Stream, Truth, shift, stream

__all__ = [
    "Policy",
    "Refit",
    "Shift",
    "Standing",
    "Stream",
    "Truth",
    "every",
    "naive",
    "never",
    "project",
    "shift",
    "stream",
    "ungated",
]
