"""Distances of two histograms over the same bins: how far live data stand from their reference."""

import numpy as np
from numpy.typing import ArrayLike

from trimtab.core.errors import Misuse
from trimtab.stats.scores import FloatArray


def psi(expected: ArrayLike, actual: ArrayLike, *, floor: float = 1e-4) -> float:
    """Population stability index of two histograms, in nats (0 = same shape).

    Args:
        expected: Reference counts, shape (bins,).
        actual: Live counts over the same bins, shape (bins,).
        floor: Smallest share given to a bin; keeps empty bins finite.

    Raises:
        Misuse: The bins differ, or a histogram is empty.

    Source: Kullback & Leibler (1951), the divergence J.

    >>> round(psi([50, 50], [90, 10]), 3)
    0.879
    """
    p, q = (np.maximum(share, floor) for share in _shares(expected, actual, "PSI"))
    return float(np.sum((q - p) * np.log(q / p)))


def js_distance(expected: ArrayLike, actual: ArrayLike) -> float:
    """Jensen-Shannon distance, in [0, 1] (0 = same shape, 1 = no bin in common): a metric, finite without a floor.

    Raises:
        Misuse: The bins differ, or a histogram is empty.

    Source: Lin (1991); the square root of the divergence in bits, Endres & Schindelin (2003).

    >>> js_distance([1, 0], [0, 1])
    1.0
    """
    p, q = _shares(expected, actual, "Jensen-Shannon")
    middle = (p + q) / 2.0
    nats = sum(float(np.sum(share[share > 0] * np.log(share[share > 0] / middle[share > 0]))) for share in (p, q))
    return float(np.sqrt(min(1.0, max(0.0, nats / 2.0 / np.log(2.0)))))


def ks_distance(expected: ArrayLike, actual: ArrayLike) -> float:
    """Largest distance of the two cumulative shares at a bin's edge, in [0, 1]; the bins must be in order.

    Raises:
        Misuse: The bins differ, or a histogram is empty.

    Source: Smirnov (1939). Within bins nothing is seen, so it is at most the distance of the samples themselves.

    >>> ks_distance([50, 50], [90, 10])
    0.4
    """
    p, q = _shares(expected, actual, "KS")
    return float(np.max(np.abs(np.cumsum(p) - np.cumsum(q))))


def _shares(expected: ArrayLike, actual: ArrayLike, what: str) -> tuple[FloatArray, FloatArray]:
    one, two = np.asarray(expected, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    if one.ndim != 1 or one.shape != two.shape:
        raise Misuse(f"{what}: {one.size} bins against {two.size}. Count both over the same bins.")
    if not (np.isfinite(one).all() and np.isfinite(two).all()) or min(one.min(initial=0), two.min(initial=0)) < 0:
        raise Misuse(f"{what}: counts must be finite and not negative. Give counts, not differences.")
    if not (one.any() and two.any()):
        raise Misuse(f"{what}: a histogram has no counts. Wait for data, or widen the window.")
    return one / one.sum(), two / two.sum()
