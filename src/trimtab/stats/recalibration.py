"""Recalibration: correct scores, without changing their order, so that predicted and observed rates agree."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from trimtab.core.errors import Misuse

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

RecalibrationKind = Literal["platt", "isotonic", "beta"]
LEAST_ROWS = 50
_EDGE = 1e-15  # scores are moved to at least this distance from 0 and 1
_STEEPEST = 35.0  # corrected log odds are clipped to the range from -35 to 35


# The three corrections. An exported model contains the source of these functions, so they use nothing but NumPy and the
# two limits above.


def map_log_odds(scores: Any, rise: float, fall: float, offset: float) -> Any:
    """Return scores that are corrected with the parameters of a `LogOdds`."""
    import numpy as np

    p = np.clip(scores, _EDGE, 1.0 - _EDGE)
    odds = rise * np.log(p) - fall * np.log1p(-p) + offset
    return 1.0 / (1.0 + np.exp(-np.clip(odds, -_STEEPEST, _STEEPEST)))


def map_steps(scores: Any, at: Any, to: Any) -> Any:
    """Return scores that are corrected with the points of a `Steps`."""
    import numpy as np

    return np.interp(scores, at, to)


def map_class_odds(scores: Any, rise: float, offsets: Any) -> Any:
    """Return probabilities that are corrected with the parameters of a `ClassOdds`, shape (rows, classes)."""
    import numpy as np

    logs = rise * np.log(np.clip(scores, _EDGE, 1.0)) + offsets
    powers = np.exp(np.maximum(logs - logs.max(axis=1, keepdims=True), -_STEEPEST))
    total = powers[:, 0].copy()
    # added class by class, because NumPy's sum could give other last bits for one row than for many
    for place in range(1, powers.shape[1]):
        total += powers[:, place]
    return powers / total[:, None]


class LogOdds(msgspec.Struct, frozen=True, kw_only=True, tag="log_odds"):
    """Platt scaling or beta calibration: log odds = rise * log(p) - fall * log(1 - p) + offset. Platt: rise = fall."""

    kind: Literal["platt", "beta"]
    rise: float
    fall: float
    offset: float

    def mapping(self) -> Callable[[NDArray[Any]], NDArray[Any]]:
        """Return a function that corrects an array of scores."""
        return lambda scores: map_log_odds(scores, self.rise, self.fall, self.offset)

    def row_mapping(self) -> Callable[[float], float]:
        """Return a function that corrects a single score without arrays, with the same result bit for bit."""
        import numpy as np

        rise, fall, offset = self.rise, self.fall, self.offset

        def corrected(score: float) -> float:
            p = min(max(score, _EDGE), 1.0 - _EDGE)
            odds = rise * float(np.log(p)) - fall * float(np.log1p(-p)) + offset
            return 1.0 / (1.0 + float(np.exp(-min(max(odds, -_STEEPEST), _STEEPEST))))

        return corrected


class Steps(msgspec.Struct, frozen=True, kw_only=True, tag="steps"):
    """Isotonic regression: linear between its points, and constant beyond them."""

    scores: tuple[float, ...]  # in ascending order
    chances: tuple[float, ...]  # the corrected probability of each of these scores

    @property
    def kind(self) -> Literal["isotonic"]:
        return "isotonic"

    def mapping(self) -> Callable[[NDArray[Any]], NDArray[Any]]:
        """Return a function that corrects an array of scores."""
        import numpy as np

        at, to = np.array(self.scores), np.array(self.chances)
        return lambda scores: map_steps(scores, at, to)

    def row_mapping(self) -> Callable[[float], float]:
        """Return a function that corrects a single score, with the same result bit for bit."""
        import numpy as np

        at, to = np.array(self.scores), np.array(self.chances)
        return lambda score: float(np.interp(score, at, to))


class ClassOdds(msgspec.Struct, frozen=True, kw_only=True, tag="class_odds"):
    """Platt scaling for several classes: exp(rise * log(p) + offset), scaled to a sum of 1.  # D76"""

    rise: float
    offsets: tuple[float, ...]  # one offset for each class

    @property
    def kind(self) -> Literal["platt"]:
        return "platt"

    def mapping(self) -> Callable[[NDArray[Any]], NDArray[Any]]:
        """Return a function that corrects an array of probabilities, shape (rows, classes)."""
        import numpy as np

        offsets = np.array(self.offsets)
        return lambda scores: map_class_odds(scores, self.rise, offsets)

    def row_mapping(self) -> Callable[[list[float]], list[float]]:
        """Return a function that corrects the probabilities of a single row, with the same result bit for bit."""
        import numpy as np

        mapping = self.mapping()

        def corrected(scores: list[float]) -> list[float]:
            found: list[float] = mapping(np.array([scores]))[0].tolist()
            return found

        return corrected


