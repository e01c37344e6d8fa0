"""Models that are unloaded during a request: loaded on demand, and never by the event loop.

And versions that come into service without a request that waits for them.
"""

from __future__ import annotations

import asyncio
import gc
import io
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from arro3.io import write_ipc_stream
from lightgbm import LGBMRegressor

from processes import eventually
from trimtab.core.columns.data import Columns, Dtype
from trimtab.core.errors import Unavailable
from trimtab.serving.answer.batching import BatchCosts
from trimtab.serving.arms.endpoint import Endpoint
from trimtab.serving.http.requests.limits import Limits
from trimtab.serving.http.service import HttpService
from trimtab.serving.inference.rest import mount_inference
from trimtab.training.runtimes import runtime_named


class Drowsy(Endpoint):
    """Once it has a `wake`, another thread unloads it just before its version is read."""

    wake: Callable[[], object] | None = None

    @property
    def _state(self) -> Any:
        if (wake := self.wake) is not None:
            self.wake = None
            self.unload(wake)
        return self.__dict__["_state"]

    @_state.setter
    def _state(self, state: Any) -> None:
        self.__dict__["_state"] = state


def test_a_model_that_is_unloaded_during_a_request_is_loaded(shop: Any) -> None:
    endpoint, answerer = Drowsy("late"), shop.answerer()
    endpoint.swap(answerer)
    endpoint.wake = lambda: endpoint.swap(answerer)
    assert endpoint.current is answerer
    unloaded: list[int] = []

    def wake() -> None:
        endpoint.swap(answerer)
        if len(unloaded) < 2:  # memory is full: it is unloaded again at once
            unloaded.append(1)
            endpoint.unload(wake)

    endpoint.unload(wake)
    assert endpoint.answer([shop.ask()])[0].version == "late@1"
    assert len(unloaded) == 2


