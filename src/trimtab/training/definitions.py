"""What a model is: a request, features, a label, an estimator and a metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, get_args

import msgspec

from trimtab.core.code import code_hash
from trimtab.core.errors import Misuse
from trimtab.core.hashing import content_hash
from trimtab.events.definitions import check_name
from trimtab.features.definitions import Label, Request
from trimtab.features.feature_set import FeatureSet, Item, feature_set
from trimtab.stats.loss_names import LOSSES, Loss, LossKind, loss_kind
from trimtab.stats.recalibration import RecalibrationKind

Metric: TypeAlias = Loss
Task: TypeAlias = LossKind


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """What a wrong answer costs, in any unit, when scores at or above a threshold are answered with yes."""

    false_positive: float
    false_negative: float


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A learnable answer to a request. Make one with `model()`."""

    name: str
    request: Request
    features: FeatureSet
    label: Label
    estimator: Callable[[], Any]  # called for every fit: a new, unfitted estimator
    metric: Metric
    calibration: RecalibrationKind | None = None  # part of the recipe
    slices: tuple[str, ...] = ()  # columns and features that evaluations look at value by value; not of the recipe
    costs: Costs | None = None  # for evaluations; not of the recipe

    @property
    def task(self) -> Task:
        return loss_kind(self.metric)

    @property
    def hash(self) -> str:
        """The content address of the recipe: features, label, metric, the estimator's code, and calibration if any."""
        parts = [self.name, self.features.hash, self.label.hash, self.metric, code_hash(self.estimator)]
        return content_hash(parts if self.calibration is None else [*parts, self.calibration])


def model(
    name: str,
    *,
    request: Request,
    features: Sequence[Item],
    label: Label,
    estimator: Callable[[], Any],
    metric: Metric,
    calibration: RecalibrationKind | None = None,
    slices: Sequence[str] = (),
    costs: Mapping[str, float] | None = None,
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
        metric: What is minimised and judged by the gate: "log_loss" or "brier" for the chance of a class,
            "squared_error" or "absolute_error" for a number, "poisson_deviance" for a count, `tt.pinball(0.9)` for a
            quantile. The estimator's own objective is its maker's choice: it should be the same.
        calibration: Of a chance: what corrects the estimator's scores, fitted in training on the newer half of the
            rows, each scored by an estimator that had not seen it. "platt", "beta", "isotonic" or None.
        slices: Columns of the request and features whose values evaluations look at one by one.
        costs: Of a chance: {"false_positive": 1, "false_negative": 5}; evaluations then look for the best threshold.

    Raises:
        Misuse: Two features of one name, a column that does not exist, an estimator that cannot be called.
    """
    check_name(name, "model")
    if not callable(estimator):
        raise Misuse(f"model {name!r}: estimator={estimator!r} is no function. Write estimator=lambda: {estimator!r}.")
    _check_metric(name, metric)
    binary = loss_kind(metric) == "binary"
    if calibration is not None and (calibration not in get_args(RecalibrationKind) or not binary):
        raise Misuse(
            f"model {name!r}: calibration={calibration!r} with metric={metric!r}. Needed: one of "
            f"{', '.join(get_args(RecalibrationKind))}, and a metric of probabilities (log_loss, brier)."
        )
    if label.source.columns.get(label.key) != request.columns[request.key]:
        raise Misuse(
            f"model {name!r}: the label's key {label.key!r} is {label.source.columns.get(label.key)}, "
            f"the request's key {request.key!r} is {request.columns[request.key]}. They must be of one type."
        )
    read = feature_set(request, features)
    return Model(
        name=name,
        request=request,
        features=read,
        label=label,
        estimator=estimator,
        metric=metric,
        calibration=calibration,
        slices=checked_slices(name, request, read, slices),
        costs=None if costs is None else checked_costs(name, costs, binary=binary),
    )


def checked_slices(name: str, request: Request, features: FeatureSet, slices: Sequence[str]) -> tuple[str, ...]:
    """The columns to slice by, once each of them exists.

    Raises:
        Misuse: One is neither a column of the request nor a feature of the model.
    """
    there = (*request.columns, *features.names)
    for column in [slices] if isinstance(slices, str) else slices:
        if isinstance(slices, str) or column not in there:
            raise Misuse(f"model {name!r}: slices={slices!r}. Give a list of names, each one of {', '.join(there)}.")
    return tuple(dict.fromkeys(slices))


def checked_costs(name: str, costs: Mapping[str, float], *, binary: bool) -> Costs:
    """What each kind of error costs, once it can be weighed.

    Raises:
        Misuse: Other keys than the two, a cost below 0 or without end, both 0, or a model of numbers.
    """
    needed = f'model {name!r}: costs={costs!r}. Needed: {{"false_positive": 1, "false_negative": 5}} with numbers of '
    if not binary:
        raise Misuse(f"{needed}at least 0, and a metric of probabilities (log_loss, brier).")
    if not isinstance(costs, Mapping) or set(costs) != {"false_positive", "false_negative"}:
        raise Misuse(f"{needed}at least 0, under these two names.")
    for value in costs.values():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise Misuse(f"{needed}at least 0.")
    if not any(costs.values()):
        raise Misuse(f"{needed}at least 0, not both of them 0.")
    return Costs(false_positive=float(costs["false_positive"]), false_negative=float(costs["false_negative"]))


def _check_metric(name: str, metric: Metric) -> None:
    try:
        loss_kind(metric)
    except (Misuse, AttributeError, TypeError):
        names = ", ".join(LOSSES)
        raise Misuse(f"model {name!r}: metric={metric!r} is none of {names} or tt.pinball(quantile).") from None
