"""Which share of requests is refused (status 429) with 32 to 255 connections that ask again at once, by HTTP.

With 255 connections an answer takes 20 to 40 ms, because each request waits for the others. None may be refused for
that. `/v1` and the Open Inference Protocol are measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import _http
import _served
import door_oip
import door_predict
import msgspec
import numpy as np

NAME = "door_refusals"
TARGET = "ours <= 0"
UNIT = "% refused"
BETTER = "lower"
CONNECTIONS = (32, 64, 128, 255)
PATHS = {"/v1": f"/v1/models/{_http.MODEL}/predict", "OIP": door_oip.PATH}


class Doors:
    """The project, and the newest latencies by door and number of connections."""

    def __init__(self, folder: Path) -> None:
        self.project = door_predict.setup(folder)
        self.p99_ms: dict[str, float] = {}


def setup(folder: Path) -> Doors:
    return Doors(folder)


def ours(doors: Doors) -> float:
    tensors = msgspec.json.encode({"inputs": _served.columns_of()})
    answered, refused = 0, 0
    with doors.project.served() as ports:
        for name, path in PATHS.items():
            for connections in CONNECTIONS:
                said_no: list[float] = []
                data = _http.body() if name == "/v1" else tensors
                *latencies, _ = _http.load(ports.http, connections=connections, path=path, data=data, refused=said_no)
                answered, refused = answered + len(latencies), refused + len(said_no)
                doors.p99_ms[f"{name}, {connections} connections, p99 ms"] = 1e3 * float(np.quantile(latencies, 0.99))
    return 100.0 * refused / (answered + refused)


def more(doors: Doors) -> Mapping[str, float]:
    return doors.p99_ms
