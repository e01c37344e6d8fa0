"""Quarantine: rows that cannot become events are stored with the reason, and can be pushed again after a fix."""

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
from trimtab.core.shown import Shown, shown
from trimtab.events.records import Op
from trimtab.store.ports import Log

Row = dict[str, Any]
Place: TypeAlias = tuple[str, int]  # the partition and the position of a record in the quarantine's log
_UNREADABLE = "bad_line"  # the reason of lines that could not be split into the fields of the header
_LINE = ("_line", "_line_base64", "_line_number", "_file")  # the fields in which such a line is stored
_TOGETHER = 1_000  # how many rows a replay pushes at once


class Quarantined(msgspec.Struct, frozen=True, array_like=True, tag="row"):
    """A row that was refused, with the reason and the time."""

    source: str
    row: str  # the row as it came, encoded as JSON
    reason: str  # one of `trimtab.events.values.conversions.Reason`
    field: str  # the column at fault; "" if it is a whole line
    at_us: int
    op: Op = "upsert"
    history: bool = False  # whether the row was loaded as history

    def raw(self) -> Row:
        """Return the row as it came. Python dates and times are ISO 8601 texts, infinity is "inf", NaN "nan".

        For a line of a file that could not be split into fields, the result has `_line` (its text), `_line_number` and
        `_file`. If the line is not UTF-8, it also has `_line_base64` (its bytes).
        """
        row: Row = json.loads(self.row)
        return row


class _Released(msgspec.Struct, frozen=True, array_like=True, tag="released"):
    """A note that rows were replayed or dropped, so that they are no longer in quarantine.

    The note is kept until the content of these rows is erased.
    """

    places: tuple[Place, ...]


class _Begun(msgspec.Struct, frozen=True, array_like=True, tag="begun"):
    """A note that a replay was started. Earlier versions wrote such notes; now they are ignored and erased."""

    places: tuple[Place, ...]
    positions: dict[str, int]


class _Erased(msgspec.Struct, frozen=True, array_like=True, tag="erased"):
    """A row or note whose content was erased. It is no longer in quarantine. # D26"""

    source: str


class Example(msgspec.Struct, frozen=True):
    """A row in quarantine, as it came."""

    row: Row
    field: str
    at_us: int


class SetAside(Shown, msgspec.Struct, frozen=True):
    """The rows of one source that are in quarantine for the same reason."""

    source: str
    reason: str
    rows: int
    since_us: int  # when the oldest of these rows came
    newest_us: int
    fields: dict[str, int]  # for each column, the number of rows in which it is at fault; the largest number first
    examples: tuple[Example, ...]  # the newest rows, beginning with the newest one


class Replayed(Shown, msgspec.Struct, frozen=True):
    """The result of pushing rows in quarantine again."""

    accepted: int
    quarantined: int  # rows that still do not fit, so they stay in quarantine
    left_out: int  # rows for which `fix` returned None; they are removed for good


class Pusher(Protocol):
    """The methods of an `Ingestor` that a replay calls."""

    def push(self, source: str, rows: Sequence[Mapping[str, object]], *, op: Op = ..., history: bool = ...) -> Any: ...

    def fits(
        self, source: str, rows: Sequence[Mapping[str, object]], *, op: Op = ..., history: bool = ...
    ) -> list[bool]: ...


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Quarantined | _Released | _Begun | _Erased)


