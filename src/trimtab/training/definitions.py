"""What a model is: a request, features, a label, an estimator and a metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import msgspec

from trimtab.core.code import code_hash
from trimtab.core.errors import Misuse
from trimtab.core.hashing import content_hash
from trimtab.events.definitions import check_name
from trimtab.features.definitions import Label, Request
from trimtab.features.feature_set import FeatureSet, Item, feature_set

Metric = Literal["log_loss", "brier", "squared_error", "absolute_error"]
Task = Literal["binary", "regression"]


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A learnable answer to a request. Make one with `model()`."""

    name: str
    request: Request
    features: FeatureSet
    label: Label
    estimator: Callable[[], Any]  # called for every fit: a new, unfitted estimator
    metric: Metric

    @property
    def task(self) -> Task:
        return "binary" if self.metric in ("log_loss", "brier") else "regression"

    @property
    def hash(self) -> str:
        """The content address of the recipe: features, label, metric and the estimator's code."""
        return content_hash([self.name, self.features.hash, self.label.hash, self.metric, code_hash(self.estimator)])


def model(
    name: str,
    *,
    request: Request,
    features: Sequence[Item],
    label: Label,
    estimator: Callable[[], Any],
    metric: Metric,
) -> Model:
    """Declare a model.

    Args:
        name: Lower-case name, unique in the project.
        request: What it is asked.
        features: Views, views joined under other names, and dicts of named expressions over the request's columns
            and other features, in order.
        label: The truth it learns from.
        estimator: A function without arguments that makes an unfitted estimator with `fit` and `predict_proba` (or
            `predict` for a number).
        metric: What is minimised and judged by the gate.

    Raises:
        Misuse: Two features of one name, a column that does not exist, an estimator that cannot be called.
    """
    check_name(name, "model")
    if not callable(estimator):
        raise Misuse(f"model {name!r}: estimator={estimator!r} is no function. Write estimator=lambda: {estimator!r}.")
    if metric not in get_args(Metric):
        raise Misuse(f"model {name!r}: metric={metric!r} is none of {', '.join(get_args(Metric))}.")
    if label.source.columns.get(label.key) != request.columns[request.key]:
        raise Misuse(
            f"model {name!r}: the label's key {label.key!r} is {label.source.columns.get(label.key)}, "
            f"the request's key {request.key!r} is {request.columns[request.key]}. They must be of one type."
        )
    return Model(
        name=name,
        request=request,
        features=feature_set(request, features),
        label=label,
        estimator=estimator,
        metric=metric,
    )
