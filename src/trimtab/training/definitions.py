"""The declaration of models: request, features, label, estimator and metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.expressions.code import code_hash
from trimtab.core.hashing import content_hash
from trimtab.events.definitions import check_name
from trimtab.features.definitions import Label, Request
from trimtab.features.feature_set import FeatureSet, Item, feature_set
from trimtab.stats.metrics.loss_names import CLASS_LOSSES, LOSSES, Loss, LossKind, loss_kind
from trimtab.stats.recalibration import RecalibrationKind
from trimtab.training.runtimes.ports import Trust
from trimtab.training.search import Chosen, Search, checked_search, lacking
from trimtab.training.weighting import GivenWeights, Sample, Weights, checked_sample, checked_weights

Metric: TypeAlias = Loss
Task: TypeAlias = LossKind
GivenCosts: TypeAlias = Mapping[str, float] | Mapping[str | int, float | Mapping[str | int, float]]
RowsFrom: TypeAlias = Literal["history", "logged"]


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """The costs of wrong predictions, in any unit. Scores at or above a threshold predict "yes"."""

    false_positive: float
    false_negative: float


class ClassCosts(msgspec.Struct, frozen=True, kw_only=True):
    """The costs of wrong predictions, in any unit. Rows are true classes and columns are predicted classes."""

    rows: tuple[tuple[float, ...], ...]


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A declared model. `model()` makes and checks one."""

    name: str
    request: Request
    features: FeatureSet
    label: Label
    estimator: Callable[..., Any]  # a function that returns a new, unfitted estimator; it is called for each fit
    metric: Metric
    calibration: RecalibrationKind | None = None  # part of the model's hash
    # columns and features: evaluations show the metric for each of their values; not part of the model's hash
    slices: tuple[str, ...] = ()
    costs: Costs | ClassCosts | None = None  # for evaluations; not part of the model's hash
    weights: Weights | None = None  # part of the model's hash, as are the next two fields
    sample: Sample | None = None
    rows: RowsFrom = "history"
    # a column or feature: each value is a group of rows (in a ranking, a list); evaluations show new groups separately
    group: str | None = None
    # columns, features and views that only look like leaks; part of the model's hash
    allow_leakage: tuple[str, ...] = ()
    trust: Trust | None = None  # "pickle": loading a version may run code; part of the model's hash
    search: Search | None = None  # not part of the model's hash, but its result (`chosen`) is
    chosen: Chosen | None = None  # the parameters that the project's newest search found; never declared

    def new_estimator(self) -> Any:
        """Return a new estimator with the parameters that a search found, or else with the function's defaults.

        Raises:
            Misuse: No search has found parameters, and the function has no defaults.
        """
        if self.chosen is not None:
            return self.estimator(**self.chosen.values)
        if self.search is not None and (without := lacking(self.search, self.estimator)):
            raise Misuse(
                f"model {self.name!r}: no search has chosen a value yet for {', '.join(without)}. Search first: "
                f"trimtab search {self.name}. Or give the estimator's function default values."
            )
        return self.estimator()

    @property
    def task(self) -> Task:
        return loss_kind(self.metric)

    @property
    def about(self) -> list[str]:
        """The columns of a request that identify its entities. If no column does, the list has the request's key."""
        named = {name for join in self.features.joins for name in join.by} & self.request.columns.keys()
        return [name for name in self.request.columns if name in named] or [self.request.key]

    @property
    def hash(self) -> str:
        """The hash of everything declared that affects training, such as features, label and the estimator's code."""
        parts: list[object] = [self.name, self.features.hash, self.label.hash, self.metric, code_hash(self.estimator)]
        if self.calibration is not None:
            parts.append(self.calibration)
        more = {
            "weights": self.weights,
            "sample": self.sample,
            "rows": None if self.rows == "history" else self.rows,
            "allow_leakage": sorted(self.allow_leakage) or None,
            "trust": self.trust,
            "parameters": None if self.chosen is None else self.chosen.values,
            "lists": self.group if self.task == "ranking" else None,
        }
        if given := {name: value for name, value in more.items() if value is not None}:
            parts.append(given)
        return content_hash(parts)


