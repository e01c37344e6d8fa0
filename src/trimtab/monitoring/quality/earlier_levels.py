"""After a change of the data: whether the loss is back at its level before the change.

Alarms are about the excess loss: the loss minus the loss that is expected if the scores are right. They miss a version
that has less information than the one before it: its loss is higher, but its scores are less certain, so the expected
loss is higher, too. For example, if a join breaks and fills a column with values of other rows, the next version no
longer uses the column. So after a change, the loss itself is compared with that before the change. # D0224

Days differ in how hard they are. If twice as many flights are late, each model has a higher loss. So if there are two
classes, the loss is divided by that of a model that always predicts the share of positive labels on the same days.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from trimtab.core.records import DayQuality

MOST_ABOVE: Final = 0.05  # the loss is back at a level if its mean is above it by at most this share
DAYS: Final = 7  # the mean is that of this many days with labels
LEAST_DAYS: Final = 5  # with fewer days with labels, the loss is never found to be above the level
# the loss is provably above the level from this many standard errors on: Student's t, one-sided 95 %, by number of days
_PROVEN: Final = {5: 2.132, 6: 2.015, 7: 1.943}
# for slices, one-sided 99.9 %: each day several are tested, and with few rows, means differ by 5 % by coincidence
_PROVEN_OF_SLICE: Final = {5: 7.173, 6: 5.893, 7: 5.208}


class LossLevel(msgspec.Struct, frozen=True, kw_only=True):
    """The mean loss of some days, in units of the metric, and the share of positive labels on them."""

    loss: float
    positive: float


class EarlierLevel(msgspec.Struct, frozen=True, kw_only=True):
    """The level of the loss before a change, and the newest days of the version that answers after it."""

    level: LossLevel
    version: str  # the version that had this level
    changed_us: int  # when the change began
    # for each of the newest days (at most `DAYS`): number of labelled rows, sum of their losses, sum of their labels
    days: tuple[tuple[int, float, float], ...] = ()
    above: float | None = None  # the newest share (above 5 %) by which the loss exceeds the level; None: never proven
    loss: float = 0.0  # the mean loss of the days from which `above` was computed


def loss_level(days: Sequence[DayQuality], cap: float) -> LossLevel | None:
    """Return the level of some days, whose losses are stored in units of `cap`; None if no row has a label."""
    rows = sum(day.labelled for day in days)
    if not rows:
        return None
    loss, labels = sum(day.capped_loss_sum for day in days) * cap, sum(day.label_sum for day in days)
    return LossLevel(loss=loss / rows, positive=labels / rows)


def added(
    earlier: EarlierLevel, days: Sequence[DayQuality], cap: float, metric: str, *, of_slice: bool = False
) -> EarlierLevel | None:
    """Add days of the version in service, oldest first; return None once the loss is back at the level.

    Args:
        cap: The unit in which the losses of the days are stored.
        metric: The metric of the losses.
        of_slice: Whether the days are those of a slice.
    """
    proof = _PROVEN_OF_SLICE if of_slice else _PROVEN
    rows = [(day.labelled, day.capped_loss_sum * cap, day.label_sum) for day in days if day.labelled]
    newest = (*earlier.days, *rows)[-DAYS:]
    after = msgspec.structs.replace(earlier, days=newest)
    share = share_above(after, metric)
    if len(newest) == DAYS and share <= MOST_ABOVE:
        return None
    if (
        len(newest) >= LEAST_DAYS
        and share > MOST_ABOVE
        and (earlier.above is not None or _is_proven(after, metric, proof))
    ):
        return msgspec.structs.replace(after, above=share, loss=_mean_loss(newest))
    return after


def begun(
    levels: Mapping[str, LossLevel], names: Sequence[str], version: str, changed_us: int
) -> dict[str, EarlierLevel]:
    """Return the levels to compare with after a change, for all rows ("") and for slices, if they are known."""
    return {
        name: EarlierLevel(level=levels[name], version=version, changed_us=changed_us)
        for name in names
        if name in levels and levels[name].loss > 0.0
    }


def share_above(earlier: EarlierLevel, metric: str) -> float:
    """Return by which share the loss of the newest days is above the level; 0 if nothing can be said."""
    rows, loss, labels = (sum(one) for one in zip(*earlier.days, strict=True)) if earlier.days else (0, 0.0, 0.0)
    if not rows:
        return 0.0
    level = earlier.level
    now, before = _of_constant(labels / rows, metric), _of_constant(level.positive, metric)
    if now <= 0.0 or before <= 0.0:
        return 0.0
    return (loss / rows / now) / (level.loss / before) - 1.0


def _mean_loss(days: Sequence[tuple[int, float, float]]) -> float:
    return sum(day[1] for day in days) / sum(day[0] for day in days)


def _is_proven(earlier: EarlierLevel, metric: str, proof: Mapping[int, float]) -> bool:
    """Return whether the loss is provably above the level. Each day is one observation, weighted by its rows."""
    rows = sum(day[0] for day in earlier.days)
    mean = _mean_loss(earlier.days)
    count = len(earlier.days)
    squares = sum((loss - mean * labelled) ** 2 for labelled, loss, _ in earlier.days)
    error = math.sqrt(squares * count / (count - 1)) / rows
    share = share_above(earlier, metric)
    return bool(share / (1.0 + share) * mean > proof[count] * error)


def _of_constant(positive: float, metric: str) -> float:
    """Return the log loss or Brier score of always predicting the share of positive labels; 1 for other metrics."""
    if metric == "log_loss":
        if not 0.0 < positive < 1.0:
            return 0.0
        return -positive * math.log(positive) - (1.0 - positive) * math.log1p(-positive)
    return positive * (1.0 - positive) if metric == "brier" else 1.0
