"""The Open Inference Protocol over HTTP: what is there, what tensors mean, and what is refused."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from trimtab.core.errors import Misuse
from trimtab.core.time import HOUR_US
from trimtab.features.definitions import request
from trimtab.serving.answer.precomputed import Precomputed
from trimtab.serving.answer.request_rows import RequestRows
from trimtab.serving.answer.served import shown
from trimtab.serving.arms.endpoint import Endpoint
from trimtab.serving.http.requests.limits import Limits
from trimtab.serving.http.service import HttpService
from trimtab.serving.inference import inferring, rest
from trimtab.serving.inference.binary import BINARY_SIZE
from trimtab.serving.inference.request_columns import check_names, rows_of
from trimtab.serving.inference.rest import mount_inference
from trimtab.serving.inference.tensors import InputTensor, OutputTensor

Shop = Any  # from conftest
INFER = "/v2/models/late/infer"
LENGTH = "inference-header-content-length"


def talk(shop: Shop, say: Callable[[httpx.AsyncClient], Awaitable[None]], **limits: int) -> None:
    service = HttpService([shop.endpoint, *getattr(shop, "more", [])], shop.log, limits=Limits(**limits))
    mount_inference(service)

    async def main() -> None:
        transport = httpx.ASGITransport(app=service)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            await say(client)

    asyncio.run(main())
    service.close()


def tensor(name: str, datatype: str, *values: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(values)], "data": list(values), **more}


def asked(shop: Shop, *, users: tuple[Any, ...] = ("ann",), basket: Any = 12.5) -> list[dict[str, Any]]:
    n = len(users)
    return [
        tensor("id", "BYTES", *(f"c{i}" for i in range(n))),
        tensor("user", "BYTES", *users),
        tensor("basket", "FP64", *[basket] * n),
        tensor("kind", "BYTES", *["web"] * n),
        tensor("at", "INT64", *[shop.clock.now_us()] * n),
    ]


def binary(inputs: list[dict[str, Any]], **more: Any) -> tuple[bytes, dict[str, str]]:
    """The same in the binary form, as clients send it."""
    behind, heads = [], []
    for one in inputs:
        raw = OutputTensor(one["name"], one["datatype"], (), one["data"]).raw()
        behind.append(raw)
        head = {key: value for key, value in one.items() if key != "data"}
        heads.append({**head, "parameters": {BINARY_SIZE: len(raw)}})
    text = json.dumps({"inputs": heads, **more}).encode()
    return text + b"".join(behind), {LENGTH: str(len(text))}


def outputs(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {one["name"]: one["data"] for one in answer.json()["outputs"]}


def refused(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    return str(answer.json()["error"])


@pytest.mark.fast
def test_server_and_models_describe_themselves(shop: Shop) -> None:
    shop.more = [Endpoint("unready")]

    async def say(client: httpx.AsyncClient) -> None:
        async def get(path: str) -> Any:
            response = await client.get(path)
            assert response.status_code == 200, response.text
            return response.json()

        assert (await get("/v2"))["name"] == "trimtab"
        assert "binary_tensor_data" in (await get("/v2/"))["extensions"]
        assert await get("/v2/health/live") == {"live": True}
        assert await get("/v2/models/late/versions/1/ready") == {"name": "late", "ready": True}
        described = await get("/v2/models/late")
        assert described == await get("/v2/models/late/versions/1")
        assert (described["versions"], described["platform"]) == (["1"], "trimtab")
        assert [(t["name"], t["datatype"], t["shape"]) for t in described["inputs"]] == [
            ("id", "BYTES", [-1]), ("user", "BYTES", [-1]), ("basket", "FP64", [-1]), ("kind", "BYTES", [-1]),
            ("at", "BYTES", [-1]),
        ]  # fmt: skip
        assert [t["name"] for t in described["outputs"]] == ["score", "id", "version", "reasons", "flags"]
        config = await get("/v2/models/late/config")
        assert [one["name"] for one in config["input"] if not one["optional"]] == ["id", "at"]
        assert config["parameters"]["version"] == {"string_value": "late@1"}
        index = (await client.post("/v2/repository/index")).json()
        assert [(one["name"], one["version"], one["state"]) for one in index] == [
            ("late", "1", "READY"),
            ("unready", "", "UNAVAILABLE"),
        ]
        ready = await client.post("/v2/repository/index", json={"ready": True})
        assert [one["name"] for one in ready.json()] == ["late"]
        assert "no version is in service" in refused(await client.get("/v2/health/ready"), 503)
        assert "no version is in service" in refused(await client.get("/v2/models/unready/ready"), 503)
        shop.more[0].fails_to_load = True
        index = (await client.post("/v2/repository/index")).json()
        assert "cannot be loaded here" in index[1]["reason"]
        assert "cannot be loaded here" in refused(await client.get("/v2/models/unready/ready"), 503)
        assert (await client.head("/v2/health/live")).status_code == 200

    talk(shop, say)


@pytest.mark.fast
def test_an_inference_has_the_bits_of_v1_and_of_the_process_and_is_logged(shop: Shop) -> None:
    shop.pay("ann", 30.0)
    users = ("ann", "bob", None)

    async def say(client: httpx.AsyncClient) -> None:
        inputs = asked(shop, users=users, basket=0.1 + 0.2)
        found = outputs(await client.post(INFER, json={"inputs": inputs}))
        rows = [
            {"id": f"c{i}", "user": user, "basket": 0.1 + 0.2, "kind": "web", "at": shop.clock.now_us()}
            for i, user in enumerate(users)
        ]
        one_by_one = [(await client.post(INFER, json={"inputs": [_row(t, i) for t in inputs]})) for i in range(3)]
        v1 = (await client.post("/v1/models/late/predict", json={"rows": rows})).json()["predictions"]
        in_process = shop.endpoint.answer(rows)
        assert found["score"] == [one["score"] for one in v1] == [one.score for one in in_process]
        assert found["score"] == [outputs(one)["score"][0] for one in one_by_one]
        told = [json.loads(text) if text else {} for text in found["reasons"]]
        assert told == [one["reasons"] for one in v1]
        assert (found["flags"], found["version"]) == ([""] * 3, ["late@1"] * 3)
        for number, prediction_id in enumerate(found["id"]):
            logged = (await client.get(f"/v1/predictions/{prediction_id}")).json()
            assert (logged["request_id"], logged["score"]) == (f"c{number}", found["score"][number])
        metrics = (await client.get("/metrics")).text
        assert 'trimtab_predictions_total{model="late",fate="logged"} 9' in metrics
        assert 'trimtab_requests_total{route="inference",model="late",status="200"} 4' in metrics
        figures = (await client.get("/v2/models/late/stats")).json()["model_stats"]
        assert [(one["version"], one["inference_count"], one["execution_count"]) for one in figures] == [("1", 6, 4)]
        assert (await client.get("/v2/models/stats")).json()["model_stats"] == figures
        assert [figures[0][name] for name in ("batch_stats", "response_stats", "memory_usage")] == [[], {}, []]
        stats = figures[0]["inference_stats"]
        assert stats["cache_hit"] == stats["cache_miss"] == stats["fail"] == {"count": 0, "ns": 0}

    talk(shop, say)


def _row(column: dict[str, Any], number: int) -> dict[str, Any]:
    return {**column, "shape": [1, 1], "data": [[column["data"][number]]]}


def test_many_rows_are_answered_in_a_thread(shop: Shop) -> None:
    async def say(client: httpx.AsyncClient) -> None:
        inputs = asked(shop, users=("ann",) * 20)
        packed = await client.post(INFER, json={"inputs": inputs}, headers={"accept-encoding": "gzip"})
        assert packed.headers["content-encoding"] == "gzip"
        assert len(set(outputs(packed)["id"])) == 20

    talk(shop, say, rows_inline=5)


def test_a_large_body_is_read_and_answered_in_a_thread(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are answered meanwhile: the event loop decodes nothing beyond 64 KiB, packed or not."""
    threads: dict[str, set[str]] = {"read": set(), "unpacked": set(), "written": set(), "rows": set()}

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            threads[name].add(threading.current_thread().name.partition("_")[0])
            return function(*arguments)

        return noted

    for name, function in (("read", "read_infer"), ("unpacked", "decompressed"), ("written", "write_inferred")):
        monkeypatch.setattr(rest, function, noting(name, getattr(rest, function)))
    monkeypatch.setattr(inferring, "rows_of", noting("rows", rows_of))

    async def say(client: httpx.AsyncClient) -> None:
        small = json.dumps({"inputs": asked(shop), "note": ""})  # a plain row would need no tensors
        large = json.dumps({"inputs": asked(shop), "note": "x" * (64 << 10)})
        for body, where in ((small, "MainThread"), (large, "trimtab-http")):
            for packed in (False, True):
                headers = {"content-type": "application/json"} | ({"content-encoding": "gzip"} if packed else {})
                content = gzip.compress(body.encode(), 0) if packed else body.encode()
                assert outputs(await client.post(INFER, content=content, headers=headers))["version"] == ["late@1"]
            assert threads == {"read": {where}, "unpacked": {where}, "written": {where}, "rows": {where}}
            for found in threads.values():
                found.clear()

    talk(shop, say, body_bytes=1 << 20)


