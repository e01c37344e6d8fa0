"""Requests of few bytes that could become much, for every address that takes a body."""

from __future__ import annotations

import gzip
import json
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import shop

import arrow_bombs

JSON, ARROW = "application/json", "application/vnd.apache.arrow.stream"
PREDICT, EVENTS, LABELS = "/v1/models/buyer/predict", "/v1/events/readings", "/v1/labels/buyer"
INFER = "/v2/models/buyer/infer"
MB = 1_000_000


class Bomb(NamedTuple):
    """One request."""

    name: str
    path: str  # "grpc": by gRPC
    body: bytes
    headers: dict[str, str]

    def __str__(self) -> str:
        return f"{self.name} to {self.path}"


def texts(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """JSON that is large, deep or strange."""
    n = rng.randint(1, 4)
    row = json.dumps(shop.visit("v", shop.NOW_US)).encode()
    level = json.dumps({"site": "north", "level": 0.5, "read_at": shop.NOW_US}).encode()
    kinds: dict[str, Callable[[], bytes]] = {
        "brackets": lambda: b"[" * (n * MB // 4),
        "deep objects": lambda: b'{"a":' * (n * MB // 20) + b"1" + b"}" * (n * MB // 20),
        "empty objects": lambda: b"[" + b"{}," * (n * MB // 12) + b"{}]",
        "empty lists": lambda: b"[" + b"[]," * (n * MB // 12) + b"[]]",
        "small values": lambda: b"[" + b"0," * (n * MB // 8) + b"0]",
        "small objects": lambda: b"[" + b'{"a":1},' * (n * MB // 32) + b"{}]",
        "many keys": lambda: json.dumps({f"k{i}": i for i in range(n * 20_000)}).encode(),
        "the same key": lambda: b"{" + b'"site":"north",' * (n * 15_000) + b'"site":"south"}',
        "a long integer": lambda: b'{"x":' + b"9" * (n * MB // 4) + b"}",
        "a long fraction": lambda: b'{"x":0.' + b"3" * (n * MB // 4) + b"}",
        "a huge exponent": lambda: b'{"x":1e' + b"9" * (n * MB // 4) + b"}",
        "escapes": lambda: b'{"site":"' + b"\\u0041" * (n * MB // 24) + b'"}',
        "halves": lambda: b'["' + b"\\ud800" * (n * MB // 24) + b'"]',
        "many rows": lambda: b'{"rows":[' + b",".join([row] * (n * 2_500)) + b"]}",
        "rows and a long text": lambda: b'{"rows":[' + b",".join([row] * 5_000) + b',"' + b"x" * MB + b'"]}',
        "many events": lambda: b"[" + b",".join([level] * (n * 2_500)) + b"]",
        "lines": lambda: b"\n".join([level] * (n * 2_500)),
        "empty lines": lambda: b"{}\n" * (n * MB // 12),
        "line ends": lambda: b"\n" * (n * MB // 4),
        "many labels": lambda: b"[" + b",".join([b'{"request_id":"v00001","value":true}'] * (n * 5_000)) + b"]",
    }
    for name, make in kinds.items():
        yield name, make()


def tensors(rng: random.Random) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """Requests of the Open Inference Protocol."""
    n = rng.randint(1, 4)

    def infer(*inputs: dict[str, Any], **more: Any) -> bytes:
        return json.dumps({"inputs": inputs, **more}).encode()

    def tensor(name: str, shape: list[int], datatype: str = "FP64", **more: Any) -> dict[str, Any]:
        return {"name": name, "shape": shape, "datatype": datatype, **more}

    size = n * 100_000
    yield "a huge shape", infer(tensor("x", [2**62], data=[1.0])), {}
    yield "many dimensions", infer(tensor("x", [1] * size, data=[1.0])), {}
    yield "nested data", infer(tensor("x", [1], data=[])).replace(b"[]}", b"[" * size + b"]" * size + b"}"), {}
    yield "many inputs", infer(*[tensor(f"x{i}", [1], data=[1]) for i in range(n * 5_000)]), {}
    yield "the same input", infer(*[tensor("x", [1], data=[1])] * (n * 5_000)), {}
    yield "many elements", infer(tensor("x", [size], data=[1] * size)), {}
    yield "many outputs", infer(tensor("x", [1], data=[1]), outputs=[{"name": "score"}] * (n * 5_000)), {}
    yield "many parameters", infer(tensor("x", [1], data=[1]), parameters={f"p{i}": i for i in range(n * 9_000)}), {}
    head = infer(tensor("visit_id", [size], "BYTES", parameters={"binary_data_size": 4 * size}))
    yield "empty texts", head + bytes(4 * size), {"inference-header-content-length": str(len(head))}
    head = infer(tensor("visit_id", [2], "BYTES", parameters={"binary_data_size": 8}))
    length = str(len(head))
    yield "a long text, it says", head + struct.pack("<ii", 2**31 - 1, -1), {"inference-header-content-length": length}
    for name, unpacked in (("zeros", bytes(n * 50 * MB)), ("objects", b'{"inputs":[' + b"{}," * (2 * MB) + b"{}]}")):
        yield f"gzip of {name}", gzip.compress(unpacked, 1), {"content-encoding": "gzip"}
    many = gzip.compress(b"") * (n * 5_000)
    yield "gzip of many members", many, {"content-encoding": "gzip"}
    yield "inner gzip", gzip.compress(gzip.compress(bytes(n * 50 * MB))), {"content-encoding": "gzip"}


def messages(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Messages of `ModelInfer` as bytes."""
    n = rng.randint(1, 4)

    def field(number: int, data: bytes) -> bytes:
        length, out = len(data), b""
        while length > 127:
            out += bytes([length & 127 | 128])
            length >>= 7
        return bytes([number << 3 | 2]) + out + bytes([length]) + data

    named = field(1, b"buyer")
    tensor = field(1, b"x") + field(2, b"FP64")
    yield "empty inputs", named + field(5, b"") * (n * MB // 8)
    yield "empty outputs", named + field(6, b"") * (n * MB // 8)
    yield "empty raw inputs", named + field(7, b"") * (n * MB // 8)
    yield "empty parameters", named + field(4, b"") * (n * MB // 8)
    yield "a long shape", named + field(5, tensor + field(3, b"\x01" * (n * MB // 4)))
    yield "empty texts", named + field(5, tensor + field(3, b"\x01") + field(5, field(8, b"") * (n * MB // 8)))
    yield "small integers", named + field(5, tensor + field(3, b"\x01") + field(5, field(3, b"\x01" * (n * MB // 4))))
    yield "truths", named + field(5, tensor + field(3, b"\x01") + field(5, field(1, b"\x01" * (n * MB // 4))))
    yield "unknown fields", named + field(15, b"") * (n * MB // 8)
    yield "groups", named + b"\x7b" * (n * 10_000)
    yield "empty contents", named + field(5, field(5, b"") * (n * MB // 8))
    yield "zeros", bytes(n * 2 * MB)
    yield "a long name", field(1, b"x" * (n * MB // 4))


def bombs(seed: int) -> Iterator[Bomb]:
    """Requests without end."""
    rng = random.Random(seed)
    arrow = arrow_bombs.bombs(rng)
    while True:
        for name, body in texts(rng):
            path = rng.choice((PREDICT, EVENTS, LABELS, INFER))
            kind = "application/x-ndjson" if path == EVENTS and "line" in name else JSON
            yield Bomb(name, path, body, {"content-type": kind})
            if rng.random() < 0.2:
                headers = {"content-type": kind, "content-encoding": "gzip"}
                yield Bomb(f"gzip of {name}", path, gzip.compress(body, 1), headers)
        for name, body in (next(arrow) for _ in range(14)):
            yield Bomb(name, rng.choice((PREDICT, EVENTS)), body, {"content-type": ARROW, "accept": ARROW})
        for name, body, headers in tensors(rng):
            yield Bomb(name, INFER, body, {"content-type": JSON, **headers})
        for name, body in messages(rng):
            yield Bomb(name, "grpc", body, {})
        for name, body in (next(arrow) for _ in range(14)):
            yield Bomb(name, rng.choice((PREDICT, EVENTS)), body, {"content-type": ARROW})
