"""A note in the catalogue of the error that stopped the process that applies events, for all other processes."""

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
    """Note that an error stopped it."""
    standing = Standing(f"{type(error).__name__}: {error}", clock.now_us())
    try:
        catalog.write([Put(KIND, _KEY, msgspec.json.encode(standing))])
    except TrimtabError as also:  # a full disk, mostly: it is logged all the same, and readiness says so
        _logger.warning("that events are not applied cannot be noted: %s", also)


def standing(catalog: Catalog) -> Standing | None:
    """The error that stopped it; None: there is none, or events were applied since."""
    record = catalog.get(KIND, _KEY)
    return None if record is None else msgspec.json.decode(record.body, type=Standing)


@contextmanager
def standing_recorded(catalog: Catalog, clock: Clock) -> Iterator[None]:
    """Store the error that stops the application of events in the block, or remove the stored one."""
    try:
        yield
    except (Conflict, Unavailable):  # temporary
        raise
    except Exception as error:
        note_standing(catalog, clock, error)
        raise
    forget_standing(catalog)


def forget_standing(catalog: Catalog) -> None:
    """Remove the note: events are applied again."""
    if catalog.get(KIND, _KEY) is not None:
        catalog.write([Remove(KIND, _KEY)])
