"""Slices of logged requests: groups with the same value of a column, or of a named expression over columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from trimtab.core.columns.data import Column, Columns, Dtype, column
from trimtab.core.expressions.by_columns import evaluate_columns
from trimtab.core.expressions.nodes import Expression
from trimtab.core.records import Prediction

_MOST_CHARACTERS = 60  # in the name of a slice, a value is cut to this many characters
_KINDS: dict[Dtype, tuple[type, ...]] = {
    "str": (str,), "bool": (bool,), "int": (int,), "time": (int,), "float": (int, float),
}  # fmt: skip


class RequestSlices(msgspec.Struct, frozen=True):
    """Computes the slices of each logged request."""

    places: dict[str, int]  # the position of each column in a logged request
    columns: int  # the number of columns that a request must have
    named: dict[str, Expression] = {}  # expressions by name
    dtypes: dict[str, Dtype] = {}  # the types of all columns in declared order, for expressions

    def of(self, predictions: Sequence[Prediction]) -> dict[str, Column]:
        """Return for each column and expression the value of every request, in the form of `slice_column`.

        A value is null if the request has none, or does not have `columns` columns.
        """
        decoded = [msgspec.msgpack.decode(p.request) for p in predictions]
        rows = [one if isinstance(one, list) and len(one) == self.columns else None for one in decoded]
        found = {
            name: column("str", [slice_value(None if row is None else row[place]) for row in rows])
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
    """Return the value of an expression for each request. A bool stays a bool; all other values become texts.

    Raises:
        Misuse: The expression does not fit the columns.

    >>> from trimtab.core.expressions.nodes import col
    >>> requests = Columns.of({"distance": ("float", [200.0, 2500.0, None])})
    >>> slice_column("far", col("distance") > 1000, requests).to_list()
    [False, True, None]
    """
    found = evaluate_columns(of, requests, f"slice {name!r}")
    return found if found.dtype == "bool" else column("str", [slice_value(value) for value in found.to_list()])


def slice_value(value: Any) -> str | None:
    """Return a value as in the name of a slice."""
    return None if value is None else str(value)[:_MOST_CHARACTERS]


def _fitting(dtype: Dtype, value: Any) -> Any:
    """Return the value; null if its type is not the declared one, as in requests that were sent to another version."""
    return value if isinstance(value, _KINDS[dtype]) else None
