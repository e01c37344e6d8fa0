"""Records of experiments: their state in the catalogue, exposures, and sums of closed days."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from trimtab.core.shown import Shown
from trimtab.core.time import format_time
from trimtab.experiments.definitions import Experiment
from trimtab.stats.exact_sums import ExactSum
from trimtab.store.ports import Catalog, read_record

KIND = "experiment"  # the kind of the catalogue records with an `ExperimentState`, one for each experiment
PAST = "experiment_past"  # the kind of the records with the `ExperimentState` of earlier starts
DAYS = "experiment_day"  # the kind of the catalogue records with an `ExperimentDay`
Phase = Literal["running", "paused", "stopped", "concluded"]


class Allocation(msgspec.Struct, frozen=True, kw_only=True):
    """The assignment of buckets to variants from a time on."""

    from_us: int
    share: float  # the share of the units of the layer that take part
    weights: dict[str, float]
    buckets: list[tuple[int, str]]  # runs of equal buckets, in order: the number of buckets, and the variant
    by_hand: bool = False  # whether a person set it after the start, which ends the declared ramp


class ExperimentState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of an experiment since its newest start. Each start is a new generation."""

    name: str
    hash: str  # the hash of the definition at the start
    definition: bytes  # the definition at the start, as JSON: see `stored_definition`
    generation: int  # 1 for the first start; part of the salt, so that a new start assigns the units again
    phase: Phase
    started_at_us: int
    allocations: list[Allocation]  # the newest last
    ended_at_us: int | None = None  # the time from which no more units were taken in
    winner: str | None = None
    promotion: str = ""  # what came of the promotion of a version that won, such as "refused, not better: ..."
    versions: dict[str, str] = {}  # for an experiment over versions: the id of each variant's version at the start
    slots: tuple[int, int] = (0, 10_000)  # the buckets of the layer that belong to this experiment
    holdout: float | None = None  # the global holdout at the start, which stays until the end; None: as it is set now


class ExperimentStatus(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """An experiment as people and clients see it."""

    name: str
    phase: Literal["not started", "running", "paused", "stopped", "concluded"]
    unit: tuple[str, ...]
    variants: dict[str, Any]  # by name: the value, or a version such as "late_flight@7"
    weights: dict[str, float]
    share: float  # the share of the units that take part now
    model: str | None = None
    layer: str = ""
    generation: int = 0  # the number of starts
    started_at_us: int | None = None
    ended_at_us: int | None = None
    winner: str | None = None
    note: str = ""  # what a person should know, such as that the definition changed since the start

    def lines(self) -> Iterator[str]:
        """Yield lines of text for a terminal.

        >>> status = ExperimentStatus(name="checkout", phase="not started", unit=("user",), weights={"a": 1.0},
        ...                           variants={"a": 1}, share=0.2)
        >>> print(*status.lines(), sep=chr(10))
        checkout: not started, 20 % of the units, a 100 %
        """
        shares = ", ".join(f"{name} {100 * weight:.4g} %" for name, weight in self.weights.items())
        since_us = self.started_at_us if self.ended_at_us is None else self.ended_at_us
        since = "" if since_us is None else f" since {format_time(since_us)}"
        won = "" if self.winner is None else f", winner {self.winner}"
        yield f"{self.name}: {self.phase}{since}{won}, {100 * self.share:.4g} % of the units, {shares}"
        if self.note:
            yield f"  {self.note}"


class Exposure(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """The record that a unit was exposed to its variant. Only the first exposure of a unit counts."""

    experiment: str
    generation: int
    unit: str
    # the assigned variant, even if another one was shown instead; empty: the unit took no part, because a feature was
    # missing, the unit was no longer eligible, the share was lowered, or the experiment was paused
    variant: str
    at_us: int
    reason: str = ""  # why the assigned variant was not shown, such as "timeout"; empty: it was shown
    block: str = ""  # for a switchback: the block of time and the region, as text
    override: bool = False  # whether the unit is a tester, which is left out of the analysis
    attributes: bytes = b""  # the values of the declared attributes, as a msgpack map


class ArmSums(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Sums over the units of one variant that were first exposed on one day, for one metric. They can be added up."""

    units: int = 0
    y: ExactSum = ()  # the values of the metric (for a ratio: of its numerator)
    yy: ExactSum = ()
    x: ExactSum = ()  # the covariate before the exposure
    xx: ExactSum = ()
    xy: ExactSum = ()
    d: ExactSum = ()  # for a ratio: the denominator
    dd: ExactSum = ()
    yd: ExactSum = ()
    histogram: dict[int, int] = {}  # for a quantile: the number of units in each bin of values


class VariantDay(msgspec.Struct, frozen=True, kw_only=True):
    """The units of one variant that were first exposed on one day."""

    units: int = 0
    testers: int = 0  # units with an override, which are in no other count
    not_shown: dict[str, int] = {}  # the units that did not get their variant, by reason
    labelled: int = 0  # predictions with a label, for metrics about predictions
    missing: int = 0  # predictions without a label
    metrics: dict[str, ArmSums] = {}
    slices: dict[str, dict[str, ArmSums]] = {}  # by slice, such as "country=DE", and metric
    slice_units: dict[str, int] = {}
    ages: dict[str, list[ArmSums]] = {}  # by primary metric: its sums for each part of the window (`age_ends_us`)


class ExperimentDay(msgspec.Struct, frozen=True, kw_only=True):
    """All variants on one closed day: units, and sums of the metrics."""

    experiment: str
    generation: int
    day_us: int
    variants: dict[str, VariantDay]
    crossed: int = 0  # units that were exposed to another variant than their first, for the first time on this day
    # by variant: the units of this day that do not count, because they were exposed to another one
    left_out: dict[str, int] = {}
    not_eligible: dict[str, int] = {}  # units that took no part because a feature was missing, by feature and reason
    crowded: dict[str, int] = {}  # by attribute that has too many values for slices: how many it has
    marks: tuple[str, ...] = ()  # what else happened, such as "retraining"
    excluded: str | None = None  # why the day does not count, such as "red window: column temp was null"
    known_by_us: int = 0  # what became known later does not count, and does not change `variants`
    with_late: dict[str, VariantDay] | None = None  # `variants` with the outcomes that came late; None: none came
    # by metric and variant: the events or labels that came late; 0: some were only corrected or deleted
    late: dict[str, dict[str, int]] = {}

    @property
    def as_known_late(self) -> ExperimentDay:
        """The day as if outcomes that came late had come in time."""
        return self if self.with_late is None else msgspec.structs.replace(self, variants=self.with_late)


def stored_definition(state: ExperimentState) -> Experiment:
    """Return the definition that an experiment was started with.

    The sources of its metrics are as they were declared then, without the positions of columns in stored events.
    """
    return msgspec.json.decode(state.definition, type=Experiment)


def running_experiments(catalog: Catalog) -> list[ExperimentState]:
    """Return the states of all experiments that run or are paused."""
    found = [msgspec.json.decode(record.body, type=ExperimentState) for record in catalog.find(KIND)]
    return [one for one in found if one.phase in ("running", "paused")]


def past_state(catalog: Catalog, name: str, generation: int) -> ExperimentState | None:
    """Return the last state of an earlier start of an experiment; None if there is no such start."""
    return read_record(catalog, PAST, past_key(name, generation), ExperimentState)


def past_key(name: str, generation: int) -> str:
    """Return the key of the record of an earlier start."""
    return f"{name}/{generation:06}"


def experiment_state(catalog: Catalog, name: str) -> ExperimentState | None:
    """Return the state of an experiment; None if it was never started."""
    return read_record(catalog, KIND, name, ExperimentState)
