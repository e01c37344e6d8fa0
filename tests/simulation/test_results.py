"""The figures of a replay against plain counting."""

from __future__ import annotations

import datetime as dt
import math
from collections import defaultdict

import numpy as np
import pytest

from trimtab.core.time import DAY_US, HOUR_US, parse_time_us
from trimtab.simulation.results import ReplayResult, ScenarioResult, _moving

START_US = parse_time_us("2021-11-20")


def line(name: str, at_us: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> ScenarioResult:
    return ScenarioResult(name=name, at_us=at_us, scores=scores, labels=labels, decisions=[], signals=[])


def result(*lines: ScenarioResult) -> ReplayResult:
    return ReplayResult(
        start_us=START_US,
        until_us=START_US + 90 * DAY_US,
        lines={one.name: one for one in lines},
        entered=0,
        quarantined=0,
        checked_rows=0,
        checked_values=0,
        mismatches=0,
        first_mismatch="",
    )


@pytest.fixture
def year_end() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Moments around the new year, chances, labels with gaps."""
    chance = np.random.default_rng(1)
    at_us = START_US + np.sort(chance.integers(0, 90 * DAY_US // HOUR_US, 900)) * HOUR_US
    scores = chance.uniform(0.05, 0.95, 900)
    labels = np.where(chance.random(900) < 0.1, np.nan, (chance.random(900) < scores).astype(float))
    return at_us, scores, labels


@pytest.mark.fast
def test_months_are_those_of_plain_counting(year_end: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    at_us, scores, labels = year_end
    of_month: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for us, score, y in zip(at_us.tolist(), scores.tolist(), labels.tolist(), strict=True):
        of_month[dt.datetime.fromtimestamp(us / 1e6, dt.UTC).strftime("%Y-%m")].append((score, y))
        of_month["all"].append((score, y))
    rows = line("a", at_us, scores, labels).months()
    assert [row.month for row in rows] == ["2021-11", "2021-12", "2022-01", "2022-02", "all"]
    for row in rows:
        pairs = of_month[row.month]
        known = [(p, y) for p, y in pairs if not math.isnan(y)]
        assert (row.predictions, row.labelled) == (len(pairs), len(known))
        assert row.label_rate == pytest.approx(sum(y for _, y in known) / len(known))
        assert row.mean_score == pytest.approx(sum(p for p, _ in pairs) / len(pairs))
        losses = [-math.log(p if y else 1 - p) for p, y in known]
        assert row.metrics["log_loss"] == pytest.approx(sum(losses) / len(losses))
        wins = [(p > q) + 0.5 * (p == q) for p, y in known if y for q, z in known if not z]
        assert row.metrics["auc"] == pytest.approx(sum(wins) / len(wins))


@pytest.mark.fast
def test_a_month_without_labels_has_no_figures_of_quality(
    year_end: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    at_us, scores, labels = year_end
    labels = np.where(at_us < parse_time_us("2021-12-01"), np.nan, labels)
    first = line("a", at_us, scores, labels).months()[0]
    assert (first.labelled, first.metrics, first.label_rate) == (0, {"log_loss": None, "auc": None}, None)
    assert first.predictions > 0


@pytest.mark.fast
def test_a_better_line_is_better_and_a_line_equals_itself(
    year_end: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    at_us, scores, labels = year_end
    worse = np.clip(scores + np.random.default_rng(2).normal(0, 0.3, len(scores)), 0.01, 0.99)
    both = result(line("a", at_us, scores, labels), line("b", at_us, worse, labels))
    gain = both.compare("a", "b")
    assert gain.metrics["auc"].low > 0 > gain.metrics["log_loss"].high
    back = both.compare("b", "a")
    assert back.metrics["auc"].estimate == pytest.approx(-gain.metrics["auc"].estimate)
    same = both.compare("a", "a")
    assert [(one.low, one.high) for one in same.metrics.values()] == [(0, 0), (0, 0)]
    assert both.compare("a", "b", seed=3) == both.compare("a", "b", seed=3)


def test_days_without_judged_rows_have_no_point(year_end: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    at_us, scores, labels = year_end
    last_us = START_US + 80 * DAY_US
    drawn = _moving(line("mine", at_us, scores, np.where(at_us < last_us, labels, np.nan)))
    assert [value is None for value in drawn.y] == [at >= last_us for at in drawn.x]


def test_the_picture_of_a_replay_has_a_line_for_each_scenario(
    year_end: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    picture = result(line("mine", *year_end), line("never", *year_end)).plot()
    assert 'aria-label="Log loss, mean of 14 days: 2 series (never, mine)' in picture._repr_svg_()
