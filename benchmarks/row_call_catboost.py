"""One row through 100 trees of CatBoost: compiled to an expression, beside its own predict_proba."""

from __future__ import annotations

from pathlib import Path

from _row_calls import BETTER, UNIT, Calls
from catboost import CatBoostClassifier

__all__ = ["BETTER", "NAME", "TARGET", "UNIT", "floor", "ours", "setup"]
NAME = "row_call_catboost"
TARGET = "ratio <= 0.4"


def setup(folder: Path) -> Calls:
    return Calls(CatBoostClassifier(n_estimators=100))


def ours(calls: Calls) -> float:
    return calls.ours()


def floor(calls: Calls) -> float:
    return calls.floor()
