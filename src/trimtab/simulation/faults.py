"""Faults by name and date: in recorded rows, in how the loop runs, and in what people do."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import format_time, parse_time_us

FaultKind = Literal[
    "null_column", "unit_change", "stuck_feed", "late_feed", "outage", "label_stop", "label_flip",
    "sabotaged_refit", "slow_model", "restart", "freeze",
]  # fmt: skip
OF_DATA: tuple[FaultKind, ...] = (
    "null_column", "unit_change", "stuck_feed", "late_feed", "outage", "label_stop", "label_flip",
)  # fmt: skip
OF_LOOP: tuple[FaultKind, ...] = ("sabotaged_refit", "slow_model", "restart", "freeze")
_OF_COLUMNS = ("null_column", "unit_change")
_OF_SOURCES = ("stuck_feed", "late_feed", "outage")
_FIELDS = ("kind", "start", "end", "source", "column", "size")


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something that goes wrong from one time until another. Make one with `fault()`."""

    kind: FaultKind
    start_us: int
    end_us: int
    source: str | None = None  # a source or the request; None: the source that the kind of fault is about
    column: str | None = None
    size: float | None = None

    @property
    def said(self) -> str:
        """The fault in a few words, for a report."""
        of = ".".join(one for one in (self.source, self.column) if one)
        return f"{self.kind} {of}".strip()

    def covers(self, at_us: int) -> bool:
        """Return whether the fault lasts at a time."""
        return self.start_us <= at_us < self.end_us


def fault(
    kind: FaultKind,
    start: str | int,
    end: str | int | None = None,
    *,
    source: str | None = None,
    column: str | None = None,
    size: float | None = None,
) -> Fault:
    """A fault that a replay puts into the recorded history or into the loop.

    Args:
        kind: In recorded rows: "null_column" (a column has no values), "unit_change" (the values of a column are
            multiplied by `size`; if left out, degrees Celsius become Fahrenheit), "stuck_feed" (a source repeats its
            last measurements), "late_feed" (events of a source become known `size` hours late, 24 if left out),
            "outage" (a source sends nothing), "label_stop" (no labels come), "label_flip" (labels say the opposite). In
            the loop: "sabotaged_refit" (fits with the newest rows learn shuffled labels; `size` is the share of rows
            with shuffled labels, all if left out), "slow_model" (a version that is fitted during the fault takes `size`
            times as long to answer, 3 if left out; a canary reveals that), "restart" (the process ends at a midnight,
            and another process goes on from the stored state). By a person: "freeze".
        start: When the fault begins, ISO 8601 or microseconds.
        end: When the fault is over; a restart has no end.
        source: The source whose column or feed is faulty; left out, the request for faults of columns, or the source of
            the label.
        column: The faulty column, for faults of columns.
        size: See `kind`.

    Raises:
        Misuse: The kind does not exist, the end is not a valid end, or a column or source is missing.

    >>> fault("outage", "2024-03-01", "2024-03-04", source="weather").said
    'outage weather'
    """
    known = ", ".join(get_args(FaultKind))
    if kind not in get_args(FaultKind):
        raise Misuse(f"fault {kind!r} is none of {known}.")
    start_us = parse_time_us(start)
    end_us = start_us + 1 if end is None and kind == "restart" else None if end is None else parse_time_us(end)
    if end_us is None or end_us <= start_us:
        raise Misuse(f"fault {kind!r} from {start!r}: end={end!r}. Give a time after its start.")
    if (kind in _OF_COLUMNS) != (column is not None):
        needed = "needs a column" if kind in _OF_COLUMNS else "has no column"
        raise Misuse(f"fault {kind!r}: it {needed}; found column={column!r}.")
    if kind in _OF_SOURCES and source is None:
        raise Misuse(f"fault {kind!r}: it needs a source.")
    if kind == "sabotaged_refit" and size is not None and not 0.0 < size <= 1.0:
        raise Misuse(f"fault {kind!r}: size={size:g} is no share of the rows. Give a number above 0 and at most 1.")
    if kind == "slow_model" and size is not None and not 1.0 < size < math.inf:
        raise Misuse(f"fault {kind!r}: size={size:g}. Give how many times as long an answer takes, above 1.")
    return Fault(kind=kind, start_us=start_us, end_us=end_us, source=source, column=column, size=size)


def read_faults(given: str | Path | Columns | Sequence[Fault | Mapping[str, Any]]) -> list[Fault]:
    """Faults from a file, a table or a list, in order of their beginning.

    Args:
        given: A CSV file with some of the columns kind, start, end, source, column and size; a table or rows of the
            same; or faults.

    Raises:
        NotFound: There is no such file.
        Misuse: A column or a value is not valid; the message names the row.
    """
    rows: Sequence[Fault | Mapping[str, Any]]
    if isinstance(given, str | Path):
        try:
            with Path(given).open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        except OSError as error:
            raise NotFound(f"faults: {given} cannot be read: {error}") from error
    elif isinstance(given, Columns):
        rows = given.to_rows()
    else:
        rows = given
    found = [one if isinstance(one, Fault) else _of_row(one, number) for number, one in enumerate(rows, 1)]
    return sorted(found, key=lambda one: (one.start_us, one.end_us, one.kind))


def _of_row(row: Mapping[str, Any], number: int) -> Fault:
    strange = [name for name in row if name not in _FIELDS]
    if strange:
        raise Misuse(f"faults, row {number}: no field {strange[0]!r}. There is: {', '.join(_FIELDS)}.")
    given = {name: value for name, value in row.items() if value not in (None, "")}
    try:
        size = None if "size" not in given else float(given["size"])
        return fault(
            given.get("kind", ""),
            given.get("start", ""),
            given.get("end"),
            source=given.get("source"),
            column=given.get("column"),
            size=size,
        )
    except (Misuse, ValueError) as error:
        raise Misuse(f"faults, row {number}: {error}") from error


def in_words(faults: Sequence[Fault]) -> list[str]:
    """One line of text for each fault."""
    return [
        f"{one.said}: {format_time(one.start_us)[:16]}"
        + ("" if one.kind == "restart" else f" to {format_time(one.end_us)[:16]}")
        for one in faults
    ]
