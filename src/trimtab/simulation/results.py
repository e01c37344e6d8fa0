"""The results of a replay: metrics of each scenario by month, and comparisons of two scenarios."""

from __future__ import annotations

import datetime as dt
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse
from trimtab.core.records import Decision, Signal
from trimtab.core.shown import Shown
from trimtab.core.time import DAY_US
from trimtab.report import Mark, Picture, Series, line_chart
from trimtab.simulation.explanations import Origins
from trimtab.simulation.faults import Fault
from trimtab.simulation.generating.streams import Shift
from trimtab.simulation.measures import Judged, Measure, measures
from trimtab.stats import Interval, Loss, loss_kind
from trimtab.stats.metrics.multiclass import top_class
from trimtab.training.data.sets import whole_lists

WEEK_US = 7 * DAY_US
SMOOTH_DAYS = 14  # the moving window of plots
_DRAWN = 4  # a plot has at most this many scenarios: more curves would hide each other


class RefusedStart(msgspec.Struct, frozen=True, kw_only=True):
    """A time at which a replay could not start, because a scenario had no version to begin with."""

    at_us: int
    why: str


class MonthRow(msgspec.Struct, frozen=True, kw_only=True):
    """The results of one scenario in one calendar month (UTC), or in all months together."""

    month: str  # "2013-07", or "all"
    predictions: int
    labelled: int
    # the mean label; for several classes, the share of rows whose likeliest class is the label; None for rankings
    label_rate: float | None
    # the mean score; for several classes, the mean probability of the likeliest class; None for rankings
    mean_score: float | None
    metrics: dict[str, float | None]  # metrics by name, beginning with the model's own; None: undefined on these rows


