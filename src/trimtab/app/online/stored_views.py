"""Check whether stored online features are damaged, and how many log records have not been applied to them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from trimtab.app.state.state import State
from trimtab.core.errors import Corrupt
from trimtab.features.online.packed.keys import cursor_name
from trimtab.features.online.store import BEGIN, Cursor, read_cursors


def damage(state: State) -> str | None:
    """Return why online features cannot be read, and how to repair them; None if they can be read.

    Damage to the features of a single entity is only found when that entity is read.

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
    """Return the number of log records up to `positions` that have not been applied to all of the views.

    Args:
        views: The hashes of the definitions of the views.
        positions: The last position to count in each partition of the log.

    Raises:
        Corrupt: The stored features are damaged. The message has the command that repairs them.

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