def test_what_is_asked_for_comes_back_in_its_order_with_id_and_parameters(shop: Shop) -> None:
    async def say(client: httpx.AsyncClient) -> None:
        body = {
            "id": "question 7",
            "parameters": {"tag": "a", "n": 3, "binary_data_output": False},
            "inputs": asked(shop),
            "outputs": [{"name": "id"}, {"name": "score"}],
        }
        answer = (await client.post(f"{INFER[:-6]}/versions/1/infer", json=body)).json()
        assert (answer["model_name"], answer["model_version"], answer["id"]) == ("late", "1", "question 7")
        assert answer["parameters"] == {"tag": "a", "n": 3}
        assert [one["name"] for one in answer["outputs"]] == ["id", "score"]

    talk(shop, say)


def test_binary_tensors_go_both_ways(shop: Shop) -> None:
    async def say(client: httpx.AsyncClient) -> None:
        inputs = asked(shop, users=("ann", "bob"))
        plain = outputs(await client.post(INFER, json={"inputs": inputs}))
        body, headers = binary(
            inputs, outputs=[{"name": "score", "parameters": {"binary_data": True}}, {"name": "flags"}]
        )
        answer = await client.post(INFER, content=body, headers=headers)
        assert answer.headers["content-type"] == "application/octet-stream"
        length = int(answer.headers[LENGTH])
        head = json.loads(answer.content[:length])
        assert head["outputs"][0]["parameters"] == {BINARY_SIZE: 16}
        assert head["outputs"][1]["data"] == ["", ""]
        assert list(struct.unpack("<2d", answer.content[length:])) == plain["score"]
        for name, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
            packed = await client.post(INFER, content=pack(body), headers={**headers, "content-encoding": name})
            assert packed.content[int(packed.headers[LENGTH]) :] == answer.content[length:]
        body, headers = binary(inputs, parameters={"binary_data_output": True})
        everything = await client.post(INFER, content=body, headers=headers)
        head = json.loads(everything.content[: int(everything.headers[LENGTH])])
        assert all(BINARY_SIZE in one["parameters"] for one in head["outputs"])

    talk(shop, say)


