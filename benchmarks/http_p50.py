"""The median time of a prediction over HTTP on one connection, its log append included."""

from __future__ import annotations

from pathlib import Path

import _http

NAME = "http_p50"
TARGET = "ratio <= 1.4"
UNIT = "s"
BETTER = "lower"


def setup(folder: Path) -> Path:
    _http.make_model(folder)
    return folder


def ours(folder: Path) -> float:
    return _http.quantile_s(folder, "relaxed", 0.5)


def floor(folder: Path) -> float:
    return _http.quantile_s(folder, "bare", 0.5)
