"""Degraded responses, when features or the model fail or are late: flagged and logged."""

from __future__ import annotations

import asyncio
import io
import json
import math
import threading
from time import perf_counter, sleep
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from arro3.io import write_ipc_stream

import trimtab as tt
from trimtab.core.columns.data import Columns, Dtype
from trimtab.core.errors import Misuse, Unavailable
from trimtab.core.expressions.nodes import col
from trimtab.core.records import Prediction
from trimtab.features.encoding import fit
from trimtab.features.feature_set import feature_set
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.serving.answer.inputs import BareInputs, OnlineInputs
from trimtab.serving.arms.endpoint import Endpoint
from trimtab.serving.failures import Late, ModelFailed
from trimtab.serving.http.service import HttpService
from trimtab.serving.inference.rest import mount_inference
from trimtab.serving.protect.breaker import CircuitBreaker
from trimtab.serving.protect.degradation import Degrading, degrade


class Failing:
    """A reader or a model that works until it is told not to."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.error: Exception | None = None
        self.calls = 0

    def _do(self, method: str, *arguments: Any) -> Any:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return getattr(self.inner, method)(*arguments)

    def read(self, *arguments: Any) -> Any:
        return self._do("read", *arguments)

    def predict_row(self, row: list[float]) -> Any:
        return self._do("predict_row", row)

    def predict(self, matrix: Any) -> Any:
        return self._do("predict", matrix)


class Degraded:
    """The shop with a policy, a reader and a model that can be made to fail."""

    def __init__(self, shop: Any, *, number: int = 1, **policy: Any) -> None:
        self.shop = shop
        self.model = Failing(shop.scorer)
        self.answerer = shop.answerer(number=number, scorer=self.model)
        self.reader = Failing(type("Reads", (), {"read": staticmethod(self.answerer._read)})())
        self.answerer._read = self.reader.read
        self.answerer.readers.bare = BareInputs(shop.features, shop.encoding)
        self.fallback = shop.answerer(number=9)
        self.endpoint = shop.endpoint
        self.endpoint.swap(self.answerer)
        self.endpoint.know(self.fallback.served)
        if policy:
            self.endpoint.degrading = Degrading(degrade(**policy), about=["user"], fallback=lambda: self.fallback)

    def answer(self, user: str = "ann", **columns: Any) -> Any:
        return self.endpoint.answer([self.shop.ask(user, **columns)])[0]

    def logged(self) -> Prediction:
        return [p for block in self.shop.log.scan() for p in block][-1]


def test_without_a_policy_what_fails_is_an_error(shop: Any) -> None:
    degraded = Degraded(shop)
    degraded.reader.error = Unavailable("the store is gone")
    with pytest.raises(Unavailable, match="gone"):
        degraded.answer()
    degraded.reader.error = None
    degraded.model.error = ValueError("a bug of the user's")
    with pytest.raises(ModelFailed, match=r"^late@1: the model raised ValueError: a bug of the user's$") as failed:
        degraded.answer()
    assert failed.value.__cause__ is degraded.model.error
    with pytest.raises(ModelFailed, match="a bug"):
        degraded.endpoint.answer([degraded.shop.ask(), degraded.shop.ask()])


def test_a_policy_gives_answers_in_process_as_much_time_as_over_http(shop: Any) -> None:
    degraded = Degraded(shop, after="20ms", rule=0.5)
    assert degraded.answer().flags == ()
    read = degraded.answerer._read

    def slow(*arguments: Any) -> Any:
        sleep(0.05)
        return read(*arguments)

    degraded.answerer._read = slow
    assert degraded.answer().flags == ("late", "rule")


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_model_that_gives_no_number_has_failed(shop: Any, number: float) -> None:
    degraded = Degraded(shop)
    shop.scorer.predict_row = lambda row: number
    shop.scorer.predict = lambda matrix: np.full(len(matrix), number)
    with pytest.raises(ModelFailed, match=r"late@1: the model gave no finite number"):
        degraded.answer()
    with pytest.raises(ModelFailed):
        degraded.endpoint.answer([shop.ask(), shop.ask()])


def test_null_features_keep_those_of_the_request(shop: Any) -> None:
    shop.pay("ann", 20.0)
    shop.wait(1)
    degraded = Degraded(shop, null_features=True)
    whole = degraded.answer()
    degraded.reader.error = Unavailable("the store is gone")
    bare = degraded.answer()
    assert bare.flags == ("features_failed", "null_features")
    assert bare.reasons == dict.fromkeys(("spent.n_1h", "spent.total", "spent.last"), "unavailable")
    assert whole.reasons == {}
    inputs = shop.features.names
    logged = degraded.logged()
    values = dict(zip(inputs, msgspec.json.decode(json.dumps(_values(logged))), strict=True))
    assert values["log_basket"] == math.log1p(12.5)
    assert [values[name] for name in ("spent.n_1h", "spent.total", "spent.last")] == [None] * 3
    assert logged.is_degraded
    assert bare.score == shop.scorer.predict_row([math.nan if v is None else v for v in values.values()])


def test_the_last_answer_about_the_same_entities_stands_in_while_it_is_fresh(shop: Any) -> None:
    degraded = Degraded(shop, last_answer="10m")
    first = degraded.answer("ann")
    degraded.reader.error = Unavailable("the store is gone")
    shop.wait(60)
    again = degraded.answer("ann", id="c2", basket=99.0)
    assert (again.score, again.at_us) == (first.score, first.at_us)
    assert again.id != first.id
    assert (again.request_id, again.flags) == ("c2", ("features_failed", "last_answer"))
    assert msgspec.msgpack.decode(degraded.logged().request)[2] == 99.0
    with pytest.raises(Unavailable):
        degraded.answer("bob")
    shop.wait(600)
    with pytest.raises(Unavailable):
        degraded.answer("ann")


def test_no_answer_is_kept_where_its_entities_are_unknown(shop: Any) -> None:
    """The request of the version in service has another column for it: every answer was an error."""
    degraded = Degraded(shop)
    degraded.endpoint.degrading = Degrading(degrade(last_answer="10m", rule=0.5), about=["buyer"])
    assert degraded.answer().flags == ()
    degraded.reader.error = Unavailable("the store is gone")
    assert degraded.answer().flags == ("features_failed", "rule")


def test_another_version_answers_where_the_model_fails(shop: Any) -> None:
    degraded = Degraded(shop, version="fallback")
    degraded.model.error = ValueError("a bug")
    answer = degraded.answer()
    assert (answer.version, answer.flags) == ("late@9", ("model_failed", "fallback_version"))
    assert not degraded.logged().is_degraded  # it is that version's own answer
    degraded.reader.error = Unavailable("the store is gone")
    assert degraded.answer().flags == ("features_failed", "fallback_version")


def test_a_rule_is_a_number_or_a_function_of_the_request(shop: Any) -> None:
    degraded = Degraded(shop, rule=lambda row: row["basket"] / 100)
    degraded.model.error = ValueError("a bug")
    assert (degraded.answer(basket=25.0).score, degraded.answer().flags) == (0.25, ("model_failed", "rule"))
    constant = Degraded(shop, rule=0.5)
    constant.model.error = ValueError("a bug")
    assert constant.answer().score == 0.5
    assert constant.logged().is_degraded
    broken = Degraded(shop, rule=lambda row: row["no such column"])
    broken.model.error = ValueError("a bug")
    with pytest.raises(ModelFailed, match="a bug"):
        broken.answer()


def test_what_is_named_first_is_tried_first(shop: Any) -> None:
    degraded = Degraded(shop, null_features=True, last_answer="1h", version="fallback", rule=0.1)
    degraded.reader.error = Unavailable("gone")
    assert degraded.answer().flags[-1] == "null_features"
    degraded.model.error = ValueError("a bug")
    assert degraded.answer().flags[-1] == "fallback_version"
    degraded.reader.error = degraded.model.error = None
    degraded.answer()
    degraded.model.error = ValueError("a bug")
    assert degraded.answer().flags == ("model_failed", "last_answer")
    degraded.fallback = None
    assert degraded.answer("bob").flags == ("model_failed", "rule")


def test_an_answer_whose_time_is_over_is_late(shop: Any) -> None:
    over_s = perf_counter() - 1
    rows = shop.endpoint.current.rows.check([shop.ask()])
    plain = Degraded(shop)
    with pytest.raises(Late):
        plain.endpoint.prepare(plain.answerer, rows, None, over_s)
    assert plain.reader.calls == 0  # it reached the feature read, which was not begun
    ruled = Degraded(shop, rule=0.5, after="20ms")
    made = ruled.endpoint.prepare(ruled.answerer, rows, None, over_s)
    assert made[0].flags == ("late", "rule")
    within = ruled.endpoint.degrading.deadline_s
    assert (within(1.0, None), within(1.0, 5.0), within(1.0, 0.01)) == (1.02, 1.02, 1.01)


def test_features_that_fail_again_and_again_are_left_alone(shop: Any) -> None:
    degraded = Degraded(shop, rule=0.5)
    degraded.reader.error = Unavailable("gone")
    for _ in range(20):
        assert degraded.answer().flags == ("features_failed", "rule")
    assert degraded.reader.calls == 5
    assert degraded.endpoint.degrading.breaker.is_open


def test_only_failed_probes_make_the_pause_longer() -> None:
    """Each call that had begun before the breaker opened, and then failed, doubled the pause."""
    now_s = 0.0
    breaker = CircuitBreaker(now_s=lambda: now_s)
    for _ in range(8):
        breaker.failed()
    now_s = 0.5
    assert (breaker.allows(), breaker.allows()) == (True, False)  # the first one is a probe
    breaker.failed()
    now_s = 1.0
    assert not breaker.allows()
    now_s = 1.5
    assert breaker.allows()


def test_clients_that_cannot_wait_do_not_keep_others_from_their_features(shop: Any) -> None:
    degraded = Degraded(shop, rule=0.5)
    rows = degraded.answerer.rows.check([shop.ask()])
    for _ in range(20):
        degraded.endpoint.prepare(degraded.answerer, rows, None, perf_counter() - 1)
    degraded.reader.error = Misuse("one row's fault")  # the store answered
    for _ in range(20):
        assert degraded.answer().flags == ("features_failed", "rule")
    degraded.reader.error = None
    assert degraded.answer().flags == ()


def test_a_store_that_answers_too_late_again_and_again_is_left_alone(shop: Any) -> None:
    """Every answer waited for it: it did not fail, so the breaker did not open."""

    def slow(*arguments: Any) -> Any:
        sleep(0.02)
        return read(*arguments)

    degraded = Degraded(shop, rule=0.5, after="15ms")
    degraded.reader.error = None
    read, degraded.answerer._read = degraded.answerer._read, slow
    rows = degraded.answerer.rows.check([shop.ask()])
    within = degraded.endpoint.degrading.deadline_s
    for _ in range(20):
        (made,) = degraded.endpoint.prepare(degraded.answerer, rows, None, within(perf_counter(), None))
        assert made.flags in (("late", "rule"), ("features_failed", "rule"))
    assert degraded.endpoint.degrading.breaker.is_open
    assert degraded.reader.calls < 20


def test_another_version_reads_nothing_where_reading_used_up_the_time(shop: Any) -> None:
    """It read the store that had made the answer late, for as long as that took."""

    def slow(*arguments: Any) -> Any:
        sleep(0.05)
        return read(*arguments)

    degraded = Degraded(shop, version="fallback", rule=0.5)
    rows = degraded.answerer.rows.check([shop.ask()])
    read, degraded.answerer._read = degraded.answerer._read, slow
    reads = Failing(type("Reads", (), {"read": staticmethod(degraded.fallback._read)})())
    degraded.fallback._read = reads.read
    (made,) = degraded.endpoint.prepare(degraded.answerer, rows, None, perf_counter() + 0.02)
    assert (made.flags, reads.calls) == (("late", "rule"), 0)
    degraded.endpoint.degrading = Degrading(degrade(version="fallback"), about=[], fallback=lambda: degraded.fallback)
    with pytest.raises(Late):
        degraded.endpoint.prepare(degraded.answerer, rows, None, perf_counter() + 0.02)


def test_another_version_stands_in_where_the_store_is_not_at_fault(shop: Any) -> None:
    """A request waited for its turn, or its model is slow."""
    degraded = Degraded(shop, version="fallback", rule=0.5)
    rows = degraded.answerer.rows.check([shop.ask()])
    (made,) = degraded.endpoint.prepare(degraded.answerer, rows, None, perf_counter() - 1)
    assert made.flags == ("late", "fallback_version")
    (made,) = degraded.endpoint.degrading.late(degraded.answerer, rows)
    assert made.flags == ("late", "fallback_version")


def test_requests_that_wait_for_a_slow_store_do_not_all_read_it_once_more(shop: Any) -> None:
    """They began late, one behind the other, each by what another version read of the store that made it late."""
    reads = 0

    def slow(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        sleep(0.1)
        return read(*arguments)

    degraded = Degraded(shop, version="fallback", rule=0.5, after="20ms")
    read = degraded.answerer._read
    degraded.answerer._read = degraded.fallback._read = slow
    rows = degraded.answerer.rows.check([shop.ask()])
    within = degraded.endpoint.degrading.deadline_s
    for _ in range(20):
        received_s = perf_counter()
        for _ in range(5):
            (made,) = degraded.endpoint.prepare(degraded.answerer, rows, None, within(received_s, None))
            assert made.flags[-1] == "rule"
    assert reads < 20  # five of each version, and a probe now and then


def test_a_slow_store_of_another_version_is_left_alone_too(shop: Any) -> None:
    reads = 0

    def slow(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        sleep(0.05)
        return read(*arguments)

    degraded = Degraded(shop, version="fallback", rule=0.5, after="20ms")
    read, degraded.fallback._read = degraded.fallback._read, slow
    rows = degraded.answerer.rows.check([shop.ask()])
    for _ in range(20):
        (made,) = degraded.endpoint.prepare(degraded.answerer, rows, None, perf_counter() - 1)
        assert made.flags == ("late", "rule")
    assert reads < 10


def test_another_version_stands_in_for_a_model_that_takes_its_time_and_fails(shop: Any) -> None:
    def fails_late(row: Any) -> float:
        sleep(0.08)
        raise ValueError

    degraded = Degraded(shop, version="fallback", after="50ms")
    degraded.answerer._predict_row = fails_late
    rows = degraded.answerer.rows.check([shop.ask()])
    (made,) = degraded.endpoint.prepare(degraded.answerer, rows, None, perf_counter() + 0.05)
    assert made.flags == ("model_failed", "fallback_version")


def test_a_long_read_of_many_rows_is_no_fault_of_the_store(shop: Any) -> None:
    degraded = Degraded(shop, version="fallback", after="300ms")
    begun, over = threading.Event(), threading.Event()
    read = degraded.answerer._read

    def large(*arguments: Any) -> Any:
        begun.set()
        over.wait(60)
        return read(*arguments)

    degraded.answerer._read = large
    row = degraded.answerer.rows.check([shop.ask()])
    reader = threading.Thread(target=degraded.endpoint.prepare, args=(degraded.answerer, row * 10_000, None, None))
    reader.start()
    assert begun.wait(60)
    sleep(0.18)  # longer than one row may take
    (made,) = degraded.endpoint.degrading.late(degraded.answerer, row)
    over.set()
    reader.join()
    assert made.flags == ("late", "fallback_version")


def test_another_version_stands_in_for_a_slow_model_of_many_rows(shop: Any) -> None:
    """In a service, over HTTP: the model is called in a thread that goes on."""
    degraded = Degraded(shop, version="fallback", rule=0.5, after="200ms")
    asking = Asking(shop)

    class Slow:
        predict_row = staticmethod(degraded.answerer.scorer.predict_row)

        def predict(self, matrix: Any) -> Any:
            asking.over.wait(60)
            return shop.scorer.predict(matrix)

    degraded.answerer.scorer = Slow()
    path, body, media_type = asking.requests()["many"]

    async def talk(client: httpx.AsyncClient) -> None:
        answer = await client.post(path, content=body, headers={"content-type": media_type})
        assert not asking.over.is_set()
        assert {tuple(one["flags"]) for one in answer.json()["predictions"]} == {("late", "fallback_version")}

    asking.ask(talk)


def test_another_version_that_reads_nothing_answers_what_is_late(shop: Any) -> None:
    degraded = Degraded(shop, version="fallback", rule=0.5)
    degraded.fallback.readers.reads_state = False
    rows = degraded.answerer.rows.check([shop.ask()])
    (made,) = degraded.endpoint.prepare(degraded.answerer, rows, None, perf_counter() - 1)
    assert made.flags == ("late", "fallback_version")


def test_features_without_views_are_computed_without_the_store(shop: Any) -> None:
    class Gone:
        def get_many(self, keys: list[bytes]) -> list[bytes | None]:
            raise Unavailable("the store is gone")

    plan = RequestPlan(feature_set(shop.checkout, [{"log_basket": col("basket").log1p()}]), Gone())  # type: ignore[arg-type]
    found = plan.read([shop.ask()], shop.clock.now_us())
    assert (found.values, found.at_us, found.positions) == ([[math.log1p(12.5)]], shop.clock.now_us(), {})


def test_another_version_reads_in_the_time_that_is_left_and_not_again_and_again(shop: Any) -> None:
    reads = 0

    def slow(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        sleep(0.03)
        return read(*arguments)

    degraded = Degraded(shop, version="fallback", rule=0.5, after="20ms")
    degraded.reader.error = Unavailable("gone")
    within = degraded.endpoint.degrading.deadline_s
    assert degraded.answer().flags == ("features_failed", "fallback_version")
    read, degraded.fallback._read = degraded.fallback._read, slow
    rows = degraded.answerer.rows.check([shop.ask()])
    for _ in range(20):
        (made,) = degraded.endpoint.prepare(degraded.answerer, rows, None, within(perf_counter(), None))
        assert made.flags[-1] == "rule"
    assert reads < 20


def test_a_store_that_hangs_holds_up_no_answer_by_what_another_version_reads_of_it(shop: Any) -> None:
    """Of many rows: a thread goes on with what is late."""
    degraded = Degraded(shop, version="fallback", rule=0.5, after="2s")
    asking = Asking(shop)
    read = degraded.answerer._read

    def hang(*arguments: Any) -> Any:
        asking.over.wait(60)
        return read(*arguments)

    degraded.answerer._read = degraded.fallback._read = hang
    path, body, media_type = asking.requests()["many"]

    async def talk(client: httpx.AsyncClient) -> None:
        answer = await client.post(path, content=body, headers={"content-type": media_type})
        assert not asking.over.is_set()
        assert {tuple(one["flags"]) for one in answer.json()["predictions"]} == {("late", "rule")}

    asking.ask(talk)


def test_short_deadlines_are_no_fault_of_the_store(shop: Any) -> None:
    def slow(*arguments: Any) -> Any:
        sleep(0.002)
        return read(*arguments)

    degraded = Degraded(shop, rule=0.5, after="1h")
    read, degraded.answerer._read = degraded.answerer._read, slow
    rows = degraded.answerer.rows.check([shop.ask()])
    for _ in range(20):
        degraded.endpoint.prepare(degraded.answerer, rows, None, perf_counter() + 0.001)
    assert not degraded.endpoint.degrading.breaker.is_open
    assert degraded.answer().flags == ()


@pytest.mark.parametrize(("rows", "left_alone"), [(1, True), (2_000, False)])
def test_a_read_of_many_rows_may_take_longer_than_one_of_a_few(shop: Any, rows: int, left_alone: bool) -> None:
    """Large requests in a hurry, read as fast as ever, kept everybody from the features."""

    def slow(*arguments: Any) -> Any:
        sleep(0.06)
        return read(*arguments)

    degraded = Degraded(shop, rule=0.5)
    read, degraded.answerer._read = degraded.answerer._read, slow
    asked = degraded.answerer.rows.check([shop.ask()]) * rows
    for _ in range(6):
        made = degraded.endpoint.prepare(degraded.answerer, asked, None, perf_counter() + 0.03)
        assert made[0].flags[-1] == "rule"
    assert degraded.endpoint.degrading.breaker.is_open == left_alone


def test_a_store_that_is_too_slow_for_many_rows_is_left_alone(shop: Any) -> None:
    def slow(*arguments: Any) -> Any:
        sleep(0.02)
        return read(*arguments)

    degraded = Degraded(shop, rule=0.5, after="2ms")
    read, degraded.answerer._read = degraded.answerer._read, slow
    asked = degraded.answerer.rows.check([shop.ask()]) * 640  # ten milliseconds, by the measure of the policy
    for _ in range(20):
        degraded.endpoint.prepare(degraded.answerer, asked, None, perf_counter() + 0.01)
    assert degraded.endpoint.degrading.breaker.is_open
    assert degraded.reader.calls < 20


def test_late_work_does_not_hold_up_who_answers_in_its_place(shop: Any) -> None:
    """Eight requests of many rows filled the threads with what was late, and degraded responses waited for it."""
    over = threading.Event()
    Degraded(shop, rule=0.5, after="20ms")
    service = HttpService([shop.endpoint], shop.log)
    mount_inference(service)

    async def talk() -> None:
        late = [asyncio.create_task(service.parts.threads.work(over.wait, 60)) for _ in range(8)]
        rows = [shop.ask(id=f"c{n}") for n in range(70)]
        transport = httpx.ASGITransport(app=service)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            answer = await client.post("/v1/models/late/predict", json={"rows": rows})
        assert not any(one.done() for one in late)
        assert {tuple(one["flags"]) for one in answer.json()["predictions"]} == {("late", "rule")}
        over.set()
        await asyncio.gather(*late)

    try:
        asyncio.run(asyncio.wait_for(talk(), 30))
    finally:
        over.set()
        service.close()


class Asking:
    """A service whose working threads are all busy until the test says so, and requests of each kind to it."""

    def __init__(self, shop: Any) -> None:
        self.shop = shop
        self.over = threading.Event()
        self.service = HttpService([shop.endpoint], shop.log)
        mount_inference(self.service)
        self.rows = [shop.ask(id=f"c{n}") for n in range(70)]

    def requests(self) -> dict[str, tuple[str, bytes, str]]:
        """By its name the path, body and type of each: many rows, a large body, and the same by other protocols."""
        rows, json_type = self.rows, "application/json"
        types = {"id": "BYTES", "user": "BYTES", "basket": "FP64", "kind": "BYTES", "at": "INT64"}
        columns = {name: [row[name] for row in rows] for name in types}
        many = [{"name": n, "datatype": types[n], "shape": [70], "data": data} for n, data in columns.items()]
        large = [{**one, "data": ["k" * 2_000] * 70} if one["name"] == "kind" else one for one in many]
        dtypes: dict[str, Dtype] = {"id": "str", "user": "str", "basket": "float", "kind": "str", "at": "time"}
        stream = io.BytesIO()
        write_ipc_stream(Columns.of({n: (dtypes[n], data) for n, data in columns.items()}), stream, compression=None)
        wide = {"request": {**rows[0], "kind": "k" * 70_000}}
        return {
            "many": ("/v1/models/late/predict", json.dumps({"rows": rows}).encode(), json_type),
            "large": ("/v1/models/late/predict", json.dumps(wide).encode(), json_type),
            "arrow": ("/v1/models/late/predict", stream.getvalue(), "application/vnd.apache.arrow.stream"),
            "inference": ("/v2/models/late/infer", json.dumps({"inputs": many}).encode(), json_type),
            "large inference": ("/v2/models/late/infer", json.dumps({"inputs": large}).encode(), json_type),
        }

    def ask(self, talk: Any) -> None:
        async def main() -> None:
            transport = httpx.ASGITransport(app=self.service)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as client:
                await talk(client)

        try:
            asyncio.run(asyncio.wait_for(main(), 60))
        finally:
            self.over.set()
            self.service.close()


@pytest.mark.parametrize("kind", ["many", "large", "arrow", "inference", "large inference"])
def test_what_waits_for_a_thread_is_late_when_its_time_is_over(shop: Any, kind: str) -> None:
    """Large bodies waited to be read for as long as it took, whatever their deadline."""
    asking = Asking(shop)
    path, body, media_type = asking.requests()[kind]
    headers = {"content-type": media_type}

    async def talk(client: httpx.AsyncClient) -> None:
        threads = asking.service.parts.threads
        busy = [asyncio.create_task(threads.work(asking.over.wait, 60)) for _ in range(8)]
        late = await client.post(path, content=body, headers={**headers, "x-timeout-ms": "50"})
        assert (late.status_code, "in time" in late.text) == (504, True)
        assert not any(one.done() for one in busy)
        Degraded(shop, rule=0.5, after="20ms")
        ruled = await client.post(path, content=body, headers=headers)
        assert (ruled.status_code, "late" in ruled.text, "rule" in ruled.text) == (200, True, True)
        assert not any(one.done() for one in busy)
        shop.endpoint.degrading = None
        asking.over.set()
        await asyncio.gather(*busy)
        assert (await client.post(path, content=body, headers={**headers, "x-timeout-ms": "60000"})).status_code == 200

    asking.ask(talk)


@pytest.mark.parametrize("kind", ["many", "large", "arrow", "inference", "large inference"])
@pytest.mark.parametrize("policy", [False, True])
def test_a_version_that_is_loaded_for_long_makes_an_answer_late(shop: Any, kind: str, policy: bool) -> None:
    """Requests for an unloaded model waited until it was loaded, whatever their deadline."""
    asking, answerer = Asking(shop), shop.endpoint.current
    path, body, media_type = asking.requests()[kind]
    headers = {"content-type": media_type}
    if policy:
        Degraded(shop, rule=0.5, after="20ms")
        answerer = shop.endpoint.current

    def wake() -> None:
        asking.over.wait(60)
        shop.endpoint.swap(answerer)

    async def talk(client: httpx.AsyncClient) -> None:
        timeout = {} if policy else {"x-timeout-ms": "50"}
        late = await client.post(path, content=body, headers=headers | timeout)
        assert (late.status_code, "still being loaded" in late.text) == (504, True)
        asking.over.set()
        while shop.endpoint.unloaded:
            await asyncio.sleep(0.001)
        assert (await client.post(path, content=body, headers=headers)).status_code == 200

    shop.endpoint.unload(wake)
    asking.ask(talk)


@pytest.mark.parametrize("kind", ["many", "large", "arrow", "inference", "large inference"])
def test_a_model_without_a_version_says_so_however_busy_the_service_is(shop: Any, kind: str) -> None:
    """It was said to be loaded still, or to have no room, by Arrow and the Open Inference Protocol."""
    shop.endpoint = Endpoint("late")
    asking = Asking(shop)
    path, body, media_type = asking.requests()[kind]

    async def talk(client: httpx.AsyncClient) -> None:
        threads = asking.service.parts.threads
        for busy in (8, threads.at_once - 8):  # no thread is free, then there is no room to wait either
            others.extend(asyncio.create_task(threads.work(asking.over.wait, 60)) for _ in range(busy))
            await asyncio.sleep(0)
            answer = await client.post(path, content=body, headers={"content-type": media_type, "x-timeout-ms": "50"})
            assert (answer.status_code, "no version is in service yet" in answer.text) == (503, True)
        assert threads.under_way == threads.at_once
        asking.over.set()
        await asyncio.gather(*others)

    others: list[asyncio.Task[Any]] = []
    asking.ask(talk)


@pytest.mark.parametrize("policy", [False, True])
def test_work_that_itself_runs_out_of_time_is_not_taken_for_a_late_answer(
    shop: Any, policy: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A model or a load that raised `TimeoutError` was said to need more time, and nothing was logged."""
    degraded = Degraded(shop)
    if policy:  # of an endpoint whose policy no fallback is given to this
        Degraded(shop, last_answer="1h")
        degraded.endpoint.swap(degraded.answerer)
    degraded.model.error = TimeoutError("of the user's own")
    asking = Asking(shop)
    path, body, media_type = asking.requests()["many"]
    headers = {"content-type": media_type, "x-timeout-ms": "60000"}

    def wake() -> None:
        raise TimeoutError(110, "the disk does not answer")

    async def talk(client: httpx.AsyncClient) -> None:
        failed = await client.post(path, content=body, headers=headers)
        shop.endpoint.unload(wake)
        not_loaded = await client.post(path, content=body, headers=headers)
        assert (failed.status_code, not_loaded.status_code) == (500, 500)

    asking.ask(talk)
    said = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert said == ["late@1: the model raised TimeoutError: of the user's own", "[Errno 110] the disk does not answer"]


