"""Tables of named columns that have the same length."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.columns.column import Column, Dtype, WrongColumn, column, float_column
from trimtab.core.errors import Misuse

if TYPE_CHECKING:  # NumPy is imported at the first use, so that `import trimtab` is fast
    from numpy.typing import NDArray

__all__ = ["ArrowTable", "Column", "Columns", "Dtype", "WrongColumn", "column", "float_column", "read_arrow"]


class Columns(msgspec.Struct, frozen=True, eq=False):
    """A table: columns by name, all of the same length.

    >>> table = Columns.of({"x": ("float", [1.0, None])})
    >>> table.rows, table["x"].to_list()
    (2, [1.0, None])
    """

    by_name: Mapping[str, Column]

    def __post_init__(self) -> None:
        lengths = {name: len(c) for name, c in self.by_name.items()}
        if len(set(lengths.values())) > 1:
            raise Misuse(f"columns: lengths differ: {lengths}. Give every column one value for each row.")

    def __len__(self) -> int:
        """The number of rows. (The columns are in `names`.)"""
        return self.rows

    def __bool__(self) -> bool:
        return True  # even a table without rows is true

    def __getitem__(self, name: str) -> Column:
        try:
            return self.by_name[name]
        except KeyError:
            raise Misuse(f"columns: no {name!r} among {', '.join(self.by_name)}.") from None

    def __contains__(self, name: str) -> bool:
        return name in self.by_name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.by_name)

    @property
    def rows(self) -> int:
        return next((len(c) for c in self.by_name.values()), 0)

    def take(self, rows: NDArray[Any] | slice) -> Columns:
        """Return the table at `rows`: positions, a boolean mask or a slice."""
        return Columns({name: c.take(rows) for name, c in self.by_name.items()})

    def select(self, names: Iterable[str]) -> Columns:
        """Return a table of the named columns, in the given order."""
        return Columns({name: self[name] for name in names})

    def replace(self, more: Mapping[str, Column]) -> Columns:
        """Return this table with some columns added or replaced."""
        return Columns({**self.by_name, **more})

    def __repr__(self) -> str:
        """Return the table as text for a terminal: its first and last rows."""
        from trimtab.core.columns.shown import text_table

        return text_table(self.by_name)

    def _repr_html_(self) -> str:
        """Return the table as HTML for notebooks: its first and last rows."""
        from trimtab.core.columns.shown import html_table

        return html_table(self.by_name)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per row, with None for null and times as UTC microseconds. This is slow for large tables.

        >>> Columns.of({"at": ("time", [0, None])}).to_rows()
        [{'at': 0}, {'at': None}]
        """
        lists = [c.to_list() for c in self.by_name.values()]
        return [dict(zip(self.by_name, row, strict=True)) for row in zip(*lists, strict=True)]

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the table's data for polars, pandas, pyarrow and DuckDB, through the Arrow PyCapsule interface."""
        from trimtab.core.columns.arrow import arrow_stream

        return arrow_stream(self.by_name, requested_schema)

    def __arrow_c_schema__(self) -> object:
        """Return the names and types of the columns through the Arrow PyCapsule interface."""
        from trimtab.core.columns.arrow import arrow_schema

        return arrow_schema(self.by_name)

    def like(self, frame: object) -> Any:
        """Return this table as a table of the library of `frame`: pandas, polars, pyarrow or DuckDB.

        >>> import polars
        >>> Columns.of({"x": ("int", [1, 2])}).like(polars.DataFrame())["x"].to_list()
        [1, 2]
        """
        from trimtab.core.columns.same_library import like

        return like(self, frame)

    @staticmethod
    def from_arrow(table: object) -> Columns:
        """Return a copy of the table that an object offers through the Arrow PyCapsule interface.

        The object must have `__arrow_c_stream__` or `__arrow_c_array__`, like tables and record batches of pyarrow,
        polars, arro3 and DuckDB. It may also be a pandas frame, for which pyarrow is not needed; its index is left out.

        Integers, and decimals without digits after the point, become int if all of a column fit in 64 bits; other
        numbers become the nearest float. Dates and timestamps become times, rounded down to a microsecond; without a
        time zone, they are in UTC. Times that do not fit in 64 bits become the first or last time that does. Categories
        become columns of the type of their values, which are usually texts.

        Raises:
            Misuse: The object gives no table, or a column holds something else, such as lists. The message names the
                column.
        """
        return read_arrow(table).columns

    @staticmethod
    def of(columns: Mapping[str, tuple[Dtype, Sequence[Any]]]) -> Columns:
        """Make a table from Python values. None is null, and so is NaN in a float column."""
        return Columns({name: column(dtype, values) for name, (dtype, values) in columns.items()})

    @staticmethod
    def concat(parts: Sequence[Columns]) -> Columns:
        """Join tables that have the same columns, end to end."""
        import numpy as np

        parts = [p for p in parts if p.rows] or parts[:1]
        if len(parts) == 1:
            return parts[0]
        out: dict[str, Column] = {}
        for name, first in parts[0].by_name.items():
            pieces = [p[name] for p in parts]
            valid = None if all(c.valid is None for c in pieces) else np.concatenate([c.present() for c in pieces])
            out[name] = Column(first.dtype, np.concatenate([c.values for c in pieces]), valid)
        return Columns(out)


class ArrowTable(msgspec.Struct, frozen=True, eq=False):
    """A table that was read from Arrow data."""

    names: tuple[str, ...]  # the names of all columns in the data
    columns: Columns  # the columns that the caller wanted
    # the values of wanted columns that no `Column` can hold exactly, as Python objects
    loose: Mapping[str, list[Any]] = {}
    rows: int | None = None  # number of rows


def read_arrow(given: Any, only: Collection[str] | None = None, *, loose: bool = False) -> ArrowTable:
    """Read the table that an object offers through the Arrow PyCapsule interface; see `Columns.from_arrow`.

    Args:
        only: The names of the wanted columns; None: all.
        loose: How to read columns that no `Column` can hold exactly (decimals, lists, extension types). True: their
            values become Python objects. False: decimals become the nearest doubles, and the others are an error.
    """
    from trimtab.core.columns.arrow import read_columns

    names, columns, values, rows = read_columns(given, only, loose=loose)
    return ArrowTable(names, Columns(columns), values, rows)
