"""Keys of the key-value store for the states of views, and the elements of a row in a state."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from hashlib import blake2b
from operator import itemgetter
from typing import Any, TypeAlias

import msgspec

from trimtab.core.errors import Misuse

Row: TypeAlias = list[Any]  # an event in the form in which a view keeps it; the names below are indexes into it
EVENT_AT, KNOWN_AT, PARTITION, POSITION, UNTIL, ID, GIVES, FAILS = range(8)
# UNTIL: when the next version of the event became known. GIVES: the value of each series (see `series.py`); None for a
# deletion. FAILS (only if some failed): the series whose value could not be computed. # D156
Name: TypeAlias = str | int | tuple[str | int, ...]  # the name of an entity or of an event

_FIRST = 0  # the generation of a view that has only applied records, and was never filled from history
_LONGEST_BYTES = 160  # names of entities and ids that are longer than this are hashed
_time = struct.Struct(">Q").pack


class KeySpace(msgspec.Struct, frozen=True):
    """The prefixes of the keys of one generation (one set of states) of a view."""

    index: bytes  # source with a key: the versions of each id; without a key: the time and id of applied events
    # source with a key: the ids of each entity's events, latest event time first; without a key: the ties of each
    # entity (see `ties.py`)
    rows: bytes
    states: bytes

    @staticmethod
    def of(view_id: bytes, generation: int) -> KeySpace:
        """Return the key prefixes of a generation.

        Keys are sorted by generation, then index, rows, states. If they are written in this order, the store only has
        to append.
        """
        base = b"" if generation == _FIRST else b"x" + generation.to_bytes(4, "big")
        return KeySpace(base + b"i" + view_id, base + b"r" + view_id, base + b"v" + view_id)

    @property
    def all(self) -> tuple[bytes, bytes, bytes]:
        """The three prefixes."""
        return self.index, self.rows, self.states

    def applied(self, event_at_us: int, event_id: str) -> bytes:
        """Return the key that is stored once a view has applied an event. Only sources without a key need such keys."""
        return self.applied_from(event_at_us) + name_bytes(event_id)

    def applied_from(self, event_at_us: int) -> bytes:
        """Return the prefix of the keys of applied events with one event time.

        Keys of earlier event times come before this prefix.
        """
        return self.index + _time(event_at_us + 2**63)


def cursor_name(address: str) -> str:
    """Return the name of a view in the record of positions, given the hash of the view's definition.

    The keys of the view contain this name in binary form.
    """
    return address[:16]


def floor(at_us: int, hop_us: int) -> int:
    """Return the largest multiple of `hop_us` that is not above `at_us`."""
    return at_us - at_us % hop_us


def name_bytes(value: Name) -> bytes:
    """Return an entity or an id as a short, unique part of a key."""
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
    """Return a function that returns the entity from an event's values.

    The entity is a value, or a tuple if there are several columns. It is None if any value is null.

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
