"""The gate: a paired test of candidate and champion on the newest labelled window that neither has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.records import GateCheck, GateRecord
from trimtab.core.time import DAY_US
from trimtab.stats.inference.paired import paired_mean_bound
from trimtab.stats.metrics.calibration_bound import calibration_error_bound
from trimtab.stats.metrics.lists import unit_losses
from trimtab.stats.metrics.losses import Loss
from trimtab.steering.definitions import BeatsChampion
from trimtab.steering.gate.floor import floor_checks
from trimtab.steering.gate.repeated_comparisons import stricter
from trimtab.steering.gate.scales import calibration_gap, gap_unit
from trimtab.steering.gate.slices import EVERY_SLICE, Part, slice_checks

Floats = NDArray[np.float64]

RIVAL, CANDIDATE, LABELS, LISTS = "rival", "candidate", "labels", "lists"
PLAN, TRIES, REFRESH = "plan", "tries", "refresh"
_REMARKS = frozenset({RIVAL, CANDIDATE, PLAN, TRIES, REFRESH})  # told, and no check
_IN_FIGURES = frozenset(
    {"loads", "finite", "better_by_margin", "provably_better", "not_provably_worse", "calibrated"}
)  # told in every reason
_REFRESHED = (
    "A scheduled refit of the recipe in service need not be provably better, only better and not provably worse."
)
_ONE_SIDED = 0.95  # confidence that a calibration error exceeds what is allowed, before it is refused for that


class Window(msgspec.Struct, frozen=True, eq=False):
    """The rows that a gate judges on: labelled, newest, unseen by candidate and champion."""

    start_us: int
    end_us: int
    at_us: NDArray[Any]  # int64, shape (rows,)
    labels: Floats
    lists: NDArray[np.int64] | None = None  # of a ranking: the list of each row, and `at_us` is when that began

    def losses(self, metric: Loss, scores: Floats) -> tuple[Floats, NDArray[np.int64]]:
        """What each unit cost, and the number of a row of it: units are rows, of a ranking lists whose rows differ."""
        return unit_losses(metric, self.labels, scores, self.lists)

    def by_unit(self, part: Part, units: NDArray[np.int64]) -> Part:
        """A part of the units; of a ranking the lists that have a row of it."""
        if self.lists is None:
            return part
        return Part(part.name, np.isin(self.lists[units], self.lists[part.here]))


def judge(
    rule: BeatsChampion,
    window: Window,
    *,
    gate_id: str,
    model: str,
    metric: Loss,
    candidate: str,
    candidate_scores: Floats,
    champion: str | None,
    champion_scores: Floats | None,
    judged_at_us: int,
    loads: bool,
    parts: Sequence[Part] = (),
    trials: Sequence[GateCheck] = (),
    rival: str = "",
    stand_in: str = "",
    baselines: Mapping[str, Floats] | None = None,
    tries: float = 1.0,
    choices: int = 1,
    folds: int = 1,
    plan: str = "",
    refreshes: bool = False,
) -> GateRecord:
    """Hold a candidate against the rule; the record says which checks held.

    Args:
        rule: What must be proved.
        window: The rows.
        gate_id: The record's id.
        model: Name of the model.
        metric: The loss whose mean is compared.
        candidate: Address of the candidate.
        candidate_scores: Its scores of the window's rows, shape (rows,). Of a ranking lists are compared, as wholes.
        champion: Address of the version in service, None when there is none.
        champion_scores: Its scores of the same rows; None: nothing is compared.
        judged_at_us: Now.
        loads: Whether the stored candidate was read back and gave the same scores.
        parts: The slices of the window that the rule names.
        trials: What the stored candidate showed by itself; one called "loads" says more about `loads`.
        rival: Who answered for the champion where it did not simply do so itself, or why nobody did: one sentence.
        stand_in: The same of the candidate's side.
        baselines: What each baseline answers to the rows, by its name: whatever is compared, a candidate that is not
            better than the best of them is refused.
        tries: 1, and for each earlier comparison with a champion the share of these days that it had looked at: above
            1 more is asked.
        choices: Of how many candidates and windows this pair proves most: they share the allowed error.
        folds: From 2 on each part of the window was answered by a fit on the others.
        plan: What was learnt from and judged, where that is not the usual: one sentence.
        refreshes: It is the recipe in service, refitted for no other reason than that time has passed.
    """
    if not refreshes:
        rule = stricter(rule, tries, choices)
    losses, units = window.losses(metric, candidate_scores)
    at_us, ranks = window.at_us[units], window.lists is not None
    own = {one.name: one for one in trials}
    found = [own.pop("loads", None) or _loads(loads), _finite(candidate_scores)]
    found += [*_labels(window.labels), *_lists(window, losses), *_remark(CANDIDATE, stand_in, "held")]
    found += _remark(PLAN, plan, "held")
    of_units = [window.by_unit(part, units) for part in parts]
    others = {name: window.losses(metric, scores)[0] for name, scores in (baselines or {}).items()}
    found += floor_checks(losses, others, at_us, of_units, slice_margin=rule.slice_margin)
    champion_metric = difference = bound = rival_gap = None
    if champion_scores is not None:
        against, _ = window.losses(metric, champion_scores)
        rival_gap = None if ranks else calibration_gap(metric, window.labels, champion_scores)
        interval = paired_mean_bound(losses - against, at_us // DAY_US, level=rule.level, side="upper")
        champion_metric, difference, bound = float(against.mean()), interval.estimate, interval.high
        found += _remark(RIVAL, rival, "held")
        if refreshes:
            low = paired_mean_bound(losses - against, at_us // DAY_US, level=rule.level, side="lower").low
            found += [*_refreshed(rule, difference, low), *_remark(REFRESH, _REFRESHED, "held")]
        else:
            found += [*_compared(rule, difference, bound), *_tries(rule, tries)]
    elif champion is not None:
        found += _remark(RIVAL, rival, "no evidence")
    gap = None if ranks else calibration_gap(metric, window.labels, candidate_scores)
    if gap is not None:
        found.append(_calibrated(rule.calibration * gap_unit(metric, window.labels), gap, rival_gap))
    if rule.calibration_error is not None:
        found.append(_calibration_error(rule.calibration_error, window, candidate_scores, champion_scores))
    if rule.slices and champion_scores is not None:
        may_abstain = rule.slices_may_abstain is True
        found += slice_checks(of_units, losses - against, at_us, rule.slice_margin, may_abstain=may_abstain)
    elif rule.slices:
        nobody = "No version answered these rows, so there is nothing to be worse than."
        found.append(GateCheck(name="every_slice", figure=None, bound=None, verdict="no evidence", reason=nobody))
    found += own.values()
    checks = {
        one.name: one.verdict == "held"
        for one in found
        if one.verdict == "failed" or (one.verdict == "held" and one.name not in _REMARKS)
        if not one.name.startswith(("slice ", "baseline "))
    }
    failed = [one for one in found if one.name in checks and one.verdict == "failed"]
    return GateRecord(
        id=gate_id,
        model=model,
        candidate=candidate,
        champion=champion,
        judged_at_us=judged_at_us,
        window_start_us=window.start_us,
        window_end_us=window.end_us,
        rows=len(window.labels),
        metric=metric,
        candidate_metric=float(losses.mean()),
        champion_metric=champion_metric,
        difference=difference,
        bound=bound,
        margin=rule.margin,
        passed=not failed,
        folds=folds,
        checks=checks,
        reason=" ".join([_reason(failed, rule, losses, difference, bound, gap), *_remarks(found)]),
        findings=tuple(found),
    )


def _check(name: str, held: bool, reason: str, *, figure: float | None = None, bound: float | None = None) -> GateCheck:
    return GateCheck(name=name, figure=figure, bound=bound, verdict="held" if held else "failed", reason=reason)


def _loads(loads: bool) -> GateCheck:
    said = "It was read back and gave the same scores." if loads else "It could not be read back with the same scores."
    return _check("loads", loads, said)


def _finite(scores: Floats) -> GateCheck:
    bad = int((~np.isfinite(scores)).sum())
    return _check(
        "finite", not bad, f"{bad:,} of {len(scores):,} rows got no finite score.", figure=float(bad), bound=0.0
    )


def _remark(name: str, said: str, verdict: Literal["held", "no evidence"]) -> list[GateCheck]:
    return [GateCheck(name=name, figure=None, bound=None, verdict=verdict, reason=said)] if said else []


def _labels(labels: Floats) -> list[GateCheck]:
    """Refused is what was judged on rows that all have one label: a constant is as good as anything there. # D88"""
    values = np.unique(labels)
    if values.size > 1:
        return []
    alike = "There are no labels" if not values.size else f"All {len(labels):,} labels are {values[0]:g}"
    return [_check(LABELS, False, f"{alike}: nothing tells a good model from a constant. Judge on other days.")]


