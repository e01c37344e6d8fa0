"""Stored answers over HTTP: one worker, 32 connections. The floor is bare ASGI that answers the same bytes unasked."""

from __future__ import annotations

from pathlib import Path

import _http

NAME = "precomputed_http"
TARGET = "ratio >= 0.8"
UNIT = "requests/s"
BETTER = "higher"


def setup(folder: Path) -> Path:
    _http.make_model(folder)
    return folder


def ours(folder: Path) -> float:
    return _http.rate(folder, "precomputed")


def floor(folder: Path) -> float:
    return _http.rate(folder, "static")
