"""Losses and figures of a chance of each class, against scikit-learn and naive counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from trimtab.core.errors import Misuse
from trimtab.stats import brier, row_losses, score_metrics
from trimtab.stats.metrics.loss_names import CLASS_LOSSES
from trimtab.stats.metrics.multiclass import confusion_table, macro_auc, metrics_by_class, top_class

# weights of few values, so that many chances tie
ROWS = st.lists(st.tuples(st.integers(0, 2), st.tuples(*[st.integers(1, 4)] * 3)), min_size=1, max_size=30)


def of(rows: list[tuple[int, tuple[int, ...]]]) -> tuple[np.ndarray, np.ndarray]:
    labels, weights = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], float)
    return labels, weights / weights.sum(axis=1, keepdims=True)


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_mean_losses_of_several_classes_are_scikit_learns(rows: list[tuple[int, tuple[int, ...]]]):
    labels, chances = of(rows)
    found = {name: row_losses(name, labels, chances).mean() for name in CLASS_LOSSES}
    assert found["multi_log_loss"] == pytest.approx(metrics.log_loss(labels, chances, labels=[0, 1, 2]))
    assert found["error_rate"] == pytest.approx(1 - metrics.accuracy_score(labels, chances.argmax(axis=1)))
    assert found["multi_brier"] == pytest.approx(np.sum((chances - np.eye(3)[labels]) ** 2, axis=1).mean())


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_counts_and_areas_are_the_naive_ones(rows: list[tuple[int, tuple[int, ...]]]):
    labels, chances = of(rows)
    told = chances.argmax(axis=1)
    assert (
        confusion_table(labels, chances).tolist() == metrics.confusion_matrix(labels, told, labels=[0, 1, 2]).tolist()
    )
    areas = [
        metrics.roc_auc_score(labels == one, chances[:, one])
        for one in range(3)
        if 0 < (labels == one).sum() < labels.size
    ]
    assert macro_auc(labels, chances) == (pytest.approx(np.mean(areas)) if areas else None)
    figures = {one.name: one.value for one in score_metrics("multi_brier", labels, chances, np.zeros(labels.size))}
    assert figures["macro_auc"] == (pytest.approx(np.mean(areas)) if areas else None)
    top, hits = top_class(labels, chances)
    assert figures["bias"] == pytest.approx(np.mean(top - hits))
    by_class = metrics_by_class("abc", labels, chances, np.zeros(labels.size), repeats=10, seed=0)
    for place, one in enumerate(by_class):
        assert (one.rows, one.answered) == (int((labels == place).sum()), int((told == place).sum()))
        assert one.recall == (pytest.approx((told[labels == place] == place).mean()) if one.rows else None)
        assert one.precision == (pytest.approx((labels[told == place] == place).mean()) if one.answered else None)


@pytest.mark.fast
def test_two_classes_cost_twice_the_brier_score():
    labels, up = np.array([0, 1, 1]), np.array([0.2, 0.7, 0.4])
    both = np.stack([1 - up, up], axis=1)
    assert row_losses("multi_brier", labels, both).mean() == pytest.approx(2 * brier(labels, up))
    assert row_losses("multi_log_loss", labels, both).tolist() == pytest.approx(
        row_losses("log_loss", labels, up).tolist()
    )


@pytest.mark.fast
@pytest.mark.parametrize(
    ("labels", "chances", "message"),
    [
        ([0, 3], [[0.2, 0.3, 0.5]] * 2, "row 1 of 2 holds 3"),
        ([0.0, np.nan], [[0.2, 0.3, 0.5]] * 2, "row 1 of 2 holds nan"),
        ([0, 1], [0.2, 0.3], "needed a row of probabilities"),
        ([0], [[0.2, 0.3, 0.6]], "add up to 1"),
        ([0], [[np.nan, 0.3, 0.6]], "add up to 1"),
    ],
)
def test_unfit_chances_are_named(labels: list[float], chances: list[object], message: str):
    for name in CLASS_LOSSES:
        with pytest.raises(Misuse, match=message):
            row_losses(name, labels, chances)  # type: ignore[arg-type]


def test_macro_f1_of_a_draw_leaves_out_a_class_that_the_draw_lacks():
    labels, chances = [0, 1, 0, 1, 2, 2], np.eye(3)[[0, 1, 0, 1, 2, 2]]
    found = {one.name: one for one in score_metrics("multi_log_loss", labels, chances, [0, 0, 1, 1, 2, 2])}
    assert found["macro_f1"].interval is not None
    assert (found["macro_f1"].interval.low, found["macro_f1"].value) == (1.0, 1.0)
