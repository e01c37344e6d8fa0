"""Distances of each input's newest day from the profile of the version in service, as metrics for a dashboard."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from trimtab.monitoring.inputs.input_hours import HourCounts, Layout

HOURS = 24  # this many closed hours are compared: a whole day, so that the time of day makes no difference


class ColumnDistance(msgspec.Struct, frozen=True, kw_only=True):
    """How far the values of one column in the newest 24 closed hours are from the column's profile.

    To add a distance, write its function in `stats/drift.py`, and add a field here (default: None) and an item of
    `STATISTICS`.
    """

    distance: float | None  # Jensen-Shannon, in [0, 1]; None: no values in these hours or in the profile, or no numbers
    null_share: float


class Statistic(msgspec.Struct, frozen=True):
    """One kind of distance."""

    function: str  # the function in `stats/drift.py`, which takes reference and newest counts, shape (columns, bins)
    metric: str  # the name of the service's metric, which has the labels model and column
    text: str  # the help text of the metric


STATISTICS = {  # by field of `ColumnDistance`
    "distance": Statistic(
        "js_distances", "trimtab_input_distance", "Jensen-Shannon distance of an input's newest day from its profile."
    )
}


def column_distances(layout: Layout, hours: Iterable[HourCounts]) -> dict[str, ColumnDistance]:
    """Return the distances by the name of the column; empty if there are no rows."""
    import numpy as np  # imported here: a service reads `STATISTICS` before it loads NumPy

    from trimtab.stats import drift

    some = [one for one in hours if one.rows]
    if not some:
        return {}
    actual = layout.by_bin(np.add.reduce([one.bins for one in some]))
    nulls = np.add.reduce([one.nulls for one in some]).sum(axis=1) / sum(one.rows for one in some)
    known = (layout.usual.sum(axis=1) > 0) & (actual.sum(axis=1) > 0) & (np.diff(layout.offsets) > 1)
    of_known = {
        name: iter(getattr(drift, one.function)(layout.usual[known], actual[known])) for name, one in STATISTICS.items()
    }
    found: dict[str, ColumnDistance] = {}
    for column, is_known, share in zip(layout.profile.columns, known.tolist(), nulls.tolist(), strict=True):
        values: dict[str, Any] = {name: float(next(one)) if is_known else None for name, one in of_known.items()}
        found[column.name] = ColumnDistance(null_share=share, **values)
    return found
