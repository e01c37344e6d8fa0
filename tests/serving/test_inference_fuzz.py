"""No body under `/v2` makes the server fail: tensors of wrong sizes, shapes, types and bytes, and JSON of any form."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimtab.serving.http.requests.limits import Limits
from trimtab.serving.http.service import HttpService
from trimtab.serving.inference.rest import mount_inference
from trimtab.serving.inference.tensors import DATATYPES, InputTensor, OutputTensor, elements

LENGTH = "inference-header-content-length"
NAMES = ["id", "user", "basket", "kind", "at", "log_basket", "", "no such"]
GOOD = {
    "id": ("BYTES", b"\x02\x00\x00\x00c1"),
    "user": ("BYTES", b"\x03\x00\x00\x00ann"),
    "basket": ("FP64", struct.pack("<d", 12.5)),
    "kind": ("BYTES", b"\x03\x00\x00\x00web"),
    "at": ("INT64", struct.pack("<q", 1_700_000_000_000_000)),
}


class Asker:
    """The shop's service, asked in this thread."""

    def __init__(self, shop: Any) -> None:
        self.shop = shop
        self.service = HttpService([shop.endpoint], shop.log, limits=Limits(rows=50, body_bytes=20_000))
        mount_inference(self.service)
        self.loop = asyncio.new_event_loop()

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        async def main() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.service)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.post(path, content=body, headers=headers)

        return self.loop.run_until_complete(main())

    def close(self) -> None:
        self.service.close()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


@pytest.fixture
def asker(shop: Any) -> Iterator[Asker]:
    made = Asker(shop)
    yield made
    made.close()


dimensions = st.one_of(st.integers(-2, 4), st.sampled_from([2**31, 2**62, -(2**63), 10**30]))
shapes = st.lists(dimensions, max_size=4)
sizes = st.one_of(st.integers(-3, 60), st.sampled_from([2**31, 2**63, 10**30]))
datatypes = st.sampled_from([*DATATYPES, "BF32", "", "fp64", "FP6\x00"])
raw = st.one_of(
    st.binary(max_size=40),
    st.lists(st.text(max_size=5)).map(lambda values: OutputTensor("", "BYTES", (), values).raw()),
    st.just(b"\xff\xff\xff\xff"),
    st.just(b"\x01\x00\x00\x00\xff"),
)


@st.composite
def infer_bodies(draw: st.DrawFn) -> tuple[bytes, int]:
    """A request in binary with some of its parts replaced, and a length of its JSON that may be wrong."""
    tensors, behind = [], b""
    for name, (datatype, content) in GOOD.items():
        wrong = draw(st.sets(st.sampled_from(["name", "datatype", "shape", "content", "size", "left out"]), max_size=1))
        if "left out" in wrong:
            continue
        content = draw(raw) if "content" in wrong else content
        tensors.append(
            {
                "name": draw(st.sampled_from(NAMES)) if "name" in wrong else name,
                "datatype": draw(datatypes) if "datatype" in wrong else datatype,
                "shape": draw(shapes) if "shape" in wrong else [1],
                "parameters": {"binary_data_size": draw(sizes) if "size" in wrong else len(content)},
            }
        )
        behind += content
    head = json.dumps({"inputs": tensors}).encode()
    length = draw(st.one_of(st.just(len(head)), st.integers(0, 2 * len(head)), st.just(10**14)))
    cut = draw(st.one_of(st.just(0), st.integers(0, 8)))
    whole = head + behind
    return whole[: len(whole) - cut], length


@pytest.mark.slow
@given(one=infer_bodies())
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_binary_requests_are_answered_or_refused(asker: Asker, one: tuple[bytes, int]) -> None:
    body, length = one
    answer = asker.post("/v2/models/late/infer", body, {LENGTH: str(length)})
    assert answer.status_code in (200, 400, 413, 422), answer.text
    if answer.status_code != 200:
        assert list(answer.json()) == ["error"]


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=8,
)
json_tensors = st.fixed_dictionaries(
    {"name": st.sampled_from(NAMES), "datatype": datatypes, "shape": st.one_of(shapes, json_values)},
    optional={"data": json_values, "parameters": json_values},
)
json_bodies = st.one_of(
    st.fixed_dictionaries(
        {"inputs": st.lists(json_tensors, max_size=3)},
        optional={"id": json_values, "parameters": json_values, "outputs": json_values},
    ),
    json_values,
).map(lambda value: json.dumps(value).encode())


@given(
    body=st.one_of(json_bodies, st.binary(max_size=60)),
    path=st.sampled_from(["/v2/models/late/infer", "/v2/repository/index", "/v2/models/late/versions/%00/infer"]),
    headers=st.dictionaries(
        st.sampled_from([LENGTH, "content-encoding", "accept-encoding", "x-timeout-ms"]),
        st.sampled_from(["", "0", "1", "-1", "9" * 30, "gzip", "deflate", "br", "gzip;q=x"]),
        max_size=2,
    ),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_body_is_answered_or_refused(asker: Asker, body: bytes, path: str, headers: dict[str, str]) -> None:
    answer = asker.post(path, body, headers)
    assert answer.status_code in (200, 400, 404, 413, 415, 422, 504), answer.text
    if answer.status_code != 200:
        assert list(answer.json()) == ["error"]


ELEMENTS: dict[str, st.SearchStrategy[Any]] = {
    "BOOL": st.booleans(),
    "BYTES": st.text(max_size=9),
    "FP64": st.floats(allow_nan=False),
    "FP32": st.floats(width=32, allow_nan=False),
    "FP16": st.floats(width=16, allow_nan=False),
    **{f"INT{bits}": st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}


@pytest.mark.fast
@given(st.sampled_from([*ELEMENTS]).flatmap(lambda one: st.tuples(st.just(one), st.lists(ELEMENTS[one], max_size=6))))
def test_elements_are_the_same_in_binary_and_in_json(one: tuple[str, list[Any]]) -> None:
    datatype, values = one
    written = OutputTensor("x", datatype, (len(values),), values).raw()
    for sent in (
        InputTensor("x", datatype, [len(values)], written),
        InputTensor("x", datatype, [len(values)], None, values),
        InputTensor("x", datatype, [len(values), 1], None, [[value] for value in values]),
    ):
        assert list(elements(sent, len(values))) == values
