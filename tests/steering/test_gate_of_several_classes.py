"""The gate and its scales, where an answer is a chance of each class."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from trimtab.core.records import LOSS_CAP
from trimtab.core.time import DAY_US
from trimtab.steering.candidates.comparison_targets import TargetScores
from trimtab.steering.candidates.judging import Case, with_known_labels
from trimtab.steering.candidates.windows import JudgingWindow
from trimtab.steering.definitions import BeatsChampion
from trimtab.steering.gate.checks import rows_not_finite
from trimtab.steering.gate.gate import judge
from trimtab.steering.gate.scales import (
    calibration_gap,
    gap_unit,
    label_unit,
    loss_cap,
    mean_distance,
    refit_distance,
)
from trimtab.steering.gate.window import Window

RNG = np.random.default_rng(2)
TRUTH = RNG.dirichlet((3.0, 2.0, 1.0), 14 * 200)
LABELS = (RNG.random(len(TRUTH))[:, None] > TRUTH.cumsum(axis=1)).sum(axis=1).astype(float)
WINDOW = Window(0, 14 * DAY_US, np.repeat(np.arange(14), 200) * DAY_US, LABELS)
SHARES = np.tile(np.bincount(LABELS.astype(int)) / LABELS.size, (LABELS.size, 1))


def failed(scores: np.ndarray, champion: np.ndarray | None, metric: str = "multi_log_loss") -> list[str]:
    record = judge(
        BeatsChampion(),
        WINDOW,
        gate_id="g",
        model="m",
        metric=metric,
        candidate="c",
        candidate_scores=scores,
        champion=None if champion is None else "b",
        champion_scores=champion,
        judged_at_us=0,
        loads=True,
    )
    return [name for name, held in record.checks.items() if not held]


@pytest.mark.fast
@pytest.mark.parametrize("metric", ["multi_log_loss", "multi_brier", "error_rate"])
def test_chances_that_are_true_beat_the_shares_of_the_classes_and_nothing_beats_itself(metric: str):
    assert failed(TRUTH, SHARES, metric) == []
    assert failed(TRUTH, None, metric) == []
    assert "provably_better" in failed(TRUTH, TRUTH, metric)
    assert "provably_better" in failed(SHARES, TRUTH, metric)


@pytest.mark.fast
@pytest.mark.parametrize("adds", [True, False])
def test_rows_of_a_class_that_the_champion_never_gives_are_left_out_and_proof_is_waived_only_if_it_is_new(
    adds: bool,
) -> None:
    champion = TRUTH * (1.0, 1.0, 0.0)
    champion /= champion.sum(axis=1, keepdims=True)
    rows = np.ones(LABELS.size, bool)
    training_set: Any = SimpleNamespace(target=LABELS)
    window = JudgingWindow(0, 14 * DAY_US, rows, ~rows)
    whole = Case(training_set, window, TargetScores(champion, ""), plan="Judged on all days.")
    case, scores = with_known_labels(whole, TRUTH, lambda: adds)
    known = LABELS != 2
    assert (case.window.rows == known).all()
    np.testing.assert_allclose(scores, champion[known], rtol=1e-12)  # a true version is as good as the champion there
    assert case.answered.scores is not None
    assert (case.answered.scores == champion[known]).all()
    assert case.refreshes == adds
    assert ("no proof" in case.plan) == adds
    assert case.plan.endswith("are left out. Judged on all days.") != adds
    same, all_scores = with_known_labels(
        msgspec.structs.replace(whole, answered=TargetScores(SHARES, "")), TRUTH, lambda: True
    )
    assert not same.refreshes
    assert all_scores is TRUTH


@pytest.mark.fast
def test_a_row_without_finite_scores_is_counted_once():
    scores = np.full((3, 4), 0.25)
    scores[1:] = np.nan
    assert rows_not_finite(scores) == 2


@pytest.mark.fast
def test_one_class_that_is_promised_too_often_fails_the_check_of_calibration():
    moved = TRUTH.copy()
    moved[:, 2] += 0.1
    moved[:, 0] -= 0.1
    moved = np.clip(moved, 0.0, None)
    moved /= moved.sum(axis=1, keepdims=True)
    assert "calibrated" in failed(moved, None)
    gaps = np.abs(moved.mean(axis=0) - np.bincount(LABELS.astype(int)) / LABELS.size)
    assert calibration_gap("multi_log_loss", LABELS, moved) == pytest.approx(gaps.max())
    assert gap_unit("multi_log_loss", LABELS) == label_unit("multi_brier", LABELS) == 1.0


@pytest.mark.fast
def test_the_distance_of_a_refit_is_that_of_the_class_that_moved_most_and_that_of_two_classes_as_ever():
    up, other = np.array([0.2, 0.7]), np.array([0.5, 0.6])
    both = (np.stack([1 - up, up], axis=1), np.stack([1 - other, other], axis=1))
    assert mean_distance(*both) == pytest.approx(mean_distance(up, other))
    assert mean_distance(up, other) == float(np.abs(up - other).mean())  # to the bit
    assert refit_distance("multi_log_loss") == refit_distance("log_loss")


@pytest.mark.fast
def test_more_classes_alone_make_no_refit_further_from_its_candidate():
    noise = RNG.normal(size=(500, 6))
    for classes in (3, 4, 6):
        moved = np.full((500, classes), 1.0 / classes) + 0.05 * np.sign(noise[:, :classes])  # each class by 0.05
        assert mean_distance(np.full((500, classes), 1.0 / classes), moved) == pytest.approx(0.05)


@pytest.mark.fast
def test_a_row_costs_a_day_at_most_three_times_the_mean_or_all_that_it_can():
    assert loss_cap("multi_log_loss", np.array([0.1, 0.2])) == LOSS_CAP
    assert loss_cap("multi_log_loss", np.array([2.0, 2.0])) == 6.0
    assert (loss_cap("multi_brier", np.array([0.1])), loss_cap("error_rate", np.array([0.1]))) == (2.0, 1.0)
