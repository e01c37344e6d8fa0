"""The rows of one call: check their values column by column, and encode them as records of the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import repeat
from typing import Any, cast, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Dtype
from trimtab.events.definitions import Source
from trimtab.events.formats.reading import made_keys
from trimtab.events.quarantine import Quarantined, raw_json
from trimtab.events.records import Op, Value
from trimtab.events.values.checks import EXTRA, LAST_OF_OTHER_UNITS_US, Report, check, other_unit, value_shown
from trimtab.events.values.conversions import Reason
from trimtab.events.values.fitting import raw_row, time_text

OPS: tuple[Op, ...] = get_args(Op)

_encode = msgspec.msgpack.Encoder().encode


class Problem(msgspec.Struct, frozen=True):
    """The reason why one row went to quarantine."""

    row: int  # the index of the row in the call
    field: str
    reason: Reason
    found: str


class Call(msgspec.Struct, frozen=True):
    """The properties that all rows of one call share."""

    source: Source
    op: Op
    history: bool
    now_us: int
    future_ok: bool


class Batch:
    """Rows as one list per column. They are checked when the object is made; `bad` has each bad row's first problem."""

    def __init__(
        self, call: Call, lists: dict[str, list[Any]], count: int, at_us: NDArray[Any] | None, *, given: bool = True
    ) -> None:
        self._given = given  # False: the rows come from a table whose values were already checked
        self.bad: dict[int, tuple[str, Reason, object]] = {}
        self._call = call
        self._lists = lists
        self._count = count
        self._now_us = call.now_us if at_us is None else at_us
        self._values = {name: self._column(name, dtype) for name, dtype in call.source.columns.items()}
        self._make_keys()
        self._ops = self._checked_ops()
        self._date()
        self._bare_deletions()
        self._ids = self._identify()

    def payloads(self) -> list[bytes]:
        """Return the log record of each row. Records of bad rows are not valid."""
        call, times = self._call, self._values[self._call.source.time]
        rows = self._rows()
        ops = repeat(call.op) if self._ops is None else self._ops
        # A record is an encoded tuple that has the fields of `Event` in their order.
        fields = (repeat(call.source.name), self._ids, times, self._known_at(times), ops, repeat(call.history), rows)
        return list(map(_encode, zip(*fields)))  # noqa: B905  # some of the iterators are endless

    def problem(self, row: int, offset: int) -> Problem:
        field, reason, found = self.bad[row]
        needed = f"; needed {' or '.join(map(repr, OPS))}" if (field, reason) == ("_op", "wrong_type") else ""
        source = self._call.source
        said = value_shown(found, reason, source.format(field))
        if reason == "future" and isinstance(found, int | float):  # show a time, which is easier to read than a number
            said = time_text(self._values[source.time][row])  # type: ignore[arg-type]  # it has a time
        return Problem(row + offset, field, reason, said + needed)

    def absent(self, rows: Sequence[Mapping[str, object]] | None) -> tuple[str, ...]:
        """Return the declared columns that some row lacks (deletions and bad rows aside); none if there is no key."""
        ops = [self._call.op] * self._count if self._ops is None else self._ops
        replacing = [row for row, op in enumerate(ops) if op != "delete" and row not in self.bad]
        if self._call.source.key is None or not replacing:
            return ()
        there = (
            self._lists.keys() if rows is None else set(rows[replacing[0]]).intersection(*(rows[r] for r in replacing))
        )
        return tuple(name for name in self._call.source.declared if name not in there)

    def quarantined(self, row: int, rows: Sequence[Mapping[str, object]] | None) -> Quarantined:
        field, reason, _ = self.bad[row]
        call = self._call
        raw = self._table_row(row) if rows is None else raw_row(call.source, rows[row])
        return Quarantined(call.source.name, raw_json(raw), reason, field, call.now_us, call.op, call.history)

    def _table_row(self, row: int) -> dict[str, Any]:
        """Return the values of one row of a table.

        If a column has a declared time format, its times are returned as texts, because a number would later be read in
        the unit of the format.
        """
        raw = {name: values[row] for name, values in self._lists.items()}
        formatted = [
            n for n, value in raw.items() if n in self._call.source.declared_formats and isinstance(value, int)
        ]
        return raw | {name: time_text(raw[name]) for name in formatted}

    def _reporter(self, field: str) -> Report:
        def report(row: int, reason: Reason, found: object) -> None:
            self.bad.setdefault(row, (field, reason, found))

        return report

    def _column(self, name: str, dtype: Dtype) -> list[Value]:
        values = self._lists.get(name)
        written = self._call.source.format(name) if self._given else None  # the values of a table were already read
        return [None] * self._count if values is None else check(dtype, values, self._reporter(name), written)

    def _make_keys(self) -> None:
        """Fill in the source's constants, and make keys for rows without one if `key_of` is declared. # D0208"""
        source = self._call.source
        for name, value in source.reading.constants.items():
            self._values[name] = [value if old is None else old for old in self._values[name]]
        of, key = source.reading.key_of, source.key
        if of and key is not None and None in self._values[key]:
            made = made_keys(self._values, source.columns, of)
            pairs = zip(self._values[key], made, strict=True)
            self._values[key] = [new if old is None else old for old, new in pairs]
            for row in [row for row, value in enumerate(self._values[key]) if value is None]:
                lacks = next(name for name in of if self._values[name][row] is None)
                self.bad.setdefault(row, (lacks, "missing", None))

    def _checked_ops(self) -> list[Op] | None:
        keyless = self._call.source.key is None
        given = self._lists.get("_op")
        if given is None:
            if keyless and self._call.op == "delete":
                self.bad.update((row, ("_op", "no_key", "delete")) for row in range(self._count))
            return None
        ops: list[Op] = []
        for row, op in enumerate(given):
            known = op is None or (isinstance(op, str) and op in OPS)
            if not known:
                self.bad.setdefault(row, ("_op", "wrong_type", op))
            ops.append(op if known and op is not None else self._call.op)
            if keyless and ops[-1] == "delete":  # without a key, it is unknown which event to delete # D6
                self.bad[row] = ("_op", "no_key", "delete")
        return ops

    def _date(self) -> None:
        """Report rows without a time, with a time in another unit than microseconds, or too far in the future.

        A deletion without a time is not reported, but gets the present time.
        """
        source, times = self._call.source, self._values[self._call.source.time]
        if None in times:
            for row in [row for row, time in enumerate(times) if time is None]:
                if (self._call.op if self._ops is None else self._ops[row]) == "delete":
                    times[row] = self._now_us if isinstance(self._now_us, int) else int(self._now_us[row])
                else:
                    self.bad.setdefault(row, (source.time, "missing", None))
                    times[row] = 0
        if not times or (self._call.future_ok and not self._given):
            return
        dated = cast("list[int]", times)
        # if the clock is in early 1970, this is a test, in which small numbers are microseconds
        if self._given and self._call.now_us > LAST_OF_OTHER_UNITS_US:
            self._refuse_other_units(min(dated) < LAST_OF_OTHER_UNITS_US)
        if self._call.future_ok:
            return
        latest = self._now_us + source.future_tolerance_us
        if isinstance(latest, int) and max(dated) <= latest:
            return
        for row in np.flatnonzero(np.array(dated, np.int64) > latest).tolist():
            self.bad.setdefault(row, (source.time, "future", self._lists[source.time][row]))

    def _refuse_other_units(self, early: bool) -> None:
        """Report integer times that are probably seconds or milliseconds. # D178

        `early` says whether any event time is so small that it may be in such a unit.
        """
        names = [name for name, dtype in {**self._call.source.columns, **EXTRA}.items() if dtype == "time"]
        for name in names:
            given = self._lists.get(name)
            if given is None or (name == self._call.source.time and not early):
                continue
            if name in self._call.source.declared_formats:  # the unit is declared
                continue
            for row in [row for row, value in enumerate(given) if other_unit(value)]:
                self.bad.setdefault(row, (name, "bad_time", given[row]))

    def _bare_deletions(self) -> None:
        """Set all values of deletions to null, except the key and the time.

        The version that the deletion replaces shows which entity the event belongs to.
        """
        source = self._call.source
        if self._ops is None and self._call.op != "delete":
            return
        gone = range(self._count) if self._ops is None else [r for r, op in enumerate(self._ops) if op == "delete"]
        for name in self._values.keys() - {source.key, source.time}:
            values = self._values[name] = list(self._values[name])
            for row in gone:
                values[row] = None

    def _identify(self) -> list[Any]:
        source = self._call.source
        if source.key is not None:
            keys = self._values[source.key]
            if None in keys:
                for row in [row for row, key in enumerate(keys) if key is None]:
                    self.bad.setdefault(row, (source.key, "missing", None))
            return keys if source.columns[source.key] == "str" else list(map(str, keys))
        contents = map(_encode, self._rows())
        hashes = [blake2b(content, digest_size=16).hexdigest() for content in contents]
        if "_id" not in self._lists:
            return hashes
        given = self._column("_id", "str")
        # the id is the given `_id`, followed by the hash of the content # D6
        return [made if own is None else f"{own}@{made}" for own, made in zip(given, hashes, strict=True)]

    def _rows(self) -> Iterator[tuple[Value, ...]]:
        """Return the values of each row as an event stores them."""
        source, rows = self._call.source, zip(*self._values.values(), strict=True)
        return rows if source.first is None or source.key is not None else _without_added_nulls(rows, source.first)

    def _known_at(self, times: list[Value]) -> Sequence[Value]:
        delay = self._call.source.delay_us
        # no time is null, because `_date` has replaced nulls
        usual = [time + delay for time in times] if self._call.history else [0] * self._count  # type: ignore[operator]
        column = self._call.source.reading.known_at
        if column is not None:
            usual = [u if own is None else own for own, u in zip(self._values[column], usual, strict=True)]
        if "_known_at" not in self._lists:
            return usual
        return [u if own is None else own for own, u in zip(self._column("_known_at", "time"), usual, strict=True)]


def _without_added_nulls(rows: Iterable[tuple[Value, ...]], first: int) -> Iterator[tuple[Value, ...]]:
    """Remove nulls at the end of rows, in columns that were added to the source, so that these change no ids. # D34"""
    for row in rows:
        end = len(row)
        while end > first and row[end - 1] is None:
            end -= 1
        yield row[:end]
