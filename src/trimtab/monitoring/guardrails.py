"""The limits that a version must keep in service while it is rolled out."""

from __future__ import annotations

import math

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.time import SECOND_US, duration_us


class Guardrails(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a rollout; None: not checked. Make them with `guardrails()`."""

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
    """Limits that a version must keep in service while it is rolled out; None leaves a check out.

    Args:
        latency: The greatest ratio of its 90th, 95th and 99th percentile of latency to the champion's.
        p99: The greatest 99th percentile, whatever the champion's is: "250ms".
        easy: A percentile up to this is no breach of `latency`.
        failures: How much higher than the champion's the share of requests may be whose features or model failed.
        degraded: The same for requests that got a degraded response.
        refused: The same for requests that were refused for saturation; for versions that served one after the other.
        constant: The greatest share of its scores that equal the one before, among those where the champion's do not.
        strange: The greatest share of its scores that are less than half or more than twice as large as all of the
            champion's, or of another sign; approximate, as scores are compared by powers of two.
        least: Requests before a verdict.
        false_alarms: The probability that a version that is no worse is ever found in breach, at all looks and by all
            checks together.

    Raises:
        Misuse: A limit is out of its range, or there is none.

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
    """The number of checks."""
    checks = (limits.latency, limits.latency_s, limits.failures, limits.degraded, limits.refused)
    return sum(one is not None for one in (*checks, limits.constant, limits.strange))