def model(
    name: str,
    *,
    request: Request,
    features: Sequence[Item],
    label: Label,
    estimator: Callable[..., Any],
    metric: Metric,
    calibration: RecalibrationKind | None = None,
    slices: Sequence[str] = (),
    costs: GivenCosts | None = None,
    weights: GivenWeights | None = None,
    sample: Sample | None = None,
    rows: RowsFrom = "history",
    group: str | None = None,
    allow_leakage: Sequence[str] = (),
    trust: Trust | None = None,
    search: Search | None = None,
) -> Model:
    """Declare a model.

    Args:
        name: The name: lower case, and unique in the project.
        request: The requests that the model makes predictions for.
        features: The features in order: views, views that are joined under other names, and dicts of named expressions
            over the request's columns and other features.
        label: What the model predicts.
        estimator: A function without arguments that returns an unfitted estimator with `fit` and `predict_proba` (or
            `predict` for a number). With `search`, its arguments are the parameters that are searched for.
        metric: The loss by which versions are compared. For the probability of a class: "log_loss" or "brier". For
            several classes (`tt.label(..., classes=[...])`): "multi_log_loss", "multi_brier" or "error_rate". For a
            number: "squared_error" or "absolute_error". For a count: "poisson_deviance". For a quantile:
            `tt.pinball(0.9)`. For the order of a list: `tt.ndcg_loss(10)`. The estimator should have the same
            objective.
        calibration: For probabilities, how to correct the estimator's scores: "platt", "beta", "isotonic" or None; for
            several classes "platt" or None. Training fits the correction on the newer half of the rows. Each row is
            scored by an estimator that was not fitted on it.
        slices: Columns of the request, and features. Evaluations show the metric for each of their values.
        costs: For probabilities: {"false_positive": 1, "false_negative": 5}; evaluations then find the best threshold.
            For several classes: the costs of wrong predictions by true class, {"late": 1, "cancelled": {"on_time": 9,
            "late": 3}, ...}; evaluations then compare rules for choosing a class.
        weights: The weight of each row in the fit: "balanced" (all classes have the same total weight), a column, a
            feature, an expression, or a function whose arguments are names of columns and features.
        sample: `tt.sample(negatives=0.1)` fits on a share of the rows, and gives each kept row the weight 1 / share.
        rows: Which rows to learn from. "history": all known requests, with features computed as of their time.
            "logged": requests that were served, with the feature values that were used then.
        group: A column of the request or a feature, for example the customer. Evaluations then show known and new
            groups separately. In a ranking, it names the list, for example the search or the page. Rows of one list
            stay together in fits, splits and judgements.
        allow_leakage: Features, columns and views that look like leaks but are none.
        trust: "pickle" allows estimators that no safe format can store: any class with `fit` and `predict`. Loading a
            version of such a model runs code from its file. The version records this.
        search: `tt.search({"depth": tt.integer(3, 12)}, trials=50)` declares the parameters that `trimtab search`
            tries. Before the first search, the defaults of the estimator's function are used.

    Raises:
        Misuse: Two features have the same name, a column does not exist, the estimator cannot be called, the label's
            key and the request's key have different types, or another argument is invalid or does not fit the metric.
    """
    check_name(name, "model")
    if not callable(estimator):
        raise Misuse(
            f"model {name!r}: estimator={estimator!r} is not a function. Write estimator=lambda: {estimator!r}."
        )
    _check_metric(name, metric, label)
    if loss_kind(metric) == "ranking":
        _check_ranking(name, request, group, calibration=calibration, costs=costs)
    binary = loss_kind(metric) == "binary"
    if calibration is not None and (
        calibration not in get_args(RecalibrationKind) or not (binary or (label.classes and calibration == "platt"))
    ):
        raise Misuse(
            f"model {name!r}: calibration={calibration!r} with metric={metric!r}. Needed: one of "
            f"{', '.join(get_args(RecalibrationKind))}, and a metric of probabilities of one class (log_loss, brier); "
            "for several classes only platt."
        )
    if label.source.columns.get(label.key) != request.columns[request.key]:
        raise Misuse(
            f"model {name!r}: the label's key {label.key!r} is {label.source.columns.get(label.key)}, "
            f"the request's key {request.key!r} is {request.columns[request.key]}. They must be of one type."
        )
    read = feature_set(request, features)
    there = {**request.columns, **read.dtypes}
    if trust is not None and trust not in get_args(Trust):
        raise Misuse(
            f'model {name!r}: trust={trust!r}. Give "pickle", or leave it out if a safe format can store the model.'
        )
    if rows not in get_args(RowsFrom):
        raise Misuse(f'model {name!r}: rows={rows!r} is neither "history" nor "logged".')
    if group is not None and group not in there:
        raise Misuse(f"model {name!r}: group={group!r} must be one of {', '.join(there)}.")
    by_request = label.source.time == request.time and label.source.key == label.key
    return Model(
        name=name,
        request=request,
        features=read,
        label=msgspec.structs.replace(label, dated_by_request=by_request),
        estimator=estimator,
        metric=metric,
        calibration=calibration,
        slices=checked_slices(name, request, read, slices),
        costs=None if costs is None else checked_costs(name, costs, binary=binary, label=label),
        weights=checked_weights(name, weights, there, classes=binary or bool(label.classes)),
        sample=checked_sample(
            name,
            sample,
            binary=binary,
            classes=label.class_names if label.classes else (),
            ranks=loss_kind(metric) == "ranking",
        ),
        rows=rows,
        group=group,
        allow_leakage=_checked_names(
            name, "allow_leakage", allow_leakage, (*there, *(join.name for join in read.joins))
        ),
        trust=trust,
        search=checked_search(name, search, estimator),
    )


def checked_slices(name: str, request: Request, features: FeatureSet, slices: Sequence[str]) -> tuple[str, ...]:
    """Check that the slices are columns or features, and return them.

    Raises:
        Misuse: A name is neither a column of the request nor a feature of the model.
    """
    return _checked_names(name, "slices", slices, (*request.columns, *features.names))


