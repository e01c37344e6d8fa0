"""Closed days: what a version's predictions of one UTC day cost, in sums that add up."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.records import LOSS_CAP, DayQuality
from trimtab.core.time import DAY_US
from trimtab.stats.lists import unit_losses
from trimtab.stats.losses import Loss, bounded_losses, expected_losses, row_losses
from trimtab.stats.multiclass import top_class


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
    unlisted: NDArray[Any] | None = None,
) -> list[DayQuality]:
    """One summary a UTC day of the predictions' as-of times, oldest first.

    Args:
        model: The model's name.
        metric: The loss that is summed.
        version: Whose predictions they are.
        at_us: As-of times, int64, shape (rows,).
        scores: Scores, shape (rows,), of several classes (rows, classes); then the sums of scores and labels are of
            each row's likeliest class: its chance, and how often it was the label.
        labels: Labels, NaN where none came, or none of the label's classes, shape (rows,).
        cap: The loss at which a row's is capped, and in units of which `capped_loss_sum` is.
        lists: Of a ranking: the list of each row, -1 for none, shape (rows,). Then lists are counted, with their rows
            of the day: as labelled those that have all labels, of rows that differ; as missing those that lack one, and
            each row of no list. Of the others no order is better. Sums of scores and labels are 0.
        unlisted: Whether a label came that is none of the classes, a mask; left out, there are none.
    """
    out = []
    days = at_us // DAY_US
    for day in np.unique(days):
        rows = days == day
        if lists is not None:
            out.append(_of_lists(model, metric, version, int(day), scores[rows], labels[rows], lists[rows], cap))
            continue
        labelled = rows & ~np.isnan(labels)
        y, p = labels[labelled], scores[labelled]
        strange = 0 if unlisted is None else int((unlisted & rows).sum())
        losses = row_losses(metric, y, p) if len(y) else np.zeros(0)
        expected = expected_losses(metric, p, cap)
        if p.ndim == 2:
            p, y = top_class(y, p)
        out.append(
            DayQuality(
                model=model,
                version=version,
                day_us=int(day) * DAY_US,
                predictions=int(rows.sum()),
                labelled=len(y),
                missing=int(rows.sum()) - len(y) - strange,
                score_sum=float(p.sum()),
                label_sum=float(y.sum()),
                loss_sum=float(losses.sum()),
                capped_loss_sum=float(bounded_losses(losses, cap).sum()),
                expected_loss_sum=None if expected is None else float(expected.sum()),
                unlisted=strange,
            )
        )
    return out


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
    told = named & ~np.isin(lists, lacking)
    losses, _ = unit_losses(metric, labels[told], scores[told], lists[told])
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
