"""One event in the form in which it is stored in the log and read by every view."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from trimtab.core.errors import Corrupt
from trimtab.store.ports import LogRecord

Op = Literal["upsert", "delete"]
Value = float | int | bool | str | None
NEVER_US = 2**63 - 1  # stands for a time that never comes


class Event(msgspec.Struct, frozen=True, array_like=True, gc=False):  # the object cannot be part of a cycle
    """One version of one event, which is a record of the event log.

    `values` are in the order of the source's columns, including the time column, with None for null. In a tombstone
    (`op` "delete") all values except the key may be null.
    """

    source: str
    id: str
    event_at_us: int
    known_at_us: int  # as declared, or 0 if it was not declared
    op: Op
    history: bool  # loaded in bulk, so `known_at_us` counts although the record was appended later
    values: tuple[Value, ...]


def padded(values: Sequence[Value], width: int) -> tuple[Value, ...]:
    """Return the values of an event with nulls added for columns that the source did not have at the time.

    >>> padded((1, "a"), 3)
    (1, 'a', None)
    """
    return (*values[:width], *(None,) * (width - len(values)))


ERASED = "!"  # the source of an erased record; no real source may have such a name

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Event)


def encode(event: Event) -> bytes:
    """Return the payload of the record.

    >>> event = Event("weather", "a", 5, 0, "upsert", False, ("JFK", 5, None))
    >>> decode(encode(event)) == event
    True
    """
    return _encoder.encode(event)


def decode(payload: bytes) -> Event:
    """Return the event of a record's payload.

    Raises:
        Corrupt: The bytes are not an event.
    """
    try:
        return _decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise Corrupt(
            f"event log: {len(payload)} bytes that are no event ({error}). Was another log opened?"
        ) from error


def decode_all(payloads: Sequence[bytes]) -> list[Event]:
    """Return the events of many payloads.

    Raises:
        Corrupt: A payload is not an event.
    """
    try:
        return list(map(_decoder.decode, payloads))
    except msgspec.DecodeError:
        return list(map(decode, payloads))  # raises the error for the bad payload


def erased(source: str) -> bytes:
    """Return the record that replaces an erased event. It has only the name of the source. # D26

    >>> decode(erased("visits")).source == ERASED
    True
    """
    return encode(Event(ERASED, "", 0, 0, "delete", False, (source,)))


def known_at_us(event: Event, record: LogRecord) -> int:
    """Return the time at which an event became known.

    Unless the event was loaded as history, it was not known before it was appended.
    """
    if event.history:
        return event.known_at_us
    declared = event.known_at_us != 0  # otherwise 0 would be ahead of a clock before 1970
    return max(event.known_at_us, record.appended_at_us) if declared else record.appended_at_us
