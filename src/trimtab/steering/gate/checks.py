"""The checks of the gate, one row for each: when it applies, how it decides, and how the stored record shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

import msgspec
import numpy as np

from trimtab.core.records import GateCheck
from trimtab.core.time import DAY_US
from trimtab.stats.inference.paired import paired_mean_bound
from trimtab.stats.metrics.calibration_bound import calibration_error_bound
from trimtab.steering.gate.facts import Facts
from trimtab.steering.gate.findings import amount, finding
from trimtab.steering.gate.floor import BELOW_FLOOR, FLOOR, FLOOR_OF_SLICES, floor_checks
from trimtab.steering.gate.scales import calibration_gap, calibration_residuals, gap_unit
from trimtab.steering.gate.slices import EVERY_SLICE, slice_checks
from trimtab.steering.gate.version_checks import FRESH_PROCESS, LATENCY, LOADS
from trimtab.steering.gate.window import Floats

Decide: TypeAlias = Callable[[Facts], Iterator[GateCheck]]
# What the text of a gate record says about a check. If a check fails, the text has its name and its reason ("numbers":
# only its name; the reason is in the findings). "slices" is also shown if a slice has too little evidence.
# "remark" and "note" cannot refuse a candidate: a remark is always shown, and a note only if evidence is missing.
Shown: TypeAlias = Literal["numbers", "reason", "slices", "remark", "note"]
_MOST_WORSE = 0.25  # a scheduled refit is refused if its loss is higher by more than this share of the champion's
_MOST_GAP = 2.0  # a first version is refused if its gap exceeds this multiple of the limit, proven or not  # D0007
_CALIBRATION_LEVEL = 0.95  # a candidate is refused if its error exceeds the limit with this one-sided confidence
_REFRESHED = (
    "A scheduled refit of the same model definition, or a version with more classes, must not be provably worse, nor "
    "worse by more than a quarter; no proof that it is better is required."
)
_ALLOW = (
    "Change the features or the estimator, or declare tt.beats_champion(..., calibration=...) to allow a larger gap."
)
_BELOW_FLOOR = (
    "The version in service, an earlier fit of the same definition, is worse, so this does not refuse the newer fit."
)


class Check(msgspec.Struct, frozen=True):
    """One row of the table of checks."""

    # the names of the findings that decide; other findings (about one slice or baseline) are details
    names: tuple[str, ...]
    decide: Decide
    shown: Shown = "reason"
    needs: Callable[[Facts], bool] = lambda facts: True  # returns whether the check applies

    @property
    def counts(self) -> bool:
        """Return whether this check can refuse a candidate."""
        return self.shown not in ("remark", "note")


def percent(level: float) -> str:
    """Return a share, such as a confidence level, as a percentage, for people.

    >>> percent(0.9), percent(0.98889)
    ('90%', '98.9%')
    """
    return f"{100 * level:.3g}%"


def rows_not_finite(scores: Floats) -> int:
    """Return how many rows have a score that is not finite. `scores` has the shape (rows,) or (rows, classes)."""
    return int((~np.isfinite(scores if scores.ndim == 1 else scores.sum(axis=1))).sum())


def _note(name: str, text: str, *, evidence: bool = True, value: float | None = None) -> Iterator[GateCheck]:
    if text:
        yield finding(name, "held" if evidence else "no evidence", text, value=value)


def _loads(facts: Facts) -> Iterator[GateCheck]:
    said = "was read back and gave the same scores." if facts.loads else "could not be read back with the same scores."
    yield facts.own_checks.get(LOADS) or finding(LOADS, facts.loads, f"The version {said}")


def _finite(facts: Facts) -> Iterator[GateCheck]:
    bad = rows_not_finite(facts.scores)
    reason = f"{bad:,} of {len(facts.scores):,} rows got no finite score."
    yield finding("finite", not bad, reason, value=float(bad), bound=0.0)


def _labels(facts: Facts) -> Iterator[GateCheck]:
    """Refuse a window in which all labels are equal, because no model is better than a constant there. # D0196"""
    labels = facts.window.labels
    values = np.unique(labels)
    if values.size <= 1:
        alike = "There are no labels" if not values.size else f"All {len(labels):,} labels are {values[0]:g}"
        reason = f"{alike}, so they cannot tell a good model from a constant. Judge on other days."
        yield finding("labels", False, reason)


def _lists(facts: Facts) -> Iterator[GateCheck]:
    """Count the lists of a ranking that can be compared: their labels must not all be equal. # D0086"""
    lists, compared = facts.window.lists, facts.losses.size
    assert lists is not None  # without lists, the check does not apply
    alike = int(np.unique(lists).size) - compared
    reason = f"{compared:,} lists of the window were compared"
    reason += f"; {alike:,} were left out, because all labels of each are equal." if alike else "."
    yield finding("lists", compared > 0, reason, value=float(compared), bound=1.0)


