"""Results of a replay: the metrics of each scenario by month, and comparisons of two scenarios."""

from __future__ import annotations

import datetime as dt
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse
from trimtab.core.records import Decision, Signal
from trimtab.core.time import DAY_US
from trimtab.simulation.faults import Fault
from trimtab.simulation.measures import Judged, Measure, measures
from trimtab.simulation.streams import Shift
from trimtab.stats import Interval, Loss, loss_kind
from trimtab.stats.metrics.multiclass import top_class
from trimtab.training.data.sets import whole_lists

WEEK_US = 7 * DAY_US


class MonthRow(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario in one calendar month (UTC), or in all months together."""

    month: str  # "2013-07", or "all"
    predictions: int
    labelled: int
    label_rate: float | None  # the mean label; for several classes how often the likeliest class was right
    mean_score: float | None  # the mean score; for several classes that of the likeliest class; None for rankings
    metrics: dict[str, float | None]  # metrics by name, the model's own first; None: undefined on these rows

    @property
    def log_loss(self) -> float | None:
        """The metric "log_loss"; None for a model that is not judged by it."""
        return self.metrics.get("log_loss")

    @property
    def auc(self) -> float | None:
        """The metric "auc"; None for a model that gives no probability of a class."""
        return self.metrics.get("auc")


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of two scenarios on the same labelled rows; intervals are from a bootstrap of whole weeks."""

    line: str
    rival: str
    metrics: dict[str, Interval]  # by name, metric(`line`) - metric(`rival`); undefined metrics are left out

    @property
    def auc(self) -> Interval:
        """The difference of the AUC; above 0, `line` is better."""
        return self.metrics["auc"]

    @property
    def log_loss(self) -> Interval:
        """The difference of the log loss; below 0, `line` is better."""
        return self.metrics["log_loss"]

    @property
    def verdict(self) -> str:
        """The conclusion from the difference of the model's own metric, in words."""
        own = next(iter(self.metrics.values()))
        return "better" if own.below(0.0) else "worse" if own.above(0.0) else "no difference shown"


class ScenarioResult(msgspec.Struct, frozen=True, kw_only=True, eq=False, dict=True):
    """The answers, labels, decisions and signals of one scenario."""

    name: str
    at_us: NDArray[Any]  # int64, one entry for each prediction, in order
    scores: NDArray[Any]  # for several classes, shape (predictions, classes)
    labels: NDArray[Any]  # float64, NaN if no label came
    decisions: list[Decision]
    signals: list[Signal]  # signals of quality
    input_signals: list[Signal] = []  # signals of inputs: columns, feeds, traffic, labels
    metric: Loss = "log_loss"  # the metric of the model
    versions: NDArray[Any] | None = None  # the version that gave each answer
    fits: int = 0  # number of fits of the recipe, both judged and not judged
    fitted_rows: int = 0  # number of rows of all fits together
    cpu_s: float = 0.0  # CPU time, without work shared with other scenarios; differs from run to run
    lists: NDArray[Any] | None = None  # for rankings: the index of the list of each row, -1 for none

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """The metrics that are reported for the scenario's model, the model's own metric first."""
        return measures(self.metric)

    @cached_property
    def judged(self) -> NDArray[np.bool_]:
        """A mask of the rows that can be judged: rows with a label; for rankings, rows of lists with all labels."""
        there = ~np.isnan(self.labels)
        return there if self.lists is None else whole_lists(self.lists, there)

    def rows(self, rows: NDArray[Any]) -> Judged:
        """Some rows, in the form that metrics take."""
        return Judged(self.labels[rows], self.scores[rows], None if self.lists is None else self.lists[rows])

    def months(self) -> list[MonthRow]:
        """A row for each month with predictions, and a row for all months."""
        days = np.unique(self.at_us // DAY_US)
        names = np.array([month_of(us) for us in days * DAY_US])
        of_row = names[np.searchsorted(days, self.at_us // DAY_US)]
        rows = [self._row(month, of_row == month) for month in dict.fromkeys(names.tolist())]
        return [*rows, self._row("all", np.ones(len(self.at_us), bool))]

    def _row(self, month: str, rows: NDArray[Any]) -> MonthRow:
        found = self.rows(rows & self.judged)
        labels, scores = found.labels, self.scores[rows]
        if self.scores.ndim == 2:
            labels, scores = top_class(found.labels, found.scores)[1], scores.max(axis=1)
        ranks = self.lists is not None
        return MonthRow(
            month=month,
            predictions=int(rows.sum()),
            labelled=len(labels),
            label_rate=float(labels.mean()) if len(labels) and not ranks else None,
            mean_score=float(scores.mean()) if len(scores) and not ranks else None,
            metrics={one.name: one.value(found) if len(labels) else None for one in self.measures},
        )


class ReplayResult(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The result of a replay."""

    start_us: int
    until_us: int
    lines: dict[str, ScenarioResult]
    entered: int  # number of events that were written to the log
    quarantined: int
    checked_rows: int  # number of rows that were also read through the online path
    checked_values: int
    mismatches: int  # number of differences of values or reasons between the two paths; expected: 0
    first_mismatch: str  # the first difference in words; empty if there is none
    faults: list[Fault] = []  # the faults that were put in
    shifts: list[Shift] = []  # the shifts of a generated stream
    optimum: ScenarioResult | None = None  # for a generated stream: the best answers, as a scenario

    def compare(self, line: str, rival: str, *, seed: int = 0, repeats: int = 500) -> Comparison:
        """Compare two scenarios on the labelled rows that both answered, by the metrics of the first scenario's model.

        Raises:
            Misuse: They answer different questions (another kind of model, or other labels), or all labelled rows lie
                within one week.
        """
        a, b = self.lines[line], self.lines[rival]
        if loss_kind(a.metric) != loss_kind(b.metric) or not np.array_equal(a.labels, b.labels, equal_nan=True):
            raise Misuse(
                f"compare: {line!r} is judged by {a.metric}, {rival!r} by {b.metric} or on other labels. Compare "
                "scenarios of one label and one kind of metric."
            )
        weeks = a.at_us[a.judged] // WEEK_US
        one, other = a.rows(a.judged), b.rows(a.judged)
        found = {m.name: m.difference(one, other, weeks, seed=seed, repeats=repeats) for m in a.measures}
        return Comparison(line=line, rival=rival, metrics={k: v for k, v in found.items() if v is not None})


def month_of(us: int) -> str:
    """The calendar month of a time, UTC.

    >>> month_of(1_362_096_000_000_000)
    '2013-03'
    """
    return dt.datetime.fromtimestamp(us / 1e6, dt.UTC).strftime("%Y-%m")
