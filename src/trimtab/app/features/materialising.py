"""Copy events from the log to the tables of record, their long-term store.  # D23, # D26

Only one process at a time copies events, and none does so during an erasure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trimtab.app.state.lease import Lease
from trimtab.app.state.lost_records import store_ends
from trimtab.app.state.state import State
from trimtab.app.system import System
from trimtab.events.tables import Materialised, materialise

LEASE = "tables"
SPARED_H = 1  # replaced files of a table stay for this long, for other tools that read the table
_PATIENCE_S = 60.0  # how long to wait for another process, which usually ends within this time


def copy_to_tables(system: System) -> Materialised:
    """Copy new events to the tables of record; see `Project.materialise`."""
    with writing_tables(system.state, patience_s=_PATIENCE_S):
        moved = system.state.moved(system.sources)
        system.layouts.keep()  # store the layouts first, because the columns of a table cannot change later
        tables = system.state.tables(system.sources, make=True)
        done = materialise(system.state.events, system.sources, tables, through=moved.through)
        store_ends(system.state)
        return done


@contextmanager
def writing_tables(state: State, *, patience_s: float = 0.0) -> Iterator[None]:
    """Lock the tables of record, so that no other process adds or erases events there while the `with` block runs.

    Args:
        patience_s: How many seconds to wait if another process has locked the tables.

    Raises:
        Conflict: Another process still has the tables locked.
    """
    otherwise = (
        f"{state.folder}: another process copies events to the tables of record (`trimtab storage materialise` "
        "or `prune`, or for a large table of features), or erases some of them. Try again when it is done."
    )
    with Lease(state.catalog, LEASE, state.folder).taken(otherwise, patience_s=patience_s):
        yield
