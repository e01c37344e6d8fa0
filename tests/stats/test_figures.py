from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from trimtab.core.errors import Misuse
from trimtab.stats import (
    MetricValue,
    auc,
    class_metrics,
    expected_calibration_error,
    metric_value,
    ranking_metrics,
    score_metrics,
)
from trimtab.stats.inference.bootstrap import resampled
from trimtab.stats.interval import Interval
from trimtab.stats.metrics.metric_value import mean_of

RNG = np.random.default_rng(0)


def by_name(figures: tuple[MetricValue, ...]) -> dict[str, MetricValue]:
    return {figure.name: figure for figure in figures}


def test_figures_of_chances_are_those_of_scikit_learn_inside_their_intervals():
    scores = RNG.random(600)
    labels = (RNG.random(600) < scores).astype(float)
    found = by_name(score_metrics("log_loss", labels, scores, np.arange(600) // 30))
    assert found["log_loss"].value == pytest.approx(metrics.log_loss(labels, scores))
    assert found["brier"].value == pytest.approx(metrics.brier_score_loss(labels, scores))
    assert found["auc"].value == auc(labels, scores)
    assert found["average_precision"].value == pytest.approx(metrics.average_precision_score(labels, scores))
    assert found["calibration_error"].value == pytest.approx(expected_calibration_error(labels, scores))
    for figure in found.values():
        assert figure.interval is not None
        assert figure.value is not None
        if figure.name != "calibration_error":  # biased upward in small samples, so also in its draws
            assert figure.interval.low < figure.value < figure.interval.high


@pytest.mark.parametrize("metric", ["squared_error", "absolute_error", "poisson_deviance", "pinball(0.9)"])
def test_figures_of_numbers_counts_and_quantiles_are_those_of_scikit_learn(metric: str):
    rate = RNG.uniform(1, 9, 400)
    labels = RNG.poisson(rate).astype(float)
    found = by_name(score_metrics(metric, labels, rate, np.arange(400) // 20))
    expected = {
        "mean_absolute_error": metrics.mean_absolute_error(labels, rate),
        "root_mean_squared_error": metrics.root_mean_squared_error(labels, rate),
        "r2": metrics.r2_score(labels, rate),
        "median_absolute_error": metrics.median_absolute_error(labels, rate),
        "bias": float((rate - labels).mean()),
        "poisson_deviance": metrics.mean_poisson_deviance(labels, rate),
        "pinball(0.9)": metrics.mean_pinball_loss(labels, rate, alpha=0.9),
        "coverage": float((labels <= rate).mean()),
    }
    assert next(iter(found)) == metric
    for name, figure in found.items():
        if name in expected:
            assert figure.value == pytest.approx(expected[name]), name
        assert figure.interval is not None
    if metric == "pinball(0.9)":
        assert (found["coverage"].better, found["coverage"].goal) == ("near", 0.9)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.sampled_from([1, 2, 9]))
def test_resampled_figures_are_those_of_scikit_learn_with_weights(seed: int, rows: int, decimals: int):
    rng = np.random.default_rng(seed)
    scores, blocks = rng.random(rows).round(decimals), rng.integers(0, 6, rows)
    labels, order = rng.integers(0, 2, rows).astype(float), np.argsort(scores, kind="stable")

    def interval_of(statistic: Callable[..., float], defined: Callable[[np.ndarray], bool]) -> Interval | None:
        def weighted(weights: np.ndarray) -> float | None:
            if not defined(labels[order][weights > 0]):
                return None
            return float(statistic(labels[order], scores[order], sample_weight=weights))

        return resampled(weighted, blocks[order], repeats=20)

    chances = by_name(score_metrics("log_loss", labels, scores, blocks, repeats=20))
    numbers = by_name(score_metrics("squared_error", labels, scores, blocks, repeats=20))
    for figure, expected in (
        (chances["average_precision"], interval_of(metrics.average_precision_score, np.any)),
        (numbers["root_mean_squared_error"], interval_of(metrics.root_mean_squared_error, lambda _: True)),
        (numbers["r2"], interval_of(metrics.r2_score, np.ptp)),
        (numbers["median_absolute_error"], interval_of(metrics.median_absolute_error, lambda _: True)),
    ):
        assert_near(figure.interval, expected)


def assert_near(found: Interval | None, expected: Interval | None) -> None:
    if found is None or expected is None:
        assert found == expected
        return
    assert [found.low, found.estimate, found.high] == pytest.approx([expected.low, expected.estimate, expected.high])


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    rng, inside = np.random.default_rng(1), 0
    blocks = np.repeat(np.arange(40), 6)
    for seed in range(100):
        errors = np.abs(rng.normal(size=240) + np.repeat(rng.normal(size=40) * 0.5, 6))
        interval = metric_value("error", mean_of(errors), blocks, better="lower", seed=seed).interval
        assert interval is not None
        inside += interval.low <= np.sqrt(2 / np.pi) * np.sqrt(1.25) <= interval.high
    assert 86 <= inside <= 100


@pytest.mark.fast
def test_what_rows_do_not_define_is_none_and_never_a_warning():
    one_class = by_name(score_metrics("log_loss", np.ones(20), np.full(20, 0.5), np.arange(20) // 5))
    assert one_class["auc"].value is None
    assert one_class["average_precision"].value == 1.0
    none = by_name(score_metrics("brier", np.zeros(20), np.full(20, 0.5), np.arange(20) // 5))
    assert none["average_precision"].value is None
    flat = by_name(score_metrics("squared_error", np.ones(20), RNG.random(20), np.arange(20) // 5))
    assert (flat["r2"].value, flat["r2"].interval) == (None, None)
    one_block = score_metrics("squared_error", [1.0], [2.0], [7])
    assert [figure.interval for figure in one_block] == [None] * len(one_block)
    with pytest.raises(Misuse, match="one score for each label"):
        score_metrics("squared_error", [], [], [])
    with pytest.raises(Misuse, match="found 2 labels and scores that are not numbers"):
        score_metrics("squared_error", [1.0, np.nan], [np.inf, 1.0], [0, 1])
    for blocks in ([0], [0, 1, 2]):
        with pytest.raises(Misuse, match=f"needed one block for each row, found {len(blocks)} blocks, 2 rows"):
            score_metrics("squared_error", [1.0, 2.0], [1.0, 1.0], blocks)


def test_class_figures_are_those_of_scikit_learn():
    chances = RNG.dirichlet(np.ones(3), 300)
    labels = [("a", "b", "c")[int(row)] for row in (RNG.random(300)[:, None] > chances.cumsum(axis=1)).sum(axis=1)]
    found = by_name(class_metrics(labels, chances, ["a", "b", "c"], np.arange(300) // 10))
    told = np.array(["a", "b", "c"])[chances.argmax(axis=1)]
    assert found["multi_log_loss"].value == pytest.approx(metrics.log_loss(labels, chances, labels=["a", "b", "c"]))
    assert found["accuracy"].value == pytest.approx(metrics.accuracy_score(labels, told))
    assert found["balanced_accuracy"].value == pytest.approx(metrics.balanced_accuracy_score(labels, told))
    assert found["macro_f1"].value == pytest.approx(metrics.f1_score(labels, told, average="macro"))
    assert found["macro_auc"].value == pytest.approx(metrics.roc_auc_score(labels, chances, multi_class="ovr"))
    for figure in found.values():
        assert figure.interval is not None
        assert figure.interval.low < figure.interval.high


@pytest.mark.fast
def test_unfit_class_chances_are_named():
    with pytest.raises(Misuse, match="1 labels are not known classes"):
        class_metrics(["a", "z"], [[0.5, 0.5]] * 2, ["a", "b"], [0, 1])
    with pytest.raises(Misuse, match=r"row 1 of 2 holds \[0.9, 0.9\]"):
        class_metrics(["a", "b"], [[0.5, 0.5], [0.9, 0.9]], ["a", "b"], [0, 1])
    with pytest.raises(Misuse, match="one block for each row"):
        class_metrics([], np.zeros((0, 3)), ["a", "b", "c"], [])
    one = by_name(class_metrics(["a"] * 4, [[0.5, 0.5]] * 4, ["a", "b"], [0, 0, 1, 1]))
    assert one["macro_auc"].value is None
    assert one["accuracy"].value == 1.0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 5)), min_size=2, max_size=30),
    st.integers(1, 4),
)
def test_ranking_figures_are_means_over_lists_of_what_counting_by_hand_gives(
    rows: list[tuple[int, int, int]], top: int
):
    groups, relevance, scores = (np.array(column, float) for column in zip(*rows, strict=True))
    lists = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    told = [here for here in lists if np.ptp(relevance[here]) > 0]
    if not told:
        with pytest.raises(Misuse, match="all items have the same label"):
            ranking_metrics(relevance, scores, groups, top=top)
        return
    found = by_name(ranking_metrics(relevance, scores, groups, top=top, repeats=20))
    first, recall = [], []
    for here in told:
        ranks = [sum(scores[other] >= scores[item] for other in here) for item in here if relevance[item] > 0]
        first.append(1 / min(ranks))
        recall.append(sum(rank <= top for rank in ranks) / len(ranks))
    assert found["reciprocal_rank"].value == pytest.approx(np.mean(first))
    assert found[f"recall_at_{top}"].value == pytest.approx(np.mean(recall))
    value = found[f"ndcg_at_{top}"].value
    assert value is not None
    assert 0.0 <= value <= 1.0 + 1e-12


@pytest.mark.fast
def test_a_perfect_ranking_is_1_everywhere():
    found = ranking_metrics([2, 1, 0, 1, 0], [9, 5, 1, 4, 2], ["a", "a", "a", "b", "b"], top=2)
    assert [figure.value for figure in found] == [0.0, 1.0, 1.0, 1.0, 1.0]
