"""How signals are caught: a hang-up once, none of those that are ignored already, none in other threads."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from trimtab.run.signals import ENDING, caught


class Heard(list[int]):
    """Signals that came, and a handler that notes them."""

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.append(number)


@pytest.fixture(autouse=True)
def before() -> Iterator[dict[signal.Signals, object]]:
    """The handlers of this process, which are there again afterwards."""
    handlers = {number: signal.getsignal(number) for number in ENDING}
    yield dict(handlers)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_signals_are_handled_meanwhile_and_what_was_there_before_is_there_again(
    before: dict[signal.Signals, object],
) -> None:
    heard = Heard()
    with caught(heard.handle):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            signal.raise_signal(number)
    assert heard == [signal.SIGINT, signal.SIGTERM, signal.SIGTERM]
    assert {number: signal.getsignal(number) for number in ENDING} == before


def test_a_second_hang_up_is_ignored_also_by_whoever_caught_signals_before() -> None:
    outer, inner = Heard(), Heard()
    with caught(outer.handle, (signal.SIGTERM, signal.SIGHUP)):
        with caught(inner.handle):
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
    assert (inner, outer) == ([signal.SIGHUP], [signal.SIGTERM])
    signal.raise_signal(signal.SIGHUP)  # it would end this process


def test_a_hang_up_that_is_ignored_stays_so() -> None:
    heard = Heard()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with caught(heard.handle):
        signal.raise_signal(signal.SIGHUP)
    assert heard == []
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_signals_may_be_ignored_from_then_on() -> None:
    heard = Heard()
    with caught(heard.handle, for_good=True):
        signal.raise_signal(signal.SIGTERM)
    for number in ENDING:
        signal.raise_signal(number)
    assert heard == [signal.SIGTERM]


def test_another_thread_catches_nothing(before: dict[signal.Signals, object]) -> None:
    found: list[dict[signal.Signals, object]] = []

    def look() -> None:
        with caught(Heard().handle):
            found.append({number: signal.getsignal(number) for number in ENDING})

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [before]
