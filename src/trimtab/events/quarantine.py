"""Rows that cannot become events: kept with the reason, counted, and given back after a fix."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from trimtab.core.errors import Corrupt
from trimtab.core.shown import shown
from trimtab.events.records import Op
from trimtab.store.ports import Log

Row = dict[str, Any]


class Quarantined(msgspec.Struct, frozen=True, array_like=True, tag="row"):
    """A row that was refused, why, and when."""

    source: str
    row: str  # the raw row, JSON
    reason: str  # see `trimtab.events.checks.Reason`
    field: str  # the column at fault
    at_us: int
    op: Op = "upsert"
    history: bool = False  # it came with a load of history

    def raw(self) -> Row:
        """The row as it came; moments are ISO 8601 text, infinities the texts "inf" and "-inf"."""
        row: Row = json.loads(self.row)
        return row


class _Released(msgspec.Struct, frozen=True, array_like=True, tag="released"):
    """Rows that were given to the ingestor again: they count no longer."""

    places: tuple[tuple[str, int], ...]  # (partition, position)


class _Erased(msgspec.Struct, frozen=True, array_like=True, tag="erased"):
    """A row that was forgotten: it counts no longer, and nobody can say what it was. # D26"""

    source: str


class Replayed(msgspec.Struct, frozen=True):
    """What became of rows that were given back: those that failed again are in quarantine again."""

    accepted: int
    quarantined: int
    left_out: int  # `fix` gave None: they are gone for good


class Pusher(Protocol):
    """What a replay needs of an ingestor."""

    def push(self, source: str, rows: Sequence[Mapping[str, object]], *, op: Op = ..., history: bool = ...) -> Any: ...


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Quarantined | _Released | _Erased)


class Quarantine:
    """Refused rows in a log of their own."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def add(self, rows: Sequence[Quarantined]) -> None:
        """Keep `rows`; they are safe when it returns."""
        if rows:
            self._log.append([_encoder.encode(row) for row in rows])

    def read(self, source: str | None = None) -> list[Quarantined]:
        """The rows in quarantine, of one source or of all, oldest first within a partition."""
        return [row for _, row in self._pending(source)]

    def counts(self) -> dict[str, dict[str, int]]:
        """How many rows are in quarantine, by source and reason."""
        out: dict[str, dict[str, int]] = {}
        for row in self.read():
            reasons = out.setdefault(row.source, {})
            reasons[row.reason] = reasons.get(row.reason, 0) + 1
        return out

    def find(self, wanted: Callable[[Quarantined], bool]) -> dict[str, dict[int, bytes]]:
        """The rows that are `wanted`, replayed ones too: by partition and position, what `Log.erase` puts instead."""
        found: dict[str, dict[int, bytes]] = {}
        for (partition, position), record in self._records():
            if isinstance(record, Quarantined) and wanted(record):
                found.setdefault(partition, {})[position] = _encoder.encode(_Erased(record.source))
        return found

    def replay(
        self, ingestor: Pusher, source: str | None = None, *, fix: Callable[[Row], Row | None] | None = None
    ) -> Replayed:
        """Push the rows in quarantine again, after `fix` has changed them; None from `fix` leaves a row out.

        A crash between the push and the end of the replay pushes rows twice: the log's readers drop the repetition.

        Raises:
            Misuse: A row has a column that its source does not declare.
        """
        pending = self._pending(source)
        groups: dict[tuple[str, Op, bool], list[Row]] = {}
        left_out = 0
        for _, kept in pending:
            row = kept.raw() if fix is None else fix(kept.raw())
            if row is None:
                left_out += 1
            else:
                groups.setdefault((kept.source, kept.op, kept.history), []).append(row)
        accepted = quarantined = 0
        for (name, op, history), rows in groups.items():
            pushed = ingestor.push(name, rows, op=op, history=history)
            accepted += pushed.accepted
            quarantined += pushed.quarantined
        if pending:
            self._log.append([_encoder.encode(_Released(tuple(place for place, _ in pending)))])
        return Replayed(accepted, quarantined, left_out)

    def _pending(self, source: str | None) -> list[tuple[tuple[str, int], Quarantined]]:
        rows: dict[tuple[str, int], Quarantined] = {}
        released: set[tuple[str, int]] = set()
        for place, record in self._records():
            if isinstance(record, _Released):
                released.update(record.places)
            elif isinstance(record, Quarantined) and source in (None, record.source):
                rows[place] = record
        return [(place, row) for place, row in rows.items() if place not in released]

    def _records(self) -> Iterator[tuple[tuple[str, int], Quarantined | _Released | _Erased]]:
        for partition, last in sorted(self._log.positions().items()):
            after = 0
            while after < last:
                records = self._log.read(partition, after)
                if not records:
                    break
                for record in records:
                    try:
                        yield (partition, record.position), _decoder.decode(record.payload)
                    except msgspec.DecodeError as error:
                        raise Corrupt(
                            f"quarantine: record {record.position} of partition {partition!r} is none ({error}). "
                            "Was another log opened?"
                        ) from error
                after = records[-1].position


def raw_json(row: Mapping[str, object]) -> str:
    """A row as JSON whatever it holds: what JSON cannot say becomes text.

    >>> raw_json({"x": float("inf"), "at": dt.datetime(2013, 1, 1)})
    '{"x": "inf", "at": "2013-01-01T00:00:00"}'
    """
    return json.dumps({str(name): _sayable(value, 8) for name, value in row.items()})


def _sayable(value: object, depth: int) -> object:
    if hasattr(value, "dtype") and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()  # a NumPy scalar
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= 64 else shown(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    if depth and isinstance(value, list | tuple):
        return [_sayable(item, depth - 1) for item in value]
    if depth and isinstance(value, dict):
        return {str(name): _sayable(item, depth - 1) for name, item in value.items()}
    return shown(value)
