"""Closed days: what a version's predictions of one UTC day cost, in sums that add up."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.records import DayQuality
from trimtab.core.time import DAY_US
from trimtab.stats.edetector import LOSS_CAP, bounded_losses
from trimtab.stats.losses import Loss, row_losses


def day_quality(
    model: str,
    metric: Loss,
    version: str,
    at_us: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any],
    *,
    cap: float = LOSS_CAP,
) -> list[DayQuality]:
    """One summary a UTC day of the predictions' as-of times, oldest first.

    Args:
        model: The model's name.
        metric: The loss that is summed.
        version: Whose predictions they are.
        at_us: As-of times, int64, shape (rows,).
        scores: Scores, shape (rows,).
        labels: Labels, NaN where none came, shape (rows,).
        cap: The loss at which a row's is capped, and in units of which `capped_loss_sum` is.
    """
    out = []
    days = at_us // DAY_US
    for day in np.unique(days):
        rows = days == day
        labelled = rows & ~np.isnan(labels)
        y, p = labels[labelled], scores[labelled]
        losses = row_losses(metric, y, p) if len(y) else np.zeros(0)
        out.append(
            DayQuality(
                model=model,
                version=version,
                day_us=int(day) * DAY_US,
                predictions=int(rows.sum()),
                labelled=len(y),
                missing=int(rows.sum()) - len(y),
                score_sum=float(p.sum()),
                label_sum=float(y.sum()),
                loss_sum=float(losses.sum()),
                capped_loss_sum=float(bounded_losses(losses, cap).sum()),
            )
        )
    return out
