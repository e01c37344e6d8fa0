"""How many fits automation may make in a day and in a week."""

from __future__ import annotations

import msgspec

from trimtab.core.time import DAY_US, format_time
from trimtab.steering.definitions import Deployment
from trimtab.steering.loop_state import LoopState

_WEEK_US = 7 * DAY_US


class SpentBudget(msgspec.Struct, frozen=True):
    """A limit on fits that is reached, and until when."""

    until_us: int
    message: str


def spent_budget(rules: Deployment, state: LoopState, now_us: int) -> SpentBudget | None:
    """Return the limit that allows no fit now (of two, the one that lasts longer); None if there is none."""
    spans = (("24 hours", DAY_US, rules.fits_per_day), ("7 days", _WEEK_US, rules.fits_per_week))
    found = (_spent(name, span_us, limit, state, now_us) for name, span_us, limit in spans)
    return max((one for one in found if one is not None), key=lambda one: one.until_us, default=None)


def with_fits(state: LoopState, now_us: int, fits: int) -> tuple[tuple[int, int], ...]:
    """Return the fits of the last seven days as pairs of time and count, including `fits` that were made now."""
    return (*((at_us, made) for at_us, made in state.fits if now_us - at_us < _WEEK_US), (now_us, fits))


def _spent(name: str, span_us: int, limit: int | None, state: LoopState, now_us: int) -> SpentBudget | None:
    made = state.fits_since(now_us - span_us)
    if limit is None or made < limit:
        return None
    left, until_us = made, now_us
    for at_us, fits in sorted(state.fits):
        if at_us > now_us - span_us and left >= limit:
            left, until_us = left - fits, at_us + span_us
    allowed = f"The limit of fits in {name} is reached ({made} made, {limit} allowed)."
    said = f"{allowed} The next fit can begin at {format_time(until_us)[:16]}."
    return SpentBudget(until_us, said)
