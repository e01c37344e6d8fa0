"""Generations of a view's states in the key-value store, of which at most one is read. # D31

A view that is filled from history is filled next to what is read, under keys of its own. The record of positions says
which generation of a view is read; it changes in the transaction that makes another one the read one.
"""

from __future__ import annotations

from collections.abc import Iterable

from trimtab.features.online.packed.keys import KeySpace
from trimtab.features.online.packed.plan import ViewPlan

GOING = "!"  # before the id of a view whose states are being deleted
FILLING = "+"  # before the id of a view that is being filled; what it has is not read
LEFT = "-"  # before the id of a view (and its generation) whose states are read no more


def place(plan: ViewPlan, generation: int) -> ViewPlan:
    """Let a plan read and write one generation of its view; the plan itself."""
    plan.keys = KeySpace.of(plan.id, generation)
    return plan


def left_name(view_id: str, generation: int) -> str:
    """The name of a generation that is to be deleted in the record of positions."""
    return f"{LEFT}{view_id}.{generation}"


def id_of(name: str) -> str:
    """The hexadecimal id of the view that a name in the record of positions is of."""
    return name.lstrip(GOING + FILLING + LEFT).partition(".")[0]


def next_generation(in_use: Iterable[int]) -> int:
    """An unused generation."""
    return 1 + max(in_use, default=0)
