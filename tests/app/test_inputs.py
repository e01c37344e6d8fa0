"""Inputs of a living project: what stands is red in its status, whichever process ticks, and ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import shop

from trimtab.app.project import Project
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US
from trimtab.monitoring.inputs.input_state import InputWatch
from trimtab.monitoring.inputs.monitor import InputMonitor
from trimtab.monitoring.inputs.red_windows import red_windows
from trimtab.monitoring.profiles.profile_store import KIND as PROFILE
from trimtab.monitoring.quality.quality_days import stored_days
from trimtab.monitoring.signals import standing_signals

SITES = ("north", "south")


def ask(project: Project, hours: int, **given: Any) -> None:
    """Ask eight times an hour; a tick six minutes after each."""
    for _ in range(hours):
        now_us = shop.move(project, HOUR_US - 6 * MINUTE_US)
        chance = np.random.default_rng(now_us // HOUR_US)
        rows = [
            shop.visit(f"a{now_us}-{n}", now_us, float(chance.normal()), str(chance.choice(SITES))) for n in range(8)
        ]
        project.predict("buyer", [{**row, **given} for row in rows])
        shop.move(project, 6 * MINUTE_US)
        project.loop("buyer").tick()


def columns(project: Project) -> set[tuple[str, str]]:
    """The red signals of columns that stand."""
    found = standing_signals(project.state.catalog, "buyer")
    return {(one.kind, one.subject) for one in found if one.severity == "red" and one.subject.startswith("column ")}


def test_a_column_that_turned_null_is_red_in_the_status_until_it_is_back(trained: Path) -> None:
    with shop.opened(trained) as project:
        ask(project, 8)
        assert columns(project) == set()
        began_us = project.clock.now_us()
        ask(project, 4, x=None)
        assert columns(project) == {("nulls", "column x")}
        record = project.state.catalog.get("input_watch", "buyer")
        assert record is not None
        now = msgspec.json.decode(record.body, type=InputWatch).columns
        assert 0.2 < now["x"].null_share < 0.4  # the hours at its ends are not closed, or were not watched
        assert now["x"].distance is not None
        (said,) = [line for line in project.status().red if "Column x" in line]
        assert said.startswith("buyer: Column x: 100 % of its values")
        now_us = project.clock.now_us()
    with shop.opened(trained, now_us) as project:  # another process goes on
        ask(project, 1, x=None)
        assert columns(project) == {("nulls", "column x")}
        ask(project, 12)
        assert columns(project) == set()
        assert not [line for line in project.status().red if "Column x" in line]
        (window,) = [one for one in red_windows(project.state.catalog, "buyer") if one.subject == "column x"]
        assert began_us - DAY_US <= window.start_us <= began_us
        assert window.end_us is not None
        assert window.end_us <= project.clock.now_us()
        (told,) = [one for one in project.signals() if one.subject == "column x"]
        assert told.ended_at_us == window.end_us


def test_a_day_that_was_closed_just_before_its_process_ended_is_checked_by_the_next_one(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    def days(project: Project) -> list[int]:
        record = project.state.catalog.get("input_watch", "buyer")
        assert record is not None
        return [day.day_us for day in msgspec.json.decode(record.body, type=InputWatch).days]

    with shop.opened(trained) as project:
        ask(project, 30)
        shop.move(project, 4 * DAY_US)
        project.loop("buyer").tick()
        first = days(project)
        ask(project, 24)
        shop.move(project, 4 * DAY_US)
        with monkeypatch.context() as dying:
            dying.setattr(InputMonitor, "look", die)
            with pytest.raises(KeyboardInterrupt):
                project.loop("buyer").tick()
        now_us = project.clock.now_us()
    with shop.opened(trained, now_us) as project:
        assert days(project) == first
        for _ in range(2):
            project.loop("buyer").tick()
            assert days(project) == [day.day_us for day in stored_days(project.state.catalog, "buyer")]
        assert len(days(project)) > len(first) > 0


def test_a_site_that_training_never_saw_is_red_and_two_processes_that_tick_agree(trained: Path) -> None:
    with shop.opened(trained) as project, shop.opened(trained) as other:
        ask(project, 4)
        for _ in range(5):
            ask(project, 1, site="east")
            shop.move(other, project.clock.now_us() - other.clock.now_us())
            other.loop("buyer").tick()
        assert ("new_values", "column site") in columns(other)
        hours = project.state.catalog.find("input_hour", "buyer/")
        assert len(hours) >= 7
    with shop.opened(trained, project.clock.now_us()) as later:
        later.loop("buyer").tick()
        assert later.state.catalog.find("input_hour", "buyer/")[: len(hours)] == hours


@pytest.mark.fast
def test_a_version_keeps_its_address_and_its_record_when_it_gets_a_profile(trained: Path) -> None:
    with shop.opened(trained) as project:
        version = project.registry.get("buyer@champion")
        record = project.state.catalog.get("version", version.id)
        project.loop("buyer").tick()
        assert project.state.catalog.get(PROFILE, version.id) is not None
        assert project.registry.get("buyer@champion").id == version.id
        assert project.state.catalog.get("version", version.id) == record


def test_a_look_is_as_of_the_time_when_events_were_read(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that took long, as behind a training, takes no feed for one that stopped."""
    with shop.opened(trained) as project:
        ask(project, 1)
        loop = project.loop("buyer")

        def stopped() -> bool:
            loop.tick()
            kinds = {(one.kind, one.subject) for one in standing_signals(project.state.catalog, "buyer")}
            return ("feed_stopped", "source readings") in kinds

        for _ in range(80):
            now_us = shop.move(project, HOUR_US)
            project.push("readings", [{"site": site, "level": 1.0, "read_at": now_us} for site in SITES])
        assert not stopped()
        read = loop.catch_up

        def read_slowly() -> None:
            read()
            shop.move(project, 12 * HOUR_US)

        with monkeypatch.context() as slow:
            slow.setattr(loop, "catch_up", read_slowly)
            assert not stopped()
        assert stopped()
