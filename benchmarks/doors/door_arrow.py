"""An Arrow batch of 10,000 rows to `trimtab serve`, answered as Arrow, log on: against the model's own predict."""

from __future__ import annotations

import http.client
import time
from typing import Any

import _http
import _served
import door_predict
import msgspec
import numpy as np

NAME = "door_arrow"
TARGET = "ratio >= 0.8"
UNIT = "rows/s"
BETTER = "higher"
ROWS = 10_000
_BATCHES = 9
setup = door_predict.setup


def ours(project: _served.Project) -> float:
    with project.served() as ports:
        return ROWS / _median_s(_Batches(ports.http))


def floor(project: _served.Project) -> float:
    """The model alone, in one thread, on rows that are in memory."""
    import lightgbm

    booster = lightgbm.Booster(model_file=str(project.folder / "model.txt"))
    x, _ = _http.data(ROWS)
    return ROWS / _median_s(lambda: booster.predict(x, num_threads=1))


class _Batches:
    """Sends the same batch again, on one connection."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.body = _stream()

    def __call__(self) -> None:
        kind = "application/vnd.apache.arrow.stream"
        path, headers = f"/v1/models/{_http.MODEL}/predict", {"content-type": kind, "accept": kind}
        self.connection.request("POST", path, self.body, headers)
        answer = self.connection.getresponse()
        read = answer.read()
        if answer.status != 200:
            raise SystemExit(read[:500].decode())


def _stream() -> bytes:
    import pyarrow as pa

    x, _ = _http.data(ROWS)
    at = msgspec.json.decode(_http.body())["request"]["at"]
    columns: dict[str, Any] = {"id": [f"unit-{n}" for n in range(ROWS)]} | {f"x{n}": x[:, n] for n in range(x.shape[1])}
    table = pa.table(columns | {"at": pa.array(np.full(ROWS, at), pa.timestamp("us", "UTC"))})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _median_s(call: Any) -> float:
    taken = []
    for _ in range(_BATCHES + 2):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken[2:]))
