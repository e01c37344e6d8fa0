import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import Misuse
from trimtab.stats import auc, brier, log_loss, metric_interval, paired_difference
from trimtab.stats.inference.bootstrap import block_draws, percentiles, redrawn, resampled

METRICS = {"auc": auc, "log_loss": log_loss, "brier": brier}


def sample(seed, rows=300, blocks=12, digits=2):
    rng = np.random.default_rng(seed)
    scores = np.round(rng.random(rows), digits)
    labels = rng.random(rows) < scores
    other = np.clip(np.round(scores + rng.normal(0, 0.3, rows), digits), 0, 1)
    return labels, scores, other, rng.integers(0, blocks, rows)


@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(2, 6), st.sampled_from(list(METRICS)))
def test_each_draw_is_the_metric_of_its_rows_taken_together(seed, rows, blocks, metric):
    labels, scores, _, ids = sample(seed, rows, blocks, digits=1)
    ids[:2] = [0, 1]
    place, counts = block_draws(ids, 5, seed)
    for found, count in zip(redrawn(metric, labels, scores, place, counts), counts, strict=True):
        drawn = np.concatenate([np.repeat(np.flatnonzero(place == b), m) for b, m in enumerate(count)])
        expected = METRICS[metric](labels[drawn], scores[drawn])
        assert (np.isnan(found) and expected is None) or found == pytest.approx(expected, rel=1e-12)


@pytest.mark.fast
@pytest.mark.parametrize("metric", list(METRICS))
def test_the_fast_form_gives_the_interval_of_draws_row_by_row(metric):
    labels, scores, other, ids = sample(3)
    place, counts = block_draws(ids, 100, 5)
    draws = []
    for count in counts:
        rows = np.concatenate([np.repeat(np.flatnonzero(place == b), m) for b, m in enumerate(count)])
        draws.append(METRICS[metric](labels[rows], scores[rows]) - METRICS[metric](labels[rows], other[rows]))
    slow = percentiles(np.array(draws), 0.9)
    fast = paired_difference(metric, labels, scores, other, ids, repeats=100, seed=5, level=0.9)
    assert (fast.estimate, fast.low, fast.high) == pytest.approx((slow.estimate, slow.low, slow.high), rel=1e-9)
    assert fast.low < fast.estimate < fast.high


def test_intervals_of_over_dispersed_weeks_hold_the_truth_about_as_often_as_stated():
    rng = np.random.default_rng(11)
    held = 0
    for _ in range(200):
        base = np.clip(0.3 + 0.1 * rng.standard_normal(40), 0.01, 0.99)
        ids = np.repeat(np.arange(40), 50)
        labels = rng.random(2000) < base[ids]
        interval = metric_interval("brier", labels, np.full(2000, 0.3), ids, repeats=200, seed=1, level=0.9)
        held += interval.low <= 0.3 * 0.7 <= interval.high  # E (0.3 - y)^2 at a mean rate of 0.3
    assert 160 <= held <= 195


def test_a_year_of_flights_is_compared_without_a_metric_over_all_rows_for_each_draw():
    labels, scores, other, _ = sample(7, rows=280_000, digits=6)
    weeks = np.sort(np.random.default_rng(0).integers(0, 43, labels.size))
    start = time.perf_counter()
    interval = paired_difference("auc", labels, scores, other, weeks, repeats=1000)
    assert time.perf_counter() - start < 30  # a second on an idle core
    assert interval.estimate == auc(labels, scores) - auc(labels, other)
    assert interval.low > 0.0


def test_the_same_seed_gives_the_same_interval():
    labels, scores, other, ids = sample(2)
    one, two, three = (paired_difference("auc", labels, scores, other, ids, repeats=50, seed=s) for s in (4, 4, 5))
    assert one == two
    assert one != three


def test_a_metric_that_is_undefined_in_most_draws_is_refused():
    with pytest.raises(Misuse, match="rows of both classes"):
        metric_interval("auc", [0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1])
    with pytest.raises(Misuse, match="defined in 0 of 50 draws"):
        percentiles(np.array([0.5, *[np.nan] * 50]), 0.9)
    assert resampled(lambda weights: 1.0 if weights.all() else None, [*range(10)], repeats=50) is None


@pytest.mark.parametrize(("blocks", "words"), [([0, 0, 0, 0], "at least 2 blocks"), ([0, 1], "one block for each row")])
def test_unfit_blocks_are_named(blocks, words):
    with pytest.raises(Misuse, match=words):
        metric_interval("brier", [0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], blocks)
