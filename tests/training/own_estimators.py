"""Estimators as somebody writes them: classes with `fit` and `predict` that come from no library."""

from __future__ import annotations

from typing import Any

import numpy as np


class LeastSquares:
    """A number for each row. It says how many inputs it has, and its rows have weights."""

    def fit(self, inputs: Any, target: Any, sample_weight: Any = None) -> LeastSquares:
        root = np.sqrt(np.ones(len(target)) if sample_weight is None else sample_weight)[:, None]
        with_one = np.hstack([inputs, np.ones((len(inputs), 1))])
        self.weights = np.linalg.lstsq(with_one * root, target * root[:, 0], rcond=None)[0]
        self.n_features_in_ = inputs.shape[1]
        return self

    def predict(self, inputs: Any) -> Any:
        return sum(inputs[:, place] * weight for place, weight in enumerate(self.weights[:-1])) + self.weights[-1]


class Centres:
    """A chance of each class, from the distance to the mean of its rows. It does not say how many inputs it has."""

    def fit(self, inputs: Any, target: Any) -> Centres:
        self.classes_ = np.unique(target)
        self.centres = np.array([inputs[target == one].mean(axis=0) for one in self.classes_])
        return self

    def predict_proba(self, inputs: Any) -> Any:
        nearness = np.exp(-((inputs[:, None, :] - self.centres) ** 2).sum(axis=2))
        return nearness / nearness.sum(axis=1, keepdims=True)
