"""Daily summaries of a version's predictions: counts, and sums of scores, labels and losses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.records import LOSS_CAP, DayQuality
from trimtab.core.time import DAY_US
from trimtab.stats.metrics.lists import unit_losses
from trimtab.stats.metrics.losses import Loss, bounded_losses, expected_losses, row_losses
from trimtab.stats.metrics.multiclass import top_class


def day_quality(
    model: str,
    metric: Loss,
    version: str,
    at_us: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any],
    *,
    cap: float = LOSS_CAP,
    lists: NDArray[Any] | None = None,
) -> list[DayQuality]:
    """Return one summary for each UTC day of the predictions' times, oldest first.

    Args:
        at_us: The time of each prediction, int64, shape (rows,).
        scores: The scores, shape (rows,). For several classes, the shape is (rows, classes), and the sums are about the
            likeliest class of each row: its probability, and whether it was the label.
        labels: The labels, shape (rows,). NaN: no label arrived, or it is not one of the classes.
        cap: In `capped_loss_sum`, a row's loss counts as a share of this; larger losses count as 1.
        lists: For a ranking, the index of each row's list, -1 for none, shape (rows,). Lists are then counted in place
            of rows, and a list consists of its rows on that day. A list is labelled if all of its rows have labels, and
            these differ. A list counts as missing if one of its labels is missing, and so does each row without a list.
            A list whose labels are all equal is neither, because no order of it is better than another. The sums of
            scores and labels are 0.
    """
    if lists is not None:
        days = at_us // DAY_US
        return [
            _of_lists(
                model, metric, version, int(day), scores[days == day], labels[days == day], lists[days == day], cap
            )
            for day in np.unique(days)
        ]
    all_rows = np.zeros(len(at_us), np.int64)
    found = days_by_group(model, metric, version, at_us, scores, labels, all_rows, 1, cap=cap)
    return found[0]


def days_by_group(
    model: str,
    metric: Loss,
    version: str,
    at_us: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any],
    groups: NDArray[Any],
    count: int,
    *,
    cap: float = LOSS_CAP,
) -> list[list[DayQuality]]:
    """Return the daily summaries of several groups of rows, in the order of the groups.

    Args:
        metric: The loss to sum, but not that of a ranking.
        at_us, scores, labels, cap: As in `day_quality`.
        groups: The index of each row's group, 0 to `count` - 1, shape (rows,).
    """
    days, place = np.unique(at_us // DAY_US, return_inverse=True)
    cells = groups * days.size + place.reshape(-1)
    there = ~np.isnan(labels)
    y, p = labels[there], scores[there]
    losses = row_losses(metric, y, p) if len(y) else np.zeros(0)
    expected = expected_losses(metric, p, cap)
    if p.ndim == 2:
        p, y = top_class(y, p)

    def counted(cell: NDArray[Any], weights: NDArray[Any] | None = None) -> list[Any]:
        totals: list[Any] = np.bincount(cell, weights=weights, minlength=count * days.size).tolist()
        return totals

    rows, labelled = counted(cells), counted(cells[there])
    sums = [counted(cells[there], values) for values in (p, y, losses, bounded_losses(losses, cap))]
    of_expected = None if expected is None else counted(cells[there], expected)
    found: list[list[DayQuality]] = [[] for _ in range(count)]
    for cell, predictions in enumerate(rows):
        if predictions:
            score_sum, label_sum, loss_sum, capped_sum = (one[cell] for one in sums)
            found[cell // days.size].append(
                DayQuality(
                    model=model,
                    version=version,
                    day_us=int(days[cell % days.size]) * DAY_US,
                    predictions=predictions,
                    labelled=labelled[cell],
                    missing=predictions - labelled[cell],
                    score_sum=score_sum,
                    label_sum=label_sum,
                    loss_sum=loss_sum,
                    capped_loss_sum=capped_sum,
                    expected_loss_sum=None if of_expected is None else of_expected[cell],
                )
            )
    return found


def _of_lists(
    model: str,
    metric: Loss,
    version: str,
    day: int,
    scores: NDArray[Any],
    labels: NDArray[Any],
    lists: NDArray[Any],
    cap: float,
) -> DayQuality:
    named = lists >= 0
    lacking = np.unique(lists[named & np.isnan(labels)])
    whole = named & ~np.isin(lists, lacking)
    losses, _ = unit_losses(metric, labels[whole], scores[whole], lists[whole])
    alone = int((~named).sum())
    return DayQuality(
        model=model,
        version=version,
        day_us=day * DAY_US,
        predictions=int(np.unique(lists[named]).size) + alone,
        labelled=losses.size,
        missing=int(lacking.size) + alone,
        score_sum=0.0,
        label_sum=0.0,
        loss_sum=float(losses.sum()),
        capped_loss_sum=float(bounded_losses(losses, cap).sum()),
    )
