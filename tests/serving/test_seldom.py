"""What goes wrong at every request is said seldom, and how often it was."""

from __future__ import annotations

import logging

import pytest

from trimtab.serving.seldom import Seldom


class Seconds:
    """A stopwatch that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def raised(divisor: float, message: str = "") -> Exception:
    try:
        if message:
            raise ValueError(message)
        divisor = 1 / divisor
    except (ValueError, ZeroDivisionError) as error:
        return error
    raise AssertionError(divisor)


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


@pytest.fixture
def seldom(clock: Seconds) -> Seldom:
    return Seldom(logging.getLogger("a service"), clock)


def test_a_kind_is_said_once_in_ten_seconds_and_then_how_often_it_was_not(
    seldom: Seldom, clock: Seconds, caplog: pytest.LogCaptureFixture
) -> None:
    for second in range(21):
        clock.now = 100.0 + second
        seldom.warning("late@2 (shadow)", KeyError(second))
        seldom.warning("late@3 (shadow)", KeyError("x"))
    more = " (and 9 more like it since this was last said)"
    said = [f"late@2 (shadow): KeyError: {n}{more * (n > 0)}" for n in (0, 10, 20)]
    assert [text for text in caplog.messages if "late@2" in text] == said
    assert len(caplog.messages) == 6


def test_faults_of_one_place_are_of_one_kind_whatever_they_say(
    seldom: Seldom, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(5):
        seldom.error(f"POST /{n} failed", raised(0))
        seldom.error(f"POST /{n} failed", raised(1, f"row {n}"))
    assert caplog.messages == ["POST /0 failed"] * 2
    assert "ZeroDivisionError" in caplog.text
    assert "row 0" in caplog.text


def test_what_a_fault_was_raised_from_says_which_kind_it_is(seldom: Seldom, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a model raises is raised anew, in one place, as the failure of a version."""
    for n, cause in enumerate((raised(0), raised(1, "x"), raised(0))):
        try:
            raise RuntimeError("late@1: the model raised") from cause
        except RuntimeError as error:
            seldom.error(f"{n}", error)
    assert caplog.messages == ["0", "1"]


def test_kinds_without_end_take_no_memory_without_end(seldom: Seldom) -> None:
    for n in range(5_000):
        seldom.warning(f"model {n}", KeyError("x"))
    assert len(seldom._said) <= 1_000
