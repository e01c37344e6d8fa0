"""Predictions by JSON from `trimtab serve`, each synced before its answer, 32 connections: against bare ASGI."""

from __future__ import annotations

import _served
import door_predict

NAME = "door_predict_durable"
TARGET = "ratio >= 0.6"
UNIT = "requests/s"
BETTER = "higher"
setup, floor = door_predict.setup, door_predict.floor


def ours(project: _served.Project) -> float:
    return door_predict.ours(project, "durable")
