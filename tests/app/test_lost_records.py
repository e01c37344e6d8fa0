"""An event log that does not hold any more what was read from it: who says so, and how one goes on."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import shop
from alias_moves import AS_OF, CLI

import forked
from processes import eventually
from trimtab.app.inspect.doctor import examine
from trimtab.app.project import Project
from trimtab.app.state.lost_records import lost_records
from trimtab.core.errors import Corrupt
from trimtab.core.time import HOUR_US, MINUTE_US
from trimtab.events.records import Event, encode
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.store.sqlite.log import SqliteLog

Loss = Callable[[Path, Path], None]
AT = {"at": AS_OF}
PUSHES = """
import sys
from trimtab.app.project import open_project
from trimtab.core.clock import VirtualClock
import os
project = open_project(sys.argv[1], clock=VirtualClock(int(sys.argv[2])), environment={})
rows = [{"read_at": int(sys.argv[2]) - n, "site": "east", "level": float(n)} for n in range(1, 8)]
project.push("readings", rows)
project.views.catch_up()
os._exit(9)
"""
RECOVERS = """
import os, signal, sys, threading, time
from trimtab.app.project import open_project
from trimtab.core.clock import VirtualClock
with open_project(sys.argv[1], clock=VirtualClock(int(sys.argv[2])), environment={}) as project:
    project.recover(dry_run=True)
    project.materialise()
    kill = threading.Timer(float(sys.argv[3]), os.kill, (os.getpid(), signal.SIGKILL))
    kill.start()
    project.recover()
    kill.cancel()