class Comparison(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """A comparison of two scenarios on the same labelled rows. Intervals are from a bootstrap of whole weeks."""

    line: str  # the name of the first scenario
    rival: str  # the name of the second scenario
    # for each metric, its value for `line` minus its value for `rival`; undefined metrics are left out
    metrics: dict[str, Interval]

    @property
    def verdict(self) -> str:
        """Whether the first scenario is "better" or "worse" by its model's own metric, or "no difference shown"."""
        own = next(iter(self.metrics.values()))
        return "better" if own.below(0.0) else "worse" if own.above(0.0) else "no difference shown"


class ScenarioResult(Shown, msgspec.Struct, frozen=True, kw_only=True, eq=False, dict=True):
    """The predictions, labels, decisions and signals of one scenario."""

    name: str
    at_us: NDArray[Any]  # int64: the time of each prediction, in order
    scores: NDArray[Any]  # shape (predictions,); for a model of several classes (predictions, classes)
    labels: NDArray[Any]  # float64: the label of each prediction; NaN if it never arrived
    decisions: list[Decision]
    signals: list[Signal]  # signals about quality
    input_signals: list[Signal] = []  # signals about inputs: columns, feeds, traffic and labels
    metric: Loss = "log_loss"  # the model's own metric
    versions: NDArray[Any] | None = None  # the version that made each prediction
    fits: int = 0  # the number of fits
    fitted_rows: int = 0  # the sum of the numbers of rows of all fits
    cpu_s: float = 0.0  # CPU time, without work that scenarios share; differs from run to run
    lists: NDArray[Any] | None = None  # for rankings: the index of each row's list; -1: no list
    # rows since this time are not judged: the wait for their labels was not over; None: all rows are judged
    final_until_us: int | None = None
    origins: Origins | None = None  # where the model's inputs and its label come from; None: not known

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """The metrics for this kind of model, beginning with its own."""
        return measures(self.metric)

    @cached_property
    def judged(self) -> NDArray[np.bool_]:
        """A mask of the rows that can be judged: those with a label, on days whose wait for labels was over.

        For rankings, all rows of a list must have such labels.
        """
        there = ~np.isnan(self.labels)
        if self.final_until_us is not None:
            there = there & (self.at_us < self.final_until_us)
        return there if self.lists is None else whole_lists(self.lists, there)

    def rows(self, rows: NDArray[Any]) -> Judged:
        """Return the given rows in the form that metrics take."""
        return Judged(self.labels[rows], self.scores[rows], None if self.lists is None else self.lists[rows])

    def months(self) -> list[MonthRow]:
        """Return the results of each month with predictions, and of all months together."""
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


class ReplayResult(Shown, msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The result of a replay."""

    start_us: int
    until_us: int
    lines: dict[str, ScenarioResult]  # by name: the result of each scenario
    entered: int  # the number of events that were written to the log
    quarantined: int
    # for this many requests, features were also computed as in serving, and compared
    checked_rows: int
    checked_values: int
    mismatches: int  # this many values or null reasons differed; 0 is expected
    first_mismatch: str  # the first difference in words; "" if there is none
    faults: list[Fault] = []  # the faults that were simulated
    seed: int = 0
    shifts: list[Shift] = []  # for generated data: their shifts, with days counted from `start_us`
    # for generated data: the best possible predictions, as if a scenario had made them
    optimum: ScenarioResult | None = None
    start_why: str = ""  # a sentence: why this start was chosen; "": the caller chose it
    refused_starts: list[RefusedStart] = []  # earlier times at which the replay could not start

    def compare(self, line: str, rival: str, *, seed: int = 0, repeats: int = 500) -> Comparison:
        """Compare two scenarios on the labelled rows that both scored, with the metrics of the first scenario's model.

        Raises:
            Misuse: The scenarios predict different things (another kind of model, or other labels), or all labelled
                rows are in one week.
        """
        a, b = self.lines[line], self.lines[rival]
        if loss_kind(a.metric) != loss_kind(b.metric) or not np.array_equal(a.labels, b.labels, equal_nan=True):
            raise Misuse(
                f"compare: {line!r} (judged by {a.metric}) and {rival!r} (by {b.metric}) differ in their labels "
                "or in the kind of metric. Compare scenarios of one label and one kind of metric."
            )
        weeks = a.at_us[a.judged] // WEEK_US
        one, other = a.rows(a.judged), b.rows(a.judged)
        found = {m.name: m.difference(one, other, weeks, seed=seed, repeats=repeats) for m in a.measures}
        return Comparison(line=line, rival=rival, metrics={k: v for k, v in found.items() if v is not None})

    def plot(self) -> Picture:
        """Return a picture of the metric over a moving window of 14 days, for the first four scenarios.

        Alarms and promotions of the first scenario, simulated faults and shifts are marked.
        """
        lines = list(self.lines.values())[:_DRAWN]
        series = [_moving(line) for line in reversed(lines)]  # the first scenario is drawn last, on top
        if self.optimum is not None:
            series.append(_moving(self.optimum))
        marks = [
            Mark(at_us=s.raised_at_us, label="alarm", kind="alarm") for s in lines[0].signals if s.severity == "red"
        ]
        marks += [
            Mark(at_us=d.at_us, label="promoted", kind="promotion")
            for d in lines[0].decisions
            if d.act == "promote" and d.at_us > self.start_us
        ]
        marks += [Mark(at_us=one.start_us, label=one.said, kind="change") for one in self.faults]
        marks += [
            Mark(at_us=self.start_us + round(one.day * DAY_US), label=one.said, kind="change") for one in self.shifts
        ]
        marks.sort(key=lambda mark: mark.at_us)
        own = shown_name(lines[0].metric)
        title = f"{own.capitalize()}, mean of {SMOOTH_DAYS} days"
        return Picture((line_chart(series, title=title, y_label=own, marks=marks),))


def month_of(us: int) -> str:
    """Return the calendar month of a time (UTC).

    >>> month_of(1_362_096_000_000_000)
    '2013-03'
    """
    return dt.datetime.fromtimestamp(us / 1e6, dt.UTC).strftime("%Y-%m")


def shown_name(metric: str) -> str:
    """Return the name of a metric as it is shown to people.

    >>> shown_name("root_mean_squared_error"), shown_name("auc")
    ('root mean squared error', 'AUC')
    """
    return "AUC" if metric == "auc" else metric.replace("_", " ")


def _moving(line: ScenarioResult) -> Series:
    days = np.unique(line.at_us // DAY_US)
    own = line.measures[0]
    values: list[float | None] = []
    for day in days.tolist():
        rows = line.judged & (line.at_us // DAY_US <= day) & (line.at_us // DAY_US > day - SMOOTH_DAYS)
        values.append(own.value(line.rows(rows)) if (rows & (line.at_us // DAY_US == day)).any() else None)
    return Series(name=line.name, x=[int(day) * DAY_US for day in days], y=values)
