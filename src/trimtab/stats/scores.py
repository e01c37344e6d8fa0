"""Metrics of probabilities: log loss, Brier score, AUC, calibration, confusion matrix."""

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.core.errors import Misuse

CLIP = 1e-15  # scores are clipped to at least this distance from 0 and 1, so a row's log loss is at most 34.5 nats
OFF = 1e-5  # probabilities may add up to 1 +- this, because some libraries compute in single precision

FloatArray = NDArray[np.float64]


class CalibrationBin(msgspec.Struct, frozen=True, kw_only=True):
    """The mean score and the share of positive labels of the rows in one bin."""

    low: float
    high: float
    rows: int
    mean_score: float
    label_share: float


class Confusion(msgspec.Struct, frozen=True, kw_only=True):
    """The number of rows by prediction and label, for one threshold. A score that equals the threshold is positive."""

    threshold: float
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int

    @property
    def precision(self) -> float | None:
        """The share of positive predictions that are right; None if no prediction is positive."""
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float | None:
        """The share of positive labels that are predicted as positive; None if no label is positive."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def accuracy(self) -> float | None:
        """The share of predictions that are right; None if there are no rows."""
        right = self.true_positives + self.true_negatives
        return _share(right, right + self.false_positives + self.false_negatives)


def log_loss_rows(labels: ArrayLike, scores: ArrayLike) -> FloatArray:
    """Return the log loss of each row, in nats.

    Args:
        labels: 0 or 1 (or booleans), shape (rows,).
        scores: Probabilities of label 1, shape (rows,). The probability of the true label is clipped to
            [1e-15, 1 - 1e-15].

    Raises:
        Misuse: The lengths differ, or a value is NaN or outside of its range.
    """
    y, p = checked(labels, scores, "log loss")
    losses: FloatArray = -np.log(np.clip(np.where(y, p, 1.0 - p), CLIP, 1.0 - CLIP))
    return losses


def log_loss(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the mean log loss, in nats per row (0 = every label was predicted with certainty).

    >>> round(log_loss([1, 0], [0.5, 0.5]), 4)
    0.6931
    """
    return float(_some(log_loss_rows(labels, scores), "log loss").mean())