def _lists(window: Window, losses: Floats) -> list[GateCheck]:
    """How many lists are compared, of a ranking: those whose rows are all alike tell no order from another. # D86"""
    if window.lists is None:
        return []
    alike = int(np.unique(window.lists).size) - losses.size
    said = f"{losses.size:,} lists of the window were compared" + (
        f"; {alike:,} were left out, their rows are all alike." if alike else "."
    )
    return [_check(LISTS, losses.size > 0, said, figure=float(losses.size), bound=1.0)]


def _tries(rule: BeatsChampion, number: float) -> list[GateCheck]:
    """From the second judgement on of the same days, the best of them may be so by chance. # D124, D195"""
    if number <= 1:
        return []
    said = f"Judgement {number:.3g} of these days: proof is asked for at {_percent(rule.level)}."
    return [GateCheck(name=TRIES, figure=number, bound=None, verdict="held", reason=said)]


def _percent(level: float) -> str:
    return f"{100 * level:.3g}%"


def _remarks(found: Sequence[GateCheck]) -> list[str]:
    """What is told of a judgement whatever came of it: what it is not evidence of, and that more was asked."""
    silent = {one.name: one.reason for one in found if one.verdict == "no evidence"}
    said = [one.reason for one in found if one.name in (TRIES, REFRESH)]
    said += [silent[RIVAL]] if RIVAL in silent else []
    if any(name == EVERY_SLICE or name.startswith("slice ") for name in silent):  # what failed is told anyway
        said += [f"Slices: {one.reason}" for one in found if one.name == EVERY_SLICE and one.verdict != "failed"]
    return said


