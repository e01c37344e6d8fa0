"""Exposures with a time of their own: the variant of that time, until their day is closed; and a clock set back."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pytest
from experiment_world import BEGIN_US

from trimtab.app.experiments.closing import close_due
from trimtab.app.project import Project, open_project
from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, HOUR_US, format_time
from trimtab.experiments.days import stored_days

PROJECT = """
import trimtab as tt

orders = tt.source("orders", time="at", columns={"user": str, "amount": float})
user = tt.view("user", source=orders, by="user", features={"last": tt.latest("amount")})
spent = tt.metric("spent", source=orders, by="user", value=tt.sum("amount"), within="7d", role="primary")
tt.experiment("prices", unit="user", variants={"old": 1, "new": 2}, metrics=[spent])
tt.experiment("rich", unit="user", variants={"old": 1, "new": 2}, metrics=[spent], features=[user],
    where=tt.col("user.last") > 10.0)
"""
USERS = [f"u{n}" for n in range(40)]


def opened(folder: Path, at_us: int = BEGIN_US, text: str = PROJECT) -> Project:
    (folder / "trimtab.toml").write_text("")
    (folder / "project.py").write_text(text)
    return open_project(folder, clock=VirtualClock(at_us), environment={})


def to(project: Project, at_us: int) -> None:
    assert isinstance(project.clock, VirtualClock)
    project.clock.advance_to(at_us)


def units(project: Project, name: str = "prices") -> dict[str, dict[str, int]]:
    """By day and variant: the units of closed days with some."""
    close_due(project)
    found = {}
    for day in stored_days(project.state.catalog, name, 1):
        counts = {variant: one.units for variant, one in day.variants.items() if one.units}
        found |= {format_time(day.day_us)[8:10]: counts} if counts else {}
    return found


def test_an_import_counts_for_the_variant_of_its_time_as_long_as_its_day_is_open(tmp_path: Path) -> None:
    with opened(tmp_path) as project:
        project.start_experiment("prices", why="A test.")
        first = {user: project.assign("prices", user).variant for user in USERS}
        to(project, BEGIN_US + DAY_US)
        project.ramp_experiment("prices", weights={"old": 0.1, "new": 0.9}, why="More of the new one.")
        to(project, BEGIN_US + 6 * DAY_US)
        times = [BEGIN_US + HOUR_US + n for n in range(len(USERS))]
        found = project.expose_units("prices", USERS, at=times)
        assert {user: one.variant for user, one in zip(USERS, found, strict=True)} == first
        assert project.expose("prices", "u1", at=BEGIN_US - 1).reason == "not started"
        to(project, BEGIN_US + 8 * DAY_US + 1)  # the first day was closed just now
        late = project.expose("prices", "later", at=format_time(BEGIN_US + 2 * HOUR_US))
        assert (late.reason, late.takes_part) == ("day is closed", False)
        assert project.expose("prices", "later", at=BEGIN_US + DAY_US + HOUR_US).reason == "assigned"
        to(project, BEGIN_US + 10 * DAY_US)
        counts = {name: [*first.values()].count(name) for name in ("old", "new")}
        found_days = units(project)
        assert found_days["01"] == counts
        assert sum(found_days["02"].values()) == 1


def test_features_of_an_import_are_those_of_its_time(tmp_path: Path) -> None:
    with opened(tmp_path) as project:
        project.start_experiment("rich", why="A test.")
        for n, amount in enumerate((20.0, 5.0)):
            to(project, BEGIN_US + (2 * n + 1) * HOUR_US)
            project.push("orders", [{"at": project.clock.now_us(), "user": "u1", "amount": amount}])
        to(project, BEGIN_US + 2 * DAY_US)
        reasons = [project.expose("rich", "u1", at=BEGIN_US + hours * HOUR_US).reason for hours in (0, 2, 4)]
        assert reasons == ["feature missing", "assigned", "not eligible"]
        assert project.assign("rich", "u1").reason == "not eligible"


def test_impossible_times_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as project:
        project.start_experiment("prices", why="A test.")
        with pytest.raises(Misuse, match="lies in the future"):
            project.expose("prices", "u1", at=BEGIN_US + 2 * HOUR_US)
        with pytest.raises(Misuse, match="2 times for 1 units"):
            project.expose_units("prices", ["u1"], at=[BEGIN_US, BEGIN_US])
        for wrong in (1.5, b"x", {0: BEGIN_US}, [None]):
            with pytest.raises(Misuse, match="time"):
                project.expose("prices", "u1", at=wrong)  # type: ignore[arg-type]  # wrong on purpose
        for wrong in (BEGIN_US // 10**6, BEGIN_US // 10**3, -1, [BEGIN_US // 10**6]):
            with pytest.raises(Misuse, match="Are these seconds or milliseconds"):
                project.expose("prices", "u1", at=wrong)  # type: ignore[arg-type]  # wrong on purpose
        with pytest.raises(Misuse, match="time: None"):
            project.expose("prices", "u1", at=np.datetime64("NaT"))
        for units in ("abc", b"abc", {"user": "x"}):
            with pytest.raises(Misuse, match="is one unit"):
                project.expose_units("prices", units)  # type: ignore[arg-type]  # wrong on purpose
        assert project.state.exposures.positions() == {}
        given = np.array([BEGIN_US, BEGIN_US])
        assert len(project.expose_units("prices", (user for user in USERS[:2]), at=given)) == 2  # type: ignore[arg-type]
        assert project.expose("prices", "u1", at=dt.date(2024, 3, 1)).reason == "assigned"  # type: ignore[arg-type]
        times = np.array([BEGIN_US, BEGIN_US]).astype("datetime64[us]").astype("datetime64[ns]")
        assert [one.reason for one in project.expose_units("prices", USERS[:2], at=times)] == ["assigned"] * 2


def test_exposures_after_the_clock_was_set_back_count_and_are_reported(tmp_path: Path) -> None:
    with opened(tmp_path) as project:
        project.start_experiment("prices", why="A test.")
    with opened(tmp_path, BEGIN_US + 3 * DAY_US) as project:  # ahead by three days
        project.expose("prices", "ahead")
    with opened(tmp_path, BEGIN_US + HOUR_US) as project:
        project.expose_units("prices", USERS)
        assert "which is later than now: the clock was set back" in project.experiment("prices").note
        to(project, BEGIN_US + 12 * DAY_US)
        found = units(project)
        assert sum(found["01"].values()) == len(USERS)
        assert sum(found["04"].values()) == 1


def test_an_experiment_that_was_started_under_a_clock_ahead_says_so(tmp_path: Path) -> None:
    with opened(tmp_path, BEGIN_US + 3 * DAY_US) as project:
        project.start_experiment("prices", why="A test.")
    with opened(tmp_path) as project:
        assert "started by a process whose clock was ahead" in project.experiment("prices").note


def test_exposures_on_days_that_a_clock_ahead_has_closed_say_so(tmp_path: Path) -> None:
    with opened(tmp_path) as project:
        project.start_experiment("prices", why="A test.")
    with opened(tmp_path, BEGIN_US + 20 * DAY_US) as project:
        project.expose("prices", "ahead")
        assert len(close_due(project)) == 13  # a day is closed seven days after its end
    with opened(tmp_path, BEGIN_US + 2 * DAY_US) as project:
        found = project.expose_units("prices", USERS)
        assert {(one.reason, one.takes_part) for one in found} == {("day is closed", False)}
        assert project.assign("prices", "u1").reason == "day is closed"
        assert {one.variant for one in found} == {"old", "new"}
        note = project.experiment("prices").note
        assert "days before 2024-03-14 were closed by a process whose clock was ahead" in note
        assert "which is later than now: the clock was set back" in note
        to(project, BEGIN_US + 12 * DAY_US + HOUR_US)  # still closed
        assert project.expose("prices", "u1").reason == "day is closed"
        to(project, BEGIN_US + 13 * DAY_US + HOUR_US)
        assert project.expose("prices", "u1").reason == "assigned"
        to(project, BEGIN_US + 40 * DAY_US)
        assert {day: sum(counts.values()) for day, counts in units(project).items()} == {"14": 1, "21": 1}


def test_after_the_declared_duration_units_keep_their_variant_and_do_not_count(
    tmp_path: Path,
) -> None:
    with opened(tmp_path, text=PROJECT.replace("metrics=[spent])", 'metrics=[spent], duration="2d")', 1)) as project:
        project.start_experiment("prices", why="A test.")
        end_us = BEGIN_US + 2 * DAY_US
        to(project, end_us - 1)
        last = project.expose("prices", "u0")
        assert (last.takes_part, last.reason) == (True, "assigned")
        to(project, end_us)
        for one in (project.assign("prices", "u0"), project.expose("prices", "u1"), project.expose("prices", "u0")):
            assert (one.takes_part, one.reason) == (False, "planned end")
        assert project.assign("prices", "u0").variant == last.variant
        to(project, end_us + HOUR_US)
        found = project.expose_units("prices", ["u2", "u3"], at=[end_us - HOUR_US, end_us])
        assert [one.reason for one in found] == ["assigned", "planned end"]
        to(project, BEGIN_US + 20 * DAY_US)
        assert sum(map(sum, (of.values() for of in units(project).values()))) == 2
        project.conclude_experiment("prices", "new", why="It is better.")
        assert project.assign("prices", "u0").reason == "concluded"


def test_an_exposure_that_is_logged_with_a_time_after_its_day_is_closed_says_so(tmp_path: Path) -> None:
    with opened(tmp_path) as project:
        project.start_experiment("prices", why="A test.")
    with opened(tmp_path, BEGIN_US + 20 * DAY_US) as project:  # ahead, but it closes no day
        project.expose("prices", "ahead")
    with opened(tmp_path, BEGIN_US + 2 * DAY_US) as project:
        assert project.expose("prices", "u1").reason == "day is closed"
        to(project, BEGIN_US + 15 * DAY_US)
        assert project.expose("prices", "u1").reason == "assigned"
        to(project, BEGIN_US + 40 * DAY_US)
        assert {day: sum(counts.values()) for day, counts in units(project).items()} == {"16": 1, "21": 1}


@pytest.mark.parametrize(("first", "now", "reason"), [("3d", "0s", "day is closed"), ("0s", "3d", "assigned")])
def test_imports_go_by_the_delay_that_is_declared_now(first: str, now: str, reason: str, tmp_path: Path) -> None:
    def text(delay: str) -> str:
        return PROJECT.replace('"amount": float}', f'"amount": float}}, delay="{delay}"').replace('"7d"', '"1d"')

    with opened(tmp_path, text=text(first)) as project:
        project.start_experiment("prices", why="A test.")
    with opened(tmp_path, BEGIN_US + 3 * DAY_US, text(now)) as project:
        found = project.expose_units("prices", USERS, at=BEGIN_US + 2 * HOUR_US)
        assert {one.reason for one in found} == {reason}
        to(project, BEGIN_US + 12 * DAY_US)
        assert sum(sum(counts.values()) for counts in units(project).values()) == len(USERS) * (reason == "assigned")


def test_an_import_says_what_was_in_force_in_a_pause_and_after_an_earlier_start(tmp_path: Path) -> None:
    with opened(tmp_path) as project:
        to(project, BEGIN_US + HOUR_US)
        project.start_experiment("prices", why="A test.")
        first = [project.assign("prices", user).variant for user in USERS]
        assert {*first} == {"old", "new"}
        for hours, change in ((3, project.pause_experiment), (5, project.resume_experiment),
                              (8, project.stop_experiment), (9, project.start_experiment)):  # fmt: skip
            to(project, BEGIN_US + hours * HOUR_US)
            change("prices", why="A test.")
        to(project, BEGIN_US + 10 * HOUR_US)
        second = [project.assign("prices", user).variant for user in USERS]
        assert second != first

        def said(hours: float) -> tuple[set[str], list[str]]:
            found = project.expose_units("prices", USERS, at=BEGIN_US + round(hours * HOUR_US))
            return {one.reason for one in found}, [one.variant for one in found]

        olds = ["old"] * len(USERS)
        assert said(0.5) == ({"not started"}, olds)
        assert said(2) == ({"day is closed"}, first)
        assert said(4) == ({"paused"}, olds)
        assert said(6) == ({"day is closed"}, first)
        assert said(8.5) == ({"stopped"}, olds)
        assert project.state.exposures.positions() == {}
        assert said(9.5) == ({"assigned"}, second)
        mixed = project.expose_units("prices", ["u1", "u1"], at=[BEGIN_US + 19 * HOUR_US // 2, BEGIN_US + 4 * HOUR_US])
        assert [one.reason for one in mixed] == ["assigned", "paused"]
        project.pause_experiment("prices", why="A test.")
        project.conclude_experiment("prices", "new", why="A test.")
        assert project.assign("prices", "u1").reason == "concluded"