def brier(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the Brier score: the mean squared difference between score and label, in [0, 1].

    Source: Brier (1950).
    """
    y, p = checked(labels, scores, "Brier score")
    return float(_some((p - y) ** 2, "Brier score").mean())


def auc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Return the AUC: the probability that a random positive row scores above a random negative row.

    Ties count half. The result is None if only one class occurs.

    Source: Mann & Whitney (1947). The result is exact, because ranks are counted in integers.

    >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8])
    0.875
    """
    y, p = checked(labels, scores, "AUC")
    positives = int(y.sum())
    negatives = y.size - positives
    if positives == 0 or negatives == 0:
        return None
    _, place, counts = np.unique(p, return_inverse=True, return_counts=True)
    per_value = np.bincount(place[y], minlength=counts.size)
    negatives_here = counts - per_value
    below = np.cumsum(negatives_here) - negatives_here
    doubled_wins = int(np.sum(per_value * (2 * below + negatives_here)))
    return doubled_wins / (2 * positives * negatives)


def calibration_curve(labels: ArrayLike, scores: ArrayLike, bins: int = 10) -> list[CalibrationBin]:
    """Return the mean score and the share of positive labels in equally wide bins over [0, 1], except empty bins.

    Args:
        labels: 0 or 1, shape (rows,).
        scores: Probabilities, shape (rows,).
        bins: The number of bins. Each contains its lower edge; the last one also contains its upper edge.
    """
    if bins < 1:
        raise Misuse(f"calibration curve: needs at least 1 bin, found {bins}.")
    y, p = checked(labels, scores, "calibration curve")
    place = np.minimum((p * bins).astype(np.int64), bins - 1)
    rows = np.bincount(place, minlength=bins)
    score_sums = np.bincount(place, weights=p, minlength=bins)
    label_sums = np.bincount(place, weights=y, minlength=bins)
    return [
        CalibrationBin(
            low=i / bins,
            high=(i + 1) / bins,
            rows=int(rows[i]),
            mean_score=float(score_sums[i] / rows[i]),
            label_share=float(label_sums[i] / rows[i]),
        )
        for i in np.flatnonzero(rows).tolist()
    ]


def expected_calibration_error(labels: ArrayLike, scores: ArrayLike, bins: int = 10) -> float:
    """Return the mean distance between predicted and observed shares, weighted by rows, in [0, 1] (0 = calibrated).

    Source: Naeini, Cooper & Hauskrecht (2015). Random variation makes this larger for smaller samples, so only compare
    samples of equal size.
    """
    curve = calibration_curve(labels, scores, bins)
    if not curve:
        raise Misuse("calibration error: needs at least 1 row, found 0. Wait for labels, or widen the window.")
    rows = sum(one.rows for one in curve)
    return sum(one.rows * abs(one.mean_score - one.label_share) for one in curve) / rows


def confusion(labels: ArrayLike, scores: ArrayLike, threshold: float = 0.5) -> Confusion:
    """Predict rows that score at least `threshold` as positive, and count right and wrong predictions."""
    y, p = checked(labels, scores, "confusion")
    called = p >= threshold
    true_positives = int((called & y).sum())
    false_positives = int(called.sum()) - true_positives
    false_negatives = int(y.sum()) - true_positives
    return Confusion(
        threshold=threshold,
        true_positives=true_positives,
        false_positives=false_positives,
        true_negatives=y.size - true_positives - false_positives - false_negatives,
        false_negatives=false_negatives,
    )


def checked(labels: ArrayLike, scores: ArrayLike, what: str) -> tuple[NDArray[np.bool_], FloatArray]:
    """Check labels and scores, and return them as booleans and float64.

    Raises:
        Misuse: The shapes differ, a label is neither 0 nor 1, or a score is NaN or outside of [0, 1].
    """
    y = np.asarray(labels)
    p = np.asarray(scores, dtype=np.float64)
    if y.ndim != 1 or y.shape != p.shape:
        raise Misuse(
            f"{what}: needs one score for each label, in one dimension; found labels {y.shape}, scores {p.shape}."
        )
    if y.dtype != np.bool_:
        bad = np.flatnonzero((y != 0) & (y != 1))
        if bad.size:
            raise Misuse(
                f"{what}: labels must be 0 or 1; row {bad[0]} of {y.size} holds {y[bad[0]]}. Leave unlabelled rows out."
            )
    bad = np.flatnonzero(~((p >= 0.0) & (p <= 1.0)))
    if bad.size:
        raise Misuse(
            f"{what}: scores must be probabilities in [0, 1]; row {bad[0]} of {p.size} holds {p[bad[0]]}. "
            "Give the probability of the positive class."
        )
    return y.astype(np.bool_), p


def checked_probabilities(labels: ArrayLike, scores: ArrayLike, what: str) -> tuple[NDArray[np.int64], FloatArray]:
    """Check class indices and probabilities, and return both as arrays.

    Raises:
        Misuse: The shapes differ, a label is not the index of a class, or a row of probabilities does not add up to 1.
    """
    y, p = np.asarray(labels), np.asarray(scores, np.float64)
    if y.ndim != 1 or p.ndim != 2 or len(p) != y.size or p.shape[1] < 2:
        raise Misuse(f"{what}: needed a row of probabilities for each label, found labels {y.shape}, scores {p.shape}.")
    bad = np.flatnonzero(~np.isin(y, np.arange(p.shape[1])))
    if bad.size:
        raise Misuse(
            f"{what}: labels must be class numbers, 0 to {p.shape[1] - 1}; row {bad[0]} of {y.size} holds "
            f"{y[bad[0]]}. Leave unlabelled rows out."
        )
    bad = np.flatnonzero(~(((p >= 0.0) & (p <= 1.0)).all(axis=1) & (np.abs(p.sum(axis=1) - 1.0) <= OFF)))
    if bad.size:
        raise Misuse(
            f"{what}: row {bad[0]} of {len(p)} holds {p[bad[0]].tolist()}. Give probabilities of at least 0 that add "
            "up to 1."
        )
    return y.astype(np.int64), p


def _some(values: FloatArray, what: str) -> FloatArray:
    if not values.size:
        raise Misuse(f"{what}: needs at least 1 row, found 0. Wait for labels, or widen the window.")
    return values


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
