import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from trimtab.core.errors import Misuse
from trimtab.core.records import LOSS_CAP
from trimtab.stats import LOSSES, loss_kind, pinball, quantile_of, row_losses
from trimtab.stats.metrics.loss_names import CLASS_LOSSES
from trimtab.steering.gate.scales import calibration_gap, gap_unit, loss_cap

SCORES = st.lists(st.tuples(st.integers(0, 50), st.floats(0.001, 50.0)), min_size=1, max_size=30)


@pytest.mark.fast
@given(st.floats(0.0, 1.0, exclude_min=True, exclude_max=True))
def test_a_pinball_loss_travels_as_its_name(quantile: float):
    assert quantile_of(pinball(quantile)) == quantile
    assert loss_kind(pinball(quantile)) == "quantile"


@pytest.mark.fast
@pytest.mark.parametrize("quantile", [0, 1, 1.5, -0.1, float("nan"), True, "0.9", None])
def test_a_quantile_outside_of_0_and_1_is_refused(quantile: object):
    with pytest.raises(Misuse, match="above 0 and below 1"):
        pinball(quantile)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "auc", "pinball", "pinball()", "pinball(1)", "pinball(nan)", "pinball(x)"])
def test_a_metric_that_does_not_exist_is_refused_with_those_that_do(name: str):
    for refuses in (loss_kind, lambda metric: row_losses(metric, [1.0], [1.0])):
        with pytest.raises(Misuse, match="poisson_deviance, pinball"):
            refuses(name)
    assert {loss_kind(loss) for loss in LOSSES} == {"binary", "regression", "count"}
    assert {loss_kind(loss) for loss in CLASS_LOSSES} == {"multiclass"}


@given(SCORES, st.floats(0.05, 0.95))
def test_mean_row_losses_of_counts_and_quantiles_are_scikit_learns_metrics(rows: list[tuple[int, float]], q: float):
    labels, scores = np.array(rows, float).T
    deviance = metrics.mean_poisson_deviance(labels, scores)
    assert row_losses("poisson_deviance", labels, scores).mean() == pytest.approx(deviance, abs=1e-9)
    loss = metrics.mean_pinball_loss(labels, scores, alpha=q)
    assert row_losses(pinball(q), labels, scores).mean() == pytest.approx(loss)


@pytest.mark.fast
def test_a_foretold_count_of_nothing_is_dear_and_finite_and_a_label_below_nothing_is_refused():
    losses = row_losses("poisson_deviance", [0.0, 3.0, 3.0], [0.0, 0.0, -5.0])
    assert losses[0] == pytest.approx(0.0, abs=1e-6)
    assert losses[1] == losses[2] > 50.0
    with pytest.raises(Misuse, match=r"row 1 of 2 holds -1\.0"):
        row_losses("poisson_deviance", [0.0, -1.0], [1.0, 1.0])


def test_a_quantile_is_calibrated_when_its_share_of_labels_lies_below_it():
    labels = np.arange(1000.0)
    assert calibration_gap("pinball(0.9)", labels, np.full(1000, 899.5)) == pytest.approx(0.0)
    assert calibration_gap("squared_error", labels, np.full(1000, 899.5)) == pytest.approx(400.0)
    assert gap_unit("pinball(0.9)", labels) == 1.0
    assert gap_unit("poisson_deviance", labels) == labels.std()


def test_the_best_model_of_an_absolute_error_is_calibrated_although_skewed_labels_have_another_mean():
    labels = np.exp(np.random.default_rng(1).normal(size=4000))
    median, mean = (np.full(4000, one) for one in (1.0, math.exp(0.5)))
    assert row_losses("absolute_error", labels, median).mean() < row_losses("absolute_error", labels, mean).mean()
    assert calibration_gap("absolute_error", labels, median) < 0.03 < calibration_gap("absolute_error", labels, mean)
    assert gap_unit("absolute_error", labels) == 1.0


def test_labels_that_are_equal_to_the_score_count_for_either_side_of_a_quantile():
    labels = np.array([0.0] * 97 + [1.0, 2.0, 3.0])
    assert calibration_gap("pinball(0.9)", labels, np.zeros(100)) == 0.0
    assert calibration_gap("pinball(0.9)", labels, np.full(100, -1.0)) == pytest.approx(0.9)
    assert calibration_gap("pinball(0.9)", labels, np.full(100, 0.5)) == pytest.approx(0.07)


def test_a_day_of_usual_misses_of_a_quantile_or_of_rare_counts_is_not_capped():
    rng = np.random.default_rng(0)
    labels = rng.normal(size=5000)
    losses = row_losses("pinball(0.9)", labels, np.full(5000, 1.2816))
    assert (losses < loss_cap("pinball(0.9)", losses)).mean() > 0.99
    counts = rng.poisson(0.1, 5000).astype(float)
    losses = row_losses("poisson_deviance", counts, np.full(5000, 0.1))
    assert (losses < loss_cap("poisson_deviance", losses)).mean() > 0.98


def test_losses_of_a_rare_class_are_not_cut_off() -> None:
    """With 1 % positives, three times a coin toss would cut off what tells a good model from a bad one."""
    chance = np.random.default_rng(5)
    own, score = chance.random(20_000) < 0.01, np.full(20_000, 0.01)
    losses = np.where(own, -np.log(score), -np.log1p(-score))
    cap = loss_cap("log_loss", losses)
    assert cap > 1.5 * losses.max()
    worse = np.where(own, -np.log(0.003), -np.log1p(-0.003))
    assert np.minimum(worse, cap).mean() > 1.05 * np.minimum(losses, cap).mean()
    half = np.where(chance.random(20_000) < 0.5, 0.4, 1.1)
    assert loss_cap("log_loss", half) == LOSS_CAP
    few = np.concatenate([np.full(1_000, 0.01), np.full(5, 30.0)])  # five absurd rows are no class
    assert loss_cap("log_loss", few) == LOSS_CAP
