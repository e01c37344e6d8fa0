import math

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import Misuse
from trimtab.stats import (
    auc,
    brier,
    calibration_curve,
    confusion,
    expected_calibration_error,
    log_loss,
    log_loss_rows,
)

# Few distinct scores, so that ties and the ends of the range are common.
rows = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 8).map(lambda k: k / 8) | st.floats(0, 1)), min_size=1, max_size=40
)


def split(pairs):
    labels, scores = zip(*pairs, strict=True)
    return np.array(labels), np.array(scores)


@given(rows)
def test_auc_is_the_share_of_pairs_in_the_right_order(pairs):
    labels, scores = split(pairs)
    ups, downs = scores[labels == 1], scores[labels == 0]
    if not (ups.size and downs.size):
        assert auc(labels, scores) is None
        return
    wins = sum((u > d) + 0.5 * (u == d) for u in ups for d in downs)
    assert auc(labels, scores) == wins / (ups.size * downs.size)


@given(rows)
def test_log_loss_clips_and_averages_like_the_plain_formula(pairs):
    labels, scores = split(pairs)
    expected = [-math.log(min(max(p if y else 1 - p, 1e-15), 1 - 1e-15)) for y, p in pairs]
    assert log_loss_rows(labels, scores) == pytest.approx(expected, rel=1e-9, abs=2e-15)
    assert log_loss(labels, scores) == pytest.approx(sum(expected) / len(expected), rel=1e-9, abs=2e-15)


@given(rows, st.integers(1, 12))
def test_calibration_bins_hold_every_row_once_and_match_the_plain_sums(pairs, bins):
    labels, scores = split(pairs)
    curve = calibration_curve(labels, scores, bins)
    assert sum(one.rows for one in curve) == len(pairs)
    place = np.minimum((scores * bins).astype(int), bins - 1)
    gap = 0.0
    for one in curve:
        inside = place == round(one.low * bins)
        assert one.mean_score == pytest.approx(scores[inside].mean())
        assert one.label_share == pytest.approx(labels[inside].mean())
        gap += inside.sum() * abs(scores[inside].mean() - labels[inside].mean())
    assert expected_calibration_error(labels, scores, bins) == pytest.approx(gap / len(pairs))


@given(rows, st.floats(0, 1))
def test_confusion_counts_each_row_once(pairs, threshold):
    labels, scores = split(pairs)
    found = confusion(labels, scores, threshold)
    called = scores >= threshold
    assert found.true_positives == sum(called & (labels == 1))
    assert found.false_positives == sum(called & (labels == 0))
    assert found.true_negatives == sum(~called & (labels == 0))
    assert found.false_negatives == sum(~called & (labels == 1))
    assert found.accuracy == pytest.approx(float(np.mean(called == labels)))


@pytest.mark.fast
def test_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(1)
    scores = np.round(rng.random(5000), 2)
    labels = rng.random(5000) < scores
    clipped = np.clip(scores, 1e-15, 1 - 1e-15)
    assert auc(labels, scores) == pytest.approx(reference.roc_auc_score(labels, scores), abs=1e-12)
    assert log_loss(labels, scores) == pytest.approx(reference.log_loss(labels, clipped), abs=1e-12)
    assert brier(labels, scores) == pytest.approx(reference.brier_score_loss(labels, scores), abs=1e-12)
    found = confusion(labels, scores, 0.4)
    assert found.precision == pytest.approx(reference.precision_score(labels, scores >= 0.4))
    assert found.recall == pytest.approx(reference.recall_score(labels, scores >= 0.4))


def test_shares_without_rows_are_none_instead_of_a_number():
    found = confusion([0, 0], [0.1, 0.2], 0.5)
    assert (found.precision, found.recall, found.accuracy) == (None, None, 1.0)


@pytest.mark.parametrize(
    ("labels", "scores", "words"),
    [
        ([0, 1], [0.5], "one score for each label"),
        ([0, 2], [0.5, 0.5], "row 1 of 2 holds 2"),
        ([0.0, float("nan")], [0.5, 0.5], "labels must be 0 or 1"),
        ([0, 1], [0.5, 1.5], "row 1 of 2 holds 1.5"),
        ([0, 1], [float("nan"), 0.5], "row 0 of 2 holds nan"),
        ([], [], "found 0"),
    ],
)
def test_bad_rows_are_named(labels, scores, words):
    with pytest.raises(Misuse, match=words):
        log_loss(labels, scores)
