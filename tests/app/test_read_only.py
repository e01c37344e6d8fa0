"""Commands that only read work where nothing can be written, and change nothing; those that write say why not."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import msgspec
import pytest
import shop

import forked

SEALED = Path(__file__).with_name("sealed.py")
_MOUNTS = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]
_NO_OVERRIDE = "-dac_override,-dac_read_search"  # what lets root write where nobody may
_UNPRIVILEGED = ["setpriv", f"--bounding-set={_NO_OVERRIDE}", f"--inh-caps={_NO_OVERRIDE}"]


class Told(msgspec.Struct, frozen=True):
    """What one command gave."""

    status: int
    said: str
    changed: list[tuple[str, str]]


class Sealed(msgspec.Struct, frozen=True):
    """What commands gave in a sealed folder with two projects, by command."""

    reading: dict[str, Told]
    unused: dict[str, Told]  # of a project that was only written
    writing: dict[str, Told]
    joined: str  # what `join` wrote elsewhere


def prefix(how: str, folder: Path) -> list[str]:
    """What a process is run by so that a folder is sealed for it; the test is skipped where that is not allowed."""
    if how == "permission" and os.getuid() != 0:
        return []
    command = _UNPRIVILEGED if how == "permission" else _MOUNTS
    probe = ["true"] if how == "permission" else ["mount", "-t", "tmpfs", "tmpfs", str(folder)]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} (util-linux) is not installed")
    tried = forked.run([*command, *probe], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"not allowed here: {' '.join([*command, *probe])}: {tried.stderr.strip()}")
    return command


def ran(how: str, folder: Path, commands: list[list[str]]) -> list[Told]:
    """What each of the commands gave in a sealed folder."""
    command = [*prefix(how, folder), sys.executable, str(SEALED), how, str(folder)]
    given = json.dumps(commands)
    try:
        done = forked.run(
            command, input=given, capture_output=True, text=True, env=shop.environment(), check=False, timeout=120
        )
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
    told = [msgspec.json.decode(line, type=Told) for line in done.stdout.splitlines()]
    assert len(told) == len(commands), done.stderr
    return told


@pytest.fixture(scope="module", params=["permission", "mounted", "full"])
def sealed(request: pytest.FixtureRequest, trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    elsewhere = tmp_path_factory.mktemp("sealed")
    requests = elsewhere / "asked.csv"
    requests.write_text("visit_id,site,at,x\na,north,2024-04-09T00:00:00Z,0.5\n")
    folder = elsewhere / "projects"
    used, unused = folder / "used", shop.write_project(folder / "unused")
    shutil.copytree(trained_once, used)
    with shop.opened(used) as project:
        prediction = project.predict("buyer", [shop.visit(f"q{n}", shop.NOW_US) for n in range(3)])[0].id
        project.skew()
        project.materialise()
    reading = [
        ["status"],
        ["why", prediction],
        ["features"],
        ["plan"],
        ["skew", "--history", "1"],
        ["snapshot", "site", "--at", "2024-04-09", "--out", str(elsewhere / "snapshot.parquet")],
        ["join", str(requests), "--model", "buyer", "--out", str(elsewhere / "joined.csv")],
        ["ledger"],
        ["ledger", "verify"],
        ["report", "buyer@champion", "--out", str(elsewhere / "report")],
        ["disk"],
        ["quarantine"],
    ]
    empty = [["plan"], ["features"], ["status"], ["ledger"], ["skew", "--history", "1"], ["disk"]]
    writing = [
        ["predict", "buyer", str(requests)],
        ["ingest", "visit", str(requests)],
        ["train", "buyer"],
        ["freeze"],
        ["skew"],
        ["rebuild", "site"],
    ]
    parts = {"reading": reading, "unused": empty, "writing": writing}
    commands = [
        ["--project", str(unused if name == "unused" else used), *one] for name, part in parts.items() for one in part
    ]
    told = iter(ran(request.param, folder, commands))
    found = {name: {" ".join(one): next(told) for one in part} for name, part in parts.items()}
    with shop.opened(used) as project:  # as it was
        assert sum(project.state.events.positions().values()) == 3_040
        assert project.ledger()[-1].act == "promote"
    return Sealed(**found, joined=(elsewhere / "joined.csv").read_text())


def test_reading_commands_work_and_change_nothing_where_nothing_can_be_written(sealed: Sealed) -> None:
    for command, told in sealed.reading.items():
        assert told.status == 0, (command, told.said)
        assert told.changed == [], command
        assert "cannot be read now" not in told.said
    assert sealed.joined.count("\n") == 2


def test_what_was_never_used_is_read_as_empty(sealed: Sealed) -> None:
    for command, told in sealed.unused.items():
        assert told.status == (1 if command == "plan" else 0), (command, told.said)  # 1: there is something to apply
        assert told.changed == [], command


def test_writing_commands_say_that_it_is_full_or_read_only_and_lose_nothing(sealed: Sealed) -> None:
    for command, told in sealed.writing.items():
        assert told.status == 5, (command, told.said)
        assert any(word in told.said for word in ("Read-only file system", "Permission denied", "full")), told.said
