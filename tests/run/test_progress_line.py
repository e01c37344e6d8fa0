"""The line about the progress of slow work: shown on a terminal and in a notebook, and nowhere else."""

from __future__ import annotations

import io
import sys
import threading

import pytest

from trimtab.run import progress_line
from trimtab.run.progress_line import ProgressLine


class Screen(io.StringIO):
    """A standard error whose writes can be waited for."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal
        self.said = threading.Event()

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        self.said.set()
        return super().write(text)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_line, "_QUICK_S", 0.001)
    monkeypatch.setattr(progress_line, "_EVERY_S", 0.001)


def test_a_terminal_shows_one_line_that_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(terminal=True)
    monkeypatch.setattr(sys, "stderr", screen)
    with ProgressLine("ingesting") as line:
        line(1, 4)
        assert screen.said.wait(10)
        line.say("training y, " + "x" * 200, 0.5)
        screen.said.clear()
        assert screen.said.wait(10)
    shown = screen.getvalue()
    assert "ingesting: 25% 0:00" in shown
    assert "\n" not in shown
    assert max(map(len, shown.split("\r"))) < 100
    assert shown.endswith("\r")
    assert not shown.rsplit("\r", 2)[1].strip()  # the line was overwritten with spaces


def test_nothing_is_shown_where_output_is_piped(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(terminal=False)
    monkeypatch.setattr(sys, "stderr", screen)
    with ProgressLine("ingesting") as line:
        line(1, 4)
        assert not [one for one in threading.enumerate() if one.name == "progress line"]
    assert screen.getvalue() == ""
