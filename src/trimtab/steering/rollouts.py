"""The stages of a passed candidate on its way into service, as a deployment declares them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, duration_us, format_duration
from trimtab.monitoring.guardrails import Guardrails


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """The stages between the gate and full service. Make one with `rollout()`."""

    shadow_us: int | None = None  # least duration of the comparison with the champion; None: no shadow
    within_us: int = 14 * DAY_US  # greatest duration of the comparison
    margin: float = 0.02  # how much worse the successor may be, as a share of the champion's loss
    canary: tuple[float, ...] = ()  # growing shares of the requests that the successor answers
    step_us: int = 3_600_000_000  # how long each share lasts
    bake_us: int = 0  # how long the service is guarded after the successor took over
    guardrails: Guardrails = Guardrails()  # the limits of the guard


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
    """The stages by which a candidate that passed the gate comes into service.

    In the paired shadow, the successor scores the logged rows that the champion answered, as the labels of these rows
    arrive. No request waits for the successor, and none is answered by it. Day by day, a sequential test decides to
    promote, hold or reject. Canaries then answer a share of the requests, always those of the same entities. They guard
    the service against errors, latency, and answers unlike the champion's. They do not test quality, because they see
    few labels, and labels of requests other than the champion's.

    Args:
        shadow: The least duration of the shadow ("1d"), in whole closed days; None: no shadow.
        within: The greatest duration of the shadow, which doubles where faulty days delay it. A successor that is still
            undecided by then is refused. A successor that cannot be decided by then, for lack of labels, is refused at
            once.
        margin: How much worse than the champion the successor may be, as a share of the champion's loss.
        canary: Growing shares of the requests, each above 0 and below 1; if empty, the successor answers all requests
            at once.
        step: How long each share lasts.
        bake: How long after the last step the service is guarded, so that a breach rolls the successor back. Left out,
            it is the length of a step if there are canaries, else 0.
        guardrails: The limits of the guard, made with `guardrails()`; left out, its defaults.

    Raises:
        Misuse: A time, a share or a margin that makes no sense.

    >>> rollout(shadow="1d", canary=[0.05, 0.25]).canary
    (0.05, 0.25)
    """
    shadow_us = None if shadow is None else duration_us(shadow)
    within_us, step_us = duration_us(within), duration_us(step)
    if shadow_us is not None and not (shadow_us > 0 and shadow_us % DAY_US == 0):
        raise Misuse(f'rollout: shadow={shadow!r}. Labels are compared by closed days: give "1d" or more, or None.')
    if within_us % DAY_US or within_us < (shadow_us or DAY_US):
        least = format_duration(shadow_us or DAY_US)
        raise Misuse(f"rollout: within={within!r}. Needed are whole days, {least} or more.")
    if not 0.0 < margin < 1.0:
        raise Misuse(f"rollout: margin={margin}. Needed is a share of the champion's loss above 0, such as 0.02.")
    if isinstance(canary, str | float | int):
        raise Misuse(f"rollout: canary={canary!r}. Give a list of shares: [0.05, 0.25].")
    shares = tuple(float(share) for share in canary)
    if not all(math.isfinite(share) and 0.0 < share < 1.0 for share in shares) or list(shares) != sorted(set(shares)):
        raise Misuse(f"rollout: canary={list(canary)}. Give growing shares above 0 and below 1: [0.05, 0.25].")
    if step_us <= 0:
        raise Misuse(f'rollout: step={step!r}. Give a duration such as "1h".')
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
