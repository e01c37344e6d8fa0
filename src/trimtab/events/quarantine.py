"""Rows that cannot become events: kept with the reason, counted, and given back after a fix."""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeAlias, get_args

import msgspec

from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound, TrimtabError, Unavailable
from trimtab.core.shown import shown
from trimtab.events.records import Op
from trimtab.store.ports import Log

Row = dict[str, Any]
Place: TypeAlias = tuple[str, int]  # partition and position
_UNREADABLE = "bad_line"  # the reason of lines whose fields were counted from the left
_LINE = ("_line", "_line_base64", "_line_number", "_file")  # kept of such a line besides its fields
_TOGETHER = 1_000  # rows that are given back in one push


class Quarantined(msgspec.Struct, frozen=True, array_like=True, tag="row"):
    """A row that was refused, why, and when."""

    source: str
    row: str  # the raw row, JSON
    reason: str  # see `trimtab.events.values.conversions.Reason`
    field: str  # the column at fault
    at_us: int
    op: Op = "upsert"
    history: bool = False  # it came with a load of history

    def raw(self) -> Row:
        """The row as it came; times are ISO 8601 text, infinities the texts "inf" and "-inf".

        Of a line that could not be told apart, it has `_line`, the text, `_line_number`, `_file`, and, when it is no
        UTF-8, `_line_base64`, the bytes.
        """
        row: Row = json.loads(self.row)
        return row


class _Released(msgspec.Struct, frozen=True, array_like=True, tag="released"):
    """Rows that were given to the ingestor again, or up: they count no longer. It stands until they are erased."""

    places: tuple[Place, ...]


class _Begun(msgspec.Struct, frozen=True, array_like=True, tag="begun"):
    """A note of earlier versions about rows to be given back; it is read, ignored and erased."""

    places: tuple[Place, ...]
    positions: dict[str, int]


class _Erased(msgspec.Struct, frozen=True, array_like=True, tag="erased"):
    """A row or note that is erased: it no longer counts, and its content is lost. # D26"""

    source: str


class Example(msgspec.Struct, frozen=True):
    """One row in quarantine, as it came."""

    row: Row
    field: str
    at_us: int


class SetAside(msgspec.Struct, frozen=True):
    """The rows of one source that are in quarantine for one reason."""

    source: str
    reason: str
    rows: int
    since_us: int  # when the oldest of them came
    newest_us: int
    fields: dict[str, int]  # number by column at fault, most first
    examples: tuple[Example, ...]  # the newest ones, newest first


class Replayed(msgspec.Struct, frozen=True):
    """Result of a replay."""

    accepted: int
    quarantined: int  # do not fit: they stay
    left_out: int  # `fix` gave None: they are gone for good


