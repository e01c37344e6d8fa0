"""Compute the values of the loop's metrics from records of the catalogue alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import msgspec

from trimtab.app.inspect.estimates import estimated_days, newest_estimate
from trimtab.app.inspect.quality import mean_excess, version_name
from trimtab.app.state.loop_turn import last_activity
from trimtab.app.system import System
from trimtab.core.time import DAY_US
from trimtab.monitoring.inputs.input_state import KIND as INPUTS
from trimtab.monitoring.inputs.input_state import InputWatch
from trimtab.monitoring.inputs.profile_distances import STATISTICS
from trimtab.monitoring.quality.quality import KIND as QUALITY
from trimtab.monitoring.quality.quality_days import DaySums, stored_sums
from trimtab.monitoring.quality.quality_signals import KINDS
from trimtab.monitoring.quality.watches import CALIBRATION, LOSS, SLICE, MetricValue, Watch
from trimtab.monitoring.signals import standing_signals
from trimtab.registry.protection import CHAMPION
from trimtab.stats.exact_sums import rounded
from trimtab.stats.inference.edetector import alarm_threshold
from trimtab.steering.definitions import Deployment
from trimtab.steering.loop.loop import KIND as REACHED
from trimtab.steering.loop.loop import Reached
from trimtab.steering.loop_state import FREEZE, LoopState
from trimtab.steering.loop_state import KIND as STATE
from trimtab.store.ports import read_record

Labels: TypeAlias = tuple[str, ...]
Samples: TypeAlias = "dict[str, dict[Labels, float]]"  # the value of each metric, by metric and label values

PHASES = ("idle", "waiting", "shadow", "waiting for approval", "canary", "promoting")
SEVERITIES = ("red", "info")
# The labels of a day are read at its close (age 0), and again 1, 7 and 28 days later (`steering.loop.AMENDED_AFTER`).
# For each age: the days over which the completeness of labels at this age is computed, counted back from the newest
# closed day (0). Age 0 uses what was read at the close, in any of these days; the other ages use days whose newest
# reading was at this age.
AGES = {0: range(7), 1: range(1, 7), 7: range(7, 14), 28: range(28, 35)}


class DayValues(msgspec.Struct, frozen=True, kw_only=True):
    """Values of metrics from a model's closed days. They only change when a day is closed."""

    read_at: int  # the revision of the record of closed days that was read
    samples: dict[str, dict[Labels, float]]


