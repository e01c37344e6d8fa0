"""How far the newest day of each input is from the profile of the version in service, as figures for a dashboard."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

from trimtab.monitoring.input_hours import HourCounts, Layout
from trimtab.stats.drift import js_distance

HOURS = 24  # closed ones that are held against the profile, so that the time of day makes no distance


class ColumnDistance(msgspec.Struct, frozen=True, kw_only=True):
    """One column of the newest closed day against its profile."""

    distance: float | None  # Jensen-Shannon, in [0, 1]; None where either has no values
    null_share: float


def column_distances(layout: Layout, hours: Iterable[HourCounts]) -> dict[str, ColumnDistance]:
    """The distance of each column, by its name; nothing where there were no rows.

    Args:
        layout: Of the profile.
        hours: Summaries of closed hours, made with the same profile.
    """
    some = [one for one in hours if one.rows]
    if not some:
        return {}
    rows = sum(one.rows for one in some)
    bins, nulls = sum(one.bins for one in some), sum(one.nulls for one in some)
    found: dict[str, ColumnDistance] = {}
    for place, column in enumerate(layout.profile.columns):
        expected = np.frombuffer(column.counts, "<i8")
        actual = layout.bins_of(np.asarray(bins), place)
        known = expected.size == actual.size and expected.any() and actual.any()
        found[column.name] = ColumnDistance(
            distance=js_distance(expected, actual) if known else None,
            null_share=float(np.asarray(nulls)[place].sum()) / rows,
        )
    return found
