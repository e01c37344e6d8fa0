"""Compute how much of the rise of a model's loss comes from one slice of the data."""

from __future__ import annotations

from collections.abc import Iterable

from trimtab.core.records import ChangeOnset, DayQuality
from trimtab.core.time import DAY_US
from trimtab.feedback.blocks import DayBlocks
from trimtab.monitoring.quality.quality_days import stored_days
from trimtab.serving.arms.arms import CANARY, SHADOW
from trimtab.store.ports import Catalog

BEFORE_DAYS, LEAST_DAYS = 28, 3


def rise_by_slice(catalog: Catalog, model: str, name: str, onset: ChangeOnset) -> float:
    """Return by what share the loss of one slice has raised the mean loss of all rows since a change began.

    Losses are not capped here. Up to 28 days before the earliest possible beginning of the change are compared with the
    days since its most likely beginning; days that are not closed are left out. The result is 0 if fewer than three
    days before or after have labels, if the slice has no labels before or after, or if the mean loss before was 0.
    """
    from_us = min(onset.earliest_us, onset.at_us) - BEFORE_DAYS * DAY_US
    days = [day for day in stored_days(catalog, model, from_us=from_us, slices=True) if day.arm not in (CANARY, SHADOW)]
    before = [day for day in days if day.day_us < min(onset.earliest_us, onset.at_us)]
    since = [day for day in days if day.day_us >= onset.at_us]
    if min(_labelled_days(before), _labelled_days(since)) < LEAST_DAYS:
        return 0.0
    was, rows = _mean_loss(_of_slice(before, name))
    now, slice_rows = _mean_loss(_of_slice(since, name))
    of_all, _ = _mean_loss(day.quality() for day in before)
    _, all_rows = _mean_loss(day.quality() for day in since)
    if not rows or not slice_rows or of_all <= 0.0:
        return 0.0
    return (now - was) * slice_rows / all_rows / of_all


def _of_slice(days: Iterable[DayBlocks], name: str) -> list[DayQuality]:
    return [day.slice_quality(name) for day in days if name in day.slices]


def _labelled_days(days: Iterable[DayBlocks]) -> int:
    return len({day.day_us for day in days if day.whole.labelled})


def _mean_loss(days: Iterable[DayQuality]) -> tuple[float, int]:
    """Return the mean loss of the labelled rows, and the number of these rows."""
    found = list(days)
    rows = sum(day.labelled for day in found)
    return (sum(day.loss_sum for day in found) / rows if rows else 0.0), rows
