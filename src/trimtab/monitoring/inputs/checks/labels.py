"""Checks of the labels of closed days: missing labels, a single class, inverted labels, another unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from trimtab.core.records import DayQuality
from trimtab.core.time import DAY_US, format_time
from trimtab.feedback.blocks import BlockSums
from trimtab.monitoring.inputs.checks.findings import ENOUGH, Finding, Kind, evidence_above, percent
from trimtab.monitoring.profiles.profile_records import Floats, LabelDays
from trimtab.stats.exact_sums import rounded
from trimtab.training.definitions import Task

_ROWS = 40  # days with fewer rows are not checked
# by how much the share of missing labels must exceed the normal share: on two of three days, or on the newest day alone
_MARGIN, _GROSS = 0.2, 0.3
_TURNED = 0.1  # labels look inverted if their share of positives is this near to 1 minus the normal share
_LOPSIDED = 0.3  # but only if the normal shares of the two classes differ by at least this
_NEARLY = 10.0  # a class is nearly gone if it is this many times rarer than on any training day
_FACTOR = 3.0  # a daily mean is wrong if it is this many times larger, or smaller, than on each training day
_MOVED = 1.5  # the share of one of several classes has shifted if it is this many times larger, or smaller, than usual
_SHIFT = 0.1  # the share of positives has shifted if it is this far outside the range of the training days' shares


def label_findings(days: Sequence[DayQuality], labels: LabelDays, *, subject: str, task: Task) -> list[Finding]:
    """Return findings about the labels of the newest closed days.

    Shares are compared with those of the training days (see `evidence_above`), after the highest and the lowest
    fourteenth of the training days' shares were left out.

    Args:
        days: Closed days of the version in service, oldest first.
        labels: The numbers of rows and labels on each training day; for several classes, of labels of each class.
        subject: The subject of the findings, such as "labels of sales".
        task: The task of the model.
    """
    newest = [day for day in days[-3:] if day.predictions >= _ROWS]
    rows, labelled, sums = labels.columns
    full = rows >= _ROWS / 2
    if not newest or full.sum() < 3:
        return []
    found = _missing(newest, (1.0 - labelled / np.maximum(rows, 1))[full], subject)
    enough = labelled >= _ROWS / 2
    if enough.sum() < 3:
        return found
    if task == "multiclass":
        usual = {name: np.frombuffer(one, "<u4")[enough] / labelled[enough] for name, one in labels.classes.items()}
        return found + _of_classes(newest, usual, subject)
    means = (sums / np.maximum(labelled, 1))[enough]
    return found + (_binary if task == "binary" else _numbers)(newest, means, subject)


def _trimmed(values: Floats) -> tuple[float, float, float]:
    """Return the lowest value, the median and the highest, after one value in fourteen was left out at each end."""
    ordered = np.sort(values)
    cut = ordered.size // 14
    return float(ordered[cut]), float(np.median(ordered)), float(ordered[-1 - cut])


def _missing(newest: list[DayQuality], usual: Floats, subject: str) -> list[Finding]:
    high = _trimmed(usual)[2]
    days = [(day.day_us, day.predictions, day.missing) for day in newest]
    incomplete = _incomplete(days, high)
    off = [
        (day.missing / day.predictions, day)
        for day in newest
        if day.day_us in incomplete and evidence_above(day.missing, day.predictions, high) >= ENOUGH
    ]
    last = newest[-1]
    gross = [one for one in off if one[1] is last and one[0] >= high + min(_GROSS, 0.6 * (1 - high))]
    if len(off) < 2 and not gross:
        return []
    share, day = off[-1]
    came = f"{day.labelled:,} of {day.predictions:,}"
    evidence = {"share": share, "usual_high": high, "predictions": float(day.predictions)}
    message = (
        f"Labels: {came} came for the requests of {_day(day)}, so {percent(share)} are missing; normal is at most "
        f"{percent(high)}. Check what sends them; perhaps only the labels that are known early have come."
    )
    return [Finding("labels_missing", subject, off[0][1].day_us, evidence, message)]


def _incomplete(days: Sequence[tuple[int, int, int]], high: float) -> list[int]:
    """Return the days on which too many labels are missing. `high` is the high end of the normal shares.

    For the day after such a day, half of the margin is enough, because the fault may end in the middle of a day.
    """
    margin = min(_MARGIN, 0.4 * (1 - high))
    found: list[int] = []
    for day_us, predictions, missing in sorted(days):
        follows = bool(found) and day_us - found[-1] <= DAY_US
        if missing >= (high + (margin / 2 if follows else margin)) * max(predictions, 1):
            found.append(day_us)
    return found


def lacking_days(kind: str, days: Mapping[int, BlockSums], labels: LabelDays) -> list[int]:
    """Return the days on which labels have the fault `kind`, by the limits of `label_findings` (not its evidence).

    "labels_missing": too many labels are missing; "one_class": nearly all are of one class.

    Args:
        days: The sums of each day, by the day's beginning, oldest first.
    """
    rows, labelled, sums = labels.columns
    if kind == "one_class":
        enough = labelled >= _ROWS / 2
        low, _, high = _trimmed((sums / np.maximum(labelled, 1))[enough]) if enough.any() else (1.0, 1.0, 0.0)
        rarer = {day_us: _rarer(rounded(one.label) / max(one.labelled, 1), low, high) for day_us, one in days.items()}
        return [day_us for day_us, (rare, least) in rarer.items() if rare <= least / _NEARLY]
    full = rows >= _ROWS / 2
    high = _trimmed((1.0 - labelled / np.maximum(rows, 1))[full])[2] if full.any() else 0.0
    return _incomplete([(day_us, one.predictions, one.missing) for day_us, one in days.items()], high)


def _rarer(share: float, low: float, high: float) -> tuple[float, float]:
    """Return the share of the rarer class, and the smallest share that it had on training days."""
    return (share, low) if share < 0.5 else (1.0 - share, 1.0 - high)


def _binary(newest: list[DayQuality], means: Floats, subject: str) -> list[Finding]:
    day = newest[-1]
    if day.labelled < _ROWS:
        return []
    low, middle, high = _trimmed(means)
    share, score = day.label_sum / day.labelled, day.score_sum / day.labelled
    evidence = {"share": share, "usual": middle, "score": score, "labels": float(day.labelled)}
    usual = f"normal is {percent(middle)} ({percent(low)} to {percent(high)})"
    said = f"Labels: {percent(share)} of the {day.labelled:,} labels of {_day(day)} are positive; {usual}"
    rare, least = _rarer(share, low, high)
    if (
        rare <= least / _NEARLY
        and evidence_above(round((1.0 - rare) * day.labelled), day.labelled, 1 - least) >= ENOUGH
    ):
        message = f"{said}. Nearly all labels are of one class: check the label's expression and its source."
        return [_found("one_class", subject, day, evidence, message)]
    turned = abs(share - (1.0 - middle)) <= _TURNED and abs(1.0 - 2.0 * middle) >= _LOPSIDED
    if turned and abs(share - score) > abs(1.0 - share - score):
        message = f"{said}. The labels look inverted, and the scores did not change: check the label's expression."
        return [_found("label_shift", subject, day, evidence, message)]
    off = [one for one in newest if one.labelled >= _ROWS and _outside(one, low, high)]
    if len(off) < 2:
        return []
    why = "the scores did not change in the same way"
    if abs(score - share) <= abs(middle - share) / 2:
        why = "the scores changed in the same way, so the kind of requests has changed"
    message = f"{said}; {why}. That is a shift of the base rate, and not a fault in itself."
    return [_found("label_shift", subject, off[0], evidence, message, "info")]


def _of_classes(newest: list[DayQuality], usual: Mapping[str, Floats], subject: str) -> list[Finding]:
    """Return findings about classes that are nearly gone (red), or rarer or more frequent than on training days."""
    found = list[Finding]()
    days = [day for day in newest if day.labelled >= _ROWS]
    for name, shares in usual.items() if newest[-1] in days else ():
        low, middle, high = _trimmed(shares)
        off = [
            day for day in days if (counted := day.classes.get(name)) and _moved(counted[0], day.labelled, low, high)
        ]
        if newest[-1] not in off:
            continue
        labels, scores = newest[-1].classes[name]
        share, score = labels / newest[-1].labelled, scores / newest[-1].labelled
        evidence = {"share": share, "usual": middle, "score": score, "labels": float(newest[-1].labelled)}
        said = (
            f"Labels: {percent(share)} of the {newest[-1].labelled:,} labels of {_day(newest[-1])} are of class "
            f"{name!r}; normal is {percent(middle)} ({percent(low)} to {percent(high)}), and the mean probability that "
            f"the model gave is {percent(score)}."
        )
        about = f"{subject}, class {name}"
        if share <= low / _NEARLY and score >= middle / 2:
            said += " This class is nearly gone: check the label's expression and its source."
            found.append(_found("label_shift", about, off[0], evidence, said))
        elif len(off) > 1:
            said += " That is a shift of the base rate, and not a fault in itself."
            found.append(_found("label_shift", about, off[0], evidence, said, "info"))
    return found


def _moved(labels: float, labelled: int, low: float, high: float) -> bool:
    """Return whether a class is far rarer or more frequent on a day than on each training day."""
    above = labels > _MOVED * high * labelled and evidence_above(labels, labelled, high) >= ENOUGH
    rest = labelled - labels
    return above or (_MOVED * labels < low * labelled and evidence_above(rest, labelled, 1.0 - low) >= ENOUGH)


def _outside(day: DayQuality, low: float, high: float) -> bool:
    share = day.label_sum / day.labelled
    above = share > high + _SHIFT and evidence_above(day.label_sum, day.labelled, high) >= ENOUGH
    below = share < low - _SHIFT and evidence_above(day.labelled - day.label_sum, day.labelled, 1 - low) >= ENOUGH
    return above or below


def _numbers(newest: list[DayQuality], means: Floats, subject: str) -> list[Finding]:
    """Find a daily mean far outside the means of the training days, as if multiplied or divided by a factor."""
    day = newest[-1]
    if day.labelled < _ROWS:
        return []
    low, middle, high = _trimmed(means)
    mean, width = day.label_sum / day.labelled, max(high - low, 1e-12)
    far = mean > high + 3.0 * width or mean < low - 3.0 * width
    large = abs(mean) > _FACTOR * max(abs(low), abs(high)) or abs(mean) < min(abs(low), abs(high)) / _FACTOR
    if not (far and large):
        return []
    score = day.score_sum / day.labelled
    evidence = {"mean": mean, "usual": middle, "score": score, "labels": float(day.labelled)}
    said = (
        f"Labels: their mean is {mean:,.5g} on {_day(day)} ({day.labelled:,} labels); normal is {low:,.5g} to "
        f"{high:,.5g}"
    )
    if abs(score - mean) <= abs(middle - mean) / 2:
        message = f"{said}; the scores changed in the same way, so the kind of requests has changed. That is no fault."
        return [_found("label_shift", subject, day, evidence, message, "info")]
    message = f"{said}. The scores did not change in the same way. Check the unit of the label."
    return [_found("label_shift", subject, day, evidence, message)]


def _found(
    kind: Kind,
    subject: str,
    day: DayQuality,
    evidence: dict[str, float],
    message: str,
    severity: Literal["red", "info"] = "red",
) -> Finding:
    return Finding(kind, subject, day.day_us, evidence, message, severity=severity)


def _day(day: DayQuality) -> str:
    return format_time(day.day_us)[:10]
