"""Named columns of equal length, each with its nulls: how tables travel between rooms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from trimtab.core.errors import Misuse

if TYPE_CHECKING:  # NumPy is loaded on first use, so that `import trimtab` stays light
    from numpy.typing import NDArray

Dtype = Literal["float", "int", "bool", "str", "time"]  # time: int64 UTC microseconds


class WrongColumn(Misuse):
    """A `Misuse` of one column; `column` is its name."""

    def __init__(self, message: str, *, column: str) -> None:
        super().__init__(message)
        self.column = column


class Column(msgspec.Struct, frozen=True, eq=False):
    """Values and which of them are there.

    `values` is float64, int64 (also for time), bool or object (str); where `valid` is False the value is a
    placeholder (NaN, 0, False, None). `valid` None means that all are there. A float column's nulls are always NaN
    in `values` as well.
    """

    dtype: Dtype
    values: NDArray[Any]
    valid: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: NDArray[Any] | slice) -> Column:
        """The column at `rows` (positions, a boolean mask or a slice)."""
        return Column(self.dtype, self.values[rows], None if self.valid is None else self.valid[rows])

    def present(self) -> NDArray[Any]:
        """A boolean array: True where a value is there."""
        import numpy as np

        return np.ones(len(self.values), bool) if self.valid is None else self.valid

    def to_list(self) -> list[Any]:
        """Python values, None for null."""
        out: list[Any] = self.values.tolist()
        if self.valid is None:
            return out
        return [v if ok else None for v, ok in zip(out, self.valid.tolist(), strict=True)]


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
        """How many rows there are, as of any list of rows; `names` has the columns."""
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

        return text_table(self)

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        from trimtab.core.columns.shown import html_table

        return html_table(self)

    def to_rows(self) -> list[dict[str, Any]]:
        """One dict a row, None for null, times as UTC microseconds: for people and JSON, not for speed.

        >>> Columns.of({"at": ("time", [0, None])}).to_rows()
        [{'at': 0}, {'at': None}]
        """
        lists = [c.to_list() for c in self.by_name.values()]
        return [dict(zip(self.by_name, row, strict=True)) for row in zip(*lists, strict=True)]

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The table for whoever takes the Arrow PyCapsule interface: polars, pandas, pyarrow, DuckDB."""
        from trimtab.core.columns.arrow import arrow_stream

        return arrow_stream(self, requested_schema)

    def __arrow_c_schema__(self) -> object:
        """Names and types of the columns, in the same way."""
        from trimtab.core.columns.arrow import arrow_schema

        return arrow_schema(self)

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
        from trimtab.core.columns.arrow import read_arrow

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

    names: tuple[str, ...]  # of all its columns
    columns: Columns  # those that were wanted
    loose: Mapping[str, list[Any]] = {}  # of the wanted ones those that no `Column` holds exactly, as Python values
    rows: int | None = None  # as the table counts them


def column(dtype: Dtype, values: Sequence[Any]) -> Column:
    """A column from Python values, None (or NaN in a float column) for null."""
    import numpy as np

    if dtype == "float":
        return float_column(np.array(values, np.float64))  # NumPy reads None as NaN
    valid = np.array([v is not None for v in values], bool)
    if dtype == "str":
        array: NDArray[Any] = np.empty(len(values), object)
        array[:] = list(values)
    else:
        kind: type = np.bool_ if dtype == "bool" else np.int64
        array = np.array([0 if v is None else v for v in values], kind)
    return Column(dtype, array, None if valid.all() else valid)


def float_column(values: NDArray[Any]) -> Column:
    """A float column by the rules of ingestion: NaN is null, -0.0 is 0.0."""
    import numpy as np

    with np.errstate(invalid="ignore"):  # a NaN may be a signalling one
        values = np.asarray(values, np.float64) + 0.0  # -0.0 + 0.0 = 0.0
    missing = np.isnan(values)
    return Column("float", values, ~missing if missing.any() else None)
