"""The error that stopped the process that applies events, noted in the catalogue for all other processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, TrimtabError, Unavailable
from trimtab.store.ports import Catalog, Put, Remove

KIND = "standing"
_KEY = "views"
_logger = logging.getLogger(__name__)


class Standing(msgspec.Struct, frozen=True):
    """The error that stopped the process that applies events, and when."""

    why: str
    at_us: int


def note_standing(catalog: Catalog, clock: Clock, error: Exception) -> None:
    """Note the error that stopped the process that applies events."""
    standing = Standing(f"{type(error).__name__}: {error}", clock.now_us())
    try:
        catalog.write([Put(KIND, _KEY, msgspec.json.encode(standing))])
    except TrimtabError as also:  # mostly a full disk; the error is still logged, and the readiness check shows it
        _logger.warning("that events are not applied cannot be noted: %s", also)


def standing(catalog: Catalog) -> Standing | None:
    """Return the error that stopped the process that applies events.

    The result is None if no error was noted, or if events were applied since.
    """
    record = catalog.get(KIND, _KEY)
    return None if record is None else msgspec.json.decode(record.body, type=Standing)


@contextmanager
def standing_recorded(catalog: Catalog, clock: Clock) -> Iterator[None]:
    """Store an error that stops the application of events in the block. Without an error, remove the stored one."""
    try:
        yield
    except (Conflict, Unavailable):  # such an error is temporary
        raise
    except Exception as error:
        note_standing(catalog, clock, error)
        raise
    forget_standing(catalog)


def forget_standing(catalog: Catalog) -> None:
    """Remove the note, because events are applied again."""
    if catalog.get(KIND, _KEY) is not None:
        catalog.write([Remove(KIND, _KEY)])