def _floor(facts: Facts) -> Iterator[GateCheck]:
    if facts.rule.baselines is False:
        yield finding(FLOOR, "not measured", "No baseline has to be beaten: the gate declares baselines=False.")
        return
    margin = facts.rule.slice_margin
    found = floor_checks(facts.losses, facts.baseline_losses, facts.at_us, facts.parts, slice_margin=margin)
    for one in found:
        if one.name == FLOOR and one.verdict == "failed" and _improves_below_floor(facts):
            yield msgspec.structs.replace(one, verdict="not measured")
            yield from _note(BELOW_FLOOR, f"{one.reason} {_BELOW_FLOOR}")
        else:
            yield one


def _improves_below_floor(facts: Facts) -> bool:
    """Return whether a scheduled refit beats a champion that is no better than the baselines either. # D0194"""
    if not (facts.compares and facts.refreshes and facts.difference[0] < 0.0):
        return False
    champion = floor_checks(facts.champion_losses, facts.baseline_losses, facts.at_us)
    return any(one.name == FLOOR and one.verdict == "failed" for one in champion)


def _better_by_margin(facts: Facts) -> Iterator[GateCheck]:
    """Check that the mean loss of the candidate is lower than the champion's by the margin."""
    most, difference = 0.0 - facts.rule.margin, facts.difference[0]
    reason = f"Mean loss minus the champion's: {amount(difference, '+')}; at most {most:+g} is allowed."
    yield finding("better_by_margin", difference <= most, reason, value=difference, bound=most)


def _provably_better(facts: Facts) -> Iterator[GateCheck]:
    """Check that the upper bound of the difference in mean loss is below 0 or, for a negative margin, -margin."""
    allowed, bound = max(0.0, -facts.rule.margin), facts.difference[1]
    reason = f"The difference in mean loss is at most {amount(bound, '+')} with "
    reason += f"{percent(facts.rule.level)} confidence; it must be below {allowed:g}."
    yield finding("provably_better", bound < allowed, reason, value=bound, bound=allowed)


def _not_provably_worse(facts: Facts) -> Iterator[GateCheck]:
    """Check that the lower bound of the difference is not above 0 or, for a negative margin, -margin. # D0007

    This is enough for a scheduled refit: the same definition, fitted on newer data. Most of the difference over a
    fortnight is noise, and after each refusal a version that was fitted on older data stays in service.
    """
    allowed, low = max(0.0, -facts.rule.margin), facts.least_difference
    reason = f"The difference in mean loss is at least {amount(low, '+')} with {percent(facts.rule.level)} confidence; "
    reason += f"it must not be above {allowed:g}."
    yield finding("not_provably_worse", low <= allowed, reason, value=low, bound=allowed)


def _not_much_worse(facts: Facts) -> Iterator[GateCheck]:
    """Refuse a scheduled refit whose mean loss is much higher, also if the days differ too much to prove it."""
    most, difference = max(-facts.rule.margin, _MOST_WORSE * float(facts.champion_losses.mean())), facts.difference[0]
    reason = f"Mean loss minus the champion's: {amount(difference, '+')}; "
    reason += f"more than {amount(most)} is refused, proven or not."
    yield finding("not_much_worse", difference <= most, reason, value=difference, bound=most)


def _tries(facts: Facts) -> Iterator[GateCheck]:
    """Remark how often candidates were judged on these days: the best of several looks better than it is. # D0195"""
    if facts.comparisons > 1:
        level = percent(facts.rule.level)
        said = "Earlier comparisons used these days, too. Each counts by the share of the days that it used: with this "
        said += f"one, {facts.comparisons:.3g} in all, so the proof needs {level} confidence."
        yield from _note("tries", said, value=facts.comparisons)