def _refreshed(rule: BeatsChampion, difference: float, low: float) -> list[GateCheck]:
    """What is asked of a refit that nothing but time has asked for. # D201"""
    allowed = max(0.0, -rule.margin)
    worse = f"That difference is at least {low:+.4f} at {_percent(rule.level)}; above {allowed:g} it would be worse."
    return [
        _compared(rule, difference, low)[0],
        _check("not_provably_worse", low <= allowed, worse, figure=low, bound=allowed),
    ]


def _compared(rule: BeatsChampion, difference: float, bound: float) -> list[GateCheck]:
    """The two sides of the paired test: the estimate against the margin, and its bound against no difference at all.

    With a margin below 0 both are held against the loss that is allowed.
    """
    allowed = max(0.0, -rule.margin)
    most = 0.0 - rule.margin
    least = f"asked for at most {most:+g}"
    return [
        _check(
            "better_by_margin",
            difference <= most,
            f"Mean loss minus the champion's {difference:+.4f}; {least}.",
            figure=difference,
            bound=most,
        ),
        _check(
            "provably_better",
            bound < allowed,
            f"That difference is at most {bound:+.4f} at {_percent(rule.level)}; it must be below {allowed:g}.",
            figure=bound,
            bound=allowed,
        ),
    ]


def _calibrated(allowed: float, gap: float, rival_gap: float | None) -> GateCheck:
    most = allowed if rival_gap is None else max(allowed, rival_gap)
    why = "" if most == allowed else ", as far as the champion is off"
    return _check(
        "calibrated", gap <= most, f"Calibration gap {gap:.4f}, allowed {most:.4g}{why}.", figure=gap, bound=most
    )


def _calibration_error(allowed: float, window: Window, scores: Floats, champion_scores: Floats | None) -> GateCheck:
    """Refused is what provably exceeds the allowed error, and the champion's own."""
    days = window.at_us // DAY_US
    found = calibration_error_bound(window.labels, scores, days, level=_ONE_SIDED)
    most = allowed
    if champion_scores is not None:
        most = max(allowed, calibration_error_bound(window.labels, champion_scores, days).estimate)
    why = "" if most == allowed else ", the champion's own"
    said = f"Calibration error {found.estimate:.4f}, at least {found.low:.4f} at {_ONE_SIDED:.0%}"
    reason = f"{said}; allowed {most:.4g}{why}."
    return _check("calibration_error", found.low <= most, reason, figure=found.estimate, bound=most)


def _reason(
    failed: Sequence[GateCheck],
    rule: BeatsChampion,
    losses: Floats,
    difference: float | None,
    bound: float | None,
    gap: float | None,
) -> str:
    if difference is None or bound is None:
        figures = f"mean loss {losses.mean():.4f}" if gap is None else f"calibration gap {gap:.4f}"
    else:
        figures = (
            f"difference {difference:+.4f}, at most {bound:+.4f} at {_percent(rule.level)}, margin {rule.margin:g}"
        )
    if not failed:
        return f"Passed: {figures}."
    more = [one.reason for one in failed if one.name not in _IN_FIGURES]
    return " ".join([f"Refused, not {', not '.join(one.name for one in failed)}: {figures}.", *more])
