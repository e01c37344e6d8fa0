"""Reports, plans and simulations of experiments, through the project and the command line."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import forked
import schemas
from trimtab.app.project import open_project
from trimtab.cli.group import trimtab
from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Conflict, Misuse, NotFound
from trimtab.core.time import DAY_US, HOUR_US, format_time
from trimtab.experiments.exposures import log_exposures
from trimtab.experiments.records import Exposure

NOW_US = time.time_ns() // 1_000 // DAY_US * DAY_US + HOUR_US
DAYS = 24
START_US = NOW_US - (DAYS + 3) * DAY_US
CLOSED = DAYS + 1  # the experiment begins at 01:00, so its duration touches one more day; all are closed by now
A_DAY = 80
PROJECT = """
import trimtab as tt

visits = tt.source("visits", time="at", columns={"customer": str, "country": str})
orders = tt.source("orders", time="at", columns={"customer": str, "amount": float})
events = {"source": orders, "by": "customer", "within": "12h"}
tt.experiment("checkout", unit="customer", variants={"blue": 1, "green": 2}, attributes={"country": str},
    slices=["country"], duration="24d", metrics=[
        tt.metric("bought", value=tt.count(), kind="proportion", role="primary", **events),
        tt.metric("revenue", value=tt.sum("amount"), role="guardrail", better="higher", margin=0.5, cap=100.0,
                  **events),
        tt.metric("orders", value=tt.count(), **events)])
tt.experiment("verbs", unit="customer", variants={"a": 1, "b": 2},
    metrics=[tt.metric("bought", value=tt.count(), kind="proportion", role="primary", **events)])
tt.experiment("later", unit="customer", variants={"a": 1, "b": 2}, rule="fixed", duration="20d",
    metrics=[tt.metric("bought", value=tt.count(), kind="proportion", role="primary", **events)])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which green makes customers buy more often. Exposures and orders come day by day."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "trimtab.toml").write_text("")
    (folder / "project.py").write_text(PROJECT)
    rng, number = np.random.default_rng(1), 0
    clock = VirtualClock(START_US)
    with open_project(folder, clock=clock, environment={}) as project:
        project.start_experiment("checkout", why="green sells more")
        for day in range(DAYS):
            visits, orders = [], []
            clock.advance_to(START_US + day * DAY_US + HOUR_US)
            for _ in range(A_DAY):
                number += 1
                customer, country = f"c{number}", ("DE", "FR")[number % 2]
                unit = {"customer": customer, "country": country}
                found = project.assign("checkout", unit, expose=True)
                now_us = clock.now_us()
                visits.append({**unit, "at": now_us})
                if rng.random() < (0.5 if found.variant == "green" else 0.3):
                    orders.append({"customer": customer, "at": now_us, "amount": float(rng.lognormal(3.0, 0.4))})
            clock.advance_to(clock.now_us() + HOUR_US)
            assert project.push("visits", visits).accepted == A_DAY
            assert project.push("orders", orders).accepted == len(orders)
    return folder


def run(folder: Path, *words: str, status: int = 0) -> str:
    done = CliRunner().invoke(trimtab, [*words, "--project", str(folder)], catch_exceptions=False)
    assert done.exit_code == status, done.output
    return done.stdout  # without the progress that a slow machine shows


def printed(folder: Path, verb: str, *words: str, when: str = "") -> Any:
    """What a verb prints as JSON, compared with its schema."""
    form = next(one for one in schemas.PRINTED[verb] if one.when == when)
    found = [json.loads(line) for line in run(folder, *verb.split(), *words, "--json").splitlines()]
    for one in found:
        assert not list(schemas.problems(one, schemas.schemas()[0][form.type]))
    return found if form.each else found[0]


def test_the_report_finds_the_effect_and_recommends_to_ship(folder: Path) -> None:
    shown = run(folder, "experiment", "show", "checkout")
    assert "ship green: bought +" in shown
    assert "revenue within its margin" in shown
    assert "Confidence sequences" in shown
    assert "country=DE" in shown
    found = printed(folder, "experiment show", "checkout")
    assert found["days"] == CLOSED
    assert sum(one["units"] for one in found["variants"]) == DAYS * A_DAY
    assert found["decision"]["act"] == "ship"
    bought = next(one for one in found["metrics"] if one["metric"] == "bought")
    assert len(bought["looks"]) == CLOSED
    assert 0.0 < bought["looks"][-1]["low"] < 0.2 < bought["looks"][-1]["high"]
    assert {one["slice"] for one in found["slices"]} == {"country=DE", "country=FR"}


