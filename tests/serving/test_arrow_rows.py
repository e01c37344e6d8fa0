"""Rows that come as an Arrow stream are answered as they are from JSON."""

from __future__ import annotations

import asyncio
import io
import json
import random
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest
from arro3.io import read_ipc_stream, write_ipc_stream

from trimtab.core.columns.data import Columns
from trimtab.serving.http.requests.limits import Limits
from trimtab.serving.http.service import HttpService
from trimtab.serving.inference.rest import mount_inference

ARROW = "application/vnd.apache.arrow.stream"
AT_US = 1_700_000_000_000_000
ROWS = [{"id": f"c{n}", "user": "ann", "basket": 1.5 * n, "kind": "web", "at": AT_US} for n in range(5)]


@pytest.fixture(scope="module")
def running(start_server: Any, tmp_path_factory: Any) -> Iterator[Any]:
    server = start_server(tmp_path_factory.mktemp("arrow"))
    yield server
    assert server.stop() == (0, "")


def stream(columns: dict[str, tuple[str, list[Any]]]) -> bytes:
    out = io.BytesIO()
    write_ipc_stream(Columns.of(columns), out, compression=None)  # type: ignore[arg-type]  # dtypes are literals
    return out.getvalue()


def table(rows: list[dict[str, Any]], **more: tuple[str, list[Any]]) -> bytes:
    kinds = {"id": "str", "user": "str", "basket": "float", "kind": "str", "at": "time"}
    return stream({name: (kind, [row[name] for row in rows]) for name, kind in kinds.items()} | more)


def ask(port: int, body: bytes, kind: str = ARROW, **headers: str) -> tuple[int, str, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/models/late/predict", body, {"content-type": kind, **headers})
    response = connection.getresponse()
    found = response.status, response.getheader("content-type") or "", response.read()
    connection.close()
    return found


def test_arrow_and_json_have_the_same_answers(running: Any) -> None:
    as_json = json.loads(ask(running.port, json.dumps({"rows": ROWS}).encode(), "application/json")[2])["predictions"]
    status, kind, body = ask(running.port, table(ROWS))
    assert (status, kind) == (200, "application/json")
    plain = [{**one, "id": 0, "at_us": 0} for one in json.loads(body)["predictions"]]
    assert plain == [{**one, "id": 0, "at_us": 0} for one in as_json]
    status, kind, body = ask(running.port, table(ROWS), accept=f"{ARROW}, application/json")
    assert (status, kind) == (200, ARROW)
    found = read_ipc_stream(io.BytesIO(body)).read_all()
    columns = {name: found.column(name).to_pylist() for name in found.column_names}
    assert columns["score"] == [one["score"] for one in as_json]
    assert columns["request_id"] == [row["id"] for row in ROWS]
    assert [json.loads(one) for one in columns["reasons"]] == [one["reasons"] for one in as_json]
    assert len(set(columns["id"])) == len(ROWS)


def test_wrong_streams_are_refused_with_the_field(running: Any) -> None:
    whole = table(ROWS)
    without = stream({"id": ("str", ["a"]), "user": ("str", ["b"]), "basket": ("float", [1.0])})
    for body, status, said in (
        (b"", 400, "Arrow"),
        (b"{}", 400, "Arrow"),
        (whole[:-200], 400, "Arrow"),
        (without, 422, "kind"),
        (table(ROWS, more=("float", [1.0] * 5)), 422, "more"),
        (table([{**ROWS[0], "id": None}]), 422, "id"),
        (table(ROWS * 30), 413, "100"),
    ):
        found, kind, answer = ask(running.port, body)
        assert (found, kind) == (status, "application/problem+json"), answer
        assert said in answer.decode()
    assert ask(running.port, table([]))[::2] == (200, b'{"predictions":[]}')


def test_a_limit_of_few_rows_holds_by_every_way_in(shop: Any) -> None:
    service = HttpService([shop.endpoint], shop.log, limits=Limits(rows=3))
    mount_inference(service)

    async def ask_all(count: int) -> list[tuple[int, str]]:
        rows = [shop.ask(id=f"c{n}") for n in range(count)]
        tensors = [
            {"name": name, "datatype": datatype, "shape": [count], "data": [row[name] for row in rows]}
            for name, datatype in (("id", "BYTES"), ("user", "BYTES"), ("basket", "FP64"), ("at", "INT64"))
        ]
        predict, infer = "/v1/models/late/predict", "/v2/models/late/infer"
        async with httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://127.0.0.1") as client:
            answers = [
                await client.post(predict, json={"rows": rows}),
                await client.post(predict, json={"rows": rows, "at": shop.clock.now_us()}),
                await client.post(predict, json={"rows": [{**row, "kind": "x" * 30_000} for row in rows]}),
                await client.post(predict, content=table(rows), headers={"content-type": ARROW}),
                await client.post(infer, json={"inputs": tensors}),
            ]
        return [(one.status_code, one.text) for one in answers]

    assert [status for status, _ in asyncio.run(ask_all(3))] == [200] * 5
    for status, said in asyncio.run(ask_all(4)):
        assert (status, "the limit is 3. Send them in parts." in said) == (413, True), said
    service.close()


def test_no_damaged_stream_is_a_fault_of_the_server(running: Any) -> None:
    chance, whole = random.Random(5), table(ROWS)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        assert ask(running.port, bytes(damaged), accept=ARROW)[0] in (200, 400, 413, 422)
