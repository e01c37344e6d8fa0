"""What the HTTP benchmarks share: a model of 100 trees over 30 floats, two servers of it, and a quick client."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOATS = 30
SECONDS = 2.0
MODEL = "bench"


def make_model(folder: Path) -> None:
    """Fit the model and keep its text."""
    import lightgbm

    x, y = data(20_000)
    model = lightgbm.LGBMClassifier(n_estimators=100, n_jobs=1, verbose=-1).fit(x, y)
    (folder / "model.txt").write_text(model.booster_.model_to_string())


def data(rows: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The matrix and the labels from which the model learns."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(rows, FLOATS))
    return x, x[:, 0] + x[:, 1] * x[:, 2] + rng.normal(size=rows) > 0


def scorer(folder: Path) -> Any:
    """The model with its fastest one-row call."""
    from trimtab.training.runtimes import runtime_named

    return runtime_named("lightgbm").load((folder / "model.txt").read_bytes())


def columns() -> dict[str, type]:
    """The request's columns beside its time."""
    return {"id": str} | {f"x{n}": float for n in range(FLOATS)}


def body() -> bytes:
    """One request, the same for both servers."""
    import msgspec

    values = np.random.default_rng(3).normal(size=FLOATS).round(6).tolist()
    row = {"id": "unit-1", **{f"x{n}": value for n, value in enumerate(values)}, "at": 1_700_000_000_000_000}
    return msgspec.json.encode({"request": row})


@contextlib.contextmanager
def server(folder: Path, kind: str) -> Iterator[int]:
    """A server process of `kind`; its port."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder), kind], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline().rsplit(":", 1)[1].split()[0])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def load(
    port: int,
    *,
    connections: int,
    path: str = f"/v1/models/{MODEL}/predict",
    seconds: float = SECONDS,
    data: bytes | None = None,
    refused: list[float] | None = None,
) -> list[float]:
    """Ask again as soon as an answer is there, on each connection; the latencies in seconds, and the time taken.

    Answers with status 429 are put into `refused` and not into the result; without it, they end the benchmark.
    """
    import uvloop

    request = message(path, body() if data is None else data)
    return uvloop.run(_load(port, request, connections, seconds, refused))


def message(path: str, data: bytes) -> bytes:
    """The bytes of one request."""
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def _load(
    port: int, request: bytes, connections: int, seconds: float, refused: list[float] | None
) -> list[float]:
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    clients = [
        (await loop.create_connection(lambda: _Asker(request, latencies, refused), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    await asyncio.sleep(0.3)  # warm up
    latencies.clear()
    if refused is not None:
        refused.clear()
    start = time.perf_counter()
    await asyncio.sleep(seconds)
    taken = time.perf_counter() - start
    done = latencies.copy()
    for client in clients:
        client.transport.abort()
    return [*done, taken]


def paced(
    port: int,
    *,
    per_s: float,
    connections: int,
    path: str,
    seconds: float,
    halfway: Callable[[], object] | None = None,
) -> list[float]:
    """Ask at random times, `per_s` times a second; the seconds from when each request was due to its answer.

    Args:
        connections: A request waits while all of them are busy.
        halfway: Called once, after half of the time.
    """
    clients = {client.fileno(): client for client in (_connected(port) for _ in range(connections))}
    request, free, latencies = message(path, body()), list(clients), list[float]()
    due_s = np.cumsum(np.random.default_rng(5).exponential(1 / per_s, int(per_s * (seconds + 0.5)))).tolist()
    sent_s, got, next_ = dict.fromkeys(clients, 0.0), dict.fromkeys(clients, b""), 0
    begin_s = time.perf_counter()
    with select.epoll() as ready, _Timer() as timer:
        for number in (*clients, timer.number):
            ready.register(number, select.EPOLLIN)
        while (now_s := time.perf_counter() - begin_s) < seconds + 0.5:
            if halfway is not None and now_s > 0.5 + seconds / 2:
                halfway()
                halfway = None
            while free and next_ < len(due_s) and due_s[next_] <= now_s:
                number = free.pop()
                sent_s[number] = due_s[next_]
                clients[number].sendall(request)
                next_ += 1
            if free:
                timer.wake_at(begin_s + (due_s[next_] if next_ < len(due_s) else seconds + 0.5))
            for number, _ in ready.poll(0.1):
                if number == timer.number:
                    timer.read()
                    continue
                got[number] += clients[number].recv(65536)
                if _is_whole(got[number]):
                    latencies.append(time.perf_counter() - begin_s - sent_s[number])
                    got[number] = b""
                    free.append(number)
    for client in clients.values():
        client.close()
    return latencies[int(0.5 * per_s) :]  # without the first half second


def _connected(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def _is_whole(answer: bytes) -> bool:
    """Whether all bytes of an answer are there. Ends the benchmark if its status is not 200."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if not answer.startswith(b"HTTP/1.1 200"):
        raise SystemExit(answer.decode() or "the server closed a connection")
    return b"\r\n\r\n" in answer and len(rest) >= int(head.lower().partition(b"content-length:")[2].split(b"\r")[0])


