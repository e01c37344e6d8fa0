"""Reports of experiments over versions: late labels fake nothing, and missing labels are shown and allowed for."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from test_experiment_predictions import Shop

from trimtab.app.experiments.report import experiment_report
from trimtab.app.replay.past_units import past_units
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.experiments.definitions import Metric
from trimtab.experiments.reading.plan import plan_experiment
from trimtab.experiments.reading.planted_runs import planted_runs
from trimtab.experiments.reading.results import Reading

SOLD = Metric(name="sold", kind="mean", prediction="label", within_us=DAY_US, role="primary")
LOSS = Metric(name="loss", kind="mean", prediction="loss", within_us=DAY_US, better="lower")
A_DAY, DAYS = 60, 14


def filled(folder: Path, *, later_us: int = 0, lost: float = 0.0, look: bool = False) -> tuple[Shop, list[Reading]]:
    """Users whose labels come after an hour. Those of "new" come later, or a share of them never comes.

    The truth is the same for both versions: 40 % buy.
    """
    rng, shop, readings = np.random.default_rng(1), Shop(folder, metrics=(SOLD, LOSS), wait="3d"), []
    pending: list[tuple[int, str, float]] = []
    shop.clock.advance_to(shop.state.started_at_us)
    for day in range(DAYS + 4):
        start_us = shop.state.started_at_us + day * DAY_US
        for number in range(A_DAY if day < DAYS else 0):
            shop.clock.advance_to(start_us + (number + 1) * 10**7)
            user, is_new = f"u{day}x{number}", shop.variant(f"u{day}x{number}") == "new"
            key = shop.answer(user, score=0.7 if is_new else 0.4)
            if not (is_new and rng.random() < lost):
                at_us = shop.clock.now_us() + HOUR_US + later_us * is_new
                pending.append((at_us, key, float(rng.random() < 0.4)))
        pending.sort()
        while pending and pending[0][0] < start_us + DAY_US:
            at_us, key, bought = pending.pop(0)
            shop.clock.advance_to(max(at_us, shop.clock.now_us()))
            shop.label(key, bought)
        shop.clock.advance_to(start_us + DAY_US)
        if look:
            readings.append(experiment_report(shop.project, "versions"))
    shop.clock.advance_to(shop.clock.now_us() + 3 * DAY_US)
    return shop, [*readings, experiment_report(shop.project, "versions")]


def test_labels_that_come_two_days_later_in_one_variant_fake_no_effect(tmp_path: Path) -> None:
    shop, readings = filled(tmp_path / "p", later_us=2 * DAY_US, look=True)
    with shop.project:
        assert {one.verdict for reading in readings for one in reading.metrics if one.metric == "sold"} == {"open"}
        last = readings[-1]
        assert last.days >= DAYS
        assert [(one.labelled, one.missing) for one in last.completeness if one.missing] == []
        assert not any(one.differs for one in last.completeness)
        assert all(len(one.looks) == reading.days for reading in readings for one in reading.metrics)
        loss = next(one for one in last.metrics if one.metric == "loss")
        assert loss.verdict == "worse"  # a score of .7 where 40 % buy


def test_labels_that_are_missing_in_one_variant_are_shown_and_widen_the_interval(tmp_path: Path) -> None:
    shop, (reading,) = filled(tmp_path / "p", lost=0.3)
    with shop.project:
        new = next(one for one in reading.completeness if one.variant == "new")
        assert new.differs
        assert new.share == pytest.approx(0.7, abs=0.06)
        sold = next(one for one in reading.metrics if one.metric == "sold")
        assert sold.now is not None
        assert sold.bounded is not None
        assert sold.bounded[0] < sold.now.low < sold.now.high < sold.bounded[1]
        loss = next(one for one in reading.metrics if one.metric == "loss")
        assert loss.bounded is None


def test_plans_and_simulations_read_logged_predictions(tmp_path: Path) -> None:
    shop, _ = filled(tmp_path / "p")
    with shop.project:
        past = past_units(shop.project, shop.definition)
        assert past.origin == "predictions of one"
        assert len(past.rows) == A_DAY * DAYS
        assert past.days == DAYS
        assert past.values["sold"].y.mean() == pytest.approx(0.4, abs=0.05)
        plan = plan_experiment(shop.definition, past, effects=[0.5])
        assert plan.units_a_day == pytest.approx(A_DAY)
        fixed = msgspec.structs.replace(shop.definition, rule="fixed")
        found = planted_runs(fixed, past, effect=0.5, runs=10)
        assert found.acts.get("stop", 0) == 0
        assert found.right >= 6


def test_answers_of_the_champion_after_the_end_count_for_no_variant(tmp_path: Path) -> None:
    """While it runs, the new version answers with a score of .9; after the end, the champion with .4."""
    score = Metric(name="score", kind="mean", prediction="score", within_us=2 * DAY_US, role="primary")
    shop, users = Shop(tmp_path / "p", metrics=(score,), wait="3d"), list[str]()
    with shop.project as project:
        for day in range(8):
            shop.clock.advance_to(shop.state.started_at_us + day * DAY_US + HOUR_US)
            if day == 6:
                project.stop_experiment("versions", why="It costs too much.")
            users += [f"u{day}x{number}" for number in range(20 if day < 6 else 0)]
            for user in users:
                shop.answer(user, score=0.9 if day < 6 and shop.variant(user) == "new" else 0.4)
        shop.clock.advance_to(shop.clock.now_us() + 9 * DAY_US)
        reading = experiment_report(project, "versions")
    (metric,) = reading.metrics
    assert metric.looks[-1].variant == pytest.approx(0.9)
    assert [look.variant for look in metric.by_age.values()] == pytest.approx([0.9, 0.9])
    assert sum(metric.looks[-1].units) == 80  # of four of the six days
    assert reading.notes[0].startswith("40 units that were first exposed from")
