"""Features of many requests at once, from the history of the sources: for training, batch scoring and audits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns
from trimtab.core.errors import Misuse
from trimtab.core.expressions.by_columns import evaluate_marked
from trimtab.events.columns.frames import EventFrame
from trimtab.features.definitions import Join
from trimtab.features.feature_set import FeatureSet
from trimtab.features.frames import FeatureFrame
from trimtab.features.offline.view_columns import evaluate_view

_logger = logging.getLogger(__name__)
# The value and the reason's code of each feature of a joined view, for the entities that columns name, at times.
ViewAnswer: TypeAlias = Callable[[Join, Sequence[Column], NDArray[Any]], Mapping[str, tuple[Column, NDArray[Any]]]]


def evaluate(
    features: FeatureSet, requests: Columns, at_us: NDArray[Any], frames: Mapping[str, EventFrame]
) -> FeatureFrame:
    """The features of each request, with what was known at its time and no more.

    Args:
        features: What to compute.
        requests: The request's columns.
        at_us: The time of each, int64 microseconds: the request's time minus its lead.
        frames: The events of each view's source, by source, up to the wanted position.

    Returns:
        As many rows as `requests`, in their order.

    Raises:
        Misuse: A column or a source is missing or of the wrong type.
    """
    for view in features.views:
        if view.source.name not in frames:
            found = ", ".join(frames) or "none"
            raise Misuse(f"view {view.name!r}: needs the events of {view.source.name!r}; there are those of {found}.")

    def answer(join: Join, keys: Sequence[Column], at_us: NDArray[Any]) -> Mapping[str, tuple[Column, NDArray[Any]]]:
        return evaluate_view(join.view, keys, at_us, frames[join.view.source.name])

    return evaluate_by(answer, features, requests, at_us)


def evaluate_by(answer: ViewAnswer, features: FeatureSet, requests: Columns, at_us: NDArray[Any]) -> FeatureFrame:
    """Evaluate with any source of view values: frames in memory, or events on disk."""
    at_us = np.asarray(at_us, np.int64)
    check_requests(features, requests, at_us)
    columns = features.request.columns  # any other column of the table is no part of the question
    known = Columns({n: c for n, c in requests.by_name.items() if n in columns or n not in features.known})
    values: dict[str, Column] = {}
    reasons: dict[str, NDArray[Any]] = {}
    failed: dict[str, NDArray[Any]] = {}
    for stage in features.stages:
        for join in stage.joins:
            for name, (column, codes) in answer(join, [known[name] for name in join.by], at_us).items():
                values[f"{join.name}.{name}"] = column
                reasons[f"{join.name}.{name}"] = codes
        known = known.replace({name: column for name, column in values.items() if name not in columns})
        for name, expression in stage.transforms.items():
            found = evaluate_marked(expression, known, f"feature {name!r}")
            values[name] = found.column
            if found.failed is not None:
                failed[name] = found.failed & ~found.column.present()
                _logger.warning("feature %r failed in %d rows: %s", name, found.failed.sum(), found.error)
            if name not in columns:
                known = known.replace({name: values[name]})
    names = features.names
    return FeatureFrame(
        Columns({n: values[n] for n in names}),
        {n: reasons[n] for n in names if n in reasons},
        {n: failed[n] for n in names if n in failed},
    )


def check_requests(features: FeatureSet, requests: Columns, at_us: NDArray[Any]) -> None:
    """Refuse requests that lack what features are computed from.

    Raises:
        Misuse: A column is missing or of the wrong type, or there is not one time a row.
    """
    what = f"request {features.request.name!r}"
    needed = features.request_columns
    for name in sorted(needed):
        dtype = features.request.columns[name]
        if name not in requests:
            raise Misuse(f"{what}: needs a column {name!r} of {dtype}; there are {', '.join(requests.names)}.")
        if requests[name].dtype != dtype:
            raise Misuse(f"{what}: column {name!r} must be {dtype}; it is {requests[name].dtype}.")
    if needed and len(at_us) != requests.rows:
        raise Misuse(f"{what}: {requests.rows} rows, but {len(at_us)} times in at_us. Give one a row.")
