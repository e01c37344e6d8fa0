"""Checks of a candidate against simple baselines, on the judged days and on each slice. # D0194"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.records import GateCheck
from trimtab.core.time import DAY_US
from trimtab.report.tables import written
from trimtab.stats.inference.paired import paired_mean_bound
from trimtab.steering.gate.findings import finding
from trimtab.steering.gate.slices import Part, slice_checks

FLOOR, FLOOR_OF_SLICES, BELOW_FLOOR = "floor", "floor_of_slices", "below_floor"
_LINEAR: Final = "linear"
_LEVEL: Final = 0.95  # a candidate is refused if it is worse than the linear model with this one-sided confidence
_KEPT: Final = 0.8  # a candidate must reach this share of the linear model's gain over the best other baseline

_INSTEAD = (
    "Change the features or the estimator, or declare tt.beats_champion(..., baselines=False) to let candidates pass "
    "that beat no baseline."
)

Floats = NDArray[np.float64]


class _Against(msgspec.Struct, frozen=True, eq=False):
    """The comparison of a candidate with one baseline."""

    name: str
    differences: Floats  # for each unit, the loss of the candidate minus the loss of the baseline
    tolerance: float  # by how much the candidate's mean loss may be larger than the baseline's
    check: GateCheck
    proof: str = ""  # the sentence about the lower bound of the difference; only a comparison with "linear" has one


def floor_checks(
    losses: Floats,
    baselines: Mapping[str, Floats],
    at_us: NDArray[np.int64],
    parts: Sequence[Part] = (),
    *,
    slice_margin: float = 0.0,
) -> list[GateCheck]:
    """Return a finding for each baseline, followed by the checks `floor` (all rows) and `floor_of_slices`.

    A candidate must have a lower mean loss than each baseline except "linear". That is a linear model with the same
    features, and the candidate may be such a model itself. The gain of the linear model is how much lower its mean loss
    is than that of the best other baseline. A candidate is refused if its mean loss is provably (one-sided 95 %) higher
    than the linear model's by more than a tolerance, a fifth of this gain. On each slice, the candidate is compared
    with the baseline that has the lowest mean loss on the whole window: the candidate's loss must not be provably
    higher by more than `slice_margin` (if that baseline is "linear": plus the tolerance). All slices are tested
    together at 95 % (Bonferroni).

    Args:
        losses: The losses of the candidate, shape (units,). A unit is a row, or for a ranking a list.
        baselines: The losses of each baseline by name, shape (units,). A baseline with a loss that is not finite is
            left out.
        at_us: The time of each unit, shape (units,).
        parts: The slices, as arrays over units.
        slice_margin: By how much the mean loss of a slice may be larger than the baseline's.
    """
    known = {name: other for name, other in baselines.items() if np.isfinite(other).all()}
    if not known or not losses.size or not np.isfinite(losses).all():
        return []
    plain = [float(other.mean()) for name, other in known.items() if name != _LINEAR]
    found = [_against(name, losses, other, min(plain, default=None), at_us) for name, other in known.items()]
    best = min(found, key=lambda one: -float(one.differences.mean()))
    return [
        *(one.check for one in found),
        _together(found, best, losses),
        *_of_slices(best, parts, at_us, slice_margin),
    ]


def _against(name: str, losses: Floats, other: Floats, plain: float | None, at_us: NDArray[np.int64]) -> _Against:
    differences, loss, level = losses - other, float(losses.mean()), float(other.mean())
    difference, tolerance, proof = loss - level, 0.0, ""
    if name == _LINEAR:
        days = at_us // DAY_US
        tolerance = 0.0 if plain is None else max(0.0, (1.0 - _KEPT) * (plain - level))
        low = difference
        if np.unique(days).size > 1:
            low = paired_mean_bound(differences, days, level=_LEVEL, side="lower").low
        held = low <= tolerance
        proof = f"It is not provably higher ({_LEVEL:.0%} confidence)."
        if low > 0.0:
            proof = f"It is higher by at least {written(low)} ({_LEVEL:.0%} confidence); "
            proof += f"up to {written(tolerance)} is allowed."
        reason = f"Mean loss {written(loss)} against {written(level)}. {proof}"
    else:
        held = difference < 0.0
        reason = f"Mean loss {written(loss)}, {'below' if held else 'not below'} {written(level)}."
    check = finding(f"baseline {name}", held, reason, value=difference, bound=tolerance)
    return _Against(name, differences, tolerance, check, proof)


def _together(found: Sequence[_Against], best: _Against, losses: Floats) -> GateCheck:
    worse = [one for one in found if one.check.verdict == "failed"]
    loss, level = float(losses.mean()), float((losses - best.differences).mean())
    reason = f"The best baseline, {best.name}, has a mean loss of {written(level)}; the candidate has {written(loss)}."
    if best.proof and loss >= level:
        reason = f"{reason} {best.proof}"
    levels = {one.name: written(float((losses - one.differences).mean())) for one in worse if one is not best}
    if others := ", ".join(f"{name} ({level})" for name, level in levels.items()):
        reason = f"{reason} Other baselines are as good as the candidate, or better: {others}."
    if worse:
        reason = f"{reason} {_INSTEAD}"
    return finding(FLOOR, not worse, reason, value=float(best.differences.mean()), bound=best.tolerance)


def _of_slices(best: _Against, parts: Sequence[Part], at_us: NDArray[np.int64], slice_margin: float) -> list[GateCheck]:
    if not parts:
        return []
    *_, together = slice_checks(parts, best.differences, at_us, slice_margin + best.tolerance, may_abstain=True)
    reason = f"Compared with the baseline {best.name}: {together.reason}"
    return [msgspec.structs.replace(together, name=FLOOR_OF_SLICES, reason=reason)]
