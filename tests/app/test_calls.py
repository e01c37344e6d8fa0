"""Errors of public calls end in the line of the caller, and slow calls show their progress there."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import trimtab as tt
from trimtab.app import calls
from trimtab.app.calls import public_calls
from trimtab.core.errors import Misuse, Unavailable
from trimtab.run.progress_line import ProgressLine


@public_calls
class Shop:
    """A class with some public methods."""

    def refuse(self) -> None:
        """Raise an error with a chain of causes."""
        try:
            self._inner()
        except Misuse as error:
            raise Unavailable(f"shop: {error}") from error

    def _inner(self) -> None:
        try:
            float("x")
        except ValueError as error:
            failed = Misuse(f"number: {error}")
            failed.add_note("Traceback (most recent call last):\n  a child process")
            failed.add_note("a note")
            raise failed from error

    def fail(self) -> None:
        """Fail by a fault of the code."""
        self._fault()

    def _fault(self) -> None:
        raise KeyError("fault")

    def ingest(self, *, progress: Callable[[float, float], object] | None = None) -> object:
        """Return the given function of progress."""
        return progress


def caught(call: Callable[[], object]) -> BaseException:
    try:
        call()
    except BaseException as error:
        return error
    raise AssertionError("no error was raised")


def frames(error: BaseException) -> list[tuple[str, str]]:
    return [(Path(one.filename).name, one.name) for one in traceback.extract_tb(error.__traceback__)]


def test_an_error_ends_in_the_line_of_the_caller_with_its_first_cause_once() -> None:
    error = caught(lambda: Shop().refuse())
    assert frames(error)[1:] == [(Path(__file__).name, "<lambda>"), ("<trimtab>", "refuse")]
    assert isinstance(error.__cause__, ValueError)
    assert error.__suppress_context__
    text = "".join(traceback.format_exception(error))
    assert text.count("Traceback") == 2
    assert text.count("direct cause") == 1
    assert "During handling" not in text
    inner = caught(lambda: public_calls(type("Other", (), {"go": lambda self: Shop()._inner()}))().go())
    assert inner.__notes__ == ["a note"]


def test_a_fault_of_trimtab_keeps_all_its_frames() -> None:
    assert ("test_calls.py", "_fault") in frames(caught(lambda: Shop().fail()))


def test_all_frames_are_shown_if_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls.sys, "flags", SimpleNamespace(dev_mode=True))  # as with `python -X dev`
    assert ("test_calls.py", "refuse") in frames(caught(lambda: Shop().refuse()))


def test_an_error_of_a_project_is_short(tmp_path: Path) -> None:
    error = caught(lambda: tt.open(tmp_path))
    assert frames(error)[-1] == ("<trimtab>", "open_project")
    assert isinstance(error, tt.NotFound)


def test_a_slow_call_gets_a_line_of_progress_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def own(done: float, total: float) -> Any: ...

    assert Shop().ingest() is None  # standard error is no terminal here
    monkeypatch.setattr(calls, "can_update", lambda: True)
    assert isinstance(Shop().ingest(), ProgressLine)
    assert Shop().ingest(progress=own) is own
    assert sys.flags.dev_mode == 0