def checked_costs(name: str, costs: GivenCosts, *, binary: bool, label: Label) -> Costs | ClassCosts:
    """Check the costs of wrong predictions, and return them.

    Raises:
        Misuse: A key is unknown or missing, a cost is negative or infinite, all costs are 0, or the model predicts
            numbers.
    """
    if label.classes:
        return ClassCosts(rows=_class_costs(name, costs, label.class_names))
    needed = f'model {name!r}: costs={costs!r}. Needed: {{"false_positive": 1, "false_negative": 5}} with numbers of '
    if not binary:
        raise Misuse(f"{needed}at least 0, and a metric of probabilities (log_loss, brier).")
    if not isinstance(costs, Mapping) or set(costs) != {"false_positive", "false_negative"}:
        raise Misuse(f"{needed}at least 0, under these two names.")
    found = [_cost(value, f"{needed}at least 0.") for value in (costs["false_positive"], costs["false_negative"])]
    if not any(found):
        raise Misuse(f"{needed}at least 0, not both of them 0.")
    return Costs(false_positive=found[0], false_negative=found[1])


def _class_costs(name: str, costs: GivenCosts, classes: Sequence[str]) -> tuple[tuple[float, ...], ...]:
    """Return the cost of each predicted class (second axis) for each true class (first axis); 0 if equal.  # D76"""
    first, second = classes[:2]
    needed = (
        f"model {name!r}: costs={costs!r}. Needed: the costs of wrong predictions, for each true class of "
        f"{', '.join(classes)}: {{{first!r}: 1, {second!r}: {{{first!r}: 5, ...}}, ...}} with numbers of at least 0"
    )
    given = {str(one): row for one, row in costs.items()} if isinstance(costs, Mapping) else {}
    if given.keys() != set(classes):
        raise Misuse(f"{needed}, under these names.")
    rows = []
    for truth in classes:
        row, others = given[truth], [one for one in classes if one != truth]
        if not isinstance(row, Mapping):
            row = dict.fromkeys(others, row)
        row = {str(one): cost for one, cost in row.items()}
        if row.keys() != set(others):
            raise Misuse(f"{needed}; for the true class {truth!r}, one number, or one for each of {', '.join(others)}.")
        rows.append(tuple(0.0 if one == truth else _cost(row[one], f"{needed}.") for one in classes))
    if not any(map(any, rows)):
        raise Misuse(f"{needed}, not all of them 0.")
    return tuple(rows)


def _cost(value: object, needed: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise Misuse(needed)
    return float(value)


def _checked_names(name: str, what: str, given: Sequence[str], there: Sequence[str]) -> tuple[str, ...]:
    names = ", ".join(dict.fromkeys(there))  # a feature may have the name of its column
    for one in [given] if isinstance(given, str) else given:
        if isinstance(given, str) or one not in there:
            raise Misuse(f"model {name!r}: {what}={given!r}. Give a list of names, each one of {names}.")
    return tuple(dict.fromkeys(given))


def _check_metric(name: str, metric: Metric, label: Label) -> None:
    try:
        kind = loss_kind(metric)
    except (Misuse, AttributeError, TypeError):
        names = ", ".join((*CLASS_LOSSES, *LOSSES))
        raise Misuse(
            f"model {name!r}: metric={metric!r} must be one of {names}, tt.pinball(quantile) or tt.ndcg_loss(places)."
        ) from None
    if label.classes and kind != "multiclass":
        raise Misuse(
            f"model {name!r}: metric={metric!r}, but the label has {len(label.classes)} classes. Needed: one of "
            f"{', '.join(CLASS_LOSSES)}."
        )
    if kind == "multiclass" and not label.classes:
        raise Misuse(
            f"model {name!r}: metric={metric!r} is for several classes, but the label declares none. Needed: "
            'tt.label(..., classes=["...", ...]), or another metric.'
        )


_LISTS = ("str", "int")
_NOT_OF_LISTS = {
    "calibration": "scores order a list and are not probabilities. Leave it out, or use metric='log_loss'",
    "costs": "a ranking orders lists and does not answer yes or no. Leave them out",
}


def _check_ranking(name: str, request: Request, group: str | None, **given: object) -> None:
    """Check the group of a ranking, and refuse options that a ranking cannot have. # D86"""
    columns = ", ".join(c for c, dtype in request.columns.items() if dtype in _LISTS and c != request.key)
    if group is None or request.columns.get(group) not in _LISTS:
        found = "has no group" if group is None else f"group={group!r} does not name them"
        raise Misuse(
            f"model {name!r}: it ranks lists and {found}. Needed: a column of the request, of type str or int, "
            'with one value for all rows of a list, e.g. group="search_id". '
            f"Columns of these types: {columns or 'none'}."
        )
    if group == request.key:
        raise Misuse(
            f"model {name!r}: group={group!r} is the key of the request, so that each list has one row and no order. "
            "Give requests a column that names the list, e.g. search_id."
        )
    for what, why in _NOT_OF_LISTS.items():
        if given[what] is not None:
            raise Misuse(f"model {name!r}: {what}={given[what]!r} of a ranking: {why}.")
