"""Convert tables (`Columns`) to the library of a caller's own table: pandas, polars, pyarrow or DuckDB."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from trimtab.core.columns.column import Column
from trimtab.core.errors import Misuse


def library_of(table: object) -> str:
    """Return the name of the library that a table comes from, such as "pandas"."""
    return type(table).__module__.partition(".")[0]


def like(columns: Any, table: object) -> Any:
    """Return columns as a table of the library that another table is from, or unchanged if the library is unknown."""
    return _added(columns, table, None)


def with_columns(table: Any, more: Any, like: object | None = None) -> Any:
    """Add columns at the end of a table of any library, and return it. The table's own columns stay as they are.

    Args:
        like: The table of another library that `table` was read from, if any. The result is a table of that library.

    Raises:
        Misuse: The table already has a column with the name of an added one.
    """
    names = table.keys() if isinstance(table, dict) else getattr(table, "columns", ())
    names = getattr(table, "column_names", None) or getattr(table, "names", None) or names
    taken = [name for name in more.names if name in list(names)]
    if taken:
        raise Misuse(f"table: there is already a column {taken[0]!r}, which would be replaced. Drop or rename it.")
    return _added(more, table if like is None else like, table)


def _added(more: Any, like_table: object, to: Any) -> Any:
    library = library_of(like_table)
    if library == "pandas":
        pandas = sys.modules["pandas"]
        index = None if to is None else to.index
        series = {name: _series(pandas, one, index) for name, one in more.by_name.items()}
        return pandas.DataFrame(series) if to is None else pandas.concat([to, pandas.DataFrame(series)], axis=1)
    if library == "polars":
        frame = sys.modules["polars"].DataFrame(more)
        return frame if to is None else to.hstack(frame)
    if library == "pyarrow":
        pyarrow = sys.modules["pyarrow"]
        table = pyarrow.table(more)
        if to is None:
            return table
        found = pyarrow.table(to)
        for field in table.schema:
            found = found.append_column(field, table[field.name])
        return found
    whole = more if to is None else more.from_arrow(to).replace(more.by_name)
    return sys.modules["duckdb"].from_arrow(whole) if library == "duckdb" else whole


def _series(pandas: Any, one: Column, index: Any) -> Any:
    """Return a column as a pandas series, without pyarrow."""
    if one.dtype == "time":
        times = one.values.astype("datetime64[us]")
        times[~one.present()] = np.datetime64("NaT")
        return pandas.Series(times, index=index).dt.tz_localize("UTC")
    if one.dtype in ("int", "bool") and one.valid is not None:
        kind = "Int64" if one.dtype == "int" else "boolean"
        return pandas.Series(one.to_list(), index=index, dtype=kind)
    if one.dtype == "str":
        return pandas.Series(one.to_list(), index=index, dtype="str" if hasattr(pandas, "StringDtype") else object)
    return pandas.Series(one.values, index=index)
