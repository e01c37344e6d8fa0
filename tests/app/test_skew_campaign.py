"""Zero skew as a hostile tester sees it: whatever was done to a project, every logged prediction is computed again."""

from __future__ import annotations

import random
import shutil
import signal
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
import shop
import skew_campaign as bad

from trimtab.app.project import open_project
from trimtab.core.clock import ShiftedClock
from trimtab.core.time import format_time

AS_OF = format_time(bad.BEGIN_US)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = bad.write_project(tmp_path_factory.mktemp("bad") / "trained")
    with open_project(folder, clock=bad.VirtualClock(bad.BEGIN_US), environment={}) as project:
        bad.load(project)
        assert project.train("good")[-1].act == "promote"
    return folder


def test_nothing_that_is_done_to_a_project_makes_skew(trained: Path) -> None:
    campaign = bad.Campaign(trained, 1)
    report = campaign.run(120)
    assert bad.differing(report) == []
    assert report.rows == campaign.asked > 30
    assert report.models[0].unchecked == {}


@pytest.mark.soak
def test_nothing_that_is_done_to_many_projects_makes_skew(trained_once: Path, tmp_path: Path, soak_report: Any) -> None:
    wrong: list[str] = []
    rows = values = stale = 0
    for seed in range(100, 120):
        campaign = bad.Campaign(Path(shutil.copytree(trained_once, tmp_path / str(seed))), seed)
        report = campaign.run(150)
        wrong += [f"seed {seed}: {what}" for what in bad.differing(report)]
        rows, values, stale = rows + report.rows, values + report.values, stale + report.models[0].stale_rows
        shutil.rmtree(tmp_path / str(seed))
    soak_report("skew_campaign", runs=20, failures=len(wrong), rows=rows, values=values, stale=stale)
    assert wrong == []


def abuse(folder: Path, seed: int, kills: int, seconds: float) -> int:
    """Ask and push over HTTP while the server is killed again and again; how many answers came."""
    draw = random.Random(seed)
    events = bad.Events(draw)
    answers = 0
    for _ in range(kills):
        with shop.serving(folder, "--as-of", AS_OF, stop=signal.SIGKILL) as (process, url):
            end_s = time.monotonic() + seconds * draw.uniform(0.5, 1.5)
            while time.monotonic() < end_s:
                now_us = ShiftedClock(bad.BEGIN_US).now_us()
                try:
                    for _ in range(draw.randint(0, 6)):
                        source, row = events.one(now_us)
                        wait = draw.choice(["", "", "?wait=applied"])
                        status, said = shop.call(f"{url}/v1/events/{source}{wait}", [row])
                        assert status in (200, 422), said  # a profile of nobody is refused
                    body: dict[str, Any] = {"rows": [events.ask(now_us) for _ in range(draw.choice([1, 2]))]}
                    status, said = shop.call(f"{url}/v1/models/good/predict", body)
                    assert status == 200, said
                    answers += len(body["rows"])
                except (OSError, HTTPException):
                    break
            process.kill()
    return answers


@pytest.mark.slow
def test_a_service_that_is_killed_leaves_no_skew(trained: Path) -> None:
    answers = abuse(trained, 1, 2, 1.0)
    with shop.serving(trained, "--as-of", AS_OF) as (_, url):
        assert "trimtab_skew_checked_total 0" in shop.call(f"{url}/metrics")[1]  # the first check comes after a minute
    with open_project(trained, clock=bad.VirtualClock(bad.BEGIN_US + bad.DAY_US), environment={}) as project:
        report = project.skew(sample=None, scores=True)
    assert bad.differing(report) == []
    assert report.rows >= answers > 0


@pytest.mark.soak
def test_a_service_that_is_killed_many_times_leaves_no_skew(trained: Path, soak_report: Any) -> None:
    answers = abuse(trained, 2, 20, 2.0)
    with open_project(trained, clock=bad.VirtualClock(bad.BEGIN_US + bad.DAY_US), environment={}) as project:
        report = project.skew(sample=None, scores=True)
    wrong = bad.differing(report)
    soak_report(
        "skew_killed_service", runs=20, failures=len(wrong), answers=answers, values=report.values,
        stale=report.models[0].stale_rows,
    )  # fmt: skip
    assert wrong == []
    assert report.rows >= answers
