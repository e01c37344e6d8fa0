"""Correct p values for the number of tests, over metrics, variants or slices."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.core.errors import Misuse
from trimtab.stats.ab.arms import FloatArray


def holm(p: ArrayLike) -> FloatArray:
    """Return p values that are corrected for the number of tests, shape (tests,).

    If tests with a corrected p of at most alpha are called findings, the probability that any finding is false is at
    most alpha, whether or not the tests depend on each other.

    Args:
        p: The p of each test, shape (tests,).

    Raises:
        Misuse: A p is not between 0 and 1.

    Source: Holm (1979).

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    given, order = _sorted(p)
    raised = np.maximum.accumulate(given * np.arange(given.size, 0, -1))
    return _unsorted(raised, order)


def benjamini_hochberg(p: ArrayLike) -> FloatArray:
    """Return p values that are corrected for the number of tests, shape (tests,).

    If tests with a corrected p of at most alpha are called findings, at most the share alpha of the findings is false
    on average.

    Args:
        p: The p of each test, shape (tests,). The tests are independent, or depend positively on each other.

    Raises:
        Misuse: A p is not between 0 and 1.

    Source: Benjamini & Hochberg (1995).

    >>> benjamini_hochberg([0.01, 0.04, 0.03])
    array([0.03, 0.04, 0.04])
    """
    given, order = _sorted(p)
    raised = given * given.size / np.arange(1, given.size + 1)
    return _unsorted(np.minimum.accumulate(raised[::-1])[::-1], order)


def _sorted(p: ArrayLike) -> tuple[FloatArray, NDArray[np.intp]]:
    given = np.asarray(p, np.float64)
    if given.ndim != 1 or not ((given >= 0.0) & (given <= 1.0)).all():
        raise Misuse(f"correction: needs a list of p between 0 and 1, found {given.tolist()}.")
    order = np.argsort(given, kind="stable")
    return given[order], order


def _unsorted(raised: FloatArray, order: NDArray[np.intp]) -> FloatArray:
    found = np.empty_like(raised)
    found[order] = np.minimum(raised, 1.0)
    return found
