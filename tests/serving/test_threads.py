"""However many wait, somebody works; however many work, the process can be looked at."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from trimtab.serving.http.threads import Threads
from trimtab.serving.problems import Refused


def run(scene: Any, at_once: int = 16) -> None:
    threads = Threads(at_once)
    try:
        asyncio.run(scene(threads))
    finally:
        threads.close()


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
        with pytest.raises(Refused, match="16 slow requests are under way"):
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
        while threads.under_way:
            await asyncio.sleep(0.001)

    run(scene)


def test_what_a_thread_raises_is_raised() -> None:
    async def scene(threads: Threads) -> None:
        with pytest.raises(ZeroDivisionError):
            await threads.work(lambda: 1 / 0)

    run(scene)
