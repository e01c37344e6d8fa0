"""Put faults into recorded rows: missing values, other units, repeated measurements, missing or wrong labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.expressions.by_columns import evaluate_columns
from trimtab.core.time import HOUR_US
from trimtab.events.definitions import Source
from trimtab.features.definitions import Label
from trimtab.simulation.faults import OF_DATA, OF_LABELS, Fault, in_words
from trimtab.training.definitions import Model

_LATE_H = 24.0
_COMPARED = frozenset((">=", ">", "<=", "<"))
_Change = Callable[[Columns, Source, Fault, NDArray[np.bool_], Model], Columns]


def with_faults(
    tables: Mapping[str, Columns], faults: Sequence[Fault], sources: Sequence[Source], model: Model
) -> dict[str, Columns]:
    """Return tables of recorded events that contain the given faults. Faults that do not concern data are ignored.

    Args:
        tables: The tables by source name. The table of requests has the name of the request.
        faults: The faults. They are applied in this order.
        model: Gives the request or the label for faults without a source, and the label that `label_flip` changes.

    Raises:
        NotFound: A source or a column does not exist.
        Misuse: A fault does not fit a column, such as a change of units for a column of texts; or its source has no
            event while the fault lasts.
    """
    found, by_name = dict(tables), {one.name: one for one in sources}
    for one in faults:
        if one.kind not in OF_DATA:
            continue
        name = one.source or (model.label.source.name if one.kind in OF_LABELS else model.request.name)
        if one.kind in OF_LABELS and name != model.label.source.name:
            raise Misuse(
                f"fault {one.said}: found the source {name!r}, needed that of the labels, {model.label.source.name!r}. "
                "Leave the source out; for another source, use outage."
            )
        if name not in found or name not in by_name:
            raise NotFound(f"fault {one.said}: no source {name!r}. There is: {', '.join(found)}.")
        source, table = by_name[name], found[name]
        columns = [column for column in table.names if column in source.columns]  # without _known_at and the like
        if one.column is not None and one.column not in columns:
            raise NotFound(f"fault {one.said}: {name!r} has no column {one.column!r}. There is: {', '.join(columns)}.")
        times = table[source.time]
        rows = times.present() & (times.values >= one.start_us) & (times.values < one.end_us)
        at_us = tables[name][source.time].values
        if not ((at_us >= one.start_us) & (at_us < one.end_us)).any():
            raise Misuse(f"fault {in_words([one])[0]} has no effect: {name!r} has no event in this time.")
        found[name] = _CHANGES[one.kind](table, source, one, rows, model)
    return found


def recorded_labels(
    label: Label, table: Columns, keys: Sequence[object], *, until_us: int = 2**62
) -> NDArray[np.float64]:
    """Return for each key the newest label in a table of recorded events that was known by `until_us`; NaN: none."""
    table = table.take(known_at_us(table, label.source) <= until_us)
    values = evaluate_columns(label.value, table)
    found = values.to_list()
    if label.classes:
        place = {one: float(n) for n, one in enumerate(label.classes)}
        found = [place.get(one) for one in found]
    if "_op" in table:
        found = [None if op == "delete" else one for one, op in zip(found, table["_op"].to_list(), strict=True)]
    order = np.argsort(table[label.source.time].values, kind="stable").tolist()
    names = table[label.key].to_list()
    newest = {names[row]: found[row] for row in order}
    told = [newest.get(key) for key in keys]
    return np.array([np.nan if one is None else float(one) for one in told], np.float64)


def known_at_us(table: Columns, source: Source) -> NDArray[np.int64]:
    """Return the time at which each recorded event became known."""
    known: NDArray[np.int64] = table[source.time].values + source.delay_us
    if "_known_at" not in table:
        return known
    said = table["_known_at"]
    return np.where(said.present(), said.values, known)


def _without_values(table: Columns, source: Source, one: Fault, rows: NDArray[np.bool_], model: Model) -> Columns:
    assert one.column is not None  # faults of this kind always name a column
    column = table[one.column]
    if one.column in (source.time, source.key):
        raise Misuse(f"fault {one.said}: {one.column!r} is the time or the key of a row. Choose another column.")
    empty: dict[str, Any] = {"float": np.nan, "str": None, "bool": False}
    values = column.values.copy()
    values[rows] = empty.get(column.dtype, 0)
    return table.replace({one.column: Column(column.dtype, values, column.present() & ~rows)})


def _other_unit(table: Columns, source: Source, one: Fault, rows: NDArray[np.bool_], model: Model) -> Columns:
    assert one.column is not None  # faults of this kind always name a column
    column = table[one.column]
    if column.dtype != "float":
        raise Misuse(f"fault {one.said}: only the unit of a column of floats can change, found {column.dtype}.")
    changed = column.values * 1.8 + 32.0 if one.size is None else column.values * one.size
    values = np.where(rows, changed, column.values)
    return table.replace({one.column: msgspec.structs.replace(column, values=values)})


def _stuck(table: Columns, source: Source, one: Fault, rows: NDArray[np.bool_], model: Model) -> Columns:
    """Replace floats by those of the entity's last row before the fault.

    Rows with the same texts (except the key) count as rows of one entity. Rows of entities that have no event before
    the fault stay as they are.
    """
    times = table[source.time].values
    texts = [table[name].to_list() for name in table.names if table[name].dtype == "str" and name != source.key]
    who = list(zip(*texts, strict=True)) if texts else [()] * table.rows
    last: dict[tuple[Any, ...], int] = {}
    for row in np.flatnonzero(times < one.start_us)[np.argsort(times[times < one.start_us], kind="stable")].tolist():
        last[who[row]] = row
    changed = {}
    known = [row for row in np.flatnonzero(rows).tolist() if who[row] in last]
    for name in table.names:
        column = table[name]
        if column.dtype == "float":
            values, valid = column.values.copy(), column.present().copy()
            before = [last[who[row]] for row in known]
            values[known], valid[known] = column.values[before], column.present()[before]
            changed[name] = Column("float", values, valid)
    return table.replace(changed)


def _late(table: Columns, source: Source, one: Fault, rows: NDArray[np.bool_], model: Model) -> Columns:
    times, known = table[source.time], known_at_us(table, source)
    late_us = round((_LATE_H if one.size is None else one.size) * HOUR_US)
    return table.replace({"_known_at": Column("time", np.where(rows, known + late_us, known), times.valid)})


def _without_rows(table: Columns, source: Source, one: Fault, rows: NDArray[np.bool_], model: Model) -> Columns:
    return table.take(~rows)


def _flipped(table: Columns, source: Source, one: Fault, rows: NDArray[np.bool_], model: Model) -> Columns:
    """Return the table with opposite labels: True becomes False; a number that is compared is mirrored at the limit.

    If the label is itself a column of numbers, these are mirrored at their median. If the label has several classes,
    their order is reversed: the first class becomes the last.
    """
    value = model.label.value
    compared = value.op in _COMPARED and value.args[0].op == "col" and value.args[1].op == "lit"
    if value.op != "col" and not compared:
        raise Misuse(
            f"fault {one.said}: the label is {value!r}. Only a column, or a comparison of a column with a number, can "
            "be flipped."
        )
    name = str((value.args[0] if compared else value).params[0])
    column = table[name]
    if column.dtype == "bool":
        values = np.where(rows, ~column.values.astype(bool), column.values.astype(bool))
    elif model.label.classes and not compared:
        turned = dict(zip(model.label.classes, reversed(model.label.classes), strict=True))
        values = column.values.copy()
        values[rows] = [turned.get(one, one) for one in column.values[rows].tolist()]
    elif column.dtype in ("float", "int"):
        limit = value.args[1].params[-1] if compared else np.median(column.values[column.present()])
        values = np.where(rows, 2 * np.asarray(limit, np.float64) - column.values, column.values)
        values = values.astype(column.values.dtype)
    else:
        raise Misuse(f"fault {one.said}: a label of {column.dtype} cannot be flipped.")
    return table.replace({name: Column(column.dtype, values, column.valid)})


_CHANGES: dict[str, _Change] = {
    "null_column": _without_values,
    "unit_change": _other_unit,
    "stuck_feed": _stuck,
    "late_feed": _late,
    "outage": _without_rows,
    "label_stop": _without_rows,
    "label_flip": _flipped,
}
