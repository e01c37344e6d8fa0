"""Distances of each input's newest day from the profile of the version in service, as metrics for a dashboard."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.monitoring.inputs.input_hours import HourCounts, Layout
from trimtab.stats.drift import js_distances

HOURS = 24  # closed hours that are compared, so that the time of day makes no distance


class ColumnDistance(msgspec.Struct, frozen=True, kw_only=True):
    """One column of the newest closed day against its profile."""

    distance: float | None  # Jensen-Shannon, in [0, 1]; None where either has no values
    null_share: float


def column_distances(layout: Layout, hours: Iterable[HourCounts]) -> dict[str, ColumnDistance]:
    """The distance of each column by its name; empty without rows."""
    some = [one for one in hours if one.rows]
    if not some:
        return {}
    rows = sum(one.rows for one in some)
    actual = layout.by_bin(np.add.reduce([one.bins for one in some]))
    nulls = np.add.reduce([one.nulls for one in some]).sum(axis=1) / rows
    known: NDArray[np.bool_] = (layout.usual.sum(axis=1) > 0) & (actual.sum(axis=1) > 0)
    away = np.zeros(layout.width)
    away[known] = js_distances(layout.usual[known], actual[known])
    return {
        column.name: ColumnDistance(distance=away_by if there else None, null_share=share)
        for column, away_by, there, share in zip(
            layout.profile.columns, away.tolist(), known.tolist(), nulls.tolist(), strict=True
        )
    }
