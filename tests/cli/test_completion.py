"""Completion by shells: names of a project, read without running its code."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from command import clean_environment

from trimtab.cli.group import trimtab
from trimtab.store.ports import Put
from trimtab.store.sql_catalog import SqlCatalog

PROJECT = """
raise SystemExit("completion must not run this")
landings = tt.source(
    "landings", time="at")
site = tt.view('site', source=landings)
late = tt.model("late", request=tt.request("flight"))
"""
STORED = (
    "access_key/shop",
    "alias/old/champion",
    "definition/model/old",
    "run/run_01jd",
    "version_number/old/00000012",
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "project.py").write_text(PROJECT)
    (tmp_path / "trimtab.toml").write_text("")
    (tmp_path / ".trimtab").mkdir()
    with SqlCatalog.sqlite(tmp_path / ".trimtab" / "catalog.db") as catalog:
        catalog.write([Put(*key.split("/", 1), b"{}") for key in STORED])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def completed(line: str, shell: str = "bash") -> list[str]:
    """What a shell is answered when the last word of a line is to be completed."""
    words = line.split(" ")
    typed = {"_TRIMTAB_COMPLETE": f"{shell}_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    if shell == "fish":
        typed |= {"COMP_CWORD": words[-1], "COMP_WORDS": line.removesuffix(words[-1])}
    done = CliRunner().invoke(trimtab, [], env=typed)
    assert (done.exit_code, done.stderr) == (0, "")
    return [line for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("trimtab train ", ["late", "old"]),
        ("trimtab train l", ["late"]),
        ("trimtab runs list --model ", ["late", "old"]),
        ("trimtab versions show ", ["old@12", "old@champion"]),
        ("trimtab versions compare old@12 old@ch", ["champion"]),
        ("trimtab versions compare old @ 12 old @ ch", ["champion"]),
        ("trimtab versions show old @", ["12", "champion"]),
        ("trimtab versions card o", ["old@12", "old@champion"]),
        ("trimtab versions protect old ", ["champion"]),
        ("trimtab ingest ", ["landings"]),
        ("trimtab features show ", ["flight", "landings", "site"]),
        ("trimtab features snapshot ", ["site"]),
        ("trimtab features snapshot site ", []),
        ("trimtab storage rebuild s", ["site"]),
        ("trimtab runs show ", ["run_01jd"]),
        ("trimtab keys remove ", ["shop"]),
        ("trimtab storage ba", ["backup"]),
        ("trimtab versions show --js", ["--json"]),
    ],
)
def test_names_of_the_project_are_proposed(project: Path, line: str, found: list[str]) -> None:
    assert completed(line) == [f"plain,{name}" for name in found]


def test_other_shells_get_whole_names(project: Path) -> None:
    assert completed("trimtab versions show old@c", "zsh")[:2] == ["plain", "old@champion"]
    assert "old@champion" in "\n".join(completed("trimtab versions show old@c", "fish"))


def test_old_names_are_not_proposed(project: Path) -> None:
    names = {line.removeprefix("plain,") for line in completed("trimtab ")}
    assert "status" in names
    assert not names & {"retain", "arm", "version", "gc"}


def test_the_project_may_be_named_or_broken_or_absent(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert completed("trimtab train ") == []
    assert completed(f"trimtab --project {project} train ") == ["plain,late", "plain,old"]
    assert completed(f"trimtab train --project {project} ") == ["plain,late", "plain,old"]
    (project / ".trimtab" / "catalog.db").write_bytes(b"no database" * 1_000)
    assert completed(f"trimtab --project {project} train ") == ["plain,late"]
    (project / "trimtab.toml").write_text("colour = 1")
    assert completed(f"trimtab --project {project} train ") == []


def test_nothing_heavy_is_loaded(project: Path) -> None:
    code = "import sys\nfrom trimtab.cli import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)\n"
    typed = {"_TRIMTAB_COMPLETE": "bash_complete", "COMP_WORDS": "trimtab train ", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment(**typed), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["plain,late", "plain,old"]
    heavy = {"numpy", "duckdb", "sqlalchemy", "pyarrow", "deltalake", "lmdb", "sklearn", "rich", "uvicorn"}
    assert heavy & set(done.stderr.split()) == set()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_takes_the_script(project: Path) -> None:
    answer = (
        "COMP_WORDS=(trimtab versions show old @ ch); COMP_CWORD=5; _trimtab_completion trimtab; echo ${COMPREPLY[@]}"
    )
    code = f'eval "$(_TRIMTAB_COMPLETE=bash_source trimtab)"; {answer}'
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "--norc", "-c", code], env=clean_environment(PATH=path), capture_output=True, text=True, check=True
    )
    assert done.stdout == "champion\n"
