"""One row through 100 trees of XGBoost: its C interface with a buffer that stays, beside its own predict_proba."""

from __future__ import annotations

from pathlib import Path

from _row_calls import BETTER, UNIT, Calls
from xgboost import XGBClassifier

__all__ = ["BETTER", "NAME", "TARGET", "UNIT", "floor", "ours", "setup"]
NAME = "row_call_xgboost"
TARGET = "ratio <= 0.5"


def setup(folder: Path) -> Calls:
    return Calls(XGBClassifier(n_estimators=100, max_depth=5))


def ours(calls: Calls) -> float:
    return calls.ours()


def floor(calls: Calls) -> float:
    return calls.floor()
