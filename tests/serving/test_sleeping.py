"""Models that fall asleep in the very moment in which they are asked: woken, and never by the event loop.

And versions that come into service without being asked anything, so that nobody waits for them.
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from arro3.io import write_ipc_stream

from trimtab.core.columns import Columns, Dtype
from trimtab.serving import Endpoint, HttpService
from trimtab.serving.batching import BatchCosts


class Drowsy(Endpoint):
    """Once it has a `wake`, another thread lets it sleep in the moment before its version is read."""

    wake: Callable[[], object] | None = None

    @property
    def _current(self) -> Any:
        if (wake := self.wake) is not None:
            self.wake = None
            self.sleep(wake)
        return self.__dict__["_current"]

    @_current.setter
    def _current(self, answerer: Any) -> None:
        self.__dict__["_current"] = answerer


def test_a_model_that_falls_asleep_while_it_is_asked_is_woken(shop: Any) -> None:
    endpoint, answerer = Drowsy("late"), shop.answerer()
    endpoint.swap(answerer)
    endpoint.wake = lambda: endpoint.swap(answerer)
    assert endpoint.current is answerer
    slept: list[int] = []

    def wake() -> None:
        endpoint.swap(answerer)
        if len(slept) < 2:  # memory is full: whoever follows aliases lets it sleep again at once
            slept.append(1)
            endpoint.sleep(wake)

    endpoint.sleep(wake)
    assert endpoint.answer([shop.ask()])[0].version == "late@1"
    assert len(slept) == 2


def arrow_body(row: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    kinds: dict[str, Dtype] = {"id": "str", "user": "str", "basket": "float", "kind": "str", "at": "time"}
    write_ipc_stream(Columns.of({name: (kind, [row[name]]) for name, kind in kinds.items()}), out, compression=None)
    return out.getvalue()


@pytest.mark.parametrize("road", ["json", "arrow", "inference"])
def test_a_model_that_falls_asleep_while_it_is_asked_is_never_loaded_in_the_event_loop(shop: Any, road: str) -> None:
    endpoint, answerer = Drowsy("late"), shop.answerer()
    endpoint.swap(answerer)
    woken: list[threading.Thread] = []

    def wake() -> None:
        woken.append(threading.current_thread())
        endpoint.swap(answerer)

    row = shop.ask()
    kinds = {"id": "BYTES", "user": "BYTES", "basket": "FP64", "kind": "BYTES", "at": "INT64"}
    tensors = [{"name": n, "datatype": kind, "shape": [1], "data": [row[n]]} for n, kind in kinds.items()]
    path, body, kind = {
        "json": ("/v1/models/late/predict", msgspec.json.encode({"request": row}), "application/json"),
        "arrow": ("/v1/models/late/predict", arrow_body(row), "application/vnd.apache.arrow.stream"),
        "inference": ("/v2/models/late/infer", msgspec.json.encode({"inputs": tensors}), "application/json"),
    }[road]
    service = HttpService([endpoint], shop.log)

    async def ask() -> None:
        transport = httpx.ASGITransport(app=service)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            endpoint.wake = wake
            response = await client.post(path, content=body, headers={"content-type": kind})
            assert response.status_code == 200, response.text

    asyncio.run(ask())
    service.close()
    assert len(woken) == 1
    assert woken[0] is not threading.current_thread()


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
