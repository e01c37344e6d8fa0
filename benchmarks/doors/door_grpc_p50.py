"""The median time of a prediction over gRPC on one connection, log on: against bare ASGI over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import _grpc
import _http
import _mlserver
import _served
import door_predict
import numpy as np

NAME = "door_grpc_p50"
TARGET = "ratio <= 2.5"
UNIT = "s"
BETTER = "lower"
setup = door_predict.setup


def ours(project: _served.Project) -> float:
    with project.served() as ports:
        return _p50_s(ports.grpc, _served.infer_message(_served.columns_of()))


def floor(project: _served.Project) -> float:
    return _http.quantile_s(project.folder, "bare", 0.5)


def peers(project: _served.Project, python: Path) -> Mapping[str, float]:
    with _mlserver.server(project.folder, python) as (_, grpc):
        return {"MLServer": _p50_s(grpc, _served.infer_message([_served.matrix_of()]))}


def _p50_s(port: int, message: bytes) -> float:
    return float(np.median(_grpc.load(port, message, connections=1, seconds=2.0)[:-1]))
