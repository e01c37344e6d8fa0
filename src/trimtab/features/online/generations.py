"""Generations: several sets of states of the same view in the key-value store, of which at most one is read. # D31

A view is filled from history under new keys (a new generation), while the previous generation is still read. The record
of positions (the cursors of all views) says which generation is read. The transaction that completes a filling changes
this record.
"""

from __future__ import annotations

from collections.abc import Iterable

from trimtab.features.online.packed.keys import KeySpace
from trimtab.features.online.packed.plan import ViewPlan

# In the record of positions, states that are read have the hexadecimal id of their view as name. Other names begin with
# one of these signs, followed by the id:
GOING = "!"  # the view's states are being deleted
FILLING = "+"  # the view is being filled, and these new states are not read yet
LEFT = "-"  # these states are no longer read; the generation follows the id


def place(plan: ViewPlan, generation: int) -> ViewPlan:
    """Make a plan read and write one generation of its view, and return the plan."""
    plan.keys = KeySpace.of(plan.id, generation)
    return plan


def left_name(view_id: str, generation: int) -> str:
    """Return the name of a generation that is to be deleted, as used in the record of positions."""
    return f"{LEFT}{view_id}.{generation}"


def id_of(name: str) -> str:
    """Return the hexadecimal id of the view in a name of the record of positions."""
    return name.lstrip(GOING + FILLING + LEFT).partition(".")[0]


def next_generation(in_use: Iterable[int]) -> int:
    """Return a generation that is not in use."""
    return 1 + max(in_use, default=0)
