"""Compute features of many requests at once, from the history of the sources.

Training, batch scoring and the check for skew use this.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
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
# A function of a joined view, the key columns of the entities, and the times of the requests. It returns the values and
# reason codes of each feature of the view.
ViewAnswer: TypeAlias = Callable[[Join, Sequence[Column], NDArray[Any]], Mapping[str, tuple[Column, NDArray[Any]]]]


def evaluate(
    features: FeatureSet, requests: Columns, at_us: NDArray[Any], frames: Mapping[str, EventFrame]
) -> FeatureFrame:
    """Compute the features of each request from what was known at its time, and from nothing that became known later.

    Args:
        at_us: The time as of which to compute each request's features, in microseconds, int64. It is before the
            request's own time if `features.request` declares a lead.
        frames: For each source of a view, its events up to the wanted position in the log.

    Returns:
        One row for each request, in the order of the requests.

    Raises:
        Misuse: A column or a source is missing, or has the wrong type.
    """
    for view in features.views:
        if view.source.name not in frames:
            found = ", ".join(frames) or "none"
            raise Misuse(f"view {view.name!r}: needs the events of {view.source.name!r}; found the events of {found}.")

    def answer(join: Join, keys: Sequence[Column], at_us: NDArray[Any]) -> Mapping[str, tuple[Column, NDArray[Any]]]:
        return evaluate_view(join.view, keys, at_us, frames[join.view.source.name])

    return evaluate_by(answer, features, requests, at_us)


def evaluate_by(
    answer: ViewAnswer, features: FeatureSet, requests: Columns, at_us: NDArray[Any], each: Callable[..., Any] = map
) -> FeatureFrame:  # fmt: skip
    """Compute features. `answer` computes those of views, from events that may be in memory or on disk.

    `each` applies a function to several views, like `map`, perhaps in threads.
    """
    at_us = np.asarray(at_us, np.int64)
    check_requests(features, requests, at_us)
    columns = features.request.columns  # undeclared columns with the name of a feature are left out
    known = Columns({n: c for n, c in requests.by_name.items() if n in columns or n not in features.known})
    values: dict[str, Column] = {}
    reasons: dict[str, NDArray[Any]] = {}
    failed: dict[str, NDArray[Any]] = {}
    for stage in features.stages:
        joins = sorted(stage.joins, key=lambda join: join.view.source.name)  # so a source on disk is read once
        keys = [[known[name] for name in join.by] for join in joins]
        for join, found in zip(joins, each(answer, joins, keys, repeat(at_us)), strict=True):
            for name, (column, codes) in found.items():
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
    """Refuse requests that lack a column or a time that is needed.

    Raises:
        Misuse: A column is missing or has the wrong type, or there is not one time per row.
    """
    what = f"request {features.request.name!r}"
    needed = features.request_columns
    for name in sorted(needed):
        dtype = features.request.columns[name]
        if name not in requests:
            raise Misuse(f"{what}: needs a column {name!r} of {dtype}; found the columns {', '.join(requests.names)}.")
        if requests[name].dtype != dtype:
            raise Misuse(f"{what}: column {name!r} must be {dtype}; it is {requests[name].dtype}.")
    if needed and len(at_us) != requests.rows:
        raise Misuse(f"{what}: {requests.rows} rows, but {len(at_us)} times in at_us. Give one time for each row.")
