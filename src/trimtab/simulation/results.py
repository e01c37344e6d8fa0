"""What a replay found: a table by month for each line, and how the lines compare."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.records import Decision, Signal
from trimtab.core.time import DAY_US
from trimtab.stats import Interval, auc, log_loss, paired_difference

WEEK_US = 7 * DAY_US


class MonthRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line in one calendar month (UTC), or in all of them."""

    month: str  # "2013-07", or "all"
    predictions: int
    labelled: int
    label_rate: float | None
    mean_score: float | None
    log_loss: float | None
    auc: float | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Line a against line b on the same labelled rows; intervals from a bootstrap of whole weeks."""

    line: str
    rival: str
    auc: Interval  # of AUC(line) - AUC(rival): above 0 is better
    log_loss: Interval  # of loss(line) - loss(rival): below 0 is better


class LineResult(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Everything that one line did."""

    name: str
    at_us: NDArray[Any]  # int64, one entry a prediction, in order
    scores: NDArray[Any]
    labels: NDArray[Any]  # float64, NaN where no label came
    decisions: list[Decision]
    signals: list[Signal]

    def months(self) -> list[MonthRow]:
        """A row for each month with predictions, and one for all."""
        names = np.array([month_of(us) for us in np.unique(self.at_us // DAY_US) * DAY_US])
        days = np.unique(self.at_us // DAY_US)
        of_row = names[np.searchsorted(days, self.at_us // DAY_US)]
        rows = [self._row(month, of_row == month) for month in dict.fromkeys(names.tolist())]
        return [*rows, self._row("all", np.ones(len(self.at_us), bool))]

    def _row(self, month: str, rows: NDArray[Any]) -> MonthRow:
        labelled = rows & ~np.isnan(self.labels)
        y, p = self.labels[labelled], self.scores[labelled]
        return MonthRow(
            month=month,
            predictions=int(rows.sum()),
            labelled=len(y),
            label_rate=float(y.mean()) if len(y) else None,
            mean_score=float(self.scores[rows].mean()) if rows.any() else None,
            log_loss=log_loss(y, p) if len(y) else None,
            auc=auc(y, p) if len(y) else None,
        )


class ReplayResult(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a replay found."""

    start_us: int
    until_us: int
    lines: dict[str, LineResult]
    entered: int  # events that entered the log
    quarantined: int
    checked_rows: int  # rows that were also read through the online path
    checked_values: int
    mismatches: int  # of values or reasons between the two paths; expected: 0
    first_mismatch: str  # in words; empty when there is none

    def compare(self, line: str, rival: str, *, seed: int = 0, repeats: int = 500) -> Comparison:
        """Two lines on the rows that both answered and that have a label."""
        a, b = self.lines[line], self.lines[rival]
        rows = ~np.isnan(a.labels)
        weeks = a.at_us[rows] // WEEK_US
        y, p, q = a.labels[rows], a.scores[rows], b.scores[rows]
        return Comparison(
            line=line,
            rival=rival,
            auc=paired_difference("auc", y, p, q, weeks, seed=seed, repeats=repeats),
            log_loss=paired_difference("log_loss", y, p, q, weeks, seed=seed, repeats=repeats),
        )


def month_of(us: int) -> str:
    """The calendar month of a moment, UTC.

    >>> month_of(1_362_096_000_000_000)
    '2013-03'
    """
    return dt.datetime.fromtimestamp(us / 1e6, dt.UTC).strftime("%Y-%m")