class Pusher(Protocol):
    """The part of an ingestor that a replay needs."""

    def push(self, source: str, rows: Sequence[Mapping[str, object]], *, op: Op = ..., history: bool = ...) -> Any: ...

    def fits(
        self, source: str, rows: Sequence[Mapping[str, object]], *, op: Op = ..., history: bool = ...
    ) -> list[bool]: ...


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Quarantined | _Released | _Begun | _Erased)


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
        """The number of rows in quarantine, by source and reason."""
        out: dict[str, dict[str, int]] = {}
        for row in self.read():
            reasons = out.setdefault(row.source, {})
            reasons[row.reason] = reasons.get(row.reason, 0) + 1
        return out

    def find(self, wanted: Callable[[Quarantined], bool]) -> dict[str, dict[int, bytes]]:
        """The rows that are `wanted`: by partition and position, what `Log.erase` puts instead.

        Rows that were replayed or dropped are among them while their content is still there.
        """
        found: dict[str, dict[int, bytes]] = {}
        for (partition, position), record in self._records():
            if isinstance(record, Quarantined) and wanted(record):
                found.setdefault(partition, {})[position] = _encoder.encode(_Erased(record.source))
        return found

    def summary(self, source: str | None = None, *, examples: int = 3) -> list[SetAside]:
        """Summaries of the quarantine by source and reason, most rows first within a source."""
        groups: dict[tuple[str, str], list[Quarantined]] = {}
        for row in self.read(source):
            groups.setdefault((row.source, row.reason), []).append(row)
        out = []
        for (name, reason), rows in groups.items():
            rows.sort(key=lambda row: row.at_us)
            fields = Counter(row.field for row in rows)
            newest = tuple(
                Example(row.raw(), row.field, row.at_us) for row in reversed(rows[-examples:] if examples else [])
            )
            out.append(
                SetAside(name, reason, len(rows), rows[0].at_us, rows[-1].at_us, dict(fields.most_common()), newest)
            )
        return sorted(out, key=lambda group: (group.source, -group.rows, group.reason))

    def drop(self, source: str | None = None, *, reason: str | None = None) -> int:
        """Give up rows, of one source or of all, with one reason or with any; how many.

        They count no longer, and their content leaves the disk, also that of rows which an earlier call could not
        erase. Who is stopped in between does it again.

        Raises:
            NotFound: There is no such reason.
            Conflict: Another process writes their file: they count no longer, but their content is still there.
            Unavailable: Another process reads it just now, with the same result.
        """
        check_reason(reason)
        places = [place for place, row in self._pending(source) if reason in (None, row.reason)]
        self._release(places)
        refused = self._erase_released()
        if refused:
            raise type(refused[0])(
                f"quarantine: {len(places):,} rows are dropped and count no longer, but the content of some is still "
                f"on the disk: {refused[0]} Then drop again, which erases it."
            )
        return len(places)

    def replay(
        self,
        ingestor: Pusher,
        source: str | None = None,
        *,
        reason: str | None = None,
        fix: Callable[[Row], Row | None] | None = None,
    ) -> Replayed:
        """Push the rows in quarantine again, after `fix` has changed them; None from `fix` leaves a row out.

        What does not fit stays as it was, with its first reason. Lines that did not fit their header stay too, unless
        there is a `fix`: its fields are unknown. Rows go a thousand at a time. Those of a replay that
        was interrupted may be pushed again by the next one: they are repetitions, which count once.

        Args:
            ingestor: Takes the rows.
            source: Of one source; left out, of all.
            reason: With one reason; left out, with any.
            fix: Changes a row, for good. What it leaves of `_line` and the like (see `Quarantined.raw`) is not pushed.

        Raises:
            NotFound: There is no such reason; or a row's source is declared no more, and rows of the others were given
                back.
            Misuse: A row has a column that its source does not declare. Rows of the other sources were given back.
        """
        check_reason(reason)
        groups: dict[tuple[str, Op, bool], list[tuple[Place, Quarantined]]] = {}
        accepted = stay = left_out = 0
        for place, kept in self._pending(source):
            if reason not in (None, kept.reason):
                continue
            if fix is None and kept.reason == _UNREADABLE:
                stay += 1
            else:
                groups.setdefault((kept.source, kept.op, kept.history), []).append((place, kept))
        failed: list[TrimtabError] = []
        for (name, op, history), pending in groups.items():
            for start in range(0, len(pending), _TOGETHER):
                part = [
                    (place, kept.raw() if fix is None else fix(kept.raw()))
                    for place, kept in pending[start:][:_TOGETHER]
                ]
                rows = [(place, _without_line(row)) for place, row in part if row is not None]
                try:
                    good = self._give_back(ingestor, name, rows, op=op, history=history)
                except (NotFound, Misuse) as error:
                    failed.append(error)
                    break
                self._release([place for place, row in part if row is None or place in good])
                accepted += len(good)
                stay += len(rows) - len(good)
                left_out += len(part) - len(rows)
        self._erase_released()  # refused partitions are erased the next time
        if failed:
            raise failed[0]
        return Replayed(accepted, stay, left_out)

    def _give_back(
        self, ingestor: Pusher, source: str, rows: Sequence[tuple[Place, Row]], *, op: Op, history: bool
    ) -> set[Place]:
        """Push the rows that fit; returns their places."""
        fits = ingestor.fits(source, [row for _, row in rows], op=op, history=history)
        good = [each for each, ok in zip(rows, fits, strict=True) if ok]
        if good:
            ingestor.push(source, [row for _, row in good], op=op, history=history)
        return {place for place, _ in good}

    def _release(self, places: Sequence[Place]) -> None:
        if places:
            self._log.append([_encoder.encode(_Released(tuple(places)))])

    def _erase_released(self) -> list[Conflict | Unavailable]:
        """Erase the rows that are released, then the notes that are no longer needed; returns the refusals. # D26"""
        rows: dict[Place, str] = {}
        notes: dict[Place, tuple[Place, ...]] = {}
        released: set[Place] = set()
        for place, record in self._records():
            if isinstance(record, Quarantined):
                rows[place] = record.source
            elif isinstance(record, _Released | _Begun):
                notes[place] = record.places
                released.update(record.places if isinstance(record, _Released) else ())
        instead: dict[str, dict[int, bytes]] = {
            partition: {} for partition, _ in released
        }  # to rewrite, with rows or none
        for partition, position in released & rows.keys():
            instead[partition][position] = _encoder.encode(_Erased(rows[partition, position]))
        refused: list[Conflict | Unavailable] = []
        kept = set()
        for partition, payloads in sorted(instead.items()):
            try:
                self._log.erase(partition, payloads)
            except (Conflict, Unavailable) as error:
                refused.append(error)
                kept.add(partition)
        pending = rows.keys() - released
        over = {at for at, places in notes.items() if not any(p in pending or p[0] in kept for p in places)}
        self._remove_notes(over)
        return refused

    def _remove_notes(self, over: Iterable[Place]) -> None:
        """Remove notes, and whatever says nothing any more at the head of a partition."""
        over = set(over)
        heads: dict[str, int] = {}
        ended: set[str] = set()
        for (partition, position), record in self._records():
            if partition not in ended and (isinstance(record, _Erased) or (partition, position) in over):
                heads[partition] = position
            else:
                ended.add(partition)
        behind = {place for place in over if place[1] > heads.get(place[0], 0)}
        for partition in sorted({partition for partition, _ in over}):
            with suppress(Conflict, Unavailable):  # notes hold no personal data: they are erased the next time
                if partition in heads:
                    self._log.truncate(partition, heads[partition])
                gone = {position: _encoder.encode(_Erased("")) for name, position in behind if name == partition}
                if gone:
                    self._log.erase(partition, gone)

    def _pending(self, source: str | None) -> list[tuple[Place, Quarantined]]:
        rows: dict[Place, Quarantined] = {}
        released: set[Place] = set()
        for place, record in self._records():
            if isinstance(record, _Released):
                released.update(record.places)
            elif isinstance(record, Quarantined) and source in (None, record.source):
                rows[place] = record
        return [(place, row) for place, row in rows.items() if place not in released]

    def _records(self) -> Iterator[tuple[Place, Quarantined | _Released | _Begun | _Erased]]:
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


