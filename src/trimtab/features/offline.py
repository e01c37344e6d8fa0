"""Features of many requests at once, from the history of the sources: for training, batch scoring and audits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns import Column, Columns
from trimtab.core.errors import Misuse
from trimtab.core.evaluate_columns import evaluate_columns
from trimtab.events.frames import EventFrame
from trimtab.features.feature_set import FeatureSet
from trimtab.features.frames import FeatureFrame
from trimtab.features.view_columns import evaluate_view


def evaluate(
    features: FeatureSet, requests: Columns, at_us: NDArray[Any], frames: Mapping[str, EventFrame]
) -> FeatureFrame:
    """The features of each request, with what was known at its moment and no more.

    Args:
        features: What to compute.
        requests: The request's columns.
        at_us: The moment each is asked about, int64 microseconds: the request's time minus its lead.
        frames: The events of each view's source, by source, up to the position that is asked about.

    Returns:
        As many rows as `requests`, in their order.

    Raises:
        Misuse: A column or a source is missing or of the wrong type, or an integer overflows.
    """
    at_us = np.asarray(at_us, np.int64)
    _check(features, requests, at_us, frames)
    values: dict[str, Column] = {}
    reasons: dict[str, NDArray[Any]] = {}
    for view in features.views:
        for name, (column, codes) in evaluate_view(view, requests[view.by], at_us, frames[view.source.name]).items():
            values[f"{view.name}.{name}"] = column
            reasons[f"{view.name}.{name}"] = codes
    for name, expression in features.transforms.items():
        values[name] = evaluate_columns(expression, requests, f"feature {name!r}")
    return FeatureFrame(Columns({name: values[name] for name in features.names}), reasons)


def _check(features: FeatureSet, requests: Columns, at_us: NDArray[Any], frames: Mapping[str, EventFrame]) -> None:
    what = f"request {features.request.name!r}"
    needed = {view.by for view in features.views}.union(*(e.columns() for e in features.transforms.values()))
    for name in sorted(needed):
        dtype = features.request.columns[name]
        if name not in requests:
            raise Misuse(f"{what}: needs a column {name!r} of {dtype}; there are {', '.join(requests.names)}.")
        if requests[name].dtype != dtype:
            raise Misuse(f"{what}: column {name!r} must be {dtype}; it is {requests[name].dtype}.")
    if needed and len(at_us) != requests.rows:
        raise Misuse(f"{what}: {requests.rows} rows, but {len(at_us)} moments in at_us. Give one a row.")
    for view in features.views:
        if view.source.name not in frames:
            found = ", ".join(frames) or "none"
            raise Misuse(f"view {view.name!r}: needs the events of {view.source.name!r}; there are those of {found}.")
