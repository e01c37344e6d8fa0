"""Online features that are damaged, removed or replaced: who says so, what mends them, what is answered meanwhile."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest
import shop
from alias_moves import AS_OF, CLI

import forked
from processes import eventually
from trimtab.app.inspect.doctor import examine
from trimtab.app.online.rebuilding import Rebuild, Rebuilds
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Corrupt
from trimtab.core.time import HOUR_US
from trimtab.features.online.compaction import Compaction
from trimtab.features.online.read.entity_read import read_entity
from trimtab.features.online.store import POSITIONS_KEY
from trimtab.serving.workers.states import read_state

MEND = "trimtab storage rebuild --all"


def empty(data: Path) -> None:
    data.write_bytes(b"")


def another_head(data: Path) -> None:
    data.write_bytes(b"\x55" * 8_192 + data.read_bytes()[8_192:])


def cut_short(data: Path) -> None:
    os.truncate(data, data.stat().st_size // 2)


def junk(data: Path) -> None:
    data.write_bytes(random.Random(14).randbytes(40_960))


def a_folder(data: Path) -> None:
    data.unlink()
    data.mkdir()


def foreign(data: Path) -> None:
    """An environment of another program."""
    with lmdb.open(str(data.parent.parent / "foreign")) as environment, environment.begin(write=True) as writing:
        writing.put(b"a", b"b")
    shutil.copy(data.parent.parent / "foreign" / "data.mdb", data)
    shutil.rmtree(data.parent.parent / "foreign")


def flipped(data: Path, key: bytes | None = None) -> None:
    """Damage in one value alone, the last one or that of a key: what it is found by is whole."""
    with lmdb.open(str(data.parent)) as environment, environment.begin(write=True) as writing:
        cursor = writing.cursor()
        assert cursor.last() if key is None else cursor.set_key(key)
        key, value = cursor.item()
        writing.put(key, bytes([value[0] ^ 1]) + value[1:])


def trimtab(folder: Path, *words: str) -> tuple[int, str]:
    done = forked.run(
        [*CLI, *words], cwd=folder, env=shop.environment(), capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def filled(trained: Path) -> Path:
    with shop.opened(trained) as project:
        project.views.catch_up()
    return trained


@pytest.mark.parametrize("damage", [junk, a_folder])  # each damage is named and repaired below
def test_the_status_says_everything_else_and_what_mends_damaged_features(
    filled: Path, damage: Callable[[Path], None]
) -> None:
    damage(filled / ".trimtab" / "online" / "data.mdb")
    status, said = trimtab(filled, "status", "--check", "--json")
    assert status == 1
    found = json.loads(said)
    assert [one["version"] for one in found["deployments"]] == ["buyer@2", "learner@2"]
    assert (found["lag_records"], found["views"]) == (None, {})
    (red,) = [line for line in found["red"] if "online features are damaged" in line]
    assert red.endswith(f"Repair it: {MEND}")
    assert "backup" not in red  # one remedy
    assert "online features: damaged" in trimtab(filled, "status")[1]
    assert trimtab(filled, "features")[0] == 0
    with pytest.raises(Corrupt, match=MEND), shop.opened(filled) as project:
        project.serve(port=0)


@pytest.mark.parametrize(
    ("store", "damage"), [("answers", empty), ("answers", a_folder), ("learners", junk), ("learners", foreign)]
)
def test_the_status_and_doctor_name_other_stores_that_cannot_be_opened(
    filled: Path, store: str, damage: Callable[[Path], None]
) -> None:
    with shop.opened(filled) as project:
        getattr(project.state, store).write({b"a": b"b"})
    damage(filled / ".trimtab" / store / "data.mdb")
    status, said = trimtab(filled, "status", "--check", "--json")
    assert status == 1
    (red,) = [line for line in json.loads(said)["red"] if f"/{store}" in line]
    assert red.endswith("Repair it: trimtab storage restore BACKUP --force")
    found = next(one for one in examine(filled, {}) if one.name == "state")
    assert found.state == "missing"
    assert f"/{store}" in found.found
    with shop.opened(filled) as project, pytest.raises(Corrupt, match=f"/{store}.*Repair it"):
        getattr(project.state, store).get(b"a")


def test_a_status_makes_no_stores(filled: Path) -> None:
    shutil.rmtree(filled / ".trimtab" / "answers", ignore_errors=True)
    assert trimtab(filled, "status")[0] == 0
    assert not (filled / ".trimtab" / "answers").exists()


@pytest.mark.parametrize("damage", [empty, another_head, cut_short, flipped, junk, a_folder, foreign])
def test_rebuilding_all_mends_every_damage(filled: Path, damage: Callable[[Path], None]) -> None:
    with shop.opened(filled) as project:
        views = list(project.views.views)
        before = read_entity(project.state.online, views, ["north"], shop.NOW_US).views
    damage(filled / ".trimtab" / "online" / "data.mdb")
    state = next(one for one in examine(filled, {}) if one.name == "state")
    assert state.state == "missing"
    assert MEND in state.found
    assert trimtab(filled, "storage", "rebuild", "--all") == (0, "all views: rebuilt from 640 records\n")
    assert next(one for one in examine(filled, {}) if one.name == "state").state == "ok"
    assert not (filled / ".trimtab" / "online.before").exists()
    with shop.opened(filled) as project:
        assert project.views.damage() is None
        assert read_entity(project.state.online, views, ["north"], shop.NOW_US).views == before


def test_a_failed_compaction_after_a_rebuild_is_no_failed_rebuild(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(_: Compaction) -> Any:
        raise Corrupt("a state is damaged")

    with shop.opened(filled) as project:
        project.views.follow()  # as a service does, but without its thread
        work, rebuilds = project.views._work, Rebuilds(project.state.catalog)
        rebuilds.note("site", Rebuild())
        while work.piece(busy=False):
            pass
        assert project.state.catalog.find("rebuild") == []
        monkeypatch.setattr(Compaction, "step", step)
        project.clock.advance_to(shop.NOW_US + 2 * HOUR_US)  # type: ignore[attr-defined]  # a virtual clock
        assert not work.piece(busy=False)
        assert work.failure == "a state is damaged"
        assert project.state.catalog.find("rebuild") == []
        project.views.release()


def test_what_cannot_be_made_anew_is_put_back(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with shop.opened(filled) as project:
        before = project.views.store.counts()

        def fill(_: Any, names: Any = None) -> Any:
            raise Corrupt("the log is damaged")

        with monkeypatch.context() as patched:
            patched.setattr("trimtab.app.online.view_work.ViewWork.fill", fill)
            with pytest.raises(Corrupt, match="the log is damaged"):
                project.rebuild_all()
        assert project.views.store.counts() == before
        assert project.rebuild_all() == 640  # in a process that has read the one before
        assert project.views.store.counts() == before


ELSEWHERE = """
import os, signal, sys
from pathlib import Path
import shop
from trimtab.core.columns.data import Columns

