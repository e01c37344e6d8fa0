"""Bodies of all connections share one room, and give it back."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest

from trimtab.core.errors import Misuse
from trimtab.serving.http.requests.http_request import HttpRequest
from trimtab.serving.http.requests.limits import Limits
from trimtab.serving.http.requests.room import Room, check_decoded, decoded_bytes
from trimtab.serving.http.requests.threads import Threads
from trimtab.serving.http.service import HttpService
from trimtab.serving.inference.rest import mount_inference
from trimtab.serving.problems import Refused

MB = 1 << 20
EVENTS, PREDICT, INFER = "/v1/events/payments", "/v1/models/late/predict", "/v2/models/late/infer"


def test_small_bodies_are_not_counted_and_large_ones_only_as_far_as_there_is_room() -> None:
    room = Room(MB)
    shares = [room.share() for _ in range(100)]
    assert all(share.add(60_000) for share in shares)
    assert room.used_bytes == 0
    assert shares[0].add(MB)
    assert not shares[1].add(MB)
    assert room.used_bytes == MB - 5_536  # of the first 64 KB
    assert not shares[2].add(20_000)
    shares[0].close()
    shares[0].close()
    assert (room.used_bytes, shares[2].add(20_000)) == (0, True)


def test_what_is_decoded_waits_for_its_turn_in_order_and_one_is_always_let_in() -> None:
    async def decode() -> list[str]:
        room, said = Room(MB), list[str]()
        first, second, third, gone = (room.share() for _ in range(4))
        await first.decode(5 * MB, 1.0)  # more than there is: no other is decoded

        async def wait(share: Any, name: str, size: int) -> None:
            await share.decode(size, 10.0)
            said.append(name)

        waiting = [
            asyncio.create_task(wait(second, "second", MB)),
            asyncio.create_task(wait(third, "third", 1_000_000)),
        ]
        left = asyncio.create_task(wait(gone, "gone", MB))
        await asyncio.sleep(0)
        assert not said
        with pytest.raises(Refused, match="use all the memory for bodies") as refusal:
            await room.share().decode(MB, 0.01)
        assert refusal.value.status == 429
        left.cancel()
        first.close()
        await waiting[0]
        assert said == ["second"]
        second.close()
        await waiting[1]
        third.close()
        assert room.used_bytes == 0
        return said

    assert asyncio.run(decode()) == ["second", "third"]


def test_few_bytes_of_json_may_not_become_much() -> None:
    for body in (b"[" + b"{}," * 700_000 + b"{}]", b"[" * MB, b"," * 2 * MB):
        with pytest.raises(Refused, match="decoded it would take about") as refusal:
            check_decoded(decoded_bytes(body), len(body))
        assert refusal.value.status == 413
    rows = json.dumps([{f"column_{n}": n / 7 for n in range(40)}] * 5_000).encode()
    check_decoded(decoded_bytes(rows), len(rows))
    assert decoded_bytes(bytes(range(256)), binary=True) == 4 * 256  # braces and commas mean nothing there


@pytest.fixture
def service(shop: Any) -> Iterator[HttpService]:
    made = HttpService([shop.endpoint], shop.log, limits=Limits(body_bytes=MB, bodies_bytes=1), push=shop.ingestor.push)
    mount_inference(made)
    yield made
    made.close()


def test_small_requests_come_through_while_large_ones_are_refused_with_a_time_to_wait(
    service: HttpService, shop: Any
) -> None:
    rows = [{"user": "x" * 8_000, "paid_at": shop.clock.now_us()}] * 80

    async def ask() -> None:
        held = service.parts.room.share()
        assert held.add(2 * MB)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://127.0.0.1") as client:
            refused = await client.post(EVENTS, json=rows)
            assert refused.status_code == 429, refused.text
            assert int(refused.headers["retry-after"]) >= 1  # longer where the machine is busy
            assert refused.json()["type"] == "urn:trimtab:problem:overloaded"
            assert "serve.max_bodies_bytes" in refused.json()["detail"]
            assert (await client.post(EVENTS, json=rows[:1])).status_code == 200
            assert (await client.post(PREDICT, json={"request": shop.ask()})).status_code == 200
            held.close()
            assert (await client.post(EVENTS, json=rows)).status_code == 200
        assert service.parts.room.used_bytes == 0

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (EVENTS, b"[" + b'{"user":"a"},' * 3_000 + b"1]", 422),
        (EVENTS, b"[1" * 40_000, 400),
        (PREDICT, b'{"rows":[' + b'{"id":"a"},' * 9_000 + b"{}]}", 422),
        (INFER, b'{"inputs":[' + b'{"name":"x","shape":[1],"datatype":"FP64","data":[1]},' * 3_000 + b"{}]}", 422),
    ],
)
def test_what_was_decoded_goes_with_the_request_that_failed(
    service: HttpService, path: str, body: bytes, status: int
) -> None:
    """Nothing is left for a collection, which may be far away: its errors name frames, and frames name errors."""

    async def ask() -> set[str]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://127.0.0.1") as client:
            for _ in range(2):  # the first loads what is needed
                gc.freeze()  # what was made before is not looked at, which would take most of the time
                answer = await client.post(path, content=body, headers={"content-type": "application/json"})
                assert answer.status_code == status, answer.text
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            gc.set_debug(0)
            found = {one.f_code.co_qualname for one in gc.garbage if type(one).__name__ == "frame"}
            gc.garbage.clear()
            return found

    gc.disable()
    try:
        assert asyncio.run(ask()) == set()
    finally:
        gc.enable()


def test_threads_keep_nothing_of_work_that_failed() -> None:
    class Large:
        pass

    kept: list[weakref.ref[Large]] = []

    def fail() -> None:
        large = Large()
        kept.append(weakref.ref(large))
        raise Misuse("no")

    async def work() -> None:
        threads = Threads(2)
        with pytest.raises(Misuse):
            await threads.work(fail)
        await asyncio.sleep(0)
        threads.close(1.0)

    gc.disable()
    try:
        asyncio.run(work())
        assert kept[0]() is None
    finally:
        gc.enable()


def test_large_bodies_of_further_addresses_are_decoded_in_a_thread() -> None:
    decoded_in: list[str] = []

    class Label(msgspec.Struct):
        value: int
        text: str

        def __post_init__(self) -> None:
            decoded_in.append(threading.current_thread().name)

    async def body(size: int) -> None:
        threads = Threads(2)
        sent = json.dumps({"value": 1, "text": "x" * size}).encode()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": sent}

        found = await HttpRequest({"headers": []}, receive, {}, Limits(), threads).decoded(Label)
        assert found.value == 1
        threads.close(1.0)

    asyncio.run(body(10))
    asyncio.run(body(200_000))
    assert decoded_in[0] == threading.main_thread().name
    assert decoded_in[1].startswith("trimtab-http")
