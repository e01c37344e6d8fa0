"""What is stored of online features, as it is now: whether it can be read at all, and how far it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from trimtab.app.state.state import State
from trimtab.core.errors import Corrupt
from trimtab.features.online.packed.plan import cursor_name
from trimtab.features.online.store import BEGIN, Cursor, read_cursors


def damage(state: State) -> str | None:
    """What is damaged so that nothing can be read, and what to do; None while it can be opened and read.

    A state of an entity that is damaged by itself is found when it is asked for.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from trimtab.core.clock import SystemClock
    >>> damage(State(Path(tempfile.mkdtemp()), clock=SystemClock())) is None
    True
    """
    try:
        _cursors(state)
    except Corrupt as error:
        return str(error)
    return None


def missing(state: State, views: Collection[str], positions: Mapping[str, int]) -> int:
    """How many records up to `positions` of the event log some views have not applied.

    Args:
        state: Where the views are stored.
        views: The hashes of their definitions.
        positions: By partition of the log.

    Raises:
        Corrupt: What is stored is damaged; the message has the command that mends it.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from trimtab.core.clock import SystemClock
    >>> missing(State(Path(tempfile.mkdtemp()), clock=SystemClock()), ["5e8a"], {"p0001": 7})
    7
    """
    cursors = _cursors(state)
    found = [cursors.get(cursor_name(view), BEGIN).positions for view in views]
    return sum(max(0, last - min(at.get(name, 0) for at in found)) for name, last in positions.items() if found)


def _cursors(state: State) -> dict[str, Cursor]:
    try:
        return read_cursors(state.online)
    except Corrupt as error:
        raise Corrupt(f"online features are damaged: {error}") from error
