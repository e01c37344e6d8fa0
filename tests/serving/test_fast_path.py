"""The direct road and the usual one answer the same, however a request arrives."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from processes import eventually
from trimtab.serving.http.requests.limits import Limits
from trimtab.serving.http.server.fast_path import FastPath, FastPathProtocol
from trimtab.serving.http.service import HttpService

PREDICT = "/v1/models/late/predict"
ROW = {"id": "c1", "user": "ann", "basket": 12.5, "kind": "web", "at": 1_700_000_000_000_000}
BODY = json.dumps({"request": ROW}).encode()


@pytest.fixture(scope="module", params=["relaxed", "durable"])
def running(request: Any, start_server: Any, tmp_path_factory: Any) -> Iterator[Any]:
    server = start_server(tmp_path_factory.mktemp("direct"), request.param)
    yield server
    code, complaints = server.stop()
    assert (code, complaints) == (0, "")


def message(body: bytes = BODY, *, version: str = "1.1", **headers: str) -> bytes:
    lines = [f"POST {PREDICT} HTTP/{version}", "host: x", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join((*lines, "", "")).encode() + body


class Connection:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.stream = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], Any]:
        status = int(self.stream.readline().split()[1])
        headers = {}
        while line := self.stream.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        return status, headers, json.loads(self.stream.read(int(headers["content-length"])))

    def ended(self) -> bool:
        try:
            return self.stream.read(1) == b""
        except ConnectionResetError:  # closed before all that was sent was read
            return True

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        self.socket.close()


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return {**one, "id": 0, "at_us": 0} == {**other, "id": 0, "at_us": 0} and one["id"] != other["id"]


@pytest.mark.parametrize("cuts", [(), (40,), (-70,), (-1,), (40, 90, -60, -5)])
def test_an_upgrade_that_is_offered_is_left_alone(running: Any, cuts: tuple[int, ...]) -> None:
    """Java's client offers HTTP/2 in the first request of each connection, unless it is told not to."""
    offer = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAEAAEAAAAIAAAABAAMAAABk"}
    asked = message(**offer)
    at = [0, *(cut % len(asked) for cut in cuts), len(asked)]
    with Connection(running.port) as connection:
        for begin, end in itertools.pairwise(at):
            connection.send(asked[begin:end])
            time.sleep(0.02)
        assert connection.answer()[0] == 200
        connection.send(asked + message())
        assert [connection.answer()[0] for _ in range(2)] == [200, 200]
        connection.send(b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        assert connection.answer()[2] == {"status": "live"}
        connection.send(message())
        assert connection.answer()[0] == 200
    with Connection(running.port) as connection:
        connection.send(b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.stream.readline().startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("sent", "detail", "instance"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", "not an HTTP request", ""),
        (b"hello\r\n\r\n", "not an HTTP request", ""),
        (
            message().replace(b"\r\n\r\n", b"\r\nbad header\r\n\r\n", 1),
            "not an HTTP request",
            "/v1/models/late/predict",
        ),
        (message().replace(b"HTTP/1.1", b"HTTP/9.9", 1), "not an HTTP request", "/v1/models/late/predict"),
        (b"GET /v1/models?x=\xff\r\n\r\n", "not an HTTP request", ""),
        (b"GET http://:x:y/ HTTP/1.1\r\nhost: x\r\n\r\n", "not an HTTP request: invalid url", "http://:x:y/"),
    ],
)
def test_what_is_no_http_is_refused_by_a_problem_detail(running: Any, sent: bytes, detail: str, instance: str) -> None:
    with Connection(running.port) as connection:
        connection.send(sent)
        status, headers, problem = connection.answer()
        assert (status, headers["content-type"], headers["connection"]) == (400, "application/problem+json", "close")
        assert (detail in problem["detail"], problem["instance"]) == (True, instance)
        assert headers["x-content-type-options"] == "nosniff"
        assert connection.ended()


def test_both_roads_give_the_same_answer(running: Any) -> None:
    with Connection(running.port) as connection:
        connection.send(message())
        status, headers, direct = connection.answer()
        connection.send(message(expect="100-continue"))
        assert connection.stream.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert connection.stream.readline() == b"\r\n"
        usual_status, usual_headers, usual = connection.answer()
    assert (status, usual_status) == (200, 200)
    assert same(direct, usual)
    assert {**headers, "content-length": 0} == {**usual_headers, "content-length": 0}
    assert headers["x-content-type-options"] == "nosniff"


def test_a_head_that_was_read_before_is_known_and_its_body_read_anew(running: Any) -> None:
    bodies = [json.dumps({"request": {**ROW, "id": f"c{n}"}}).encode() for n in range(4)]
    with Connection(running.port) as one, Connection(running.port) as other:
        for _ in range(2):
            for connection in (one, other):
                for n, body in enumerate(bodies):
                    connection.send(message(body))
                    status, _, answer = connection.answer()
                    assert (status, answer["request_id"]) == (200, f"c{n}")
                connection.send(message(bodies[0])[:-1] + b"!")  # as long, and no JSON
                assert connection.answer()[0] == 400
                connection.send(message(bodies[0]) + message(bodies[1]))
                assert [connection.answer()[2]["request_id"] for _ in range(2)] == ["c0", "c1"]
                connection.send(message(bodies[2])[:-5])
                connection.send(message(bodies[2])[-5:])
                assert connection.answer()[2]["request_id"] == "c2"
    for _ in range(2):
        with Connection(running.port) as last:
            last.send(message(connection="close"))
            assert last.answer()[0] == 200
            assert last.ended()


def test_a_request_may_arrive_in_any_pieces(running: Any) -> None:
    whole = message()
    with Connection(running.port) as connection:
        for cut in (1, 20, whole.index(b"\r\n\r\n") + 3, whole.index(b"\r\n\r\n") + 4, len(whole) - 1):
            connection.send(whole[:cut])
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.send(whole[cut:])
            assert connection.answer()[0] == 200, cut


def test_pipelined_requests_are_answered_in_their_order(running: Any) -> None:
    bodies = [json.dumps({"request": {**ROW, "id": f"c{n}"}}).encode() for n in range(6)]
    bodies[3] = b"no JSON"
    with Connection(running.port) as connection:
        connection.send(
            message(bodies[0])
            + message(bodies[1])
            + b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
            + b"".join(message(body) for body in bodies[2:])
        )
        answers = [connection.answer() for _ in range(7)]
    assert [status for status, _, _ in answers] == [200, 200, 200, 200, 400, 200, 200]
    asked = [document.get("request_id") for _, _, document in answers]
    assert asked == ["c0", "c1", None, "c2", None, "c4", "c5"]
    assert answers[2][2] == {"status": "live"}


def test_a_connection_ends_when_it_is_to_end(running: Any) -> None:
    for sent in (message(connection="close"), message(version="1.0")):
        with Connection(running.port) as connection:
            connection.send(sent)
            status, headers, _ = connection.answer()
            assert (status, headers.get("connection")) == (200, "close")
            assert connection.ended()


def test_many_pipelined_requests_are_no_head_that_is_too_large(running: Any) -> None:
    """What came before a head at one time counted as part of it."""
    asked = message() * 1_500
    with Connection(running.port) as connection:
        connection.send(asked[:-5])
        assert {connection.answer()[0] for _ in range(1_499)} == {200}
        connection.send(asked[-5:])
        assert connection.answer()[0] == 200


def test_a_body_that_is_too_large_is_refused_and_the_connection_ends(running: Any) -> None:
    with Connection(running.port) as connection:
        connection.send(message(b" " * 200_001))
        status, headers, problem = connection.answer()
        assert (status, headers["connection"], problem["title"]) == (413, "close", "The request is too large")
        assert connection.ended()


def test_a_head_that_does_not_end_and_a_body_that_is_packed_are_refused(running: Any) -> None:
    with Connection(running.port) as connection:
        connection.send(b"POST /v1/models/late/predict HTTP/1.1\r\n")
        with suppress(BrokenPipeError, ConnectionResetError):  # it is refused on the way
            for n in range(80):
                connection.send(b"x-%d: %s\r\n" % (n, b"y" * 1_000))
                time.sleep(0.001)
        assert connection.stream.readline().startswith(b"HTTP/1.1 400")
    with Connection(running.port) as connection:
        connection.send(message(content_encoding="gzip"))
        status, _, problem = connection.answer()
        assert (status, "gzip" in problem["detail"]) == (415, True)


def test_what_is_refused_before_it_is_read_says_so_as_its_address_does(running: Any) -> None:
    """`/v2` answers every error by `{"error": ...}`; a head that is none was told of by a problem."""
    for path, field in (("/v2/models/late/infer", "error"), ("/v1/models/late/predict", "detail")):
        with Connection(running.port) as connection:
            connection.send(f"POST {path} HTTP/1.1\r\nhost: a\r\nhost: b\r\ncontent-length: 0\r\n\r\n".encode())
            status, headers, said = connection.answer()
            assert (status, headers["connection"]) == (400, "close")
            assert "host" in said[field].lower()
            assert ("title" in said) == (field == "detail")


MANY = json.dumps({"rows": [ROW] * 65}).encode()  # more than are answered at once
LIVE = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"


def under_way(port: int) -> int:
    found = [line for line in metrics(port).splitlines() if 'under_way{kind="predict"}' in line]
    return int(found[0].rsplit(" ")[-1])


@pytest.mark.parametrize("headers", [{}, {"x_request_id": "one"}])
def test_a_connection_that_ends_while_it_is_answered_counts_no_more(running: Any, headers: dict[str, str]) -> None:
    """Each such connection took away one from how many may be under way, and in the end all were refused."""
    for _ in range(10):
        with Connection(running.port) as connection:
            connection.send(message(MANY, **headers) + LIVE + b"garbage\r\n\r\n")
        with Connection(running.port) as connection:
            connection.send(message(MANY, **headers) + LIVE)
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    eventually(lambda: not under_way(running.port))
    with Connection(running.port) as connection:
        connection.send(message())
        assert connection.answer()[0] == 200


def test_what_cannot_be_read_is_refused_and_counted_or_ends_after_earlier_responses(running: Any) -> None:
    counted = 'trimtab_requests_total{route="other",model="",status="400"} '
    before = [line for line in metrics(running.port).splitlines() if line.startswith(counted)]
    for wrong in (message().replace(b"host: x\r\n", b""), b"garbage\r\n\r\n"):
        with Connection(running.port) as connection:
            connection.send(message(MANY) + wrong)
            status, _, answer = connection.answer()
            assert (status, len(answer["predictions"])) == (200, 65)
            assert connection.ended()
        with Connection(running.port) as connection:
            connection.send(wrong)
            assert connection.answer()[0] == 400
            assert connection.ended()
    after = [line for line in metrics(running.port).splitlines() if line.startswith(counted)]
    assert float(after[0].rsplit(" ")[-1]) == 2 + (float(before[0].rsplit(" ")[-1]) if before else 0)


def test_a_body_that_cannot_be_read_on_is_refused_at_once(running: Any) -> None:
    """Its request waited for the rest of it, until its time was over, and was answered by 408."""
    sent = message(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
    with Connection(running.port) as connection:
        connection.socket.settimeout(0.9)  # the service gives a body a second
        connection.send(sent + b"5\r\nhello\r\n")
        time.sleep(0.05)
        connection.send(b"ZZ\r\n")
        assert connection.answer()[0] == 400
        assert connection.ended()


def test_a_body_may_begin_behind_much_that_came_with_its_head(running: Any) -> None:
    """What came before it, in one piece with it, was taken for trailers."""
    with Connection(running.port) as connection:
        connection.send(LIVE * 2_000 + message()[: -len(BODY)])
        time.sleep(0.05)
        connection.send(BODY)
        for _ in range(2_000):
            assert connection.answer()[0] == 200
        assert connection.answer()[0] == 200


def test_a_trailer_is_no_header(running: Any) -> None:
    body = b"%x\r\n%b\r\n0\r\nx-request-id: late\r\n\r\n" % (len(BODY), BODY)
    with Connection(running.port) as connection:
        sent = message(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
        connection.send(sent + body)
        status, headers, _ = connection.answer()
        assert (status, headers.get("x-request-id")) == (200, None)


def test_a_connection_that_was_reset_leaves_no_timer(shop: Any) -> None:
    service = HttpService([shop.endpoint], shop.log)
    there: list[FastPathProtocol] = []

    async def ask() -> None:
        config = uvicorn.Config(service, loop="none", ws="none", lifespan="off", log_config=None)
        one = partial(FastPath(service), config=config, server_state=ServerState(), app_state={})
        listening = await asyncio.get_running_loop().create_server(
            lambda: there.append(one()) or there[-1], "127.0.0.1", 0
        )
        with Connection(listening.sockets[0].getsockname()[1]) as asker:
            asker.send(message()[:20])
            while not there or not there[0]._within:
                await asyncio.sleep(0.001)
            assert there[0].timeout_keep_alive_task is not None
            asker.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        while there[0].parser is not None:
            await asyncio.sleep(0.001)
        there[0].timeout_keep_alive_handler()  # as a timer does that has just begun
        assert there[0].timeout_keep_alive_task is None
        listening.close()

    try:
        asyncio.run(asyncio.wait_for(ask(), 30))
    finally:
        service.close()


def asgi(service: HttpService, send: Any, **more: Any) -> Any:
    """One predict request the usual way."""
    headers = [
        (b"host", b"x"),
        *((name.replace("_", "-").encode(), value) for name, value in more.pop("named").items()),
    ]
    scope = {"type": "http", "method": "POST", "path": PREDICT, "query_string": b"", "headers": headers, **more}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": BODY, "more_body": False}

    return service(scope, receive, send)


def test_who_takes_long_to_read_an_answer_is_not_under_way(shop: Any) -> None:
    service = HttpService([shop.endpoint], shop.log)

    async def ask() -> None:
        async def never(message: Any) -> None:
            await asyncio.sleep(60)

        task = asyncio.create_task(asgi(service, never, named={}))
        while not service.predictors["late"].metrics.requests:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        assert service.parts.scheduler.under_way == 0
        task.cancel()

    try:
        asyncio.run(ask())
    finally:
        service.close()


def test_a_deadline_counts_from_when_the_request_arrived(shop: Any) -> None:
    """A request behind another one on its connection had all of its time once that was answered."""
    service, sent = HttpService([shop.endpoint], shop.log), []

    async def send(message: Any) -> None:
        sent.append(message.get("status"))

    async def ask() -> None:
        for waited_s in (0.0, 1.0):
            received_s = time.perf_counter() - waited_s
            await asgi(service, send, received_s=received_s, named={"x_timeout_ms": b"500"})

    try:
        asyncio.run(ask())
    finally:
        service.close()
    assert [status for status in sent if status] == [200, 504]


def test_nonsense_after_an_answer_ends_that_connection_only(running: Any) -> None:
    with Connection(running.port) as connection, Connection(running.port) as other:
        connection.send(message())
        assert connection.answer()[0] == 200
        connection.send(b"\x00\x01 nonsense\r\n\r\n")
        assert connection.stream.readline().startswith(b"HTTP/1.1 400")
        other.send(message())
        assert other.answer()[0] == 200


def test_askers_that_hang_up_leave_nothing_behind(running: Any) -> None:
    for sent in (message(), message()[:-1], message() + message()):
        for _ in range(20):
            with Connection(running.port) as connection:
                connection.send(sent)
    eventually(lambda: 'trimtab_requests_under_way{kind="predict"} 0\n' in metrics(running.port))


def metrics(port: int) -> str:
    with Connection(port) as connection:
        connection.send(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        return connection.stream.read().decode()


@pytest.mark.parametrize("headers", [{}, {"expect": "100-continue"}])
def test_a_deadline_holds_on_both_roads(running: Any, headers: dict[str, str]) -> None:
    with Connection(running.port) as connection:
        connection.send(message(x_timeout_ms="0.0001", **headers))
        if headers:
            assert connection.stream.readline() == b"HTTP/1.1 100 Continue\r\n"
            connection.stream.readline()
        status, _, problem = connection.answer()
        assert (status, problem["type"]) == (504, "urn:trimtab:problem:late")
        connection.send(message(x_timeout_ms="60000"))
        assert connection.answer()[0] == 200
        connection.send(message(x_timeout_ms="soon"))
        status, _, problem = connection.answer()
        assert (status, problem["field"]) == (422, "X-Timeout-Ms")


def test_of_two_deadlines_the_first_holds_on_both_roads(running: Any) -> None:
    def asked(first: str, second: str, road: str) -> int:
        with Connection(running.port) as connection:
            head = f"X-Timeout-Ms: {first}\r\nx-timeout-ms: {second}\r\n{road}content-length"
            connection.send(message().replace(b"content-length", head.encode(), 1))
            return connection.answer()[0]

    for road in ("", "origin: http://x\r\n"):  # its own page: asks the usual way
        assert asked("60000", "0.0001", road) == 200
        assert asked("0.0001", "60000", road) == 504
        assert asked("60000", "soon", road) == 200
        assert asked("soon", "60000", road) == 422


def test_what_fails_slowly_makes_others_queue_as_what_succeeds_does(shop: Any) -> None:
    """Each failure began a burst anew: nobody queued, nobody was refused, and the last one waited for all."""

    class Failing:
        def predict_row(self, row: list[float]) -> float:
            time.sleep(0.002)
            raise ValueError("no answer")

        predict = predict_row

    shop.endpoint.swap(shop.answerer(scorer=Failing()))
    service = HttpService([shop.endpoint], shop.log)
    turns, queued = service.parts.scheduler, []
    queue = turns.queue

    def counted(*arguments: Any) -> None:
        queued.append(turns.queued)
        queue(*arguments)

    turns.queue = counted  # type: ignore[method-assign]

    async def ask() -> None:
        config = uvicorn.Config(service, loop="none", ws="none", lifespan="off", log_config=None)
        made = partial(FastPath(service), config=config, server_state=ServerState(), app_state={})
        listening = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
        askers = [Connection(listening.sockets[0].getsockname()[1]) for _ in range(40)]
        for asker in askers:
            asker.send(message())
        answers = [await asyncio.to_thread(asker.answer) for asker in askers]
        assert {status for status, _, _ in answers} == {500}
        for asker in askers:
            asker.__exit__()
        listening.close()

    try:
        asyncio.run(asyncio.wait_for(ask(), 30))
    finally:
        service.close()
    assert len(queued) > 20
    assert turns.under_way == 0


def test_answers_of_one_connection_keep_their_order_whichever_way_they_take(running: Any) -> None:
    """Three ways: answered at once, refused at once, and the usual one, all in what arrives together."""
    bodies = [json.dumps({"request": {**ROW, "id": f"o{n}"}}).encode() for n in range(3)]
    live = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
    wrong = message(b'{"request": 1}')
    for _ in range(3):  # the second time the heads are known
        with Connection(running.port) as connection:
            connection.send(message(bodies[0]) + wrong + message(bodies[1]) + live + message(bodies[2]))
            found = [connection.answer() for _ in range(5)]
        assert [status for status, _, _ in found] == [200, 422, 200, 200, 200]
        assert [found[n][2]["request_id"] for n in (0, 2, 4)] == ["o0", "o1", "o2"]
        assert found[3][2] == {"status": "live"}


def test_what_is_put_leaves_together_and_not_to_who_hung_up() -> None:
    from trimtab.serving.http.server.outbox import Outbox

    class Transport:
        def __init__(self, closing: bool = False) -> None:
            self.closing, self.written = closing, b""

        def is_closing(self) -> bool:
            return self.closing

        def write(self, data: bytes) -> None:
            assert not self.closing
            self.written += data

    async def main() -> None:
        outbox, one, gone = Outbox(), Transport(), Transport()
        outbox.put(one, b"a")  # type: ignore[arg-type]  # what is asked of it
        outbox.put(gone, b"b")  # type: ignore[arg-type]  # the same
        gone.closing = True
        assert one.written == b""
        await asyncio.sleep(0)
        assert (one.written, gone.written) == (b"a", b"")
        outbox.put(one, b"c")  # type: ignore[arg-type]  # the same
        outbox.send()
        assert one.written == b"ac"
        await asyncio.sleep(0)
        assert one.written == b"ac"

    asyncio.run(main())


@pytest.mark.parametrize("road", [{}, {"expect": "100-continue"}])
@pytest.mark.parametrize(("hosts", "found"), [(b"", 0), (b"host: x\r\nhost: x\r\n", 2), (b"Host: x\r\nHOST: y\r\n", 2)])
def test_a_request_names_one_host(running: Any, hosts: bytes, found: int, road: dict[str, str]) -> None:
    """RFC 9112, section 3.2: what stands before the service may have read another one of two."""
    for _ in range(2):  # no such head is learnt
        with Connection(running.port) as connection:
            connection.send(message(**road).replace(b"host: x\r\n", hosts, 1))
            status, headers, problem = connection.answer()
            assert (status, headers["connection"]) == (400, "close")
            assert f"{found} Host lines" in problem["detail"]
            assert connection.ended()
    with Connection(running.port) as connection:
        connection.send(message(version="1.0").replace(b"host: x\r\n", hosts, 1))
        assert connection.answer()[0] == (200 if found == 0 else 400)


@pytest.mark.parametrize(
    ("begin", "more", "answered"),
    [
        (b"POST /v1/models/late/predict HTTP/1.1\r\nhost: x\r\n", b"x: y\r\n", b"HTTP/1.1 408 "),
        (b"", b"\r\n", b""),
    ],
)
def test_a_head_does_not_trickle_for_ever(shop: Any, begin: bytes, more: bytes, answered: bytes) -> None:
    """A byte now and then kept a connection open without an end, and its descriptor with it."""
    service = HttpService([shop.endpoint], shop.log, limits=Limits(body_timeout_s=0.3))
    config = uvicorn.Config(service, lifespan="off", log_config=None, timeout_keep_alive=1)

    async def main() -> None:
        made = partial(FastPath(service), config=config, server_state=ServerState(), app_state={})
        listening = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        whole = asyncio.create_task(reader.read())
        writer.write(begin)
        with suppress(ConnectionError):
            while not whole.done():
                writer.write(more)
                await writer.drain()
                await asyncio.sleep(0.02)
        (found,) = await asyncio.gather(whole, return_exceptions=True)
        assert found[:13] == answered if isinstance(found, bytes) else isinstance(found, ConnectionResetError)
        writer.close()
        listening.close()

    try:
        asyncio.run(asyncio.wait_for(main(), 30))
    finally:
        service.close()
