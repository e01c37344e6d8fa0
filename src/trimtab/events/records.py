"""Events as they are stored in the log."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from trimtab.core.errors import Corrupt
from trimtab.store.ports import LogRecord

Op = Literal["upsert", "delete"]
Value = float | int | bool | str | None
NEVER_US = 2**63 - 1  # a time that is never reached


# gc=False is safe, because the object cannot be part of a cycle
class Event(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One version of an event, stored as one record of the event log.

    `values` are in the order of the source's columns, including the time, with None for null. In a deletion (`op` is
    "delete"), all values except the key may be null.
    """

    source: str
    id: str
    event_at_us: int
    known_at_us: int  # as sent, or for history the event time plus the delay; 0: the event became known at its append
    op: Op
    history: bool  # whether it was loaded as history: then `known_at_us` counts, even if the append was later
    values: tuple[Value, ...]


def padded(values: Sequence[Value], width: int) -> tuple[Value, ...]:
    """Return the values of an event, with nulls added for columns that the source got later.

    >>> padded((1, "a"), 3)
    (1, 'a', None)
    """
    return (*values[:width], *(None,) * (width - len(values)))


# gc=False is safe, because the object cannot be part of a cycle
class Head(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The first fields of an `Event`, which can be read without its values."""

    source: str
    id: str
    event_at_us: int


ERASED = "!"  # stands in place of the source's name in an erased record; no source can have this name

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Event)
_head_decoder = msgspec.msgpack.Decoder(Head)


def encode(event: Event) -> bytes:
    """Return the bytes of the log record for an event.

    >>> event = Event("weather", "a", 5, 0, "upsert", False, ("JFK", 5, None))
    >>> decode(encode(event)) == event
    True
    """
    return _encoder.encode(event)


def decode(payload: bytes) -> Event:
    """Return the event in the bytes of a log record.

    Raises:
        Corrupt: The bytes are not an event.
    """
    try:
        return _decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise Corrupt(
            f"event log: found {len(payload)} bytes that are not an event ({error}). Was another log opened?"
        ) from error


def decode_all(payloads: Sequence[bytes]) -> list[Event]:
    """Return the events in the bytes of several log records.

    Raises:
        Corrupt: Some bytes are not an event.
    """
    try:
        return list(map(_decoder.decode, payloads))
    except msgspec.DecodeError:
        return list(map(decode, payloads))  # decode one by one, to raise the error for the right record


def decode_heads(payloads: Sequence[bytes]) -> list[Head]:
    """Return the first fields of the events in the bytes of several log records.

    Raises:
        Corrupt: Some bytes are not an event.
    """
    try:
        return list(map(_head_decoder.decode, payloads))
    except msgspec.DecodeError:
        decode_all(payloads)  # raises the error for the right record
        raise


def erased(source: str) -> bytes:
    """Return the record that replaces an erased event. It has only the name of the source. # D26

    >>> decode(erased("visits")).source == ERASED
    True
    """
    return encode(Event(ERASED, "", 0, 0, "delete", False, (source,)))


def known_at_us(event: Event, record: LogRecord) -> int:
    """Return the time at which an event became known.

    Unless the event was loaded as history, this is never before the event was appended to the log.
    """
    if event.history:
        return event.known_at_us
    # 0 means that no time was sent, so it must not take part in `max` (with a clock before 1970, it would win)
    declared = event.known_at_us != 0
    return max(event.known_at_us, record.appended_at_us) if declared else record.appended_at_us
