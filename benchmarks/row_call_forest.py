"""One row through a random forest of 100 trees: walked in Python, beside scikit-learn's own predict_proba."""

from __future__ import annotations

from pathlib import Path

from _row_calls import BETTER, UNIT, Calls
from sklearn.ensemble import RandomForestClassifier

__all__ = ["BETTER", "NAME", "TARGET", "UNIT", "floor", "ours", "setup"]
NAME = "row_call_forest"
TARGET = "ratio <= 0.1"


def setup(folder: Path) -> Calls:
    return Calls(RandomForestClassifier(100))


def ours(calls: Calls) -> float:
    return calls.ours()


def floor(calls: Calls) -> float:
    return calls.floor()
