"""The same loop in virtual time, several policies side by side."""

from trimtab.simulation.policies import Policy, Refit, Standing, every, naive, never, project, ungated

__all__ = [
    "Policy",
    "Refit",
    "Standing",
    "every",
    "naive",
    "never",
    "project",
    "ungated",
]
