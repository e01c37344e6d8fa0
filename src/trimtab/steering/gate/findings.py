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


def amount(value: float, sign: Literal["", "+"] = "") -> str:
    """Return a loss or a gap as text with few digits, however small or large it is.

    >>> amount(-0.00412, "+"), amount(-6.66e11, "+"), amount(1.23e-8), amount(0.0, "+")
    ('-0.0041', '-6.66e+11', '1.23e-08', '+0.0000')
    """
    usual = value == 0.0 or 5e-5 <= abs(value) < 1e6
    return f"{value:{sign}.4f}" if usual else f"{value:{sign}.4g}"
