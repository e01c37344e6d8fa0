"""Learn a version's reference (its usual daily quality) from days that were scored before its promotion.

If these days are too few, days in service are added.
"""

from __future__ import annotations

import statistics
from collections.abc import Container, Mapping, Sequence

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
    shortfalls,
    value_of,
)
from trimtab.stats.inference.drops import since_drop
from trimtab.stats.inference.edetector import HIGH, AlarmState

# Days in service are added to a short reference. It is learnt again when it has two whole weeks, and when it is full.
TWO_WEEKS = 14  # D0223
_FEW = 0.1  # a day with at most this share of the usual number of labels is not added


def with_reference(watch: Watch, kinds: Sequence[str], run_length_days: float, reference: ShortReference) -> Watch:
    """Return the watch with reference values from the given days. If fewer than 28 have labels, it keeps the days, too.

    Values that the watch has already keep their reference if later days look like a change (see `_suspicious`).

    Args:
        kinds: The kinds of values to watch.
        run_length_days: At least this many days pass on average until a false alarm of any kind.
    """
    reference = _since_drop(reference)
    days, slices, allowed = reference.days, reference.slices, reference.allowance
    run_length = (len(kinds) + bool(slices)) * run_length_days
    figures, unwatched = learnt_values(kinds, days, run_length, allowed)
    each = run_length * len(kinds) * len(slices)
    of_slices = {kind: learnt_slices(kind, slices, each, allowed) for kind in kinds}
    levels = {name: loss_level(some, watch.loss_cap) for name, some in {"": days, **slices}.items()}
    in_service = [day for day in days if day.day_us + DAY_US > watch.anchored_at_us]
    kept = _suspicious(watch.figures, shortfalls(watch.figures, in_service, after_alarm=True))
    return msgspec.structs.replace(
        watch,
        figures=_from_now(watch, figures) | kept,
        unwatched=unwatched,
        slices=_from_now(watch, of_slices[LOSS]) | _suspicious(watch.slices),
        slice_gaps=_from_now(watch, of_slices.get(CALIBRATION, {})) | _suspicious(watch.slice_gaps),
        reference_loss=watch.reference_loss if LOSS in kept else _mean_loss(days),
        levels=watch.levels if kept else {name: level for name, level in levels.items() if level is not None},
        short=reference if _labelled(days) < FULL_REFERENCE else None,
    )


def _since_drop(reference: ShortReference) -> ShortReference:
    """Return the reference without the days before its loss became clearly lower, which would hide that it rises again.

    If fewer than 28 days are left, the reference grows with the days in service.  # D0234
    """
    labelled = [day for day in reference.days if day.labelled]
    excess = all(day.expected_loss_sum is not None for day in labelled)
    place = since_drop([value_of(LOSS, day, excess) for day in labelled])
    if not place:
        return reference
    since_us = labelled[place].day_us
    slices = {name: tuple(day for day in some if day.day_us >= since_us) for name, some in reference.slices.items()}
    days = tuple(day for day in reference.days if day.day_us >= since_us)
    return msgspec.structs.replace(reference, days=days, slices=slices)


def grown(watch: Watch, day: DayQuality, blocks: DayBlocks | None, kinds: Sequence[str], run_length: float) -> Watch:
    """Add a day in service to a short reference; with 14 days, and again with 28, learn from it.

    During an alarm, no days are added, and those since the beginning of the change are removed. The same holds for each
    slice. Unusual days are not added, because a single one would widen what counts as usual.
    """
    short = watch.short
    if short is None:
        return watch
    if watch.alarming:
        return msgspec.structs.replace(watch, short=_before_change(short, watch))
    if _is_unusual(watch, short, day):
        return watch
    onsets = watch.slice_onsets
    slices: dict[str, tuple[DayQuality, ...]] = {}
    for name, days in short.slices.items():
        if name in onsets:
            slices[name] = tuple(one for one in days if one.day_us < onsets[name].earliest_us)
        else:
            there = blocks is not None and name in blocks.slices
            slices[name] = (*days, blocks.slice_quality(name)) if blocks is not None and there else days
    short = msgspec.structs.replace(short, days=(*short.days, day), slices=slices)
    if _labelled(short.days) in (TWO_WEEKS, FULL_REFERENCE):
        return with_reference(watch, kinds, run_length, short)
    return msgspec.structs.replace(watch, short=short)


def _is_unusual(watch: Watch, short: ShortReference, day: DayQuality) -> bool:
    """Return whether a day has few labels, or is further from the reference than an alarm counts."""
    usual = statistics.median(one.labelled for one in short.days) if short.days else 0
    newest = [figure.state.newest[-1] for figure in watch.figures.values() if figure.state.newest]
    return day.labelled <= _FEW * usual or any(abs(one) > HIGH for one in newest)


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


def _suspicious(figures: Mapping[str, MetricValue], worse: Container[str] = ()) -> dict[str, MetricValue]:
    """Return the values that keep their reference, because a new one might have learnt a change.

    They have an alarm or much evidence, or are in `worse`: their days in service are provably worse.
    """
    return {
        name: figure
        for name, figure in figures.items()
        if figure.alarming or figure.state.log_evidence > SUSPICIOUS or name in worse
    }


def _labelled(days: Sequence[DayQuality]) -> int:
    return sum(day.labelled > 0 for day in days)


def _mean_loss(days: Sequence[DayQuality]) -> float | None:
    """Return the mean capped loss of the labelled rows, in units of the cap; None if no row is labelled."""
    labelled = sum(day.labelled for day in days)
    return sum(day.capped_loss_sum for day in days) / labelled if labelled else None
