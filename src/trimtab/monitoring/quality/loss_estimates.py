"""Estimate the loss of predictions before their labels come, from their scores and inputs, and notice when it rises."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.records import ChangeOnset, DayQuality, Signal
from trimtab.core.time import DAY_US, format_time
from trimtab.monitoring.quality.references import TWO_WEEKS
from trimtab.monitoring.quality.watches import LOSS, MetricValue, Watch, advanced, learnt_values
from trimtab.stats.inference.edetector import AlarmState, alarm_level, with_allowance
from trimtab.stats.metrics.loss_names import loss_kind
from trimtab.stats.metrics.losses import Loss, row_losses
from trimtab.stats.recalibration import LogOdds, fit_recalibration
from trimtab.store.ports import Catalog, Put, read_record

KIND = "loss_estimate"  # the kind of catalogue records that hold a `LossEstimate`; their key is the id of the version
SIGNAL = "estimated_loss"
RISE = 0.1  # estimates that are above those of the reference by at most this share are no evidence
RUN_LENGTH_DAYS = 1_000.0  # on average, at least this many days pass until a false alarm
LEAST_ROWS = 200  # fewer labelled rows do not show how large losses are
# with fewer rows of the rarer outcome, estimates are off by a third and more, and raise false alarms
LEAST_OF_EACH = 100
LEAST_ESTIMATED = 0.8  # a day has an estimate if at least this share of its rows has one
_MOST_ROWS, _MOST_LEAVES, _LEAST_LEAF = 50_000, 64, 200
_KEPT_DAYS = 60
_LARGEST = float(np.finfo(np.float32).max)  # scikit-learn's trees read 32-bit numbers

Floats = NDArray[np.float64]


class MeanTree(msgspec.Struct, frozen=True):
    """A regression tree that gives the expected value of a row. Each field has one item for each node."""

    column: tuple[int, ...]  # the column whose value decides; -1: the node is a leaf
    limit: tuple[float, ...]  # rows with at most this value go to `low`, others to `high`
    low: tuple[int, ...]
    high: tuple[int, ...]
    null_low: tuple[bool, ...]  # whether rows without a value go to `low`
    mean: tuple[float, ...]  # the mean of the rows in the node

    def predict(self, values: NDArray[np.float64]) -> Floats:
        """Return the expected value of each row. `values` has the shape (rows, columns)."""
        column, limit = np.array(self.column), np.array(self.limit)
        low, high, null_low = np.array(self.low), np.array(self.high), np.array(self.null_low)
        read = np.clip(values, -_LARGEST, _LARGEST).astype(np.float32)
        rows, node = np.arange(len(read)), np.zeros(len(read), np.int64)
        open_rows = rows[column[node] >= 0]
        while open_rows.size:
            at = node[open_rows]
            value = read[open_rows, column[at]]
            goes_low = np.where(np.isnan(value), null_low[at], value <= limit[at])
            node[open_rows] = np.where(goes_low, low[at], high[at])
            open_rows = open_rows[column[node[open_rows]] >= 0]
        found: Floats = np.array(self.mean)[node]
        return found


class LossEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """How to estimate the losses of a version's predictions, with the usual estimate."""

    format: Literal[1] = 1
    metric: Loss
    correction: LogOdds | None  # for the probability of a class: how likely the class is, given the score
    tree: MeanTree | None  # otherwise: the expected loss, given the score and, for numbers, also the inputs
    mean: float  # the mean estimate of the reference days
    figure: MetricValue | None  # the reference of the daily mean; None: there are too few days, so nothing is watched

    def losses(self, scores: Floats, inputs: NDArray[np.float64] | None) -> Floats:
        """Return the estimated loss of each row.

        Args:
            scores: The scores; for several classes those of the likeliest class. Shape (rows,).
            inputs: The inputs of the version, shape (rows, inputs). They are only read if `reads_inputs`.
        """
        if self.tree is not None:
            return self.tree.predict(_columns(scores, inputs if reads_inputs(self.metric) else None))
        assert self.correction is not None  # there is either one or the other
        share = self.correction.mapping()(scores)
        if_true, if_false = (_losses(self.metric, np.full(len(scores), label), scores) for label in (1.0, 0.0))
        found: Floats = share * if_true + (1.0 - share) * if_false
        return found


class EstimatedSums(msgspec.Struct, frozen=True, array_like=True):
    """Sums over the predictions of an hour."""

    rows: int
    estimated: int  # how many of them have an estimate; others are outside of the data that the version has learnt from
    loss: float  # the sum of the estimates


