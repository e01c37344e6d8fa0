"""Online features: who applies the log, one at a time, and snapshots that many threads ask for."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import shop

import forked
import trimtab as tt
from processes import eventually
from trimtab.app.online.views import Views
from trimtab.app.project import Project
from trimtab.app.state.lease import Lease
from trimtab.core.errors import Conflict, Misuse, NotFound, Unavailable
from trimtab.core.time import HOUR_US
from trimtab.features.online.fill.fill import unfilled
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.features.online.store import OnlineStore
from trimtab.store.ports import Log


def reading(n: int, level: float = 1.0) -> dict[str, object]:
    return {"site": "north", "level": level, "read_at": shop.NOW_US + n}


def test_a_project_that_caught_up_lets_another_one_serve(trained: Path) -> None:
    with shop.opened(trained) as notebook:
        assert notebook.predict("buyer", [shop.visit("a", shop.NOW_US)])[0].reasons == {}
        command = f"import sys, shop; shop.opened(__import__('pathlib').Path({str(trained)!r})).views.follow()"
        assert run(command) == 0
        assert notebook.views.catch_up()


def run(command: str) -> int | None:
    process = multiprocessing.get_context("spawn").Process(target=exec, args=(command,))
    process.start()
    process.join(timeout=60)
    return process.exitcode


def test_a_push_is_applied_before_the_next_answer_of_its_thread_without_a_write_to_the_catalogue(trained: Path) -> None:
    with shop.opened(trained) as project:
        for first in "ab":
            project.predict("buyer", [shop.visit(first, shop.NOW_US)])
        before = project.state.catalog.mark()

        def push_and_look(n: int) -> bool:
            pushed = project.push("readings", [reading(n)])
            project.predict("buyer", [shop.visit(f"v{n}", shop.NOW_US)])
            return project.views.store.positions()[pushed.partition] >= pushed.position

        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(push_and_look, range(60)))
        assert project.state.catalog.mark() == before


@pytest.mark.fast
def test_questions_about_the_past_share_the_history_of_the_process(trained: Path) -> None:
    with shop.opened(trained) as project:
        project.push("readings", [reading(0)])
        frames, positions = project.views.snapshot(None)
        assert positions == project.state.events.positions()
        assert frames["readings"] is project.history.frame("readings")
        assert project.views.snapshot({})[0]["readings"].rows == 0
        (view,) = project.views.views
        redeclared = tt.source("readings", time="read_at", delay="1h", columns={"site": str, "level": float})
        assert project.history.keeps(view.source)
        assert not project.history.keeps(redeclared)
        assert not project.history.keeps(tt.source("others", time="read_at", columns={"site": str}))


@pytest.mark.slow
@pytest.mark.fast
def test_one_applies_at_a_time_also_in_one_process(trained: Path) -> None:
    with shop.opened(trained) as serving, shop.opened(trained) as other:
        following = serving.views.follow()
        pushed = other.push("readings", [reading(0)])
        assert other.views.followed()
        assert not other.views.catch_up()
        assert not serving.views.catch_up()  # and the applier's lease is still there
        with pytest.raises(Conflict, match="another process applies"):
            other.views.follow()
        with following.start() as applier:
            applier.wait_applied({pushed.partition: pushed.position}, 10)
        serving.views.release()
        assert not other.views.followed()
        other.push("readings", [reading(1)])
        assert (other.views.lag_records(), other.views.behind_us()) == (1, 0)
        assert other.views.catch_up()
        assert other.views.lag_records() == 0


def test_the_applier_waits_while_another_process_writes(trained: Path) -> None:
    with shop.opened(trained) as project:
        project.views.catch_up()
        writing = f"""