@pytest.mark.fast
def test_datatypes_mean_what_they_say_in_json_as_in_binary() -> None:
    declared = request("r", key="id", time="at", columns={"id": int, "x": float, "n": int, "b": bool, "s": str})
    rows = RequestRows(declared)

    def read(parameters: Any = (), **columns: InputTensor) -> dict[str, Any]:
        tensors = [InputTensor("id", "INT8", [1], b"\x07"), InputTensor("at", "INT64", [1], bytes(8))]
        given = [InputTensor(name, t.datatype, [1], t.raw, t.data) for name, t in columns.items()]
        return rows_of(tensors + given, 1, rows, dict(parameters))[0]

    def sent(datatype: str, *, raw: bytes | None = None, data: list[Any] | None = None) -> InputTensor:
        return InputTensor("", datatype, [1], raw, data)

    assert read() == {"id": 7, "at": 0, "x": None, "n": None, "b": None, "s": None}
    near = float(np.float32(0.1))
    assert read(x=sent("FP32", data=[0.1]))["x"] == near == read(x=sent("FP32", raw=struct.pack("<f", 0.1)))["x"]
    assert read(x=sent("FP64", data=[0.1]))["x"] == 0.1
    assert read(x=sent("FP16", raw=struct.pack("<e", 1.5)))["x"] == 1.5
    assert read(x=sent("BF16", raw=b"\xc0\x3f"))["x"] == 1.5
    assert read(x=sent("BF16", raw=b"\xc0\x7f"))["x"] is None  # NaN
    assert read(n=sent("BF16", raw=b"\x40\xc0"))["n"] == -3
    assert read(x=sent("INT32", data=[3]))["x"] == 3.0
    assert read(x=sent("FP64", raw=struct.pack("<d", float("nan"))))["x"] is None
    assert read(n=sent("FP64", data=[5.0]))["n"] == 5
    assert read(n=sent("FP32", raw=struct.pack("<f", float("nan"))))["n"] is None
    assert read(n=sent("UINT8", raw=b"\xff"))["n"] == 255
    assert read(n=sent("INT64", data=[-(2**63)]))["n"] == -(2**63)
    assert read(b=sent("BOOL", raw=b"\x01"))["b"] is True
    assert read(s=sent("BYTES", data=[""]))["s"] == ""
    assert read({"empty_is_null": True}, s=sent("BYTES", raw=bytes(4)))["s"] is None
    assert read(s=sent("BYTES", data=[None]))["s"] is None
    for name, wrong, said in [
        ("n", sent("FP64", data=[1.5]), "Send whole numbers"),
        ("n", sent("FP64", data=[1e300]), "Needed: a 64-bit integer"),
        ("n", sent("UINT64", data=[2**63]), "Needed: a 64-bit integer"),
        ("n", sent("INT8", data=[128]), "is 128, which is not of type INT8"),
        ("n", sent("INT64", data=[True]), "is True, which is not of type INT64"),
        ("x", sent("FP32", data=[1e39]), "which is not of type FP32"),
        ("x", sent("FP64", data=["1"]), "is '1', which is not of type FP64"),
        ("x", sent("BOOL", raw=b"\x01"), "the column is declared float"),
        ("x", sent("FP64", raw=struct.pack("<d", float("inf"))), "a number within 1e150"),
        ("b", sent("BOOL", data=[1]), "is 1, which is not of type BOOL"),
        ("s", sent("BYTES", raw=b"\x01\x00\x00\x00\xff"), "element 0 is not UTF-8"),
        ("s", sent("BYTES", raw=b"\x02\x00\x00\x00a"), "should have 2 bytes, but 1 are left"),
        ("s", sent("BYTES", raw=b"\x01\x00"), "that give the size of element 0"),
        ("s", sent("BYTES", raw=bytes(8)), "4 bytes more, but its shape says 1"),
        ("x", sent("FP64", raw=bytes(7)), "7 bytes were sent, but 1 values of FP64"),
        ("x", sent("FP64"), "has no data"),
        ("x", sent("BF16", raw=bytes(4)), "4 bytes were sent, but 1 values of BF16"),
        ("x", sent("BF16", data=[1.5]), "BF16 can only be sent as raw bytes"),
        ("x", sent("FP64", data=[{"a": 1}]), "element 0 is a dict of 1, which is not of type FP64"),
        ("x", sent("FP64", data=[[1.0, 2.0]]), "row 0 is a list of 2. Give"),
        ("x", sent("FP64", data=[1.0] * 3), "3 elements, but its shape says 1"),
        ("s", sent("BYTES", data=[["a" * 50, ""]]), "row 0 is a list of 2. Give"),
        ("n", sent("INT64", data=["a" * 50]), r"is 'a{39}\.\.\., which is not of type INT64"),
    ]:
        with pytest.raises(ValueError, match=said):
            read(**{name: wrong})


