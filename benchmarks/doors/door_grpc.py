"""Predictions by the Open Inference Protocol over gRPC (raw tensors), 32 connections, log on: against bare ASGI.

MLServer answers 1,638 requests a second where bare ASGI answers 15,750; 4 times as many are .42 of bare ASGI.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import _grpc
import _mlserver
import _served
import door_predict

NAME = "door_grpc"
TARGET = "ratio >= 0.42"
UNIT = "requests/s"
BETTER = "higher"
setup, floor = door_predict.setup, door_predict.floor


def ours(project: _served.Project) -> float:
    with project.served() as ports:
        return rate(ports.grpc, _served.infer_message(_served.columns_of()))


def peers(project: _served.Project, python: Path) -> Mapping[str, float]:
    with _mlserver.server(project.folder, python) as (_, grpc):
        return {"MLServer": rate(grpc, _served.infer_message([_served.matrix_of()]))}


def rate(port: int, message: bytes) -> float:
    *latencies, taken = _grpc.load(port, message, connections=32, seconds=2.0)
    return len(latencies) / taken
