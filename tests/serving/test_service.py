"""The service under load and trouble: swaps, overload, a log that fails, stored answers."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest

from trimtab.core.errors import Corrupt, Unavailable
from trimtab.core.time import HOUR_US
from trimtab.serving.answer.precomputed import Precomputed
from trimtab.serving.answer.request_rows import RequestRows
from trimtab.serving.answer.served import shown
from trimtab.serving.applier import Applier
from trimtab.serving.arms.endpoint import Endpoint
from trimtab.serving.http.requests.http_request import HttpRequest
from trimtab.serving.http.requests.limits import Limits
from trimtab.serving.http.requests.wire import Reply
from trimtab.serving.http.routes.address import Address, Application
from trimtab.serving.http.service import HttpService, ServiceHooks
from trimtab.serving.inference.rest import mount_inference
from trimtab.serving.observe.log_throttle import ThrottledLogger

Shop = Any  # from conftest
PREDICT = "/v1/models/late/predict"


def run(service: HttpService, talk: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def main() -> None:
        transport = httpx.ASGITransport(app=service)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            await talk(client)

    asyncio.run(main())
    service.close()


def body(shop: Shop, **changes: Any) -> dict[str, Any]:
    return {"request": shop.ask(**changes)}


def test_versions_are_swapped_under_load_without_a_failed_request(shop: Shop) -> None:
    service = HttpService([shop.endpoint], shop.log)
    versions: list[str] = []

    async def ask(client: httpx.AsyncClient) -> None:
        for _ in range(40):
            response = await client.post(PREDICT, json=body(shop))
            assert response.status_code == 200
            versions.append(response.json()["version"])

    async def swap() -> None:
        for number in range(2, 8):
            await asyncio.sleep(0.01)
            shop.endpoint.swap(shop.answerer(number=number))

    async def talk(client: httpx.AsyncClient) -> None:
        await asyncio.gather(*(ask(client) for _ in range(8)), swap())

    run(service, talk)
    assert len(set(versions)) > 2
    assert versions[-1] == "late@7"
    assert len(shop.log.read()[0]) == 320


def test_what_is_too_much_at_once_is_refused_at_once(shop: Shop) -> None:
    service = HttpService([shop.endpoint], shop.log, limits=Limits(predict_at_once=3))

    async def talk(client: httpx.AsyncClient) -> None:
        first = await asyncio.gather(*(client.post(PREDICT, json=body(shop)) for _ in range(10)))
        statuses = [response.status_code for response in first]
        assert sorted(set(statuses)) == [200, 429]
        assert statuses.count(200) == len(shop.log.read()[0])
        refused = next(response for response in first if response.status_code == 429)
        assert refused.headers["retry-after"] in {"1", "2", "3"}
        assert refused.json()["type"] == "urn:trimtab:problem:overloaded"
        assert (await client.post(PREDICT, json=body(shop))).status_code == 200

    run(service, talk)


def test_a_log_that_cannot_be_written_makes_answers_unavailable(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    service = HttpService([shop.endpoint], shop.log)

    def full(payloads: Any, *, at_us: Any = None) -> range:
        raise Unavailable("predictions: the disk is full. Make room.")

    async def talk(client: httpx.AsyncClient) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(shop.log.log, "append", full)
            response = await client.post(PREDICT, json=body(shop))
            assert response.status_code == 503
            assert "disk is full" in response.json()["detail"]
        assert (await client.post(PREDICT, json=body(shop))).status_code == 200

    run(service, talk)
    assert len(shop.log.read()[0]) == 1


def test_a_fault_of_the_server_is_a_problem_that_tells_nothing(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    def read(rows: Any, now_us: int) -> Any:
        raise ZeroDivisionError("secret") if len(rows) == 1 else Corrupt("state: wrong checksum.")

    shop.endpoint.current._read = read
    service = HttpService([shop.endpoint], shop.log)

    async def talk(client: httpx.AsyncClient) -> None:
        broken = await client.post(PREDICT, json=body(shop))
        assert broken.status_code == 500
        assert "secret" not in broken.text
        corrupt = await client.post(PREDICT, json={"rows": [shop.ask(), shop.ask()]})
        assert (corrupt.status_code, corrupt.json()["detail"]) == (500, "state: wrong checksum.")
        shop.endpoint.swap(shop.answerer(number=3))
        assert (await client.post(PREDICT, json=body(shop))).status_code == 200

    run(service, talk)
    assert "ZeroDivisionError: secret" in caplog.text
    assert "Corrupt: state: wrong checksum." in caplog.text


def test_readiness_waits_for_versions_and_for_what_else_is_asked(shop: Shop) -> None:
    empty, trouble = Endpoint("late"), ["the views are being filled"]
    service = HttpService([empty], shop.log, hooks=ServiceHooks(ready=lambda: trouble[0] if trouble else None))

    async def talk(client: httpx.AsyncClient) -> None:
        first = await client.get("/health/ready")
        assert first.status_code == 503
        assert "'late'" in first.json()["detail"]
        assert "being filled" in first.json()["detail"]
        assert (await client.get("/health/live")).status_code == 200
        assert (await client.post(PREDICT, json=body(shop))).status_code == 503
        empty.swap(shop.answerer())
        assert (await client.get("/health/ready")).status_code == 503
        trouble.clear()
        assert (await client.get("/health/ready")).status_code == 200

    run(service, talk)


def test_a_server_without_events_or_views_says_so(shop: Shop) -> None:
    async def talk(client: httpx.AsyncClient) -> None:
        assert (await client.post("/v1/events/payments", json={})).status_code == 404

    run(HttpService([shop.endpoint], shop.log), talk)

    async def wait(client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/events/payments?wait=applied", json={})
        assert (response.status_code, "wait=applied" in response.json()["detail"]) == (503, True)

    run(HttpService([shop.endpoint], shop.log, push=shop.ingestor.push), wait)


def test_large_bodies_are_read_and_answered_in_threads(shop: Shop) -> None:
    where: dict[str, set[bool]] = {"read": set(), "written": set()}
    go_on = threading.Event()
    go_on.set()

    def note(what: str) -> None:
        where[what].add(threading.current_thread() is threading.main_thread())

    class Rows(RequestRows):
        def decode(self, body: bytes) -> Any:
            note("read")
            go_on.wait()
            return super().decode(body)

    class Noting(Endpoint):
        def shown(self, *given: Any) -> Any:
            note("written")
            return super().shown(*given)

    endpoint, answerer = Noting("late"), shop.answerer()
    answerer.rows = Rows(shop.checkout)
    endpoint.swap(answerer)
    service = HttpService([endpoint], shop.log, limits=Limits(slow_at_once=1))

    async def talk(client: httpx.AsyncClient) -> None:
        for row, count in ((shop.ask(), 2), (shop.ask(user="x" * 9_000), 8), (shop.ask(), 2_000)):
            where.update(read=set(), written=set())
            response = await client.post(PREDICT, json={"rows": [row] * count})
            assert len(response.json()["predictions"]) == count
            assert where == {"read": {count == 2}, "written": {count == 2}}, count
        large = json.dumps({"rows": [shop.ask(user="x" * 9_000)] * 8}).encode()
        assert (await client.post(PREDICT, content=large[:-1])).status_code == 400
        go_on.clear()  # one is being read until the two others are refused
        asked = [asyncio.ensure_future(client.post(PREDICT, content=large)) for _ in range(3)]
        while sum(one.done() for one in asked) < 2:
            await asyncio.wait([one for one in asked if not one.done()], return_when=asyncio.FIRST_COMPLETED)
        go_on.set()
        assert sorted([(await one).status_code for one in asked]) == [200, 429, 429]

    run(service, talk)


def test_other_paths_go_to_the_application(shop: Shop) -> None:
    async def talk(client: httpx.AsyncClient) -> None:
        assert (await client.get("/pages/models")).text == "/pages/models"
        assert (await client.post("/v1/models/none/predict")).status_code == 404
        assert (await client.get("/health/live")).json() == {"status": "live"}

    run(with_pages(shop), talk)


def with_pages(shop: Shop) -> HttpService:
    """A service with a mounted application, one row of which changes something."""

    async def show(root: str, request: HttpRequest) -> Reply:
        return Reply(200, f"{root}/{request.names['page']}".encode())

    rows = Address("GET", "/pages/{page*}", "read", show), Address("POST", "/pages/{page*}", "admin", show)
    service = HttpService([shop.endpoint], shop.log)
    service.mount(Application("/pages", rows, "See /pages."))
    mount_inference(service)
    return service


def test_an_address_needs_the_right_of_its_row_and_what_is_not_there_the_right_to_read(shop: Shop) -> None:

    async def talk(client: httpx.AsyncClient) -> None:
        elsewhere = {"host": "models.example.com"}
        assert (await client.post("/pages/models", headers=elsewhere)).status_code == 403
        assert (await client.post("/nothing", headers=elsewhere)).status_code == 404
        assert (await client.post("/metrics", headers=elsewhere)).status_code == 405
        assert (await client.post("/v2/nothing", headers=elsewhere)).status_code == 404
        assert (await client.post("/v2/models/late", headers=elsewhere)).status_code == 405
        assert (await client.post("/v2/repository/models/late/load", headers=elsewhere)).status_code == 403
        assert (await client.post("/pages/models", headers={"host": "127.0.0.1"})).status_code == 200
        refused = await client.delete("/pages/models", headers=elsewhere)
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, POST")

    run(with_pages(shop), talk)


def test_stored_answers_are_given_as_they_are_and_others_made_now(shop: Shop) -> None:
    endpoint = Endpoint("late", precomputed=Precomputed(shop.kv, "late", max_age_us=HOUR_US))
    answerer = shop.answerer()
    endpoint.swap(answerer)
    rows = answerer.rows.check([shop.ask(id="c1")])
    (made,) = answerer.predict(rows)
    shop.log.append([made])
    stored = msgspec.structs.replace(shown(made, answerer.served), mode="precomputed")
    assert endpoint.precomputed is not None
    endpoint.precomputed.put([(rows[0], "c1", made.version, stored)])
    service = HttpService([endpoint], shop.log)

    async def talk(client: httpx.AsyncClient) -> None:
        one = await client.post(PREDICT, json={"request": rows[0]})
        assert one.content == msgspec.json.encode(stored)
        many = await client.post(PREDICT, json={"rows": [rows[0], shop.ask(id="c2"), {**rows[0], "basket": 1}]})
        assert [(a["mode"], a["flags"]) for a in many.json()["predictions"]] == [
            ("precomputed", []),
            ("live", ["precomputed_missing"]),
            ("live", ["precomputed_missing"]),
        ]
        text = (await client.get("/metrics")).text
        assert 'trimtab_predictions_total{model="late",fate="precomputed"} 2' in text
        assert 'trimtab_flagged_predictions_total{model="late",flag="precomputed_missing"} 2' in text

    run(service, talk)
    assert len(shop.log.read()[0]) == 3


@pytest.mark.parametrize("damage", ["unavailable", "corrupt", "no text"])
def test_where_stored_answers_cannot_be_read_answers_are_made_now(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """One entry that was damaged, or a store that is gone, was an error for ever, though the model could answer."""
    precomputed = Precomputed(shop.kv, "late", max_age_us=HOUR_US)
    shop.endpoint.precomputed = precomputed
    rows = shop.endpoint.current.rows.check([shop.ask(id="c1")])
    (made,) = shop.endpoint.current.predict(rows)
    precomputed.put([(rows[0], "c1", made.version, shown(made, shop.endpoint.current.served))])

    def gone(key: bytes) -> bytes:
        if damage == "unavailable":
            raise Unavailable("data.mdb: cannot be read.")
        damaged = b"nonsense" if damage == "corrupt" else b"\x95\x01\xc4\x00\xa1\xff"  # the version is not UTF-8
        return damaged if key.endswith(b"c1") else get(key)

    async def talk(client: httpx.AsyncClient) -> None:
        for _ in range(3):
            answer = await client.post(PREDICT, json={"request": rows[0]})
            assert (answer.status_code, answer.json()["flags"]) == (200, ["precomputed_missing"])
        text = (await client.get("/metrics")).text
        assert 'trimtab_flagged_predictions_total{model="late",flag="precomputed_missing"} 3' in text

    get = shop.kv.get
    with monkeypatch.context() as patch:
        patch.setattr("trimtab.serving.arms.endpoint._throttled", ThrottledLogger(logging.getLogger("endpoint")))
        patch.setattr(precomputed, "_store", type("Damaged", (), {"get": staticmethod(gone)})())
        run(HttpService([shop.endpoint], shop.log), talk)
    said = [one.getMessage() for one in caplog.records if "stored answers" in one.getMessage()]
    assert len(said) == 1
    assert ("cannot be read" if damage == "unavailable" else "Corrupt") in said[0]


def test_a_state_that_cannot_be_looked_at_is_not_ready(shop: Shop) -> None:
    def damaged() -> str | None:
        raise Corrupt("data.mdb: damaged. Move it away.")

    async def talk(client: httpx.AsyncClient) -> None:
        answer = await client.get("/health/ready")
        assert (answer.status_code, answer.json()["detail"]) == (503, "not ready: data.mdb: damaged. Move it away.")

    run(HttpService([shop.endpoint], shop.log, hooks=ServiceHooks(ready=damaged)), talk)


def test_events_are_waited_for_no_longer_than_their_sender_waits(shop: Shop) -> None:
    """The answer says so in time, and the events are in the log."""
    asleep = Applier(shop.events, lambda records: None, dict)

    async def talk(client: httpx.AsyncClient) -> None:
        event = {"user": "ann", "amount": 1.0, "paid_at": 1_700_000_000_000_000}
        before = shop.events.positions()
        began = time.perf_counter()
        path, headers = "/v1/events/payments?wait=applied", {"x-timeout-ms": "150"}
        answer = await client.post(path, json=event, headers=headers)
        assert 0.1 < time.perf_counter() - began < 5  # not the ten seconds of a service
        assert answer.status_code == 503
        assert "safe in the log" in answer.json()["detail"]
        assert shop.events.positions() != before
        wrong = await client.post(path, json=event, headers={"x-timeout-ms": "soon"})
        assert (wrong.status_code, wrong.json()["field"]) == (422, "X-Timeout-Ms")

    run(HttpService([shop.endpoint], shop.log, push=shop.ingestor.push, wait_applied=asleep.wait_applied), talk)
