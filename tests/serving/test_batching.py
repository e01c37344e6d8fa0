from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from trimtab.core.errors import Misuse, Unavailable
from trimtab.serving.answer.batching import (
    LONGEST_WAIT_S,
    MOST_ROWS,
    BatchCosts,
    Batching,
    calls_by_size,
    measure_costs,
)
from trimtab.serving.arms.arms import Canary, Share
from trimtab.serving.http.predict.predicting import Waiting
from trimtab.serving.http.requests.request_record import RequestRecord
from trimtab.serving.http.service import HttpService
from trimtab.serving.protect.degradation import Degrading, degrade


class Model:
    """Costs so much a call and so much a row, on a clock of its own."""

    def __init__(self, call_s: float, row_s: float, alone_s: float) -> None:
        self.call_s, self.row_s, self.alone_s, self.now_s = call_s, row_s, alone_s, 0.0

    def clock(self) -> float:
        return self.now_s

    def predict_row(self, row: list[float]) -> float:
        self.now_s += self.alone_s
        return sum(row)

    def predict(self, matrix: Any) -> Any:
        self.now_s += self.call_s + self.row_s * len(matrix)
        return matrix.sum(axis=1)


def costs(call_s: float, row_s: float, alone_s: float) -> BatchCosts:
    model = Model(call_s, row_s, alone_s)
    return measure_costs(model, 3, stopwatch_s=model.clock)


@pytest.mark.fast
def test_batches_are_measured_only_where_a_row_is_slow_and_used_only_where_they_pay() -> None:
    forest = costs(0.005, 0.0001, 0.005)
    assert forest.pays
    assert forest.together_s == pytest.approx({8: 0.0051 / 8 + 0.0001 * 7 / 8, 32: 0.005 / 32 + 0.0001})
    assert forest.wait_s == LONGEST_WAIT_S
    quick = costs(0.00002, 0.000004, 0.000004)
    assert not quick.pays
    assert quick.together_s == {}
    assert not costs(0.0, 0.005, 0.005).pays  # a batch costs what its rows do
    assert costs(0.0003, 0.00001, 0.0003).wait_s == pytest.approx(0.0003)  # no longer than it costs itself


def test_a_model_that_refuses_the_rows_it_is_timed_with_answers_alone() -> None:
    class Refuses:
        def predict(self, matrix: Any) -> Any:
            raise ValueError("no zeros")

        def predict_row(self, row: list[float]) -> float:
            raise ValueError("no zeros")

    assert not measure_costs(Refuses(), 2).pays


def gathered(calls: list[list[int]], *, fails: Sequence[int] = ()) -> Any:
    def answers(rows: Sequence[int]) -> list[int]:
        calls.append([*rows])
        if set(rows) & set(fails):
            raise ValueError(f"cannot answer {sorted(set(rows) & set(fails))}")
        return [10 * row for row in rows]

    return answers


def test_rows_of_one_turn_share_a_call_and_one_that_comes_alone_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        calls: list[list[int]] = []
        batching: Batching[int, int] = Batching()
        batching.costs = BatchCosts(alone_s=600.0, together_s={8: 0.001})
        answers = gathered(calls)
        assert await asyncio.wait_for(batching.join("v1", answers, 7).done, 30) == 70
        futures = [batching.join("v1", answers, row).done for row in range(5)]
        assert await asyncio.gather(*futures) == [0, 10, 20, 30, 40]
        assert calls == [[7], [0, 1, 2, 3, 4]]
        futures = [
            batching.join("v1", answers, row).done for row in range(5)
        ]  # as many as before: none waits for the clock
        await asyncio.wait_for(asyncio.gather(*futures), 30)
        assert calls[2:] == [[0, 1, 2, 3, 4]]
        batching.costs = BatchCosts(alone_s=0.01, together_s={8: 0.001})
        fewer = batching.join("v1", answers, 1).done  # than before: it waits, but not long
        assert await asyncio.wait_for(fewer, 30) == 10
        batching.costs = BatchCosts(alone_s=600.0, together_s={8: 0.001})
        assert await asyncio.wait_for(batching.join("v1", answers, 2).done, 30) == 20
        assert batching.calls == {1: 3, 5: 2}
        assert batching.rows == 13

    monkeypatch.setattr("trimtab.serving.answer.batching.LONGEST_WAIT_S", 600.0)
    asyncio.run(ask())


