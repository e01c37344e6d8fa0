"""disk, retain, backup and restore as people call them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from command import Run

PROJECT = """
import trimtab as tt

landings = tt.source("landings", time="at", key="id", columns={"id": str, "carrier": str, "delay": float})
carrier = tt.view("carrier", source=landings, by="carrier", features={"mean_7d": tt.mean("delay", over="7d")})
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "project.py").write_text(PROJECT)
    (folder / "trimtab.toml").write_text('[retention]\nevents = "30d"\ndisk_budget = "50MB"\n')
    rows = "".join(f"f{n},UA,{n % 7},2020-01-{1 + n % 28:02d}T{n % 24:02d}:00:00Z\n" for n in range(500))
    (folder / "landings.csv").write_text("id,carrier,delay,at\n" + rows)
    return folder


@pytest.mark.fast
def test_from_disk_and_retain_to_a_backup_that_comes_back(call: Run, project: Path) -> None:
    assert call("ingest", "landings", "landings.csv", cwd=project).returncode == 0
    dry = call("storage", "prune", "--dry-run", cwd=project)
    assert dry.stdout.startswith("would truncate 500 records of the event log")
    done = call("storage", "prune", cwd=project)
    assert "truncated 500 records of the event log" in done.stdout
    assert "removed 498 events of landings" in done.stdout  # not the newest, and the first loaded
    shown = call("storage", "disk", cwd=project).stdout
    assert "event log" in shown
    assert "budget 50 MB" in shown
    assert json.loads(call("storage", "disk", "--json", cwd=project).stdout)["budget_bytes"] == 50_000_000
    assert "\ndisk: " in call("status", cwd=project).stdout
    made = call("storage", "backup", "../copy", cwd=project)
    assert made.stdout.startswith("../copy: complete")
    refused = call("storage", "restore", "../copy", cwd=project)
    assert (refused.returncode, "--force" in refused.stderr) == (4, True)
    assert (
        call("storage", "restore", "../copy", "--force", cwd=project)
        .stdout.splitlines()[0]
        .endswith(".trimtab: restored")
    )
    assert "landings  2 events" in call("status", cwd=project).stdout
    assert call("storage", "restore", "../copy", "--into", "../else", "--json", cwd=project).returncode == 0
    assert (project.parent / "else" / "format.json").is_file()


def test_a_restoration_that_is_stopped_says_what_holds(
    call: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("ingest", "landings", "landings.csv", cwd=project)
    assert call("storage", "backup", "../copy", cwd=project).returncode == 0
    assert call("storage", "prune", cwd=project).returncode == 0
    state, remove = project / ".trimtab", shutil.rmtree
    there = state.stat().st_ino

    def stop(_: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", stop)
        early = call("storage", "restore", "../copy", "--force", cwd=project)
    for number, handler in handlers.items():  # the command ignores them from the first one on
        signal.signal(number, handler)
    assert (early.returncode, early.stderr.strip()) == (130, "trimtab: interrupted. The state is as it was before.")
    assert "landings  2 events" in call("status", cwd=project).stdout

    def stop_late(path: Path, *more: Any, **options: Any) -> None:
        if state.exists() and state.stat().st_ino != there:
            stop(0)
        remove(path, *more, **options)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", stop_late)
        late = call("storage", "restore", "../copy", "--force", cwd=project)
    assert (late.returncode, late.stderr) == (0, "")
    assert late.stdout.splitlines()[0].endswith(".trimtab: restored")
    assert "landings  500 events" in call("status", cwd=project).stdout
    assert sorted(path.name for path in project.iterdir() if path.name.startswith(".")) == [".trimtab"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["storage", "backup", "."], 4, "exists"),
        (["storage", "backup", ".trimtab/copy"], 2, "lies in the state folder"),
        (["storage", "restore", "nowhere"], 3, "not a backup (it has no backup.json)"),
        (
            ["storage", "backup", "/proc/copy"],
            5,
            "/proc/copy: No such file or directory. No part of the backup was left; name a folder",
        ),
        (["features", "show", "carier"], 3, "Did you mean carrier"),
        (["features", "show", "mean"], 3, "mean_7d"),
        (["features", "show", "quux"], 3, "See all: trimtab features"),
        (["storage", "prune", "--dryrun"], 2, "No such option"),
    ],
)
def test_what_cannot_be_done_is_named(call: Run, project: Path, arguments: list[str], status: int, said: str) -> None:
    done = call(*arguments, cwd=project)
    assert done.returncode == status, done.stderr
    assert said in done.stderr


def test_a_retention_shorter_than_a_window_is_refused_by_every_command(call: Run, project: Path) -> None:
    (project / "trimtab.toml").write_text('[retention]\nevents = "5d"\n')
    done = call("status", cwd=project)
    assert done.returncode == 2
    assert (
        "[retention] events = \"5d\" is too short for source 'landings': carrier.mean_7d looks back 7d" in done.stderr
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["ingest", "landings", "pipe.csv"],
        ["ingest", "landings", "pipe.arrow"],
        ["features", "join", "pipe.parquet", "--view", "carrier", "--at", "at", "--out", "out.csv"],
        ["forget", "carrier", "--from", "pipe.csv"],
        ["init", "pipe.csv"],
    ],
)
def test_a_pipe_where_a_file_is_needed_is_refused_and_not_waited_for(
    call: Run, project: Path, arguments: list[str]
) -> None:
    for name in ("pipe.csv", "pipe.arrow", "pipe.parquet"):
        os.mkfifo(project / name)
    done = call(*arguments, cwd=project)
    assert done.returncode == 2, done.stderr
    assert re.search(
        "(found|is) a (named )?pipe( or a device, which cannot be read twice| or device)?.* a file", done.stderr
    ), done.stderr


def test_a_backup_with_a_pipe_in_it_is_refused_and_not_waited_for(call: Run, project: Path) -> None:
    assert call("ingest", "landings", "landings.csv", cwd=project).returncode == 0
    assert call("storage", "backup", "../copy", cwd=project).returncode == 0
    copy = project.parent / "copy"
    (copy / "state" / "catalog.db").unlink()
    os.mkfifo(copy / "state" / "catalog.db")
    done = call("storage", "restore", "../copy", "--into", "../else", cwd=project)
    assert done.returncode != 0
    assert "catalog.db: this file of the backup is a named pipe. Use another backup." in done.stderr
    assert not (project.parent / "else").exists()
    (copy / "backup.json").unlink()
    os.mkfifo(copy / "backup.json")
    assert (
        "found a named pipe, needed a file"
        in call("storage", "restore", "../copy", "--into", "../else", cwd=project).stderr
    )
