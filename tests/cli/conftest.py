"""Fixtures, and the folder of `command` on the path."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import forked
from trimtab.cli.group import trimtab

sys.path.insert(0, str(Path(__file__).parent))

from command import COMMAND, Run, churn_rows, clean_environment, write_csv


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `trimtab` with arguments in a new process, in the test's folder."""

    def run_command(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        return forked.run(
            [*COMMAND, *arguments],
            cwd=cwd or tmp_path,
            env=clean_environment(**environment),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run_command


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `trimtab` inside the process of the tests, where it is quicker and a warning becomes an error."""

    def call_command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(cwd or tmp_path)
        done = CliRunner().invoke(trimtab, list(arguments))
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)

    return call_command


@pytest.fixture
def churn_csv(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "churn.csv", *churn_rows())
