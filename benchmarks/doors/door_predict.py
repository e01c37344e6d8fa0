"""Predictions by JSON from `trimtab serve`, 32 connections, log on: against bare ASGI with msgspec."""

from __future__ import annotations

from pathlib import Path

import _http
import _served

NAME = "door_predict"
TARGET = "ratio >= 1.0"
UNIT = "requests/s"
BETTER = "higher"
LOG = "relaxed"


def setup(folder: Path) -> _served.Project:
    return _served.Project(folder)


def ours(project: _served.Project, log: str = LOG) -> float:
    with project.served(log) as ports:
        *latencies, taken = _http.load(ports.http, connections=32)
    return len(latencies) / taken


def floor(project: _served.Project) -> float:
    return _http.rate(project.folder, "bare")
