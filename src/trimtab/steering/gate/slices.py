"""The parts of a gate's window that a candidate may not be worse on: a bound for each, corrected for their number."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns
from trimtab.core.expressions.by_columns import evaluate_columns
from trimtab.core.records import GateCheck
from trimtab.core.time import DAY_US
from trimtab.stats.inference.paired import paired_mean_bound
from trimtab.steering.definitions import NamedSlice
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model
from trimtab.training.judge.parts import column_of, values_of

EVERY_SLICE = "every_slice"
LEAST_ROWS = 50  # of a slice, and
LEAST_DAYS = 5  # days on which it has some: fewer are no evidence
LEVEL = 0.95  # of all bounds together

Floats = NDArray[np.float64]


class Part(msgspec.Struct, frozen=True, eq=False):
    """Some rows of a gate's window."""

    name: str  # "carrier=UA"
    here: NDArray[np.bool_]  # shape (rows of the window,)


def parts_of(
    slices: Sequence[str | NamedSlice], model: Model, training_set: TrainingSet, window: NDArray[np.bool_]
) -> list[Part]:
    """The slices of the rows of a window, each column's values one by one: of numbers four ranges."""
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
    """What each part says, and all of them together, last. # D68

    A part fails when the mean loss of the candidate is above the champion's by more than `margin`, provably: by a
    one-sided bound whose level allows for the number of parts. Those with too few rows or days abstain; when all do,
    nothing that was declared has been looked at, so they fail together, unless they may abstain. # D88

    Args:
        parts: The slices.
        differences: Loss of the candidate minus loss of the champion, shape (rows,).
        at_us: When each row was asked, shape (rows,).
        margin: How much worse a part may be.
        may_abstain: Whether they hold where none of them could be judged.
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
    bound = paired_mean_bound(differences, days, level=level, side="lower")
    worse = bound.low > margin
    return GateCheck(
        name=f"slice {part.name}",
        figure=bound.estimate,
        bound=bound.low,
        verdict="failed" if worse else "held",
        reason=f"Difference {bound.estimate:+.4f} on {len(differences):,} rows, at least {bound.low:+.4f} at "
        f"{level:.2%}; allowed {margin:+g}.",
    )


def _abstained(part: Part, rows: int, days: int) -> GateCheck:
    return GateCheck(
        name=f"slice {part.name}",
        figure=None,
        bound=None,
        verdict="no evidence",
        reason=f"{rows:,} rows on {days} days; needed are {LEAST_ROWS} on {LEAST_DAYS}.",
    )


def _together(found: Sequence[GateCheck], margin: float, may_abstain: bool) -> GateCheck:
    worse = [one.name.removeprefix("slice ") for one in found if one.verdict == "failed"]
    silent = sum(one.verdict == "no evidence" for one in found)
    judged = len(found) - silent
    said = f"{judged} of {len(found)} slices judged" + (f", {silent} had too few rows" if silent else "")
    if worse:
        return GateCheck(
            name=EVERY_SLICE,
            figure=max(one.figure for one in found if one.figure is not None and one.verdict == "failed"),
            bound=margin,
            verdict="failed",
            reason=f"Provably worse on {', '.join(worse)}; {said}.",
        )
    if not judged and not may_abstain:
        return GateCheck(
            name=EVERY_SLICE,
            figure=None,
            bound=margin,
            verdict="failed",
            reason=f"None of {len(found)} slices could be judged: each needs {LEAST_ROWS} rows on {LEAST_DAYS} days. "
            "Judge on more days (window=...), declare larger slices, or let them abstain (slices_may_abstain=True).",
        )
    return GateCheck(
        name=EVERY_SLICE,
        figure=max((one.figure for one in found if one.figure is not None), default=None),
        bound=margin,
        verdict="held" if judged else "no evidence",
        reason=f"Provably worse on none: {said}.",
    )


def _all(training_set: TrainingSet, window: NDArray[np.bool_]) -> Columns:
    features, requests = training_set.features.values, training_set.requests
    return Columns({**features.by_name, **requests.by_name}).take(window)


def _true(column: Column) -> NDArray[np.bool_]:
    there: NDArray[np.bool_] = column.present() & column.values.astype(bool)
    return there
