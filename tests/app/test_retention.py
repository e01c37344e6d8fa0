"""What is truncated and removed, what that leaves, and that nobody can tell the difference."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shop

import forked
from trimtab.app.keep.retention import retain_when_due
from trimtab.app.project import Project, open_project
from trimtab.app.state.lease import Lease
from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.features.online.fill.fill import Filling
from trimtab.features.online.store import BEGIN, write_cursors

KEEPER = Path(__file__).with_name("retaining_process.py")
SITES = """
import trimtab as tt

readings = tt.source("readings", time="read_at", key="id", columns={"id": str, "site": str, "level": float})
visit = tt.request("visit", key="visit_id", time="at", columns={"visit_id": str, "site": str, "at": tt.Time})
site = tt.view("site", source=readings, by="site", features={
    "level": tt.latest("level"), "mean_2d": tt.mean("level", over="2d"), "n_5d": tt.count(over="5d"),
    "high": tt.max("level", where=tt.col("level") > 0, over="3d")})


def batch():
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression()


model = tt.model("m", request=visit, features=[site], label=tt.label(readings, key="id", value=tt.col("level") > 0,
                 wait="1d"), estimator=batch, metric="log_loss")
tt.deployment(model)
"""


def write(folder: Path, settings: str = "", definitions: str = SITES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trimtab.toml").write_text(settings)
    (folder / "project.py").write_text(definitions)
    return folder


def opened(folder: Path, now_us: int = shop.NOW_US) -> Project:
    return open_project(folder, clock=VirtualClock(now_us), environment={})


def row(key: str, at_us: int, level: float | None, site: str = "north") -> dict[str, Any]:
    return {"id": key, "site": site, "level": level, "read_at": at_us}


def same_frames(one: Project, other: Project, source: str = "readings") -> None:
    for project in (one, other):
        project.history.refresh()
    a, b = one.history.frame(source), other.history.frame(source)
    orders = (np.lexsort((f.position, f.partition.astype(str), f.known_at_us)) for f in (a, b))
    order_a, order_b = orders
    for field in ("event_at_us", "known_at_us", "superseded_at_us", "deleted", "partition", "position"):
        assert getattr(a, field)[order_a].tolist() == getattr(b, field)[order_b].tolist(), field
    for name in a.columns.names:
        assert repr(a.columns[name].take(order_a).to_list()) == repr(b.columns[name].take(order_b).to_list())


def features(project: Project, at_us: list[int], upto: dict[str, int] | None = None) -> tuple[Any, Any]:
    from trimtab.core.columns.data import Columns
    from trimtab.features.offline.evaluation import evaluate

    model = project.definitions.models["m"]
    frames, _ = project.views.snapshot(upto)
    rows = [(at, site) for at in at_us for site in ("north", "south", "nowhere")]
    asked = Columns.of(
        {
            "visit_id": ("str", [f"v{n}" for n in range(len(rows))]),
            "site": ("str", [site for _, site in rows]),
            "at": ("time", [at for at, _ in rows]),
        }
    )
    found = evaluate(model.features, asked, np.array([at for at, _ in rows]), frames)
    values = [found.values[name].to_list() for name in found.values.names]
    return values, {name: codes.tolist() for name, codes in found.reasons.items()}


def online(project: Project) -> list[tuple[Any, ...]]:
    from trimtab.features.online.read.request_plan import RequestPlan

    project.views.catch_up()
    plan = RequestPlan(project.definitions.models["m"].features, project.state.online)
    asked = [{"visit_id": "v", "site": site, "at": project.clock.now_us()} for site in ("north", "south", "nowhere")]
    found = plan.read(asked, project.clock.now_us())
    return [tuple(values) for values in found.values] + [tuple(map(int, codes)) for codes in found.reasons]


@pytest.mark.fast
def test_after_a_truncation_histories_features_and_pinned_answers_are_those_of_an_untruncated_twin(
    tmp_path: Path,
) -> None:
    chance = random.Random(1)
    write(tmp_path / "a"), write(tmp_path / "b")
    now_us, pins = shop.NOW_US, []
    with (
        opened(tmp_path / "a") as cut,
        opened(tmp_path / "a") as beside,  # appends to a partition of its own, which stays, and reads on much later
        opened(tmp_path / "b") as whole,
        opened(tmp_path / "b") as whole_beside,
    ):
        for turn in range(6):
            rows = []
            for n in range(40):  # late, corrected and repeated events, each in another order of times
                key = f"r{chance.randrange(turn * 30 + 40)}"
                at_us = now_us - chance.randrange(4 * DAY_US)
                rows.append(row(key, at_us, chance.choice([None, 0.5, -1.0, n / 7]), chance.choice(["north", "south"])))
            for project, second in ((cut, beside), (whole, whole_beside)):
                project.push("readings", rows[:25])
                second.push("readings", rows[25:])
                if turn:
                    project.push("readings", [{"id": f"r{turn}", "_op": "delete"}])
            pins.append((now_us, dict(cut.state.events.positions())))
            if turn == 1:
                beside.history.refresh()
            if turn % 2 == 0:
                done = cut.retain()
                assert done.truncated["p0001"] > 0
                assert done.truncated["p0002"] == 0
                assert "p0002.db: process" in done.notes[0]
                assert done.expired == {}
                assert cut.state.events.read("p0001", 0) == []
            for project in (cut, beside, whole, whole_beside):
                shop.move(project, 7 * HOUR_US)
            now_us += 7 * HOUR_US
            assert repr(online(cut)) == repr(online(whole))
        same_frames(cut, whole)
        same_frames(beside, whole)
        moments = [at for at, _ in pins] + [now_us]
        assert repr(features(cut, moments)) == repr(features(whole, moments))
        for at_us, positions in pins:
            assert repr(features(cut, [at_us], positions)) == repr(features(whole, [at_us], positions))
    with opened(tmp_path / "a", now_us) as again, opened(tmp_path / "b", now_us) as twin:
        assert again.retain().truncated == {"p0001": 26, "p0002": 90}
        same_frames(again, twin)
        again.views.store.reset()
        assert repr(online(again)) == repr(online(twin))  # filled again from the tables


def test_a_source_that_is_declared_after_a_truncation_begins_there(tmp_path: Path) -> None:
    with opened(write(tmp_path)) as project:
        project.push("readings", [row("a", shop.NOW_US - HOUR_US, 1.0)])
        project.retain()
    more = SITES.replace("visit = tt", 'extra = tt.source("extra", time="at", columns={"x": float})\nvisit = tt', 1)
    with opened(write(tmp_path, definitions=more)) as project:
        project.push("extra", [{"at": shop.NOW_US - HOUR_US, "x": 2.0}])
        project.push("readings", [row("b", shop.NOW_US - HOUR_US, 1.0)])
        project.history.refresh()
        assert [project.history.frame(name).rows for name in ("extra", "readings")] == [1, 2]
        assert project.retain().truncated == {"p0001": 2}
    with opened(tmp_path) as project:
        project.history.refresh()
        assert [project.history.frame(name).rows for name in ("extra", "readings")] == [1, 2]


@pytest.mark.parametrize("gone", [False, True])
def test_retaining_again_with_nothing_new_after_a_source_was_declared_leaves_a_project_that_can_be_read(
    tmp_path: Path, gone: bool
) -> None:
    more = SITES.replace("visit = tt", 'extra = tt.source("extra", time="at", columns={"x": float})\nvisit = tt', 1)
    with opened(write(tmp_path)) as project, opened(tmp_path) as beside:
        project.push("readings", [row("a", shop.NOW_US - HOUR_US, 1.0)])
        if gone:  # a partition that no process writes any more
            beside.push("readings", [row("b", shop.NOW_US - HOUR_US, 1.0)])
            beside.close()
        project.retain()
    with opened(write(tmp_path, definitions=more)) as project:
        for _ in range(2):
            project.retain()
            project.history.refresh()
        project.push("extra", [{"at": shop.NOW_US - HOUR_US, "x": 2.0}])
        assert project.retain().truncated["p0001"] == 1
    with opened(tmp_path) as project:
        project.history.refresh()
        assert [project.history.frame(name).rows for name in ("extra", "readings")] == [1, 1 + gone]


def test_what_a_rebuild_in_progress_still_reads_stays_in_the_log(trained: Path) -> None:
    with shop.opened(trained) as project, shop.opened(trained) as rebuilding:
        rebuilding.views.catch_up()
        online = rebuilding.views.store
        lease = Lease(rebuilding.state.catalog, "views", rebuilding.state.folder)
        assert lease.take()
        filling = Filling(online, "site", rebuilding.state.events).steps()

        log = project.state.events

        def push(level: float) -> int:
            at = project.push("readings", [{"site": "north", "level": level, "read_at": shop.NOW_US - 1}])
            online.apply(log.read(at.partition, at.position - 1))
            return at.position

        def left() -> list[int]:
            return [record.position for record in log.read(log.partition, 0)]

        next(filling)  # reads the log from its start
        push(1.0)
        done = project.retain()
        assert sum(done.truncated.values()) == 0
        assert "view 'site' is being filled" in done.notes[0]
        while not any(one.counts for name, one in online.cursors().items() if name.startswith("+")):
            next(filling)  # and then what came meanwhile
        last = push(2.0)
        project.retain()
        assert left() == [last]
        assert all(filled.view == "site" for filled in filling)
        lease.release()
        project.retain()
        assert left() == []
        write_cursors(online.kv, online.cursors() | {"+" + "0" * 16: BEGIN})
        push(3.0)
        project.retain()
        assert left() == []  # a rebuild that was broken off holds nothing


def test_a_source_that_is_declared_no_more_holds_the_log_and_is_named(tmp_path: Path) -> None:
    more = SITES.replace("visit = tt", 'extra = tt.source("extra", time="at", columns={"x": float})\nvisit = tt', 1)
    with opened(write(tmp_path, definitions=more)) as project:
        project.push("readings", [row("a", shop.NOW_US - HOUR_US, 1.0)])
        project.push("extra", [{"at": shop.NOW_US - HOUR_US, "x": 2.0}])
    with opened(write(tmp_path)) as project:
        done = project.retain()
        assert done.truncated == {"p0001": 1}
        assert "source 'extra' is no longer declared" in done.notes[0]
        assert len(project.state.events.read("p0001", 0)) == 1


def test_a_table_that_is_gone_after_a_truncation_is_named(tmp_path: Path) -> None:
    import shutil

    with opened(write(tmp_path)) as project:
        project.push("readings", [row("a", shop.NOW_US - HOUR_US, 1.0)])
        project.retain()
    shutil.rmtree(tmp_path / ".trimtab" / "tables" / "readings")
    with opened(tmp_path) as project, pytest.raises(Corrupt, match="tables/readings: records up to position"):
        project.history.refresh()


def test_events_that_are_not_kept_go_and_what_can_be_asked_stays_the_same(tmp_path: Path) -> None:
    kept = '[retention]\nevents = "30d"\n'
    with opened(write(tmp_path / "a", kept)) as cut, opened(write(tmp_path / "b")) as whole:
        rows = [row(f"r{n}", shop.NOW_US - 90 * DAY_US + n * 6 * HOUR_US, float(n % 5 - 2)) for n in range(356)]
        rows += [
            row("old", shop.NOW_US - 80 * DAY_US, 7.0, "south"),
            row("older", shop.NOW_US - 85 * DAY_US, 6.0, "south"),
        ]
        for project in (cut, whole):
            project.ingestor.push("readings", rows, history=True)
        assert cut.retain(dry_run=True).expired == {}  # there are no tables yet
        done = cut.retain()
        assert done.expired == {"readings": 239}  # of each site the newest and the one that came first stayed
        assert [note for note in done.notes if "site.level" in note]
        cut.state.tables(cut.sources, make=False)
    with opened(tmp_path / "a") as cut, opened(tmp_path / "b") as whole:
        moments = [shop.NOW_US - n * 6 * HOUR_US for n in range(95)]
        assert repr(features(cut, moments)) == repr(features(whole, moments))
        values, _ = features(cut, [shop.NOW_US])
        assert values[0][1] == 7.0  # the newest of the south, 80 days old
        assert repr(online(cut)) == repr(online(whole))
        assert cut.features_from_us(cut.definitions.models["m"]) > shop.NOW_US - 26 * DAY_US
        cut.views.store.reset()
        assert repr(online(cut)) == repr(online(whole))


def test_lifetime_features_over_a_source_that_is_not_kept_are_named(tmp_path: Path) -> None:
    counted = SITES.replace('"level": tt.latest("level")', '"level": tt.latest("level"), "ever": tt.count()')
    with opened(write(tmp_path, '[retention]\nevents = "30d"\n', counted)) as project:
        assert "site.ever: these cover the lifetime" in project.retain().notes[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('events = "10d"', r'\[retention\] events = "10d" is too short for source .readings.: site.n_5d looks back 5d, '
         r"and deployment .m.: its gate judges 14d"),
        ('predictions = "10d"', r"\[retention\] predictions = .10d. is too short: deployment .m."),
        ('sources = {reading = "30d"}', r"reading: no such source. Sources: readings, visit"),
    ],
)  # fmt: skip
def test_settings_that_keep_less_than_is_looked_at_are_refused(tmp_path: Path, settings: str, said: str) -> None:
    with pytest.raises(Misuse, match=said):
        opened(write(tmp_path, f"[retention]\n{settings}\n"))


def test_questions_about_moments_that_are_not_kept_are_refused_and_sets_leave_them_out(tmp_path: Path) -> None:
    folder = shop.write_project(tmp_path, settings='[retention]\nevents = "25d"\npredictions = "60d"\n')
    with shop.opened(folder) as project:
        shop.load(project)
        project.train("buyer")
        before = project.loop("buyer")._loop.builder._parts.data.training_set(
            project.definitions.models["buyer"], cut_us=shop.NOW_US
        )
        project.retain()
    with shop.opened(folder) as project:
        asked = [shop.visit("q", shop.NOW_US)]
        assert project.predict("buyer", asked, at=shop.NOW_US - 20 * DAY_US)
        with pytest.raises(
            Misuse, match=r"events that the features need were removed \(\[retention\]\). Give a time of"
        ):
            project.predict("buyer", asked, at=shop.NOW_US - 30 * DAY_US)
        after = project.loop("buyer")._loop.builder._parts.data.training_set(
            project.definitions.models["buyer"], cut_us=shop.NOW_US
        )
        kept = np.isin(before.at_us, after.at_us)
        assert 0 < after.at_us.size < before.at_us.size
        assert after.at_us.min() > shop.NOW_US - 25 * DAY_US
        assert kept.sum() == after.at_us.size


def test_a_version_in_service_that_looks_back_further_than_what_is_declared_now_keeps_its_events(
    tmp_path: Path,
) -> None:
    folder = shop.write_project(tmp_path)
    file = folder / "project.py"
    narrow = file.read_text()
    file.write_text(narrow.replace('over="1d"', 'over="30d"').replace('max_age="9h"', 'max_age="10d"'))
    with shop.opened(folder) as project:
        shop.load(project)
        project.train("buyer")
    file.write_text(narrow)
    (folder / "trimtab.toml").write_text('[retention]\nevents = "22d"\n')
    with shop.opened(folder) as project:
        said = (
            "readings are kept for 31d and not for the 22d of [retention], because a version in service needs them: "
            "site.level_1d looks back 30d"
        )
        assert [said in line for line in project.retain(dry_run=True).red] == [True]
        done = project.retain()
        assert [said in line for line in done.red] == [True]
        assert [said in line for line in project.status().red] == [True]
        times = project.state.tables(project.sources, make=False)["readings"].scan()["read_at"].values
        oldest = np.sort(times)[2]  # behind the first of each site
        assert shop.NOW_US - 32 * DAY_US < oldest < shop.NOW_US - 30 * DAY_US
        asked = [shop.visit("q", shop.NOW_US)]
        assert project.predict("buyer", asked, at=shop.NOW_US - HOUR_US)
        with pytest.raises(Misuse, match="events that the features need were removed"):
            project.predict("buyer", asked, at=shop.NOW_US - 3 * DAY_US)


def test_predictions_go_once_they_are_old_and_their_days_are_closed(tmp_path: Path) -> None:
    folder = shop.write_project(tmp_path, settings='[retention]\npredictions = "20d"\nquarantine = "10d"\n')
    with shop.opened(folder) as project:
        shop.load(project)
        project.train("buyer")
        first = project.predict("buyer", [shop.visit("q1", shop.NOW_US)])[0]
        project.push("readings", [{"read_at": "no time", "site": "north", "level": 1.0}])
        shop.move(project, 30 * DAY_US)
        assert project.retain().quarantined == 0  # nothing came since: the clock alone removes nothing
        project.push("readings", [{"read_at": project.clock.now_us() - 1, "site": "north", "level": 1.0}])
        assert project.retain().predictions == 0  # no tick has closed the day
        assert project.quarantine.counts() == {}
        project.tick()
        second = project.predict("buyer", [shop.visit("q2", project.clock.now_us())])[0]
        assert project.retain().predictions == 1
        assert project.predictions.get(first.id) is None
        assert project.predictions.find(second.id).request_id == "q2"
        project.tick()


def test_a_budget_turns_status_red_and_the_daily_run_keeps_it_while_it_can(tmp_path: Path) -> None:
    folder = shop.write_project(tmp_path, settings='[retention]\ndisk_budget = "1MB"\n')
    with shop.opened(folder) as project:
        shop.load(project)
        shop.load(project, per_day=200)
        assert any(line.startswith("disk: ") and "trimtab storage prune" in line for line in project.status().red)
        assert project.disk().frees_bytes > 0
        done = retain_when_due(project)
        assert done is not None
        assert done.freed_bytes > 0
        assert retain_when_due(project) is None  # once a day
        assert not any(line.startswith("disk: ") for line in project.status().red)
        shop.move(project, DAY_US)
        assert retain_when_due(project) is not None


def test_a_tick_without_a_service_removes_what_is_not_kept_once_a_day(tmp_path: Path) -> None:
    folder = write(tmp_path / "p", '[retention]\nquarantine = "10d"\n')
    with opened(folder) as project:
        assert project.push("readings", [{"id": "a", "read_at": "never", "site": "north"}]).quarantined == 1
        for days, there in (
            (9.0, True),
            (0.5, True),
            (2.0, False),
        ):  # a tick half a day after the last one is too early
            shop.move(project, int(days * DAY_US))
            project.push("readings", [{"id": f"b{days}", "read_at": project.clock.now_us(), "site": "north"}])
            project.tick()
            assert bool(project.quarantine.counts()) == there


def kills(folder: Path, times: int) -> None:
    """Kill -9 processes that push, truncate and read; every acknowledged event is there, once."""
    chance = random.Random(times)
    write(folder, '[retention]\nevents = "400d"\n')
    acknowledged: list[int] = []
    for _ in range(times):
        command = [sys.executable, str(KEEPER), str(folder), str(max(acknowledged, default=-1) + 1000)]
        with forked.Popen(command, stdout=subprocess.PIPE, text=True, env=shop.environment()) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline()]
            time.sleep(chance.random() * 1.0)
            os.kill(process.pid, signal.SIGKILL)
            lines += process.stdout.readlines()
        acknowledged += [int(line) for line in lines if line.endswith("\n")]
        with open_project(folder, environment={}) as project:
            project.history.refresh()
            found = project.history.frame("readings").columns["id"].to_list()
            assert len(found) == len(set(found))
            assert {f"r{n}" for n in acknowledged} <= set(found)
            project.views.catch_up()
            assert project.views.lag_records() == 0
    with open_project(folder, environment={}) as project:
        at = online(project)
        project.views.store.reset()
        assert repr(online(project)) == repr(at)


@pytest.mark.slow
def test_a_process_killed_while_it_retains_loses_and_doubles_nothing(tmp_path: Path) -> None:
    kills(tmp_path, 2)


@pytest.mark.soak
def test_a_process_killed_forty_times_while_it_retains_loses_and_doubles_nothing(tmp_path: Path) -> None:
    kills(tmp_path, 40)


def test_a_truncated_log_leaves_skew_checks_and_why_as_they_were(tmp_path: Path) -> None:
    folder = shop.write_project(tmp_path, settings='[retention]\nevents = "38d"\n')
    with shop.opened(folder) as project:
        shop.load(project)
        project.train("buyer")
        given = [project.predict("buyer", [shop.visit(f"q{n}", shop.NOW_US)])[0] for n in range(5)]
        before = project.why(given[0].id)
        project.retain()
    with shop.opened(folder, shop.NOW_US + HOUR_US) as project:
        assert project.why(given[0].id) == before
        (checked,) = project.skew("buyer", sample=None).models
        assert (checked.rows, checked.mismatches, checked.unchecked) == (5, 0, {})


def test_a_simulation_begins_where_all_events_are_kept(tmp_path: Path) -> None:
    folder = shop.write_project(tmp_path, settings='[retention]\nevents = "25d"\n')
    with shop.opened(folder) as project:
        shop.load(project)
        project.retain()
        with pytest.raises(Misuse, match=r"a replay from 2024-03-10T00:00:00Z needs events that were removed"):
            project.simulate(lines=["never"], start="2024-03-10")


def test_history_that_is_loaded_after_an_answer_changes_no_reason_of_it_when_it_is_not_kept(tmp_path: Path) -> None:
    folder = shop.write_project(tmp_path, settings='[retention]\nevents = "38d"\n')
    file = folder / "project.py"
    more = '"level_1d": tt.mean("level", over="1d"), "newest": tt.latest("level")'
    file.write_text(file.read_text().replace('"level_1d": tt.mean("level", over="1d")', more))

    def loaded(project: Project, site: str, days: int) -> None:
        at_us = project.clock.now_us() - days * DAY_US
        project.ingestor.push("readings", [{"site": site, "level": float(days), "read_at": at_us}], history=True)

    with shop.opened(folder) as project:
        shop.load(project)
        project.train("buyer")
        loaded(project, "east", 60)
        shop.move(project, HOUR_US)
        asked = [project.predict("buyer", [shop.visit("a", project.clock.now_us(), site="east")])[0]]
        for hours, days in ((1, 50), (30, 45), (1, 40)):  # newer ones, each older than what is kept
            loaded(project, "east", days)
            shop.move(project, hours * HOUR_US)
            asked.append(project.predict("buyer", [shop.visit("a", project.clock.now_us(), site="east")])[0])
        before = [project.why(one.id) for one in asked]
        assert project.retain().expired["readings"] > 0
    with shop.opened(folder, shop.NOW_US + 33 * HOUR_US) as project:
        (checked,) = project.skew("buyer", sample=None).models
        assert (checked.mismatches, checked.causes, checked.unchecked) == (0, {}, {})
        assert [project.why(one.id) for one in asked] == before
