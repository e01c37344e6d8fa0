"""Quiet times: how long a cause starts no repair after a refusal, a cancellation or a promotion."""

from __future__ import annotations

from typing import Any, Final

from trimtab.core.time import DAY_US
from trimtab.steering.loop_state import APART, OF_CHANGES, LoopState, Quiet

MOST_COOLDOWNS: Final = 8  # each refusal in a row doubles the quiet time, up to this multiple of the declared time

# within `PACED_US`, alarms begin at most this many repairs that are put in service; if the data change back and forth
# faster, each new version fits data that have changed again, and is worse than the old one  # D0225
MOST_REPAIRS: Final = 3
PACED_US: Final = 42 * DAY_US


def paced_until_us(state: LoopState) -> int:
    """Return until when alarms begin no repair, because they began `MOST_REPAIRS` in a short time; 0: they may."""
    return state.repairs_us[-MOST_REPAIRS] + PACED_US if len(state.repairs_us) >= MOST_REPAIRS else 0


def with_repair(state: LoopState, now_us: int) -> tuple[int, ...]:
    """Return the times of the newest repairs that alarms began, with the one that is put in service now."""
    of_change = state.begun_by in OF_CHANGES
    return (*state.repairs_us, now_us)[-MOST_REPAIRS:] if of_change else state.repairs_us


def after_refusal(
    state: LoopState, cooldown_us: int, now_us: int, period_us: int | None = None, *, longest: bool = False
) -> dict[str, Any]:
    """Return the changes of the state after a refusal: a quiet time for the kind of cause that began the repair.

    Each further refusal in a row doubles the quiet time. After an alarm about a recent change of the data, it is
    shorter (but at least half as long): it ends when the time since the change has grown by a half, because the new
    days may then prove what the earlier ones did not.

    Args:
        state: The state before the refusal, which says what began the repair.
        period_us: The period of the declared schedule, which tries again after this time at the latest.
        longest: Whether the quiet time has its greatest length at once, because the same repair would be of no use.
    """
    most_us = MOST_COOLDOWNS * cooldown_us
    if state.begun_by == "schedule" and period_us is not None:
        most_us = max(cooldown_us, min(most_us, period_us))
    quiet_us = most_us if longest else min(state.quiet_of(state.begun_by).cooldown_us or cooldown_us, most_us)
    next_us = min(2 * quiet_us, most_us)
    onset = state.changes.onset
    if onset is not None and state.begun_by in OF_CHANGES and not longest:
        quiet_us = min(quiet_us, max(quiet_us // 2, (now_us - onset.latest_us) // 2))
    return _quiet(state, now_us + quiet_us, next_us)


def after_cancel(state: LoopState, cooldown_us: int, now_us: int) -> dict[str, Any]:
    """Return the changes of the state after a repair was cancelled: the declared quiet time, not doubled."""
    return _quiet(state, now_us + cooldown_us)


def after_promotion(state: LoopState, cooldown_us: int, now_us: int) -> dict[str, Any]:
    """Return the changes of the state after a promotion: the declared quiet time. The cause "call" has none.

    After a scheduled refit, the cause "alarm" has no further quiet time. The refit repaired no change, so an alarm that
    follows, also one about earlier days, is about a change that is still to be repaired.
    """
    until_us = now_us + cooldown_us
    refreshed = state.begun_by in ("schedule", "labels")
    return {
        "quiet_until_us": until_us,
        "cooldown_us": cooldown_us,
        "alarm_quiet_until_us": min(state.alarm_quiet_until_us, until_us) if refreshed else until_us,
        "alarm_cooldown_us": cooldown_us,
        "quiets": dict.fromkeys((one for one in APART if one != "call"), Quiet(until_us)),
    }


def _quiet(state: LoopState, until_us: int, next_us: int | None = None) -> dict[str, Any]:
    kind = state.begun_by
    if kind == "follow-up":  # a follow-up has fixed times, and no quiet time
        return {}
    if kind in APART:
        cooldown_us = state.quiet_of(kind).cooldown_us if next_us is None else next_us
        return {"quiets": {**state.quiets, kind: Quiet(until_us, cooldown_us)}}
    prefix = "alarm_" if kind == "alarm" else ""
    grown = {} if next_us is None else {f"{prefix}cooldown_us": next_us}
    return {f"{prefix}quiet_until_us": until_us, **grown}
