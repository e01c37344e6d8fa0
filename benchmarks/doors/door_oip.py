"""Predictions by the Open Inference Protocol over HTTP (JSON tensors), 32 connections, log on: against bare ASGI.

MLServer answers 1,574 requests a second where bare ASGI answers 15,750; 5 times as many are half of bare ASGI.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import _http
import _mlserver
import _served
import door_predict
import msgspec

NAME = "door_oip"
TARGET = "ratio >= 0.5"
UNIT = "requests/s"
BETTER = "higher"
PATH = f"/v2/models/{_http.MODEL}/infer"
setup, floor = door_predict.setup, door_predict.floor


def ours(project: _served.Project) -> float:
    with project.served() as ports:
        return _rate(ports.http, _served.columns_of())


def peers(project: _served.Project, python: Path) -> Mapping[str, float]:
    with _mlserver.server(project.folder, python) as (http, _):
        return {"MLServer": _rate(http, [_served.matrix_of()])}


def _rate(port: int, tensors: list[dict[str, Any]]) -> float:
    data = msgspec.json.encode({"inputs": tensors})
    *latencies, taken = _http.load(port, connections=32, path=PATH, data=data)
    return len(latencies) / taken
