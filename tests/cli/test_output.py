"""Progress: nothing for quick work, lines where no terminal is, a bar on one."""

from __future__ import annotations

import io
import os
import pty
import select
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import click
import pytest

from processes import eventually
from trimtab.cli import output
from trimtab.cli.exits import Manner
from trimtab.cli.output import Meter, progress
from trimtab.cli.top import _watch
from trimtab.core.errors import Unavailable

AT_ONCE = """
import sys
import rich.console, rich.progress  # which takes a while
from trimtab.cli import output
output._QUICK_S = 0.0
def drawn():
    sys.stdin.readline()
"""
SLOW = f"""{AT_ONCE}
with output.progress("counting") as meter:
    drawn()
    meter(6, 15)
    drawn()
print("done")
"""


def drawn(code: str, *steps: str) -> tuple[bytes, str]:
    """What a program prints, and what it shows on the terminal that is its standard error.

    It is given a line each time that one of the `steps` was shown, one after the other.
    """
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm"},
        bufsize=0,
    )
    os.close(terminal)
    assert process.stdin is not None
    shown, seen, left = "", 0, list(steps)
    end_s = time.monotonic() + 60  # a bar is drawn again and again
    while time.monotonic() < end_s:
        if not select.select([controller], [], [], 1)[0]:
            continue
        try:
            part = os.read(controller, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        shown += part.decode()
        if left and (at := shown.find(left[0], seen)) >= 0:
            seen = at + len(left.pop(0))
            process.stdin.write(b"\n")
    os.close(controller)
    out, _ = process.communicate(timeout=60)  # its standard input closes, so that it ends
    assert (process.returncode, left) == (0, []), shown
    return out, shown


def test_quick_work_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("loading") as meter:
        meter(1, 2)
    assert capsys.readouterr().err == ""


def test_without_a_terminal_a_line_comes_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [0.0]
    monkeypatch.setattr(output, "_EVERY_S", 3_600.0)
    monkeypatch.setattr(output, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    with progress("loading") as meter:
        for done in range(1, 41):
            now_s[0] += 360.0
            meter(done * 1_000, 40_000)
    assert capsys.readouterr().err.splitlines() == ["loading: 25%", "loading: 50%", "loading: 75%", "loading: 100%"]


def test_work_without_a_measure_is_told_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_EVERY_S", 0.05)
    said: list[str] = []
    with progress("training"):
        eventually(lambda: said.append(capsys.readouterr().err) or "".join(said))
        time.sleep(0.15)  # it is not repeated
    monkeypatch.setattr(output, "_EVERY_S", 120.0)
    with progress("quick"):
        pass
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    for timer in timers:
        timer.join(60)
    assert not any(timer.is_alive() for timer in timers)  # nothing is told once the work is done
    assert "".join(said) + capsys.readouterr().err == "training: ...\n"


def test_on_a_terminal_a_bar_is_drawn_and_taken_away() -> None:
    out, shown = drawn(SLOW, "counting", "40%")
    assert out == b"done\n"
    assert "\x1b[?25h" in shown  # the cursor is back


STEPS = f"""{AT_ONCE}
with output.progress("first") as meter:
    meter.say("second", 0.25)
    drawn()
    meter.say("third")
    drawn()
    meter.say("fourth", 0.75)
    drawn()
"""


def test_a_bar_has_the_share_of_each_step_and_none_where_nobody_says() -> None:
    shown = drawn(STEPS, "25%", "third", "75%")[1]
    parts = {name: shown[shown.index(name) :] for name in ("second", "third", "fourth")}
    assert "first" not in parts["second"]
    assert "25%" in parts["second"].partition("third")[0]
    assert "%" not in parts["third"].partition("fourth")[0]
    assert "75%" in parts["fourth"]


def test_a_step_that_begins_while_the_bar_does_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", terminal)
    started, making, made = Meter._started_bar, threading.Event(), threading.Event()
    shown: list[object] = []

    def slowly(self: Meter) -> object:
        bar = started(self)
        making.set()
        made.wait(0.2)
        shown.append(bar.tasks[0])
        return bar

    monkeypatch.setattr(Meter, "_started_bar", slowly)
    monkeypatch.setattr(output, "_QUICK_S", 0.0)
    with progress("first") as meter:
        assert making.wait(30)
        meter.say("second", 0.25)
        made.set()
    assert [(one.description, one.completed) for one in shown] == [("second", 0.25)]


def test_a_service_that_is_away_puts_no_text_among_documents(capsys: pytest.CaptureFixture[str]) -> None:
    errors: list[BaseException] = [Unavailable("no service answers there"), KeyboardInterrupt()]

    def look() -> Any:
        raise errors.pop(0)

    manner = Manner()
    manner.json = True
    with click.Context(click.Command("top"), obj=manner), pytest.raises(KeyboardInterrupt):
        _watch(look, ("", SimpleNamespace()), 0.0, None)  # type: ignore[arg-type]  # no view is made of it
    assert capsys.readouterr() == ("", "no service answers there\n")
