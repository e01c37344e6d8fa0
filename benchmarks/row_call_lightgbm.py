"""One row through 100 trees of LightGBM: the prepared call of its C interface, beside its own predict_proba."""

from __future__ import annotations

from pathlib import Path

from _row_calls import BETTER, UNIT, Calls
from lightgbm import LGBMClassifier

__all__ = ["BETTER", "NAME", "TARGET", "UNIT", "floor", "ours", "setup"]
NAME = "row_call_lightgbm"
TARGET = "ratio <= 0.1"


def setup(folder: Path) -> Calls:
    return Calls(LGBMClassifier(n_estimators=100))


def ours(calls: Calls) -> float:
    return calls.ours()


def floor(calls: Calls) -> float:
    return calls.floor()
