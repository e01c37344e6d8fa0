"""One event that a feature cannot be computed for: that value is null, counted and named, and nothing else waits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import shop
from alias_moves import AS_OF
from test_damaged_features import flipped, trimtab

from processes import eventually
from trimtab.app.project import Project
from trimtab.core.errors import Corrupt
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.features.online.generations import place
from trimtab.features.online.packed.keys import name_bytes
from trimtab.features.online.packed.plan import ViewPlan

PICKY = """
@tt.transform
def picky(level: float) -> float:
    if level > 1e6:
        raise ValueError("too much")
    return level


"""
MORE = """,
    "picked": tt.latest(picky("level"), max_age="30d"), "sum": tt.sum(tt.when(tt.col("level") > 1e6, 2**62, 1) * 4),
    "total": tt.sum(tt.when(tt.col("level") > 1e5, 2**62, 1), over="1d"),
    "guarded": tt.sum(tt.when(tt.col("level") > 1e6, 2**62, 1) * 4, where=tt.col("level") < 1e6)})"""
POISON = {"site": "north", "level": 2e6}


def write_project(folder: Path) -> Path:
    shop.write_project(folder)
    text = (folder / "project.py").read_text()
    text = text.replace("readings = ", PICKY + "readings = ").replace('over="1d")})', 'over="1d")' + MORE)
    (folder / "project.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def poisonable_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_project(tmp_path_factory.mktemp("poison") / "trained")
    with shop.opened(folder) as project:
        shop.load(project)
        assert [d.act for d in project.train("buyer")][-1] == "promote"
        project.views.catch_up()
    return folder


@pytest.fixture
def poisonable(poisonable_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(poisonable_once, tmp_path / "project"))


def asked(project: Project, site: str = "north") -> dict[str, tuple[Any, str | None]]:
    """Value and reason of each feature that an answer was made from."""
    found = project.predict("buyer", [shop.visit("a", project.clock.now_us(), site=site)])[0]
    return {one.feature: (one.value, one.reason) for one in project.why(found.id).inputs}


def damage_north(project: Project) -> None:
    """Damage the state of one site, which is found when its next event is applied; the project is closed."""
    store, data = project.views.store, project.state_folder / "online" / "data.mdb"
    (plan,) = store.plans.values()
    key = place(ViewPlan(plan.view), store.cursors()[plan.cursor_name].generation).keys.states + name_bytes("north")
    project.close()
    flipped(data, key)


def test_one_event_that_fails_stops_nothing_and_is_named(poisonable: Path) -> None:
    with shop.opened(poisonable) as project:
        before, south = asked(project), asked(project, "south")
        assert not any("failed" in line for line in project.status().lines())
        shop.move(project, 1)
        pushed = project.push("readings", [{**POISON, "read_at": shop.NOW_US}])
        assert pushed.accepted == 1
        shop.move(project, 1)
        after = asked(project)
        assert after["site.picked"] == (None, "failed")
        assert after["site.level"] == (2e6, "found")
        assert after["site.guarded"] == before["site.guarded"]
        assert after["site.sum"] == before["site.sum"]
        assert asked(project, "south") == south
        project.push("readings", [{"site": "north", "level": 1.0, "read_at": shop.NOW_US + 1}])
        shop.move(project, 1)
        assert asked(project)["site.picked"] == (1.0, "found")

        status = project.status()
        assert status.lag_records == 0
        assert [(one.feature, one.events, one.recent) for one in status.failures] == [
            ("picked", 1, True),
            ("sum", 1, True),
        ]
        (red,) = [line for line in status.red if "'picked'" in line]
        event_id = status.failures[0].event
        assert "view 'site', feature 'picked': its value failed for 1 event of source 'readings'" in red
        assert (
            f"the last one is event {event_id!r} of 2024-04-10T00:00:00Z: transform 'picky' failed on [2000000.0]"
            in red
        )
        assert "4611686018427387904 * 4 does not fit an integer of 64 bits" in status.failures[1].error
        project.retain()
        project.apply()
        table = project.join([shop.visit("a", shop.NOW_US + 1)], "buyer", reasons=True)
        assert table.to_rows()[0]["site.picked.reason"] == "failed"
        assert project.skew("buyer").mismatches == 0

    with shop.opened(poisonable, shop.NOW_US + HOUR_US) as project:
        assert project.status().failures == status.failures
        project.rebuild("site")
        assert project.status().failures == status.failures
        shop.move(project, 2 * DAY_US)
        project.push("readings", [{"site": "south", "level": 1.0, "read_at": shop.NOW_US + 2 * DAY_US}])
        project.views.catch_up()
        later = project.status()
        assert [one.recent for one in later.failures] == [False, False]
        assert not any("its value failed" in line for line in later.red)
        assert any("feature 'picked': its value failed" in line for line in later.lines())


def test_a_sum_that_overflows_fails_alone_in_a_snapshot(poisonable: Path) -> None:
    with shop.opened(poisonable) as project:
        shop.move(project, 2)
        project.push("readings", [{"site": "north", "level": 2e5, "read_at": shop.NOW_US + n} for n in (0, 1)])
        shop.move(project, 1)
        assert asked(project)["site.total"] == (None, "failed")
        found = {row["site"]: row for row in project.snapshot("site", reasons=True).to_rows()}
        assert (found["north"]["site.total"], found["north"]["site.total.reason"]) == (None, "failed")
        assert found["south"]["site.total.reason"] == "found"
        assert project.status().failures == []  # every event has its value


def test_a_forgotten_event_is_named_no_more(poisonable: Path) -> None:
    with shop.opened(poisonable) as project:
        shop.move(project, 1)
        project.push("readings", [{**POISON, "site": "forget-me-4711", "read_at": shop.NOW_US}])
        project.views.catch_up()
        assert [one.events for one in project.status().failures] == [1, 1]
        assert project.forget("site", "forget-me-4711").residue == []
        assert [
            (one.event, one.error) for one in project.status().failures
        ] == []  # the views were filled again without it


def test_a_service_goes_on_and_tells(poisonable: Path) -> None:
    visit = {**shop.visit("a", shop.NOW_US), "at": AS_OF}
    with shop.serving(poisonable, "--as-of", AS_OF) as (_, url):
        eventually(lambda: shop.call(f"{url}/health/ready")[0] == 200)
        status, _ = shop.call(f"{url}/v1/events/readings?wait=applied", {**POISON, "read_at": AS_OF})
        assert status == 200
        eventually(lambda: shop.call(f"{url}/v1/models/buyer/predict", {"request": visit})[1]["reasons"])
        answer = shop.call(f"{url}/v1/models/buyer/predict", {"request": visit})[1]
        assert answer["reasons"]["site.picked"] == "failed"
        assert "flags" not in answer or answer["flags"] == []
        figures = shop.call(f"{url}/metrics")[1]
        assert 'trimtab_feature_failures_total{view="site",feature="picked"} 1' in figures
        assert shop.call(f"{url}/health/ready")[0] == 200
        _, said = trimtab(poisonable, "status", "--json")
        assert any("feature 'picked': its value failed for 1 event" in line for line in json.loads(said)["red"])


def test_what_stops_a_project_that_applies_events_itself_is_red_at_once(poisonable: Path) -> None:
    with shop.opened(poisonable) as project:
        damage_north(project)
    with shop.opened(poisonable) as project:
        shop.move(project, 1)
        project.push("readings", [{"site": "north", "level": 1.0, "read_at": shop.NOW_US}])
        with pytest.raises(Corrupt):
            asked(project, "south")
        assert any("no event was applied since 2024-04-10T00:00:00" in line for line in project.status().red)
    with shop.opened(poisonable) as project:
        project.rebuild_all()
        assert asked(project)["site.level"] == (1.0, "found")
        assert not any("no event was applied" in line for line in project.status().red)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_an_applier_that_stands_is_red_at_once_and_answers_say_so(poisonable: Path, workers: int) -> None:
    visit = {**shop.visit("a", shop.NOW_US, site="south"), "at": AS_OF}
    with shop.opened(poisonable) as project:
        damage_north(project)
    with shop.serving(poisonable, "--as-of", AS_OF, "--workers", str(workers)) as (_, url):
        eventually(lambda: all(shop.call(f"{url}/health/ready")[0] == 200 for _ in range(4)))
        assert shop.call(f"{url}/v1/models/buyer/predict", {"request": visit})[1].get("flags", []) == []
        event = {"site": "north", "level": 1.0, "read_at": AS_OF}
        assert shop.call(f"{url}/v1/events/readings?wait=applied", event)[0] == 503
        _, said = trimtab(poisonable, "status", "--json")
        assert any("no event was applied since" in line and "Corrupt" in line for line in json.loads(said)["red"])

        def flagged() -> bool:
            answers = [shop.call(f"{url}/v1/models/buyer/predict", {"request": visit})[1] for _ in range(4)]
            return all(answer.get("flags") == ["features_behind"] for answer in answers)

        eventually(flagged)
