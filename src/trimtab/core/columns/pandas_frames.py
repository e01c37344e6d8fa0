"""Read pandas frames without pyarrow. (pandas itself needs pyarrow to give its data to other libraries.)"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from trimtab.core.columns.column import Column, Dtype, WrongColumn, check_once, column, float_column
from trimtab.core.time import parse_time_us

_INT_MAX = 2**63 - 1
_PER_UNIT = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}  # (a, b): a microseconds = b units
_PYTHON: dict[type, Dtype] = {bool: "bool", int: "int", float: "float", str: "str"}


def is_pandas(given: object) -> bool:
    """Return whether an object is a pandas frame. pandas is not imported."""
    return type(given).__module__.partition(".")[0] == "pandas" and hasattr(given, "columns")


def read_pandas(
    frame: Any, only: Collection[str] | None, *, loose: bool
) -> tuple[tuple[str, ...], dict[str, Column], dict[str, list[Any]], int]:
    """Read a pandas frame; the arguments and the result are those of `read_columns`.

    Raises:
        WrongColumn: Two columns have the same name. Or, without `loose`, a column has values of several types, or of a
            type that no `Column` can hold.
    """
    names = tuple(map(str, frame.columns))
    check_once(names)
    columns: dict[str, Column] = {}
    values: dict[str, list[Any]] = {}
    for place, name in enumerate(names):
        if only is not None and name not in only:
            continue
        series = frame.iloc[:, place]
        found = _column(series)
        if found is not None:
            columns[name] = found
        elif loose:
            values[name] = _objects(series)
        else:
            columns[name] = _of_objects(name, _objects(series))
    return names, columns, values, len(frame)


def _column(series: Any) -> Column | None:
    """Return a series as a column, or None if it holds Python objects that are not all texts."""
    dtype = series.dtype
    if hasattr(dtype, "categories"):
        return _of_categories(series)
    kind = getattr(dtype, "kind", "O")
    missing = series.isna().to_numpy(bool)
    valid = ~missing if missing.any() else None
    if kind == "b":
        return Column(
            "bool", series.to_numpy(bool, na_value=False) if valid is not None else series.to_numpy(bool), valid
        )
    if kind in "iu":
        return _of_integers(series, valid)
    if kind == "f":
        return float_column(series.to_numpy(np.float64, na_value=np.nan))
    if kind == "M":
        plain = series if getattr(dtype, "tz", None) is None else series.dt.tz_convert(None)
        times = plain.to_numpy()
        per, units = _PER_UNIT[np.datetime_data(times.dtype)[0]]
        counts = np.clip(times.astype(np.int64), -_INT_MAX // per, _INT_MAX // per)  # no product is beyond 64 bits
        return Column("time", np.where(missing, 0, counts * per // units), valid)
    objects = _objects(series)
    return column("str", objects) if all(value is None or isinstance(value, str) for value in objects) else None


def _of_integers(series: Any, valid: Any) -> Column:
    kind = getattr(series.dtype, "numpy_dtype", series.dtype)  # by default, `to_numpy` may return floats or objects
    whole = series.to_numpy(kind) if valid is None else series.to_numpy(kind, na_value=0)
    if whole.size and whole.dtype.kind == "u" and int(whole.max()) > _INT_MAX:
        return float_column(np.where(valid, whole.astype(np.float64), np.nan) if valid is not None else whole)
    return Column("int", whole.astype(np.int64), valid)


def _of_categories(series: Any) -> Column | None:
    """Return a categorical series as a column of its categories' type; None if `_column` returns None for these."""
    values = series.cat.categories.to_series()
    known = _column(values)
    if known is None:
        return None
    codes = series.cat.codes.to_numpy()
    if not len(known):
        return column(known.dtype, [None] * len(codes))
    taken = known.take(np.maximum(codes, 0))
    there = taken.present() & (codes >= 0)
    taken_values = taken.values.copy()
    taken_values[~there] = {"float": np.nan, "str": None, "bool": False}.get(known.dtype, 0)
    return Column(known.dtype, taken_values, None if there.all() else there)


def _objects(series: Any) -> list[Any]:
    missing = series.isna().to_list()
    return [None if gone else value for value, gone in zip(series.astype(object).to_list(), missing, strict=True)]


def _of_objects(name: str, values: Sequence[Any]) -> Column:
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return column("str", values)
    if kinds == {int, float}:
        return column("float", values)
    if kinds <= {dt.datetime, dt.date} or all(issubclass(kind, dt.datetime) for kind in kinds):
        return column("time", [None if value is None else parse_time_us(value) for value in values])
    if len(kinds) > 1 or not kinds <= _PYTHON.keys():
        held = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise WrongColumn(
            f"table: column {name!r} holds {held}. Give numbers, texts, truth values or times of one type.", column=name
        )
    return column(_PYTHON[kinds.pop()], values)
