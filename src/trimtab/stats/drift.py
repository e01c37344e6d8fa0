"""Distances between two histograms with the same bins, for example of live data and of a reference."""

import numpy as np
from numpy.typing import ArrayLike

from trimtab.core.errors import Misuse
from trimtab.stats.scores import FloatArray


def psi(expected: ArrayLike, actual: ArrayLike, *, floor: float = 1e-4) -> float:
    """Return the population stability index of two histograms, in nats (0 = same shape).

    Args:
        expected: Counts of the reference, shape (bins,).
        actual: Counts of the live data in the same bins, shape (bins,).
        floor: Smaller shares of bins are replaced by this one, so that empty bins give a finite index.

    Raises:
        Misuse: The bins differ, a count is negative or not finite, or a histogram is empty.

    Source: Kullback & Leibler (1951), the divergence J.

    >>> round(psi([50, 50], [90, 10]), 3)
    0.879
    """
    p, q = (np.maximum(share, floor) for share in _shares(expected, actual))
    return float(np.sum((q - p) * np.log(q / p)))


def js_distances(expected: ArrayLike, actual: ArrayLike) -> FloatArray:
    """Return the Jensen-Shannon distance of many pairs of histograms, shape (pairs,), in [0, 1].

    It is 0 for the same shape, and 1 if no bin is in common. It is a metric in the mathematical sense, and it is always
    finite.

    Args:
        expected: Counts of the references, shape (pairs, bins). No row is empty.
        actual: Counts of the live data in the same bins, shape (pairs, bins). No row is empty.

    Source: Lin (1991); the square root of the divergence in bits, Endres & Schindelin (2003).

    >>> js_distances([[1, 0]], [[0, 1]])
    array([1.])
    """
    one, two = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    p, q = one / one.sum(axis=1, keepdims=True), two / two.sum(axis=1, keepdims=True)
    middle = (p + q) / 2.0
    nats = np.zeros(len(p))
    for share in (p, q):
        there = share > 0
        ratio = np.divide(share, middle, out=np.ones_like(share), where=there)
        nats += (share * np.log(ratio)).sum(axis=1)
    return np.asarray(np.sqrt(np.clip(nats / 2.0 / np.log(2.0), 0.0, 1.0)), np.float64)


def _shares(expected: ArrayLike, actual: ArrayLike) -> tuple[FloatArray, FloatArray]:
    one, two = np.asarray(expected, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    if one.ndim != 1 or one.shape != two.shape:
        raise Misuse(f"PSI: one histogram has {one.size} bins, the other {two.size}. Count both over the same bins.")
    if not (np.isfinite(one).all() and np.isfinite(two).all()) or min(one.min(initial=0), two.min(initial=0)) < 0:
        raise Misuse("PSI: counts must be finite and not negative. Give counts, not differences.")
    if not (one.any() and two.any()):
        raise Misuse("PSI: a histogram has no counts. Wait for data, or widen the window.")
    return one / one.sum(), two / two.sum()
