"""What was logged long after it was made is found, and what is not there is not read for again and again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import perf_counter, sleep
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.clock import VirtualClock
from trimtab.core.errors import NotFound
from trimtab.core.records import Prediction
from trimtab.serving.failures import Late
from trimtab.serving.http.service import HttpService
from trimtab.serving.log import logged_late
from trimtab.serving.log.logged_late import LoggedLate
from trimtab.serving.log.prediction_ids import PredictionIds, batch_prediction_ids
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.serving.log.prediction_record import ERASED
from trimtab.store.ports import LogRecord
from trimtab.testing import MemoryLog
from trimtab.testing.builders import a_prediction

START_US = 1_700_000_000_000_000
SECOND_US, DAY_US = 1_000_000, 86_400_000_000
ONE = a_prediction(id="", request_id="r1", model="late", version="a" * 64, made_at_us=5, at_us=4, score=0.25)


class CountingLog(MemoryLog):
    """A log that counts what is read of it, and can take its time for that."""

    def __init__(self, clock: Any) -> None:
        super().__init__(clock=clock)
        self.rows = 0
        self.pause_s = 0.0
        self.open = threading.Event()
        self.open.set()

    def read(self, partition: str, after: int, *, limit: int = 10_000) -> list[LogRecord]:
        self.open.wait(30)
        found = super().read(partition, after, limit=limit)
        sleep(self.pause_s * len(found))
        self.rows += len(found)
        return found


def predictions(ids: list[str]) -> list[Prediction]:
    return [msgspec.structs.replace(ONE, id=one) for one in ids]


class Filled:
    """A log of 20,000 answers, of which each was logged at once."""

    def __init__(self) -> None:
        self.clock = VirtualClock(START_US)
        self.store = CountingLog(self.clock)
        self.log = PredictionLog(self.store)
        self.ids = PredictionIds(self.clock, seed=1)
        self.early = PredictionIds(self.clock, seed=2)()
        self.live(20_000)

    def live(self, count: int) -> list[str]:
        made = []
        for _ in range(count // 10):
            self.clock.advance_to(self.clock.now_us() + 100_000)
            made += [self.ids() for _ in range(10)]
            self.log.append(predictions(made[-10:]))
        return made

    def reads(self, looked_for: str) -> int:
        """How many records are read until it is known that something is not there."""
        before = self.store.rows
        with pytest.raises(NotFound, match="is not in the log"):
            self.log.find(looked_for)
        return self.store.rows - before


@pytest.fixture
def filled() -> Filled:
    return Filled()


def test_an_id_that_is_not_there_is_read_for_once(filled: Filled) -> None:
    for nowhere in ("p_" + "0" * 26, filled.early):
        assert filled.reads(nowhere) < 21_000  # the first of them reads each block, and what is near
        assert filled.reads(nowhere) < 500
    filled.live(1_000)
    assert filled.reads("p_" + "0" * 26) < 1_500  # what came since
    assert filled.reads("p_" + "0" * 26) < 500
    assert filled.reads("p_" + "z" * 26) < 100


def test_ids_of_what_retention_removed_are_soon_known_to_be_gone(filled: Filled) -> None:
    gone = [p.id for block in filled.log.scan() for p in block][:10_000]
    filled.store.truncate("p0001", 10_000)
    assert filled.reads(gone[0]) < 11_000
    assert max(filled.reads(one) for one in gone[1::1_000]) < 500


def test_late_ones_are_found_behind_all_that_was_read_before(filled: Filled) -> None:
    """A batch that took hours, and what a killed process had buffered days before it was recovered."""
    noted, batch = filled.ids(), batch_prediction_ids("b", filled.clock.now_us() + 5_000, range(300))
    assert filled.reads(noted) < 21_000
    filled.clock.advance_to(filled.clock.now_us() + 3 * DAY_US)
    filled.log.append(predictions(batch[:200]))
    between = filled.live(3_000)
    filled.log.append(predictions([noted]))
    filled.live(3_000)
    filled.log.append(predictions(batch[200:]))
    filled.live(500)
    for one in (noted, batch[0], batch[199], batch[200], batch[-1], between[7]):
        assert filled.log.find(one).id == one
    before = filled.store.rows
    assert filled.log.find(batch[-1]).id == batch[-1]
    assert filled.store.rows - before < 4_500  # the blocks that hold something late of its time
    assert filled.reads(PredictionIds(filled.clock, seed=3)()) < 500


def test_blocks_that_were_truncated_are_forgotten(filled: Filled) -> None:
    nowhere, blocks = "p_" + "0" * 26, filled.log._late._blocks
    filled.reads(nowhere)
    assert len(blocks["p0001"]) == 10
    batch = batch_prediction_ids("b", filled.clock.now_us(), range(10_000))
    filled.clock.advance_to(filled.clock.now_us() + DAY_US)
    filled.log.append(predictions(batch))
    live = filled.live(10_000)
    assert filled.log.find(batch[5_000]).id == batch[5_000]
    filled.store.truncate("p0001", 30_000)
    assert filled.reads(batch[5_000]) < 12_000
    assert filled.reads(batch[5_000]) < 500
    assert sorted(blocks["p0001"]) == list(range(15, 20))
    assert filled.log.find(live[0]).id == live[0]
    filled.store.truncate("p0001", 40_000)
    assert filled.reads(nowhere) < 10
    assert blocks["p0001"] == {}


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.sampled_from(["soon", "late", "truncate", "ask", "hurry"]), st.floats(0, 1)),
        min_size=3,
        max_size=40,
    )
)
def test_the_late_are_found_from_anywhere_whatever_was_read_and_truncated_before(
    steps: list[tuple[int, str, float]],
) -> None:
    clock = VirtualClock(START_US)
    store = MemoryLog(clock=clock)
    log, ids, late = PredictionLog(store), PredictionIds(clock, seed=1), LoggedLate(store)
    there: dict[int, str] = {}
    begin = last = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logged_late, "_BLOCK", 4)
        for count, what, share in steps:
            if what in ("soon", "late"):
                made = [ids() for _ in range(count)]
                clock.advance_to(clock.now_us() + (0 if what == "soon" else 2 * SECOND_US))
                positions = log.append(predictions(made)) if made else range(0)
                last += count
                there |= dict(zip(positions, made, strict=True)) if what == "late" else {}
            elif what == "truncate" and last:
                begin = max(begin, round(share * last))
                store.truncate("p0001", begin)
            elif last:
                after = round(share * last)
                end = min(last, after + count)
                for position, one in there.items():
                    if not (begin < position and after < position <= end):
                        continue
                    place = "p0001", after, end
                    if what == "hurry":  # some of it may be known by now
                        with suppress(Late):
                            late.find(one, msgspec.msgpack.encode(one), place, perf_counter() - 1)
                    found = late.find(one, msgspec.msgpack.encode(one), place, None)
                    assert found is not None
                    assert found.position == position
        for position, one in there.items():
            found = late.find(one, msgspec.msgpack.encode(one), ("p0001", 0, last), None)
            assert (None if found is None else found.position) == (position if position > begin else None)
        if last > begin:
            nowhere = ids()
            assert late.find(nowhere, msgspec.msgpack.encode(nowhere), ("p0001", 0, last), None) is None
            assert min(late._blocks["p0001"], default=begin) >= begin // 4


def test_late_ones_that_were_erased_are_said_to_be(filled: Filled) -> None:
    noted = filled.ids()
    filled.clock.advance_to(filled.clock.now_us() + DAY_US)
    (position,) = filled.log.append(predictions([noted]))
    filled.live(100)
    filled.store.erase("p0001", {position: ERASED + msgspec.msgpack.encode(noted)})
    with pytest.raises(NotFound, match="was erased"):
        filled.log.find(noted)
    assert filled.log.get(noted) is None
    assert filled.log.locate(noted) == ("p0001", position)


@pytest.mark.slow
@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 3 * SECOND_US), st.integers(0, 400), st.integers(0, 5 * SECOND_US), st.booleans()),
        min_size=1,
        max_size=25,
    )
)
def test_whatever_is_logged_when_is_found_by_its_id(steps: list[tuple[int, int, int, bool]]) -> None:
    """Some wait to be logged, for as long as they like, while others are; some are looked for before they are there."""
    clock = VirtualClock(START_US)
    log, ids = PredictionLog(MemoryLog(clock=clock)), PredictionIds(clock, seed=1)
    waiting: list[tuple[int, list[str]]] = []
    there: list[str] = []
    for step_us, count, delay_us, look in steps:
        clock.advance_to(clock.now_us() + step_us)
        made = [ids() for _ in range(count)]
        waiting.append((clock.now_us() + delay_us, made))
        if look:
            assert [log.get(one) for one in made[:2]] == [None] * min(2, count)
        for due in [one for one in waiting if one[0] <= clock.now_us()]:
            waiting.remove(due)
            log.append(predictions(due[1]))
            there += due[1]
    assert [log.find(one).id for one in there[::7]] == there[::7]
    for _, made in waiting:
        assert [log.get(one) for one in made[:2]] == [None] * min(2, len(made))


def test_a_search_ends_with_its_time_and_goes_on_with_the_next_one(filled: Filled) -> None:
    nowhere = "p_" + "0" * 26
    with pytest.raises(Late, match="continues where it stopped"):
        filled.log.find(nowhere, perf_counter() - 1)
    filled.store.pause_s = 10e-6
    before, tries, through = filled.store.rows, 0, False
    while not through and tries < 1_000:
        tries += 1
        try:
            assert filled.log.find(nowhere, perf_counter() + 0.05) is None
        except Late:
            continue
        except NotFound:
            through = True
    assert through
    assert tries > 1
    assert filled.store.rows - before < 21_000 + 500 * tries  # each begins by looking near, and reads no block again


def test_searches_do_not_occupy_the_working_threads(shop: Any) -> None:
    """Eight of them occupied every thread that answers large requests, and events, until they were through."""
    shop.log.close()
    store = CountingLog(VirtualClock(START_US))
    shop.log = PredictionLog(store)
    shop.endpoint.swap(shop.answerer())
    shop.log.append(predictions([PredictionIds(VirtualClock(START_US))()]))

    async def talk(client: httpx.AsyncClient) -> None:
        store.open.clear()
        path = "/v1/predictions/p_" + "0" * 26
        searches = [asyncio.create_task(client.get(path)) for _ in range(8)]
        while service.parts.threads.under_way < 8:
            await asyncio.sleep(0.001)
        answer = await client.post("/v1/models/late/predict", json={"rows": [shop.ask()] * 70})
        assert (answer.status_code, len(answer.json()["predictions"])) == (200, 70)
        store.open.set()
        assert [one.status_code for one in await asyncio.gather(*searches)] == [404] * 8
        late = await client.get(path, headers={"x-timeout-ms": "0.0001"})
        assert (late.status_code, late.json()["type"]) == (504, "urn:trimtab:problem:late")
        wrong = await client.get(path, headers={"x-timeout-ms": "soon"})
        assert (wrong.status_code, wrong.json()["field"]) == (422, "X-Timeout-Ms")

    service = HttpService([shop.endpoint], shop.log)
    run(service, talk)


def run(service: HttpService, talk: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def main() -> None:
        transport = httpx.ASGITransport(app=service)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            await talk(client)

    try:
        asyncio.run(asyncio.wait_for(main(), 60))
    finally:
        service.close()
