"""Store the error that keeps events from being applied to online features, where all processes can read it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, TrimtabError, Unavailable
from trimtab.store.ports import Catalog, Put, Remove, read_record

KIND = "standing"
_KEY = "views"
_logger = logging.getLogger(__name__)


class Standing(msgspec.Struct, frozen=True):
    """The error that keeps events from being applied to online features, and its time."""

    why: str
    at_us: int


def note_standing(catalog: Catalog, clock: Clock, error: Exception) -> None:
    """Store the error that keeps events from being applied from now on."""
    standing = Standing(f"{type(error).__name__}: {error}", clock.now_us())
    try:
        catalog.write([Put(KIND, _KEY, msgspec.json.encode(standing))])
    except TrimtabError as also:  # such as a full disk; the readiness check of the service shows `error` even then
        _logger.warning("events are not applied, and the record of this error cannot be written: %s", also)


def standing(catalog: Catalog) -> Standing | None:
    """Return the error that keeps events from being applied; None if they are applied."""
    return read_record(catalog, KIND, _KEY, Standing)


@contextmanager
def standing_recorded(catalog: Catalog, clock: Clock, *, forget: bool) -> Iterator[None]:
    """If the block fails, store its error. If it succeeds and `forget` is set, remove the stored error."""
    try:
        yield
    except (Conflict, Unavailable):  # these errors are temporary, so they are not stored
        raise
    except Exception as error:
        note_standing(catalog, clock, error)
        raise
    if forget:
        forget_standing(catalog)


def forget_standing(catalog: Catalog) -> None:
    """Remove the stored error, because events are applied again."""
    if catalog.get(KIND, _KEY) is not None:
        catalog.write([Remove(KIND, _KEY)])
