"""Answers in process that do not wait for the log: read at once here, soon elsewhere, and never lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import shop

import forked
from trimtab.app.project import open_project
from trimtab.core.errors import NotFound
from trimtab.serving.log.buffered_log import BufferedLog

CHILD = """
import os, signal, sys
from pathlib import Path
import shop
project = shop.opened(Path(sys.argv[1]))
for n in range(int(sys.argv[2])):
    print(project.predict("buyer", [shop.visit(f"v-{n}", shop.NOW_US)])[0].id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def relaxed(trained: Path) -> Path:
    (trained / "trimtab.toml").write_text('[serve]\nlog = "relaxed"\n')
    return trained


def test_an_answer_is_in_the_log_at_once_for_this_process_and_then_for_others(relaxed: Path) -> None:
    with shop.opened(relaxed) as project:
        assert isinstance(project.state.predictions, BufferedLog)
        answers = project.predict("buyer", [shop.visit("one", shop.NOW_US), shop.visit("two", shop.NOW_US)])
        assert [project.why(one.id).score for one in answers] == [one.score for one in answers]
        single = project.predict("buyer", [shop.visit("three", shop.NOW_US)])[0]
    with shop.opened(relaxed) as other:
        assert other.why(single.id).request_id == "three"


def test_a_killed_process_lost_no_answer_and_reading_brings_them_back(relaxed: Path) -> None:
    environment = shop.environment() | {"PYTHONPATH": os.pathsep.join([str(Path(shop.__file__).parent), *sys.path])}
    done = forked.run(
        [sys.executable, "-c", CHILD, str(relaxed), "5"], stdout=subprocess.PIPE, text=True, timeout=120,
        env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    said = done.stdout.split()
    assert len(said) == 5
    with shop.opened(relaxed) as project:
        assert [project.why(one).request_id for one in said] == [f"v-{n}" for n in range(5)]


def test_what_is_noted_is_forgotten_too(relaxed: Path) -> None:
    with shop.opened(relaxed) as project:
        kept, gone = (project.predict("buyer", [shop.visit(key, shop.NOW_US)])[0] for key in ("stays", "goes-4711"))
        project.forget("visit_id", "goes-4711")
        assert project.why(kept.id).request_id == "stays"
        with pytest.raises(NotFound):
            project.why(gone.id)
        assert project.predict("buyer", [shop.visit("later", shop.NOW_US)])[0].request_id == "later"
    files = [path for path in (relaxed / ".trimtab").rglob("*") if path.is_file()]
    assert [path for path in files if b"goes-4711" in path.read_bytes()] == []


def test_a_backup_has_what_was_noted(relaxed: Path, tmp_path: Path) -> None:
    with shop.opened(relaxed) as project:
        one = project.predict("buyer", [shop.visit("one", shop.NOW_US)])[0]
        project.backup(tmp_path / "copy")
    assert b"one" in b"".join(p.read_bytes() for p in (tmp_path / "copy").rglob("p0001.db"))
    assert one.id


def test_an_answer_is_found_though_the_clock_was_set_back_before_it_was_written(relaxed: Path) -> None:
    class Clock:
        us = shop.NOW_US

        def now_us(self) -> int:
            return self.us

    clock = Clock()
    with open_project(relaxed, clock=clock, environment={}) as project:
        for n in range(3):
            one = project.predict("buyer", [shop.visit(f"v-{n}", clock.us - 7_200_000_000)])[0]
            clock.us -= 3_600_000_000
            assert project.why(one.id).request_id == f"v-{n}"
