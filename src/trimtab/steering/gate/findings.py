"""Findings of the gate as records."""

from __future__ import annotations

from typing import Literal

from trimtab.core.records import GateCheck

Verdict = Literal["held", "failed", "no evidence", "not measured"]


def finding(
    name: str, verdict: Verdict | bool, reason: str, *, value: float | None = None, bound: float | None = None
) -> GateCheck:
    """Return one finding: whether the check held, the reason in one sentence, the measured value, and its limit."""
    if isinstance(verdict, bool):
        verdict = "held" if verdict else "failed"
    return GateCheck(name=name, figure=value, bound=bound, verdict=verdict, reason=reason)
