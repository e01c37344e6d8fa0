"""The slices of logged requests: the values of their columns, and of named expressions over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from trimtab.core.columns.data import Column, Columns, Dtype, column
from trimtab.core.expressions.by_columns import evaluate_columns
from trimtab.core.expressions.nodes import Expression
from trimtab.core.records import Prediction

_MOST_CHARACTERS = 60  # greatest number of characters of a value in the name of a slice
_KINDS: dict[Dtype, tuple[type, ...]] = {
    "str": (str,), "bool": (bool,), "int": (int,), "time": (int,), "float": (int, float),
}  # fmt: skip


class RequestSlices(msgspec.Struct, frozen=True):
    """The slices of a logged request: one for each value of some columns, and of expressions over them."""

    places: dict[str, int]  # index of each column in a request
    columns: int  # number of columns of a request, as declared
    named: dict[str, Expression] = {}  # expressions by the name of the slice
    dtypes: dict[str, Dtype] = {}  # types of all columns in declared order, for expressions

    def of(self, predictions: Sequence[Prediction]) -> dict[str, Column]:
        """By name, the value of each slice in each request, as `slice_column` gives it.

        Null if a request has no value, or has other columns than declared.
        """
        decoded = [msgspec.msgpack.decode(p.request) for p in predictions]
        rows = [one if isinstance(one, list) and len(one) == self.columns else None for one in decoded]
        found = {
            name: column("str", [_text(None if row is None else row[place]) for row in rows])
            for name, place in self.places.items()
        }
        if not self.named:
            return found
        read = set().union(*(one.columns() for one in self.named.values()))
        table = Columns(
            {
                name: column(dtype, [_fitting(dtype, None if row is None else row[place]) for row in rows])
                for place, (name, dtype) in enumerate(self.dtypes.items())
                if name in read
            }
        )
        return found | {name: slice_column(name, of, table) for name, of in self.named.items()}


def slice_column(name: str, of: Expression, requests: Columns) -> Column:
    """The value of an expression in each request: truth values as they are, other values as texts.

    Raises:
        Misuse: The expression does not fit the columns.

    >>> from trimtab.core.expressions.nodes import col
    >>> requests = Columns.of({"distance": ("float", [200.0, 2500.0, None])})
    >>> slice_column("far", col("distance") > 1000, requests).to_list()
    [False, True, None]
    """
    found = evaluate_columns(of, requests, f"slice {name!r}")
    return found if found.dtype == "bool" else column("str", [_text(value) for value in found.to_list()])


def _text(value: Any) -> str | None:
    return None if value is None else str(value)[:_MOST_CHARACTERS]


def _fitting(dtype: Dtype, value: Any) -> Any:
    """A value, or null if it is not of the declared type, as may happen in a request of another version."""
    return value if isinstance(value, _KINDS[dtype]) else None