def test_requests_that_cannot_be_understood_are_refused_by_name(shop: Shop) -> None:
    async def say(client: httpx.AsyncClient) -> None:
        async def no(status: int, path: str = INFER, headers: dict[str, str] | None = None, **body: Any) -> str:
            content = json.dumps(body).encode()
            return refused(await client.post(path, content=content, headers=headers or {}), status)

        inputs = asked(shop)
        assert "Models served here: late" in await no(404, "/v2/models/x/infer", inputs=inputs)
        assert "version '2' is not in service; '1' is" in await no(
            404, "/v2/models/late/versions/2/infer", inputs=inputs
        )
        assert "'log_basket' is a feature" in await no(400, inputs=[*inputs, tensor("log_basket", "FP64", 1.0)])
        assert "'nobody' is not a column" in await no(400, inputs=[*inputs, tensor("nobody", "FP64", 1.0)])
        assert "'at': is missing" in await no(400, inputs=inputs[:-1])
        assert "'basket': sent twice" in await no(400, inputs=[*inputs, inputs[2]])
        assert "'id' has 1 rows, 'kind' 2" in await no(400, inputs=[*inputs[:3], tensor("kind", "BYTES", "a", "b")])
        assert "shape [-1]" in await no(400, inputs=[{**inputs[0], "shape": [-1]}])
        assert "shape [1, 2]" in await no(400, inputs=[{**inputs[0], "shape": [1, 2]}])
        assert "the limit is 10000" in await no(413, inputs=[{**inputs[0], "shape": [10**18]}])
        assert "inputs: there are none" in await no(400, inputs=[])
        assert "'soon'" in await no(422, inputs=[*inputs[:-1], tensor("at", "BYTES", "soon")])
        assert "element 0" in await no(422, inputs=[tensor("id", "BYTES", ""), *inputs[1:]])
        assert "output 'probs'" in await no(400, inputs=inputs, outputs=[{"name": "probs"}])
        assert "sequence_id" in await no(400, inputs=inputs, parameters={"sequence_id": 7})
        assert "parameter 'x' is a list" in await no(400, inputs=inputs, parameters={"x": [1]})
        assert "shared memory" in await no(
            400, inputs=[{**inputs[0], "parameters": {"shared_memory_region": "r"}}, *inputs[1:]]
        )
        assert "classes are not ranked" in await no(
            400, inputs=inputs, outputs=[{"name": "score", "parameters": {"classification": 2}}]
        )
        assert "$.inputs" in await no(422, input=[])
        assert "Expected" in await no(422, inputs=3)
        assert "is not a number of bytes" in await no(400, headers={LENGTH: "x"}, inputs=inputs)
        assert "9999, but the body has" in await no(400, headers={LENGTH: "9999"}, inputs=inputs)
        assert "bytes are left after" in await no(
            400, inputs=[{**inputs[0], "parameters": {BINARY_SIZE: 9}}, *inputs[1:]]
        )
        assert "send gzip" in await no(415, headers={"content-encoding": "br"}, inputs=inputs)
        assert "not gzip" in await no(400, headers={"content-encoding": "gzip"}, inputs=inputs)
        assert "lies in the future" in await no(400, inputs=inputs, parameters={"at": "2099-01-01"})
        for at, said in (("soon", "is not ISO 8601"), (1_600_000_000, "looks like seconds"), (1.6e9, "is a float")):
            error = await no(400, inputs=inputs, parameters={"at": at})
            assert error.startswith("parameter 'at': ")
            assert said in error
        body, headers = binary(inputs)
        assert "1 bytes are left" in refused(await client.post(INFER, content=body + b"x", headers=headers), 400)
        assert "are left after" in refused(await client.post(INFER, content=body[:-1], headers=headers), 400)
        bomb = gzip.compress(bytes(50_000_000))
        big = refused(await client.post(INFER, content=bomb, headers={"content-encoding": "gzip"}), 413)
        assert "decompressed" in big
        packed = gzip.compress(bytes(60))
        for wrong in (packed + b"xx", packed[:20]):
            answer = await client.post(INFER, content=wrong, headers={"content-encoding": "gzip"})
            assert "are incomplete, or more data follow after their end" in refused(answer, 400)
        assert "Use POST" in refused(await client.get(INFER), 405)
        assert "Use GET" in refused(await client.post("/v2/models/late"), 405)
        assert "nothing is here" in refused(await client.get("/v2/trace/setting"), 404)
        assert "trimtab promote" in refused(await client.post("/v2/repository/models/late/load"), 400)
        assert shop.log.read()[0] == []

    talk(shop, say)


