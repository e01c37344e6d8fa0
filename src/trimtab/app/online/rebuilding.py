"""Requests to rebuild a view, stored in the catalogue for the process that applies the event log."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from trimtab.core.errors import Conflict, Unavailable
from trimtab.store.ports import Catalog, Put, Remove

KIND = "rebuild"
_LOOK_S = 0.1
_ENDED = (
    "the process that applies events ended before the view was rebuilt. Answers still use the view's old features. "
    "Run: trimtab storage rebuild {view}"
)


class Rebuild(msgspec.Struct, frozen=True):
    """A requested rebuild and its progress."""

    rows: int = 0  # how many records were processed
    of: int = 0  # how many records are to be processed; 0 until the rebuild begins
    failure: str | None = None


class Rebuilds:
    """The requested rebuilds. Each view has one record in the catalogue, which is removed after the rebuild.

    The record of a failed rebuild stays until the rebuild is requested again, so that every waiting process can read
    the error.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def next(self) -> str | None:
        """Return the name of a view whose rebuild was requested, or None."""
        found = ((record.key, _decode(record.body)) for record in self._catalog.find(KIND))
        return next((view for view, rebuild in found if rebuild.failure is None), None)

    def note(self, view: str, rebuild: Rebuild) -> None:
        """Store how far a rebuild has progressed."""
        self._catalog.write([_put(view, rebuild)])

    def done(self, view: str) -> None:
        """Remove the record of a finished rebuild."""
        self._catalog.write([Remove(KIND, view)])

    def failed(self, view: str, why: str) -> None:
        """Store the error of a rebuild that failed."""
        self.note(view, Rebuild(failure=f"the process that applies events could not rebuild the view: {why}"))

    def wait(self, view: str, followed: Callable[[], bool], progress: Callable[[int, int], object] | None) -> None:
        """Request a view's rebuild from the process that applies the log, and wait until it is done.

        Args:
            followed: Returns whether a process that applies the log is running.
            progress: Called with the number of records done and the total number of records.

        Raises:
            Unavailable: The rebuild failed, or the process ended before the rebuild was done.
        """
        self.note(view, Rebuild())
        while (record := self._catalog.get(KIND, view)) is not None:
            rebuild = _decode(record.body)
            if rebuild.failure is not None:
                raise Unavailable(f"view {view!r}: {rebuild.failure}")
            if not followed():
                ended = Rebuild(failure=_ENDED.format(view=view))
                with suppress(Conflict):  # the process changed the record (perhaps finished) just before it ended
                    self._catalog.write([_put(view, ended, expected=record.revision)])
                continue
            if progress is not None and rebuild.of:
                progress(rebuild.rows, rebuild.of)
            time.sleep(_LOOK_S)


def _put(view: str, rebuild: Rebuild, *, expected: int | None = None) -> Put:
    return Put(KIND, view, msgspec.json.encode(rebuild), expected)


def _decode(body: bytes) -> Rebuild:
    return msgspec.json.decode(body, type=Rebuild)