@pytest.mark.parametrize("kind", ["one", "many", "large", "arrow", "inference", "large inference"])
def test_a_model_that_raises_is_said_to_have_failed(shop: Any, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """It was an unexpected error of the server, by no name of a version."""
    asking = Asking(shop)
    one = json.dumps({"request": asking.rows[0]}).encode()
    path, body, media_type = {**asking.requests(), "one": ("/v1/models/late/predict", one, "application/json")}[kind]
    Degraded(shop).model.error = Misuse("a secret of the model's")  # as if the client were at fault
    said = "late@1: the model raised Misuse; the server's log has the message."

    async def talk(client: httpx.AsyncClient) -> None:
        answer = await client.post(path, content=body, headers={"content-type": media_type})
        assert answer.status_code == 500
        if path.startswith("/v2"):
            assert answer.json() == {"error": said}
        else:
            assert (answer.json()["type"], answer.json()["detail"]) == ("urn:trimtab:problem:model-failed", said)

    asking.ask(talk)
    (failed,) = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert str(failed) == "late@1: the model raised Misuse: a secret of the model's"


def test_many_rows_ask_another_version_once(shop: Any) -> None:
    degraded = Degraded(shop, version="fallback", rule=0.5)
    degraded.fallback = shop.answerer(number=9, scorer=(model := Failing(shop.scorer)))
    degraded.model.error = ValueError("a bug")
    answers = degraded.endpoint.answer([shop.ask(id=f"c{n}") for n in range(5)])
    assert [a.flags[-1] for a in answers] == ["fallback_version"] * 5
    assert model.calls == 1
    model.error = ValueError("another")
    assert degraded.answer().flags == ("model_failed", "rule")


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_rule_that_gives_no_number_is_none(shop: Any, number: float) -> None:
    degraded = Degraded(shop, rule=lambda row: number)
    degraded.model.error = ValueError("a bug")
    with pytest.raises(ModelFailed, match="a bug"):
        degraded.answer()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "no fallback is given"),
        ({"after": "50ms"}, "no fallback is given"),
        ({"rule": "0.5"}, "Give a number, or a function"),
        ({"rule": True}, "Give a number, or a function"),
        ({"version": "champion"}, "is the version that failed"),
        ({"last_answer": "soon"}, "soon"),
        ({"rule": 0.5, "after": 50}, 'after=50 means 50 microseconds, which is too short. Give a text: "50ms"'),
        ({"last_answer": 600}, "last_answer=600 means 600"),
        ({"rule": math.nan}, "rule=nan. Give a finite number"),
        ({"rule": math.inf}, "rule=inf. Give a finite number"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(Misuse, match=said):
        tt.degrade(**given)


def test_two_policies_are_the_same_when_their_rules_are() -> None:
    assert tt.degrade(rule=lambda row: 1.0).hash == tt.degrade(rule=lambda row: 1.0).hash
    assert tt.degrade(rule=lambda row: 1.0).hash != tt.degrade(rule=lambda row: 2.0).hash


def _values(prediction: Prediction) -> list[float | None]:
    import struct

    found = struct.unpack(f"<{len(prediction.values) // 8}d", prediction.values)
    return [None if value != value else value for value in found]


def test_what_the_request_says_is_computed_as_it_is_with_all_features(shop: Any) -> None:
    """A transform that is named like a column was read in its place, and one was missed that stands before its own."""
    transforms = {
        "twice": col("more") * 2,
        "more": col("basket") + 1,
        "basket": col("basket").log1p(),
        "per": col("basket") / 4,
    }
    features = feature_set(shop.checkout, [shop.spent, transforms])
    kinds = Columns.of({name: (dtype, [1, 2]) for name, dtype in features.dtypes.items()})
    encoding = fit(features, kinds)
    row = shop.answerer().rows.check([shop.ask(basket=3.0)])
    plan = OnlineInputs(RequestPlan(features, shop.kv), encoding)
    whole, bare = plan.read(row, shop.clock.now_us()), BareInputs(features, encoding).read(row, shop.clock.now_us())
    places = [features.names.index(name) for name in transforms]
    assert [bare.rows[0][n] for n in places] == [whole.rows[0][n] for n in places]
    assert [bare.rows[0][n] for n in places] == [8.0, 4.0, math.log1p(3.0), 0.75]
