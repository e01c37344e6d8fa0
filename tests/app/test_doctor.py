"""What the doctor finds, and what it says to do."""

from __future__ import annotations

import re
import socket
import sqlite3
import sys
import tomllib
from pathlib import Path

import pytest

from trimtab.app.inspect import doctor
from trimtab.app.inspect.doctor import Finding, examine, missing, require
from trimtab.core.errors import Misuse, Unavailable
from trimtab.store.file_blob import FileBlob
from trimtab.store.lmdb.kv import LmdbKeyValue
from trimtab.store.sql_catalog import SqlCatalog
from trimtab.store.sqlite.log import SqliteLog

ROOT = Path(__file__).parents[2]
PROJECT = """
import trimtab as tt

rides = tt.request("rides", key="id", time="at", columns={"id": int, "at": tt.Time, "km": float})
fares = tt.source("fares", key="id", time="at", columns={"id": int, "fare": float})
model = tt.model("fare", request=rides, features=[{"km": tt.col("km")}], metric="squared_error",
    label=tt.label(fares, key="id", value="fare", wait="1h"), estimator=lambda: None)
tt.deployment(model)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "trimtab.toml").write_text("[serve]\nport = 0\n")
    (tmp_path / "project.py").write_text(PROJECT)
    return tmp_path


def found(folder: Path, name: str, **environment: str) -> Finding:
    return next(finding for finding in examine(folder, environment) if finding.name == name)


def test_the_table_of_dependencies_is_that_of_the_package() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = [re.fullmatch(r"([\w-]+)>=([\d.]+)(;.*)?", line) for line in declared]
    assert {m[1]: m[2] for m in lines if m} == {name: least for name, (_, least) in doctor.NEEDED.items()}
    assert len(declared) == len(doctor.NEEDED)


def test_nothing_is_missing_here(project: Path) -> None:
    findings = examine(project, {})
    assert missing(findings) == []
    assert found(project, "project file").found == "2 sources, 0 views, 1 model, 1 deployment"


def test_without_a_project_only_the_machine_is_checked() -> None:
    assert {"Python", "numpy", "SQLite", "clock"} <= {finding.name for finding in examine(None, {})}


def test_a_project_that_does_not_import_is_named_with_its_line(project: Path) -> None:
    (project / "project.py").write_text("import trimtab as tt\n\ntt.source('x', time='t', columns={'a': list})\n")
    finding = found(project, "project file")
    assert finding.state == "missing"
    assert "project.py, line 3" in finding.found


def test_settings_that_cannot_be_are_named(project: Path) -> None:
    (project / "trimtab.toml").write_text("[serve]\nprot = 1\n")
    assert "prot" in found(project, "settings").found


def test_a_port_in_use_is_a_warning_with_a_way_out(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = found(project, "port", TRIMTAB_SERVE_PORT=str(port))
    assert (finding.state, f":{port}" in finding.found) == ("warning", True)
    assert "TRIMTAB_SERVE_PORT" in finding.fix


def test_a_full_disk_is_missing_something(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LEAST_FREE_BYTES", 1 << 60)
    assert found(project, "free disk").state == "missing"


def test_a_wrong_clock_is_missing_something(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.time, "time", lambda: 0.0)
    assert found(project, "clock").state == "missing"


def test_an_old_or_broken_dependency_is_missing_with_its_command(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "shattered_module.py").write_text("raise OSError('libfoo.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    needed = {"numpy": ("numpy", "999"), "nothing-here": ("nothing_here", "1"), "broken": ("shattered_module", "1")}
    monkeypatch.setattr(doctor, "NEEDED", needed)
    ill = {finding.name: finding for finding in missing(examine(project, {}))}
    assert "needed 999" in ill["numpy"].found
    assert ill["nothing-here"].fix == 'pip install "nothing-here>=1"'
    assert "libfoo" in ill["broken"].found


def test_require_names_the_extra_that_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    require(["json", "numpy"])
    monkeypatch.setitem(sys.modules, "lightgbm", None)  # Python's own way to say: cannot be imported
    with pytest.raises(Misuse, match=r'pip install "trimtab\[lightgbm\]"'):
        require(["json", "lightgbm"])


def test_require_names_the_system_library_that_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_gomp.py").write_text("raise OSError('libgomp.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(Unavailable, match="apt-get install libgomp1"):
        require(["needs_gomp"])


def test_what_a_demo_requires_is_needed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = "[demo]\nloader = 'x:y'\nstart = ''\nuntil = ''\nlines = []\nrequires = ['lightgbm']\n"
    (project / "trimtab.toml").write_text(demo)
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    assert found(project, "lightgbm").state == "missing"
    (project / "trimtab.toml").write_text("")
    assert found(project, "lightgbm").state == "optional"


@pytest.fixture
def state(project: Path) -> Path:
    folder = project / ".trimtab"
    with SqliteLog(folder / "log") as log:
        log.append([b"x"])
    SqlCatalog.sqlite(folder / "catalog.db").close()
    LmdbKeyValue(folder / "online").close()
    with FileBlob(folder / "blobs") as blobs:
        blobs.put(b"x")  # the first one marks the folder
    return folder


def test_the_stores_of_the_state_are_counted(project: Path, state: Path) -> None:
    finding = found(project, "state")
    assert finding.state == "ok"
    assert finding.found == "1 catalogue, 1 log file, 1 key-value store, 1 blob store"


@pytest.mark.parametrize("kind", ["log", "catalog", "blobs"])
def test_state_of_a_newer_format_is_named(project: Path, state: Path, kind: str) -> None:
    if kind == "log":
        (file,) = [path for path in (state / "log").iterdir() if path.read_bytes()[:6] == b"SQLite"]
        connection = sqlite3.connect(file)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
    elif kind == "catalog":
        connection = sqlite3.connect(state / "catalog.db")
        with connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.close()
    else:
        (state / "blobs" / "format").write_text("9\n")
    finding = found(project, "state")
    assert finding.state == "missing"
    assert str(state) in finding.found
    assert "9" in finding.found
