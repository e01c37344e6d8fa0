"""To whom a state folder and a backup are open: to their owner, or to those whom the folder was opened to."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import shop

import forked
from trimtab.app.inspect.doctor import examine
from trimtab.app.keep.backup import restore

WORKS = """
import os, sys
os.umask(0)  # keeps no one out
sys.path.insert(0, sys.argv[2])
import shop
from pathlib import Path
folder = shop.write_project(Path(sys.argv[1]), online=True)
with shop.opened(folder) as project:
    shop.load(project)
    for name in project.definitions.deployments:
        project.train(name)
    project.push("readings", [{"read_at": "no time", "site": "a", "level": 1.0}])
    project.keys.add("shop", ["read"])
    project.predict("buyer", [shop.visit("q", shop.NOW_US)])
    project.retain()
    project.backup(folder / "copy")
"""


def open_to_others(folder: Path, bits: int = 0o077) -> dict[str, str]:
    """What of a folder others may use."""
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    return {str(path.relative_to(folder)): f"{mode:04o}" for path, mode in modes.items() if mode & bits}


def test_a_state_folder_and_a_backup_are_their_owners_alone(tmp_path: Path) -> None:
    project = tmp_path / "project"
    forked.run([sys.executable, "-c", WORKS, project, str(Path(__file__).parent)], check=True, timeout=120)
    assert open_to_others(project / ".trimtab") == {}
    assert open_to_others(project / "copy") == {}
    (project / "project.py").read_text()
    restore(project / "copy", tmp_path / "restored")
    assert open_to_others(tmp_path / "restored") == {}
    assert not [one for one in examine(project, {}) if one.name == "state folder's mode"]


def test_what_is_made_in_a_folder_of_a_group_is_the_groups_to_read(tmp_path: Path) -> None:
    folder = shop.write_project(tmp_path / "project")
    state = folder / ".trimtab"
    state.mkdir()
    state.chmod(0o750)
    with shop.opened(folder) as project:
        project.push("readings", [{"read_at": shop.NOW_US - 1, "site": "a", "level": 1.0}])
        project.materialise()
        project.backup(tmp_path / "copy")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (state, *state.rglob("*"))}
    assert modes == {0o750, 0o640}
    restore(tmp_path / "copy", state, force=True)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (state, *state.rglob("*"))} == {0o750, 0o640}
    (found,) = [one for one in examine(folder, {}) if one.name == "state folder's mode"]
    assert (found.state, found.found.startswith("0750")) == ("warning", True)
