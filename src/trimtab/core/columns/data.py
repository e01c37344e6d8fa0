"""Tables: named columns of equal length, each with its nulls."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.columns.column import Column, Dtype, WrongColumn, column, float_column
from trimtab.core.errors import Misuse

if TYPE_CHECKING:  # NumPy is loaded on first use, so that `import trimtab` stays light
    from numpy.typing import NDArray

__all__ = ["ArrowTable", "Column", "Columns", "Dtype", "WrongColumn", "column", "float_column", "read_arrow"]


class Columns(msgspec.Struct, frozen=True, eq=False):
    """A table: columns by name, all of one length.

    >>> table = Columns.of({"x": ("float", [1.0, None])})
    >>> table.rows, table["x"].to_list()
    (2, [1.0, None])
    """

    by_name: Mapping[str, Column]

    def __post_init__(self) -> None:
        lengths = {name: len(c) for name, c in self.by_name.items()}
        if len(set(lengths.values())) > 1:
            raise Misuse(f"columns: lengths differ: {lengths}. Give every column one value a row.")

    def __len__(self) -> int:
        """The number of rows, as for any list of rows; `names` has the columns."""
        return self.rows

    def __bool__(self) -> bool:
        return True  # a table without rows is one, too

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
        """The table at `rows` (positions, a boolean mask or a slice)."""
        return Columns({name: c.take(rows) for name, c in self.by_name.items()})

    def select(self, names: Iterable[str]) -> Columns:
        """The named columns, in that order."""
        return Columns({name: self[name] for name in names})

    def replace(self, more: Mapping[str, Column]) -> Columns:
        """This table with columns added or replaced."""
        return Columns({**self.by_name, **more})

    def __repr__(self) -> str:
        """The table for a terminal: its first and last rows."""
        from trimtab.core.columns.shown import text_table

        return text_table(self.by_name)

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        from trimtab.core.columns.shown import html_table

        return html_table(self.by_name)

    def to_rows(self) -> list[dict[str, Any]]:
        """One dict a row, None for null, times as UTC microseconds: for people and JSON, not for speed.

        >>> Columns.of({"at": ("time", [0, None])}).to_rows()
        [{'at': 0}, {'at': None}]
        """
        lists = [c.to_list() for c in self.by_name.values()]
        return [dict(zip(self.by_name, row, strict=True)) for row in zip(*lists, strict=True)]

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The table through the Arrow PyCapsule interface, for polars, pandas, pyarrow and DuckDB."""
        from trimtab.core.columns.arrow import arrow_stream

        return arrow_stream(self.by_name, requested_schema)

    def __arrow_c_schema__(self) -> object:
        """Names and types of the columns through the same interface."""
        from trimtab.core.columns.arrow import arrow_schema

        return arrow_schema(self.by_name)

    @staticmethod
    def from_arrow(table: object) -> Columns:
        """The table that an object gives through the Arrow PyCapsule interface, copied.

        Takes what has `__arrow_c_stream__` or `__arrow_c_array__`: tables and record batches of pyarrow, polars,
        arro3 and DuckDB, pandas frames (pandas 2.2 and pyarrow; the numbers of the rows are left out). Numbers of any
        width become int or float, also unsigned ones and decimals: those beyond 64 bits the nearest float. Dates and
        timestamps become times, without a zone in UTC and rounded down to a microsecond (those that 64 bits cannot
        hold, the first or last one that they can); categories become texts.

        Raises:
            Misuse: It gives no table, or a column holds something else, such as lists; the message names it.
        """
        return read_arrow(table).columns

    @staticmethod
    def of(columns: Mapping[str, tuple[Dtype, Sequence[Any]]]) -> Columns:
        """A table from Python values, None (or NaN in a float column) for null."""
        return Columns({name: column(dtype, values) for name, (dtype, values) in columns.items()})

    @staticmethod
    def concat(parts: Sequence[Columns]) -> Columns:
        """Tables of the same columns, one after the other."""
        import numpy as np

        if len(parts) == 1:
            return parts[0]
        out: dict[str, Column] = {}
        for name, first in parts[0].by_name.items():
            pieces = [p[name] for p in parts]
            valid = None if all(c.valid is None for c in pieces) else np.concatenate([c.present() for c in pieces])
            out[name] = Column(first.dtype, np.concatenate([c.values for c in pieces]), valid)
        return Columns(out)


class ArrowTable(msgspec.Struct, frozen=True, eq=False):
    """A table as it was read from Arrow's form."""

    names: tuple[str, ...]  # names of all columns
    columns: Columns  # those that were wanted
    loose: Mapping[str, list[Any]] = {}  # wanted columns that no `Column` holds exactly, as Python values
    rows: int | None = None  # number of rows


def read_arrow(given: Any, only: Collection[str] | None = None, *, loose: bool = False) -> ArrowTable:
    """The table that an object gives through the Arrow PyCapsule interface, see `Columns.from_arrow`.

    Args:
        given: A table or record batch of another library.
        only: The columns that are wanted; left out, all.
        loose: Columns that no `Column` holds exactly (decimals, lists, extension types) become Python values. Else
            decimals become the nearest doubles, and the others are an error.
    """
    from trimtab.core.columns.arrow import read_columns

    names, columns, values, rows = read_columns(given, only, loose=loose)
    return ArrowTable(names, Columns(columns), values, rows)
