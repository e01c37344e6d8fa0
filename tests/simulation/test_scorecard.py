"""Scorecards of lines against plain counting: days above the optimum, bad requests, alarms true and false."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.records import Decision, Signal
from trimtab.core.time import DAY_US, HOUR_US, parse_time_us
from trimtab.simulation import Shift, fault
from trimtab.simulation.results import ReplayResult, ScenarioResult
from trimtab.simulation.scorecard import scorecards
from trimtab.testing.builders import a_signal

START_US = parse_time_us("2024-03-04")
DAYS = 12


def line(name: str, scores: np.ndarray, labels: np.ndarray, at_us: np.ndarray, **more: Any) -> ScenarioResult:
    given: dict[str, Any] = {"decisions": [], "signals": [], **more}
    return ScenarioResult(name=name, at_us=at_us, scores=scores, labels=labels, **given)


def result(lines: list[ScenarioResult], **more: Any) -> ReplayResult:
    return ReplayResult(
        start_us=START_US,
        until_us=START_US + DAYS * DAY_US,
        lines={one.name: one for one in lines},
        entered=0,
        quarantined=0,
        checked_rows=0,
        checked_values=0,
        mismatches=0,
        first_mismatch="",
        **more,
    )


def rows(seed: int, count: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    at_us = START_US + np.sort(rng.integers(0, DAYS * 24, count)) * HOUR_US
    best = rng.uniform(0.1, 0.9, count)
    open_yet = at_us >= START_US + (DAYS - 3) * DAY_US  # the newest days have no label
    labels = np.where((rng.random(count) < 0.1) | open_yet, np.nan, (rng.random(count) < best).astype(float))
    return at_us, best, labels


def loss(score: float, label: float) -> float:
    return -math.log(score if label else 1 - score)


@pytest.mark.fast
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_days_and_requests_above_the_optimum_are_those_of_plain_counting(seed: int) -> None:
    at_us, best, labels = rows(seed)
    rng = np.random.default_rng(seed + 1)
    scores = np.clip(best + rng.normal(0, 0.15, len(best)) * (at_us > START_US + 5 * DAY_US), 0.02, 0.98)
    versions = np.array([f"v{int(n)}" for n in (at_us - START_US) // (4 * DAY_US)], object)
    card = scorecards(
        result([line("a", scores, labels, at_us, versions=versions)], optimum=line("optimum", best, labels, at_us))
    )[0]
    told = [
        (int((at - START_US) // DAY_US), loss(p, y), loss(q, y))
        for at, p, q, y in zip(at_us.tolist(), scores, best, labels, strict=True)
        if not math.isnan(y)
    ]
    above = bad = 0
    for day in range(int((at_us[0] - START_US) // DAY_US), int((at_us[-1] - START_US) // DAY_US) + 1):
        part = [(mine, theirs) for when, mine, theirs in told if day - 2 <= when <= day]
        judged = any(when == day for when, *_ in told)
        if judged and sum(p for p, _ in part) > 1.1 * sum(q for _, q in part):
            above += 1
            bad += int(((at_us - START_US) // DAY_US == day).sum())
    assert card.days_above == above
    assert card.bad_requests == bad
    assert card.value == pytest.approx(sum(p for _, p, _ in told) / len(told))
    assert card.best == pytest.approx(sum(q for _, _, q in told) / len(told))
    assert card.above == pytest.approx(sum(p - q for _, p, q in told))
    assert sum(day.predictions for day in card.days) == len(at_us)
    assert sum(day.judged for day in card.days) == len(told)


@pytest.mark.fast
def test_without_an_optimum_lines_are_held_against_the_best_of_them() -> None:
    at_us, best, labels = rows(3)
    worse = np.clip(1 - best, 0.1, 0.9)
    cards = scorecards(result([line("bad", worse, labels, at_us), line("good", best, labels, at_us)]))
    assert [card.reference for card in cards] == ["good", "good"]
    assert cards[0].days_above > 0
    assert cards[1].days_above == 0
    assert cards[1].above == 0.0
    assert [(card.changes_known, card.false_alarms) for card in cards] == [(False, None)] * 2


def signal(day: float, onset: float, severity: Any = "red") -> Signal:
    at_us = START_US + round(day * DAY_US)
    return a_signal(
        at_us,
        id=f"{day}",
        kind="quality_loss",
        onset_us=START_US + round(onset * DAY_US),
        severity=severity,
        evidence={},
        message="",
    )


@pytest.mark.fast
def test_alarms_are_true_where_something_was_put_in_before_them() -> None:
    at_us, best, labels = rows(4)
    signals = [signal(1, 0), signal(6, 4.5), signal(8, 3, "info")]
    refused = Decision(
        sequence=1, at_us=START_US + DAY_US, model="m", act="refuse", actor="policy", cause="No better.", evidence={},
        version=None, replaced=None, data_hash=None, previous_hash="", hash="",
    )  # fmt: skip
    mine = line("a", best, labels, at_us, signals=signals, decisions=[refused])
    shift = Shift(kind="concept", day=4, over_us=0, size=1.0, column=None)
    card = scorecards(result([mine], optimum=line("optimum", best, labels, at_us), shifts=[shift]))[0]
    assert (card.true_alarms, card.false_alarms) == (1, 1)
    assert [one.explained_by for one in card.alarms] == [None, "concept shift"]
    assert card.alarms[1].delay_us == 2 * DAY_US
    assert card.alarms[1].onset_off_us == DAY_US // 2
    assert [one.why for one in card.refusals] == ["No better."]
    long_after = [signal(70, 3.5), signal(70, 66)]  # the first of them says that it began with the shift
    later = line("a", best, labels, at_us, signals=long_after)
    card = scorecards(result([later], optimum=line("optimum", best, labels, at_us), shifts=[shift]))[0]
    assert [one.explained_by for one in card.alarms] == ["concept shift", None]
    flip = fault("label_flip", START_US + 5 * DAY_US, START_US + 6 * DAY_US)
    card = scorecards(result([mine], faults=[flip]))[0]
    assert [one.explained_by for one in card.alarms] == [None, "label_flip"]
    quiet = scorecards(result([mine], optimum=line("optimum", best, labels, at_us)))[0]
    assert (quiet.true_alarms, quiet.false_alarms) == (0, 2)  # nothing was put in, and that is known
