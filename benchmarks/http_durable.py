"""Predictions over HTTP, each answer after its prediction is synced: one worker, 32 connections."""

from __future__ import annotations

from pathlib import Path

import _http

NAME = "http_durable"
TARGET = "ratio >= 0.5"
UNIT = "requests/s"
BETTER = "higher"


def setup(folder: Path) -> Path:
    _http.make_model(folder)
    return folder


def ours(folder: Path) -> float:
    return _http.rate(folder, "durable")


def floor(folder: Path) -> float:
    return _http.rate(folder, "bare")
