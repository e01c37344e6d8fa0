"""One column: its values and its nulls."""

from __future__ import annotations

from collections.abc import Sequence
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
