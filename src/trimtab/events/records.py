"""One event as it lies in the log: the format every view reads."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from trimtab.core.errors import Corrupt
from trimtab.store.ports import LogRecord

Op = Literal["upsert", "delete"]
Value = float | int | bool | str | None
NEVER_US = 2**63 - 1  # a time that does not come


class Event(msgspec.Struct, frozen=True, array_like=True, gc=False):  # it can hold no cycle
    """One version of one event, a record of the event log.

    `values` come in the order of the source's declared columns, the time column among them, None for null. A
    tombstone (`op` "delete") may leave all but its key null.
    """

    source: str
    id: str
    event_at_us: int
    known_at_us: int  # as declared; 0 when it was not
    op: Op
    history: bool  # loaded in bulk: `known_at_us` holds although the record was appended later
    values: tuple[Value, ...]


def padded(values: Sequence[Value], width: int) -> tuple[Value, ...]:
    """The values of an event in a source of `width` columns: null in those that it has had only since.

    >>> padded((1, "a"), 3)
    (1, 'a', None)
    """
    return (*values[:width], *(None,) * (width - len(values)))


ERASED = "!"  # the source of a record that says nothing any more; no source may have such a name

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Event)


def encode(event: Event) -> bytes:
    """The record's payload.

    >>> event = Event("weather", "a", 5, 0, "upsert", False, ("JFK", 5, None))
    >>> decode(encode(event)) == event
    True
    """
    return _encoder.encode(event)


def decode(payload: bytes) -> Event:
    """The event of a record's payload.

    Raises:
        Corrupt: The bytes are no event.
    """
    try:
        return _decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise Corrupt(
            f"event log: {len(payload)} bytes that are no event ({error}). Was another log opened?"
        ) from error


def decode_all(payloads: Sequence[bytes]) -> list[Event]:
    """The events of many payloads.

    Raises:
        Corrupt: One of them is no event.
    """
    try:
        return list(map(_decoder.decode, payloads))
    except msgspec.DecodeError:
        return list(map(decode, payloads))  # says which


def erased(source: str) -> bytes:
    """The record in the place of an erased event: its source, and no more. # D26

    >>> decode(erased("visits")).source == ERASED
    True
    """
    return encode(Event(ERASED, "", 0, 0, "delete", False, (source,)))


def known_at_us(event: Event, record: LogRecord) -> int:
    """The time at which the event became known: not before it was appended, unless it was loaded as history."""
    if event.history:
        return event.known_at_us
    declared = event.known_at_us != 0  # else 0 would lie ahead of a clock before 1970
    return max(event.known_at_us, record.appended_at_us) if declared else record.appended_at_us
