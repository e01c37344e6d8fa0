"""The HTTP service through a real server process: answers, refusals, and a server that stays up."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processes import eventually

PREDICT = "/v1/models/late/predict"
EVENTS = "/v1/events/payments"


@pytest.fixture(scope="module")
def server(start_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    running = start_server(tmp_path_factory.mktemp("shop"))
    yield running
    code, complaints = running.stop()
    assert code == 0
    assert "Traceback" not in complaints


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as made:
        yield made


def row(**changes: Any) -> dict[str, Any]:
    return {"id": "c1", "user": "ann", "basket": 12.5, "kind": "web", "at": "2023-11-14T22:13:20Z", **changes}


def now_us() -> int:
    return time.time_ns() // 1_000


def refused(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem detail of a refusal, in the form that RFC 9457 asks for."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["type"].startswith("urn:trimtab:problem:")
    assert problem["instance"] == response.request.url.path
    assert problem["title"]
    assert problem["detail"]
    return problem


def test_a_request_gets_an_answer_that_can_be_looked_up(client: httpx.Client) -> None:
    answer = client.post(PREDICT, json={"request": row(user="somebody new")}).json()
    assert set(answer) == {
        "id", "request_id", "model", "version", "arm", "mode", "score", "at_us", "reasons", "flags",
    }  # fmt: skip
    assert (answer["version"], answer["mode"], answer["request_id"]) == ("late@1", "live", "c1")
    assert answer["reasons"] == dict.fromkeys(["spent.n_1h", "spent.total", "spent.last"], "no_entity")
    found = client.get(f"/v1/predictions/{answer['id']}").json()
    assert found["score"] == answer["score"]
    assert found["request"] == ["c1", "somebody new", 12.5, "web", 1_700_000_000_000_000]
    assert found["values"][:3] == [0.0, 0.0, None]
    assert found["reasons"] == ["no_entity", "no_entity", "no_entity", None, None]


@pytest.mark.parametrize("length", ["content-length: 30000000", "transfer-encoding: chunked"])
def test_whoever_sends_too_much_is_told_so_when_he_has_sent_it(server: Any, length: str) -> None:
    part = b"x" * 1_000_000
    if length.startswith("transfer"):
        part = b"%x\r\n%b\r\n" % (len(part), part)
    head = f"POST {EVENTS} HTTP/1.1\r\nhost: x\r\n{length}\r\ncontent-type: application/json\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.encode())
        for _ in range(30):
            connection.sendall(part)
        if length.startswith("transfer"):
            connection.sendall(b"0\r\n\r\n")
        with connection.makefile("rb") as said:
            assert said.readline() == b"HTTP/1.1 413 Request Entity Too Large\r\n"


def test_whoever_asks_before_he_sends_too_much_is_not_told_to_send_it(server: Any) -> None:
    head = f"POST {EVENTS} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 30000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.encode())
        with connection.makefile("rb") as said:
            assert said.readline() == b"HTTP/1.1 413 Request Entity Too Large\r\n"


def test_a_body_that_is_too_large_and_never_ends_is_given_up(server: Any) -> None:
    head = f"POST {EVENTS} HTTP/1.1\r\nhost: x\r\ncontent-length: 30000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.encode() + b" ")
        with connection.makefile("rb") as said:
            assert said.readline() == b"HTTP/1.1 413 Request Entity Too Large\r\n"
            assert b"Send it in parts" in said.read()


def test_many_rows_are_answered_in_order(client: httpx.Client) -> None:
    for count in (0, 1, 3, 80):  # 80: in a thread
        rows = [row(id=f"c{n}", basket=float(n)) for n in range(count)]
        answers = client.post(PREDICT, json={"rows": rows}).json()["predictions"]
        assert [a["request_id"] for a in answers] == [r["id"] for r in rows]
        alone = [client.post(PREDICT, json={"request": r}).json()["score"] for r in rows[:3]]
        assert [a["score"] for a in answers[:3]] == alone


def test_an_event_is_seen_by_the_next_answer_when_its_sender_waits(client: httpx.Client) -> None:
    for n in range(1, 6):
        pushed = client.post(
            EVENTS, params={"wait": "applied"}, json={"user": "eve", "amount": 2.0, "paid_at": now_us()}
        )
        assert pushed.json()["accepted"] == 1, pushed.text
        answer = client.post(PREDICT, json={"request": row(user="eve")}).json()
        values = client.get(f"/v1/predictions/{answer['id']}").json()["values"]
        assert values[:3] == [n, 2.0 * n, 2.0]
        assert answer["reasons"] == {}


def test_a_question_about_the_past_does_not_see_what_came_since(client: httpx.Client) -> None:
    before_us = now_us()
    client.post(EVENTS, params={"wait": "applied"}, json={"user": "max", "amount": 2.0, "paid_at": now_us()})
    now = client.post(PREDICT, json={"request": row(user="max")}).json()
    then = client.post(PREDICT, json={"request": row(user="max"), "at": before_us}).json()
    assert now["reasons"] == {}
    assert (then["at_us"], set(then["reasons"].values())) == (before_us, {"no_entity"})


def test_events_come_as_an_object_a_list_or_lines(client: httpx.Client) -> None:
    events = [{"user": "liz", "amount": float(n), "paid_at": now_us() + n} for n in range(6)]
    assert client.post(EVENTS, json=events[0]).json()["accepted"] == 1
    assert client.post(EVENTS, json=events[1:3]).json()["accepted"] == 2
    lines = "\n".join(json.dumps(e) for e in events[3:]) + "\n\n"
    pushed = client.post(f"{EVENTS}?wait=applied", content=lines, headers={"content-type": "application/x-ndjson"})
    assert pushed.json()["accepted"] == 3
    answer = client.post(PREDICT, json={"request": row(user="liz")}).json()
    assert client.get(f"/v1/predictions/{answer['id']}").json()["values"][:2] == [6, 15.0]


def test_events_that_cannot_be_are_named_and_quarantined(client: httpx.Client) -> None:
    good, bad = {"user": "tom", "amount": 1.0, "paid_at": now_us()}, {"user": "tom", "amount": "x", "paid_at": now_us()}
    mixed = client.post(EVENTS, json=[good, bad]).json()
    assert (mixed["accepted"], mixed["quarantined"]) == (1, 1)
    assert mixed["problems"][0]["field"] == "amount"
    assert refused(client.post(EVENTS, json=[bad]), 422)["field"] == "amount"


def test_a_wrong_field_is_named(client: httpx.Client) -> None:
    problem = refused(client.post(PREDICT, json={"rows": [row(), row(basket="much")]}), 422)
    assert (problem["field"], problem["pointer"]) == ("basket", "$.rows[1].basket")
    assert "Found: 'much'" in problem["detail"]
    missing = row()
    del missing["user"]
    assert refused(client.post(PREDICT, json={"request": missing}), 422)["field"] == "user"
    assert refused(client.post(PREDICT, json={"request": row(), "extra": 1}), 422)["field"] == "extra"
    assert refused(client.post(PREDICT, json={"request": row(), "at": "2999-01-01T00:00:00Z"}), 400)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b'{"request": {"id": @}}', "byte 19"),
        (b'{"request": ', "byte 12 of 12"),
        (b"", "body: it is empty"),
        (b"\xff\xfe", "byte 0"),
        (b'{"request": {"id": "\xff"}}', "UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"request": {"user": ' + b'{"x":' * 30_000, "nested too deeply"),
        (b"[]", "object"),
        (b"{}", "request"),
    ],
)
def test_what_is_no_json_is_refused_with_its_position(client: httpx.Client, body: bytes, where: str) -> None:
    response = client.post(PREDICT, content=body, headers={"content-type": "application/json"})
    assert where in refused(response, 400)["detail"]


def test_too_much_is_refused(client: httpx.Client) -> None:
    big = refused(client.post(PREDICT, json={"request": row(user="x" * 300_000)}), 413)
    assert "200000" in big["detail"]
    assert "100" in refused(client.post(PREDICT, json={"rows": [row()] * 101}), 413)["detail"]

    def chunks() -> Iterator[bytes]:
        for _ in range(50):
            yield b" " * 10_000

    refused(client.post(EVENTS, content=chunks(), headers={"content-type": "application/json"}), 413)


def test_http_itself_is_checked(client: httpx.Client) -> None:
    wrong = client.get(PREDICT)
    refused(wrong, 405)
    assert wrong.headers["allow"] == "POST"
    refused(client.put(EVENTS, json={}), 405)
    refused(client.post("/metrics"), 405)
    form = client.post(PREDICT, content=b"x=1", headers={"content-type": "application/x-www-form-urlencoded"})
    assert refused(form, 415)["detail"] == (
        "content-type 'application/x-www-form-urlencoded': send the header content-type: application/json "
        "(or application/vnd.apache.arrow.stream)."
    )
    refused(client.post("/v1/models/other/predict", json={}), 404)
    refused(client.post("/v1/events/other", json={}), 404)
    refused(client.get("/nothing"), 404)
    refused(client.get("/v1/predictions/p_0"), 404)
    refused(client.post(EVENTS, params={"wait": "long"}, json={}), 400)
    ok = client.post(
        PREDICT, content=json.dumps({"request": row()}), headers={"content-type": "Application/JSON; charset=utf-8"}
    )
    assert ok.status_code == 200
    head = client.head("/health/ready")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("body", ["", "{"])
@pytest.mark.parametrize("path", [PREDICT, EVENTS, "/v2/models/late/infer", "/v2/repository/index"])
def test_a_body_that_does_not_come_is_given_up(server: Any, path: str, body: str) -> None:
    """One that did not even begin held its connection for ever."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{body}".encode())
        connection.settimeout(10)
        answer = b"".join(iter(lambda: connection.recv(4_096), b""))  # to the end: what comes late is no request
        assert answer.startswith(b"HTTP/1.1 408")
        assert answer.count(b"connection: close") == 1


