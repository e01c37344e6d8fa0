"""The scorecard of a scenario: daily quality, true and false alarms, fits, refused candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.records import Decision, Signal
from trimtab.core.time import DAY_US
from trimtab.simulation.explanations import Change, changes_of, explanation
from trimtab.simulation.results import ReplayResult, ScenarioResult

ABOVE = 0.10  # a loss is bad if it exceeds the reference by more than this share
_SMOOTH = 3  # the loss is averaged over this many days before it is compared with the reference

Floats = NDArray[np.float64]


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """The loss of one scenario on one day (UTC)."""

    day_us: int
    predictions: int
    judged: int  # the number of labelled rows, or for rankings the number of lists
    value: float | None  # the mean loss
    # the mean loss of the reference: the best possible predictions, or else the best scenario of the replay
    best: float | None


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """A red signal, with the change that explains it if there is one."""

    at_us: int
    kind: str
    subject: str
    onset_us: int
    # the shift or fault that explains the alarm, or "end of" a fault; None: nothing explains it
    explained_by: str | None
    delay_us: int | None = None  # the time from the beginning of that change until the alarm; None: nothing explains it
    onset_off_us: int | None = None  # the alarm's estimate of the beginning minus the true beginning


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A failed attempt to replace the version in service: no candidate was fitted, or the candidate was refused."""

    at_us: int
    why: str


class Scorecard(msgspec.Struct, frozen=True, kw_only=True):
    """The quality, alarms, decisions and fits of one scenario."""

    line: str
    metric: str
    value: float | None  # the mean loss over all labelled rows; None: no row is labelled
    reference: str  # "optimum", or the name of the best scenario
    best: float | None  # the mean loss of the reference on the same rows
    predictions: int
    days: list[Day]
    # on how many judged days the mean loss of the last three days exceeds the reference by more than a tenth
    days_above: int
    bad_requests: int  # the number of requests that were answered on the days above, whatever the version
    above: float | None  # the sum, over all labelled rows, of the loss minus the reference's loss
    alarms: list[Alarm]  # alarms about quality
    input_alarms: list[Alarm]  # alarms about inputs, feeds, traffic and labels
    # whether alarms can be called true or false, because the data were generated or faults were simulated. (In a
    # recorded history with simulated faults, an alarm about a real change counts as false.)
    changes_known: bool
    promotions: int  # how often a version was promoted after the first one
    refusals: list[Refusal]
    fits: int
    fitted_rows: int

    @property
    def false_alarms(self) -> int | None:
        """The number of quality alarms that no change explains; None if the changes are not known."""
        return sum(one.explained_by is None for one in self.alarms) if self.changes_known else None

    @property
    def true_alarms(self) -> int | None:
        """The number of quality alarms that a shift or a fault explains; None if the changes are not known."""
        return sum(one.explained_by is not None for one in self.alarms) if self.changes_known else None


def scorecards(result: ReplayResult) -> list[Scorecard]:
    """Return the scorecard of each scenario."""
    by_scenario = {name: _by_row(scenario) for name, scenario in result.lines.items()}
    found = []
    for name, scenario in result.lines.items():
        reference, best = _reference(result, by_scenario, name)
        found.append(_card(result, scenario, by_scenario[name], reference, best))
    return found


def _by_row(scenario: ScenarioResult) -> Floats:
    """Return the loss of each labelled row. For rankings, one row of each list has the list's loss. Other rows: NaN."""
    losses = np.full(len(scenario.at_us), np.nan)
    rows = np.flatnonzero(scenario.judged)
    own = scenario.measures[0]
    if rows.size and own.units is not None:
        values, place = own.units(scenario.rows(rows))
        losses[rows[place]] = values
    return losses


