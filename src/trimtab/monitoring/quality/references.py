"""Learn a version's reference (its usual daily quality) from days that were scored before its promotion.

If these days are too few, days in service are added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from trimtab.core.records import DayQuality
from trimtab.core.time import DAY_US
from trimtab.feedback.blocks import DayBlocks
from trimtab.monitoring.quality.earlier_levels import loss_level
from trimtab.monitoring.quality.watches import (
    CALIBRATION,
    FULL_REFERENCE,
    LOSS,
    SUSPICIOUS,
    MetricValue,
    ShortReference,
    Watch,
    learnt_slices,
    learnt_values,
)
from trimtab.stats.inference.edetector import AlarmState

# Days in service are added to a short reference. It is learnt again when it has two whole weeks, and when it is full.
TWO_WEEKS = 14  # D0223


def with_reference(watch: Watch, kinds: Sequence[str], run_length_days: float, reference: ShortReference) -> Watch:
    """Return the watch with reference values from the given days. If fewer than 28 have labels, it keeps the days, too.

    Values with an alarm, or with much evidence for one, keep the reference that they have in the watch.

    Args:
        kinds: The kinds of values to watch.
        run_length_days: At least this many days pass on average until a false alarm of any kind.
    """
    days, slices, allowed = reference.days, reference.slices, reference.allowance
    run_length = (len(kinds) + bool(slices)) * run_length_days
    figures, unwatched = learnt_values(kinds, days, run_length, allowed)
    each = run_length * len(kinds) * len(slices)
    of_slices = {kind: learnt_slices(kind, slices, each, allowed) for kind in kinds}
    levels = {name: loss_level(some, watch.loss_cap) for name, some in {"": days, **slices}.items()}
    return msgspec.structs.replace(
        watch,
        figures=_from_now(watch, figures) | _suspicious(watch.figures),
        unwatched=unwatched,
        slices=_from_now(watch, of_slices[LOSS]) | _suspicious(watch.slices),
        slice_gaps=_from_now(watch, of_slices.get(CALIBRATION, {})) | _suspicious(watch.slice_gaps),
        reference_loss=_mean_loss(days),
        levels={name: level for name, level in levels.items() if level is not None},
        short=reference if _labelled(days) < FULL_REFERENCE else None,
    )


def grown(watch: Watch, day: DayQuality, blocks: DayBlocks | None, kinds: Sequence[str], run_length: float) -> Watch:
    """Add a day in service to a short reference; with 14 days, and again with 28, learn from it.

    During an alarm, no days are added, and those since the beginning of the change are removed.
    """
    short = watch.short
    if short is None or not day.labelled:
        return watch
    if watch.alarming:
        return msgspec.structs.replace(watch, short=_before_change(short, watch))
    slices = {
        name: days if blocks is None or name not in blocks.slices else (*days, blocks.slice_quality(name))
        for name, days in short.slices.items()
    }
    short = msgspec.structs.replace(short, days=(*short.days, day), slices=slices)
    if _labelled(short.days) in (TWO_WEEKS, FULL_REFERENCE):
        return with_reference(watch, kinds, run_length, short)
    return msgspec.structs.replace(watch, short=short)


def _before_change(short: ShortReference, watch: Watch) -> ShortReference:
    if watch.onset is None:
        return short
    since_us = watch.onset.earliest_us
    slices = {name: tuple(day for day in days if day.day_us < since_us) for name, days in short.slices.items()}
    days = tuple(day for day in short.days if day.day_us < since_us)
    return msgspec.structs.replace(short, days=days, slices=slices)


def _from_now(watch: Watch, figures: Mapping[str, MetricValue]) -> dict[str, MetricValue]:
    """Return values without evidence, whose days are numbered as in the watch: its first compared day is number 1."""
    if watch.first_day_us is None or watch.last_day_us is None:
        return dict(figures)
    state = AlarmState(days=(watch.last_day_us - watch.first_day_us) // DAY_US + 1)
    return {name: msgspec.structs.replace(figure, state=state) for name, figure in figures.items()}


def _suspicious(figures: Mapping[str, MetricValue]) -> dict[str, MetricValue]:
    """Return the values with an alarm or much evidence. A new reference might have learnt their change."""
    return {
        name: figure for name, figure in figures.items() if figure.alarming or figure.state.log_evidence > SUSPICIOUS
    }


def _labelled(days: Sequence[DayQuality]) -> int:
    return sum(day.labelled > 0 for day in days)


def _mean_loss(days: Sequence[DayQuality]) -> float | None:
    """Return the mean capped loss of the labelled rows, in units of the cap; None if no row is labelled."""
    labelled = sum(day.labelled for day in days)
    return sum(day.capped_loss_sum for day in days) / labelled if labelled else None
