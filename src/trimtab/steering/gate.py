"""The gate: a paired test of candidate and champion on the newest labelled window that neither has seen."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.records import GateRecord
from trimtab.core.time import DAY_US
from trimtab.stats.losses import Loss, row_losses
from trimtab.stats.paired import paired_mean_bound
from trimtab.steering.definitions import BeatsChampion
from trimtab.steering.scales import calibration_gap, gap_unit

Floats = NDArray[np.float64]


class Window(msgspec.Struct, frozen=True, eq=False):
    """The rows that a gate judges on: labelled, newest, unseen by candidate and champion."""

    start_us: int
    end_us: int
    at_us: NDArray[Any]  # int64, shape (rows,)
    labels: Floats


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
) -> GateRecord:
    """Hold a candidate against the rule; the record says which checks held.

    Args:
        rule: What must be proved.
        window: The rows.
        gate_id: The record's id.
        model: Name of the model.
        metric: The loss whose mean is compared.
        candidate: Address of the candidate.
        candidate_scores: Its scores of the window's rows, shape (rows,).
        champion: Address of the version in service, None when there is none.
        champion_scores: Its scores of the same rows.
        judged_at_us: Now.
        loads: Whether the stored candidate was read back and gave the same scores.
    """
    losses = row_losses(metric, window.labels, candidate_scores)
    allowed = rule.calibration * gap_unit(metric, window.labels)
    gap = calibration_gap(metric, window.labels, candidate_scores)
    checks = {"loads": loads, "finite": bool(np.isfinite(candidate_scores).all())}
    champion_metric = difference = bound = None
    if champion_scores is None:
        checks["calibrated"] = gap <= allowed
    else:
        rival = row_losses(metric, window.labels, champion_scores)
        rival_gap = calibration_gap(metric, window.labels, champion_scores)
        interval = paired_mean_bound(losses - rival, window.at_us // DAY_US, level=rule.level, side="upper")
        champion_metric, difference, bound = float(rival.mean()), interval.estimate, interval.high
        checks["better_by_margin"] = difference <= -rule.margin
        checks["provably_better"] = bound < 0.0
        checks["calibrated"] = gap <= max(allowed, rival_gap)
    failed = [name for name, held in checks.items() if not held]
    return GateRecord(
        id=gate_id,
        model=model,
        candidate=candidate,
        champion=champion,
        judged_at_us=judged_at_us,
        window_start_us=window.start_us,
        window_end_us=window.end_us,
        rows=len(losses),
        metric=metric,
        candidate_metric=float(losses.mean()),
        champion_metric=champion_metric,
        difference=difference,
        bound=bound,
        margin=rule.margin,
        passed=not failed,
        checks=checks,
        reason=_reason(failed, rule, difference, bound, gap),
    )


def _reason(failed: list[str], rule: BeatsChampion, difference: float | None, bound: float | None, gap: float) -> str:
    if difference is None or bound is None:
        figures = f"calibration gap {gap:.4f}"
    else:
        figures = f"difference {difference:+.4f}, at most {bound:+.4f} at {rule.level:.0%}, margin {rule.margin:g}"
    return f"Passed: {figures}." if not failed else f"Refused, not {', not '.join(failed)}: {figures}."
