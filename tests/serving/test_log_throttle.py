"""Failures of every request are logged in full at intervals."""

from __future__ import annotations

import logging

import pytest

from trimtab.serving.observe.log_throttle import ThrottledLogger


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
def throttled(clock: Seconds) -> ThrottledLogger:
    return ThrottledLogger(logging.getLogger("a service"), clock)


def test_a_kind_is_logged_once_in_ten_seconds_with_the_number_suppressed(
    throttled: ThrottledLogger, clock: Seconds, caplog: pytest.LogCaptureFixture
) -> None:
    for second in range(21):
        clock.now = 100.0 + second
        throttled.warning("late@2 (shadow)", KeyError(second))
        throttled.warning("late@3 (shadow)", KeyError("x"))
    more = " (and 9 more since this was last logged)"
    said = [f"late@2 (shadow): KeyError: {n}{more * (n > 0)}" for n in (0, 10, 20)]
    assert [text for text in caplog.messages if "late@2" in text] == said
    assert len(caplog.messages) == 6


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.exc_info]


def test_every_fault_is_named_and_a_traceback_is_shown_once_of_each_place_and_model(
    throttled: ThrottledLogger, clock: Seconds, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(5):
        throttled.error(f"POST (request {n}) failed", raised(0), of="late")
        throttled.error(f"POST (request {n}) failed", raised(1, f"row\n{n}"), of="late")
        throttled.error(f"GET (request {n}) failed", raised(0), of="early")
    assert len(caplog.messages) == 15
    assert tracebacks(caplog) == ["POST (request 0) failed"] * 2 + ["GET (request 0) failed"]
    assert caplog.messages[10] == "POST (request 3) failed: ValueError('row\\n3')"  # a line stays one
    clock.now += 10
    throttled.error("POST (request 6) failed", raised(0), of="late")
    assert tracebacks(caplog)[-1] == "POST (request 6) failed"


def test_what_a_fault_was_raised_from_says_which_kind_it_is(
    throttled: ThrottledLogger, caplog: pytest.LogCaptureFixture
) -> None:
    """What a model raises is raised again, in one place, as the failure of a version."""
    for n, cause in enumerate((raised(0), raised(1, "x"), raised(0))):
        try:
            raise RuntimeError("late@1: the model raised") from cause
        except RuntimeError as error:
            throttled.error(f"{n}", error, of="late")
    assert tracebacks(caplog) == ["0", "1"]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_errors_that_are_their_own_causes_are_told(
    throttled: ThrottledLogger, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [ValueError(n) for n in range(length)]
    for n, error in enumerate(errors):
        error.__cause__ = errors[(n + 1) % length]
    throttled.error("POST failed", errors[0], of="late")
    assert caplog.messages == ["POST failed"]


def test_kinds_without_end_take_no_memory_without_end(throttled: ThrottledLogger, clock: Seconds) -> None:
    for n in range(5_000):
        clock.now += 0.005
        throttled.warning(f"model {n}", KeyError("x"))
    assert len(throttled._logged) <= 1_000
    clock.now += 20
    throttled.warning("another", KeyError("x"))
    throttled.warning("another", KeyError("x"))
    assert throttled._logged["another"][1] == 1