def test_a_batch_is_never_larger_than_allowed_and_versions_are_not_mixed() -> None:
    async def ask() -> None:
        calls: list[list[int]] = []
        other: list[list[int]] = []
        batching: Batching[int, int] = Batching()
        futures = [batching.join("v1", gathered(calls), row).done for row in range(MOST_ROWS + 6)]
        futures += [batching.join("v2", gathered(other), row).done for row in range(3)]
        assert await asyncio.gather(*futures) == [10 * n for n in (*range(MOST_ROWS + 6), *range(3))]
        assert [*map(len, calls)] == [MOST_ROWS, 6]
        assert other == [[0, 1, 2]]

    asyncio.run(ask())


def test_one_row_that_cannot_be_answered_takes_no_other_with_it() -> None:
    async def ask() -> None:
        batching: Batching[int, int] = Batching()
        answers = gathered([], fails=[3])
        found = await asyncio.gather(
            *(batching.join("v", answers, row).done for row in range(6)), return_exceptions=True
        )
        assert [one for one in found if not isinstance(one, Exception)] == [0, 10, 20, 40, 50]
        assert str(found[3]) == "cannot answer [3]"

    asyncio.run(ask())


def test_what_is_no_rows_fault_is_asked_once_for_all() -> None:
    async def ask() -> None:
        calls: list[list[int]] = []
        batching: Batching[int, int] = Batching(lambda error: isinstance(error, ValueError))
        answers = gathered(calls, fails=[3])
        found = await asyncio.gather(
            *(batching.join("v", answers, row).done for row in range(6)), return_exceptions=True
        )
        assert {str(one) for one in found} == {"cannot answer [3]"}
        assert calls == [[*range(6)]]
        assert batching.calls == {6: 1}

    asyncio.run(ask())


def test_each_row_knows_when_its_own_call_began() -> None:
    async def ask() -> None:
        batching: Batching[int, int] = Batching()
        first = batching.join("v", gathered([]), 1)
        assert await first.done == 10
        began_s = first.began_s
        await batching.join("v", gathered([]), 2).done
        assert first.joined_s <= first.began_s == began_s

    asyncio.run(ask())


def test_clients_that_go_away_delay_no_other() -> None:
    async def ask() -> None:
        calls: list[list[int]] = []
        batching: Batching[int, int] = Batching()
        futures = [batching.join("v", gathered(calls), row).done for row in range(4)]
        futures[1].cancel()
        assert await asyncio.gather(*futures, return_exceptions=True) != []
        assert calls == [[0, 2, 3]]

    asyncio.run(ask())


def test_each_of_many_clients_gets_its_own_answer_once() -> None:
    async def ask() -> None:
        draw = random.Random(5)
        batching: Batching[int, int] = Batching()
        batching.costs = BatchCosts(alone_s=0.001, together_s={8: 0.0001})
        calls: list[list[int]] = []
        answers = gathered(calls)

        async def one(number: int) -> None:
            for turn in range(20):
                await asyncio.sleep(draw.choice([0.0, 0.0, 0.0005]))
                assert await batching.join("v", answers, 100 * number + turn).done == 10 * (100 * number + turn)

        await asyncio.gather(*map(one, range(16)))
        assert sorted(row for rows in calls for row in rows) == [
            100 * n + turn for n in range(16) for turn in range(20)
        ]
        assert len(calls) < 320
        assert sum(calls_by_size(batching.calls).values()) == len(calls)

    asyncio.run(ask())