def _calibrated(facts: Facts) -> Iterator[GateCheck]:
    """Check that mean score and mean label differ by at most the declared limit or, if larger, the champion's distance.

    A candidate fails only if its distance is provably larger: the mean label of a fortnight varies so much that the
    distance often exceeds the limit by chance. Without a champion, no check compares the losses, so a distance of more
    than twice the limit fails, too. # D0007
    """
    labels, gap = facts.window.labels, facts.gap
    assert gap is not None  # the check does not apply to rankings
    allowed = most = facts.rule.calibration * gap_unit(facts.metric, labels)
    if facts.champion_scores is not None:
        most = max(allowed, calibration_gap(facts.metric, labels, facts.champion_scores))
    why = "" if most == allowed else " (the champion's own gap)"
    low, days = gap, facts.window.at_us // DAY_US
    if days.min() < days.max():
        residuals = calibration_residuals(facts.metric, labels, facts.scores)
        above = residuals * np.sign(residuals.mean())
        low = paired_mean_bound(above, days, level=_CALIBRATION_LEVEL, side="lower").low
    fine = low <= most and (facts.compares or gap <= _MOST_GAP * most)
    bounded = f"at least {amount(low)} with {_CALIBRATION_LEVEL:.0%} confidence"
    reason = f"Calibration gap {amount(gap)}, {bounded}; allowed: {most:.4g}{why}."
    if not fine and not facts.compares:
        reason += f" Without a champion, more than {_MOST_GAP * most:.4g} is refused, proven or not."
    yield finding("calibrated", fine, reason if fine else f"{reason} {_ALLOW}", value=gap, bound=most)


def _calibration_error(facts: Facts) -> Iterator[GateCheck]:
    """Refuse a calibration error (over bins) that provably exceeds the limit and the champion's error. # D0007"""
    allowed, labels, days = facts.rule.calibration_error, facts.window.labels, facts.window.at_us // DAY_US
    assert allowed is not None  # without a limit, the check does not apply
    most = allowed
    found = calibration_error_bound(labels, facts.scores, days, level=_CALIBRATION_LEVEL)
    if facts.champion_scores is not None:
        most = max(allowed, calibration_error_bound(labels, facts.champion_scores, days).estimate)
    why = "" if most == allowed else " (the champion's own error)"
    said = f"Calibration error {found.estimate:.4f}, at least {found.low:.4f} with {_CALIBRATION_LEVEL:.0%} confidence"
    reason = f"{said}; allowed: {most:.4g}{why}."
    yield finding("calibration_error", found.low <= most, reason, value=found.estimate, bound=most)


def _slices(facts: Facts) -> Iterator[GateCheck]:
    if not facts.compares:
        said = "There is no champion to compare with on these rows."
        yield from _note(EVERY_SLICE, said, evidence=False)
        return
    may_abstain = facts.rule.slices_may_abstain is True
    yield from slice_checks(
        facts.parts, facts.differences, facts.at_us, facts.rule.slice_margin, may_abstain=may_abstain
    )


def _own(name: str) -> Decide:
    """Return the function `decide` of a check whose finding was made before, on the stored candidate alone."""

    def decide(facts: Facts) -> Iterator[GateCheck]:
        if name in facts.own_checks:
            yield facts.own_checks[name]

    return decide


def _needs_margin(facts: Facts) -> bool:
    return facts.compares and (not facts.refreshes or facts.rule.margin != 0.0)


def _is_repair(facts: Facts) -> bool:
    return facts.compares and not facts.refreshes


def _is_refresh(facts: Facts) -> bool:
    return facts.compares and facts.refreshes


def _champion_note(facts: Facts) -> Iterator[GateCheck]:
    if facts.champion is not None or facts.compares:
        yield from _note("rival", facts.champion_note, evidence=facts.compares)


CHECKS: tuple[Check, ...] = (  # in the order in which a gate record lists the findings
    Check((LOADS,), _loads, "numbers"),
    Check(("finite",), _finite, "numbers"),
    Check(("labels",), _labels),
    Check(("lists",), _lists, needs=lambda facts: facts.ranks),
    Check(("candidate",), lambda facts: _note("candidate", facts.candidate_note), "note"),
    Check(("plan",), lambda facts: _note("plan", facts.plan_note), "note"),
    Check(("left_out",), lambda facts: _note("left_out", facts.left_out_note), "remark"),
    Check((FLOOR, FLOOR_OF_SLICES), _floor),
    Check(("rival",), _champion_note, "note"),
    Check(("better_by_margin",), _better_by_margin, "numbers", _needs_margin),
    Check(("provably_better",), _provably_better, "numbers", _is_repair),
    Check(("not_provably_worse",), _not_provably_worse, "numbers", _is_refresh),
    Check(("not_much_worse",), _not_much_worse, "numbers", _is_refresh),
    Check(("refresh",), lambda facts: _note("refresh", _REFRESHED), "remark", _is_refresh),
    Check(("tries",), _tries, "remark", _is_repair),
    Check(("calibrated",), _calibrated, needs=lambda facts: not facts.ranks),
    Check(("calibration_error",), _calibration_error, needs=lambda facts: facts.rule.calibration_error is not None),
    Check((EVERY_SLICE,), _slices, "slices", lambda facts: bool(facts.rule.slices)),
    Check((FRESH_PROCESS,), _own(FRESH_PROCESS)),
    Check((LATENCY,), _own(LATENCY)),
)