Recalibration = LogOdds | Steps | ClassOdds


def fit_recalibration(kind: RecalibrationKind, labels: ArrayLike, scores: ArrayLike) -> Recalibration:
    """Fit a correction of scores to observed labels. The model must not have been fitted on these rows.

    No correction reverses the order of scores: if `rise` or `fall` would be negative, it is set to 0. If both are 0,
    every score becomes the same probability, because the scores do not predict these labels. With several classes,
    another class of a row may become the likeliest one.

    Args:
        kind: "platt" has two parameters and needs a few hundred rows. "beta" has three, so it can correct scores near 0
            and near 1 differently. "isotonic" can take any increasing shape and needs some thousands of rows.
        labels: 0 or 1, shape (rows,). For several classes they are class indices.
        scores: Probabilities, shape (rows,). For several classes the shape is (rows, classes), and only "platt" is
            possible.

    Raises:
        Misuse: There are fewer than 50 rows or only one class, labels or scores are not valid, or the kind is not
            possible for several classes.

    Source: Platt (1999), with its softened labels; Kull, Silva Filho & Flach (2017); Zadrozny & Elkan (2002).

    >>> import numpy as np
    >>> certain = np.where(np.arange(400) % 4 < 2, 0.999, 0.001)  # certain, but only right half of the time
    >>> truth = np.arange(400) % 8 < 4
    >>> [round(float(p), 2) for p in fit_recalibration("platt", truth, certain).mapping()(np.array([0.001, 0.999]))]
    [0.5, 0.5]
    """
    import numpy as np

    from trimtab.stats.scores import checked

    if np.ndim(scores) == 2:
        return _class_odds(kind, labels, scores)
    y, p = checked(labels, scores, f"{kind} calibration")
    if y.size < LEAST_ROWS or y.all() or not y.any():
        raise Misuse(
            f"{kind} calibration: needs at least {LEAST_ROWS} rows with labels of both classes, found {y.size} rows, "
            f"{int(y.sum())} of them positive. Widen the window, or leave calibration out."
        )
    if kind == "isotonic":
        return _isotonic(y, p)
    p = np.clip(p, _EDGE, 1.0 - _EDGE)
    logs = np.column_stack([np.log(p), -np.log1p(-p)])
    if kind == "platt":
        rise, offset = _logistic(y, logs.sum(axis=1, keepdims=True))
        return LogOdds(kind="platt", rise=rise[0], fall=rise[0], offset=offset)
    weights, offset = _logistic(y, logs)
    return LogOdds(kind="beta", rise=weights[0], fall=weights[1], offset=offset)


def shift_level(scores: NDArray[Any], mean: float) -> NDArray[Any]:
    """Shift all scores by the same log odds, so that their mean is `mean` (above 0 and below 1), and return them.

    >>> import numpy as np
    >>> [round(float(p), 3) for p in shift_level(np.array([0.2, 0.5]), 0.5)]
    [0.333, 0.667]
    """
    import numpy as np

    p = np.clip(scores, _EDGE, 1.0 - _EDGE)
    odds = np.log(p) - np.log1p(-p)

    def moved(by: float) -> NDArray[Any]:
        out: NDArray[Any] = 1.0 / (1.0 + np.exp(-np.clip(odds + by, -_STEEPEST, _STEEPEST)))
        return out

    low, high = -2.0 * _STEEPEST, 2.0 * _STEEPEST
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if moved(middle).mean() < mean else (low, middle)
    return moved(high)


def shift_levels(chances: NDArray[Any], means: ArrayLike) -> NDArray[Any]:
    """Return class probabilities whose means over all rows are `means` (above 0, with the sum 1).

    Each class has a factor. The probabilities of a row are multiplied by the factors, and scaled to a sum of 1.
    Iterative scaling finds the factors.

    >>> import numpy as np
    >>> shift_levels(np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]), [0.2, 0.3, 0.5]).mean(axis=0).round(3).tolist()
    [0.2, 0.3, 0.5]
    """
    import numpy as np

    wanted = np.asarray(means, np.float64)
    p = np.clip(chances, _EDGE, 1.0)
    factors = np.ones(p.shape[1])
    moved: NDArray[Any] = p
    for _ in range(200):
        moved = p * factors
        moved /= moved.sum(axis=1, keepdims=True)
        now = moved.mean(axis=0)
        if np.abs(now - wanted).max() < 1e-9:
            break
        factors *= wanted / now
    return moved


