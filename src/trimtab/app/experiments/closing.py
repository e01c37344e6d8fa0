"""Close the days of experiments: store exact sums over the units that were first exposed on each day.

A day is closed once, after the windows of all its units and the waits for labels and late events have passed. What
becomes known later does not change its sums. 1, 7 and 28 days later its outcomes are read again: if some came late,
their number, and sums that include them, are stored next to the day's own sums.

Everything is computed from the logs, so a killed process loses nothing: the next one closes the same day with the same
sums.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.app.experiments.assigning import lacking, placed
from trimtab.app.experiments.evaluating import evaluating
from trimtab.app.experiments.logged_units import LoggedUnits
from trimtab.app.experiments.prediction_values import PredictionValues
from trimtab.app.state.lease import Lease
from trimtab.core.time import DAY_US
from trimtab.experiments.assignment import FALLBACKS, share_was_lowered
from trimtab.experiments.day_sums import DaySums, late_outcomes
from trimtab.experiments.days import (
    DueDay,
    Reached,
    days_to_read_again,
    due_days,
    end_us,
    intake_end_us,
    longest_wait_us,
    put_late,
    put_reached,
    store_day,
    stored_days,
    stored_lateness,
    stored_reached,
)
from trimtab.experiments.exposures import ExposureBlock, Intake, read_exposures
from trimtab.experiments.first_exposures import FirstExposures, first_exposures, not_in, unpacked_units
from trimtab.experiments.records import KIND, ExperimentDay, ExperimentState, stored_definition
from trimtab.experiments.unit_values import Evaluate, MetricFeatures, UnitValues, event_counts
from trimtab.monitoring.inputs.red_windows import red_windows
from trimtab.steering.ledger import Ledger
from trimtab.store.ports import Put

if TYPE_CHECKING:
    from trimtab.app.system import System

_MARKED = {"train": "retraining", "promote": "promotion", "roll_back": "roll back"}  # by act of the ledger


def close_due(system: System, experiment: str | None = None) -> list[ExperimentDay]:
    """Close the days that can be closed now, of one experiment or of all. Return the days that were closed.

    An experiment is left out if another process is closing its days, or if it reads something that the project file no
    longer declares. In the second case, its status and its report say so (`cannot_close`).

    Raises:
        Exception: The error of the first experiment whose days cannot be closed. The days of all others are closed
            first.
    """
    system.state.check_clock()  # if the clock is ahead, days in the future would be closed. # D0170
    days: list[ExperimentDay] = []
    failed: list[Exception] = []
    for record in system.state.catalog.find(KIND):
        state = msgspec.json.decode(record.body, type=ExperimentState)
        if experiment in (None, state.name) and lacking(system, stored_definition(state)) is None:
            try:
                days += _close(system, state)
            except Exception as error:  # may come from a user's code; the others are closed first
                error.add_note(f"The days of experiment {state.name!r} were being closed.")
                failed.append(error)
    if failed:
        raise failed[0]
    return days


def _close(system: System, state: ExperimentState) -> list[ExperimentDay]:
    lease = Lease(system.state.catalog, f"experiment.{state.name}", system.state.folder)
    if not lease.take():
        return []
    try:
        days = ExperimentDays(system, state)
        closed = days.close()
        days.read_again()
        return closed
    finally:
        lease.release()


class ExperimentDays:
    """Computes and stores the days of one experiment, by the definition that it was started with."""

    def __init__(self, system: System, state: ExperimentState) -> None:
        self._system = system
        self._state = state
        self.definition = definition = placed(system, stored_definition(state))
        self._model = None if definition.model is None else system.definitions.deployment(definition.model).model
        self._end_us, self._intake_end_us = end_us(state, definition), intake_end_us(state, definition)
        self._testers = {*system.declared.experiments.get(state.name, definition).overrides}
        self._features = MetricFeatures(definition.metrics, len(definition.unit), ages=True)
        self._wait_us = longest_wait_us(definition.metrics, None if self._model is None else self._model.label)
        self._units: LoggedUnits | None = None
        self._predictions: PredictionValues | None = None
        if self._model is not None:
            self._units = LoggedUnits(system, definition, state, self._model.request)
            values = PredictionValues(system, definition.metrics, self._model, self._units)
            self._predictions = values if values.metrics else None

    def close(self) -> list[ExperimentDay]:
        """Close the days that can be closed now, each in one transaction.

        Raises:
            Conflict: Another process has closed a day meanwhile.
        """
        catalog, blob = self._system.state.catalog, self._system.state.blob
        reached, revision = stored_reached(catalog, self._state)
        due = list(due_days(reached, self._end_us, self._wait_us, self._system.clock.now_us()))
        days: list[ExperimentDay] = []
        if not due:
            self._count_cut(reached, revision)
            return days
        what = ["experiment", self._state.name, self._state.generation, [one.day_us for one in due]]
        with evaluating(self._system, self._features.every, what) as evaluate:
            for one in due:
                day, first = self.day(one, reached, evaluate)
                units = blob.put(first.packed()) if len(first) else ""
                crossed = blob.put(first.met_another.tobytes()) if len(first.met_another) else ""
                puts, reached = store_day(day, units, crossed, reached, revision)
                catalog.write(puts)
                revision += 1
                days.append(day)
        self._count_cut(reached, revision)
        return days

    def _count_cut(self, reached: Reached, revision: int) -> None:
        """Once the last day is closed, count the units that are left out because the end cut their windows."""
        ended, from_us = self._state.ended_at_us is not None, max(self._end_us, self._state.started_at_us)
        if not ended or reached.cut_units is not None or reached.closed_until_us < self._end_us:
            return
        intake = self._intake(DueDay(from_us, self._system.clock.now_us()))
        intake = msgspec.structs.replace(intake, from_us=from_us, until_us=self._intake_end_us)
        earlier = (unpacked_units(self._system.state.blob.get(digest)) for digest in reached.units)
        units = len(first_exposures(self._exposures(intake), earlier)) if from_us < self._intake_end_us else 0
        put = put_reached(self._state.name, msgspec.structs.replace(reached, cut_units=units), revision)
        self._system.state.catalog.write([put])

    def day(self, due: DueDay, reached: Reached, evaluate: Evaluate) -> tuple[ExperimentDay, FirstExposures]:
        """Compute a day from the logs.

        Args:
            reached: How far days are closed, and the units of earlier days.

        Returns:
            The day, and the units that were first exposed on it or that were exposed to a second variant on it.
        """
        state, intake, blob = self._state, self._intake(due), self._system.state.blob
        lacking = self._lacking(intake)
        # `earlier` yields the units of earlier days, and meanwhile removes them from `lacking`
        earlier = _without(lacking, (unpacked_units(blob.get(digest)) for digest in reached.units))
        first = first_exposures(self._exposures(intake), earlier, self._fallbacks(intake))
        met_another = not_in(first.met_another, (blob.get(digest) for digest in reached.crossed))
        first = msgspec.structs.replace(first, met_another=met_another)
        left = self._left_out(first, intake)
        sums = self._sums(self._features, first, left, intake, evaluate)
        variants = [] if left is None else first.variants[left].tolist()
        day = ExperimentDay(
            experiment=state.name,
            generation=state.generation,
            day_us=due.day_us,
            known_by_us=due.known_by_us,
            variants=sums.variants(),
            crossed=len(first.met_another),
            left_out={
                name: count for code, name in enumerate(self.definition.variants) if (count := variants.count(code))
            },
            not_eligible=dict(sorted(Counter(lacking.values()).items())),
            crowded=sums.crowded,
            marks=self._marks(due.day_us),
            excluded=self._excluded(due.day_us),
        )
        return day, first

    def read_again(self) -> None:
        """Read again the outcomes of days that were closed some days ago (`LATE_AFTER`), and store what came late.

        If late outcomes changed the sums of a day, the sums that it had when it was closed are computed again, too. If
        these differ from the stored ones, because exposures or events were removed or units became testers, the day is
        left as it is.

        Raises:
            Conflict: Another process has stored the outcomes meanwhile.
        """
        state, now_us = self._state, self._system.clock.now_us()
        catalog, blob = self._system.state.catalog, self._system.state.blob
        reached, revision = stored_reached(catalog, state)
        due, reached_now = days_to_read_again(reached, state, self._wait_us, now_us)
        if not due:
            return
        counts = event_counts(self.definition.metrics)
        metrics = [*self.definition.metrics, *counts.values()]
        features = MetricFeatures(metrics, len(self.definition.unit), ages=True)
        units, earlier, puts = iter(reached.units), list[str](), list[Put]()
        with evaluating(self._system, features.every, ["late", state.name, state.generation, [*due]]) as evaluate:
            for day in stored_days(catalog, state.name, state.generation):
                if not day.left_out and not any(one.units + one.testers for one in day.variants.values()):
                    continue
                if day.day_us in due:
                    intake = self._intake(DueDay(day.day_us, day.known_by_us))
                    known = (unpacked_units(blob.get(digest)) for digest in earlier)
                    first = first_exposures(self._exposures(intake), known)
                    until_us = day.known_by_us + due[day.day_us] * DAY_US
                    left = self._left_out(first, intake)
                    after = self._sums(features, first, left, intake, evaluate, until_us)
                    with_late = None if after.variants() == day.variants else after.variants()
                    before = None if with_late == day.with_late else self._sums(features, first, left, intake, evaluate)
                    if before is not None and before.variants() == day.variants:
                        late = late_outcomes(self.definition.metrics, before, after)
                        found = msgspec.structs.replace(day, with_late=with_late, late=late)
                        puts.append(put_late(catalog, found))
                earlier.append(next(units))
        catalog.write([*puts, put_reached(state.name, reached_now, revision)])

    def _intake(self, due: DueDay) -> Intake:
        from_us, until_us = max(due.day_us, self._state.started_at_us), min(due.day_us + DAY_US, self._end_us)
        return Intake(from_us, until_us, due.known_by_us, stored_lateness(self._system.state.catalog, self._state)[0])

    def _sums(
        self,
        features: MetricFeatures,
        first: FirstExposures,
        left_out: NDArray[Any] | None,
        intake: Intake,
        evaluate: Evaluate,
        known_by_us: int | None = None,
    ) -> DaySums:
        """Add up the units' values. With `known_by_us`, outcomes that became known until then count, too."""
        sums = DaySums(self.definition)
        of_predictions, labels = dict[str, UnitValues](), None
        if self._predictions is not None:
            of_predictions, labels = self._predictions.of(first, intake, known_by_us)
        for units in first.chunks(self._exposures(intake)):
            if left_out is not None:
                units = units.take(~left_out[first.rows_of(units.keys)[0]])
            values = features.values(list(units.units), units.at_us, known_by_us or intake.known_by_us, evaluate)
            rows, _ = first.rows_of(units.keys)
            if self._testers:  # some became testers after their first exposure
                now = np.array([unit in self._testers for unit in units.units.tolist()], bool)
                units = msgspec.structs.replace(units, overrides=units.overrides | now)
            values |= {name: found.take(rows) for name, found in of_predictions.items()}
            sums.add(units, values, None if labels is None else labels[rows])
        return sums

    def _left_out(self, first: FirstExposures, intake: Intake) -> NDArray[Any] | None:
        """Return which units met another variant before their day was closed; None if such units count.

        In a switchback, none is left out: a unit counts once in each block of time, and has a single variant there.
        """
        if self.definition.crossovers == "first":
            return None
        until_us = min(self._intake_end_us, max(intake.known_by_us, intake.until_us))
        longer = msgspec.structs.replace(intake, until_us=until_us)
        return first.crossed(chain(self._exposures(longer), self._fallbacks(longer)))

    def _exposures(self, intake: Intake) -> Iterator[ExposureBlock]:
        """Yield the exposures that may be the first of their units on a day.

        For an experiment over versions or deployments, these are predictions, and logged exposures of
        requests that got no answer.
        """
        codes = {name: code for code, name in enumerate(self.definition.variants)}
        state = self._state
        logged = read_exposures(self._system.state.exposures, intake, state.name, state.generation, codes)
        return logged if self._units is None else chain(self._units.exposures(intake), logged)

    def _fallbacks(self, intake: Intake) -> Iterator[ExposureBlock]:
        """Yield exposures of units that got the control due to a pause, a lower share, `where` or a missing feature."""
        state = self._state
        lowered = share_was_lowered(state)
        if (self.definition.where is None and not lowered) or self.definition.switchback is not None:
            return iter(())
        logged = read_exposures(self._system.state.exposures, intake, state.name, state.generation, {"": 0})
        if self._units is None:
            return logged
        return chain(self._units.not_eligible(intake), self._units.missing(intake), logged)

    def _lacking(self, intake: Intake) -> dict[int, str]:
        """Return the hashes of units that took no part because features were missing, each with a text naming these.

        Units that took part later, but before the day is closed, are left out.
        """
        if not self.definition.features:
            return {}
        state = self._state
        logged = read_exposures(self._system.state.exposures, intake, state.name, state.generation, {"": 0})
        seen: dict[int, str] = {}
        for block in logged if self._units is None else chain(self._units.missing(intake), logged):
            for key, reason in zip(block.keys.tolist(), block.reasons.tolist(), strict=True):
                if reason not in FALLBACKS:
                    seen.setdefault(key, reason)
        if seen:
            until_us = min(self._intake_end_us, max(intake.known_by_us, intake.until_us))
            later = self._exposures(msgspec.structs.replace(intake, until_us=until_us))
            for _ in _without(seen, ((block.keys, block.variants) for block in later)):
                pass
        return seen

    def _marks(self, day_us: int) -> tuple[str, ...]:
        """Return what else happened on a day: changed shares, and what the loop did with the model."""
        state, models = self._state, self.definition.models
        found = ["changed shares"] if any(_on(day_us, one.from_us) for one in state.allocations[1:]) else []
        rows = Ledger(self._system.state.catalog).rows() if models else []
        acts = [row.act for row in rows if row.model in models and _on(day_us, row.at_us)]
        found += [_MARKED[act] for act in acts if act in _MARKED]
        return tuple(dict.fromkeys(found))

    def _excluded(self, day_us: int) -> str | None:
        """Return why a day does not count: the inputs or the labels of a model were faulty at some time of the day."""
        system = self._system
        for model in self.definition.models:
            # the values of the unit's own columns matter only if the model reads them
            read = system.definitions.deployment(model).model.features.request_columns
            ids = {f"column {name}" for name in self.definition.unit if name not in read}
            for window in red_windows(system.state.catalog, model):
                on_day = window.start_us < day_us + DAY_US and (window.end_us is None or window.end_us > day_us)
                if on_day and window.subject not in ids:
                    return f"red window: {window.kind}{f' of {window.subject}' if window.subject else ''}"
        return None


def _without(
    lacking: dict[int, str], units: Iterable[tuple[NDArray[Any], NDArray[Any]]]
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield hashes and variants of units, and remove these units from `lacking`."""
    for keys, variants in units:
        if lacking:
            for key in keys[np.isin(keys, np.array([*lacking], np.uint64))].tolist():
                lacking.pop(key, None)
        yield keys, variants


def _on(day_us: int, at_us: int) -> bool:
    return day_us <= at_us < day_us + DAY_US
