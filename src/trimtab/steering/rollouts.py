"""The declared stages between passing the gate and full service."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, duration_us, format_duration
from trimtab.monitoring.guardrails import Guardrails

MOST_STEPS = 24  # a step with too few requests is extended up to this multiple of its time


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """The stages between the gate and full service. `rollout()` makes and checks them."""

    shadow_us: int | None = None  # how long the shadow lasts at least; None: no shadow
    within_us: int = 14 * DAY_US  # how long the shadow lasts at most
    margin: float = 0.02  # as a share of the champion's loss, how much worse the successor (the new version) may be
    canary: tuple[float, ...] = ()  # the growing shares of the requests that the successor answers
    step_us: int = 3_600_000_000  # how long each share lasts at least
    bake_us: int = 0  # how long the version is guarded after it took over
    guardrails: Guardrails = Guardrails()  # the limits of service metrics


def rollout(
    *,
    shadow: str | int | None = None,
    within: str | int = "14d",
    margin: float = 0.02,
    canary: Sequence[float] = (),
    step: str | int = "1h",
    bake: str | int | None = None,
    guardrails: Guardrails | None = None,
) -> Rollout:
    """Declare the stages through which a candidate that passed the gate comes into service.

    In the shadow, the successor (the new version) also scores the logged rows that the champion answered, as their
    labels arrive. It answers no request, and no request waits for it. Each day, a sequential test decides whether to
    promote, hold or reject it. Then canaries answer growing shares of the requests, always those of the same entities.
    They protect the service from errors, latency, and scores unlike the champion's. They do not test quality, because
    their labels are few and belong to other requests than the champion's.

    Args:
        shadow: How long the shadow lasts at least ("1d"), in whole days whose labels are final. None: no shadow.
        within: How many closed days the shadow compares at most. If faulty days delay it, it ends after twice this time
            at the latest. Without a decision by then, the successor is refused. It is refused before the shadow begins
            if the labels are too few for a decision.
        margin: By how much the successor may be worse than the champion, as a share of the champion's loss.
        canary: The growing shares of the requests, each above 0 and below 1. If there are none, the successor answers
            all requests at once.
        step: How long each share lasts at least. With too few requests (see `guardrails`), it lasts up to 24 times as
            long; the successor is then refused.
        bake: How long the service is guarded after the last step. If a limit is exceeded, the successor is rolled back.
            By default it is as long as a step if there are canaries, and otherwise 0.
        guardrails: The limits of service metrics, made with `guardrails()`; by default those that `guardrails()`
            returns without arguments.

    Raises:
        Misuse: A time, a share or a margin makes no sense.

    >>> rollout(shadow="1d", canary=[0.05, 0.25]).canary
    (0.05, 0.25)
    """
    shadow_us = None if shadow is None else duration_us(shadow)
    within_us, step_us = duration_us(within), duration_us(step)
    if shadow_us is not None and not (shadow_us > 0 and shadow_us % DAY_US == 0):
        raise Misuse(f'rollout: shadow={shadow!r}. Labels are compared by closed days: give "1d" or more, or None.')
    if within_us % DAY_US or within_us < (shadow_us or DAY_US):
        least = format_duration(shadow_us or DAY_US)
        raise Misuse(f"rollout: within={within!r}. Give whole days, {least} or more.")
    if not isinstance(margin, int | float) or not 0.0 < margin < 1.0:
        raise Misuse(f"rollout: margin={margin!r}. Give a share of the champion's loss between 0 and 1, such as 0.02.")
    given: Any = canary
    try:
        shares = tuple(float(share) for share in ("?" if isinstance(given, str) else given))
    except (TypeError, ValueError):
        raise Misuse(f"rollout: canary={canary!r}. Give a list of shares: [0.05, 0.25].") from None
    if not all(math.isfinite(share) and 0.0 < share < 1.0 for share in shares) or list(shares) != sorted(set(shares)):
        raise Misuse(f"rollout: canary={list(canary)}. Give growing shares above 0 and below 1: [0.05, 0.25].")
    if step_us <= 0:
        raise Misuse(f'rollout: step={step!r}. Give a duration such as "1h".')
    if guardrails is not None and not isinstance(guardrails, Guardrails):
        raise Misuse(f'rollout: guardrails={guardrails!r}. Make them with tt.guardrails(p99="250ms").')
    bake_us = (step_us if shares else 0) if bake is None else duration_us(bake)
    return Rollout(
        shadow_us=shadow_us,
        within_us=within_us,
        margin=float(margin),
        canary=shares,
        step_us=step_us,
        bake_us=bake_us,
        guardrails=guardrails or Guardrails(),
    )
