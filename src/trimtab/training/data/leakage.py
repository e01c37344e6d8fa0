"""Leakage: information in a training set that will not be known when predictions are requested."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse
from trimtab.features.feature_set import FeatureSet
from trimtab.stats.association import share_interval
from trimtab.training.data.predictive_power import FeaturePower, predictive_power
from trimtab.training.data.retroactive_changes import RetroactiveChange
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model, Task

Check = Literal[
    "known_later",
    "only_in_history",
    "foretells",
    "label_column",
    "own_label",
    "label_at_request",
    "group",
    "repeated",
    "no_values",
]
Severity = Literal["error", "warning"]

# How well a single feature may predict the label. If the lower bound of its AUC or R2 reaches the first number, that is
# an error; if it only reaches the second, a warning. # D64
TOO_GOOD: dict[Task, tuple[float, float]] = {
    "binary": (0.98, 0.95),  # AUC
    "multiclass": (0.98, 0.95),  # AUC of one class against the others
    "regression": (0.999, 0.98),  # R2; the previous value of a series can rightly predict the next one with up to 0.99
    "quantile": (0.999, 0.98),
    "count": (0.999, 0.98),
    "ranking": (0.999, 0.98),
}
# a column has changed often if it changed in 5 requests or more, and the lower bound of their share is 5 % or more
_LEAST_CHANGED, _LEAST_SHARE = 5, 0.05
_LEAST_ASKED = 30  # the checks "only_in_history" and "label_at_request" need at least this many requests


class Leak(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a model may learn from and that is not known when predictions are requested."""

    check: Check
    name: str  # the name of the feature, column or view
    severity: Severity  # if this is "error", the model is not fitted
    found: str  # what was found, in one sentence with numbers
    todo: str  # what the user should do
    allowed: bool = False  # whether the model's `allow_leakage` names it


def find_leaks(model: Model, training_set: TrainingSet, chosen: NDArray[np.int64]) -> tuple[Leak, ...]:
    """Search for possible leaks. Errors come first in the result.

    Args:
        chosen: The indices of the rows to fit on.
    """
    found = [
        *_label_columns(model),
        *_own_labels(model),
        *_known_later(model, training_set.manifest.hindsight),
        *_label_at_request(model, training_set, chosen),
        *_too_good(model, predictive_power(model, training_set, chosen)),
        *_without_values(training_set, chosen),
    ]
    return as_allowed(model, found)


def refuse_leaks(model: Model, leaks: Iterable[Leak]) -> None:
    """Raise an error if there are leaks of severity "error" that the model does not allow.

    Raises:
        Misuse: There are such leaks. The message lists all of them.
    """
    errors = [leak for leak in leaks if leak.severity == "error" and not leak.allowed]
    if not errors:
        return
    sentences = " ".join(f"{leak.found} {leak.todo}" for leak in errors)
    names = ", ".join(f'"{name}"' for name in dict.fromkeys(leak.name for leak in errors))
    raise Misuse(
        f"model {model.name!r}: its training set has information that is not known at request time. {sentences} "
        f"If that is no leak, say so: tt.model(..., allow_leakage=[{names}])."
    )


def as_allowed(model: Model, leaks: Iterable[Leak]) -> tuple[Leak, ...]:
    """Mark the leaks that the model allows, and return all leaks, errors first."""
    marked = [msgspec.structs.replace(leak, allowed=leak.name in model.allow_leakage) for leak in leaks]
    return tuple(sorted(marked, key=lambda leak: leak.severity))


def _without_values(training_set: TrainingSet, chosen: NDArray[np.int64]) -> Iterator[Leak]:
    """Find features that are null in all training rows. They are not leaks, but are overlooked as easily."""
    for name, column in training_set.features.values.by_name.items():
        if chosen.size and column.valid is not None and not column.valid[chosen].any():
            yield Leak(
                check="no_values",
                name=name,
                severity="warning",
                found=f"Feature {name!r} is null in all {chosen.size:,} training rows.",
                todo="Check whether its column was renamed, or its source has no events of that time. If neither is "
                "so, leave the feature out.",
            )


def _label_columns(model: Model) -> Iterator[Leak]:
    """If request and label have the same source, find features that read the label's column."""
    if model.label.source.name != model.request.name:
        return
    for column in sorted(model.label.value.columns() & model.features.request_columns):
        for feature in readers(model.features, column):
            yield Leak(
                check="label_column",
                name=feature,
                severity="error",
                found=f"Feature {feature!r} reads {column!r} of the request, and so does the label.",
                todo="Leave the feature out.",
            )


