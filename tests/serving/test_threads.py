"""However many wait, somebody works; however many work, the process can be looked at."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from trimtab.serving.http.requests.threads import Threads, still_at_work
from trimtab.serving.problems import Refused


def run(scene: Any, at_once: int = 16) -> None:
    threads = Threads(at_once)
    try:
        asyncio.run(scene(threads))
    finally:
        threads.close(30.0)


def test_those_who_wait_and_those_who_work_keep_nobody_from_looking() -> None:
    over = threading.Event()

    async def scene(threads: Threads) -> None:
        waiting = [asyncio.ensure_future(threads.wait(over.wait)) for _ in range(7)]
        await asyncio.sleep(0)
        assert await threads.work(lambda: "worked") == "worked"
        working = [asyncio.ensure_future(threads.work(over.wait)) for _ in range(9)]
        await asyncio.sleep(0)
        assert threads.under_way == 16
        assert await threads.look(lambda: "looked") == "looked"
        with pytest.raises(Refused, match="16 slow requests are in flight"):
            await threads.work(lambda: "too much")
        going = asyncio.ensure_future(threads.go_on(lambda: "done"))  # what was begun is not refused
        over.set()
        await asyncio.gather(*waiting, *working)
        assert await going == "done"
        await asyncio.sleep(0)
        assert threads.under_way == 0

    run(scene)


def test_a_thread_that_nobody_waits_for_any_more_counts_until_it_ends() -> None:
    over = threading.Event()

    async def scene(threads: Threads) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await threads.work(over.wait)
        assert threads.under_way == 1
        over.set()
        async with asyncio.timeout(30):
            while threads.under_way:
                await asyncio.sleep(0.001)

    run(scene)


def test_what_a_thread_raises_is_raised() -> None:
    async def scene(threads: Threads) -> None:
        with pytest.raises(ZeroDivisionError):
            await threads.work(lambda: 1 / 0)

    run(scene)


def test_a_thread_that_comes_to_no_end_is_unfinished_and_what_waits_for_one_is_not_begun() -> None:
    over, begun, threads = threading.Event(), threading.Event(), Threads(16)
    done: list[int] = []

    def toil() -> None:
        begun.set()
        over.wait()

    async def scene() -> None:
        working = [asyncio.ensure_future(threads.work(toil)) for _ in range(8)]
        waiting = asyncio.ensure_future(threads.work(done.append, 1))
        await asyncio.to_thread(begun.wait)
        threads.close(0.05)
        threads.close(60.0)  # once is enough
        assert still_at_work() == 8
        with pytest.raises(asyncio.CancelledError):
            await waiting
        over.set()
        await asyncio.gather(*working)

    asyncio.run(scene())
    assert (done, still_at_work()) == ([], 0)


def test_whoever_loses_patience_waits_for_no_thread() -> None:
    over, begun, threads = threading.Event(), threading.Event(), Threads(16)
    asked: list[int] = []

    async def scene() -> None:
        working = asyncio.ensure_future(threads.look(lambda: (begun.set(), over.wait())))
        await asyncio.to_thread(begun.wait)
        threads.close(3_600.0, hurried=lambda: bool(asked.append(1)) or len(asked) > 2)
        assert still_at_work() == 1
        over.set()
        await working

    asyncio.run(scene())
    assert still_at_work() == 0


def test_threads_that_end_in_time_are_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    over, threads = threading.Event(), Threads(16)

    async def scene() -> None:
        working = asyncio.ensure_future(threads.work(over.wait))
        await asyncio.sleep(0)
        threading.Timer(0.1, over.set).start()
        threads.close(60.0)
        assert await working is True

    asyncio.run(scene())
    assert (still_at_work(), caplog.text) == (0, "")