class Quarantine:
    """The rows that were refused. They are stored in a log of their own."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def add(self, rows: Sequence[Quarantined]) -> None:
        """Put rows into quarantine. When this returns, they are safely stored."""
        if rows:
            self._log.append([_encoder.encode(row) for row in rows])

    def read(self, source: str | None = None) -> list[Quarantined]:
        """Return the rows in quarantine, of one source or all. In each partition of the log, the oldest come first."""
        return [row for _, row in self._pending(source)]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of rows in quarantine, by source and reason."""
        out: dict[str, dict[str, int]] = {}
        for row in self.read():
            reasons = out.setdefault(row.source, {})
            reasons[row.reason] = reasons.get(row.reason, 0) + 1
        return out

    def find(self, wanted: Callable[[Quarantined], bool]) -> dict[str, dict[int, bytes]]:
        """Find the rows for which `wanted` returns True. Return the records with which `Log.erase` should replace them.

        The result has these records by partition and position. Replayed and dropped rows whose content was not erased
        yet are found, too.
        """
        found: dict[str, dict[int, bytes]] = {}
        for (partition, position), record in self._records():
            if isinstance(record, Quarantined) and wanted(record):
                found.setdefault(partition, {})[position] = _encoder.encode(_Erased(record.source))
        return found

    def summary(self, source: str | None = None, *, examples: int = 3) -> list[SetAside]:
        """Return a summary of the rows in quarantine for each source and reason.

        The reasons of a source are sorted by their number of rows, most frequent first.
        """
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
        """Remove the rows of a source (None: of all) that have a reason (None: any). Return their number.

        Their content is erased from the disk, and so is content that an earlier call could not erase. If the call is
        interrupted, call it again.

        Raises:
            NotFound: There is no such reason.
            Conflict: Another process writes the log of the quarantine. The rows are removed, but their content is still
                on the disk.
            Unavailable: Another process reads the log of the quarantine. The rows are removed, but their content is
                still on the disk.
        """
        check_reason(reason)
        places = [place for place, row in self._pending(source) if reason in (None, row.reason)]
        self._release(places)
        refused = self._erase_released()
        if refused:
            raise type(refused[0])(
                f"quarantine: {len(places):,} rows are dropped and no longer counted, but the content of some is "
                f"still on the disk: {refused[0]} Then call `drop` once more, which erases it."
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
        """Push rows in quarantine again, after `fix` has changed them.

        If `fix` returns None, the row is removed. A row that still does not fit stays unchanged, with its first reason.
        Without a `fix`, lines that could not be split into fields also stay. Rows are pushed a thousand at a time.
        After an interrupted replay, the next one may push some rows again; these are repetitions, which count only
        once.

        Args:
            source: The source of the rows; None: all sources.
            reason: The reason of the rows; None: any reason.
            fix: Returns the corrected row, or None. Fields such as `_line` (see `Quarantined.raw`) are not pushed.

        Raises:
            NotFound: There is no such reason, or the source of a row is no longer declared. The rows of other sources
                were pushed.
            Misuse: A row has a column that its source does not declare. The rows of other sources were pushed.
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
                part = [(place, _repaired(kept, fix)) for place, kept in pending[start:][:_TOGETHER]]
                rows = [(place, row) for place, row in part if row is not None]
                try:
                    good = self._give_back(ingestor, name, rows, op=op, history=history)
                except (NotFound, Misuse) as error:
                    failed.append(error)
                    break
                self._release([place for place, row in part if row is None or place in good])
                accepted += len(good)
                stay += len(rows) - len(good)
                left_out += len(part) - len(rows)
        self._erase_released()  # what cannot be erased now is erased by a later call
        if failed:
            raise failed[0]
        return Replayed(accepted, stay, left_out)

    def _give_back(
        self, ingestor: Pusher, source: str, rows: Sequence[tuple[Place, Row]], *, op: Op, history: bool
    ) -> set[Place]:
        """Push those rows that now fit, and return their places in the quarantine's log."""
        fits = ingestor.fits(source, [row for _, row in rows], op=op, history=history)
        good = dict(each for each, ok in zip(rows, fits, strict=True) if ok)
        if good:
            ingestor.push(source, [*good.values()], op=op, history=history)
        return set(good)

    def _release(self, places: Sequence[Place]) -> None:
        if places:
            self._log.append([_encoder.encode(_Released(tuple(places)))])

    def _erase_released(self) -> list[Conflict | Unavailable]:
        """Erase the content of replayed and dropped rows, and then the notes about them.

        Return the errors for partitions that could not be erased. # D26
        """
        rows: dict[Place, str] = {}
        notes: dict[Place, tuple[Place, ...]] = {}
        released: set[Place] = set()
        for place, record in self._records():
            if isinstance(record, Quarantined):
                rows[place] = record.source
            elif isinstance(record, _Released | _Begun):
                notes[place] = record.places
                released.update(record.places if isinstance(record, _Released) else ())
        # Rewrite all these partitions, even if no payload is left to replace: if an earlier call was refused as
        # Unavailable, the old bytes may still be on the disk.
        instead: dict[str, dict[int, bytes]] = {partition: {} for partition, _ in released}
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
        # notes whose rows are all erased by now
        over = {at for at, places in notes.items() if not any(p in pending or p[0] in kept for p in places)}
        self._remove_notes(over)
        return refused

    def _remove_notes(self, over: Iterable[Place]) -> None:
        """Remove the notes in `over`.

        Notes at the beginning of a partition, with no rows before them, are truncated together with erased records. The
        other notes are replaced by erased records.
        """
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
            with suppress(Conflict, Unavailable):  # notes hold no personal data, so a later call can erase them
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
                            f"quarantine: record {record.position} of partition {partition!r} is not a quarantined "
                            f"row ({error}). Was another log opened?"
                        ) from error
                after = records[-1].position


def check_reason(reason: str | None) -> None:
    """Refuse a text that is not a reason for quarantine. None is allowed: it means any reason.

    Raises:
        NotFound: The text is not a reason. The message lists the reasons.
    """
    from trimtab.events.values.conversions import Reason  # imported here, because it loads NumPy

    reasons = get_args(Reason)
    if reason is not None and reason not in reasons:
        raise NotFound(f"quarantine: no reason {reason!r}. There are: {', '.join(reasons)}.")


def line_fields(line: bytes, number: int, file: str | None) -> Row:
    """Return the fields in which a line that could not be split is stored.

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
    """Return the text of a line that could not be split.

    If the line is not UTF-8, a second text has its bytes read as Latin-1.
    """
    encoded = row.get("_line_base64")
    return [row["_line"], *([] if encoded is None else [base64.b64decode(encoded).decode("latin-1")])]


def _repaired(kept: Quarantined, fix: Callable[[Row], Row | None] | None) -> Row | None:
    row = kept.raw() if fix is None else fix(kept.raw())
    if row is None or kept.reason != _UNREADABLE:
        return row
    return {name: value for name, value in row.items() if name not in _LINE}


def raw_json(row: Mapping[str, object]) -> str:
    """Return a row as JSON. This never fails, because values that JSON does not have become texts.

    >>> raw_json({"x": float("inf"), "at": dt.datetime(2013, 1, 1)})
    '{"x": "inf", "at": "2013-01-01T00:00:00"}'
    """
    return json.dumps({str(name): _sayable(value, 8) for name, value in row.items()})


def _sayable(value: object, depth: int) -> object:
    if hasattr(value, "dtype") and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()  # converts a NumPy number
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
