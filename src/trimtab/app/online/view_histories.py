"""Histories of the sources that views read, for answering requests about the past."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from trimtab.app.state.state import State
from trimtab.events.definitions import Source

if TYPE_CHECKING:
    from trimtab.app.online.history import FramesAt, SharedHistory


class ViewHistories:
    """The event histories of the sources that views read.

    They are read from the history that the whole process shares, if it has all these sources with equal declarations.
    Otherwise, or for a given log position, a separate history is read.
    """

    def __init__(self, state: State, sources: Sequence[Source], shared: Callable[[], SharedHistory]) -> None:
        self._state = state
        self._sources = sources
        self._shared = shared
        self._own: SharedHistory | None = None

    def frames(self, upto: Mapping[str, int] | None) -> FramesAt:
        """Return the events of every source, and the log positions up to which they were read.

        All sources are read up to the same positions: those in `upto`, or the end of the log.
        """
        history = self._current() if upto is None else self._read(upto)
        return history.frames_at([source.name for source in self._sources])

    def _current(self) -> SharedHistory:
        shared = self._shared()
        if all(shared.keeps(source) for source in self._sources):
            return shared
        self._own = self._own or self._read(None)
        return self._own

    def _read(self, upto: Mapping[str, int] | None) -> SharedHistory:
        from trimtab.app.online.history import SharedHistory  # imported here, because it loads NumPy

        tables = partial(self._state.moved, self._sources)
        return SharedHistory(self._state.events, self._sources, upto=upto, tables=tables)
