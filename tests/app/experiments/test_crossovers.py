"""Units that were exposed to two variants are counted, and count for their first one or not at all, as declared."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from experiment_world import BEGIN_US

from trimtab.app.experiments.closing import close_due
from trimtab.app.project import Project, open_project
from trimtab.core.clock import VirtualClock
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.experiments.days import stored_days
from trimtab.experiments.records import ExperimentDay

PROJECT = """
import trimtab as tt

orders = tt.source("orders", time="at", columns={"user": str, "amount": float})
tt.experiment("prices", unit="user", variants={"old": 1, "new": 2}, overrides={OVERRIDES}, crossovers="RULE",
    metrics=[tt.metric("spent", source=orders, by="user", value=tt.sum("amount"), within="2d", role="primary")])
"""


def opened(folder: Path, rule: str, at_us: int, overrides: str = "") -> Project:
    (folder / "trimtab.toml").write_text("")
    (folder / "project.py").write_text(PROJECT.replace("RULE", rule).replace("OVERRIDES", overrides))
    return open_project(folder, clock=VirtualClock(at_us), environment={})


def meet(project: Project, at_us: int, users: list[str]) -> dict[str, str]:
    assert isinstance(project.clock, VirtualClock)
    project.clock.advance_to(at_us)
    return {user: one.variant for user, one in zip(users, project.expose_units("prices", users), strict=True)}


def days_of(folder: Path, rule: str) -> tuple[list[ExperimentDay], dict[str, str], set[str], set[str], list[str]]:
    """An experiment whose weights change within its first day, and whose last user becomes a tester on the second."""
    users = [f"u{n}" for n in range(60)]
    with opened(folder, rule, BEGIN_US) as project:
        project.start_experiment("prices", why="A test.")
        first = meet(project, BEGIN_US + HOUR_US, users)
        changed = {"old": 0.1, "new": 0.9}
        project.ramp_experiment("prices", weights=changed, why="More of the new one.")
        same_day = meet(project, BEGIN_US + 2 * HOUR_US, users[:30])
        moved = {user for user, variant in same_day.items() if first[user] != variant}
    tester = next(user for user in reversed(users) if first[user] == "old")
    with opened(folder, rule, BEGIN_US + DAY_US, f'"{tester}": "new"') as project:
        later = meet(project, BEGIN_US + DAY_US, users[30:])
        late = {user for user, variant in later.items() if first[user] != variant}
        assert tester in late
        meet(project, BEGIN_US + 9 * DAY_US, users)
        close_due(project)
        found = stored_days(project.state.catalog, "prices", 1)
        notes = project.experiment_report("prices").notes
    return found, first, moved, late, notes


@pytest.mark.parametrize("rule", ["first", "exclude"])
def test_units_of_two_variants_are_counted_and_count_by_rule(rule: str, tmp_path: Path) -> None:
    days, first, moved, late, notes = days_of(tmp_path, rule)
    tester = next(user for user in reversed(list(first)) if first[user] == "old")
    assert len(moved) > 5
    assert len(late) > 5
    left_out = moved | late if rule == "exclude" else {tester}  # who is a tester now does not count in any case
    for name in ("old", "new"):
        wanted = [user for user, variant in first.items() if variant == name and user not in left_out]
        assert days[0].variants[name].units == len(wanted)
        assert sum(one.variants[name].units for one in days[1:]) == 0
    assert [one.crossed for one in days[:3]] == [len(moved), len(late), 0]
    said = "count for their first one" if rule == "first" else "do not count if their day was not closed yet"
    # also on the day that is left out
    both = f"{len(moved) + len(late)} units were exposed to another variant than their first"
    assert any(both in note and said in note for note in notes)


@pytest.mark.parametrize("rule", ["first", "exclude"])
def test_a_unit_that_met_two_variants_is_counted_once(rule: str, tmp_path: Path) -> None:
    users = [f"u{n}" for n in range(100)]
    with opened(tmp_path, rule, BEGIN_US) as project:
        project.start_experiment("prices", why="A test.")
        first = meet(project, BEGIN_US + HOUR_US, users)
        meet(project, BEGIN_US + DAY_US, users)  # on this day they first meet the same variant again
        project.ramp_experiment("prices", weights={"old": 0.1, "new": 0.9}, why="More of the new one.")
        then = {}
        for day in (1, 2, 3):
            then = meet(project, BEGIN_US + day * DAY_US + HOUR_US, users)
        moved = sum(then[user] != variant for user, variant in first.items())
        assert moved > 20
        meet(project, BEGIN_US + 9 * DAY_US, ["other"])
        close_due(project)
        assert [one.crossed for one in stored_days(project.state.catalog, "prices", 1)][:4] == [0, moved, 0, 0]
        assert project.experiment_report("prices").crossed == moved


def test_an_imbalance_that_the_rule_makes_itself_is_said(tmp_path: Path) -> None:
    with opened(tmp_path, "exclude", BEGIN_US) as project:
        project.start_experiment("prices", why="A test.")
        users = [f"u{n}" for n in range(600)]
        first = meet(project, BEGIN_US + HOUR_US, users)
        meet(project, BEGIN_US + DAY_US, users[:1])
        project.ramp_experiment("prices", weights={"old": 0.1, "new": 0.9}, why="More of the new one.")
        then = meet(project, BEGIN_US + DAY_US + HOUR_US, users)
        left = sum(then[user] != variant for user, variant in first.items())
        meet(project, BEGIN_US + 9 * DAY_US, ["other"])
        text = project.experiment_report("prices").decision.text
    assert text.startswith("blocked: units are split old")
    cause = f"it leaves out units that were exposed to two variants ({left} of old, 0 of"
    assert f'The cause is crossovers="exclude": {cause}' in text
    assert "No declared slice" not in text


WHERE = """
import trimtab as tt