"""


def folder_gone(log: Path, before: Path) -> None:
    shutil.rmtree(log)


def file_gone(log: Path, before: Path) -> None:
    (log / "p0001.db").unlink()


def rolled_back(log: Path, before: Path) -> None:
    shutil.rmtree(log)
    shutil.copytree(before, log)


def wal_gone(log: Path, before: Path) -> None:
    (log / "p0001.db-wal").unlink()


LOSSES = [folder_gone, file_gone, rolled_back, wal_gone]


@pytest.fixture
def behind(trained: Path, tmp_path: Path, loss: Loss) -> Path:
    """A project whose events went to features, and then from the log; nothing has looked at it since."""
    log = trained / ".trimtab" / "log" / "events"
    with shop.opened(trained) as project:
        project.views.catch_up()
    shutil.copytree(log, tmp_path / "before")
    killed = forked.run([sys.executable, "-c", PUSHES, trained, str(shop.NOW_US)], check=False, timeout=60)
    assert killed.returncode == 9
    loss(log, tmp_path / "before")
    return trained


def reading(level: float, site: str = "east") -> dict[str, Any]:
    return {"read_at": shop.NOW_US - 1, "site": site, "level": level}


def level_of(project: Project, site: str) -> float | None:
    project.views.catch_up()
    features = project.definitions.models["buyer"].features
    rows = RequestPlan(features, project.state.online).read([shop.visit("q", shop.NOW_US, 1.0, site)], shop.NOW_US)
    level: float | None = rows.values[0][list(features.names).index("site.level")]
    return level


@pytest.mark.parametrize("loss", LOSSES)
def test_a_log_behind_its_readers_is_named_and_nothing_is_pushed_to_it(behind: Path, loss: Loss) -> None:
    with shop.opened(behind) as project:
        for _ in range(2):
            with pytest.raises(Corrupt, match=r"p0001 ends at .* records .* trimtab storage recover"):
                project.push("readings", [reading(1.0)])
        (red,) = [line for line in project.status().red if "trimtab storage recover" in line]
        assert "log/events: partition p0001" in red
        assert "view " in red
    found = [one for one in examine(behind, {}) if one.name == "logs"]
    assert [one.state for one in found] == ["missing"]
    assert "trimtab storage recover" in found[0].fix
    with shop.opened(behind) as project, pytest.raises(Corrupt, match="trimtab storage recover"):
        project.serve(port=0)
    with shop.opened(behind) as project, pytest.raises(Corrupt, match="trimtab storage recover"):
        project.backup(behind.parent / "copy")


@pytest.mark.parametrize("loss", LOSSES)
def test_recover_says_what_is_lost_and_lets_the_log_go_on(behind: Path, loss: Loss) -> None:
    with shop.opened(behind) as project:
        planned = project.recover(dry_run=True)
        done = project.recover(actor="me")
        assert done.lost == planned.lost
        (lost,) = done.lost
        assert (lost.partition, lost.last - lost.first + 1 >= 7, lost.in_tables) == ("p0001", True, 0)
        assert lost.readers.keys() >= {"view site"}
        assert project.recover().is_empty
        before = level_of(project, "north")
        pushed = project.push("readings", [reading(41.5), reading(0.5, "north")])
        assert pushed.position > lost.last
        assert (level_of(project, "east"), level_of(project, "north")) == (41.5, 0.5) != before
        project.materialise()
        assert 41.5 in project.state.tables(project.sources, make=False)["readings"].scan()["level"].to_list()
        assert not [line for line in project.status().red if "recover" in line]
        assert [d.act for d in project.ledger()][-1] == "recover"
        assert project.verify_ledger()
    with shop.opened(behind) as project:
        project.rebuild_all()
        assert level_of(project, "east") == 41.5
        project.history.refresh()
        assert 41.5 in project.history.frame("readings").columns["level"].to_list()
        assert not [line for line in project.status().red if "recover" in line]
    assert not [one for one in examine(behind, {}) if one.name == "logs"]


@pytest.mark.parametrize("loss", [folder_gone, rolled_back])
def test_what_the_tables_have_is_not_lost(trained: Path, loss: Loss, tmp_path: Path) -> None:
    log = trained / ".trimtab" / "log" / "events"
    with shop.opened(trained) as project:
        project.views.catch_up()
    shutil.copytree(log, tmp_path / "before")
    with shop.opened(trained) as project:
        project.push("readings", [reading(3.0)])
        project.retain()
        project.push("readings", [reading(4.0)])
        project.views.catch_up()
        expected = level_of(project, "east")
        end = project.state.events.positions()["p0001"]
    loss(log, tmp_path / "before")
    with shop.opened(trained) as project:
        assert [line for line in project.status().red if "trimtab storage recover" in line]
        (lost,) = project.recover().lost
        assert (lost.last, lost.in_tables) == (end, lost.last - lost.first)  # all but the newest
        assert not [line for line in project.status().red if "recover" in line]
        assert level_of(project, "east") == expected == 4.0
        project.rebuild_all()
        assert level_of(project, "east") == 3.0
        assert project.push("readings", [reading(5.0)]).position == end + 1
        assert level_of(project, "east") == 5.0
        project.history.refresh()
        assert {3.0, 5.0} <= set(project.history.frame("readings").columns["level"].to_list())
        project.retain()
        project.backup(tmp_path / "copy")


@pytest.mark.parametrize("loss", [rolled_back])
def test_what_was_acknowledged_behind_a_loss_reaches_features_after_all(behind: Path, loss: Loss) -> None:
    """As an older version let it happen: the log took new events under positions that its readers had passed."""
    event = Event("readings", "x", shop.NOW_US, 0, "upsert", False, ("west", 17.0, shop.NOW_US))
    with SqliteLog(behind / ".trimtab" / "log" / "events") as log:
        log.append([encode(event)], at_us=[shop.NOW_US + HOUR_US])
    with shop.opened(behind, shop.NOW_US + HOUR_US) as project:
        done = project.recover()
        assert done.lost[0].appended_again == 1
        assert level_of(project, "west") == 17.0


def is_written(log: Path) -> bool:
    with SqliteLog(log) as opened:
        return any(opened.positions().values())


@pytest.mark.parametrize("mode", ["relaxed", "durable"])
def test_no_answer_claims_to_be_logged_once_the_prediction_log_was_moved(trained: Path, mode: str) -> None:
    (trained / "trimtab.toml").write_text(f'[serve]\nlog = "{mode}"\n')
    log, away = trained / ".trimtab" / "log" / "predictions", trained / "away"
    given: list[str] = []

    def ask(url: str) -> int:
        code, answer = shop.call(f"{url}/v1/models/buyer/predict", {"request": shop.visit("q", shop.NOW_US) | AT})
        if code == 200:
            given.append(answer["id"])
        else:
            assert (code, "was removed" in answer["detail"]) == (503, True), answer
        return code

    with shop.serving(trained, "--as-of", AS_OF) as (_, url):
        assert ask(url) == 200
        eventually(lambda: is_written(log))  # a log that is still being created would be created again
        log.rename(away)
        codes = {ask(url) for _ in range(3)}
        assert codes == ({503} if mode == "durable" else {200})  # those are noted, as on a full disk
        eventually(lambda: shop.call(f"{url}/health/ready")[0] == 503)
        eventually(lambda: "predictions cannot be logged" in status(trained))
        away.rename(log)
        eventually(lambda: ask(url) == 200)
        eventually(lambda: shop.call(f"{url}/health/ready")[0] == 200)
    with shop.opened(trained) as project:
        assert sorted(one.id for block in project.predictions.scan() for one in block) == sorted(given)


def test_a_log_that_is_replaced_under_a_service_takes_no_event_and_is_red(trained: Path, tmp_path: Path) -> None:
    log = trained / ".trimtab" / "log" / "events"
    with shop.opened(trained) as project:
        project.views.catch_up()
    shutil.copytree(log, tmp_path / "older")
    row = {"site": "east", "level": 1.0, "read_at": AS_OF}
    with shop.serving(trained, "--as-of", AS_OF) as (_, url):
        assert shop.call(f"{url}/v1/events/readings?wait=applied", row)[0] == 200
        log.rename(tmp_path / "newer")
        shutil.copytree(tmp_path / "older", log)
        code, body = shop.call(f"{url}/v1/events/readings", {**row, "level": 2.0})
        assert code >= 500
        code, body = shop.call(f"{url}/v1/events/readings", {**row, "level": 3.0})
        assert code >= 500
        assert "trimtab storage recover" in body["detail"]
        eventually(lambda: shop.call(f"{url}/health/ready")[0] == 503)
        assert "trimtab storage recover" in shop.call(f"{url}/health/ready")[1]["detail"]
        assert "trimtab storage recover" in status(trained)
    refused = forked.run([*CLI, "serve"], cwd=trained, env=shop.environment(), capture_output=True, check=False)
    assert refused.returncode == 6
    asked = forked.run(
        [*CLI, "storage", "recover"],
        cwd=trained,
        env=shop.environment(),
        capture_output=True,
        text=True,
        check=False,
        stdin=-3,
    )
    assert (asked.returncode, "--yes" in asked.stderr) == (2, True)
    done = forked.run(
        [*CLI, "storage", "recover", "--yes", "--json"],
        cwd=trained,
        env=shop.environment(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["lost"][0]["partition"] == "p0001"
    with shop.serving(trained, "--as-of", AS_OF) as (_, url):
        assert shop.call(f"{url}/v1/events/readings?wait=applied", {**row, "level": 4.0})[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("loss", [rolled_back])
def test_killing_recover_at_any_time_loses_no_more(behind: Path, loss: Loss, tmp_path: Path) -> None:
    with shop.opened(behind) as project:
        project.history.refresh()
        events = project.history.frame("readings").rows
    steps = 0
    for n in range(5):
        state = Path(shutil.copytree(behind, tmp_path / f"killed{n}"))
        killed = forked.run(
            [sys.executable, "-c", RECOVERS, state, str(shop.NOW_US), str(n * 0.012)], check=False, timeout=60
        )
        steps += killed.returncode == -9
        with shop.opened(state) as project:
            project.recover()
            assert project.verify_ledger()
            assert project.push("readings", [reading(41.5)]).position > 7
            assert level_of(project, "east") == 41.5
            project.history.refresh()
            assert project.history.frame("readings").rows == events + 1
    assert steps > 1


def test_a_prediction_log_that_was_rolled_back_is_red_and_keeps_what_is_left(trained: Path, tmp_path: Path) -> None:
    log = trained / ".trimtab" / "log" / "predictions"

    def predict(project: Project) -> str:
        return project.predict("buyer", [shop.visit("q", shop.NOW_US)])[0].id

    with shop.opened(trained) as project:
        kept = predict(project)
    shutil.copytree(log, tmp_path / "before")
    with shop.opened(trained) as project:
        gone = predict(project)
        project.tick()
    rolled_back(log, tmp_path / "before")
    with shop.opened(trained) as project:
        assert [line for line in project.status().red if "log/predictions" in line]
        with pytest.raises(Corrupt, match="trimtab storage recover"):
            project.predictions.read({"p0001": 2})
        (lost,) = project.recover().lost
        assert (lost.log, lost.first, lost.last) == ("predictions", 2, 2)
        assert not [line for line in project.status().red if "log/predictions" in line]
        assert project.predictions.find(kept).id == kept
        assert project.predictions.get(gone) is None
        new = predict(project)
        assert project.predictions.find(new).id == new
        assert project.predictions.log.positions() == {"p0001": 4}


def status(folder: Path) -> str:
    done = forked.run([*CLI, "status"], cwd=folder, env=shop.environment(), capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_a_learner_that_knows_labels_of_a_log_that_was_rolled_back_is_named(trained: Path, tmp_path: Path) -> None:
    log, before = trained / ".trimtab" / "log" / "events", tmp_path / "before"
    with shop.opened(trained, shop.NOW_US + MINUTE_US) as project:
        project.predict("learner", [shop.visit("a", project.clock.now_us(), x=2.0)])
    shutil.copytree(log, before)
    with shop.opened(trained, shop.NOW_US + 2 * MINUTE_US) as project:
        sale = {"visit_id": "a", "site": "north", "bought": True, "closed_at": project.clock.now_us()}
        project.push("sales", [sale])
        shop.move(project, 2 * HOUR_US)
        assert project.teacher("learner").teach() == 1
        later_us = project.clock.now_us()
    rolled_back(log, before)
    with shop.opened(trained, later_us) as project:
        (lost,) = lost_records(project.state)
        assert [name.split("/")[0] for name in lost.readers] == ["learner learner"]
        with pytest.raises(Corrupt, match=r"learner learner/\w+ up to .* trimtab storage recover"):
            project.push("sales", [sale])
        project.recover()
    with shop.opened(trained, later_us) as project:
        assert lost_records(project.state) == []
        project.push("sales", [sale])
