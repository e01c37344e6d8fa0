"""Distances of each input's newest day from the profile of the version in service, as metrics for a dashboard."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.monitoring.inputs.input_hours import HourCounts, Layout
from trimtab.stats.drift import js_distances

# For each field of `ColumnDistance`, its function of reference and newest counts, both of shape (columns, bins).
_STATISTICS = {"distance": js_distances}
HOURS = 24  # number of closed hours that are compared: whole days, so that the time of day makes no difference


class ColumnDistance(msgspec.Struct, frozen=True, kw_only=True):
    """The distance of one column of the newest closed day from its profile."""

    distance: float | None  # Jensen-Shannon distance, in [0, 1]; None if either has no values
    null_share: float


def column_distances(layout: Layout, hours: Iterable[HourCounts]) -> dict[str, ColumnDistance]:
    """The distance of each column by the name of the column; empty if there are no rows."""
    some = [one for one in hours if one.rows]
    if not some:
        return {}
    rows = sum(one.rows for one in some)
    actual = layout.by_bin(np.add.reduce([one.bins for one in some]))
    nulls = np.add.reduce([one.nulls for one in some]).sum(axis=1) / rows
    known: NDArray[np.bool_] = (layout.usual.sum(axis=1) > 0) & (actual.sum(axis=1) > 0)
    of_known = {name: iter(statistic(layout.usual[known], actual[known])) for name, statistic in _STATISTICS.items()}
    found: dict[str, ColumnDistance] = {}
    for column, is_known, share in zip(layout.profile.columns, known.tolist(), nulls.tolist(), strict=True):
        values: dict[str, Any] = {name: float(next(one)) if is_known else None for name, one in of_known.items()}
        found[column.name] = ColumnDistance(null_share=share, **values)
    return found