def arrow_body(row: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    kinds: dict[str, Dtype] = {"id": "str", "user": "str", "basket": "float", "kind": "str", "at": "time"}
    write_ipc_stream(Columns.of({name: (kind, [row[name]]) for name, kind in kinds.items()}), out, compression=None)
    return out.getvalue()


def asked(shop: Any, protocol: str) -> tuple[str, bytes, str]:
    """The path, body and type of a request."""
    row = shop.ask()
    kinds = {"id": "BYTES", "user": "BYTES", "basket": "FP64", "kind": "BYTES", "at": "INT64"}
    tensors = [{"name": n, "datatype": kind, "shape": [1], "data": [row[n]]} for n, kind in kinds.items()]
    return {
        "json": ("/v1/models/late/predict", msgspec.json.encode({"request": row}), "application/json"),
        "arrow": ("/v1/models/late/predict", arrow_body(row), "application/vnd.apache.arrow.stream"),
        "inference": ("/v2/models/late/infer", msgspec.json.encode({"inputs": tensors}), "application/json"),
    }[protocol]


@pytest.mark.parametrize("protocol", ["json", "arrow", "inference"])
def test_a_model_that_is_unloaded_during_a_request_is_never_loaded_in_the_event_loop(shop: Any, protocol: str) -> None:
    endpoint, answerer = Drowsy("late"), shop.answerer()
    endpoint.swap(answerer)
    loaded_by: list[threading.Thread] = []

    def wake() -> None:
        loaded_by.append(threading.current_thread())
        endpoint.swap(answerer)

    path, body, kind = asked(shop, protocol)
    service = HttpService([endpoint], shop.log)
    mount_inference(service)

    async def ask() -> None:
        transport = httpx.ASGITransport(app=service)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            endpoint.wake = wake
            response = await client.post(path, content=body, headers={"content-type": kind})
            assert response.status_code == 200, response.text

    asyncio.run(ask())
    service.close()
    assert len(loaded_by) == 1
    assert loaded_by[0] is not threading.current_thread()


@pytest.mark.parametrize("protocol", ["json", "arrow", "inference"])
def test_requests_that_wait_for_a_model_to_be_loaded_hold_up_no_other(shop: Any, protocol: str) -> None:
    """Eight of them held every thread that works, and more of them whatever the limits leave to others."""
    late, quick = shop.endpoint, Endpoint("quick")
    answerer = shop.answerer()
    quick.swap(shop.answerer(model="quick"))
    path, body, kind = asked(shop, protocol)
    loaded = threading.Event()
    loaded_by: list[threading.Thread] = []

    def wake() -> None:
        loaded_by.append(threading.current_thread())
        assert loaded.wait(60)
        late.swap(answerer)

    late.unload(wake)
    service = HttpService([late, quick], shop.log, limits=Limits(slow_at_once=16, predict_at_once=12))
    mount_inference(service)
    predictor = service.predictors["late"]

    async def talk(client: httpx.AsyncClient) -> None:
        def ask(**headers: str) -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(client.post(path, content=body, headers={"content-type": kind, **headers}))

        waiting: list[asyncio.Task[httpx.Response]] = []
        for count in range(1, 17):
            waiting.append(ask())
            while predictor.loading.waiting < count and not waiting[-1].done():
                await asyncio.sleep(0.001)
            if count == 8:
                late_one = await ask(**{"x-timeout-ms": "50"})
                assert (late_one.status_code, "still being loaded" in late_one.text) == (504, True)
        refused = await ask()
        assert (refused.status_code, "wait for the model to be loaded" in refused.text) == (429, True)
        for rows in (1, 70):
            sent = {"rows": [shop.ask(id=f"c{n}") for n in range(rows)]}
            answer = await client.post("/v1/models/quick/predict", json=sent)
            assert answer.status_code == 200, answer.text
        assert await service.parts.threads.work(lambda: "events are taken") == "events are taken"
        assert not any(one.done() for one in waiting)
        loaded.set()
        assert {one.status_code for one in await asyncio.gather(*waiting)} == {200}
        assert service.parts.scheduler.under_way == 0

    async def main() -> None:
        transport = httpx.ASGITransport(app=service)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as client:
            await talk(client)

    try:
        asyncio.run(asyncio.wait_for(main(), 60))
    finally:
        loaded.set()
        service.close()
    assert len(loaded_by) == 1


def test_a_load_that_fails_is_told_to_all_who_wait_for_it_and_tried_again(shop: Any) -> None:
    endpoint, answerer = shop.endpoint, shop.answerer()
    failures = [Unavailable("the disk is gone")]

    def wake() -> None:
        if failures:
            raise failures.pop()
        endpoint.swap(answerer)

    endpoint.unload(wake)
    service = HttpService([endpoint], shop.log)
    mount_inference(service)
    path, body, kind = asked(shop, "json")

    async def main() -> None:
        transport = httpx.ASGITransport(app=service)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as client:
            ask = partial(client.post, path, content=body, headers={"content-type": kind})
            assert {one.status_code for one in await asyncio.gather(ask(), ask(), ask())} == {503}
            assert (await ask()).status_code == 200

    asyncio.run(asyncio.wait_for(main(), 60))
    service.close()


@pytest.mark.parametrize("protocol", ["json", "arrow", "inference"])
@pytest.mark.usefixtures("uncollected")
def test_a_loaded_model_is_released_when_it_is_unloaded_again(shop: Any, protocol: str) -> None:
    endpoint = shop.endpoint
    made: list[weakref.ref[Any]] = []
    rows = np.random.default_rng(0).normal(size=(100, len(shop.weights)))
    trees = LGBMRegressor(n_estimators=2, verbosity=-1).fit(rows, rows[:, 0]).booster_.model_to_string()

    def wake() -> None:
        scorer = runtime_named("lightgbm").load(trees.encode())
        made.extend([weakref.ref(scorer), weakref.ref(scorer.model)])
        endpoint.swap(shop.answerer(scorer=scorer))

    endpoint.unload(wake)
    service = HttpService([endpoint], shop.log)
    mount_inference(service)
    path, body, kind = asked(shop, protocol)

    async def main() -> None:
        transport = httpx.ASGITransport(app=service)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as client:
            response = await client.post(path, content=body, headers={"content-type": kind})
            assert response.status_code == 200, response.text
        endpoint.unload(wake)

    asyncio.run(asyncio.wait_for(main(), 60))
    assert len(made) == 2
    # the thread that answered may still have its finished work in hand
    eventually(lambda: [one() for one in made] == [None, None], "the model is not released")
    service.close()


def test_the_error_of_a_failed_load_is_not_kept(shop: Any) -> None:
    class Heavy:
        pass

    read: list[weakref.ref[Heavy]] = []

    def wake() -> None:
        heavy = Heavy()
        read.append(weakref.ref(heavy))
        raise Unavailable("the disk is gone")

    gc.freeze()  # collections look at no older objects, which would take a second
    shop.endpoint.unload(wake)
    service = HttpService([shop.endpoint], shop.log)
    mount_inference(service)
    path, body, kind = asked(shop, "json")

    async def main() -> None:
        transport = httpx.ASGITransport(app=service)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as client:
            assert (await client.post(path, content=body, headers={"content-type": kind})).status_code == 503

    asyncio.run(asyncio.wait_for(main(), 60))
    gc.collect()
    assert [heavy() for heavy in read] == [None]
    service.close()


def test_a_load_that_fails_after_its_requests_have_gone_is_not_logged(shop: Any) -> None:
    over, failed = threading.Event(), threading.Event()

    def wake() -> None:
        over.wait(60)
        failed.set()
        raise Unavailable("the disk is gone")

    gc.freeze()  # collections look at no older objects, which would take a second
    shop.endpoint.unload(wake)
    service = HttpService([shop.endpoint], shop.log)
    mount_inference(service)
    path, body, kind = asked(shop, "json")
    said: list[dict[str, Any]] = []

    async def main() -> None:
        before = asyncio.all_tasks()
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: said.append(context))
        transport = httpx.ASGITransport(app=service)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as client:
            headers = {"content-type": kind, "x-timeout-ms": "50"}
            assert (await client.post(path, content=body, headers=headers)).status_code == 504
        over.set()
        while not failed.is_set() or asyncio.all_tasks() - before:
            await asyncio.sleep(0.01)
        gc.collect()

    asyncio.run(asyncio.wait_for(main(), 60))
    gc.collect()
    assert said == []
    service.close()


def test_a_version_whose_costs_are_known_is_asked_nothing_when_it_comes_into_service(shop: Any) -> None:
    class Slow:
        def predict_row(self, row: list[float]) -> float:
            raise AssertionError("it is asked")

        predict = predict_row

    costs = BatchCosts(alone_s=0.02, together_s={8: 0.001})
    shop.endpoint.swap(shop.answerer(number=2, scorer=Slow()), costs=costs)
    assert shop.endpoint.batched.costs is costs
    assert shop.endpoint.batching is shop.endpoint.batched
    shop.endpoint.swap(shop.answerer(number=3), costs=BatchCosts(alone_s=1e-6))
    assert shop.endpoint.batching is None