def wait(*_):
    print("filling", flush=True)
    sys.stdin.readline()

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

with shop.opened(Path(sys.argv[1])) as project:
    project.rebuild_all(progress={"wait": wait, "die": die}[sys.argv[2]])
    north = {"site": ("str", ["north"]), "level": ("float", [777.0]), "read_at": ("time", [shop.NOW_US - 1_000])}
    project.ingestor.load("readings", Columns.of(north))
    project.views.catch_up()
    lease = project.views._lease()  # as a service has it
    assert lease.take()
    print("made", flush=True)
    while sys.stdin.readline() == "\\n":
        pass
    lease.let_go()
"""


def elsewhere(folder: Path, what: str) -> subprocess.Popen[str]:
    """A process that makes all online features anew, and then applies an event as a service does."""
    return forked.Popen(
        [sys.executable, "-c", ELSEWHERE, str(folder), what],
        env=shop.environment() | {"PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), *sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def told(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{line}\n"


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n" * 100)
    process.stdin.flush()


def test_an_open_process_reads_what_another_makes_anew_once_it_is_there(filled: Path) -> None:
    with shop.opened(filled) as project:

        def answered() -> tuple[float, ...]:
            found = project.predict("buyer", [shop.visit("a", shop.NOW_US)])[0]
            return tuple(value.value for value in project.why(found.id).inputs)

        before = answered()
        with elsewhere(filled, "wait") as other:
            told(other, "filling")
            for _ in range(20):
                assert answered() == before  # and not from the half-filled file
            go_on(other)
            while (line := other.stdout.readline()) == "filling\n":  # type: ignore[union-attr]
                pass
            assert line == "made\n"
            eventually(lambda: 777.0 in answered())
            other.communicate("end\n")


def test_what_a_killed_rebuild_leaves_is_erased_and_goes_when_events_are_applied_again(filled: Path) -> None:
    aside = filled / ".trimtab" / "online.before"
    with shop.opened(filled) as project:
        site = {"site": ("str", ["forget-me-4711"]), "level": ("float", [1.0]), "read_at": ("time", [shop.NOW_US])}
        project.ingestor.load("readings", Columns.of(site))
        project.views.catch_up()
        before = project.predict("buyer", [shop.visit("a", shop.NOW_US)])[0].score
    for begin in ("forget", "catch_up", "follow", "rebuild"):
        with elsewhere(filled, "die") as other:
            assert other.wait(60) < 0
        assert aside.exists()
        with shop.opened(filled) as project:
            if begin == "forget":
                done = project.forget("site", "forget-me-4711")
                assert (done.residue, done.workspaces) == ([], ["online.before"])
            elif begin == "follow":
                project.views.follow()
            elif begin == "rebuild":
                project.rebuild("site")
            else:
                project.views.catch_up()
            assert not aside.exists()
        with shop.opened(filled) as project:
            assert project.predict("buyer", [shop.visit(begin, shop.NOW_US)])[0].score == before


def test_one_view_or_all_are_to_be_named(filled: Path) -> None:
    for words in ((), ("site", "--all")):
        status, said = trimtab(filled, "storage", "rebuild", *words)
        assert (status, "Name a view, or give --all." in said) == (2, True)


@pytest.mark.parametrize("workers", [1, 2])
def test_features_that_were_removed_under_a_service_are_made_anew_and_read_by_every_worker(
    filled: Path, workers: int
) -> None:
    """Whoever reads the file that is gone must not go on as if it were there."""
    online = filled / ".trimtab" / "online"
    visit = {**shop.visit("a", shop.NOW_US), "at": AS_OF}
    event = {"site": "north", "level": 40.0, "read_at": AS_OF}
    with shop.serving(filled, "--as-of", AS_OF, "--workers", str(workers)) as (_, url):

        def all_ready() -> bool:
            found = read_state(filled / ".trimtab" / "workers")
            there = found is not None and all(worker.ready for worker in found.workers)
            return there and all(shop.call(f"{url}/health/ready")[0] == 200 for _ in range(8))

        eventually(all_ready)
        before = shop.call(f"{url}/v1/models/buyer/predict", {"request": visit})[1]["score"]
        shutil.rmtree(online)
        eventually(lambda: (online / "data.mdb").exists())
        eventually(all_ready)
        again = [shop.call(f"{url}/v1/models/buyer/predict", {"request": visit})[1]["score"] for _ in range(8)]
        assert again == [before] * 8
        assert shop.call(f"{url}/v1/events/readings?wait=applied", event)[0] == 200

        def by_all() -> bool:
            """A worker looks a few times a second whether another file is in the place of the one it has open."""
            after = {shop.call(f"{url}/v1/models/buyer/predict", {"request": visit})[1]["score"] for _ in range(8)}
            return len(after) == 1 and after != {before}

        eventually(by_all)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_features_that_are_damaged_under_a_service_make_it_not_ready_with_what_mends_them(
    filled: Path, workers: int
) -> None:
    with shop.serving(filled, "--as-of", AS_OF, "--workers", str(workers)) as (_, url):
        eventually(lambda: all(shop.call(f"{url}/health/ready")[0] == 200 for _ in range(4)))
        flipped(filled / ".trimtab" / "online" / "data.mdb", POSITIONS_KEY)
        for _ in range(8):
            status, problem = shop.call(f"{url}/health/ready")
            assert (status, MEND in problem["detail"]) == (503, True)
        assert shop.call(f"{url}/metrics")[0] == 200
        status, said = trimtab(filled, "storage", "rebuild", "--all")
        assert (status, "a service applies events. Stop it" in said) == (4, True)
        assert trimtab(filled, "service", "top", "--once")[0] == 0
    assert trimtab(filled, "quality", "skew")[0] in (0, 1)
    assert trimtab(filled, "storage", "rebuild", "--all")[0] == 0