def test_the_page_has_the_figures_of_the_report(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "checkout.html"
    assert f"Written: {file}" in run(folder, "experiment", "show", "checkout", "--page", str(file))
    page = file.read_text()
    reading = printed(folder, "experiment show", "checkout")
    for part in (
        reading["decision"]["text"],
        reading["hash"][:12],
        *(f"{one['units']:,}" for one in reading["variants"]),
        *reading["decided_before"].values(),
        "bought: difference to the control",
        "Novelty",
    ):
        assert part.replace("'", "&#39;").replace(">", "&gt;") in page, part
    assert page.count("<svg") == 4  # one plot of the units, and one for each metric
    assert "units by day of their first exposure" in page
    for one in reading["variants"]:
        assert sum(one["by_day"].values()) == one["units"]


def test_the_list_and_the_status_show_what_runs(folder: Path) -> None:
    listed = printed(folder, "experiment list")
    phases = {one["name"]: one["phase"] for one in listed}
    assert (phases["checkout"], phases["later"]) == ("running", "not started")
    assert "checkout: running" in run(folder, "experiment")
    run(folder, "experiment", "show", "checkout")
    status = CliRunner().invoke(trimtab, ["status", "--project", str(folder)]).output
    assert f"experiment checkout: running, {CLOSED} closed days: ship green: bought +" in status
    assert "later" not in status


def test_what_is_missing_is_named(folder: Path) -> None:
    assert "was not started" in run_failing(folder, "experiment", "show", "later", status=4)
    assert "nothing" in run_failing(folder, "experiment", "show", "nothing", status=3)
    with open_project(folder, environment={}) as project:
        with pytest.raises(Conflict, match="experiment start later"):
            project.experiment_report("later")
        with pytest.raises(NotFound):
            project.experiment_report("nothing")


def run_failing(folder: Path, *words: str, status: int) -> str:
    command = [sys.executable, "-m", "trimtab.cli", *words, "--project", str(folder)]
    done = forked.run(command, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stderr


def test_lifecycle_from_the_command_line(folder: Path) -> None:
    why = ["--why", "a test of the verbs", "--by", "Ada"]
    rows = [printed(folder, f"experiment {verb}", "verbs", *more, *why) for verb, more in (
        ("start", []), ("ramp", ["--share", "1", "--weight", "a=0.4", "--weight", "b=0.6"]), ("pause", []),
        ("resume", []), ("stop", []), ("start", []), ("conclude", ["b"]),
    )]  # fmt: skip
    assert [row["act"].removesuffix("_experiment") for row in rows] == [
        *("start", "ramp", "pause", "resume", "stop", "start", "conclude")
    ]
    assert {row["actor"] for row in rows} == {"Ada"}
    assert rows[1]["evidence"]["weight b"] == 0.6
    for row in (rows[4], rows[6]):
        assert "their windows of 12h had not ended when the experiment did" in row["evidence"]["not counted"]
    with open_project(folder, environment={}) as project:
        status = project.experiment("verbs")
        assert status.ended_at_us is not None
        assert f"verbs: concluded since {format_time(status.ended_at_us)}, winner b" in next(iter(status.lines()))
    assert ["winner", "b"] in [one.split() for one in run(folder, "experiment", "show", "verbs").splitlines()]
    assert printed(folder, "experiment assign", "verbs", "c1")["variant"] == "b"
    found = printed(folder, "experiment assign", "checkout", '{"customer": "c1", "country": "DE"}')
    assert (found["takes_part"], found["reason"]) == (False, "planned end")  # it lasts 24 days


def test_simulate_plants_an_effect_in_the_projects_own_history(folder: Path) -> None:
    found = printed(folder, "simulate", "--experiment", "later", "--effect", "0.4", "--runs", "20", when="--experiment")
    assert found["origin"] == "visits"
    assert found["days"] == 20
    assert found["units"] == found["days"] * A_DAY
    assert found["acts"].get("stop", 0) == 0
    assert found["right"] >= 15  # 40 % of 40 % with 960 units each: 7 standard errors
    none = printed(folder, "simulate", "--experiment", "later", "--runs", "20", when="--experiment")
    assert none["right"] >= 16
    shown = run(folder, "simulate", "--experiment", "later", "--effect", "0.4", "--runs", "3")
    assert "planted: the primary metrics of b are 40 % better than the control's" in shown
    assert "--policy is about the loop" in run_failing(
        folder, "simulate", "--experiment", "later", "--policy", "never", status=2
    )
    assert "needs --experiment" in run_failing(folder, "simulate", "--effect", "0.1", status=2)
    with open_project(folder, environment={}) as project:
        with pytest.raises(Misuse, match="would exceed 1"):
            project.simulate_experiment("later", effect=5.0, runs=1)
        with pytest.raises(Misuse, match=r"effect='x', runs=1 and days=56. Give numbers"):
            project.simulate_experiment("later", effect="x", runs=1)


def test_the_service_shows_the_report_and_its_page_is_linked_from_the_first_page(folder: Path) -> None:
    import urllib.request

    import shop

    run(folder, "experiment", "show", "checkout")  # this closes the days, as a tick of the service would later
    with shop.serving(folder) as (_, url):
        status, found = shop.call(f"{url}/v1/experiments/checkout/report")
        assert (status, found["decision"]["act"]) == (200, "ship")
        assert not list(schemas.problems(found, schemas.schemas()[0]["experiments.reading.results:Reading"]))
        assert shop.call(f"{url}/v1/experiments/later/report")[0] == 409
        assert shop.call(f"{url}/v1/experiments/nothing/page")[0] == 404
        pages = []
        for path in ("/", "/v1/experiments/checkout/page"):
            with urllib.request.urlopen(url + path) as answer:
                pages.append(answer.read().decode())
        assert 'href="/v1/experiments/checkout/page"' in pages[0]
        assert found["decision"]["text"] in pages[0]
        assert found["decision"]["text"] in pages[1]
        assert '<a href="/">Overview</a>' in pages[1]


@pytest.mark.slow
def test_plan_reads_the_projects_own_history_and_power_the_given_numbers(folder: Path) -> None:
    found = printed(folder, "experiment plan", "checkout", "--effect", "0.1")
    assert found["origin"] == "visits"
    assert found["units_a_day"] == pytest.approx(A_DAY, abs=1)
    bought = found["metrics"][0]
    assert bought["metric"] == "bought"
    assert 0.3 < bought["mean"] < 0.5
    assert bought["sd"] == pytest.approx((bought["mean"] * (1 - bought["mean"])) ** 0.5, rel=0.02)
    rules = {one["rule"]: one for one in bought["rules"]}
    assert rules["fixed"]["days"]["10 %"] < rules["sequence"]["days"]["10 %"]
    shown = run(folder, "experiment", "plan", "checkout")
    assert "sequence (declared)" in shown
    given = printed(folder, "experiment power", "--mean", "0.4", "--units-a-day", "80", "--effect", "0.1")
    assert [one["rule"] for one in given] == ["sequence", "msprt", "obrien_fleming", "fixed"]
    assert given[3]["days"]["10 %"] == pytest.approx(rules["fixed"]["days"]["10 %"], rel=0.15)
    with open_project(folder, environment={}) as project, pytest.raises(NotFound, match="no source 'nothing'"):
        project.experiment_plan("checkout", units="nothing")


@pytest.mark.slow
def test_a_plan_says_that_its_units_are_those_of_a_metric(folder: Path) -> None:
    assert printed(folder, "experiment plan", "checkout")["assumption"] == ""
    file, said = folder / "project.py", "Units are those with an event in 'orders', which a metric reads"
    lines = [one for one in PROJECT.splitlines(keepends=True) if not one.startswith("visits")]
    spent = (
        'tt.experiment("spent", unit="customer", variants={"a": 1, "b": 2}, metrics=[tt.metric("spent", role="primary",'
    )
    file.write_text("".join([*lines, f'{spent} value=tt.sum("amount"), **events)])']))
    try:
        shown = run(folder, "experiment", "plan", "spent")
        assert f"Assumption: {said}" in shown
        assert "--units SOURCE" in shown
        assert said in run(folder, "simulate", "--experiment", "spent", "--runs", "2", "--effect", "0.1")
        failed = run_failing(folder, "experiment", "plan", "later", status=2)  # all of these units have bought
        assert "bought does not vary over the past units" in failed
        assert said in failed
    finally:
        file.write_text(PROJECT)


@pytest.mark.parametrize("origin", ["visits", "orders"])
def test_a_plan_takes_the_source_with_most_units_even_if_a_metric_reads_one_with_more_rows(
    origin: str, tmp_path: Path
) -> None:
    (tmp_path / "trimtab.toml").write_text("")
    (tmp_path / "project.py").write_text(PROJECT)
    rng, visitors = np.random.default_rng(2), 60 if origin == "visits" else 20
    clock = VirtualClock(START_US + 8 * DAY_US)
    with open_project(tmp_path, clock=clock, environment={}) as project:
        for day in range(8):
            at_us = START_US + day * DAY_US
            met = [{"customer": f"{day}_{n}", "country": "DE", "at": at_us} for n in range(visitors)]
            bought = [f"{day}_{n}" for n in range(40)]  # three orders each
            orders = [{"customer": one, "at": at_us + 1, "amount": float(rng.random())} for one in bought * 3]
            project.push("visits", met)
            project.push("orders", orders)
        runs = project.simulate_experiment("verbs", runs=1)
        plan = project.experiment_plan("verbs") if origin == "visits" else None
        clock.advance_to(START_US + 40 * DAY_US)
        later = project.simulate_experiment("verbs", runs=1)
    assert runs.origin == origin
    said = "no other source with the unit's columns has as many units"
    assert (said in runs.assumption) == (origin == "orders")
    assert "last appeared" not in runs.assumption
    assert "days ago; by now, units may be more or fewer" in later.assumption
    if plan is not None:
        assert (plan.origin, plan.assumption) == ("visits", "")
        assert plan.metrics[0].mean == pytest.approx(40 / 60, abs=0.02)


def test_customers_who_come_again_are_taken_in_when_the_ramp_has_grown(tmp_path: Path) -> None:
    (tmp_path / "trimtab.toml").write_text("")
    ramp = 'tt.experiment("verbs", share=0.1, ramp={"2d": 0.5, "4d": 1.0},'
    (tmp_path / "project.py").write_text(PROJECT.replace('tt.experiment("verbs",', ramp))
    with open_project(tmp_path, clock=VirtualClock(START_US + 12 * DAY_US), environment={}) as project:
        for day in range(10):  # the same sixty customers every day, of whom twenty buy
            at_us = START_US + day * DAY_US + HOUR_US
            project.push("visits", [{"customer": f"c{n}", "country": "DE", "at": at_us} for n in range(60)])
            project.push("orders", [{"customer": f"c{n}", "at": at_us + 1, "amount": 1.0} for n in range(20)])
        found = project.simulate_experiment("verbs", runs=4)
        plan = project.experiment_plan("verbs", effects=[0.5], units="visits")
    assert found.units == 60
    assert plan.units_a_day * plan.past_days == pytest.approx(60)
    assert "By the ramp, 10 % on day 1, 50 % on day 3, 100 % on day 5 take part" in plan.notes[-1]


def test_customers_who_come_every_day_are_no_old_history(tmp_path: Path) -> None:
    (tmp_path / "trimtab.toml").write_text("")
    (tmp_path / "project.py").write_text(PROJECT)
    with open_project(tmp_path, clock=VirtualClock(START_US + 20 * DAY_US), environment={}) as project:
        for day in range(20):
            at_us = START_US + day * DAY_US + HOUR_US
            project.push("visits", [{"customer": f"c{n}", "country": "DE", "at": at_us} for n in range(60)])
            project.push("orders", [{"customer": f"c{n}", "at": at_us + 1, "amount": 1.0} for n in range(20)])
        assert project.simulate_experiment("verbs", runs=1, units="visits").assumption == ""
        with pytest.raises(Misuse, match="all units of visits first appeared within 1 days"):
            project.experiment_plan("verbs", units="visits")


def test_events_that_came_late_are_in_the_report_and_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "trimtab.toml").write_text("")
    (tmp_path / "project.py").write_text(PROJECT)
    clock = VirtualClock(START_US)
    with open_project(tmp_path, clock=clock, environment={}) as project:
        project.start_experiment("verbs", why="A test.")
        found = [project.assign("verbs", f"c{n}", expose=True) for n in range(40)]
        clock.advance_to(START_US + 3 * DAY_US)
        assert project.experiment_report("verbs").notes == []
        late = [{"customer": f"c{n}", "at": START_US, "amount": 1.0} for n in range(40) if found[n].variant == "b"]
        project.push("orders", late)
        clock.advance_to(START_US + 5 * DAY_US)
        assert project.tick() == []
    said = f"vents of bought came after their day was closed and do not count: {len(late)} of b"
    assert said in run(tmp_path, "experiment", "show", "verbs")
    assert printed(tmp_path, "experiment show", "verbs")["late"] == {"bought": {"b": len(late)}}
    run(tmp_path, "experiment", "show", "verbs", "--page", str(tmp_path / "page.html"))
    assert said in (tmp_path / "page.html").read_text()
    assert said in run(tmp_path, "status")


def test_a_start_that_ended_says_which_days_are_lost_and_never_to_keep_running(tmp_path: Path) -> None:
    (tmp_path / "trimtab.toml").write_text("")
    (tmp_path / "project.py").write_text(PROJECT.replace('"12h"', '"2d"'))
    clock = VirtualClock(START_US)
    with open_project(tmp_path, clock=clock, environment={}) as project:
        assert "not closed" not in project.start_experiment("verbs", why="A test.").evidence
        for day in range(5):
            clock.advance_to(START_US + day * DAY_US + HOUR_US)
            project.expose_units("verbs", [f"{day}_{n}" for n in range(40)])
        project.stop_experiment("verbs", why="A test.")
        text = project.experiment_report("verbs").decision.text
        assert text.startswith("wait, it has ended: its last days are not closed yet. So far: no difference shown: ")
        lost = project.start_experiment("verbs", why="A test.").evidence["not closed"]
        from_day = format_time(START_US + 2 * DAY_US)[:10]  # of the two first days all is known
        assert f"start 1: the days from {from_day} on were not closed before the next start" in str(lost)
        clock.advance_to(START_US + 9 * DAY_US)
        project.tick()
        first = project.experiment_report("verbs", generation=1)
        assert (first.days, first.notes[-1]) == (2, lost)
        assert first.decision.act == "no difference shown"
        project.stop_experiment("verbs", why="A test.")
        project.start_experiment("verbs", why="A test.")
        project.stop_experiment("verbs", why="A test.")
        wait = project.experiment_report("verbs").decision.text
        assert wait == ("no difference shown: it ended before the window of any unit had ended, so no unit counts.")
        project.start_experiment("verbs", why="A test.")
        none = project.experiment_report("verbs", generation=3).decision.text
        assert none == wait
    shown = run(tmp_path, "experiment", "show", "verbs", "--generation", "1")
    assert "keep running" not in shown


def test_an_experiment_that_is_blocked_is_red_in_the_status(tmp_path: Path) -> None:
    (tmp_path / "trimtab.toml").write_text("")
    (tmp_path / "project.py").write_text(PROJECT)
    clock = VirtualClock(START_US)
    with open_project(tmp_path, clock=clock, environment={}) as project:
        project.start_experiment("checkout", why="units of green get lost")
        variants = ["blue"] * 700 + ["green"] * 300
        met = [
            Exposure(experiment="checkout", generation=1, unit=f"c{n}", variant=one, at_us=clock.now_us())
            for n, one in enumerate(variants)
        ]
        log_exposures(project.state.exposures, met)
        clock.advance_to(START_US + 2 * DAY_US)
        assert project.status().experiments["checkout"].startswith("running, 0 closed days")
        assert project.experiment_report("checkout").decision.act == "blocked"
        status = project.status()
        (red,) = [line for line in status.red if line.startswith("experiment")]
        assert "blocked: units are split blue 70.00%, green 30.00%" in red
        assert sum("experiment checkout" in line for line in status.lines()) == 1