def test_of_too_many_inputs_no_more_are_looked_at_than_there_are_columns(shop: Shop) -> None:
    """A name that came twice was looked for by comparing all with all, in the event loop."""
    looked_at: list[str] = []

    class Noted(list[InputTensor]):
        def __iter__(self) -> Iterator[InputTensor]:
            for one in super().__iter__():
                looked_at.append(one.name)
                yield one

    rows = RequestRows(shop.checkout)
    names = [*shop.checkout.columns]
    for many, last in (
        ([*(f"x{n}" for n in range(50_000)), "x0"], 0),
        ([*names, *names * 10_000], len(names)),
        ([*names, *(f"x{n}" for n in range(50_000))], len(names)),
    ):
        looked_at.clear()
        with pytest.raises(Misuse, match=r"not a column|sent twice"):
            check_names(Noted(InputTensor(name, "FP64", [1], bytes(8)) for name in many), rows, ())
        assert looked_at == many[: last + 1]

    async def say(client: httpx.AsyncClient) -> None:
        many = [{"name": f"x{n % 5_000}", "datatype": "FP64", "shape": [n]} for n in range(5_001)]
        assert "'x0' is not a column" in refused(await client.post(INFER, json={"inputs": many}), 400)

    talk(shop, say)


def test_data_nested_to_any_depth_is_refused(shop: Shop) -> None:
    async def say(client: httpx.AsyncClient) -> None:
        for depth in (*range(3, 60, 8), *range(60, 1_500, 45), 20_000):
            for left, right in (("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")):
                for name, datatype in (("basket", "FP64"), ("kind", "BYTES")):
                    whole = json.dumps(
                        {"inputs": [{**one, "data": 0} if one["name"] == name else one for one in asked(shop)]}
                    )
                    nested = f"[{left * depth}1{right * depth}]"
                    answer = await client.post(INFER, content=whole.replace('"data": 0', f'"data": {nested}'))
                    assert answer.status_code == 400, (depth, left, datatype, answer.text)
                    assert len(refused(answer, 400)) < 300

    talk(shop, say)


def test_refusals_are_counted_by_model_and_unknown_names_make_no_series(shop: Shop) -> None:
    async def say(client: httpx.AsyncClient) -> None:
        for model in ("late", "nobody"):
            assert (await client.post(f"/v2/models/{model}/infer", content=b"[")).status_code in (400, 404)
        text = (await client.get("/metrics")).text
        assert 'trimtab_requests_total{route="inference",model="late",status="400"} 1' in text
        assert 'route="inference",model="",status="' in text
        assert "nobody" not in text

    talk(shop, say)