orders = tt.source("orders", time="at", columns={"user": str, "amount": float})
buyer = tt.view("buyer", source=orders, by="user", features={"orders": tt.count(over="9d")})
tt.experiment("prices", unit="user", variants={"old": 1, "new": 2}, crossovers="RULE", features=[buyer],
    attributes={"country": str}, where=(tt.col("buyer.orders") < 1) & (tt.col("country") == "DE"),
    metrics=[tt.metric("spent", source=orders, by="user", value=tt.sum("amount"), within="2d", role="primary")])
"""


@pytest.mark.parametrize("rule", ["first", "exclude"])
def test_units_that_fall_back_to_the_control_met_another_variant(rule: str, tmp_path: Path) -> None:
    users = [f"u{n}" for n in range(60)]

    def meets(at_us: int, some: list[str], country: str = "DE") -> dict[str, str]:
        clock = project.clock
        assert isinstance(clock, VirtualClock)
        clock.advance_to(at_us)
        found = project.expose_units("prices", [{"user": one, "country": country} for one in some])
        return {user: one.variant for user, one in zip(some, found, strict=True)}

    (tmp_path / "trimtab.toml").write_text("")
    (tmp_path / "project.py").write_text(WHERE.replace("RULE", rule))
    with open_project(tmp_path, clock=VirtualClock(BEGIN_US), environment={}) as project:
        project.start_experiment("prices", why="A test.")
        meets(BEGIN_US + HOUR_US, ["never", *users[50:]], "FR")  # before they are eligible: no crossover
        first = meets(BEGIN_US + 2 * HOUR_US, users)
        now_us = project.clock.now_us()
        project.push("orders", [{"user": user, "at": now_us, "amount": 1.0} for user in users[:20]])
        assert {*meets(BEGIN_US + 3 * HOUR_US, users[:10]).values()} == {"old"}  # on the day of their first exposure
        assert {*meets(BEGIN_US + DAY_US, users[:20]).values()} == {"old"}  # ten of them again
        assert {*meets(BEGIN_US + DAY_US + HOUR_US, users[20:30], "FR").values()} == {"old"}  # another attribute
        meets(BEGIN_US + 9 * DAY_US, ["other"])
        close_due(project)
        reading = project.experiment_report("prices")
        days = stored_days(project.state.catalog, "prices", 1)
    fell = [user for user in users[:30] if first[user] == "new"]
    assert len(fell) > 8
    at_once = sum(user in users[:10] for user in fell)
    assert [one.crossed for one in days[:3]] == [at_once, len(fell) - at_once, 0]
    assert reading.crossed == len(fell)
    assert any("or they no longer fulfilled where= and got the control" in note for note in reading.notes)
    wanted = [*first.values()].count("new") - (len(fell) if rule == "exclude" else 0)
    assert days[0].variants["new"].units == wanted
    assert days[0].variants["old"].units == [*first.values()].count("old")
    assert reading.not_eligible == {}  # no feature was missing


@pytest.mark.parametrize("rule", ["first", "exclude"])
def test_units_that_come_back_in_a_pause_met_another_variant(rule: str, tmp_path: Path) -> None:
    users = [f"u{n}" for n in range(60)]
    with opened(tmp_path, rule, BEGIN_US) as project:
        project.start_experiment("prices", why="A test.")
        first = meet(project, BEGIN_US + HOUR_US, users)
        project.pause_experiment("prices", why="A test.")
        assert {*meet(project, BEGIN_US + 2 * HOUR_US, users[:10]).values()} == {"old"}
        assert {*meet(project, BEGIN_US + DAY_US, [*users[:20], "never"]).values()} == {"old"}  # ten of them again
        meet(project, BEGIN_US + 3 * DAY_US, [])
        project.resume_experiment("prices", why="A test.")
        assert meet(project, BEGIN_US + 3 * DAY_US + HOUR_US, users[20:]) == {user: first[user] for user in users[20:]}
        meet(project, BEGIN_US + 9 * DAY_US, ["other"])
        close_due(project)
        days, reading = stored_days(project.state.catalog, "prices", 1), project.experiment_report("prices")
    back = [user for user in users[:20] if first[user] == "new"]
    at_once = sum(user in users[:10] for user in back)
    assert 0 < at_once < len(back)
    assert [one.crossed for one in days[:4]] == [at_once, len(back) - at_once, 0, 0]
    assert any("or the experiment was paused): " in one for one in reading.notes)
    wanted = [*first.values()].count("new") - (len(back) if rule == "exclude" else 0)
    assert days[0].variants["new"].units == wanted
    assert not any("weights changed on" in one for one in reading.notes)
    assert reading.excluded[str(datetime.fromtimestamp((BEGIN_US + 2 * DAY_US) / 1e6, UTC).date())] == (
        "the experiment was paused on this day"
    )


@pytest.mark.parametrize("rule", ["first", "exclude"])
def test_units_that_come_back_after_the_share_was_lowered_met_another_variant(rule: str, tmp_path: Path) -> None:
    users = [f"u{n}" for n in range(200)]
    with opened(tmp_path, rule, BEGIN_US) as project:
        project.start_experiment("prices", why="A test.")
        first = meet(project, BEGIN_US + HOUR_US, users)
        project.ramp_experiment("prices", share=0.3, why="A test.")
        same_day = meet(project, BEGIN_US + 2 * HOUR_US, users[:100])
        later = meet(project, BEGIN_US + DAY_US, [*users, *(f"never{n}" for n in range(50))])
        meet(project, BEGIN_US + 9 * DAY_US, ["other"])
        close_due(project)
        days, reading = stored_days(project.state.catalog, "prices", 1), project.experiment_report("prices")
    back = [user for user in users if first[user] != later[user]]
    at_once = sum(first[user] != variant for user, variant in same_day.items())
    assert {first[user] for user in back} == {"new"}
    assert 20 < at_once < len(back)
    assert [one.crossed for one in days[:3]] == [at_once, len(back) - at_once, 0]
    assert any("the share was lowered" in one for one in reading.notes)
    wanted = [*first.values()].count("new") - (len(back) if rule == "exclude" else 0)
    assert days[0].variants["new"].units == wanted


def test_late_outcomes_are_found_after_a_day_whose_units_were_all_left_out(tmp_path: Path) -> None:
    users, changed = [f"u{n}" for n in range(60)], {"old": 0.1, "new": 0.9}
    (tmp_path / "before").mkdir()
    with opened(tmp_path / "before", "exclude", BEGIN_US) as project:
        project.start_experiment("prices", why="To see who will be moved.")
        first = meet(project, BEGIN_US + HOUR_US, users)
        project.ramp_experiment("prices", weights=changed, why="More of the new one.")
        then = meet(project, BEGIN_US + 2 * HOUR_US, users)
    moved = [user for user in users if first[user] != then[user]]
    stays = next(user for user in users if user not in moved)
    with opened(tmp_path, "exclude", BEGIN_US) as project:
        project.start_experiment("prices", why="A test.")
        assert {user: first[user] for user in moved} == meet(project, BEGIN_US + HOUR_US, moved)
        project.ramp_experiment("prices", weights=changed, why="More of the new one.")
        meet(project, BEGIN_US + 2 * HOUR_US, moved)
        meet(project, BEGIN_US + DAY_US + HOUR_US, users)
        meet(project, BEGIN_US + 5 * DAY_US, [])
        close_due(project)
        days = stored_days(project.state.catalog, "prices", 1)
        assert [sum(one.units for one in day.variants.values()) for day in days[:2]] == [0, len(users) - len(moved)]
        late = {"user": stays, "amount": 7.0, "at": BEGIN_US + DAY_US + 2 * HOUR_US}
        assert project.push("orders", [late]).accepted == 1
        meet(project, BEGIN_US + 40 * DAY_US, [])
        close_due(project)
        assert stored_days(project.state.catalog, "prices", 1)[1].with_late is not None
