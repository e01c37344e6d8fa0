"""Events over HTTP in every form: the same answer, limits that hold, and a server that stays up."""

from __future__ import annotations

import io
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from arro3 import io as arrow_io

from trimtab.core.columns.data import Columns, Dtype
from trimtab.serving.http.routes.pushing import table_of_body
from trimtab.serving.problems import Refused

EVENTS = "/v1/events/payments"
ARROW = {"content-type": "application/vnd.apache.arrow.stream"}
LINES = {"content-type": "application/x-ndjson"}


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


def now_us() -> int:
    return time.time_ns() // 1_000


def stream(compression: Any = None, **columns: tuple[Dtype, list[Any]]) -> bytes:
    out = io.BytesIO()
    arrow_io.write_ipc_stream(Columns.of(columns), out, compression=compression)
    return out.getvalue()


def refused(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    return problem


@pytest.mark.fast
def test_every_form_of_the_same_events_gets_the_same_answer(client: httpx.Client) -> None:
    users, amounts, moments = ["ann", "bob", None], [1.0, float("inf"), None], [now_us(), now_us(), now_us()]
    rows = [dict(zip(("user", "amount", "paid_at"), r, strict=True)) for r in zip(users, amounts, moments, strict=True)]
    rows[1]["amount"] = 1e300  # JSON has no infinity
    answers = [
        client.post(EVENTS, json=rows),
        client.post(EVENTS, content="\n".join(map(json.dumps, rows)), headers=LINES),
        client.post(
            EVENTS,
            content=stream(user=("str", users), amount=("float", amounts), paid_at=("time", moments)),
            headers=ARROW,
        ),
    ]
    for answer in answers:
        assert answer.status_code == 200
        pushed = answer.json()
        assert set(pushed) == {"accepted", "quarantined", "partition", "position", "problems", "absent"}
        assert (pushed["accepted"], pushed["quarantined"]) == (2, 1)
        assert (pushed["problems"][0]["row"], pushed["problems"][0]["field"]) == (1, "amount")
    assert [a.json()["problems"][0]["reason"] for a in answers] == ["too_large", "too_large", "infinite"]


def test_an_event_of_a_table_is_seen_by_the_next_answer(client: httpx.Client) -> None:
    body = stream(
        user=("str", ["zoe"] * 3), amount=("int", [1, 2, 3]), paid_at=("int", [now_us() - n for n in range(3)])
    )
    assert client.post(f"{EVENTS}?wait=applied", content=body, headers=ARROW).json()["accepted"] == 3
    asked = {"id": "c", "user": "zoe", "basket": 1.0, "kind": "web", "at": "2023-11-14T22:13:20Z"}
    answer = client.post("/v1/models/late/predict", json={"request": asked}).json()
    assert client.get(f"/v1/predictions/{answer['id']}").json()["values"][:2] == [3, 6.0]


@pytest.mark.parametrize(
    ("columns", "field", "says"),
    [
        ({"user": ("str", ["ann"]), "amount": ("float", [1.0])}, "paid_at", "needs column 'paid_at'"),
        ({"user": ("int", [1]), "paid_at": ("time", [0])}, "user", "user is wrong_type (found 1)"),
        ({"who": ("str", ["ann"]), "paid_at": ("time", [0])}, "who", "has an unknown column 'who'"),
        ({"user": ("str", ["ann"]), "paid_at": ("time", [2**62])}, "paid_at", "bad_time"),
    ],
)
def test_the_column_of_a_table_that_is_wrong_is_named(
    client: httpx.Client, columns: dict[str, Any], field: str, says: str
) -> None:
    problem = refused(client.post(EVENTS, content=stream(**columns), headers=ARROW), 422)
    assert problem["field"] == field
    assert says in problem["detail"]


def test_an_unknown_column_and_what_is_no_object_are_named_in_json_too(client: httpx.Client) -> None:
    assert refused(client.post(EVENTS, json=[{"who": "ann", "paid_at": 0}]), 422)["field"] == "who"
    problem = refused(client.post(EVENTS, json=[{"paid_at": 0}, [1]]), 422)
    assert (problem["field"], problem["pointer"]) == ("[1]", "$[1]")


def test_no_source_and_no_such_type_are_said(client: httpx.Client) -> None:
    body = stream(user=("str", ["ann"]), paid_at=("time", [0]))
    assert "payments" in refused(client.post("/v1/events/nothing", content=body, headers=ARROW), 404)["detail"]
    wrong = refused(client.post(EVENTS, content=body, headers={"content-type": "application/vnd.ms-excel"}), 415)
    assert "application/vnd.apache.arrow.stream" in wrong["detail"]
    assert "neither an Arrow IPC stream" in refused(client.post(EVENTS, content=b"[]", headers=ARROW), 400)["detail"]


def test_too_many_rows_are_refused_in_every_form(client: httpx.Client) -> None:
    rows = [{"user": "ann", "paid_at": now_us()}] * 101
    assert "101 events" in refused(client.post(EVENTS, json=rows), 413)["detail"]
    refused(client.post(EVENTS, content="\n".join(map(json.dumps, rows)), headers=LINES), 413)
    body = stream(user=("str", ["ann"] * 101), paid_at=("time", [now_us()] * 101))
    assert "100" in refused(client.post(EVENTS, content=body, headers=ARROW), 413)["detail"]


def test_a_small_body_cannot_stand_for_much(client: httpx.Client) -> None:
    packed = stream("lz4", user=("str", ["x" * 500_000] * 60), paid_at=("time", [0] * 60))
    assert "decoded, it would take" in refused(client.post(EVENTS, content=packed, headers=ARROW), 413)["detail"]
    packed = stream("lz4", user=("str", ["ann"] * 3), paid_at=("time", [now_us()] * 3))
    assert client.post(EVENTS, content=packed, headers=ARROW).json()["accepted"] == 3
    long = Path(__file__).with_name("long_word.arrows").read_bytes()  # one word of 5,000 letters, in 90 rows
    assert "450000 characters" in refused(client.post(EVENTS, content=long, headers=ARROW), 413)["detail"]


def test_a_table_needs_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    body = stream(user=("str", ["ann"]))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        Refused, match=r'pip install "trimtab\[arrow\]" where the service runs, or send JSON'
    ) as refusal:
        table_of_body(body, 10, "events")
    assert refusal.value.status == 415


def test_no_damage_makes_the_server_fail(client: httpx.Client) -> None:
    whole = stream(user=("str", ["ann", None, "a longer name than most"]), paid_at=("time", [now_us()] * 3))
    chance = random.Random(7)
    for _ in range(120):
        body = bytearray(whole)
        for _ in range(chance.choice([1, 2])):
            body[chance.randrange(len(body))] = chance.choice([0, 1, 128, 255])
        assert client.post(EVENTS, content=bytes(body), headers=ARROW).status_code in (200, 400, 413, 422)
    assert client.post(EVENTS, content=whole, headers=ARROW).json()["accepted"] == 3