def test_an_asker_who_hangs_up_disturbs_nobody(server: Any, client: httpx.Client) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{{".encode())
    assert client.post(PREDICT, json={"request": row()}).status_code == 200


def test_metrics_count_what_happened(client: httpx.Client) -> None:
    def figures() -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    before = figures()
    client.post(PREDICT, json={"rows": [row(user="nobody"), row(user="noone")]})
    client.post(PREDICT, json={"rows": 5})
    after = figures()
    grew = {name: value - before.get(name, 0) for name, value in after.items()}
    assert grew['trimtab_answered_requests_total{model="late"}'] == 1
    assert grew['trimtab_predictions_total{model="late",fate="logged"}'] == 2
    assert grew['trimtab_requests_total{route="predict",model="late",status="422"}'] == 1
    assert grew['trimtab_null_inputs_total{model="late",reason="no_entity"}'] == 6
    assert after[f'trimtab_model_version{{model="late",version="late@1",address="{1:064}",arm="champion"}}'] == 1
    assert after['trimtab_latency_seconds_count{model="late",stage="total"}'] >= 1
    assert after["trimtab_lag_records"] >= 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
odd_rows = st.fixed_dictionaries({}, optional=dict.fromkeys((*row(), "more"), json_values))
odd_events = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("user", "amount", "paid_at", "_id", "_op", "_known_at"), json_values)
)
bodies = (
    st.binary(max_size=200)
    | json_values.map(lambda v: json.dumps(v).encode())
    | odd_rows.map(lambda r: json.dumps({"request": r}).encode())
    | st.lists(odd_rows, max_size=3).map(lambda r: json.dumps({"rows": r}).encode())
    | st.tuples(json_values, json_values).map(lambda v: json.dumps({"request": v[0], "at": v[1]}).encode())
    | st.lists(
        st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("user", "amount", "paid_at", "_id", "_op", "_known_at"), json_values)
        )
    ).map(lambda rows: json.dumps(rows).encode())
    | st.tuples(st.just(json.dumps({"request": row()}).encode()), st.integers(0, 90), st.binary(max_size=3)).map(
        lambda v: v[0][: v[1]] + v[2] + v[0][v[1] + 1 :]
    )
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bodies,
    st.sampled_from(
        [PREDICT, EVENTS, f"{EVENTS}?wait=applied", "/v1/events/%00", "/v1/predictions/%ff", "/metrics", "/x"]
    ),
    st.sampled_from(["POST", "POST", "POST", "GET", "DELETE"]),
    st.sampled_from(["application/json", "application/json", "application/x-ndjson", "text/plain", ""]),
)
def test_no_input_makes_the_server_fail(client: httpx.Client, body: bytes, path: str, method: str, media: str) -> None:
    response = client.request(method, path, content=body, headers={"content-type": media})
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        refused(response, response.status_code)
    json.loads(response.content) if path != "/metrics" or response.status_code >= 400 else None


