"""The client: a project's answers and errors over HTTP, tried again only where that is safe."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import trimtab
from trimtab.core.errors import Conflict, Misuse, NotFound, TrimtabError, Unavailable
from trimtab.serving.answer.served import Answer
from trimtab.serving.client import Client, connect
from trimtab.serving.failures import Late, ModelFailed, NotApplied, not_applied
from trimtab.serving.problems import InvalidField, Refused, problem_of

ROW = {"id": "c1", "user": "ann", "basket": 12.5, "kind": "web", "at": 1_700_000_000_000_000}


@pytest.fixture(scope="module")
def running(start_server: Any, tmp_path_factory: Any) -> Iterator[Any]:
    server = start_server(tmp_path_factory.mktemp("client"))
    yield server
    assert server.stop() == (0, "")


@pytest.fixture
def client(running: Any) -> Iterator[Client]:
    with connect(running.url) as made:
        yield made


@pytest.mark.fast
def test_one_row_has_one_answer_and_a_list_has_a_list(client: Client) -> None:
    one = client.predict("late", ROW)
    assert isinstance(one, Answer)
    assert (one.request_id, one.version) == ("c1", "late@1")
    many = client.predict("late", [{**ROW, "id": f"c{n}"} for n in range(3)])
    assert [answer.request_id for answer in many] == ["c0", "c1", "c2"]
    assert many[0].score == one.score
    assert client.predict("late", []) == []


def test_values_of_python_and_numpy_are_taken(client: Client) -> None:
    given = {**ROW, "basket": np.float64(12.5), "at": dt.datetime(2023, 11, 14, 22, 13, 20, tzinfo=dt.UTC)}
    assert client.predict("late", given).score == client.predict("late", ROW).score
    assert client.predict("late", {**ROW, "basket": float("nan")}).score is not None
    with pytest.raises(Misuse, match="found a object"):
        client.predict("late", {**ROW, "kind": object()})


def test_decimals_are_the_numbers_that_they_are_in_process(client: Client) -> None:
    for given, plain in ((Decimal("12.5"), 12.5), (Decimal("NaN"), None), (Decimal("1E+3"), 1_000.0)):
        expected = client.predict("late", {**ROW, "basket": plain}).score
        assert client.predict("late", {**ROW, "basket": given}).score == expected
    now = dt.datetime.now(dt.UTC)
    pushed = client.push("payments", [{"user": "eve", "amount": Decimal("0.1"), "paid_at": now}])
    assert (pushed.accepted, pushed.quarantined) == (1, 0)
    with pytest.raises(InvalidField, match="JSON cannot express"):
        client.predict("late", {**ROW, "basket": Decimal("Infinity")})


def test_events_are_pushed_and_applied(client: Client) -> None:
    before = client.predict("late", {**ROW, "user": "eve"}).score
    now = dt.datetime.now(dt.UTC)
    pushed = client.push("payments", {"user": "eve", "amount": 5.0, "paid_at": now, "_id": "e1"}, wait=True)
    assert (pushed.accepted, pushed.quarantined) == (1, 0)
    time.sleep(0.001)  # an event counts from the microsecond after its own time
    assert client.predict("late", {**ROW, "user": "eve"}).score != before
    with pytest.raises(InvalidField) as caught:
        client.push("payments", [{"user": "eve", "amount": "much", "paid_at": now}])
    assert (caught.value.field, caught.value.pointer) == ("amount", "$[0].amount")


def test_errors_are_those_of_a_project(client: Client, running: Any) -> None:
    with pytest.raises(NotFound, match="Models served here: late"):
        client.predict("nobody", ROW)
    with pytest.raises(InvalidField, match="basket") as caught:
        client.predict("late", {**ROW, "basket": "much"})
    assert caught.value.field == "basket"
    with pytest.raises(Misuse, match="future"):
        client.predict("late", ROW, at="2999-01-01")
    with pytest.raises(NotFound):
        client.why("p_nothing")
    with pytest.raises(NotFound):
        client.models()  # this server has no further addresses
    with connect(f"127.0.0.1:{running.port}/elsewhere/") as other, pytest.raises(NotFound, match="/elsewhere/v1"):
        other.predict("late", ROW)


def test_nonsense_is_refused_before_anything_is_asked() -> None:
    urls = [None, "", "ftp://x", "http://", "http://x?y", "http://x#y", "http://a:b@x", "http://:b@x", "http://x:port"]
    for url in [
        *urls,
        "http://[::1",
        "http://.x",
        f"http://{'x' * 70}.org",
        "http://a b/",
        "http://a\0b/",
        "http://\u2100/",
    ]:
        with pytest.raises(Misuse, match="connect"):
            connect(url)  # type: ignore[arg-type]
    for timeout_s in (0, float("nan"), "5", None):
        with pytest.raises(Misuse, match="timeout_s"):
            connect("http://x", timeout_s=timeout_s)  # type: ignore[arg-type]
    for key in ("a\nb: c", "", " ", b"a", 5):
        with pytest.raises(Misuse, match="key"):
            connect("http://x", key=key)  # type: ignore[arg-type]
    for cafile in ("nowhere.pem", 5):
        with pytest.raises(Misuse, match="cafile"):
            connect("https://x", cafile=cafile)  # type: ignore[arg-type]
    client = connect("http://127.0.0.1:1")
    client.close()
    with pytest.raises(Misuse, match="closed"):
        client.models()


@pytest.mark.parametrize(
    ("ask", "pointer"),
    [
        (lambda c, inf: c.predict("late", {**ROW, "basket": inf}), "$.request.basket"),
        (lambda c, inf: c.predict("late", [ROW, {**ROW, "basket": np.float64(-inf)}]), "$.rows[1].basket"),
        (lambda c, inf: c.predict("late", [{**ROW, "basket": np.float32(inf)}]), "$.rows[0].basket"),
        (lambda c, inf: c.push("payments", {"user": "eve", "amount": inf, "paid_at": 0}), "$[0].amount"),
        (lambda c, inf: c.label("late", [{"request": "c1", "columns": {"amount": inf}}]), "$[0].columns.amount"),
    ],
)
def test_what_is_infinite_is_not_sent_as_null(ask: Callable[[Client, float], Any], pointer: str) -> None:
    with connect("http://127.0.0.1:9") as client, pytest.raises(InvalidField, match="JSON cannot express") as caught:
        ask(client, float("inf"))
    assert (caught.value.field, caught.value.pointer) == (pointer.rpartition(".")[2], pointer)


def test_names_of_another_kind_are_refused_before_anything_is_asked() -> None:
    asks: list[Callable[[Any], Any]] = [
        lambda c: c.predict(None, ROW),
        lambda c: c.predict("late", ROW, timeout_s="5"),
        lambda c: c.push("\ud800", ROW),
        lambda c: c.label(5, {"request": "c1"}),
        lambda c: c.why(None),
        lambda c: c.features("user", None),
        lambda c: c.features("user", b"ann"),
    ]
    with connect("http://127.0.0.1:9") as client:
        for ask in asks:
            with pytest.raises(Misuse):
                ask(client)


@pytest.mark.parametrize(
    "value", [b"web", bytearray(b"web"), np.bytes_(b"web"), uuid.UUID(int=1), dt.timedelta(1), {"web"}, np.arange(2)]
)
def test_what_json_would_turn_into_another_value_is_refused_by_name(value: Any) -> None:
    with (
        connect("http://127.0.0.1:9") as client,
        pytest.raises(InvalidField, match=f"found a {type(value).__name__}|size 1") as caught,
    ):
        client.predict("late", [ROW, {**ROW, "kind": value}])
    assert (caught.value.field, caught.value.pointer) == ("kind", "$.rows[1].kind")


def test_rows_that_come_to_no_end_and_names_that_are_no_texts_are_refused() -> None:
    endless: dict[Any, Any] = {}
    endless["kind"] = endless
    for row in (endless, {**ROW, b"kind": "web"}, {**ROW, 5: "web"}, {**ROW, None: "web"}):
        with connect("http://127.0.0.1:9") as client, pytest.raises(Misuse, match=r"rows|name"):
            client.predict("late", row)


class Moment(dt.datetime):
    """As those of pandas are: of a kind of their own."""


def test_moments_of_numpy_and_of_their_own_kind_and_other_mappings_are_taken(client: Client) -> None:
    moments: list[Any] = [np.datetime64("2023-11-14T22:13:20", "ns"), Moment(2023, 11, 14, 22, 13, 20, tzinfo=dt.UTC)]
    for at in moments:
        given: Any = MappingProxyType({**ROW, "at": at})
        assert client.predict("late", given).score == client.predict("late", ROW).score
        assert client.predict("late", [given], at=at)[0].at_us == 1_700_000_000_000_000


@pytest.mark.parametrize(("url", "host", "port"), [("http://[::1]", "::1", 80), ("https://[::1]/", "::1", 443)])
def test_a_port_that_is_not_said_is_that_of_the_scheme(url: str, host: str, port: int) -> None:
    with connect(url) as client:
        pool = client._pool
    assert (pool.host.strip("[]"), pool.port) == (host, port)


def test_an_address_below_others_may_have_any_letters() -> None:
    server = Told(MODELS)
    with connect(f" {server.url}/b\u00fccher und mehr/ ") as client:
        assert client.models() == []
    server.join(30)
    assert server.asked[0][0] == "GET /b%C3%BCcher%20und%20mehr/v1/models HTTP/1.1"


@pytest.mark.parametrize("row", [None, 5, "abc", ["a"]])
def test_a_row_of_another_kind_is_refused_by_its_place(row: Any) -> None:
    with connect("http://127.0.0.1:9") as client:
        for ask in (client.predict, client.push, client.label):
            with pytest.raises(Misuse, match=rf"rows\[1\] is a {type(row).__name__}\. Give a dict"):
                ask("late", [{}, row])


class Table(list[str]):
    """As those of pandas and polars are: what they iterate over are columns."""

    def __arrow_c_stream__(self) -> None: ...


@pytest.mark.parametrize("rows", [None, 5, "abc", b"abc", object(), Table()])
def test_rows_of_another_kind_are_refused_by_name(rows: Any) -> None:
    with connect("http://127.0.0.1:9") as client:
        for ask in (client.predict, client.push, client.label):
            with pytest.raises(Misuse, match=rf"rows is a {type(rows).__name__}\. Give a dict or a list of dicts\."):
                ask("late", rows)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate of localhost, and its key."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def context_of(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def test_a_wrong_scheme_and_a_strange_certificate_are_named(running: Any, certificate: tuple[Path, Path]) -> None:
    with (
        connect(f"https://127.0.0.1:{running.port}") as client,
        pytest.raises(Unavailable, match="use http://"),
    ):
        client.predict("late", ROW)
    server = Told(None)
    with connect(server.url) as client, pytest.raises(Unavailable, match="If it has a certificate"):
        client.predict("late", ROW)
    server.join(30)
    context = context_of(certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)

        def greet() -> None:
            with contextlib.suppress(OSError), context.wrap_socket(listener.accept()[0], server_side=True):
                pass

        thread = threading.Thread(target=greet)
        thread.start()
        url = f"https://localhost:{listener.getsockname()[1]}"
        with connect(url) as client, pytest.raises(Unavailable, match="cafile"):
            client.predict("late", ROW)
        thread.join(30)


def test_threads_share_a_client_and_its_connections(client: Client) -> None:
    def ask(n: int) -> str:
        return client.predict("late", {**ROW, "id": f"t{n}"}).request_id

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(200))) == [f"t{n}" for n in range(200)]
    assert 1 <= client._pool.num_connections <= 8


class Told(threading.Thread):
    """A server that gives one told answer a connection, and remembers what it was asked."""

    def __init__(self, *answers: bytes | None, context: ssl.SSLContext | None = None) -> None:
        super().__init__(daemon=True)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        if context is not None:
            self._listener = context.wrap_socket(self._listener, server_side=True)
        self.start()

    def run(self) -> None:
        for answer in self._answers:
            connection, _ = self._listener.accept()
            with connection, connection.makefile("rb") as stream:
                first = stream.readline().decode().strip()
                headers = {}
                while line := stream.readline().strip():
                    name, _, value = line.decode().partition(": ")
                    headers[name.lower()] = value
                stream.read(int(headers.get("content-length", 0)))
                self.asked.append((first, headers))
                if answer is not None:
                    connection.sendall(answer)
        self._listener.close()


def answer(status: int, body: Any, **headers: str) -> bytes:
    text = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(text)}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + text


def problem(status: int, type_: str = "x", retry_after: str = "0") -> bytes:
    fields = {"type": f"urn:trimtab:problem:{type_}", "title": "t", "status": status, "detail": f"said {status}"}
    return answer(status, {**fields, "instance": "/"}, retry_after=retry_after)


MODELS = answer(200, {"models": []})
PUSHED = answer(200, {"accepted": 1, "quarantined": 0})


@pytest.mark.parametrize(
    ("ask", "answers", "times"),
    [
        (lambda c: c.models(), [problem(503), None, problem(429), MODELS], 4),
        (lambda c: c.models(), [None, None, None, None], 4),
        (lambda c: c.predict("m", {}), [None], 1),
        (lambda c: c.predict("m", {}), [problem(503)], 1),
        (lambda c: c.predict("m", {}), [problem(429), problem(500)], 2),
        (lambda c: c.push("s", {"_id": "a"}), [problem(429), PUSHED], 2),
        (lambda c: c.label("m", {}), [problem(503)], 1),
        (lambda c: c.models(), [problem(409)], 1),
    ],
)
def test_only_what_may_be_done_twice_is_asked_again(ask: Callable[[Client], Any], answers: Any, times: int) -> None:
    server = Told(*answers)
    with connect(server.url) as client:
        if answers[-1] in (MODELS, PUSHED):
            ask(client)
        else:
            with pytest.raises(TrimtabError):
                ask(client)
    server.join(30)
    assert len(server.asked) == times


@pytest.mark.parametrize("first", [None, problem(503), problem(503, "not-applied")])
def test_events_that_were_sent_are_not_sent_again(first: bytes | None) -> None:
    """In a source with a key they might undo what somebody else pushed meanwhile."""
    server = Told(first, PUSHED)
    with connect(server.url) as client:
        with pytest.raises(Unavailable):
            client.push("s", {"_id": "a"}, wait=True)
        assert len(server.asked) == 1
        assert client.push("s", {"_id": "b"}).accepted == 1
    server.join(30)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Misuse),
        (401, Refused),
        (403, Refused),
        (404, NotFound),
        (409, Conflict),
        (413, Refused),
        (504, Unavailable),
    ],
)
def test_each_status_is_an_error_of_its_kind(status: int, kind: type[TrimtabError]) -> None:
    server = Told(problem(status))
    with connect(server.url) as client, pytest.raises(kind, match=f"said {status}"):
        client.predict("m", {})
    server.join(30)


@pytest.mark.parametrize(
    ("status", "type_", "kind"),
    [
        (503, "not-applied", NotApplied),
        (500, "model-failed", ModelFailed),
        (504, "late", Late),
        (500, "internal-error", TrimtabError),
        (503, "unavailable", Unavailable),
    ],
)
def test_each_type_of_a_problem_is_the_error_that_it_is_in_process(
    status: int, type_: str, kind: type[TrimtabError]
) -> None:
    server = Told(problem(status, type_))
    with connect(server.url) as client, pytest.raises(kind, match=f"said {status}") as caught:
        client.push("s", {"_id": "a"}, wait=True)
    assert type(caught.value) is kind
    server.join(30)


def test_what_is_safe_and_not_applied_is_said_to_be_that() -> None:
    told = problem_of(not_applied("waited 0.1 s"), "/v1/events/s")
    assert (told.status, told.type) == (503, "urn:trimtab:problem:not-applied")
    assert "Do not send it again" in told.detail


@pytest.mark.parametrize(("retry_after", "timeout_s"), [("6", 60.0), ("4", 3.0), ("86400", 60.0)])
def test_a_pause_in_vain_is_not_made(retry_after: str, timeout_s: float) -> None:
    server = Told(problem(429, "overloaded", retry_after), MODELS)
    began = time.monotonic()
    with connect(server.url) as client:
        with pytest.raises(Unavailable, match="said 429"):
            client.predict("m", {}, timeout_s=timeout_s)
        assert time.monotonic() - began < 2.5
        assert client.models() == []
    server.join(30)
    assert len(server.asked) == 2


def test_what_is_no_trimtab_is_said_to_be_none() -> None:
    text = b'{"models":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    nested = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(text) + text
    for wrong in (answer(502, "gateway"), answer(200, {"hello": 1}), b"SSH-2.0-x\r\n\r\n", nested):
        server = Told(wrong)
        with connect(server.url) as client, pytest.raises(Unavailable, match="trimtab"):
            client.predict("m", {})
        server.join(30)


def test_the_time_of_a_call_is_its_requests_deadline_and_holds_for_all_tries() -> None:
    server = Told(problem(503), MODELS)
    with connect(server.url, key="trimtab_a_b", timeout_s=60.0) as client:
        client.models()
    server.join(30)
    left_ms = [int(headers["x-timeout-ms"]) for _, headers in server.asked]
    assert 0 < left_ms[1] < left_ms[0] <= 60_000
    assert server.asked[0][1]["authorization"] == "Bearer trimtab_a_b"
    silent = socket.create_server(("127.0.0.1", 0))
    with connect(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=60.0) as client:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="no answer in time"):
            client.predict("m", {}, timeout_s=0.2)
        assert time.monotonic() - began < 30  # the client's own time is longer
    silent.close()
    with connect("http://127.0.0.1:9", timeout_s=0.5) as client, pytest.raises(Unavailable, match="trimtab serve"):
        client.predict("m", {})


@pytest.mark.slow
def test_dead_addresses_of_a_host_share_the_time_with_the_one_that_answers(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Told(MODELS, context=context_of(certificate))
    with contextlib.ExitStack() as held:
        dead = [held.enter_context(silent()).getsockname() for _ in range(2)]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", place) for place in (*dead, ("127.0.0.1", server.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with connect(f"https://localhost:{server.port}", timeout_s=3.0, cafile=str(certificate[0])) as client:
            assert client.models() == []
    server.join(30)
    assert len(server.asked) == 1


@contextlib.contextmanager
def silent() -> Iterator[socket.socket]:
    """A port where connecting comes to no end: as many wait there already as may."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        with contextlib.suppress(TimeoutError):
            while True:
                waiting.enter_context(socket.create_connection(listener.getsockname(), timeout=0.2))
        yield listener


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 200 OK\r\ncontent-length: 4000\r\n\r\n"])
def test_an_answer_that_trickles_is_not_waited_for_beyond_the_time(begin: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def trickle() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as connection:
                connection.sendall(begin)
                for _ in range(3_000):  # a minute in all
                    time.sleep(0.02)
                    connection.sendall(b"H")

        thread = threading.Thread(target=trickle)
        thread.start()
        with (
            connect(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.3) as client,
            pytest.raises(Unavailable, match="no answer in time"),
        ):
            client.predict("m", {})
        thread.join(90)


FORKS = """
import os, signal, sys
import trimtab
row = {"id": "p", "user": "ann", "basket": 12.5, "kind": "web", "at": 1_700_000_000_000_000}
client = trimtab.connect(sys.argv[1])
client.predict("late", row)
child = os.fork()
if not child:
    signal.alarm(60)
    own = client.predict("late", {**row, "id": "c"}).request_id == "c" and client._pool.num_connections == 1
    os._exit(0 if own else 1)
assert os.waitpid(child, 0)[1] == 0
assert client.predict("late", row).request_id == "p" and client._pool.num_connections == 1
"""


def test_a_forked_child_asks_on_connections_of_its_own(running: Any) -> None:
    done = subprocess.run([sys.executable, "-c", FORKS, running.url], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_why_a_request_was_not_read_to_its_end_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            with listener.accept()[0] as connection:
                connection.recv(1_000)
                connection.sendall(problem(413))
                connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=refuse)
        thread.start()
        with (
            connect(f"http://127.0.0.1:{listener.getsockname()[1]}") as client,
            pytest.raises(Refused, match="said 413"),
        ):
            client.predict("m", {"text": "x" * 50_000_000})
        thread.join(30)


def test_a_connection_that_was_closed_meanwhile_is_not_used_again() -> None:
    keeps = MODELS.replace(b"connection: close\r\n", b"")
    server = Told(keeps, PUSHED)
    with connect(server.url) as client:
        client.models()
        idle = client._pool.pool.queue[-1]
        assert select.select([idle.sock], [], [], 30)[0]  # the end of the connection has arrived
        assert client.push("s", {"x": 1}).accepted == 1
    server.join(30)
    assert len(server.asked) == 2


def test_to_connect_loads_nothing_heavy() -> None:
    code = (
        "import sys, trimtab; trimtab.connect('http://127.0.0.1:1').close(); "
        "print({'numpy', 'duckdb', 'sklearn', 'uvicorn', 'sqlalchemy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    assert trimtab.connect is connect
