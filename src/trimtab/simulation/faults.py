"""Faults that a replay simulates: errors in recorded rows, in the loop that retrains, or by a person."""

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
OF_LABELS = ("label_stop", "label_flip")
_OF_COLUMNS = ("null_column", "unit_change")
_OF_SOURCES = ("stuck_feed", "late_feed", "outage")
_OF_SIZES = ("unit_change", "late_feed", "sabotaged_refit", "slow_model")
_FIELDS = ("kind", "start", "end", "source", "column", "size")


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """An error that is simulated during a time interval. `fault()` makes and checks one."""

    kind: FaultKind
    start_us: int
    end_us: int
    # an event source or the request; None: the default for this kind of fault
    source: str | None = None
    column: str | None = None
    size: float | None = None

    @property
    def said(self) -> str:
        """The fault in a few words, for reports."""
        of = ".".join(one for one in (self.source, self.column) if one)
        return f"{self.kind} {of}".strip()

    def covers(self, at_us: int) -> bool:
        """Return whether the fault is present at a time."""
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
    """Declare a fault that a replay simulates.

    Args:
        kind: What goes wrong. In recorded rows: "null_column" (a column has no values), "unit_change" (the values of a
            column are multiplied by `size`; by default, degrees Celsius become Fahrenheit), "stuck_feed" (a source
            repeats its last measurements), "late_feed" (events of a source become known `size` hours late, by default
            24), "outage" (a source sends nothing), "label_stop" (no labels arrive), "label_flip" (labels say the
            opposite). In the loop: "sabotaged_refit" (fits that use the newest rows learn from shuffled labels; `size`
            is the share of shuffled labels, by default all), "slow_model" (a version that is fitted during the fault
            takes `size` times as long to answer, by default 3), "restart" (the process ends at a midnight, and another
            one continues from the stored state). By a person: "freeze" (automatic changes are stopped).
        start: When the fault begins, as ISO 8601 or in microseconds.
        end: When the fault ends. A restart needs no end.
        source: The source with the fault; needed for stuck_feed, late_feed and outage. By default the request if the
            fault concerns a column, and the source of the label if it concerns labels.
        column: The column with the fault, if the fault concerns a column.
        size: The size of the fault, explained at `kind`.

    Raises:
        Misuse: There is no such kind, the end is missing or not after the start, a needed column or source is missing,
            the fault takes no column, source or size, or the size is out of range.

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
        needed = "needs a column" if kind in _OF_COLUMNS else "takes no column"
        raise Misuse(f"fault {kind!r}: it {needed}; found column={column!r}.")
    if kind in _OF_SOURCES and source is None:
        raise Misuse(f"fault {kind!r}: it needs a source.")
    if kind in OF_LOOP and source is not None:
        raise Misuse(f"fault {kind!r}: it takes no source; found source={source!r}.")
    if kind not in _OF_SIZES and size is not None:
        raise Misuse(f"fault {kind!r}: it takes no size; found size={size:g}.")
    if kind == "sabotaged_refit" and size is not None and not 0.0 < size <= 1.0:
        raise Misuse(f"fault {kind!r}: size={size:g} is no share of the rows. Give a number above 0 and at most 1.")
    if kind == "late_feed" and size is not None and not 0.0 < size < math.inf:
        raise Misuse(f"fault {kind!r}: size={size:g}. Give how many hours late events become known, above 0.")
    if kind == "slow_model" and size is not None and not 1.0 < size < math.inf:
        raise Misuse(f"fault {kind!r}: size={size:g}. Give how many times as long an answer takes, above 1.")
    if kind == "unit_change" and size is not None and (size in (0.0, 1.0) or not math.isfinite(size)):
        raise Misuse(f"fault {kind!r}: size={size:g}. Give a finite factor other than 0 and 1.")
    return Fault(kind=kind, start_us=start_us, end_us=end_us, source=source, column=column, size=size)


def read_faults(
    given: str | Path | Columns | Fault | Mapping[str, Any] | Sequence[Fault | Mapping[str, Any]],
) -> list[Fault]:
    """Read faults from a file, a table or a list, and return them in the order of their beginnings.

    Args:
        given: A CSV file with some of the columns kind, start, end, source, column and size; or a table or dicts with
            these columns; or `Fault` objects. A single dict or `Fault` needs no list.

    Raises:
        NotFound: The file does not exist.
        Misuse: The file is not in UTF-8, a column or a value is not valid (the message names the line or the row), or
            there is no fault.
    """
    rows: dict[str, Fault | Mapping[str, Any]]
    if isinstance(given, str | Path):
        try:
            with Path(given).open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                rows = {f"{given}, line {reader.line_num}": one for one in reader}
        except OSError as error:
            raise NotFound(f"faults: {given} cannot be read: {error}") from error
        except UnicodeDecodeError as error:
            raise Misuse(f"faults: {given} is not in UTF-8 ({error.reason}). Save it as CSV in UTF-8.") from error
    else:
        listed = given.to_rows() if isinstance(given, Columns) else given
        listed = [listed] if isinstance(listed, Fault | Mapping) else listed
        rows = {f"row {number}": one for number, one in enumerate(listed, 1)}
    if not rows:
        where = given if isinstance(given, str | Path) else "what was given"
        raise Misuse(f"faults: {where} holds no fault. Give one or more, with the fields {','.join(_FIELDS)}.")
    found = [one if isinstance(one, Fault) else _of_row(one, where) for where, one in rows.items()]
    return sorted(found, key=lambda one: (one.start_us, one.end_us, one.kind))


def _of_row(row: Mapping[str, Any], where: str) -> Fault:
    if not isinstance(row, Mapping):
        raise Misuse(f"faults, {where}: found {row!r}, needed a Fault or a dict.")
    strange = [name for name in row if name not in _FIELDS]
    if strange and strange[0] is None:  # how the csv module names values that no column has
        raise Misuse(f"faults, {where}: more values than columns: {', '.join(row[strange[0]])!r}. Remove a comma.")
    if strange:
        raise Misuse(f"faults, {where}: no field {strange[0]!r}. There is: {', '.join(_FIELDS)}.")
    given = {name: value for name, value in row.items() if value not in (None, "")}
    size = given.get("size")
    try:
        size = None if size is None else float(size)
    except (TypeError, ValueError) as error:
        raise Misuse(f"faults, {where}: found size={size!r}, needed a number such as 1.8.") from error
    try:
        return fault(
            given.get("kind", ""),
            given.get("start", ""),
            given.get("end"),
            source=given.get("source"),
            column=given.get("column"),
            size=size,
        )
    except Misuse as error:
        raise Misuse(f"faults, {where}: {error}") from error


def in_words(faults: Sequence[Fault]) -> list[str]:
    """Return each fault as one line of text."""
    return [
        f"{one.said}: {format_time(one.start_us)[:16]}"
        + ("" if one.kind == "restart" else f" to {format_time(one.end_us)[:16]}")
        for one in faults
    ]
