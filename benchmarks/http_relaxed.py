"""Predictions over HTTP without waiting for a sync: one worker, 32 connections, one row of 30 floats, 100 trees."""

from __future__ import annotations

from pathlib import Path

import _http

NAME = "http_relaxed"
TARGET = "ratio >= 0.7"
UNIT = "requests/s"
BETTER = "higher"


def setup(folder: Path) -> Path:
    _http.make_model(folder)
    return folder


def ours(folder: Path) -> float:
    return _http.rate(folder, "relaxed")


def floor(folder: Path) -> float:
    return _http.rate(folder, "bare")
