"""Confidence intervals of measures of how well one number predicts another, computed without resampling."""

import math
from collections.abc import Callable
from statistics import NormalDist

from trimtab.core.errors import Misuse
from trimtab.stats.interval import Interval

_LEVEL = 0.95  # the confidence level: the share of such intervals that contain the true value
_HALVINGS = 60  # the number of bisection steps in the search for a bound
_Z = NormalDist().inv_cdf(0.5 + _LEVEL / 2)


def auc_interval(value: float, positives: int, negatives: int) -> Interval:
    """Return the confidence interval of an area under the ROC curve (AUC). The rows must be independent.

    The interval stays inside [0, 1]. It has some width even if the observed area is 1, because a few perfectly
    separated rows prove little.

    Args:
        value: The observed area, in [0, 1].
        positives: The number of rows of one class, at least 1.
        negatives: The number of rows of the other class, at least 1.

    Raises:
        Misuse: A class has no rows, or the area is outside [0, 1].

    Source: Hanley & McNeil (1982); Newcombe (2006), part 2, method 5.

    >>> round(auc_interval(1.0, 10, 10).low, 2)
    0.8
    """
    if positives < 1 or negatives < 1 or not 0.0 <= value <= 1.0:
        raise Misuse(
            f"AUC interval: needs an area in [0, 1] and rows of both classes; found the area {value} with {positives} "
            f"and {negatives} rows."
        )

    def beyond(area: float) -> bool:
        return (value - area) ** 2 > _Z**2 * _auc_variance(area, positives, negatives)

    return Interval(estimate=value, low=_edge(beyond, value, 0.0), high=_edge(beyond, value, 1.0), level=_LEVEL)


def r_squared_interval(value: float, rows: int) -> Interval:
    """Return the confidence interval of a squared correlation. The rows must be independent.

    Args:
        value: The observed squared correlation, in [0, 1].
        rows: The number of rows, at least 4.

    Raises:
        Misuse: There are fewer than 4 rows, or the value is outside [0, 1].

    Source: Fisher (1921), the z transform.

    >>> interval = r_squared_interval(0.81, 50)
    >>> round(interval.low, 2), round(interval.high, 2)
    (0.69, 0.89)
    """
    if rows < 4 or not 0.0 <= value <= 1.0:
        raise Misuse(f"R2 interval: needs a value in [0, 1] and at least 4 rows; found {value} and {rows} rows.")
    centre = math.atanh(min(math.sqrt(value), 1.0 - 1e-12))
    reach = _Z / math.sqrt(rows - 3)
    low = max(0.0, math.tanh(centre - reach)) ** 2
    return Interval(estimate=value, low=min(low, value), high=max(math.tanh(centre + reach) ** 2, value), level=_LEVEL)


def share_interval(hits: int, rows: int) -> Interval:
    """Return the confidence interval of a share. The rows must be independent.

    Raises:
        Misuse: There are no rows, `hits` is negative, or there are more hits than rows.

    Source: Wilson (1927).

    >>> round(share_interval(10, 10).low, 2)
    0.72
    """
    if not 0 <= hits <= rows or not rows:
        raise Misuse(f"share: {hits} of {rows} rows. Needed: at least one row, and no more hits than rows.")
    z, share = _Z, hits / rows
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    reach = z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    low, high = max(0.0, centre - reach), min(1.0, centre + reach)
    return Interval(estimate=share, low=min(low, share), high=max(high, share), level=_LEVEL)


def _auc_variance(area: float, positives: int, negatives: int) -> float:
    more = (positives + negatives) / 2 - 1
    spread = 1 + more * (1 - area) / (2 - area) + more * area / (1 + area)
    return area * (1 - area) * spread / (positives * negatives)


def _edge(beyond: Callable[[float], bool], inside: float, outside: float) -> float:
    """Return where an interval ends between `inside` and `outside`. If `outside` is in the interval, return `outside`.

    `beyond` returns whether a point is outside of the interval.
    """
    if not beyond(outside):
        return outside
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if beyond(middle) else (middle, outside)
    return inside
