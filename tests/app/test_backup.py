"""Copies of a state that is in use: whole, verified, and nothing acknowledged is missing."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import shop
from click.testing import CliRunner

import forked
from processes import eventually
from trimtab.app.keep.backup import MANIFEST, read_manifest, restore, undone_erasures
from trimtab.app.project import Project, open_project
from trimtab.app.state.state_use import set_aside
from trimtab.cli.group import trimtab
from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound, Unavailable
from trimtab.core.time import DAY_US, HOUR_US, format_time
from trimtab.run.signals import ENDING

AS_OF = format_time(shop.NOW_US)
FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pathlib import Path
from trimtab.app.project import open_project
from trimtab.core.clock import VirtualClock
with open_project(sys.argv[1], clock=VirtualClock(int(sys.argv[3])), environment={}) as project:
    project.state.events, project.state.predictions, project.state.quarantine, project.state.catalog
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)
    try:
        project.backup(Path(sys.argv[2]))
    except Exception as error:
        print(type(error).__name__, error)
"""


def visit(key: str) -> dict[str, Any]:
    return {**shop.visit(key, shop.NOW_US), "at": AS_OF}


def online(project: Project) -> Any:
    """All that the online features hold."""
    project.views.catch_up()
    return sorted(pair for kind in (b"v", b"i", b"r") for pair in project.state.online.scan(kind))


def at(folder: Path, state: Path | None = None) -> Project:
    return open_project(folder, clock=VirtualClock(shop.NOW_US), state=state, environment={})


@pytest.mark.fast
def test_a_backup_comes_back_as_it_was(trained: Path, tmp_path: Path) -> None:
    with at(trained) as project:
        given = project.predict("buyer", [shop.visit("q1", shop.NOW_US)])[0]
        project.retain()
        project.push("readings", [{"read_at": shop.NOW_US - HOUR_US, "site": "north", "level": 2.0}])
        made = project.backup(tmp_path / "copy")
        expected = online(project)
    assert made == read_manifest(tmp_path / "copy")
    assert made.size_bytes == sum(f.stat().st_size for f in (tmp_path / "copy" / "state").rglob("*") if f.is_file())
    again = tmp_path / "restored"
    assert restore(tmp_path / "copy", again) == made
    with at(trained, again) as project:
        assert project.verify_ledger() > 0
        assert project.predictions.find(given.id).score == given.score
        assert online(project) == expected
        assert project.predict("buyer", [shop.visit("q2", shop.NOW_US)])[0].score is not None
        assert not project.status().lag_records


def test_a_backup_of_a_served_project_has_all_that_was_acknowledged(trained: Path, tmp_path: Path) -> None:
    answered: list[str] = []
    pushed: list[int] = []
    stop = threading.Event()

    def work(url: str, what: int) -> None:
        while not stop.is_set():
            if what:
                n = len(pushed)
                row = {"site": "east", "level": float(n), "read_at": format_time(shop.NOW_US - DAY_US + n)}
                assert shop.call(f"{url}/v1/events/readings", row)[0] == 200
                pushed.append(n)
            else:
                asked = {"request": visit(f"k{len(answered)}")}
                status, body = shop.call(f"{url}/v1/models/buyer/predict", asked)
                assert status == 200, body
                answered.append(body["id"])

    with shop.serving(trained, "--as-of", AS_OF) as (_, url):
        threads = [threading.Thread(target=work, args=(url, what)) for what in (0, 1)]
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: min(len(answered), len(pushed)) > 3)
            before = len(answered), len(pushed)
            with at(trained) as project:
                made = project.backup(tmp_path / "copy")
            assert len(answered) > before[0]  # it went on meanwhile
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    restored = shop.write_project(tmp_path / "restored", online=True)
    restore(tmp_path / "copy", restored / ".trimtab")
    with shop.opened(restored, shop.NOW_US + DAY_US) as project:
        assert project.verify_ledger() > 0
        for prediction in answered[: before[0]]:
            assert project.predictions.find(prediction).id == prediction
        project.history.refresh()
        levels = project.history.frame("readings").columns["level"].to_list()
        assert set(map(float, range(before[1]))) <= set(levels)
        assert before[1] <= len(levels)
        for reached in (*made.positions.views.values(), *made.positions.tables.values()):
            assert all(position <= made.positions.logs["events"][name] for name, position in reached.items())
        expected = features_of(project)
        project.views.store.reset()
        assert features_of(project) == expected
    with shop.serving(restored, "--as-of", AS_OF) as (_, url):
        assert shop.call(f"{url}/v1/models/buyer/predict", {"request": visit("z")})[0] == 200


