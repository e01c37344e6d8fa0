"""State folders that cannot be written: every command says so and what to do, and changes nothing."""

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


@pytest.mark.parametrize("how", ["permission", "mounted", "full"])
def test_a_state_folder_that_cannot_be_written_is_refused_and_left_as_it_is(
    how: str, trained_once: Path, tmp_path: Path
) -> None:
    requests = tmp_path / "requests.csv"
    requests.write_text("visit_id,site,at,x\na,north,2024-04-09T00:00:00Z,0.5\n")
    folder = tmp_path / "projects"
    shutil.copytree(trained_once, folder)
    refused = [["status"], ["ledger"], ["predict", "buyer", str(requests)], ["ingest", "visit", str(requests)]]
    commands = [["--project", str(folder), *one] for one in [*refused, ["storage", "disk"]]]
    *answers, sizes = ran(how, folder, commands)
    said = "its disk is full" if how == "full" else "is read-only for this user"
    for command, answer in zip(refused, answers, strict=True):
        assert answer.status == 5, (command, answer.said)
        assert "cannot be written" in answer.said
        assert said in answer.said
        assert answer.changed == [], command
    assert sizes.status == 0, sizes.said  # what takes the room can still be looked at
    with shop.opened(folder) as project:
        assert project.ledger()[-1].act == "promote"