class EstimatedDays(msgspec.Struct, frozen=True, kw_only=True):
    """The estimates of a version's newest days, and the evidence that they have risen."""

    watch: Watch
    # one item for each day with predictions, oldest first: `labelled` counts the rows with an estimate, and
    # `capped_loss_sum` is the sum of the estimates
    days: tuple[DayQuality, ...] = ()


def loss_estimate(catalog: Catalog, version: str) -> LossEstimate | None:
    """Return how to estimate the losses of a version's predictions; None if this is not known."""
    return read_record(catalog, KIND, version, LossEstimate)


def learn_loss_estimate(
    metric: Loss, at_us: NDArray[np.int64], scores: Floats, labels: Floats, inputs: NDArray[np.float64] | None
) -> LossEstimate | None:
    """Learn from labelled rows how large the loss of a prediction is; None for rankings, or if there are too few rows.

    A probability says itself how large the loss can be expected to be, once it is corrected for scores that are too
    high or too low (confidence-based performance estimation, CBPE, with beta calibration). For several classes, the
    loss is learnt by the likeliest class's score. A number does not say how far off it may be, so its loss is learnt by
    score and inputs (direct loss estimation, DLE). All of them see that inputs have changed. None of them sees that the
    same inputs now lead to other labels.

    Args:
        at_us: The time of each row, shape (rows,).
        scores: Scores by a model that had not seen these rows, shape (rows,) or (rows, classes).
        labels: NaN: the row has no label, and is left out. Shape (rows,).
        inputs: The inputs of the version that goes into service, shape (rows, inputs); None unless `reads_inputs`.

    Source: NannyML (https://nannyml.readthedocs.io), "How it works: performance estimation", for both methods.
    """
    kind = loss_kind(metric)
    there = ~np.isnan(labels) & np.isfinite(scores if scores.ndim == 1 else scores.sum(axis=1))
    if kind == "ranking" or there.sum() < LEAST_ROWS:
        return None
    y, p, known = labels[there], scores[there], None if inputs is None else inputs[there]
    correction: LogOdds | None = None
    tree: MeanTree | None = None
    some = slice(None, None, -(-len(y) // _MOST_ROWS))  # more rows would take longer and tell no more
    if kind == "binary":
        if np.bincount(y.astype(np.int64), minlength=2).min() < LEAST_OF_EACH:
            return None
        found = fit_recalibration("beta", y[some], p[some])
        assert isinstance(found, LogOdds)
        correction = found
    else:
        tree = _learn_tree(_columns(confidence(p), known)[some], _losses(metric, y, p)[some])
    estimate = LossEstimate(metric=metric, correction=correction, tree=tree, mean=0.0, figure=None)
    days = at_us[there] // DAY_US
    first, rows = int(days.min()), np.bincount(days - days.min())
    sums = np.bincount(days - first, estimate.losses(confidence(p), known))
    by_day = [
        _day("", "", first + day, EstimatedSums(int(rows[day]), int(rows[day]), float(sums[day])))
        for day in np.flatnonzero(rows).tolist()
    ]
    mean = float(sums.sum() / rows.sum())
    return msgspec.structs.replace(estimate, mean=mean, figure=_watched(by_day, mean))


def storing(version: str, estimate: LossEstimate) -> Put:
    """Return the change that stores how the losses of a version's predictions are estimated."""
    return Put(KIND, version, msgspec.json.encode(estimate))


def reads_inputs(metric: Loss) -> bool:
    """Return whether the loss of a row is estimated from its inputs, too, and not from its score alone."""
    return loss_kind(metric) not in ("binary", "multiclass", "ranking")


def confidence(scores: Floats) -> Floats:
    """Return the scores; for several classes, shape (rows, classes), those of the likeliest class."""
    found: Floats = scores.max(axis=1) if scores.ndim == 2 else scores
    return found


def begin(
    model: str,
    version: str,
    estimate: LossEstimate,
    now_us: int,
    *,
    before: EstimatedDays | None = None,
    learnt_until_us: int = 0,
) -> EstimatedDays:
    """Return the estimated days of a version that has no predictions yet. Days of the version before it are kept.

    If it has learnt from no day since the estimates of that version rose, the evidence of the rise goes on: each day
    was compared with the reference of the version that answered. # D0231

    Args:
        before: The estimated days of the version that was replaced.
        learnt_until_us: The version has learnt from no request since this time.
    """
    figure = estimate.figure
    watch = Watch(
        model=model,
        version=version,
        anchored_at_us=now_us,
        figures={} if figure is None else {LOSS: figure},
        loss_cap=1.0,
        reference_loss=estimate.mean,
    )
    if before is None or before.watch.last_day_us is None:
        return EstimatedDays(watch=watch)
    last_us, state = before.watch.last_day_us, _unlearnt(before, learnt_until_us)
    watch = msgspec.structs.replace(watch, last_day_us=last_us)
    if figure is not None and state is not None:
        figures = {LOSS: msgspec.structs.replace(figure, state=state)}
        watch = msgspec.structs.replace(watch, figures=figures, first_day_us=before.watch.first_day_us)
    return EstimatedDays(watch=watch, days=tuple(day for day in before.days if day.day_us <= last_us))


def _unlearnt(before: EstimatedDays, learnt_until_us: int) -> AlarmState | None:
    """Return the evidence of a rise, if a version has learnt from no day since the rise began; otherwise None."""
    figure = before.watch.figures.get(LOSS)
    onset = None if figure is None else before.watch.begun(figure)
    return None if figure is None or onset is None or learnt_until_us > onset.at_us else figure.state


def with_hours(known: EstimatedDays, hours: Iterable[tuple[int, EstimatedSums]], until_us: int) -> EstimatedDays:
    """Add hours (counted since 1970) that are over, and compare the days that ended by `until_us` with the reference.

    Hours of days that were compared already are left out.
    """
    watch, by_day = known.watch, {day.day_us: day for day in known.days}
    for hour, sums in hours:
        day = _day(watch.model, watch.version, hour // 24, sums)
        if watch.last_day_us is None or day.day_us > watch.last_day_us:
            by_day[day.day_us] = _added(by_day[day.day_us], day) if day.day_us in by_day else day
    days = [by_day[day_us] for day_us in sorted(by_day)]
    for day in days:
        if (watch.last_day_us is None or day.day_us > watch.last_day_us) and day.day_us + DAY_US <= until_us:
            watch = _compared(watch, day)
    if not watch.figures:
        mine = [day for day in days if day.version == watch.version and day.day_us + DAY_US <= until_us]
        watch = _grown(watch, [day for day in mine if has_estimate(day)])
    return EstimatedDays(watch=watch, days=tuple(days[-_KEPT_DAYS:]))


def has_estimate(day: DayQuality) -> bool:
    """Return whether enough rows of a day have an estimate."""
    return day.labelled > 0 and day.labelled >= LEAST_ESTIMATED * day.predictions


def estimated_signals(known: EstimatedDays, now_us: int, *, red: bool) -> list[Signal]:
    """Return a signal if the estimated loss has risen, and one for each further rise."""
    figure = known.watch.figures.get(LOSS)
    rises = () if figure is None else figure.rises
    return [_rise(known, one, number, now_us, red=red) for number, one in enumerate(rises)]


def _rise(known: EstimatedDays, figure: MetricValue, number: int, now_us: int, *, red: bool) -> Signal:
    watch, onset = known.watch, known.watch.begun(figure)
    assert onset is not None  # an alarm needs at least one day
    mean, usual = alarm_level(figure.spec, figure.state).mean, figure.spec.mean
    since = [day for day in known.days if day.day_us >= onset.at_us]
    outside = 1.0 - sum(day.labelled for day in since) / max(1, sum(day.predictions for day in since))
    reference = "before" if number else "on the reference days"
    return Signal(
        id=f"{SIGNAL}/{watch.model}/{watch.version[:12]}/{onset.at_us}/{number}",
        kind=SIGNAL,
        model=watch.model,
        version=watch.version,
        raised_at_us=now_us,
        onset_us=onset.at_us,
        severity="red" if red else "info",
        evidence={
            "estimated_loss": mean,
            "reference_loss": usual,
            "outside": outside,
            "earliest_us": float(onset.earliest_us),
            "latest_us": float(onset.latest_us),
        },
        message=f"The estimated loss (before labels come) rose {'further, ' if number else ''}to {mean:.3g} about "
        f"{format_time(onset.at_us)[:10]}; {reference} it was {usual:.3g}. Inputs have changed so that this version "
        "can be expected to be worse.",
        subject=f"rise {number}" if number else "",
    )


def onset_of(signal: Signal) -> ChangeOnset:
    """Return the estimated beginning of the rise that a signal is about."""
    earliest, latest = (int(signal.evidence.get(name, signal.onset_us)) for name in ("earliest_us", "latest_us"))
    return ChangeOnset(at_us=signal.onset_us, earliest_us=earliest, latest_us=latest)


def sums_by_hour(hours: NDArray[np.int64], losses: Floats, outside: NDArray[np.bool_]) -> dict[int, EstimatedSums]:
    """Add up estimates by hour. `outside`: the rows that get no estimate."""
    found = {}
    for hour in np.unique(hours).tolist():
        here = hours == hour
        inside = here & ~outside
        found[hour] = EstimatedSums(int(here.sum()), int(inside.sum()), float(losses[inside].sum()))
    return found


def added(one: EstimatedSums, other: EstimatedSums) -> EstimatedSums:
    """Return the sums of two parts of an hour together."""
    return EstimatedSums(one.rows + other.rows, one.estimated + other.estimated, one.loss + other.loss)


def _columns(scores: Floats, inputs: NDArray[np.float64] | None) -> Floats:
    return scores[:, None] if inputs is None else np.column_stack([scores, inputs])


def _losses(metric: Loss, labels: Floats, scores: Floats) -> Floats:
    with np.errstate(over="ignore"):
        found: Floats = np.minimum(row_losses(metric, labels, scores), _LARGEST)
    return found


def _learn_tree(columns: Floats, values: Floats) -> MeanTree:
    from sklearn.tree import DecisionTreeRegressor  # imported here, because it takes a second

    grown = DecisionTreeRegressor(
        max_leaf_nodes=_MOST_LEAVES, min_samples_leaf=max(_LEAST_LEAF, len(values) // 100), random_state=0
    )
    tree = grown.fit(np.clip(columns, -_LARGEST, _LARGEST), values).tree_
    return MeanTree(
        column=tuple(max(-1, one) for one in tree.feature.tolist()),
        limit=tuple(np.minimum(tree.threshold, _LARGEST).tolist()),  # inf (all but nulls) is no number in JSON
        low=tuple(tree.children_left.tolist()),
        high=tuple(tree.children_right.tolist()),
        null_low=tuple(map(bool, tree.missing_go_to_left.tolist())),
        mean=tuple(tree.value[:, 0, 0].tolist()),
    )


def _watched(days: Sequence[DayQuality], mean: float) -> MetricValue | None:
    value = learnt_values((LOSS,), days, RUN_LENGTH_DAYS, {})[0].get(LOSS)
    return None if value is None else _allowing(value, RISE * mean)


def _grown(watch: Watch, days: Sequence[DayQuality]) -> Watch:
    """Return the watch with a reference from days in service, once there are two weeks of them.

    This is for versions whose reference had too few days, as after the repair of a recent change.
    """
    if len(days) < TWO_WEEKS:
        return watch
    mean = sum(day.capped_loss_sum for day in days) / sum(day.labelled for day in days)
    value = _watched(days, mean)
    figures = {} if value is None else {LOSS: value}
    return msgspec.structs.replace(watch, figures=figures, reference_loss=mean, first_day_us=None)


def _allowing(figure: MetricValue, rise: float) -> MetricValue:
    """Return the watched value with a baseline that is higher by `rise`. An alarm ends when half of it is left."""
    spec = with_allowance(figure.spec, rise)
    to_zero = rise * (1.0 - spec.correlation) / (2 * spec.sd)
    return msgspec.structs.replace(figure, spec=spec, to_zero=to_zero)


def _day(model: str, version: str, day: int, sums: EstimatedSums) -> DayQuality:
    return DayQuality(
        model=model,
        version=version,
        day_us=day * DAY_US,
        predictions=sums.rows,
        labelled=sums.estimated,
        missing=sums.rows - sums.estimated,
        score_sum=0.0,
        label_sum=0.0,
        loss_sum=0.0,
        capped_loss_sum=sums.loss,
    )


def _added(day: DayQuality, other: DayQuality) -> DayQuality:
    return msgspec.structs.replace(
        day,
        predictions=day.predictions + other.predictions,
        labelled=day.labelled + other.labelled,
        missing=day.missing + other.missing,
        capped_loss_sum=day.capped_loss_sum + other.capped_loss_sum,
    )


def _compared(watch: Watch, day: DayQuality) -> Watch:
    """Return the watch after one more day. A day with too few estimates is no evidence."""
    skipped, last_us = 0, watch.last_day_us
    if watch.first_day_us is not None and last_us is not None:
        skipped = (day.day_us - last_us) // DAY_US - 1
    compared = day if has_estimate(day) else msgspec.structs.replace(day, labelled=0)
    figures = {kind: advanced(figure, kind, compared, skipped) for kind, figure in watch.figures.items()}
    first_us = day.day_us if watch.first_day_us is None else watch.first_day_us
    return msgspec.structs.replace(watch, figures=figures, first_day_us=first_us, last_day_us=day.day_us)
