"""Generations of a view's states in the key-value store. At most one generation is read. # D31

A view is filled from history under keys of its own, while another generation is read. The record of positions says
which generation of a view is read. The transaction that completes a filling changes this entry.
"""

from __future__ import annotations

from collections.abc import Iterable

from trimtab.features.online.packed.keys import KeySpace
from trimtab.features.online.packed.plan import ViewPlan

GOING = "!"  # prefix of the id of a view whose states are being deleted
FILLING = "+"  # prefix of the id of a view that is being filled; its states are not read yet
LEFT = "-"  # prefix of the id and generation of a view whose states are not read any more


def place(plan: ViewPlan, generation: int) -> ViewPlan:
    """Make a plan read and write one generation of its view. Returns the plan itself."""
    plan.keys = KeySpace.of(plan.id, generation)
    return plan


def left_name(view_id: str, generation: int) -> str:
    """Return the name, in the record of positions, of a generation that is to be deleted."""
    return f"{LEFT}{view_id}.{generation}"


def id_of(name: str) -> str:
    """Return the hexadecimal id of the view that a name in the record of positions belongs to."""
    return name.lstrip(GOING + FILLING + LEFT).partition(".")[0]


def next_generation(in_use: Iterable[int]) -> int:
    """Return an unused generation."""
    return 1 + max(in_use, default=0)
