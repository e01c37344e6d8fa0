"""Rows as a view keeps them, and the keys under which the store has its states."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from hashlib import blake2b
from operator import itemgetter
from typing import Any, TypeAlias

import msgspec

from trimtab.core.errors import Misuse

Row: TypeAlias = list[Any]  # an event as a view keeps it, with the places below
EVENT_AT, KNOWN_AT, PARTITION, POSITION, UNTIL, ID, GIVES, FAILS = range(8)
# GIVES: one a series; None in a tombstone. FAILS: the series whose value failed; most rows end before it. # D156
Name: TypeAlias = str | int | tuple[str | int, ...]  # the name of an entity or event

_FIRST = 0  # the generation of views that took the log record by record from its start
_LONGEST_BYTES = 160  # limit for an entity or id inside a key; longer ones are hashed
_time = struct.Struct(">Q").pack


class KeySpace(msgspec.Struct, frozen=True):
    """The prefixes of the keys of one generation of a view."""

    index: bytes  # keyed: id -> its versions; else: event time and id of what was applied
    rows: bytes  # keyed: entity, falling event time, id; else: rows that tie for the newest event time
    states: bytes

    @staticmethod
    def of(view_id: bytes, generation: int) -> KeySpace:
        """The prefixes of a generation.

        A later generation lies behind all earlier ones, and its states behind its index: so it is written by appending.
        """
        base = b"" if generation == _FIRST else b"x" + generation.to_bytes(4, "big")
        return KeySpace(base + b"i" + view_id, base + b"r" + view_id, base + b"v" + view_id)

    @property
    def all(self) -> tuple[bytes, bytes, bytes]:
        """The three of them."""
        return self.index, self.rows, self.states

    def applied(self, event_at_us: int, event_id: str) -> bytes:
        """The key by which a view of a source without a key knows an event that it has applied."""
        return self.applied_from(event_at_us) + name_bytes(event_id)

    def applied_from(self, event_at_us: int) -> bytes:
        """The beginning of such keys of one event time; it sorts behind those of all earlier ones."""
        return self.index + _time(event_at_us + 2**63)


def cursor_name(address: str) -> str:
    """The name of a view in the record of positions, from its address; its keys begin with these bytes, too."""
    return address[:16]


def floor(at_us: int, hop_us: int) -> int:
    """The last multiple of `hop_us` not above `at_us`."""
    return at_us - at_us % hop_us


def name_bytes(value: Name) -> bytes:
    """An entity or an id as part of a key: short, and unique."""
    if isinstance(value, str):
        raw = value.encode() if value.isascii() else value.encode("utf-8", "surrogatepass")
        return b"s" + raw if len(raw) <= _LONGEST_BYTES else b"h" + blake2b(raw, digest_size=32).digest()
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise Misuse(f"key {value}: it does not fit 64 bits. Give an integer from -2**63 to 2**63 - 1.")
        return b"i" + (value + 2**63).to_bytes(8, "big")
    parts = [name_bytes(part) for part in value]
    raw = b"t" + b"".join(len(part).to_bytes(1, "big") + part for part in parts)
    return raw if len(raw) <= _LONGEST_BYTES else b"h" + blake2b(raw, digest_size=32).digest()


def entity_of(places: Sequence[int] | Sequence[str]) -> Callable[[Any], Any]:
    """The function from values to their entity: one of them, several, or None where any is null.

    >>> entity_of([1])(["a", 7]), entity_of(["x", "y"])({"x": "a", "y": None})
    (7, None)
    """
    if len(places) == 1:
        return itemgetter(places[0])
    several = itemgetter(*places)

    def entity(values: Any) -> tuple[Any, ...] | None:
        found: tuple[Any, ...] = several(values)
        return None if None in found else found

    return entity