class Slow:
    """A model whose calls take long, whatever they are asked."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict_row(self, row: list[float]) -> float:
        time.sleep(0.0005)
        return float(np.nansum(row))

    def predict(self, matrix: Any) -> Any:
        self.batches.append(len(matrix))
        time.sleep(0.0005)
        return np.array([np.nansum(row) for row in matrix.tolist()])


def test_requests_of_a_slow_model_share_its_calls_and_each_is_answered_and_logged_once(shop: Any) -> None:
    async def ask() -> None:
        slow = Slow()
        shop.endpoint.swap(shop.answerer(scorer=slow))
        slow.batches.clear()
        service = HttpService([shop.endpoint], shop.log)
        predictor = service.predictors["late"]
        bodies = [msgspec.json.encode({"request": shop.ask(id=f"r{n}", basket=float(n))}) for n in range(24)]
        waiting = [predictor.take(body, time.perf_counter()) for body in bodies]
        assert all(isinstance(one, Waiting) for one in waiting)
        await asyncio.gather(*(one.done for one in waiting))  # type: ignore[union-attr]
        answers = [msgspec.json.decode(one.answer()) for one in waiting]  # type: ignore[union-attr]
        assert [one["request_id"] for one in answers] == [f"r{n}" for n in range(24)]
        assert slow.batches == [24]
        assert len({one["id"] for one in answers}) == 24
        text = service.parts.metrics.text()
        assert 'trimtab_model_batches_total{model="late",rows="32"} 1' in text
        assert 'trimtab_model_row_seconds{model="late",rows="32"}' in text
        assert 'trimtab_predictions_total{model="late",fate="logged"} 24' in text
        with pytest.raises(Misuse, match="basket"):  # what is wrong is said before anything waits
            predictor.take(b'{"request": {"id": "x", "basket": "much"}}', time.perf_counter())
        shop.endpoint.swap(shop.answerer(number=2))  # a quick one: nothing waits any more
        assert shop.endpoint.batching is None
        service.close()

    asyncio.run(ask())


def batched(shop: Any, count: int, *, timeout_s: float | None = None) -> tuple[list[dict[str, Any]], str]:
    """What requests that share a call are answered, or the name of what they raise; and the metrics then."""

    async def ask() -> tuple[list[Any], str]:
        shop.endpoint.swap(shop.endpoint.current)
        service = HttpService([shop.endpoint], shop.log)
        bodies = [msgspec.json.encode({"request": shop.ask(id=f"r{n}", basket=float(n))}) for n in range(count)]
        waiting = [service.predictors["late"].take(body, time.perf_counter(), timeout_s) for body in bodies]
        await asyncio.wait([one.done for one in waiting])  # type: ignore[union-attr]
        found: list[Any] = []
        for one in waiting:
            try:
                found.append(msgspec.json.decode(one.answer()))  # type: ignore[union-attr]
            except Unavailable as error:
                found.append(type(error).__name__)
        text = service.parts.metrics.text()
        service.close()
        return found, text

    return asyncio.run(ask())


def slow_reads(shop: Any, taken_s: float) -> list[int]:
    """Let each read take so long; how many rows were read, call by call."""
    answerer, reads = shop.answerer(scorer=Slow()), []
    read = answerer._read

    def slow(rows: Any, now_us: int) -> Any:
        reads.append(len(rows))
        time.sleep(taken_s)
        return read(rows, now_us)

    answerer._read = slow
    shop.endpoint.swap(answerer)
    return reads


@pytest.mark.parametrize("by_policy", [False, True])
def test_requests_that_share_a_call_have_their_time(shop: Any, by_policy: bool) -> None:
    """A shared call had no deadline: a slow store was neither late nor ever left alone."""
    reads = slow_reads(shop, 0.06)
    if by_policy:
        shop.endpoint.degrading = Degrading(degrade(after="20ms", rule=0.5), about=["user"])
    for number in range(5):
        found, _ = batched(shop, 4, timeout_s=None if by_policy else 0.02)
        assert len(reads) == number + 1
        if by_policy:
            assert [one["flags"] for one in found] == [["late", "rule"]] * 4
        else:
            assert found == ["Late"] * 4
    if by_policy:
        assert shop.endpoint.degrading.breaker.is_open


def test_a_call_has_the_time_of_the_request_that_has_the_most(shop: Any) -> None:
    slow_reads(shop, 0.03)

    async def ask() -> None:
        service = HttpService([shop.endpoint], shop.log)
        bodies = [msgspec.json.encode({"request": shop.ask(id=f"r{n}")}) for n in range(3)]
        given = zip(bodies, (0.01, 30.0, 0.01), strict=True)
        waiting = [service.predictors["late"].take(body, time.perf_counter(), left_s) for body, left_s in given]
        await asyncio.wait([one.done for one in waiting])  # type: ignore[union-attr]
        assert len({msgspec.json.decode(one.answer())["id"] for one in waiting}) == 3  # type: ignore[union-attr]
        service.close()

    asyncio.run(ask())


def test_the_parts_of_a_shared_call_are_those_of_its_requests(shop: Any) -> None:
    slow_reads(shop, 0.004)
    _, text = batched(shop, 16)
    for part in ("features", "model"):
        (count,) = re.findall(rf'trimtab_latency_seconds_count{{model="late",stage="{part}"}} (\d+)', text)
        (taken_s,) = re.findall(rf'trimtab_latency_seconds_sum{{model="late",stage="{part}"}} (\S+)', text)
        assert int(count) == 16
        assert float(taken_s) >= 16 * 0.0005


class Choosy(Slow):
    """A model that answers all but one."""

    def predict_row(self, row: list[float]) -> float:
        return float(self.predict(np.array([row]))[0])

    def predict(self, matrix: Any) -> Any:
        if np.isclose(matrix, np.log1p(3.0)).any():  # of the basket
            raise ValueError("not this one")
        return super().predict(matrix)


@pytest.mark.parametrize("canary", [False, True])
def test_who_shares_a_call_with_a_row_that_cannot_be_answered_gets_his_own_answer(shop: Any, canary: bool) -> None:
    """All were given degraded responses, or those of the version in service, for one row of another client."""
    shop.endpoint.degrading = Degrading(degrade(rule=0.5), about=["user"])
    scorer = Choosy()
    shop.endpoint.swap(shop.answerer(scorer=Slow() if canary else scorer))
    if canary:
        its = shop.answerer(number=2, scorer=scorer)
        its.served = msgspec.structs.replace(its.served, arm="canary")
        shop.endpoint.know(its.served)
        shop.endpoint.canary = Canary(its, Share("late", 1.0, ["user"]))
    found, _ = batched(shop, 6)
    wrong = ["canary_failed"] if canary else ["model_failed", "rule"]
    assert [one["flags"] for one in found] == [wrong if n == 3 else [] for n in range(6)]


def test_a_row_that_shares_a_call_with_a_failing_one_gets_its_degraded_response(shop: Any) -> None:
    """In an outage one that the rule has no number for left all that shared its call without an answer."""

    def rule(row: dict[str, Any]) -> float:
        return 0.5 if row["basket"] != 3.0 else float("nan")

    slow_reads(shop, 0.0)

    def gone(*_: Any) -> Any:
        raise Unavailable("the store is gone")

    shop.endpoint.current._read = gone
    shop.endpoint.degrading = Degrading(degrade(rule=rule), about=["user"])
    found, _ = batched(shop, 6)
    assert found[3] == "Unavailable"
    assert [one["flags"] for n, one in enumerate(found) if n != 3] == [["features_failed", "rule"]] * 5


def test_times_are_those_of_the_call_that_answered(shop: Any) -> None:
    """Two versions' calls end in one iteration of the loop: the counts of the last were those of both."""
    slow, quick = shop.answerer(scorer=Slow()), shop.answerer(number=2, scorer=Slow())
    read = slow._read

    def waits(rows: Any, now_us: int) -> Any:
        time.sleep(0.03)
        return read(rows, now_us)

    slow._read = waits

    async def ask() -> list[float]:
        shop.endpoint.swap(slow)
        service = HttpService([shop.endpoint], shop.log)
        predictor, waiting, told = service.predictors["late"], [], []
        for number, answerer in enumerate((slow, quick)):
            shop.endpoint._state = answerer
            body = msgspec.json.encode({"request": shop.ask(id=f"r{number}")})
            exchange = RequestRecord(time.perf_counter(), "POST", "/", [], None)
            told.append(exchange)
            waiting.append(predictor.take(body, time.perf_counter(), None, exchange))
        await asyncio.wait([one.done for one in waiting])  # type: ignore[union-attr]
        service.close()
        return [one.features_s for one in told]

    first_s, second_s = asyncio.run(ask())
    assert first_s >= 0.03
    assert 0.0 < second_s < 0.03
