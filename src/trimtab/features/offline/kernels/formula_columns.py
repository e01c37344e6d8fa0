"""The formulas of `formulas.py` for whole columns: the same operations in the same order, so the results are equal."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column
from trimtab.features.formulas import hash_of

Array = NDArray[Any]


def variances(n: Array, s1: Array, s2: Array) -> Array:
    """Return `formulas.variance` for each row. The result is arbitrary if n is below 2."""
    mean = s1 / np.maximum(n, 1)
    deviations = s2 - mean * s1
    out: Array = np.where(deviations > 0.0, deviations, 0.0) / np.maximum(n - 1, 1)
    return out


def hashes(column: Column) -> Array:
    """Return `formulas.hash_of` for each value, as uint64. The result is arbitrary for nulls."""
    if column.dtype == "str":
        known = {value: 0 if value is None else hash_of(value) for value in set(column.values.tolist())}
        return np.fromiter(map(known.__getitem__, column.values.tolist()), np.uint64, len(column))
    if column.dtype == "float":
        z = (column.values + 0.0).view(np.uint64)
    else:
        z = column.values.astype(np.int64).view(np.uint64)
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    out: Array = z ^ (z >> np.uint64(31))
    return out
