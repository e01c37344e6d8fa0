"""One column: its values and its nulls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from trimtab.core.errors import Misuse

if TYPE_CHECKING:  # NumPy is imported at the first use, so that `import trimtab` is fast
    from numpy.typing import NDArray

Dtype = Literal["float", "int", "bool", "str", "time"]  # "time" is stored as int64, in UTC microseconds

NUMPY_TYPES: dict[Dtype, str] = {"float": "float64", "int": "int64", "bool": "bool", "str": "object", "time": "int64"}
_PLACEHOLDERS: dict[Dtype, Any] = {"float": float("nan"), "int": 0, "bool": False, "str": None, "time": 0}


class WrongColumn(Misuse):
    """A `Misuse` that concerns one column; `column` is the column's name."""

    def __init__(self, message: str, *, column: str) -> None:
        super().__init__(message)
        self.column = column


def check_once(names: Sequence[str]) -> None:
    """Raise `WrongColumn` if a table has two columns of the same name."""
    twice, times = next(iter(Counter(names).most_common(1)), ("", 0))
    if times > 1:
        raise WrongColumn(f"table: column {twice!r} comes twice. Rename or remove one.", column=twice)


class Column(msgspec.Struct, frozen=True, eq=False):
    """The values of one column, and which of them are null.

    `values` is an array of float64, int64 (for int and time), bool, or object (for str). `valid` is False where a value
    is null; None: no value is null. In `values`, nulls have placeholders: NaN, 0, False or None. In a float column,
    null and NaN are the same.
    """

    dtype: Dtype
    values: NDArray[Any]
    valid: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: NDArray[Any] | slice) -> Column:
        """Return the column at `rows`: positions, a boolean mask or a slice."""
        if isinstance(rows, slice) or rows.dtype == bool:
            return Column(self.dtype, self.values[rows], None if self.valid is None else self.valid[rows])
        # for positions, NumPy's `take` is quicker than an index
        return Column(self.dtype, self.values.take(rows), None if self.valid is None else self.valid.take(rows))

    def present(self) -> NDArray[Any]:
        """Return a boolean array that is True where a value is not null."""
        import numpy as np

        return np.ones(len(self.values), bool) if self.valid is None else self.valid

    def to_list(self) -> list[Any]:
        """Return the values as Python objects, with None for null."""
        out: list[Any] = self.values.tolist()
        if self.valid is None:
            return out
        return [v if ok else None for v, ok in zip(out, self.valid.tolist(), strict=True)]


def column(dtype: Dtype, values: Sequence[Any]) -> Column:
    """Make a column from Python values. None is null, and so is NaN in a float column."""
    import numpy as np

    if dtype == "float":
        return float_column(np.array(values, np.float64))  # NumPy converts None to NaN
    valid = np.array([v is not None for v in values], bool)
    if dtype == "str":
        array: NDArray[Any] = np.empty(len(values), object)
        array[:] = list(values)
    else:
        kind: type = np.bool_ if dtype == "bool" else np.int64
        array = np.array([0 if v is None else v for v in values], kind)
    return Column(dtype, array, None if valid.all() else valid)


def masked_column(dtype: Dtype, found: NDArray[Any]) -> Column:
    """Make a column from an array as DuckDB returns it, in which nulls are masked."""
    import numpy as np

    values = np.ma.getdata(found).astype(NUMPY_TYPES[dtype], copy=False)
    if not isinstance(found, np.ma.MaskedArray) or not found.mask.any():
        return Column(dtype, values)
    valid = ~np.ma.getmaskarray(found)
    return Column(dtype, np.where(valid, values, _PLACEHOLDERS[dtype]), valid)


def float_column(values: NDArray[Any]) -> Column:
    """Make a float column from an array. NaN becomes null and -0.0 becomes 0.0, as in all data from outside."""
    import numpy as np

    with np.errstate(invalid="ignore"):  # NumPy would warn about signalling NaNs
        values = np.asarray(values, np.float64) + 0.0  # this turns -0.0 into 0.0
    missing = np.isnan(values)
    return Column("float", values, ~missing if missing.any() else None)