def _class_odds(kind: RecalibrationKind, labels: ArrayLike, scores: ArrayLike) -> ClassOdds:
    """Fit `rise`, and one offset for each class, by maximum likelihood.

    Labels are softened: the true class gets a little less than 1, and the other classes a little more than 0.
    """
    import numpy as np
    from scipy.optimize import minimize

    from trimtab.stats.scores import checked_probabilities

    if kind != "platt":
        raise Misuse(f'{kind} calibration: found several classes, for which there is only "platt".')
    y, p = checked_probabilities(labels, scores, f"{kind} calibration")
    rows, width = p.shape
    counts = np.bincount(y, minlength=width)
    if rows < LEAST_ROWS or (counts > 0).sum() < 2:
        raise Misuse(
            f"{kind} calibration: needs at least {LEAST_ROWS} rows with labels of two classes or more, found {rows} "
            f"rows of {int((counts > 0).sum())} classes. Widen the window, or leave calibration out."
        )
    logs = np.log(np.clip(p, _EDGE, 1.0))
    soft = 1.0 / (counts[y] + width)
    truth = np.repeat(soft[:, None], width, axis=1)
    truth[np.arange(rows), y] = 1.0 - (width - 1) * soft
    log_sums = (truth * logs).sum()
    shares = truth.sum(axis=0)

    def loss(given: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        raw = given[0] * logs + given[1:]
        most = raw.max(axis=1, keepdims=True)
        powers = np.exp(raw - most)
        total = powers.sum(axis=1, keepdims=True)
        value = float((most + np.log(total)).sum()) - given[0] * log_sums - float(shares @ given[1:])
        chances = powers / total
        slope = np.concatenate([[(chances * logs).sum() - log_sums], chances.sum(axis=0) - shares])
        return value / rows, slope / rows

    start = np.concatenate([[1.0], np.zeros(width)])
    # a negative `rise` would reverse the order of the scores
    bounds = [(0.0, None), *[(None, None)] * width]
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500, "ftol": 1e-14, "gtol": 1e-9}
    ).x
    offsets = found[1:] - found[1:].mean()
    return ClassOdds(rise=float(found[0]), offsets=tuple(offsets.tolist()))


def _isotonic(y: NDArray[Any], p: NDArray[Any]) -> Steps:
    """Fit isotonic regression (pool adjacent violators).

    Corrected probabilities are never 0 or 1: they stay between 1 / (rows + 2) and 1 - 1 / (rows + 2).
    """
    from sklearn.isotonic import IsotonicRegression

    edge = 1.0 / (y.size + 2.0)
    fitted = IsotonicRegression(y_min=edge, y_max=1.0 - edge, out_of_bounds="clip").fit(p, y)
    return Steps(scores=tuple(fitted.X_thresholds_.tolist()), chances=tuple(fitted.y_thresholds_.tolist()))


def _logistic(y: NDArray[Any], columns: NDArray[Any]) -> tuple[list[float], float]:
    """Fit a logistic regression, and return its weights and the offset.

    If weights are negative, the column with the smallest one gets the weight 0, and the other columns are fitted again
    without it. Labels are softened as if there were one more row of each class, so that no weight becomes infinite.
    """
    import numpy as np
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    ups = int(y.sum())
    soft = np.where(y, (ups + 1.0) / (ups + 2.0), 1.0 / (y.size - ups + 2.0))
    used = [number for number in range(columns.shape[1]) if np.ptp(columns[:, number]) > 0.0]
    while used:
        spread = columns[:, used].std(axis=0)
        inputs = columns[:, used] / spread
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the fit need not converge to the last bits
            fitted = LogisticRegression(C=1e6, tol=1e-8, max_iter=500).fit(
                np.vstack([inputs, inputs]),
                np.repeat([True, False], y.size),
                sample_weight=np.concatenate([soft, 1.0 - soft]),
            )
        found = (fitted.coef_[0] / spread).tolist()
        if min(found) >= 0.0:
            weights = [0.0] * columns.shape[1]
            for number, weight in zip(used, found, strict=True):
                weights[number] = weight
            return weights, float(fitted.intercept_[0])
        used.pop(found.index(min(found)))
    share = float(soft.mean())
    return [0.0] * columns.shape[1], float(np.log(share / (1.0 - share)))
