"""Guardrails: limits for latency, failures and other service metrics of a version while it is rolled out."""

from __future__ import annotations

import math

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.time import SECOND_US, duration_us


class Guardrails(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a rollout. A limit of None is not checked. `guardrails()` makes and checks them."""

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
    """Declare limits that a version must keep while it is rolled out. A limit of None is not checked.

    Args:
        latency: The largest ratio of the version's latency to the champion's, at the 90th, 95th and 99th percentile.
        p99: The largest 99th percentile of latency, such as "250ms", whatever the champion's is.
        easy: If a percentile of the version's latency is below this, `latency` does not apply to it.
        failures: A limit for the share of requests for which features or model failed: how much larger than the
            champion's it may be.
        degraded: A limit like `failures`, for the share of requests that got a degraded response.
        refused: A limit like `failures`, for the share of requests that were refused because of saturation. It is only
            checked if the two versions served one after the other.
        constant: A limit for the share of scores that equal the previous score. If this share is s for the champion,
            the limit is s + constant * (1 - s).
        strange: The largest share of scores that are unlike all scores of the champion: of another sign, less than half
            as large, or more than twice as large (approximately: scores are counted by powers of two).
        least: A verdict needs at least this many requests.
        false_alarms: For a version that is no worse than the champion, the probability that any check ever finds that
            it exceeds a limit.

    Raises:
        Misuse: A limit is out of its range, or all limits are None.

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
    if limits.latency is not None and not (_is_number(latency) and 1.0 < limits.latency < math.inf):
        raise Misuse(
            f"guardrails: latency={latency!r}. Give the allowed multiple of the champion's latency, above 1, such as "
            "1.5; a limit in time is p99."
        )
    if limits.latency_s == 0.0:
        raise Misuse(f"guardrails: p99={p99!r}. Give a duration above 0, such as 250ms, or None to leave it out.")
    for name in ("failures", "degraded", "refused", "constant", "strange"):
        share = getattr(limits, name)
        if share is not None and not (_is_number(share) and 0.0 < share < 1.0):
            raise Misuse(f"guardrails: {name}={share!r}. Give a share above 0 and below 1, or None to leave it out.")
    if not _is_number(least) or limits.least < 1:
        raise Misuse(f"guardrails: least={least!r}. Give at least 1 request.")
    if not (_is_number(false_alarms) and 0.0 < limits.false_alarms < 0.5):
        raise Misuse(f"guardrails: false_alarms={false_alarms!r}. Give a probability above 0 and below 0.5: 0.01.")
    if not checks_of(limits):
        raise Misuse("guardrails: all limits are None. Give at least one.")
    return limits


def _is_number(given: object) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool)


def checks_of(limits: Guardrails) -> int:
    """Return the number of checks that have a limit."""
    checks = (limits.latency, limits.latency_s, limits.failures, limits.degraded, limits.refused)
    return sum(one is not None for one in (*checks, limits.constant, limits.strange))
