"""The slowest answers over HTTP on one connection: the 99th percentile of their times, beside the median."""

from __future__ import annotations

from pathlib import Path

import _http

NAME = "http_tail"
TARGET = "ratio <= 4"
UNIT = "s"
BETTER = "lower"


def setup(folder: Path) -> Path:
    _http.make_model(folder)
    return folder


def ours(folder: Path) -> float:
    return _http.quantile_s(folder, "relaxed", 0.99)


def floor(folder: Path) -> float:
    return _http.quantile_s(folder, "relaxed", 0.5)