def test_a_request_may_ask_about_the_past(shop: Shop) -> None:
    before = shop.clock.now_us()
    shop.pay("ann", 30.0)
    shop.wait(60.0)

    async def say(client: httpx.AsyncClient) -> None:
        now = outputs(await client.post(INFER, json={"inputs": asked(shop)}))
        then = outputs(await client.post(INFER, json={"inputs": asked(shop), "parameters": {"at": before}}))
        assert (now["flags"], then["flags"]) == ([""], ["past"])
        assert now["score"] != then["score"]

    talk(shop, say)


def test_a_model_of_several_classes_gives_all_scores_and_the_likeliest(shop: Shop) -> None:
    class Three:
        def predict_row(self, row: list[float], /) -> list[float]:
            return [0.2, 0.5, 0.3]

        def predict(self, matrix: Any, /) -> Any:
            return np.array([self.predict_row(row) for row in matrix.tolist()])

    answerer = shop.answerer(number=2, scorer=Three())
    answerer.served = msgspec.structs.replace(answerer.served, classes=("a", "b", "c"))
    answerer._classes = answerer.served.classes
    shop.endpoint.swap(answerer)

    async def say(client: httpx.AsyncClient) -> None:
        described = (await client.get("/v2/models/late")).json()
        assert [(t["name"], t["shape"]) for t in described["outputs"]][:2] == [("score", [-1, 3]), ("prediction", [-1])]
        config = (await client.get("/v2/models/late/config")).json()
        assert json.loads(config["parameters"]["classes"]["string_value"]) == ["a", "b", "c"]
        answer = await client.post(INFER, json={"inputs": asked(shop, users=("ann", "bob"))})
        score = answer.json()["outputs"][0]
        assert (score["shape"], score["data"]) == ([2, 3], [0.2, 0.5, 0.3] * 2)
        assert outputs(answer)["prediction"] == ["b", "b"]

    talk(shop, say)


def test_stored_answers_are_given_as_tensors(shop: Shop) -> None:
    precomputed = shop.endpoint.precomputed = Precomputed(shop.kv, "late", max_age_us=HOUR_US)
    answerer = shop.endpoint.current
    rows = answerer.rows.check([shop.ask(id="c0")])
    (made,) = answerer.predict(rows)
    precomputed.put(
        [(rows[0], "c0", made.version, msgspec.structs.replace(shown(made, answerer.served), mode="precomputed"))]
    )

    async def say(client: httpx.AsyncClient) -> None:
        found = outputs(await client.post(INFER, json={"inputs": asked(shop, users=("ann", "bob"))}))
        assert found["flags"] == ["", "precomputed_missing"]
        assert (found["id"][0], found["score"][0]) == (made.id, made.score)
        assert json.loads(found["reasons"][0])["spent.total"]

    talk(shop, say)


def test_an_answer_that_nobody_waits_for_any_more_is_not_made(shop: Shop) -> None:
    async def say(client: httpx.AsyncClient) -> None:
        body = {"inputs": asked(shop)}
        late = await client.post(INFER, json={**body, "parameters": {"timeout": 1}})
        assert "time" in refused(late, 504)
        refused(await client.post(INFER, json=body, headers={"x-timeout-ms": "0.001"}), 504)
        assert "microseconds" in refused(await client.post(INFER, json={**body, "parameters": {"timeout": -1}}), 400)
        for long_us in (60_000_000, 10**15, 2**64 - 1):
            assert outputs(await client.post(INFER, json={**body, "parameters": {"timeout": long_us}}))["score"]

    talk(shop, say)


def test_a_model_that_sleeps_is_listed_asleep_and_woken_by_a_request(shop: Shop) -> None:
    answerer = shop.endpoint.current
    shop.endpoint.unload(lambda: shop.endpoint.swap(answerer))

    async def say(client: httpx.AsyncClient) -> None:
        index = (await client.post("/v2/repository/index")).json()
        assert [(one["version"], one["state"]) for one in index] == [("", "READY")]
        assert (await client.get("/v2/models/stats")).json() == {"model_stats": []}
        assert shop.endpoint.unloaded
        assert outputs(await client.post(INFER, json={"inputs": asked(shop)}))["version"] == ["late@1"]
        assert not shop.endpoint.unloaded

    talk(shop, say)


class Call:
    """What gRPC knows of a call, whose time runs out when a test says so."""

    left_s = 60.0

    def time_remaining(self) -> float:
        return self.left_s

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def abort(self, code: Any, text: str) -> None:
        raise AssertionError(f"{code}: {text}")