def features_of(project: Project) -> str:
    from trimtab.features.online.read.request_plan import RequestPlan

    project.views.catch_up()
    now_us = project.clock.now_us()
    plan = RequestPlan(project.definitions.models["buyer"].features, project.state.online)
    asked = [shop.visit(f"v{site}", shop.NOW_US, 1.0, site) for site in ("north", "south")]
    now_us = max(now_us, plan.read(asked, now_us).at_us)
    found = plan.read(asked, now_us)
    return repr((found.values[0][:1], [list(codes) for codes in found.reasons]))


@pytest.mark.parametrize("name", ["state/log/events/p0001.db", "state/catalog.db", "blob", MANIFEST])
def test_a_damaged_or_missing_file_is_named_and_nothing_is_restored(trained: Path, tmp_path: Path, name: str) -> None:
    with at(trained) as project:
        project.backup(tmp_path / "copy")
    path = tmp_path / "copy" / name
    if name == "blob":
        path = next(p for p in (tmp_path / "copy" / "state" / "blob").rglob("*") if len(p.name) == 64)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(Corrupt, match=path.name):
        restore(tmp_path / "copy", tmp_path / "again")
    path.unlink()
    with pytest.raises((Corrupt, NotFound), match=path.name):
        restore(tmp_path / "copy", tmp_path / "again")
    assert not (tmp_path / "again").exists()
    assert not list(tmp_path.glob(".*partial"))