class _Timer:
    """A file that can be read at a time, to within microseconds. A client that spins instead takes a core."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.number = self._libc.timerfd_create(1, os.O_NONBLOCK)  # CLOCK_MONOTONIC, as `perf_counter`
        self._spec = (ctypes.c_long * 4)()  # no interval, then seconds and nanoseconds

    def __enter__(self) -> _Timer:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.number)

    def wake_at(self, time_s: float) -> None:
        whole = int(time_s)
        self._spec[2], self._spec[3] = whole, int((time_s - whole) * 1e9)
        if self._libc.timerfd_settime(self.number, 1, self._spec, None):  # an absolute time
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it was set to a later time meanwhile
            os.read(self.number, 8)


class _Asker(asyncio.Protocol):
    def __init__(self, request: bytes, latencies: list[float], refused: list[float] | None = None) -> None:
        self.request = request
        self.latencies = latencies
        self.refused = refused

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.need = 0
        self.got = b""
        self.started = time.perf_counter()
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.got = self.got + data if self.got else data
        if not self.need:
            end = self.got.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.got[:end].lower()
            self.into = self.latencies
            if head.startswith(b"http/1.1 429") and self.refused is not None:
                self.into = self.refused
            elif not head.startswith(b"http/1.1 200"):
                raise SystemExit(self.got.decode())
            at = head.index(b"content-length:") + 15
            self.need = end + 4 + int(head[at:].split(b"\r\n", 1)[0])
        if len(self.got) >= self.need:
            now = time.perf_counter()
            self.into.append(now - self.started)
            self.need, self.got, self.started = 0, b"", now
            self.transport.write(self.request)


def rate(folder: Path, kind: str, *, connections: int = 32) -> float:
    """Answers a second."""
    with server(folder, kind) as port:
        *latencies, taken = load(port, connections=connections)
    return len(latencies) / taken


def quantile_s(folder: Path, kind: str, share: float) -> float:
    """The time within which a share of the answers on one connection are there."""
    with server(folder, kind) as port:
        latencies = load(port, connections=1)[:-1]
    return float(np.quantile(latencies, share))


def _bare(folder: Path) -> Any:
    """The floor: ASGI, a typed decode, the same one-row call, an encoded answer."""
    import msgspec

    row = msgspec.defstruct("Row", [(name, kind) for name, kind in columns().items()] + [("at", int)])
    decode = msgspec.json.Decoder(msgspec.defstruct("Body", [("request", row)])).decode
    encode, astuple, predict = msgspec.json.Encoder().encode, msgspec.structs.astuple, scorer(folder).predict_row

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        message = await receive()
        values = list(astuple(decode(message["body"]).request)[1:-1])
        out = encode({"score": predict(values)})
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(out))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": out})

    return app


def _static(folder: Path) -> Any:
    """The floor of stored answers: the bytes of one, whatever is asked."""
    out = _stored_answer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await receive()
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(out))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": out})

    return app


def _stored_answer() -> bytes:
    import msgspec

    return msgspec.json.encode(_answer())


def _answer() -> Any:
    from trimtab.serving.answer.served import Answer

    return Answer(
        id="p_01hf7yb0tr000001j6vmh6bcfn",
        request_id="unit-1",
        model=MODEL,
        version=f"{MODEL}@1",
        arm="champion",
        mode="precomputed",
        score=0.25,
        at_us=time.time_ns() // 1_000,
        reasons={},
        flags=(),
    )


def _ours(folder: Path, kind: str) -> Any:
    """The product's service, log and all."""
    from trimtab.core.clock import SystemClock
    from trimtab.features.definitions import request
    from trimtab.serving.answer.answering import Answerer
    from trimtab.serving.answer.precomputed import Precomputed
    from trimtab.serving.answer.served import ModelInputs, Readers, ServedVersion
    from trimtab.serving.arms.endpoint import Endpoint
    from trimtab.serving.http.service import HttpService
    from trimtab.serving.log.buffered_log import BufferedLog
    from trimtab.serving.log.prediction_ids import PredictionIds
    from trimtab.serving.log.prediction_log import PredictionLog
    from trimtab.store.lmdb.kv import LmdbKeyValue
    from trimtab.store.sqlite.log import SqliteLog

    class Plain:
        reasons = b"\xff" * FLOATS

        def read(self, rows: Any, now_us: int) -> ModelInputs:
            return ModelInputs([[*row.values()][1:-1] for row in rows], [self.reasons] * len(rows), now_us, {})

    clock = SystemClock()
    mode: Any = "durable" if kind == "durable" else "relaxed"
    store = SqliteLog(folder / f"log-{time.time_ns()}", mode=mode)
    log = PredictionLog(BufferedLog(store, folder / "spool") if mode == "relaxed" else store)
    names = tuple(f"x{n}" for n in range(FLOATS))
    served = ServedVersion(model=MODEL, version="0" * 64, label=f"{MODEL}@1", arm="champion", inputs=names)
    question = request(MODEL, key="id", time="at", columns=columns())
    answerer = Answerer(
        served, question, Readers(Plain()), scorer(folder), log=log, clock=clock, ids=PredictionIds(clock)
    )
    stored = None
    if kind == "precomputed":
        stored = Precomputed(LmdbKeyValue(folder / f"stored-{time.time_ns()}"), MODEL, max_age_us=3_600_000_000)
        (row,) = answerer.rows.decode(body()).rows
        stored.put([(row, "unit-1", served.version, _answer())])
    endpoint = Endpoint(MODEL, precomputed=stored)
    endpoint.swap(answerer)
    return HttpService([endpoint], log)


def _main() -> None:
    from trimtab.serving.http.server.server import serve

    folder, kind = Path(sys.argv[1]), sys.argv[2]
    if kind not in ("bare", "static"):
        serve(_ours(folder, kind), port=0)
        return
    import socket

    import uvicorn

    app = _bare(folder) if kind == "bare" else _static(folder)
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"bare on :{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
    )
    uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    _main()
