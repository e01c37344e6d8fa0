"""Progress: nothing for quick work, lines where no terminal is, a bar on one."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time

import pytest

from trimtab.cli import output
from trimtab.cli.output import progress, working

SLOW = """
import time
from trimtab.cli.output import progress
with progress("counting") as meter:
    for done in range(16):
        meter(done, 15)
        time.sleep(0.1)
print("done")
"""


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
    return now


def test_quick_work_shows_nothing(moments: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("loading") as meter:
        moments[0] = 0.9
        meter(1, 2)
    assert capsys.readouterr().err == ""


def test_without_a_terminal_a_line_comes_every_ten_seconds(
    moments: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("loading") as meter:
        for second in range(1, 32):
            moments[0] = float(second)
            meter(second * 1_000, 40_000)
    assert capsys.readouterr().err.splitlines() == [
        "loading: 10,000 of 40,000",
        "loading: 20,000 of 40,000",
        "loading: 30,000 of 40,000",
    ]


def test_work_without_a_measure_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "_EVERY_S", 0.05)
    with working("training"):
        time.sleep(0.3)
    with working("quick"):
        pass
    time.sleep(0.1)
    assert capsys.readouterr().err == "training ...\n"


def test_on_a_terminal_a_bar_is_drawn_and_taken_away() -> None:
    controller, terminal = pty.openpty()
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW], stderr=terminal, stdout=subprocess.PIPE, env={**os.environ, "TERM": "xterm"}
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
    assert out == b"done\n"
    assert b"counting" in shown
    assert b"/15" in shown
    assert b"\x1b[?25h" in shown  # the cursor is back
