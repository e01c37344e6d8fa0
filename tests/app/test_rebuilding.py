"""Rebuilds that several ask for: what becomes of one, all are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier, Event

import pytest

from trimtab.app.online.rebuilding import Rebuilds
from trimtab.core.errors import Unavailable
from trimtab.store.sql_catalog import SqlCatalog

WAITING, LIMIT_S = 3, 60.0


@pytest.fixture
def rebuilds(tmp_path: Path) -> Iterator[Rebuilds]:
    with SqlCatalog.sqlite(tmp_path / "catalog.db") as catalog:
        yield Rebuilds(catalog)


@contextmanager
def waiting(rebuilds: Rebuilds, followed: Callable[[], bool] = lambda: True) -> Iterator[Iterator[Future[None]]]:
    """Several threads have asked to rebuild a view; each looks on once the one before is told what became of it."""
    asked, turns = Barrier(WAITING + 1), [Event() for _ in range(WAITING)]

    def wait(turn: Event) -> None:
        def look() -> bool:
            if turn.is_set():
                return followed()
            asked.wait(LIMIT_S)
            return turn.wait(LIMIT_S)

        rebuilds.wait("site", look, None)

    def told(futures: Sequence[Future[None]]) -> Iterator[Future[None]]:
        for turn, future in zip(turns, futures, strict=True):
            turn.set()
            yield future

    with ThreadPoolExecutor(WAITING) as pool:
        futures = [pool.submit(wait, turn) for turn in turns]
        asked.wait(LIMIT_S)
        try:
            yield told(futures)
        finally:
            for turn in turns:
                turn.set()


def test_all_who_wait_are_told_that_it_failed(rebuilds: Rebuilds) -> None:
    with waiting(rebuilds) as told:
        rebuilds.failed("site", "no room.")
        for future in told:
            with pytest.raises(
                Unavailable, match=r"'site': the process that applies .* could not rebuild the view: no room"
            ):
                future.result(LIMIT_S)


def test_all_who_wait_are_told_that_nobody_is_there_to_do_it(rebuilds: Rebuilds) -> None:
    with waiting(rebuilds, lambda: False) as told:
        for future in told:
            with pytest.raises(Unavailable, match=r"ended before the view was rebuilt.*trimtab storage rebuild site"):
                future.result(LIMIT_S)


def test_who_asks_after_a_failure_has_it_done_anew(rebuilds: Rebuilds) -> None:
    rebuilds.failed("site", "no room.")
    assert rebuilds.next() is None
    with waiting(rebuilds) as told:
        assert rebuilds.next() == "site"
        rebuilds.done("site")
        assert [future.result(LIMIT_S) for future in told] == [None] * WAITING


def test_one_that_was_done_is_not_said_to_have_failed_when_its_process_ends(rebuilds: Rebuilds) -> None:
    def end() -> bool:
        rebuilds.done("site")
        return False

    rebuilds.wait("site", end, None)
    assert rebuilds.next() is None
