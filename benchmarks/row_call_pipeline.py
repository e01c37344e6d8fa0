"""One row through imputer, scaler and logistic regression: one dot product, beside scikit-learn's own predict_proba."""

from __future__ import annotations

from pathlib import Path

from _row_calls import BETTER, UNIT, Calls
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

__all__ = ["BETTER", "NAME", "TARGET", "UNIT", "floor", "ours", "setup"]
NAME = "row_call_pipeline"
TARGET = "ratio <= 0.1"


def setup(folder: Path) -> Calls:
    return Calls(make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()))


def ours(calls: Calls) -> float:
    return calls.ours()


def floor(calls: Calls) -> float:
    return calls.floor()
