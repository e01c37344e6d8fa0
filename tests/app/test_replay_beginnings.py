"""The starts that a replay tries, and what is refused before it starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shop
from hypothesis import given
from hypothesis import strategies as st

from trimtab.app.project import Project
from trimtab.app.replay.beginnings import last_request, starts
from trimtab.app.replay.replay_report import report_lines
from trimtab.app.replay.scenarios import scenarios_of_policies
from trimtab.app.state.definitions import load_definitions
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import DAY_US, format_time
from trimtab.simulation.scenarios.scenario import Scenario

INIT = """
import trimtab as tt

asked = tt.request("asked", key="id", time="at", columns={{"id": str, "at": tt.Time, "x": float}})
told = tt.source("told", key="id", time="at", delay="{wait}", columns={{"id": str, "at": tt.Time, "y": {kind}}})


def estimator():
    {estimator}


model = tt.model("m", request=asked, features=[{{"x": tt.col("x")}}], estimator=estimator, metric={metric},
    label=tt.label(told, key="id", value="y", wait="{wait}"))
tt.deployment(model, retrain=tt.every("30d"), gate=tt.beats_champion(window="{window}", calibration=1.0))
"""
LINEAR = "from sklearn.linear_model import LinearRegression as E; return E()"


def project_file(folder: Path, **given: str) -> Path:
    usual = {"wait": "1d", "window": "14d", "kind": "float", "metric": '"squared_error"', "estimator": LINEAR}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trimtab.toml").write_text('[project]\nname = "p"\n')
    (folder / "project.py").write_text(INIT.format(**usual | given))
    return folder


def scenarios(folder: Path, *policies: str, **given: str) -> list[Scenario]:
    definitions = load_definitions(project_file(folder, **given) / "project.py")
    return scenarios_of_policies(definitions, policies, None, folder)


def days(count: int, per_day: int = 3) -> Any:
    return np.repeat(np.arange(count), per_day) * DAY_US + 5


def test_the_first_start_leaves_the_waits_the_window_and_a_quarter_before_it(tmp_path: Path) -> None:
    chosen = scenarios(tmp_path, "never", wait="90d")
    found = starts(chosen, days(545), 545 * DAY_US)
    assert found.at_us[0] == 209 * DAY_US  # two waits of 90 days, and twice 14 days, on the next midnight
    assert "wait of 90d" in found.why
    assert len(found.at_us) == 8
    assert found.at_us[-1] <= (545 - 90 - 14) * DAY_US + DAY_US
    assert starts(scenarios(tmp_path, "ungated 30d", wait="90d"), days(545), 545 * DAY_US).at_us[0] == 180 * DAY_US
    quick = scenarios(tmp_path, "never")
    quarter = starts(quick, days(200), 200 * DAY_US)
    assert (quarter.at_us[0], quarter.why) == (51 * DAY_US, "a quarter of the requests lies before it.")
    long = starts(quick, days(3_000), 3_000 * DAY_US)
    assert long.at_us[0] == 2_635 * DAY_US
    assert "--start" in long.why


def test_too_short_a_history_is_refused_with_the_days_that_are_needed(tmp_path: Path) -> None:
    chosen = scenarios(tmp_path, "never", wait="30d")
    with pytest.raises(Misuse, match=r"found 99\.0 days of requests, .*; needed are 106\.0 or more"):
        starts(chosen, days(100), 99 * DAY_US + 5)
    assert starts(chosen, days(110), 109 * DAY_US + 5).at_us[0] == 76 * DAY_US  # nearly as late as it can be


@given(st.lists(st.integers(0, 400), min_size=1, max_size=250))
def test_stragglers_after_a_long_gap_do_not_prolong_a_history(gaps: list[int]) -> None:
    asked = np.cumsum(gaps)
    n = len(asked)
    expected = asked[-1]
    usual = max((asked[i] - asked[i - 1] for i in range(1, n - n // 100)), default=0)
    for kept in range(n - n // 100, n):  # at most one in a hundred is left out
        gap = asked[kept] - asked[kept - 1]
        unusual = 0 < 4 * usual < gap and gap > asked[-1] - asked[kept]
        if unusual or gap > (asked[kept - 1] - asked[0]) / 2:
            expected = asked[kept - 1]
            break
    assert last_request(asked) == expected


def test_a_few_requests_of_today_do_not_prolong_a_file_that_ended_last_month() -> None:
    daily = days(730, per_day=30)
    today = daily[-1] + 28 * DAY_US + np.arange(3) * 60_000_000
    assert last_request(np.append(daily, today)) == daily[-1]
    assert last_request(np.append(daily, daily[-1] + 3 * DAY_US)) == daily[-1] + 3 * DAY_US  # a few days are usual
    outage = np.append(daily, daily[-1] + 5 * DAY_US + np.arange(200) * DAY_US // 30)  # and then goes on for a week
    assert last_request(outage) == outage[-1]


Spoil = Callable[[Path], None]


def told(folder: Path, rows: int, keys: str = "id") -> str:
    text = [f"{keys}{n},{format_time(n * DAY_US // 4)},{n % 7},{n % 7 * 2.0 + n * 37 % 11 / 3}" for n in range(rows)]
    (folder / f"{keys}.csv").write_text("\n".join(["id,at,x,y", *text]))
    return str(folder / f"{keys}.csv")


def loaded(folder: Path, labels: str | None = "id", **given: str) -> Project:
    project = shop.opened(project_file(folder, **given), 2_000 * DAY_US)
    project.ingest("asked", told(folder, 400))
    if labels is not None:
        project.ingest("told", told(folder, 400, labels))
    return project


def test_what_cannot_be_simulated_is_refused_before_the_replay(tmp_path: Path) -> None:
    with loaded(tmp_path / "a", None) as project, pytest.raises(NotFound, match="no label of model 'm' was ingested"):
        project.simulate()
    with loaded(tmp_path / "b", "other") as project, pytest.raises(Misuse, match="none of 400 labels in 'told' belong"):
        project.simulate()
    with loaded(tmp_path / "c", wait="40d") as project, pytest.raises(Misuse, match=r"needed are 136\.0 or more"):
        project.simulate()
    missing = "import no_such_library; return no_such_library.E()"
    with loaded(tmp_path / "d", estimator=missing) as project, pytest.raises(Exception, match="no_such_library"):
        project.simulate()
    with loaded(tmp_path / "e") as project, pytest.raises(Misuse, match="can be judged: labels are final after 1d"):
        project.simulate(start=99 * DAY_US + DAY_US // 2)


KINDS = {
    '"poisson_deviance"': (
        "from sklearn.linear_model import PoissonRegressor as E; return E()",
        "root mean squared error",
    ),
    "tt.pinball(0.9)": (
        "from sklearn.linear_model import QuantileRegressor as E; return E(quantile=0.9, alpha=0.0)",
        "coverage",
    ),
    '"absolute_error"': (LINEAR, "root mean squared error"),
}


@pytest.mark.slow
@pytest.mark.parametrize("metric", KINDS)
def test_counts_and_quantiles_are_reported_by_their_own_metric_in_100_columns(tmp_path: Path, metric: str) -> None:
    estimator, further = KINDS[metric]
    names = ["never", "every 30d"]
    policies = "never,30d"
    if metric == '"poisson_deviance"':  # the longest name, with as many policies as are in two rows
        names += ["alarm", "alarm or 30d", "ungated 30d", "ungated 60d", "every 60d"]
        policies += ",alarm,alarm|30d,ungated 30d,ungated 60d,60d"
    with loaded(tmp_path, metric=metric, estimator=estimator) as project:
        result = project.simulate(policies=policies)
    own = result.lines["never"].metric
    assert own == metric.strip('"').removeprefix("tt.")
    lines = list(report_lines(result))
    assert max(map(len, lines)) <= 100
    months = lines[lines.index("By month") :]
    assert months[1] == own.replace("_", " ")
    shown = " ".join(line for line in months[: months.index("Alarms")] if line.startswith("month"))
    assert all(name in shown for name in names)
    assert any(further in line for line in lines)
    total = next(line for line in months if line.startswith("all"))
    assert f"{result.lines['never'].months()[-1].metrics[own]:.4f}" in total
    promoted = [line for line in lines if " promote " in line]
    assert promoted[0].startswith(f"1970-01-31  {', '.join(names)[:30]}")  # one row for the same first version


@pytest.mark.slow
def test_a_question_that_is_asked_today_leaves_an_old_history_where_it_is(tmp_path: Path) -> None:
    with loaded(tmp_path / "a") as project:
        before = project.simulate(policies="never")
        project.train()
        project.predict("m", [{"id": "id399", "at": 399 * DAY_US // 4, "x": 0.0}])  # the newest row, as `init` shows it
        project.predict("m", [{"id": "new", "at": 2_000 * DAY_US, "x": 0.0}])
        after = project.simulate(policies="never")
    assert (after.start_us, after.until_us) == (before.start_us, before.until_us)
    assert after.lines["never"].scores.tolist() == before.lines["never"].scores.tolist()
