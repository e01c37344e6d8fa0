"""A project whose clock and events lie before 1970 is the same project, that many days earlier."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import shop

from trimtab.app.features.loading import _final
from trimtab.app.project import Project, open_project
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.time import DAY_US, HOUR_US, parse_time_us
from trimtab.events.definitions import source
from trimtab.events.values.fitting import FileRows
from trimtab.features.online.read.entity_read import read_entity

DAYS = [-44_205, -(parse_time_us("2024-03-03") // DAY_US)]  # in 1903; and across the epoch
PROJECT = """
import trimtab as tt

ev = tt.source("ev", time="at", key="id", columns={"id": str, "who": str, "x": float})
ask = tt.request("ask", key="rid", time="at", columns={"rid": str, "who": str})
windows = {f"{name}_{over}": make("x", over=over) for over in ("90s", "1h", "7d", "30d")
           for name, make in (("sum", tt.sum), ("max", tt.max), ("first", tt.first), ("distinct", tt.count_distinct))}
v = tt.view("v", source=ev, by="who", features=windows | {
    "now": tt.latest("x", max_age="2d"), "life": tt.count(), "decayed": tt.decayed_mean("x", half_life="6h")})


def batch():
    from sklearn.linear_model import LinearRegression

    return LinearRegression()


label = tt.label(ev, key="id", value="x", wait="1d")
model = tt.model("m", request=ask, features=[v], label=label, estimator=batch, metric="squared_error")
tt.deployment(model, gate=tt.beats_champion(margin=-0.5))
"""


def lived(folder: Path, shift_us: int) -> list[Any]:
    """Features of events that came one by one: online as they came, by a join, and once they were made again."""
    folder.mkdir()
    (folder / "project.py").write_text(PROJECT)
    (folder / "trimtab.toml").write_text("")
    rng = random.Random(14)
    clock = VirtualClock(parse_time_us("2024-03-01") + shift_us)
    found: list[Any] = []
    asked: list[tuple[str, int]] = []
    with open_project(folder, clock=clock) as project:
        for _ in range(30):
            clock.advance_to(clock.now_us() + rng.choice([1, 1_000_000, HOUR_US, 7 * HOUR_US, DAY_US]))
            late = [rng.choice([0, 1, HOUR_US, 30 * HOUR_US]) for _ in range(3)]
            rows = [
                {
                    "id": f"e{rng.randrange(30)}",
                    "who": rng.choice("ab"),
                    "x": rng.uniform(-1, 1),
                    "at": clock.now_us() - n,
                }
                for n in late
            ]
            assert project.push("ev", rows).accepted == 3
            project.views.catch_up()
            found.append(_online(project, clock.now_us() + 5))
            asked += [(who, clock.now_us() + 5) for who in "ab"]
            clock.advance_to(clock.now_us() + 5)
        table = {"rid": ("str", [f"{n}" for n in range(len(asked))]), "who": ("str", [who for who, _ in asked])}
        moments = {"at": ("time", [at for _, at in asked])}
        joined = project.join(Columns.of(table | moments), "v", at="at", reasons=True)  # type: ignore[arg-type]
        found.append({name: joined[name].to_list() for name in joined.names if name != "at"})
        assert not [line for line in project.status().red if "ahead of the clock" in line]
        project.rebuild_all()
        found.append(_online(project, clock.now_us()))
        project.compact()
        found.append(_online(project, clock.now_us() + 3 * DAY_US))
    return found


def _online(project: Project, at_us: int) -> list[Any]:
    views = list(project.definitions.views.values())
    read = [read_entity(project.state.online, views, [who], at_us).views for who in "ab"]
    return [(one.age_us, [(name, f.value, f.reason) for name, f in one.features.items()]) for (one,) in read]


def test_features_of_live_events_before_1970_are_those_of_later_ones(tmp_path: Path) -> None:
    wanted = lived(tmp_path / "later", 0)
    assert any(reason == "found" for _, features in wanted[-1] for _, _, reason in features)
    for days in DAYS:
        found = lived(tmp_path / f"{-days}", days * DAY_US)
        assert repr(found) == repr(wanted), days


def simulated(folder: Path, shift_us: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(shop, "BEGIN_US", shop.BEGIN_US + shift_us)
        patch.setattr(shop, "NOW_US", shop.NOW_US + shift_us)
        with shop.opened(shop.write_project(folder), shop.NOW_US) as project:
            shop.load(project, end_us=shop.NOW_US)
            found = project.simulate(start=shop.BEGIN_US + 28 * DAY_US)
            trained = [(decision.act, decision.cause) for decision in project.train("buyer")]
            acts = [(d.act, d.model) for line in found.lines.values() for d in line.decisions]
            return [(n, line.scores.tolist(), line.labels.tolist()) for n, line in found.lines.items()], acts, trained


def test_a_simulation_of_1903_is_that_of_later_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = simulated(tmp_path / "later", 0, monkeypatch)
    assert ("promote", "buyer") in wanted[1]
    assert repr(simulated(tmp_path / "1903", DAYS[0] * DAY_US, monkeypatch)) == repr(wanted)


@pytest.mark.fast
@pytest.mark.parametrize("days", [0, *DAYS])
def test_rows_that_are_not_final_are_left_out_at_any_time(days: int) -> None:
    begun_us = parse_time_us("2024-03-01") + days * DAY_US
    ends = source("ends", time="at", columns={"x": float}, delay="7d", only_final=True)
    times = {"at": ("time", [begun_us + day * DAY_US for day in (0, 3, 4, 10)]), "x": ("float", [0.0, 1.0, 2.0, 3.0])}
    rows, left_out = _final(ends, FileRows(Columns.of(times), (), ()), begun_us + 20 * DAY_US)
    assert (rows.columns["x"].to_list(), left_out) == ([0.0, 1.0], 2)
