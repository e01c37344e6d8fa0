"""The gate: compare a candidate with the champion on the newest labelled days that neither has seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from trimtab.core.records import GateCheck, GateRecord
from trimtab.stats.metrics.losses import Loss
from trimtab.steering.definitions import BeatsChampion
from trimtab.steering.gate.checks import CHECKS, Check, percent
from trimtab.steering.gate.facts import Facts
from trimtab.steering.gate.findings import amount
from trimtab.steering.gate.floor import BELOW_FLOOR, FLOOR, FLOOR_OF_SLICES
from trimtab.steering.gate.repeated_comparisons import stricter
from trimtab.steering.gate.slices import EVERY_SLICE, Part
from trimtab.steering.gate.version_checks import FRESH_PROCESS, LATENCY, LOADS
from trimtab.steering.gate.window import Floats, Window

_Found = list[tuple[Check, list[GateCheck]]]  # each check that applies, with its findings, in the order of `CHECKS`


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
    own_checks: Sequence[GateCheck] = (),
    champion_note: str = "",
    candidate_note: str = "",
    baselines: Mapping[str, Floats] | None = None,
    comparisons: float = 1.0,
    choices: int = 1,
    folds: int = 1,
    plan: str = "",
    left_out: str = "",
    refreshes: bool = False,
) -> GateRecord:
    """Make all checks of `gate.checks` on a candidate, and return the gate record, which has their results.

    Args:
        window: The rows on which candidate and champion are judged.
        metric: The loss whose mean is compared.
        candidate: The id of the candidate.
        candidate_scores: The candidate's scores of the window's rows, shape (rows,). For a ranking, whole lists are
            compared.
        champion: The id of the version in service; None if there is none.
        champion_scores: The champion's scores of the same rows; None if there is no comparison.
        loads: Whether the stored candidate could be loaded and gave the same scores.
        parts: The slices of the window that the rules name.
        own_checks: Checks that were made on the stored candidate alone. If one is called "loads", the argument `loads`
            is not used.
        champion_note: A sentence that says which other version scored the rows in place of the champion, why none did,
            or that the champion scored them from features of its own.
        candidate_note: If the candidate did not score the rows itself: a sentence that says which version did.
        baselines: The scores of the same rows by each baseline. See `floor_checks` for what the candidate must prove.
        comparisons: How many comparisons with a champion were made on these days, including this one. An earlier one
            counts by the share of these days that it used (see `number_of`). Above 1, the evidence has to be stronger,
            except for a scheduled refit.
        choices: Candidate and window were chosen as the best of this many pairs. Therefore, the allowed error is
            divided by this number, except for a scheduled refit.
        folds: How many fits scored the window. Each scored a part from which it had not learnt.
        plan: A sentence that says which rows were learnt from and judged; "" if there was no choice of rows.
        left_out: A sentence that says which days since the start of the window are excluded; "" if none are.
        refreshes: Whether this is a scheduled refit: the definition in service fitted on newer data, without a known
            change of the data.
    """
    facts = Facts(
        rule=rule if refreshes else stricter(rule, comparisons, choices),
        window=window,
        metric=metric,
        scores=candidate_scores,
        champion=champion,
        champion_scores=champion_scores,
        row_parts=tuple(parts),
        baseline_scores=baselines or {},
        loads=loads,
        own_checks={one.name: one for one in own_checks},
        candidate_note=candidate_note,
        champion_note=champion_note,
        plan_note=plan,
        left_out_note=left_out,
        comparisons=comparisons,
        refreshes=refreshes,
    )
    found: _Found = [(check, list(check.decide(facts))) for check in CHECKS if check.needs(facts)]
    decided = list(_decided(found))
    difference, bound = facts.difference if facts.compares else (None, None)
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
        candidate_metric=float(facts.losses.mean()),
        champion_metric=float(facts.champion_losses.mean()) if facts.compares else None,
        difference=difference,
        bound=bound,
        margin=rule.margin,
        passed=all(one.verdict == "held" for _, one in decided),
        folds=folds,
        checks={one.name: one.verdict == "held" for _, one in decided},
        reason=" ".join([_outcome(facts, decided), *_remarks(found)]),
        findings=tuple(one for _, ones in found for one in ones),
    )


def _decided(found: _Found) -> Iterator[tuple[Check, GateCheck]]:
    """Yield the findings that can refuse the candidate, each with its check. Single slices and baselines cannot."""
    for check, ones in found:
        for one in ones:
            if check.counts and one.name in check.names and one.verdict in ("held", "failed"):
                yield check, one


# the text says "Refused, " and, for each failed check, these words; for checks that are not here, "not" and the name
_WORDS = {
    "better_by_margin": "not better by the margin",
    "provably_better": "not provably better",
    "not_provably_worse": "provably worse",
    "not_much_worse": "much worse",
    FLOOR: "not better than the best baseline",
    FLOOR_OF_SLICES: "worse than the best baseline in a slice",
    EVERY_SLICE: "worse than the champion in a slice, or no slice was judged",
    LOADS: "not loadable",
    FRESH_PROCESS: "not loadable in a new process",
    LATENCY: "too slow",
    "finite": "not all scores finite",
    "labels": "all labels equal",
    "lists": "no lists to compare",
    "calibration_error": "calibration error too large",
}


def _outcome(facts: Facts, decided: Sequence[tuple[Check, GateCheck]]) -> str:
    """Return as text whether the candidate passed, the main numbers, and reasons of failures that they do not show."""
    failed = [(check, one) for check, one in decided if one.verdict == "failed"]
    if facts.compares:
        difference, high = facts.difference
        bound = f"at least {amount(facts.least_difference, '+')}" if facts.refreshes else f"at most {amount(high, '+')}"
        values = f"mean loss minus the champion's is {amount(difference, '+')}, {bound} with "
        values += f"{percent(facts.rule.level)} confidence; margin {facts.rule.margin:g}"
    elif facts.gap is None or any(one.name == "calibrated" for _, one in failed):
        values = f"mean loss {amount(facts.losses.mean())}"
    else:
        values = f"calibration gap {amount(facts.gap)}"
    if not failed:
        return f"Passed: {values}."
    refused = f"Refused, {', '.join(_WORDS.get(one.name, f'not {one.name}') for _, one in failed)}: {values}."
    return " ".join([refused, *(one.reason for check, one in failed if check.shown != "numbers")])


def _remarks(found: _Found) -> Iterator[str]:
    """Yield remarks for the record about missing evidence and stricter requirements, even if the candidate passed."""
    for check, ones in found:
        silent = any(one.verdict == "no evidence" for one in ones)
        yield from (one.reason for one in ones if one.name == BELOW_FLOOR)
        if check.shown == "remark" or (check.shown == "note" and silent):
            yield from (one.reason for one in ones)
        elif check.shown == "slices" and silent:
            yield from (f"Slices: {one.reason}" for one in ones if one.name == EVERY_SLICE and one.verdict != "failed")