@pytest.mark.parametrize("streamed", [False, True])
def test_the_time_of_a_grpc_call_counts_from_its_arrival_once(shop: Shop, streamed: bool) -> None:
    """What was left of it was read after the message, and counted from when that had come: the wait between, twice."""
    pytest.importorskip("grpc", reason="grpcio is not installed")
    from trimtab.serving.inference.grpc_server import GrpcListener, GrpcServer
    from trimtab.serving.inference.messages import build_messages

    messages, over = build_messages(), threading.Event()
    request = build_request(shop, "k" * 70_000)

    async def sent() -> AsyncIterator[bytes]:
        yield request.SerializeToString()

    async def answered(server: GrpcServer, call: Call) -> bytes:
        if streamed:
            return await anext(aiter(server._model_stream_infer(sent(), call)))
        return await server._unary("ModelInfer", "predict", server._not_loaded)(request.SerializeToString(), call)

    async def main() -> None:
        server, call = GrpcServer(mount_inference(service), service.count, GrpcListener()), Call()
        busy = [asyncio.create_task(service.parts.threads.work(over.wait)) for _ in range(8)]
        asked = asyncio.create_task(answered(server, call))
        while service.parts.threads.under_way < 9:
            await asyncio.sleep(0.001)
        call.left_s = -1.0  # as if it had waited for that long; the test does not
        over.set()
        response = await asked
        await asyncio.gather(*busy)
        if streamed:
            told = messages["ModelStreamInferResponse"].FromString(response)
            assert told.error_message == ""
            assert next(one.name for one in told.infer_response.outputs) == "score"
        else:
            assert next(one.name for one in messages["ModelInferResponse"].FromString(response).outputs) == "score"

    service = HttpService([shop.endpoint], shop.log)
    try:
        asyncio.run(asyncio.wait_for(main(), 60))
    finally:
        over.set()
        service.close()


def test_an_error_in_a_stream_has_the_id_of_its_request(shop: Shop) -> None:
    pytest.importorskip("grpc", reason="grpcio is not installed")
    from trimtab.serving.inference.grpc_server import GrpcListener, GrpcServer
    from trimtab.serving.inference.messages import build_messages

    messages = build_messages()
    good, bad, nameless = (build_request(shop) for _ in range(3))
    good.id, bad.id, bad.model_name, nameless.model_name = "first", "second", "nobody", "nobody"

    async def sent() -> AsyncIterator[bytes]:
        for one in (good, bad, nameless):
            yield one.SerializeToString()
        yield b"no message"

    async def main() -> None:
        server = GrpcServer(mount_inference(service), service.count, GrpcListener())
        stream = server._model_stream_infer(sent(), Call())
        told = [messages["ModelStreamInferResponse"].FromString(one) async for one in stream]
        assert [one.infer_response.id for one in told] == ["first", "second", "", ""]
        assert [bool(one.error_message) for one in told] == [False, True, True, True]
        assert len(told[1].infer_response.outputs) == 0

    service = HttpService([shop.endpoint], shop.log)
    try:
        asyncio.run(asyncio.wait_for(main(), 60))
    finally:
        service.close()


def test_an_empty_batch_is_answered_alike_as_json_and_as_typed_tensors(shop: Shop) -> None:
    pytest.importorskip("grpc", reason="grpcio is not installed")
    from trimtab.serving.inference.grpc_server import GrpcListener, GrpcServer
    from trimtab.serving.inference.messages import build_messages

    request = build_messages()["ModelInferRequest"](model_name="late")
    for one in asked(shop):
        request.inputs.add(name=one["name"], datatype=one["datatype"], shape=[0])

    async def main() -> None:
        server = GrpcServer(mount_inference(service), service.count, GrpcListener())
        sent = request.SerializeToString()
        response = await server._unary("ModelInfer", "predict", server._not_loaded)(sent, Call())
        told = build_messages()["ModelInferResponse"].FromString(response)
        assert {tuple(one.shape) for one in told.outputs} == {(0,)}
        assert set(told.raw_output_contents) == {b""}

    async def say(client: httpx.AsyncClient) -> None:
        empty = [{**one, "shape": [0], "data": []} for one in asked(shop)]
        assert set(map(tuple, outputs(await client.post(INFER, json={"inputs": empty})).values())) == {()}

    talk(shop, say)
    service = HttpService([shop.endpoint], shop.log)
    try:
        asyncio.run(asyncio.wait_for(main(), 60))
    finally:
        service.close()


