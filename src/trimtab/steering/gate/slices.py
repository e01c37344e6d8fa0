"""Slices of a gate's window: check that the candidate is not worse than the champion on any of them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns
from trimtab.core.expressions.by_columns import evaluate_columns
from trimtab.core.records import GateCheck
from trimtab.core.shown import count_of
from trimtab.core.time import DAY_US
from trimtab.stats.inference.paired import paired_mean_bound
from trimtab.steering.definitions import NamedSlice
from trimtab.steering.gate.findings import Verdict, amount, finding
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model
from trimtab.training.judge.parts import column_of, values_of

EVERY_SLICE = "every_slice"
LEAST_ROWS = 50  # a slice with fewer rows, or on fewer days, is not judged
LEAST_DAYS = 5
LEVEL = 0.95  # the confidence with which all bounds hold together

Floats = NDArray[np.float64]


class Part(msgspec.Struct, frozen=True, eq=False):
    """One slice of a gate's window."""

    name: str  # for example "carrier=UA"
    here: NDArray[np.bool_]  # which rows of the window are in the slice; after `Window.by_unit`, which units


def parts_of(
    slices: Sequence[str | NamedSlice], model: Model, training_set: TrainingSet, window: NDArray[np.bool_]
) -> list[Part]:
    """Return the slices of a window.

    An expression that is True or False is one slice: the rows where it is True. A column or another expression gives a
    slice for each value. If there are too many values, numbers are divided into four ranges; of other values, the
    rarest share one slice (see `values_of`).
    """
    found: list[Part] = []
    for one in slices:
        name = one if isinstance(one, str) else one.name
        if isinstance(one, str):
            column = column_of(model, training_set, one).take(window)
        else:
            column = evaluate_columns(one.of, _all(training_set, window), f"slice {name!r}")
        if isinstance(one, NamedSlice) and column.dtype == "bool":
            found.append(Part(name, _true(column)))
        else:
            found += [Part(f"{name}={holds}", here) for holds, here in values_of(column)]
    return found


def slice_checks(
    parts: Sequence[Part], differences: Floats, at_us: NDArray[np.int64], margin: float, *, may_abstain: bool = False
) -> list[GateCheck]:
    """Return a check for each slice, and one for all slices together as the last. # D0007

    A slice fails if the candidate's mean loss is provably larger than the champion's by more than `margin`: the
    one-sided lower bound of the difference is above the margin. The bound allows for days that resemble the day before
    (see `paired_mean_bound`). Its level is 1 - 0.05 / slices (Bonferroni), so a candidate that is worse on no slice is
    refused with a probability of at most 5 %. Slices with too few rows or days are not judged. If no slice is judged,
    the last check fails unless `may_abstain` is set. # D0196

    Args:
        parts: The slices, as arrays over units. A unit is a row, or for a ranking a list.
        differences: The loss of the candidate minus the loss of the champion, shape (units,).
        at_us: The time of each unit, shape (units,).
        margin: By how much the mean loss of a slice may be larger.
        may_abstain: Whether the last check passes if no slice could be judged.
    """
    days = at_us // DAY_US
    counts = [(int(part.here.sum()), int(np.unique(days[part.here]).size)) for part in parts]
    enough = [rows >= LEAST_ROWS and spread >= LEAST_DAYS for rows, spread in counts]
    level = 1.0 - (1.0 - LEVEL) / max(1, sum(enough))
    found = [
        _judged(part, differences[part.here], days[part.here], level, margin) if there else _abstained(part, *count)
        for part, there, count in zip(parts, enough, counts, strict=True)
    ]
    return [*found, _together(found, margin, may_abstain)]


def _judged(part: Part, differences: Floats, days: NDArray[np.int64], level: float, margin: float) -> GateCheck:
    found = paired_mean_bound(differences, days, level=level, side="lower")
    reason = f"Difference in mean loss {amount(found.estimate, '+')} on {len(differences):,} rows, at least "
    reason += f"{amount(found.low, '+')} with {level:.2%} confidence; allowed: {margin:+g}."
    return finding(f"slice {part.name}", not found.low > margin, reason, value=found.estimate, bound=found.low)


def _abstained(part: Part, rows: int, days: int) -> GateCheck:
    found = f"{count_of(rows, 'row')} on {count_of(days, 'day')}"
    reason = f"{found}; {LEAST_ROWS} rows on {LEAST_DAYS} days are needed."
    return finding(f"slice {part.name}", "no evidence", reason)


def _together(found: Sequence[GateCheck], margin: float, may_abstain: bool) -> GateCheck:
    # if a slice was judged, its `bound` is the lower bound of the difference
    worse = [
        f"{one.name.removeprefix('slice ')} (by at least {amount(one.bound or 0.0)})"
        for one in found
        if one.verdict == "failed"
    ]
    silent = sum(one.verdict == "no evidence" for one in found)
    judged = len(found) - silent
    said = f"{judged} of {len(found)} slices were judged" + (f", {silent} had too few rows or days" if silent else "")
    if worse:
        most = max(one.figure for one in found if one.figure is not None and one.verdict == "failed")
        return finding(
            EVERY_SLICE, False, f"Provably worse on these slices: {', '.join(worse)}; {said}.", value=most, bound=margin
        )
    if not judged and not may_abstain:
        reason = f"None of {len(found)} slices could be judged: each needs {LEAST_ROWS} rows on {LEAST_DAYS} days. "
        reason += (
            "Judge on more days (window=...), declare larger slices, or allow slices without enough rows "
            "(slices_may_abstain=True)."
        )
        return finding(EVERY_SLICE, False, reason, bound=margin)
    most_or_none = max((one.figure for one in found if one.figure is not None), default=None)
    verdict: Verdict = "held" if judged else "no evidence"
    return finding(EVERY_SLICE, verdict, f"Provably worse on no slice: {said}.", value=most_or_none, bound=margin)


def _all(training_set: TrainingSet, window: NDArray[np.bool_]) -> Columns:
    features, requests = training_set.features.values, training_set.requests
    return Columns({**features.by_name, **requests.by_name}).take(window)


def _true(column: Column) -> NDArray[np.bool_]:
    there: NDArray[np.bool_] = column.present() & column.values.astype(bool)
    return there