import sys
from pathlib import Path
from trimtab.store.lmdb.kv import LmdbKeyValue
store = LmdbKeyValue(Path({str(trained / ".trimtab" / "online")!r}))
store.write({{b"other": b"1"}})
print("writing", flush=True)
sys.stdin.read()
store.close()
"""
        command = [sys.executable, "-c", writing]
        process = forked.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        with project.views.follow().start() as applier:
            pushed = project.push("readings", [reading(0)])
            with pytest.raises(Unavailable):
                applier.wait_applied({pushed.partition: pushed.position}, 0.3)
            eventually(lambda: "is writing here" in (project.views.blocked or ""))
            process.communicate(timeout=60)  # its standard input closes, and it ends
            assert process.returncode == 0
            applier.wait_applied({pushed.partition: pushed.position}, 60)
            assert (applier.failure, project.views.blocked) == (None, None)
    with shop.opened(trained) as again:
        assert not again.views.followed()
    assert "trimtab-lease" not in [thread.name for thread in threading.enumerate()]


def test_a_lease_of_the_dead_is_free_at_once_and_one_of_the_living_is_renewed(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop.opened(trained) as project:
        killed = f"import os, shop, pathlib; shop.opened(pathlib.Path({str(trained)!r})).views.follow(); os._exit(1)"
        assert run(killed) == 1
        project.views.follow().close()
        project.views.release()
    with shop.opened(trained) as project:
        clock_s, renewed = [0.0], []
        acquire = project.state.catalog.acquire

        def counted(name: str, holder: str, ttl_s: float) -> bool:
            taken = acquire(name, holder, ttl_s)
            renewed.append(holder)
            return taken

        monkeypatch.setattr("trimtab.app.state.lease.time", SimpleNamespace(monotonic=lambda: clock_s[0]))
        monkeypatch.setattr(project.state.catalog, "acquire", counted)
        lease = Lease(project.state.catalog, "short", trained, ttl_s=0.4)
        assert lease.take()
        for _ in range(5):
            clock_s[0] += 0.3
            shop.move(project, 300_000)
            assert lease.held
            seen = renewed.count(lease.holder)
            eventually(lambda seen=seen: renewed.count(lease.holder) >= seen + 2)  # the first may have begun before
            assert not acquire("short", "somebody", 30)
        lease.release()
        assert not lease.held
        assert project.state.catalog.acquire("short", "somebody", 30)
        assert not Lease(project.state.catalog, "short", trained).take()


@pytest.mark.slow
def test_snapshots_of_many_threads_are_each_of_one_moment(trained: Path) -> None:
    """A source is a view's, so its events up to P must be those of the frame, while others push."""
    with shop.opened(trained) as project:
        stop = threading.Event()

        def push() -> None:
            n = 0
            while not stop.is_set():
                n += 1
                project.push("readings", [reading(n, float(n))])

        def look() -> list[tuple[int, int]]:
            found = []
            for _ in range(10):
                frames, positions = project.views.snapshot(None)
                frame = frames["readings"]
                pinned, _ = project.views.snapshot(positions)
                found.append((frame.rows, pinned["readings"].rows))
            return found

        pusher = threading.Thread(target=push)
        pusher.start()
        with ThreadPoolExecutor(8) as threads:
            results = [f.result() for f in [threads.submit(look) for _ in range(4)]]
        stop.set()
        pusher.join()
        assert all(one == other for found in results for one, other in found)
        answers = project.predict("buyer", [shop.visit("a", shop.NOW_US)], at=shop.NOW_US - HOUR_US)
        assert answers[0].flags == ("past",)


@pytest.mark.parametrize("name", ["a b", "50%", "what?", "so # so", "ä", "%20"])
def test_any_folder_name_will_do(name: str, tmp_path: Path) -> None:
    folder = shop.write_project(tmp_path / name)
    with shop.opened(folder) as project:
        project.push("readings", [reading(0)])
        assert project.views.catch_up()
        for part in ("predictions", "quarantine", "catalog", "blob", "answers", "learners"):
            assert getattr(project.state, part) is not None
        project.state.blob.put(b"x")
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]
    assert {"blob", "online", "log", "answers", "learners", "catalog.db"} <= {
        p.name for p in (folder / ".trimtab").iterdir()
    }


def test_a_lease_that_another_one_has_is_waited_for_or_refused(trained: Path) -> None:
    with shop.opened(trained) as project:
        one, two = (Lease(project.state.catalog, "short", trained) for _ in range(2))
        with one.taken("one is at work."):
            with pytest.raises(Conflict, match="one is at work"), two.taken("one is at work.", patience_s=0.1):
                pass
            assert one.held
        assert one.take()
        done = threading.Timer(0.2, one.release)
        done.start()
        with two.taken("one is at work.", patience_s=60):
            assert (one.held, two.held) == (False, True)
        done.join()
        assert two.free()


def test_a_view_is_rebuilt_here_or_by_the_process_that_applies(trained: Path) -> None:
    with shop.opened(trained) as serving, shop.opened(trained) as other:
        serving.views.catch_up()
        view = serving.views.views[0].name
        before = generations(serving)
        assert other.views.rebuild(view) > 0
        assert generations(serving) != before
        with serving.views.follow().start() as applier:
            told: list[tuple[int, int]] = []
            again = generations(serving)
            pushed = serving.push("readings", [reading(0)])
            other.views.rebuild(view, progress=lambda done, of: told.append((done, of)))
            assert generations(serving) != again
            applier.wait_applied({pushed.partition: pushed.position}, 10)
            assert applier.failure is None
            with pytest.raises(Conflict, match="by itself every hour"):
                other.views.compact()
        serving.views.release()
        assert other.views.compact().done
        with pytest.raises(NotFound, match="no deployed model uses a view of this name"):
            other.views.rebuild("nothing")


