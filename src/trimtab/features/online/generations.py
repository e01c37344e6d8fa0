"""Where a view's states lie in the key-value store: generations, of which one at most is read. # D31

A view that is filled from history is filled beside what is read, under keys of its own. The record of positions says
which generation of a view is read; it changes in the transaction that makes another one the read one.
"""

from __future__ import annotations

from collections.abc import Iterable

from trimtab.features.online.packed.plan import ViewPlan

GOING = "!"  # before the id of a view whose states are being deleted
FILLING = "+"  # before the id of a view that is being filled; what it has is not read
LEFT = "-"  # before the id of a view (and its generation) whose states are read no more
_FIRST = 0  # the generation of views that took the log record by record from its start


def place(plan: ViewPlan, generation: int) -> ViewPlan:
    """Let a plan read and write one generation of its view; the plan itself."""
    plan.index_prefix, plan.rows_prefix, plan.state_prefix = prefixes(plan.id, generation)
    return plan


def prefixes(view_id: bytes, generation: int) -> tuple[bytes, bytes, bytes]:
    """What the keys of a generation begin with: those of its index, of its rows and of its states.

    A later generation lies behind all earlier ones, and its states behind its index: so it is written by appending.
    """
    if generation == _FIRST:
        return b"i" + view_id, b"r" + view_id, b"v" + view_id
    base = b"x" + generation.to_bytes(4, "big")
    return base + b"i" + view_id, base + b"r" + view_id, base + b"v" + view_id


def left_name(view_id: str, generation: int) -> str:
    """Under which name the record of positions keeps a generation that is to be deleted."""
    return f"{LEFT}{view_id}.{generation}"


def id_of(name: str) -> str:
    """Which view (by its hexadecimal id) a name in the record of positions is of."""
    return name.lstrip(GOING + FILLING + LEFT).partition(".")[0]


def next_generation(in_use: Iterable[int]) -> int:
    """A generation that nothing lies under."""
    return 1 + max(in_use, default=_FIRST)
