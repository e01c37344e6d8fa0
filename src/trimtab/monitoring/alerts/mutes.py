"""Mutes: no alerts are sent about some signals until a given time."""

from __future__ import annotations

import msgspec

from trimtab.core.records import Signal
from trimtab.store.ports import Catalog

KIND = "alert_mute"
ANY = "*"


class Mute(msgspec.Struct, frozen=True, kw_only=True):
    """A mute that a person requested."""

    what: str  # MODEL, KIND, SUBJECT, MODEL/KIND or MODEL/KIND/SUBJECT; * stands for any
    until_us: int
    why: str
    by: str
    at_us: int

    def covers(self, signal: Signal) -> bool:
        """Return whether this mute is about a signal. Its time is not checked.

        >>> mute = Mute(what="m/*/column x", until_us=9, why="", by="", at_us=0)
        >>> mute.covers(Signal(id="", kind="k", model="m", version="", raised_at_us=0, onset_us=0, severity="red",
        ...     evidence={}, message="", subject="column x"))
        True
        """
        of = (signal.model, signal.kind, signal.subject)
        parts = self.what.split("/", 2)
        if len(parts) == 1:
            return self.what == ANY or (self.what != "" and self.what in of)
        return all(part in (ANY, given) for part, given in zip(parts, of, strict=False))


def mutes(catalog: Catalog) -> list[Mute]:
    """Return all mutes that were not removed, even those whose time is over."""
    return [msgspec.json.decode(record.body, type=Mute) for record in catalog.find(KIND)]


def muted(signal: Signal, found: list[Mute], now_us: int) -> bool:
    """Return whether any of the mutes applies to a signal now."""
    return any(now_us < mute.until_us and mute.covers(signal) for mute in found)
