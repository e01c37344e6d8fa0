"""Positive labels stop while a job writes negative ones: nothing is learnt from rows whose positive label was lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shop

from trimtab.app.data.recent_events import RecentEvents
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.features.labels import outcome_column
from trimtab.monitoring.inputs.red_windows import left_out, red_windows
from trimtab.monitoring.signals import standing_signals
from trimtab.training.data.sets import load_manifest

SITES = ("north", "south")
SUBJECT = "source sales, positive labels"
STOP_H, FOUND_H, BACK_H, END_H = 24 * 8, 24 * 11 + 6, 24 * 11 + 12, 24 * 27


@pytest.mark.slow
@pytest.mark.parametrize("comes_late", [False, True])
def test_rows_whose_positive_label_was_lost_are_in_no_training_set(trained: Path, comes_late: bool) -> None:
    """Who buys does so within a day; a job at 03:00 writes who did not."""
    rng = np.random.default_rng(5)
    asked: dict[str, tuple[int, int]] = {}  # by key: when it was asked, and the hour of the sale or -1
    known: set[str] = set()
    lost: dict[str, int] = {}
    begin_h = shop.NOW_US // HOUR_US

    def sold(key: str, bought: bool, at_us: int) -> dict[str, Any]:
        return {"visit_id": key, "site": "north", "bought": bought, "closed_at": at_us}

    with shop.opened(trained) as project:
        model, worst = project.definitions.models["buyer"], 0
        for hour in range(END_H):
            now_us = shop.move(project, HOUR_US)
            rows = [shop.visit(f"a{hour}-{n}", now_us, float(rng.normal()), SITES[n % 2]) for n in range(6)]
            project.predict("buyer", rows)
            if hour % 3 == 0:
                read = [{"site": site, "level": float(rng.normal()), "read_at": now_us} for site in SITES]
                project.push("readings", read)
            for row in rows:
                buys = rng.random() < 1 / (1 + np.exp(-2 * row["x"]))
                asked[row["visit_id"]] = now_us, hour + int(rng.integers(1, 24)) if buys else -1
            due = [key for key, (_, of) in asked.items() if of == hour]
            if STOP_H <= hour < BACK_H:
                lost |= {key: asked[key][0] for key in due}
                due = []
            due += list(lost) if comes_late and hour == BACK_H else []
            pushed = [sold(key, True, now_us) for key in due]
            if (begin_h + hour) % 24 == 3:
                old = [key for key, (at_us, _) in asked.items() if at_us <= now_us - 24 * HOUR_US and key not in known]
                pushed += [sold(key, False, now_us) for key in old]
            known |= {row["visit_id"] for row in pushed}
            if pushed:
                project.push("sales", pushed)
            acts = project.loop("buyer").tick()
            assert "failed" not in str(acts), acts
            left = left_out(project.state.catalog, model, now_us)
            final = [at_us for at_us in lost.values() if at_us < model.label.closed_until(now_us)]
            if hour >= FOUND_H and (not comes_late or hour < BACK_H):
                worst = max(worst, sum(not any(one.covers(at_us) for one in left) for at_us in final))
            stand = standing_signals(project.state.catalog, "buyer")
            red = [one.subject for one in stand if one.kind == "feed_stopped"]
            assert SUBJECT not in red or STOP_H < hour <= BACK_H
            if hour == FOUND_H:
                assert SUBJECT in red
                assert any("no positive label for" in line for line in project.status().red)
        assert len(lost) > 50
        assert worst == 0
        frame = RecentEvents(project).frame("sales")  # what a later process reads
        assert frame.columns[outcome_column(model.label)].present().all()
        windows = [one for one in red_windows(project.state.catalog, "buyer") if one.subject == SUBJECT]
        assert bool(windows) == (not comes_late)
        project.train("buyer")
        manifest = load_manifest(project.registry.versions("buyer")[-1].training_set, project.state.blob)
        whys = [one for one in manifest.left_out or () if SUBJECT in one.why]
        assert bool(whys) == (not comes_late)
        if not comes_late:
            assert all(any(one.covers(at_us) for one in whys) for at_us in lost.values())
            assert manifest.cut_us > max(lost.values()) + 2 * DAY_US