def check_reason(reason: str | None) -> None:
    """Refuse what is no reason for quarantine; None stands for any.

    Raises:
        NotFound: It is none; the message lists those there are.
    """
    from trimtab.events.values.conversions import Reason  # loads numpy

    reasons = get_args(Reason)
    if reason is not None and reason not in reasons:
        raise NotFound(f"quarantine: no reason {reason!r}. There is: {', '.join(reasons)}.")


def line_fields(line: bytes, number: int, file: str | None) -> Row:
    """The fields kept of a line that could not be parsed.

    >>> line_fields(b"a,\\xe9", 7, "a.csv")
    {'_line': 'a,\ufffd', '_line_number': 7, '_file': 'a.csv', '_line_base64': 'YSzp'}
    """
    fields: Row = {"_line": line.decode(errors="replace"), "_line_number": number}
    if file is not None:
        fields["_file"] = file
    try:
        line.decode()
    except UnicodeDecodeError:
        fields["_line_base64"] = base64.b64encode(line).decode()
    return fields


def line_texts(row: Mapping[str, Any]) -> list[str]:
    """The possible texts of a line that could not be parsed: as UTF-8, and as Latin-1 when it is no UTF-8."""
    encoded = row.get("_line_base64")
    return [row["_line"], *([] if encoded is None else [base64.b64decode(encoded).decode("latin-1")])]


def _without_line(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in _LINE} if "_line" in row else row


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
