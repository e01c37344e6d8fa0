"""The limits that a version must keep in service while it is rolled out."""

from __future__ import annotations

import math

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.time import SECOND_US, duration_us


class Guardrails(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a rollout; None means that a limit is not checked. Make them with `guardrails()`."""

    latency: float | None = 1.5
    latency_s: float | None = None
    easy_s: float = 0.005
    failures: float | None = 0.01
    degraded: float | None = 0.01
    refused: float | None = 0.05
    constant: float | None = 0.9
    strange: float | None = 0.5
    least: int = 50
    false_alarms: float = 0.01


def guardrails(
    *,
    latency: float | None = 1.5,
    p99: str | int | None = None,
    easy: str | int = "5ms",
    failures: float | None = 0.01,
    degraded: float | None = 0.01,
    refused: float | None = 0.05,
    constant: float | None = 0.9,
    strange: float | None = 0.5,
    least: int = 50,
    false_alarms: float = 0.01,
) -> Guardrails:
    """Limits that a version must keep in service while it is rolled out. None switches a check off.

    Args:
        latency: The greatest ratio between the version's and the champion's 90th, 95th and 99th percentile of latency.
        p99: The greatest 99th percentile of latency, whatever the champion's is: "250ms".
        easy: A percentile up to this latency is never a breach of `latency`.
        failures: How much larger than the champion's the share of requests may be for which features or model failed.
        degraded: How much larger than the champion's the share of requests may be that got a degraded response.
        refused: How much larger than the champion's the share of requests may be that were refused because of
            saturation; only for a version that served after the other one, not at the same time.
        constant: The greatest share of scores that equal the score before, if the champion's scores do not.
        strange: The greatest share of scores that are less than half or more than twice as large as all scores of the
            champion, or of another sign; approximate, because scores are compared by powers of two.
        least: The number of requests that are needed for a verdict.
        false_alarms: The probability that a version that is no worse is ever found in breach, over all looks and all
            checks together.

    Raises:
        Misuse: A limit is out of its range, or no limit is set.

    >>> guardrails(latency=2.0, p99="250ms").latency_s
    0.25
    """
    limits = Guardrails(
        latency=latency,
        latency_s=None if p99 is None else duration_us(p99) / SECOND_US,
        easy_s=duration_us(easy) / SECOND_US,
        failures=failures,
        degraded=degraded,
        refused=refused,
        constant=constant,
        strange=strange,
        least=least,
        false_alarms=false_alarms,
    )
    if limits.latency is not None and not 1.0 < limits.latency < math.inf:
        raise Misuse(f"guardrails: latency={latency}. Give how many times the champion's it may be, above 1: 1.5.")
    for name in ("failures", "degraded", "refused", "constant", "strange"):
        share = getattr(limits, name)
        if share is not None and not 0.0 < share < 1.0:
            raise Misuse(f"guardrails: {name}={share}. Give a share above 0 and below 1, or None to leave it out.")
    if limits.least < 1:
        raise Misuse(f"guardrails: least={least}. Give at least 1 request.")
    if not 0.0 < limits.false_alarms < 0.5:
        raise Misuse(f"guardrails: false_alarms={false_alarms}. Give a probability above 0 and below 0.5: 0.01.")
    if not checks_of(limits):
        raise Misuse("guardrails: all limits are None. Give one at least.")
    return limits


def checks_of(limits: Guardrails) -> int:
    """The number of checks that have a limit."""
    checks = (limits.latency, limits.latency_s, limits.failures, limits.degraded, limits.refused)
    return sum(one is not None for one in (*checks, limits.constant, limits.strange))