def _own_labels(model: Model) -> Iterator[Leak]:
    """Find views of the label's source that include events at the time of the request itself."""
    for join in model.features.joins:
        if join.view.boundary == "inclusive" and join.view.source.name == model.label.source.name:
            yield Leak(
                check="own_label",
                name=join.name,
                severity="error",
                found=(
                    f"View {join.name!r} reads {model.label.source.name!r}, where the label comes from, with "
                    'boundary="inclusive": an event at the time of the request is counted, and it may be the '
                    "request's own label."
                ),
                todo='Declare boundary="before".',
            )


def _known_later(model: Model, seen: dict[str, RetroactiveChange]) -> Iterator[Leak]:
    """Find columns of the request whose values in the history are not those at the time of the request.

    They were null or different then, or no logged request has a value at all.
    """
    for column, one in seen.items():
        features = ", ".join(readers(model.features, column))
        if not features or not one.history_filled:
            continue
        if _often(one.filled, one.twice):
            yield Leak(
                check="known_later",
                name=column,
                severity="error",
                found=(
                    f"Column {column!r} was null in {one.filled:,} of {one.twice:,} requests at request time and has "
                    f"a value now; {one.history_filled:,} training rows have the value only from history. Features "
                    f"that read it: {features}."
                ),
                todo='Leave the column out, or train on logged requests: rows="logged".',
            )
        elif one.asked >= _LEAST_ASKED and not one.asked_filled and 2 * one.history_filled >= one.history:
            yield Leak(
                check="only_in_history",
                name=column,
                severity="error",
                found=(
                    f"Column {column!r} has a value in {one.history_filled:,} of {one.history:,} rows from history, "
                    f"and in none of {one.asked:,} logged requests. Features that read it: {features}."
                ),
                todo="Leave the column out, or send it with requests.",
            )
        elif _often(one.changed, one.twice):
            yield Leak(
                check="known_later",
                name=column,
                severity="warning",
                found=(
                    f"Column {column!r} has another value now than at request time in {one.changed:,} of "
                    f"{one.twice:,} requests; {one.history:,} training rows have its value only from history. "
                    f"Features that read it: {features}."
                ),
                todo='To avoid such values, train on logged requests: rows="logged".',
            )


def _label_at_request(model: Model, training_set: TrainingSet, chosen: NDArray[np.int64]) -> Iterator[Leak]:
    """Find labels whose events have the time of the request, and not that of the outcome.

    If labels have such times, features of other requests contain outcomes that were not known yet.
    """
    views = [join.name for join in model.features.joins if join.view.source.name == model.label.source.name]
    if not views or not chosen.size:
        return
    known_us = training_set.label_known_at_us[chosen]
    times = training_set.requests[model.request.time].values[chosen]
    early = int(((known_us == times) | (known_us == training_set.at_us[chosen])).sum())
    if early >= _LEAST_ASKED and share_interval(early, chosen.size).low > 0.5:
        source = model.label.source.name
        yield Leak(
            check="label_at_request",
            name=views[0],
            severity="error",
            found=(
                f"{early:,} of {chosen.size:,} labels were known at the time of their request: {source!r} seems to "
                f"have the times at which things were planned, not at which they happened, and {', '.join(views)} "
                "counts its events from these times on."
            ),
            todo=f"Give {source!r} the time at which its rows become known: time=, delay= or _known_at.",
        )


def _too_good(model: Model, found: Iterable[FeaturePower]) -> Iterator[Leak]:
    for one in found:
        error, warning = TOO_GOOD["binary" if one.measure == "AUC" else model.task]
        if one.interval.low < warning:
            continue
        reads = sorted(columns_read(model.features, one.name))
        inputs = f" It reads {', '.join(reads)} of the request." if reads and reads != [one.name] else ""
        yield Leak(
            check="foretells",
            name=one.name,
            severity="error" if one.interval.low >= error else "warning",
            found=(
                f"Feature {one.name!r} alone predicts the label{one.of} with {one.measure} {one.value:.4f} (lower "
                f"bound {one.interval.low:.4f}, on {one.rows:,} rows; a bound of {error:g} or more is refused)."
                f"{inputs}"
            ),
            todo="Check whether its value is known at request time.",
        )


def _often(some: int, of: int) -> bool:
    return some >= _LEAST_CHANGED and share_interval(some, of).low >= _LEAST_SHARE


def readers(features: FeatureSet, column: str) -> list[str]:
    """Return the features that are computed from a column of the request, directly or through other features."""
    return [name for name in features.names if column in columns_read(features, name)]


def columns_read(features: FeatureSet, name: str) -> set[str]:
    """Return the columns of the request that a feature is computed from or looked up by."""
    joins = {join.name: join for join in features.joins}
    found: set[str] = set()
    waiting, seen = [name], set[str]()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        if one in features.transforms and (one == name or one not in features.request.columns):
            waiting += [c for c in features.transforms[one].columns() if c != one]
            found |= {one} & features.transforms[one].columns() & features.request.columns.keys()
        elif one in features.request.columns:
            found.add(one)
        else:
            waiting += joins[one.partition(".")[0]].by
    return found
