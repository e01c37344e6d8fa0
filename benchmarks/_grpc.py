"""A quick client of unary gRPC calls: HTTP/2 frames made by hand, so that the client takes little of the machine."""

from __future__ import annotations

import asyncio
import struct
import time
from typing import Any

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING, _WINDOW = 0, 1, 4, 6, 8
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_MOST = 2**31 - 1
PATH = "/inference.GRPCInferenceService/ModelInfer"


def load(port: int, message: bytes, *, connections: int, seconds: float, path: str = PATH) -> list[float]:
    """Call again as soon as an answer is there, on each connection; the latencies in seconds, and the time taken."""
    import uvloop

    return uvloop.run(_load(port, message, connections, seconds, path))


async def _load(port: int, message: bytes, connections: int, seconds: float, path: str) -> list[float]:
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    clients = [
        (await loop.create_connection(lambda: _Caller(path, message, latencies), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    await asyncio.sleep(0.3)  # warm up
    latencies.clear()
    start = time.perf_counter()
    await asyncio.sleep(seconds)
    taken = time.perf_counter() - start
    done = latencies.copy()
    for client in clients:
        client.transport.abort()
        if client.refused:
            raise SystemExit(f"a call was refused: {client.refused!r}")
    return [*done, taken]


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _header(name: bytes, value: bytes) -> bytes:
    """One header, written out (RFC 7541, 6.2.2: a literal without indexing)."""
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


class _Caller(asyncio.Protocol):
    def __init__(self, path: str, message: bytes, latencies: list[float]) -> None:
        self.head = b"\x83\x86" + _header(b":path", path.encode()) + _header(b":authority", b"localhost")
        self.head += _header(b"content-type", b"application/grpc") + _header(b"te", b"trailers")
        self.data = b"\x00" + struct.pack(">I", len(message)) + message
        self.latencies = latencies
        self.refused = b""
        self.stream, self.got, self.answer = -1, b"", b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        windows = _frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, _MOST))
        windows += _frame(_WINDOW, 0, 0, struct.pack(">I", _MOST - 65_535))
        transport.write(_PREFACE + windows)
        self.call()

    def call(self) -> None:
        self.stream += 2
        self.answer = b""
        self.started = time.perf_counter()
        head = _frame(_HEADERS, _END_HEADERS, self.stream, self.head)
        self.transport.write(head + _frame(_DATA, _END_STREAM, self.stream, self.data))

    def data_received(self, data: bytes) -> None:
        got, at = self.got + data if self.got else data, 0
        while len(got) - at >= 9:
            end = at + 9 + int.from_bytes(got[at : at + 3], "big")
            if len(got) < end:
                break
            kind, flags, payload = got[at + 3], got[at + 4], got[at + 9 : end]
            at = end
            if kind in (_SETTINGS, _PING) and not flags & _ACK:
                self.transport.write(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
            elif kind == _DATA:
                self.answer += payload
            elif kind == _HEADERS and flags & _END_STREAM:
                if len(self.answer) <= 5:  # an error has no message
                    self.refused = self.refused or payload or b"no message"
                self.latencies.append(time.perf_counter() - self.started)
                self.call()
        self.got = got[at:]