def test_a_model_that_raises_is_said_to_have_failed_over_grpc(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("grpc", reason="grpcio is not installed")
    from trimtab.serving.inference.grpc_server import GrpcListener, GrpcServer

    def fail(row: list[float]) -> float:
        raise ValueError("a secret of the model's")

    monkeypatch.setattr(shop.scorer, "predict_row", fail)
    shop.endpoint.swap(shop.answerer())
    request = build_request(shop)

    async def main() -> None:
        server = GrpcServer(mount_inference(service), service.count, GrpcListener())
        await server._unary("ModelInfer", "predict", server._not_loaded)(request.SerializeToString(), Call())

    service = HttpService([shop.endpoint], shop.log)
    try:
        with pytest.raises(AssertionError, match=r"INTERNAL: late@1: the model raised ValueError; the server's log"):
            asyncio.run(asyncio.wait_for(main(), 60))
    finally:
        service.close()
    assert "late@1: the model raised ValueError: a secret of the model's" in caplog.text


def build_request(shop: Shop, kind: str = "web") -> Any:
    """One row for `ModelInfer`."""
    from trimtab.serving.inference.messages import build_messages

    request = build_messages()["ModelInferRequest"](model_name="late")
    for name, text in (("id", "c1"), ("user", "ann"), ("kind", kind)):
        request.inputs.add(name=name, datatype="BYTES", shape=[1]).contents.bytes_contents.append(text.encode())
    request.inputs.add(name="basket", datatype="FP64", shape=[1]).contents.fp64_contents.append(12.5)
    request.inputs.add(name="at", datatype="INT64", shape=[1]).contents.int64_contents.append(shop.clock.now_us())
    return request


ODD = [
    ("basket", "FP64", 12), ("basket", "FP64", None), ("basket", "FP64", 1e160), ("basket", "FP64", 10**400),
    ("basket", "FP64", "12"), ("basket", "FP64", True), ("basket", "FP32", 0.1), ("basket", "INT64", 3),
    ("basket", "INT64", 3.5), ("basket", "INT64", 2**63), ("basket", "BYTES", "12"), ("basket", "BOOL", True),
    ("user", "BYTES", None), ("user", "BYTES", "Zoë"), ("user", "BYTES", ""), ("user", "INT64", 1),
    ("id", "BYTES", None), ("id", "BYTES", ""), ("at", "BYTES", "2024-05-01T10:00:00Z"),
    ("at", "INT64", 1_700_000_000), ("at", "INT64", 1.5), ("at", "FP64", 1.7e15), ("at", "BYTES", "soon"),
    ("nobody", "FP64", 1.0), ("basket", "FP65", 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "datatype", "value"), ODD)
def test_a_plain_row_is_read_as_the_general_form_reads_it(shop: Shop, name: str, datatype: str, value: Any) -> None:
    """A field that the protocol does not know, `note`, keeps a request from being read as a plain row."""
    shop.pay("ann", 30.0)

    async def say(client: httpx.AsyncClient) -> None:
        given = {one["name"]: one for one in asked(shop)} | {name: tensor(name, datatype, value)}
        found = []
        for more in ({}, {"note": ""}):
            body = json.dumps({"inputs": [*given.values()], "id": "q", **more})
            answer = await client.post(INFER, content=body)
            told = answer.json()
            for one in told.get("outputs", ()):
                if one["name"] == "id":
                    one["data"] = ["p"] * len(one["data"])
            found.append((answer.status_code, told))
        assert found[0] == found[1]

    talk(shop, say)


def test_a_plain_row_is_refused_for_its_tensors_as_a_whole(shop: Shop) -> None:
    async def say(client: httpx.AsyncClient) -> None:
        inputs = asked(shop)
        assert "sent twice" in refused(await client.post(INFER, json={"inputs": [*inputs, inputs[2]]}), 400)
        assert "'at': is missing" in refused(await client.post(INFER, json={"inputs": inputs[:-1]}), 400)
        without = outputs(await client.post(INFER, json={"inputs": [one for one in inputs if one["name"] != "kind"]}))
        null = [*inputs[:3], tensor("kind", "BYTES", None), inputs[4]]
        assert outputs(await client.post(INFER, json={"inputs": null}))["score"] == without["score"]
        wide = [{**inputs[0], "shape": [1, 2]}, *inputs[1:]]
        assert "shape [1, 2]" in refused(await client.post(INFER, json={"inputs": wide}), 400)
        other = await client.post(f"{INFER[:-6]}/versions/2/infer", json={"inputs": inputs})
        assert "version '2' is not in service" in refused(other, 404)
        unknown = await client.post(INFER, json={"inputs": inputs, "outputs": [{"name": "nothing"}]})
        assert "output 'nothing': unknown" in refused(unknown, 400)

    talk(shop, say)