def follow(views: Views, then: Callable[..., object]) -> None:
    views.follow().close()
    then()
    views.release()


@pytest.mark.parametrize(
    "work",
    [
        follow,
        lambda views, then: views.rebuild(views.views[0].name, progress=then),
        lambda views, then: views.rebuild_all(progress=then),
    ],
    ids=["follow", "rebuild", "rebuild_all"],
)
def test_others_may_apply_after_the_store_was_closed_in_the_midst_of_it(
    trained: Path, work: Callable[[Views, Callable[..., object]], object]
) -> None:
    with shop.opened(trained) as project, shop.opened(trained) as other:
        project.views.catch_up()
        with pytest.raises(Misuse, match="closed"):
            work(project.views, lambda *_: project.state.online.close())
        assert not other.views.followed()
        assert other.views.rebuild_all() > 0


def test_a_view_that_begins_is_filled_while_the_others_are_applied_to(trained: Path) -> None:
    """Its states go, as those of a definition that was never kept: the others are read and followed on."""
    with shop.opened(trained) as project:
        project.views.catch_up()
        gone = project.views.store.plans[project.views.views[0].name]
        OnlineStore(project.state.online, [gone.view]).reset()
        with project.views.follow().start() as applier:
            pushed = project.push("readings", [reading(0)])
            applier.wait_applied({pushed.partition: pushed.position}, 10)
            assert unfilled(project.views.store) == []
            places = {str(cursor.place) for cursor in project.views.store.cursors().values()}
            assert len(places) == 1
        assert project.predict("buyer", [shop.visit("a", shop.NOW_US)])[0].reasons == {}


def generations(project: Project) -> dict[str, int]:
    return {name: cursor.generation for name, cursor in project.views.store.cursors().items()}


def test_a_view_is_rebuilt_from_tables_where_the_log_was_truncated(trained: Path) -> None:
    with shop.opened(trained) as project:
        project.views.catch_up()
        plan = RequestPlan(project.definitions.models["buyer"].features, project.state.online)
        asked = [shop.visit("a", shop.NOW_US, site=site) for site in ("north", "south", "nowhere")]
        before = plan.read(asked, shop.NOW_US)
        counts = project.views.store.counts()
        assert sum(project.retain().truncated.values()) > 0
        for view in {v.name for v in project.views.views}:
            assert project.rebuild(view) == counts[view].applied
        after = plan.read(asked, shop.NOW_US)
        assert (after.values, after.reasons, after.at_us) == (before.values, before.reasons, before.at_us)
        assert project.views.store.counts() == counts
        s_us = project.views.store.s_us
        project.views.store.reset()  # as forgetting does
        assert project.views.catch_up()
        assert project.views.store.s_us == s_us  # although the log has no record left to tell
        project.push("readings", [reading(0)])
        assert project.views.catch_up()
        assert project.views.lag_records() == 0


class Pushed:
    """A log to which others append whenever somebody looks how far it is."""

    def __init__(self, log: Log, payload: bytes) -> None:
        self._log, self._payload, self.looks = log, payload, 0

    def positions(self) -> dict[str, int]:
        self.looks += 1
        assert self.looks < 500, "it is read until nothing is new"
        self._log.append([self._payload] * 50)
        return self._log.positions()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


@pytest.mark.parametrize("filled", [True, False], ids=["filled", "filled by the call"])
@pytest.mark.parametrize("act", ["predict", "apply", "retain", "rebuild_all", "tick"])
def test_what_reads_the_log_ends_while_others_push_faster_than_it_reads(trained: Path, act: str, filled: bool) -> None:
    with shop.opened(trained) as project:
        project.push("readings", [reading(0)])
        log = project.state.events
        if not filled:
            project.views.store.reset()
        last = log.positions()[log.partition]
        project.state.__dict__["events"] = Pushed(log, log.read(log.partition, last - 1)[0].payload)
        acts: dict[str, Callable[[], object]] = {
            "predict": lambda: project.predict("buyer", [shop.visit("a", shop.NOW_US)]),
            "apply": project.apply,
            "retain": project.retain,
            "rebuild_all": project.rebuild_all,
            "tick": project.tick,
        }
        acts[act]()
        assert act == "tick" or project.views.store.positions()[log.partition] >= last