def test_a_port_that_is_taken_is_named(server: Any, start_server: Any, tmp_path: Any) -> None:
    with pytest.raises(AssertionError, match=f"Unavailable: 127.0.0.1:{server.port}.*another"):
        start_server(tmp_path, port=server.port)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_server_that_is_asked_to_end_finishes_what_is_under_way(start_server: Any, tmp_path: Any) -> None:
    running = start_server(tmp_path, "durable")
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        body = json.dumps({"request": row()}).encode()
        connection.settimeout(30)
        head = f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nexpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"  # it has it
        connection.sendall(body[:-1])
        running.process.terminate()
        eventually(lambda: not listens(running.port))
        connection.sendall(body[-1:])
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert running.ended()[0] == 0


@pytest.mark.parametrize("said", [{"origin": "https://shop.example"}, {"sec-fetch-site": "cross-site"}])
def test_a_page_of_another_site_cannot_push_or_ask_for_predictions(client: httpx.Client, said: dict[str, str]) -> None:
    event = {"user": "eve", "amount": 2.0, "paid_at": now_us()}
    for path, sent in ((PREDICT, {"request": row()}), (EVENTS, event)):
        body = json.dumps(sent).encode()  # as the browser sends an untyped Blob: without a type
        own = {"origin": str(client.base_url), "sec-fetch-site": "same-origin"}
        assert client.post(path, content=body, headers=own).status_code == 200
        problem = refused(client.post(path, content=body, headers=said), 403)
        assert "another site" in problem["detail"]
    infer = client.post("/v2/models/late/infer", content=b"{}", headers=said)
    assert (infer.status_code, list(infer.json())) == (403, ["error"])
    assert client.get("/health/ready", headers=said).status_code == 200
