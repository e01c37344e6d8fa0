"""Ingestion: check rows and tables, and append them to the log as events."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import compress
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.clock import Clock
from trimtab.core.columns.data import Columns, WrongColumn
from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.core.shown import Shown
from trimtab.events.batch import OPS, Batch, Call, Problem
from trimtab.events.definitions import Source
from trimtab.events.files.files import Table, is_table, read_rows
from trimtab.events.quarantine import Quarantine, Quarantined, line_fields, raw_json
from trimtab.events.records import Event, Op, decode
from trimtab.events.values.checks import EXTRA
from trimtab.events.values.fitting import FileRows
from trimtab.store.ports import Log

_CHUNK = 10_000  # how many rows of a load are appended at once
_SLICE = 20_000  # after how many rows progress is reported
_NAMED = 100  # `Pushed` lists at most this many problems; the quarantine has all


class Pushed(Shown, msgspec.Struct, frozen=True):
    """The result of adding rows. The accepted rows are safely stored in the log."""

    accepted: int
    quarantined: int
    partition: str
    position: int  # the log position of the last accepted row; 0 if none was accepted
    problems: tuple[Problem, ...] = ()  # the first hundred problems
    # for a source with a key: declared columns that a row lacked, so that they became null
    absent: tuple[str, ...] = ()


class Ingestor:
    """Checks events and appends them to an event log. All events are added by this class.

    Args:
        sources: The sources whose events may be added.
        clock: Gives the present time. It is compared with the times of events, and stored with rows in quarantine.
        quarantine: Where refused rows are stored.
        future_ok: The sources whose events may be in the future (such as requests about future times).
        note: Called with the name of a source before this object appends the first event of the source. If it raises an
            error, no event is appended.
    """

    def __init__(
        self,
        log: Log,
        sources: Sequence[Source],
        *,
        clock: Clock,
        quarantine: Quarantine,
        future_ok: Collection[str] = frozenset(),
        note: Callable[[str], object] = lambda source: None,
    ) -> None:
        self._note = note
        self._begun: set[str] = set()
        self._log = log
        self._sources = {source.name: source for source in sources}
        self._clock = clock
        self._quarantine = quarantine
        self._future_ok = frozenset(future_ok)

    def push(
        self, source: str, rows: Sequence[Mapping[str, object]] | Table, *, op: Op = "upsert", history: bool = False
    ) -> Pushed:
        """Add rows, given as dicts or as a table (`Columns`, or a table of polars, pandas, pyarrow or DuckDB).

        A row must have its time and its key. Other columns may be left out and are then null. A row may also have
        `_id`, `_known_at` and `_op`. The id of an event is its key. In a source without a key, the id is made from the
        event's content (its time and all values) and its `_id`. So an exact repetition does not count, unless it has
        another `_id`.

        In a source with a key, a row replaces the whole previous row with its key; `absent` lists the columns that may
        have become null by this. Only a source with a key can have deletions. A deletion only needs the key. Its other
        columns are not stored, and if it has no time, its time is the present.

        Args:
            rows: One dict for each event, or a table with one row for each event.
            op: The operation for rows that have no `_op`.
            history: Whether the rows are history: each became known at its event time plus the source's delay, not now.
                Rows that are too far ahead of the clock are refused in either case. # D21

        Raises:
            NotFound: There is no source of this name.
            Misuse: A row is not a dict, a column is not declared, or a table lacks the time or the key. Nothing was
                added.
        """
        what = self._source(source)
        _check_op(source, op)
        if not isinstance(rows, list) and is_table(rows):
            return self._push_table(what, rows, op, history)
        rows = _checked_rows(what, rows)
        return self._append(self._call(what, op, history), _lists(what, rows), rows, None, 0)

    def fits(
        self, source: str, rows: Sequence[Mapping[str, object]], *, op: Op = "upsert", history: bool = False
    ) -> list[bool]:
        """Return for each row whether it would become an event. Nothing is stored.

        Raises:
            NotFound: There is no source of this name.
            Misuse: A row is not a dict, or has a column that the source does not declare.
        """
        what = self._source(source)
        rows = _checked_rows(what, rows)
        bad = Batch(self._call(what, op, history), _lists(what, rows), len(rows), None).bad
        return [row not in bad for row in range(len(rows))]

    def events(self, source: str, columns: Columns, *, history: bool) -> Iterator[Event]:
        """Yield the events that the rows of a table would become. Nothing is stored."""
        call = self._call(self._source(source), "upsert", history)
        for start in range(0, columns.rows, _CHUNK):
            part = columns.take(slice(start, start + _CHUNK))
            lists = {name: column.to_list() for name, column in part.by_name.items()}
            yield from map(decode, Batch(call, lists, part.rows, None, given=False).payloads())

    def load(self, source: str, columns: Columns, *, history: bool = True, at_us: NDArray[Any] | None = None) -> Pushed:
        """Add the rows of a table, ten thousand at a time. If a table is added again, its rows are repetitions.

        Args:
            columns: The columns of the source, and optionally `_id`, `_known_at` and `_op`. Missing columns are null.
            history: Whether rows without a `_known_at` became known at their event time plus the source's delay.
            at_us: For a replay: the append time of each row, never decreasing. Such rows are not treated as history.

        Raises:
            NotFound: There is no source of this name.
            Misuse: A column is unknown or has another type, the time or key is missing, or `at_us` does not fit.
                Nothing was added.
        """
        what = self._source(source)
        _check_columns(what, columns)
        if at_us is not None:
            _check_append_times(what, columns, at_us)
        call = self._call(what, "upsert", history and at_us is None)
        return self._load(call, columns, at_us, 0)

    def take(
        self,
        source: str,
        rows: FileRows,
        *,
        op: Op = "upsert",
        history: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> Pushed:
        """Add rows that `read_rows` returned, in parts. Those that do not fit go to quarantine, and are counted, too.

        Args:
            op: The operation for rows that have no `_op`.
            history: Whether each row became known at its event time plus the source's delay.
            progress: Called at the beginning and after every twenty thousand rows, with the number of processed rows
                and the number of all rows.
        """
        what = self._source(source)
        _check_columns(what, rows.columns)
        _check_op(source, op)
        show = progress or (lambda done, of: None)
        good, bad = rows.columns.rows, len(rows.bad)
        show(0, good + bad)
        self._set_aside(what, rows, op, history)
        show(bad, good + bad)
        problems = tuple(Problem(b.number - 1, b.field, b.reason, b.found) for b in rows.bad[:_NAMED])
        done = Pushed(0, bad, self._log.partition, 0, problems)
        call = self._call(what, op, history)
        for start in range(0, good, _SLICE):
            part = rows.columns.take(slice(start, start + _SLICE))
            more = self._load(call, part, None, start)
            if rows.kept is not None:
                placed = [msgspec.structs.replace(p, row=int(rows.kept[p.row])) for p in more.problems]
                more = msgspec.structs.replace(more, problems=tuple(placed))
            done = _both(done, more)
            show(bad + start + part.rows, good + bad)
        if rows.counted not in (None, done.accepted + done.quarantined):
            raise Corrupt(
                f"ingest into {source!r}: of {rows.counted:,} rows, {done.accepted:,} were taken and "
                f"{done.quarantined:,} quarantined, which is not all. Ingest the rows again (no row counts twice), "
                "and please report this as a bug of trimtab."
            )
        named = sorted(done.problems, key=lambda problem: problem.row)
        return msgspec.structs.replace(done, problems=tuple(named))

    def _push_table(self, source: Source, table: Table, op: Op, history: bool) -> Pushed:
        rows = read_rows(table, source, on_error="quarantine")
        if rows.ignored:
            raise _unknown_column(f"push to {source.name!r}: the table", source, rows.ignored[0])
        return self.take(source.name, rows, op=op, history=history)

    def _set_aside(self, source: Source, rows: FileRows, op: Op, history: bool) -> None:
        now_us = self._clock.now_us()
        kept = [b.row if b.line is None else b.row | line_fields(b.line, b.number, b.file) for b in rows.bad]
        self._quarantine.add(
            [
                Quarantined(source.name, raw_json(raw), b.reason, b.field, now_us, op, history)
                for b, raw in zip(rows.bad, kept, strict=True)
            ]
        )

    def _load(self, call: Call, columns: Columns, at_us: NDArray[Any] | None, offset: int) -> Pushed:
        done = Pushed(0, 0, self._log.partition, 0)
        for start in range(0, columns.rows, _CHUNK):
            chunk = slice(start, start + _CHUNK)
            lists = {name: column.take(chunk).to_list() for name, column in columns.by_name.items()}
            at = None if at_us is None else at_us[chunk]
            done = _both(done, self._append(call, lists, None, at, offset + start))
        return done

    def _call(self, source: Source, op: Op, history: bool) -> Call:
        return Call(source, op, history, self._clock.now_us(), source.name in self._future_ok)

    def _source(self, name: str) -> Source:
        if name not in self._sources:
            raise NotFound(f"ingest: no source {name!r} among {', '.join(self._sources)}.")
        return self._sources[name]

    def _append(
        self,
        call: Call,
        lists: dict[str, list[Any]],
        rows: Sequence[Mapping[str, object]] | None,
        at_us: NDArray[Any] | None,
        offset: int,
    ) -> Pushed:
        """Check rows, given as one list for each column. Put bad rows into quarantine, and append the others."""
        count = len(next(iter(lists.values()), ())) if rows is None else len(rows)
        batch = Batch(call, lists, count, at_us, given=rows is not None)
        payloads = batch.payloads()
        if batch.bad:
            self._quarantine.add([batch.quarantined(row, rows) for row in sorted(batch.bad)])
            good = [row not in batch.bad for row in range(count)]
            payloads = list(compress(payloads, good))
            at_us = None if at_us is None else at_us[good]
        positions = range(0)
        if payloads:
            if call.source.name not in self._begun:
                self._note(call.source.name)
                self._begun.add(call.source.name)
            positions = self._log.append(payloads, at_us=None if at_us is None else at_us.tolist())
        problems = [batch.problem(row, offset) for row in sorted(batch.bad)[:_NAMED]]
        last = positions[-1] if payloads else 0
        return Pushed(len(payloads), len(batch.bad), self._log.partition, last, tuple(problems), batch.absent(rows))


def _lists(source: Source, rows: Sequence[Mapping[str, object]]) -> dict[str, list[Any]]:
    """Return the values of each column that at least one row has."""
    names = set().union(*rows)
    return {name: [row.get(name) for row in rows] for name in (*source.columns, *EXTRA) if name in names}


def _check_op(source: str, op: Op) -> None:
    if op not in OPS:
        raise Misuse(f"push to {source!r}: op {op!r} is neither {' nor '.join(map(repr, OPS))}.")


def _checked_rows(source: Source, rows: object) -> Sequence[Mapping[str, object]]:
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
        raise Misuse(
            f"push to {source.name!r}: a {type(rows).__name__} holds no rows. Give a list of mappings, or a table "
            "(polars, pandas, pyarrow, DuckDB, Columns); files go through `ingest`."
        )
    for row, value in enumerate(rows):
        if not isinstance(value, Mapping):
            raise Misuse(
                f"push to {source.name!r}: row {row} is a {type(value).__name__}. Give one mapping for each row."
            )
    allowed = source.declared.keys() | EXTRA.keys()
    if set().union(*rows) <= allowed:
        return rows
    row, field = next((i, name) for i, row in enumerate(rows) for name in row if name not in allowed)
    raise _unknown_column(f"push to {source.name!r}: row {row}", source, field)


def _unknown_column(where: str, source: Source, name: str) -> Misuse:
    return WrongColumn(
        f"{where} has an unknown column {name!r}. Declared columns: {', '.join(source.declared)}; also allowed: "
        f"{', '.join(EXTRA)}.",
        column=name,
    )


def _check_columns(source: Source, columns: Columns) -> None:
    allowed = source.declared | EXTRA
    for name, column in columns.by_name.items():
        if name not in allowed:
            raise Misuse(
                f"load into {source.name!r}: unknown column {name!r}. Declared columns: {', '.join(source.declared)}; "
                f"also allowed: {', '.join(EXTRA)}."
            )
        if column.dtype != allowed[name] and (column.dtype, allowed[name]) != ("int", "float"):
            raise Misuse(f"load into {source.name!r}: column {name!r} is {column.dtype}, needed {allowed[name]}.")
    for name in filter(None, (source.time, source.key)):
        if name not in columns:
            found = ", ".join(columns.names) or "no column"
            raise Misuse(f"load into {source.name!r}: needs column {name!r}, found {found}.")


def _check_append_times(source: Source, columns: Columns, at_us: NDArray[Any]) -> None:
    if len(at_us) != columns.rows:
        raise Misuse(
            f"load into {source.name!r}: {len(at_us)} append times for {columns.rows} rows. Give one append time for "
            "each row."
        )
    if at_us.dtype.kind != "i" or (np.diff(at_us) < 0).any():
        raise Misuse(f"load into {source.name!r}: append times must be integers that never decrease. Sort the rows.")


def _both(a: Pushed, b: Pushed) -> Pushed:
    return Pushed(
        accepted=a.accepted + b.accepted,
        quarantined=a.quarantined + b.quarantined,
        partition=b.partition,
        position=b.position or a.position,
        problems=(*a.problems, *b.problems)[:_NAMED],
        absent=(*a.absent, *(name for name in b.absent if name not in a.absent)),
    )