def _reference(result: ReplayResult, by_scenario: dict[str, Floats], name: str) -> tuple[str, Floats]:
    """Return the name and the losses of a scenario's reference.

    The reference is the best possible predictions, if they are known, and otherwise the best of the scenarios that have
    the same metric and the same labels.
    """
    scenario = result.lines[name]
    if result.optimum is not None and result.optimum.metric == scenario.metric:
        return "optimum", _by_row(result.optimum)
    alike = [
        other
        for other, one in result.lines.items()
        if one.metric == scenario.metric and np.array_equal(one.labels, scenario.labels, equal_nan=True)
    ]
    best = min(alike, key=lambda other: _mean(by_scenario[other]) or 0.0)
    return best, by_scenario[best]


def _card(result: ReplayResult, scenario: ScenarioResult, losses: Floats, reference: str, best: Floats) -> Scorecard:
    days = _days(scenario, losses, best)
    above = _days_above(days)
    there = ~np.isnan(losses)
    changes = changes_of(result.faults, result.shifts, result.start_us, scenario.decisions, scenario.origins)

    def alarms(signals: Sequence[Signal], *, inputs: bool) -> list[Alarm]:
        red = [one for one in signals if one.severity == "red"]
        return [_alarm(one, explanation(one, changes, scenario.origins, inputs=inputs)) for one in red]

    return Scorecard(
        line=scenario.name,
        metric=scenario.metric,
        value=_mean(losses),
        reference=reference,
        best=_mean(best[there]),
        predictions=len(scenario.at_us),
        days=days,
        days_above=len(above),
        bad_requests=sum(day.predictions for day in above),
        above=float((losses[there] - best[there]).sum()) if there.any() else None,
        alarms=alarms(scenario.signals, inputs=False),
        input_alarms=alarms(scenario.input_signals, inputs=True),
        changes_known=bool(result.faults) or result.optimum is not None,
        promotions=sum(one.act == "promote" and one.at_us > result.start_us for one in scenario.decisions),
        refusals=[Refusal(at_us=one.at_us, why=one.cause) for one in scenario.decisions if _refused(one)],
        fits=scenario.fits,
        fitted_rows=scenario.fitted_rows,
    )


def _refused(one: Decision) -> bool:
    return one.act in ("refuse", "failed", "reject")


def _days(scenario: ScenarioResult, losses: Floats, best: Floats) -> list[Day]:
    if not len(scenario.at_us):
        return []
    day = scenario.at_us // DAY_US
    first = int(day.min())
    place = (day - first).astype(np.int64)
    count = int(place.max()) + 1
    there = ~np.isnan(losses)
    answered, judged = (np.bincount(place[rows], minlength=count) for rows in (np.ones(len(day), bool), there))
    sums = [np.bincount(place[there], values[there], count) for values in (losses, best)]
    return [
        Day(
            day_us=(first + n) * DAY_US,
            predictions=int(answered[n]),
            judged=int(judged[n]),
            value=float(sums[0][n] / judged[n]) if judged[n] else None,
            best=float(sums[1][n] / judged[n]) if judged[n] else None,
        )
        for n in range(count)
    ]


def _days_above(days: Sequence[Day]) -> list[Day]:
    """Return the judged days on which the mean of the last three days exceeds the reference by more than a tenth."""
    found = []
    for n, day in enumerate(days):
        part = [one for one in days[max(0, n - _SMOOTH + 1) : n + 1] if one.value is not None and one.best is not None]
        value = sum(one.judged * (one.value or 0.0) for one in part)
        best = sum(one.judged * (one.best or 0.0) for one in part)
        if day.judged > 0 and value > (1.0 + ABOVE) * best:
            found.append(day)
    return found


def _alarm(signal: Signal, change: Change | None) -> Alarm:
    return Alarm(
        at_us=signal.raised_at_us,
        kind=signal.kind,
        subject=signal.subject,
        onset_us=signal.onset_us,
        explained_by=None if change is None else change.said,
        delay_us=None if change is None else signal.raised_at_us - change.start_us,
        onset_off_us=None if change is None else signal.onset_us - change.start_us,
    )


def _mean(values: Any) -> float | None:
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else None
