"""Progress: nothing for quick work, lines where no terminal is, a bar on one."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time

import pytest

from trimtab.cli import output
from trimtab.cli.output import progress

SLOW = """
import time
from trimtab.cli.output import progress
with progress("counting") as meter:
    for done in range(16):
        meter(done, 15)
        time.sleep(0.1)
print("done")
"""


def drawn(code: str) -> tuple[bytes, bytes]:
    """What a program prints, and what it shows on the terminal that is its standard error."""
    controller, terminal = pty.openpty()
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=terminal, stdout=subprocess.PIPE, env={**os.environ, "TERM": "xterm"}
    )
    os.close(terminal)
    shown = b""
    while time.monotonic() - started < 30:
        try:
            part = os.read(controller, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(controller)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return out, shown


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines come every 50 ms instead of every ten seconds."""
    monkeypatch.setattr(output, "_EVERY_S", 0.05)


def test_quick_work_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("loading") as meter:
        meter(1, 2)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("hasty")
def test_without_a_terminal_a_line_comes_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("loading") as meter:
        for done in range(1, 41):
            meter(done * 1_000, 40_000)
            time.sleep(0.01)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 20
    assert all(re.fullmatch(r"loading: \d+%", line) for line in lines)


@pytest.mark.usefixtures("hasty")
def test_work_without_a_measure_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("training"):
        time.sleep(0.3)
    with progress("quick"):
        pass
    time.sleep(0.1)
    assert capsys.readouterr().err == "training: ...\n"


def test_on_a_terminal_a_bar_is_drawn_and_taken_away() -> None:
    out, shown = drawn(SLOW)
    assert out == b"done\n"
    assert b"counting" in shown
    assert b"%" in shown
    assert b"\x1b[?25h" in shown  # the cursor is back


STEPS = """
import time
from trimtab.cli.output import progress
with progress("first") as meter:
    meter.say("second", 0.25)
    time.sleep(1.3)
    meter.say("third")
    time.sleep(0.4)
    meter.say("fourth", 0.75)
    time.sleep(0.4)
"""


def test_a_bar_has_the_share_of_each_step_and_none_where_nobody_says() -> None:
    shown = drawn(STEPS)[1].decode()
    parts = {name: shown[shown.index(name) :] for name in ("second", "third", "fourth")}
    assert "first" not in shown
    assert "25%" in parts["second"].partition("third")[0]
    assert "%" not in parts["third"].partition("fourth")[0]
    assert "75%" in parts["fourth"]