def test_a_file_of_a_backup_that_cannot_be_read_is_named(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy" / "state" / "format.json"
    with at(trained) as project:
        project.backup(tmp_path / "copy")
    path.unlink()
    path.symlink_to("/proc/self/mem")  # a file whose beginning cannot be read
    with pytest.raises(Unavailable, match=rf"^{path}: cannot be read \(Input/output error\)"):
        restore(tmp_path / "copy", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_of_other_files_is_never_replaced(trained: Path, tmp_path: Path) -> None:
    """`--into PROJECT`, where the state folder of the project was meant, with --force."""
    with at(trained) as project:
        project.backup(tmp_path / "copy")
    for force in (False, True):
        with pytest.raises(Conflict, match=r"it holds other files \(.*project.py.*\) and no state"):
            restore(tmp_path / "copy", trained, force=force)
    assert (trained / "project.py").exists()
    assert (trained / ".trimtab").is_dir()


def test_state_that_is_there_is_replaced_only_by_force_and_never_while_it_is_used(
    trained: Path, tmp_path: Path
) -> None:
    with at(trained) as project:
        project.backup(tmp_path / "copy")
        state = project.state_folder
        project.push("readings", [{"read_at": shop.NOW_US - HOUR_US, "site": "north", "level": 2.0}])
        with pytest.raises(Conflict, match="--force"):
            restore(tmp_path / "copy", state)
        with pytest.raises(Conflict, match="uses it"):
            restore(tmp_path / "copy", state, force=True)
    with at(trained) as project:
        project.history.refresh()
        rows = project.history.frame("readings").rows
    restore(tmp_path / "copy", state, force=True)
    with at(trained) as project:
        project.history.refresh()
        assert project.history.frame("readings").rows == rows - 1
    assert sorted(path.name for path in trained.iterdir() if path.name.startswith(".")) == [".trimtab"]


def reading(level: float) -> dict[str, object]:
    return {"read_at": shop.NOW_US - HOUR_US, "site": "north", "level": level}


def readings(folder: Path, state: Path | None = None) -> int:
    with at(folder, state) as project:
        project.history.refresh()
        return project.history.frame("readings").rows


@pytest.mark.parametrize("there", [True, False])
def test_who_comes_while_a_backup_is_restored_is_refused_and_so_loses_nothing(
    trained: Path, tmp_path: Path, there: bool
) -> None:
    with at(trained) as project:
        project.backup(tmp_path / "copy")
        state = project.state_folder if there else tmp_path / "else" / "state"
    before, acknowledged, refused = readings(trained), 0, set()

    def come(done: int, total: int) -> None:
        nonlocal acknowledged
        try:
            with at(trained, state) as project:
                project.push("readings", [reading(1.0)])
                acknowledged += 1
        except Conflict as error:
            refused.add(str(error))

    restore(tmp_path / "copy", state, force=there, progress=come)
    assert readings(trained, state) == before + acknowledged
    assert refused == {f"{state}: a backup is being restored there. Try again when that is done."}


def test_where_folders_cannot_be_locked_the_lock_files_are_looked_at_right_before_the_swap(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at(trained) as project:
        project.backup(tmp_path / "copy")
        state = project.state_folder
    before, lock, come = readings(trained), fcntl.flock, []

    def files_alone(fd: int, how: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        lock(fd, how)

    def push(done: int, total: int) -> None:
        if not come:
            come.append(at(trained))
            come[0].push("readings", [reading(1.0)])

    monkeypatch.setattr(fcntl, "flock", files_alone)
    with pytest.raises(Conflict, match=r"process \d+ uses it \(p\d+\.lock\)"):
        restore(tmp_path / "copy", state, force=True, progress=push)
    come[0].close()
    assert readings(trained) == before + 1
    restore(tmp_path / "copy", state, force=True)
    assert readings(trained) == before


def test_a_project_that_is_open_is_not_replaced_also_when_it_did_nothing_yet(trained: Path, tmp_path: Path) -> None:
    with at(trained) as project:
        project.backup(tmp_path / "copy")
    before = readings(trained)
    with at(trained) as project, at(trained, tmp_path / "new") as other:
        for state in (project.state_folder, other.state_folder):
            with pytest.raises(Conflict, match=r"has a project open there\. Close the project, or stop the process"):
                restore(tmp_path / "copy", state, force=True)
        project.push("readings", [reading(1.0)])
    assert readings(trained) == before + 1
    assert sorted(path.name for path in trained.iterdir() if path.name.startswith(".")) == [".trimtab"]


def test_a_project_whose_process_was_killed_can_be_replaced(trained: Path, tmp_path: Path) -> None:
    with at(trained) as project:
        project.backup(tmp_path / "copy")
    code = "import sys, time; from trimtab.app.project import open_project\n"
    code += "project = open_project(sys.argv[1], environment={}); print('go', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, str(trained)]
    with forked.Popen(command, stdout=subprocess.PIPE, env=shop.environment()) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(Conflict, match="a process has a project open there"):
            restore(tmp_path / "copy", trained / ".trimtab", force=True)
        process.kill()
    restore(tmp_path / "copy", trained / ".trimtab", force=True)
    assert readings(trained) > 0


@pytest.mark.parametrize("number", ENDING)
def test_a_stop_that_comes_after_the_swap_is_too_late(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    with at(trained) as project:
        project.backup(tmp_path / "copy")
        project.push("readings", [reading(1.0)])
        state = project.state_folder
    before, there = readings(trained), state.stat().st_ino
    remove, stops = shutil.rmtree, []

    def stop(path: Path, *more: Any, **options: Any) -> None:
        if state.exists() and state.stat().st_ino != there:
            stops.append(path)
            os.kill(os.getpid(), number)
        remove(path, *more, **options)

    handlers = {each: signal.signal(each, lambda *_: pytest.fail("stopped")) for each in ENDING}
    try:
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "rmtree", stop)
            restore(tmp_path / "copy", state, force=True)
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    assert stops
    assert readings(trained) == before - 1
    assert sorted(path.name for path in trained.iterdir() if path.name.startswith(".")) == [".trimtab"]


def test_a_swap_that_fails_half_way_leaves_the_state_of_before(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at(trained) as project:
        project.backup(tmp_path / "copy")
        project.push("readings", [reading(1.0)])
        state = project.state_folder
    before, rename = readings(trained), Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(Unavailable, match=r"Input/output error\. Nothing was changed"):
        restore(tmp_path / "copy", state, force=True)
    monkeypatch.undo()
    assert readings(trained) == before
    assert sorted(path.name for path in trained.iterdir() if path.name.startswith(".")) == [".trimtab"]


def test_where_a_restoration_was_killed_between_its_steps_nobody_begins_an_empty_project(
    trained: Path, tmp_path: Path
) -> None:
    with at(trained) as project:
        project.backup(tmp_path / "copy")
        project.push("readings", [reading(1.0)])
        state = project.state_folder
    before, old = readings(trained), set_aside(state)

    def cut_off() -> None:
        state.rename(old)  # what the first of the two renames does
        (trained / "..trimtab.partial").mkdir(exist_ok=True)

    cut_off()
    with pytest.raises(Conflict, match=f"previous state is in {old}. .* put the state back: mv '{old}' '{state}'"):
        at(trained)
    assert not state.exists()
    with pytest.raises(Conflict, match="--force"):  # put back before anything else
        restore(tmp_path / "copy", state)
    assert readings(trained) == before
    cut_off()
    state.mkdir()  # by hand
    with pytest.raises(Conflict, match="the previous state is in"):
        at(trained)
    (tmp_path / "copy" / "state" / "format.json").rename(tmp_path / "format.json")
    with pytest.raises(Corrupt, match=r"format\.json"):
        restore(tmp_path / "copy", state, force=True)
    assert readings(trained) == before
    cut_off()
    (tmp_path / "format.json").rename(tmp_path / "copy" / "state" / "format.json")
    restore(tmp_path / "copy", state, force=True)
    assert readings(trained) == before - 1
    assert sorted(path.name for path in trained.iterdir() if path.name.startswith(".")) == [".trimtab"]


def test_a_state_folder_that_is_a_link_is_restored_as_often_as_one_likes(trained: Path, tmp_path: Path) -> None:
    far, link = tmp_path / "far" / "state", trained / ".trimtab"
    far.parent.mkdir()
    link.rename(far)
    link.symlink_to(far)
    with at(trained) as project:
        project.backup(tmp_path / "copy")
        with pytest.raises(Misuse, match="lies in the state folder"):
            project.backup(far / "copy")
    before = readings(trained)
    for _ in range(2):
        with at(trained) as project:
            project.push("readings", [reading(1.0)])
        restore(tmp_path / "copy", link, force=True)
        assert readings(trained) == before
    assert link.readlink() == far
    assert [path.name for path in far.parent.iterdir()] == ["state"]
    assert [path.name for path in trained.iterdir() if path.name.startswith(".")] == [".trimtab"]


def test_links_that_older_versions_left_are_removed(trained: Path, tmp_path: Path) -> None:
    with at(trained) as project:
        project.backup(tmp_path / "copy")
        state = project.state_folder
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "kept").write_text("")
    for left in (state.with_name(f".{state.name}.partial"), set_aside(state)):
        left.symlink_to(tmp_path / "far")
    restore(tmp_path / "copy", state, force=True)
    assert [path.name for path in trained.iterdir() if path.name.startswith(".")] == [".trimtab"]
    assert (tmp_path / "far" / "kept").exists()


def test_a_destination_that_does_not_do_is_named(trained: Path, tmp_path: Path) -> None:
    with at(trained) as project:
        project.backup(tmp_path / "copy")
        with pytest.raises(Conflict, match="exists"):
            project.backup(tmp_path)
        with pytest.raises(Misuse, match="lies in the state folder"):
            project.backup(project.state_folder / "copy")
        (tmp_path / "file").write_text("")
        with pytest.raises(Misuse, match="is a file"):
            restore(tmp_path / "copy", tmp_path / "file", force=True)
        (tmp_path / "loop").symlink_to("loop")
        with pytest.raises(Unavailable, match="loop: "):
            restore(tmp_path / "copy", tmp_path / "loop")
        with pytest.raises(Unavailable, match="file/copy"):
            project.backup(tmp_path / "file" / "copy")
        with pytest.raises(Unavailable, match="/proc/copy"):
            project.backup(Path("/proc/copy"))
        with pytest.raises(NotFound, match=MANIFEST):
            restore(tmp_path, tmp_path / "again")


@pytest.mark.parametrize("limit_bytes", [2_000, 60_000])
def test_a_full_disk_is_named_and_leaves_no_half_backup(trained: Path, tmp_path: Path, limit_bytes: int) -> None:
    with at(trained) as project:
        project.retain()
    command = [sys.executable, "-c", FULL, str(trained), str(tmp_path / "copy"), str(shop.NOW_US), str(limit_bytes)]
    said = forked.run(command, capture_output=True, text=True, env=shop.environment(), timeout=60)
    assert said.stdout.startswith("Unavailable"), (said.stdout, said.stderr)
    assert not list(tmp_path.glob("*copy*"))
    with at(trained) as project:
        project.backup(tmp_path / "copy")


def test_a_killed_backup_leaves_nothing_that_looks_like_one(trained: Path, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from trimtab.app.project import open_project\n"
    code += "with open_project(sys.argv[1], environment={}) as p: print('go', flush=True); p.backup(Path(sys.argv[2]))"
    for pause_s in (0.05, 0.2):
        command = [sys.executable, "-c", code, str(trained), str(tmp_path / "copy")]
        with forked.Popen(command, stdout=subprocess.PIPE, env=shop.environment()) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(pause_s)
            os.kill(process.pid, 9)
        if (tmp_path / "copy").exists():
            read_manifest(tmp_path / "copy")
            shutil.rmtree(tmp_path / "copy")
    with at(trained) as project:
        made = project.backup(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / MANIFEST).read_bytes())["manifest"]["size_bytes"] == made.size_bytes
    assert not (tmp_path / ".copy.partial").exists()


def test_a_full_disk_can_still_be_looked_at(trained: Path) -> None:
    look = FULL.replace("project.state.events, project.state.predictions, project.state.quarantine, ", "")
    look = look.replace("project.backup(Path(sys.argv[2]))", "print('\\n'.join(project.disk().lines()))")
    command = [sys.executable, "-c", look, str(trained), "", str(shop.NOW_US), "1"]
    said = forked.run(command, capture_output=True, text=True, env=shop.environment(), check=True).stdout
    assert "event log" in said
    assert "free)" in said
    assert "cannot be read now" in said  # what needs the logs


def test_erasures_that_a_restore_undoes_are_named(trained: Path, tmp_path: Path) -> None:
    with at(trained) as project:
        project.backup(tmp_path / "copy")
    with shop.opened(trained, shop.NOW_US + DAY_US) as project:
        project.forget("site", "north", why="request 17 of 3 May")
    given = ["storage", "restore", str(tmp_path / "copy"), "--force", "--project", str(trained)]
    said = CliRunner().invoke(trimtab, given).output
    assert "What was written after 2024-" in said
    assert "their data are back. Run trimtab forget for the same keys again:\n  2024-" in said
    assert "  site  request 17 of 3 May\n" in said
    assert "their data are back" not in CliRunner().invoke(trimtab, given).output
    damaged = trained / ".trimtab" / "catalog.db"
    damaged.write_bytes(b"no database" * 1_000)
    (said,) = undone_erasures(trained / ".trimtab", "2024-01-01T00:00:00Z")
    assert said.startswith("It is not known whether this undoes erasures, because the old state cannot be read: ")
    shown = CliRunner().invoke(trimtab, given)
    assert (shown.exit_code, "restored" in shown.output) == (0, True)
