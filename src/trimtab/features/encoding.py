"""Turn feature values into the numbers that an estimator gets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.codegen import define
from trimtab.core.columns.data import Columns, Dtype
from trimtab.core.errors import Misuse
from trimtab.features.feature_set import FeatureSet

if TYPE_CHECKING:  # encoding a single row does not need NumPy
    from numpy.typing import NDArray


class Encoding(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The rules by which features become float64. They are fitted on training rows and stored with a version.

    Null becomes NaN, and so does a category that did not occur in training.
    """

    dtypes: dict[str, Dtype]  # all features, in the order of the matrix's columns
    vocabularies: dict[str, tuple[str, ...]]  # for each category, its texts; a text is encoded as its index

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features, in the order of the matrix's columns."""
        return tuple(self.dtypes)

    def matrix(self, values: Columns) -> NDArray[Any]:
        """Return the encoded features of many rows: float64, shape (rows, features).

        Raises:
            Misuse: A feature is missing or has another type.
        """
        import numpy as np

        out = np.empty((len(self.dtypes), values.rows), np.float64)  # transposed at the end, which is quicker
        for place, (name, dtype) in enumerate(self.dtypes.items()):
            column = values[name]
            if column.dtype != dtype:
                raise Misuse(f"encoding: feature {name!r} must be {dtype}; it is {column.dtype}.")
            if name in self.vocabularies:
                numbers = self._numbers[name]
                out[place] = np.fromiter(map(numbers.get, column.values.tolist(), repeat(math.nan)), np.float64)
                continue
            out[place] = column.values
            if column.valid is not None:
                out[place, ~column.valid] = np.nan
        return np.ascontiguousarray(out.T)

    @cached_property
    def row(self) -> Callable[[Sequence[Any]], list[float]]:
        """Return a function that encodes a single row. Its results equal `matrix`, bit for bit.

        The function takes the values in the order of the features, with None for null. Its code is generated for these
        features, because a loop would take four times as long.  # D108
        """
        values = {f"v{n}": name for n, name in enumerate(self.dtypes)}
        scope: dict[str, Any] = {"nan": math.nan}
        of_row = []
        for value, name in values.items():
            if name in self.vocabularies:
                scope[f"of_{value}"] = self._numbers[name].get
                of_row.append(f"of_{value}({value}, nan)")
            else:
                of_row.append(f"nan if {value} is None else float({value})")
        lines = ["def row(values):", f"  [{', '.join(values)}] = values", f"  return [{', '.join(of_row)}]"]
        encode: Callable[[Sequence[Any]], list[float]] = define("row", lines, scope, about="encoding of a row")
        return encode

    @cached_property
    def _numbers(self) -> dict[str, dict[str, float]]:
        return {
            name: {text: float(i) for i, text in enumerate(vocabulary)}
            for name, vocabulary in self.vocabularies.items()
        }


def fit(features: FeatureSet, values: Columns) -> Encoding:
    """Fit an encoding to training rows.

    The vocabulary of a category begins with the most frequent text. Equally frequent texts are in alphabetical order.

    >>> from trimtab.core.expressions.nodes import col
    >>> from trimtab.features.definitions import request
    >>> from trimtab.features.feature_set import feature_set
    >>> flight = request("flight", key="id", time="at", columns={"id": str, "to": str})
    >>> features = feature_set(flight, [{"to": col("to").category()}])
    >>> fit(features, Columns.of({"to": ("str", ["LAX", "BOS", "SFO", "SFO", None])})).vocabularies
    {'to': ('SFO', 'BOS', 'LAX')}
    """
    vocabularies = {}
    for name in features.categories:
        counts = Counter(values[name].values.tolist())
        counts.pop(None, None)
        often_first = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        vocabularies[name] = tuple(text for text, _ in often_first)
    return Encoding(dtypes=features.dtypes, vocabularies=vocabularies)
