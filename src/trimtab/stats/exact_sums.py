"""Exact sums of whole arrays of floats. They do not depend on the order of the terms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

# doubles that add up exactly to the sum: the sum, rounded; then the rest, rounded; and so on. An empty tuple is 0
ExactSum = tuple[float, ...]


def exact_sum(values: Sequence[float]) -> ExactSum:
    """Return the exact sum of finite values, as doubles of decreasing size. The order of the values does not matter.

    Raises:
        OverflowError: The sum, or a sum of some of the values, is larger than the largest double.

    Source: Shewchuk (1997), expansions of non-overlapping doubles.

    >>> exact_sum([1e16, 1.0, -1e16, 0.25])
    (1.25,)
    >>> exact_sum([1e16, 1.0]) == add_exact(exact_sum([1.0]), exact_sum([1e16]))
    True
    """
    found: list[float] = []
    rest = list(values)
    while (rounded := math.fsum(rest)) != 0.0:
        found.append(rounded)
        rest.append(-rounded)
    return tuple(found)


def add_exact(*sums: ExactSum) -> ExactSum:
    """Add exact sums without rounding."""
    return exact_sum([part for one in sums for part in one])


def rounded(total: ExactSum) -> float:
    """Return the double that is nearest to an exact sum."""
    return total[0] if total else 0.0


def total_of(sums: Iterable[ExactSum]) -> float:
    """Return the sum of exact sums as a double, rounded only once."""
    return math.fsum(part for one in sums for part in one)
