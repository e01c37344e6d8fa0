"""Moving the event log into tables of record, one process at a time, and none during an erasure. # D23, # D26"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from trimtab.app.state.lease import Lease
from trimtab.app.state.lost_records import store_ends
from trimtab.app.state.state import State
from trimtab.events.tables import Materialised, materialise

if TYPE_CHECKING:
    from trimtab.app.system import System

LEASE = "tables"
_PATIENCE_S = 60.0  # another process is usually done by then


def move_into_tables(system: System) -> Materialised:
    """See `Project.materialise`."""
    with writing_tables(system.state, patience_s=_PATIENCE_S):
        moved = system.state.moved(system.sources)
        system.layouts.keep()  # a table's columns stay
        tables = system.state.tables(system.sources, make=True)
        done = materialise(system.state.events, system.sources, tables, through=moved.through)
        store_ends(system.state)
        return done


@contextmanager
def writing_tables(state: State, *, patience_s: float = 0.0) -> Iterator[None]:
    """Hold the tables of record: no other process moves or erases events during the block.

    Args:
        state: The state folder.
        patience_s: Seconds to wait for another process.

    Raises:
        Conflict: Another process still holds them.
    """
    otherwise = (
        f"{state.folder}: another process moves events into tables of record (`trimtab materialise` or `retain`, a "
        "snapshot or a join), or erases some of them. Try again when it is done."
    )
    with Lease(state.catalog, LEASE, state.folder).taken(otherwise, patience_s=patience_s):
        yield