class LoopValues:
    """Reads the values of the metrics. Closed days are read again only after another day was closed."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._days: dict[str, DayValues] = {}  # by model

    def read(self) -> Samples:
        """Return the values of all deployments as of now.

        Raises:
            TrimtabError: A record cannot be read.
            msgspec.MsgspecError: A record was written by another trimtab.
        """
        found: Samples = {}
        frozen = self._system.state.catalog.get(FREEZE, "all") is not None
        _put(found, "trimtab_loop_frozen", (), frozen)
        for deployment in self._system.definitions.deployments.values():
            values = (*self._of_loop(deployment), *self._of_watch(deployment), *self._of_inputs(deployment))
            for name, labels, value in values:
                _put(found, name, (deployment.name, *labels), value)
            for name, samples in self._of_days(deployment).items():
                found.setdefault(name, {}).update(samples)
        return found

    def _of_loop(self, deployment: Deployment) -> Iterator[tuple[str, Labels, float]]:
        catalog, model = self._system.state.catalog, deployment.name
        turn = last_activity(catalog, model)
        ticked_us = None if turn is None else turn.last_tick_us
        yield "trimtab_loop_last_tick_timestamp_seconds", (), (ticked_us or 0) / 1e6
        yield "trimtab_loop_tick_failed", (), turn is not None and turn.last_error is not None
        record = catalog.get(STATE, model)
        phase = "idle" if record is None else msgspec.json.decode(record.body, type=LoopState).phase
        for one in PHASES:
            yield "trimtab_loop_phase", (one.replace(" ", "_"),), one == phase
        signals = standing_signals(catalog, model)
        count = Counter((one.kind, one.severity) for one in signals)
        for kind in sorted({*KINDS, *(kind for kind, _ in count)}):
            for severity in SEVERITIES:
                yield "trimtab_signal_standing", (kind, severity), (kind, severity) in count
        for severity in SEVERITIES:
            yield "trimtab_standing_signals", (severity,), sum(one.severity == severity for one in signals)
        red = [one.raised_at_us for one in signals if one.severity == "red"]
        if red:
            yield "trimtab_oldest_red_signal_timestamp_seconds", (), min(red) / 1e6

    def _of_watch(self, deployment: Deployment) -> Iterator[tuple[str, Labels, float]]:
        watch = read_record(self._system.state.catalog, QUALITY, deployment.name, Watch)
        champion = self._system.registry.aliases(deployment.name).get(CHAMPION)
        if watch is not None and (champion is None or watch.version != champion.version):
            watch = None  # the record is about a version that is no longer deployed, until the loop runs again
        for kind in (LOSS,) if deployment.model.task == "ranking" else (LOSS, CALIBRATION):
            watched = watch is not None and (kind in watch.figures or kind in watch.healthy)
            yield "trimtab_quality_watched", (kind,), watched
        if watch is not None and watch.figures:
            days = min(figure.spec.reference_blocks for figure in watch.figures.values())
            yield "trimtab_quality_reference_days", (), days
            yield "trimtab_quality_provisional", (), watch.provisional
        if watch is not None:
            yield from _evidence(watch)

    def _of_inputs(self, deployment: Deployment) -> Iterator[tuple[str, Labels, float]]:
        watch = read_record(self._system.state.catalog, INPUTS, deployment.name, InputWatch) or InputWatch()
        for column, now in watch.columns.items():
            for field, statistic in STATISTICS.items():
                if (distance := getattr(now, field)) is not None:
                    yield statistic.metric, (column,), distance
            yield "trimtab_input_null_share", (column,), now.null_share
        found = estimated_days(self._system, deployment.name)
        value = None if found is None else newest_estimate(found, self._system.clock.now_us())
        if found is not None and value is not None:
            yield "trimtab_estimated_loss", (), value
            if found.watch.reference_loss is not None:
                yield "trimtab_estimated_loss_usual", (), found.watch.reference_loss

    def _of_days(self, deployment: Deployment) -> Samples:
        catalog, model = self._system.state.catalog, deployment.name
        record = catalog.get(REACHED, model)
        known = self._days.get(model)
        if record is None:
            return {}
        if known is None or known.read_at != record.revision:
            until_us = msgspec.json.decode(record.body, type=Reached).closed_until_us
            samples = self._read_days(model, until_us - DAY_US) if until_us >= DAY_US else {}
            known = self._days[model] = DayValues(read_at=record.revision, samples=samples)
        return known.samples

    def _read_days(self, model: str, newest_us: int) -> Samples:
        back = sorted({days for ages in AGES.values() for days in ages})
        stored = stored_sums(
            self._system.state.catalog,
            model,
            [newest_us - DAY_US * days for days in back if newest_us >= DAY_US * days],
        )
        found: Samples = {"trimtab_quality_newest_day_timestamp_seconds": {(model,): newest_us / 1e6}}
        for day in stored:
            if day.day_us == newest_us:
                labels = model, version_name(self._system, day.version), day.arm
                for name, value in _newest(day):
                    _put(found, name, labels, value)
        for days in (1, 7):
            some = [one for one in stored if one.day_us > newest_us - DAY_US * days]
            _put_share(found, "trimtab_quality_labelled_share", (model, str(days)), some, amended=False)
        for age, ages in AGES.items():
            some = [one for one in stored if (newest_us - one.day_us) // DAY_US in ages]
            _put_share(found, "trimtab_quality_label_completeness", (model, str(age)), some, amended=age > 0)
        return found


def _newest(day: DaySums) -> Iterator[tuple[str, float]]:
    """Yield metrics of a closed day of one version, each with its name."""
    sums = day.whole
    yield "trimtab_quality_day_predictions", sums.predictions
    if sums.labelled:
        yield "trimtab_quality_day_loss", rounded(sums.loss) / sums.labelled
        if sums.histogram:  # rankings have losses but no histogram of scores
            yield "trimtab_quality_day_gap", (rounded(sums.score) - rounded(sums.label)) / sums.labelled
    excess = mean_excess([(sums, day.cap)])
    if excess is not None:
        yield "trimtab_quality_day_excess_loss", excess


def _evidence(watch: Watch) -> Iterator[tuple[str, Labels, float]]:
    """Yield for each alarm the log evidence of a change, divided by the evidence at which the alarm is raised.

    Of all slices together, only the largest value is returned, because otherwise each slice would be a time series.
    """
    name = "trimtab_quality_evidence_ratio"
    for anchor, figures in (("own", watch.figures), ("healthy", watch.healthy)):
        for kind, figure in figures.items():
            yield name, (kind, anchor), _ratio(figure)
    slices = [*watch.slices.values(), *watch.slice_gaps.values()]
    if slices:
        yield name, (SLICE, "own"), max(map(_ratio, slices))


def _ratio(figure: MetricValue) -> float:
    state = figure.state
    return state.log_evidence / alarm_threshold(figure.spec) if state.log_values else 0.0


def _put_share(found: Samples, name: str, labels: Labels, days: Iterable[DaySums], *, amended: bool) -> None:
    """Add the share of some days' predictions that have labels. Without predictions, nothing is added."""
    sums = [one.amended if amended and one.amended is not None else one.whole for one in days]
    predictions = sum(one.predictions for one in sums)
    if predictions:
        _put(found, name, labels, sum(one.labelled for one in sums) / predictions)


def _put(found: Samples, name: str, labels: Labels, value: float) -> None:
    found.setdefault(name, {})[labels] = float(value)
