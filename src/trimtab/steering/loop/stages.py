"""The stages of a repair, for people: what is done, what goes on now, and what comes next and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from trimtab.core.shown import Shown
from trimtab.core.time import DAY_US, format_duration, format_time
from trimtab.steering.causes import Every
from trimtab.steering.definitions import Deployment
from trimtab.steering.gate.checks import percent
from trimtab.steering.gate.shadow import judged, level_of, said_of_shadow
from trimtab.steering.loop.quiet_times import PACED_US, paced_until_us
from trimtab.steering.loop_state import APPROVAL, CANARY, PROMOTING, SHADOW, LoopState, Requested, is_before
from trimtab.steering.rollouts import MOST_STEPS, Rollout
from trimtab.training.data.sets import TOO_NEW, LeftOut

WATCH = "watch"


class Stage(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """One stage of a deployment's loop, for people."""

    # for example "wait for labels", "fit and judge", "shadow", "approval", "canary 5%", "promote", "bake" or "watch"
    name: str
    state: Literal["done", "now", "next"]
    since_us: int | None = None  # for the present stage, when it began
    until_us: int | None = None  # when the stage ends or, if it has not begun, when it begins; None: unknown
    said: str = ""  # what the stage waits for, or what it has found


def stages(
    deployment: Deployment,
    state: LoopState,
    now_us: int,
    *,
    frozen: str | None,
    requested: Requested | None,
    left_out: Sequence[LeftOut] = (),
) -> list[Stage]:
    """Return the stages of the present repair or else of the next one, and then the planned follow-ups.

    Exactly one of them is the present stage. Only this one and the follow-ups have times.

    Args:
        frozen: Why a person has frozen automation; None if it is not frozen.
        requested: A requested repair that has not begun.
        left_out: The times whose rows are not used for training and comparisons.
    """
    names = _names(deployment)
    at = names.index(_present(deployment, state, now_us))
    found = []
    for place, name in enumerate(names):
        since_us, until_us, said = _details(name, deployment, state, now_us) if place == at else (None, None, "")
        if name == "shadow" and place == at and not state.shadow and state.repair is not None:
            said += _without(left_out, state.repair.unseen_from_us, deployment.name)
        if place == at and requested is not None:
            said = f"{requested.actor} has requested a repair over HTTP ({requested.why}). {said}"
        if place == at and frozen is not None:
            said = f"Automation is frozen ({frozen}), so nothing goes on until: trimtab unfreeze. {said}"
        reached: Literal["done", "now", "next"] = "done" if place < at else "now" if place == at else "next"
        found.append(Stage(name=name, state=reached, since_us=since_us, until_us=until_us, said=said))
    if state.phase == "idle":  # all other stages belong to the next repair
        found = [*found[at:], *(msgspec.structs.replace(one, state="next") for one in found[:at])]
    return found + _follow_ups(state)


def _names(deployment: Deployment) -> list[str]:
    rollout = deployment.rollout or Rollout()
    return [
        "wait for labels",
        "fit and judge",
        *(["shadow"] if rollout.shadow_us is not None else []),
        *(["approval"] if deployment.approval_us is not None else []),
        *(f"canary {percent(share)}" for share in rollout.canary),
        "promote",
        *(["bake"] if rollout.bake_us else []),
        WATCH,
    ]


def _present(deployment: Deployment, state: LoopState, now_us: int) -> str:
    if state.phase == "waiting":
        return "wait for labels" if is_before(now_us, state.ready_at_us) or state.lack else "fit and judge"
    if state.phase == CANARY:
        shares = (deployment.rollout or Rollout()).canary
        return f"canary {percent(shares[min(state.canary_step, len(shares) - 1)])}" if shares else "promote"
    found = {SHADOW: "shadow", APPROVAL: "approval", PROMOTING: "promote"}.get(state.phase)
    if found is None:
        found = "bake" if state.bake is not None else WATCH
    return found if found in _names(deployment) else "promote" if state.phase != "idle" else WATCH


def _details(name: str, deployment: Deployment, state: LoopState, now_us: int) -> tuple[int | None, int | None, str]:
    """Return when a stage began, when it ends, and what it waits for or has found."""
    rollout = deployment.rollout or Rollout()
    if name in ("wait for labels", "fit and judge"):
        until_us = state.ready_at_us if is_before(now_us, state.ready_at_us) else None
        return state.triggered_at_us, until_us, " ".join(one for one in (state.cause, state.lack) if one)
    if name == "shadow":
        said = "No day has been compared yet: a day is compared once the declared wait for its labels is over."
        if (repair := state.repair) is not None and state.shadow:
            found = judged(rollout, state.shadow, repair)
            said = said_of_shadow(found, state.shadow, rollout.margin, level_of(repair))
        return state.stage_since_us, state.stage_since_us + rollout.within_us, said
    if name == "approval":
        answer = f"trimtab approve {deployment.name}, or trimtab reject {deployment.name} --why TEXT"
        open_still = is_before(now_us, state.expires_us)
        return None, state.expires_us, f"To decide: {answer}." if open_still else "Its time is over. A tick drops it."
    if name.startswith("canary"):
        until_us, least = state.stage_since_us + rollout.step_us, rollout.guardrails.least
        said = f"It lasts until {format_time(until_us)} at least, and until the canary has answered {least} requests."
        if not is_before(now_us, until_us):
            until_us = state.stage_since_us + MOST_STEPS * rollout.step_us
            said = f"It waits until the canary has answered {least} requests, or is refused at {format_time(until_us)}."
        said += " The new version's errors, latency and answers are compared with those of the version in service."
        return state.stage_since_us, until_us, said
    if name == "bake" and state.bake is not None:
        said = "The new version is rolled back if errors, latency or answers get worse than before."
        return state.bake.since_us, state.bake.until_us, said
    return None, None, _next_repair(deployment, state, now_us) if name == WATCH else state.cause


def _without(left_out: Sequence[LeftOut], since_us: int, model: str) -> str:
    """Return a sentence about faulty times that a shadow leaves out; "" if there are none. It begins with a space."""
    found = [one for one in left_out if one.why != TOO_NEW and (one.end_us is None or one.end_us > since_us)]
    why = ", ".join(f"{one.why} since {format_time(max(since_us, one.start_us))[:10]}" for one in found)
    return f" Days are left out for: {why}. To list them: trimtab quality exclusions {model}." if found else ""


def _next_repair(deployment: Deployment, state: LoopState, now_us: int) -> str:
    """Return in words when the next scheduled repair is due, and until when alarms begin no repair."""
    found = []
    periods = [one.period_us for one in deployment.retrain.singles() if isinstance(one, Every)]
    if periods and state.trained_at_us:
        due_us = max(state.trained_at_us + min(periods), state.quiet_until_us)
        found.append(f"The next scheduled training is due {format_time(due_us)[:16].replace('T', ' ')}.")
    paced_us = paced_until_us(state)
    if is_before(now_us, paced_us):
        found.append(
            f"Alarms began {len(state.repairs_us)} repairs within {PACED_US // DAY_US} days, so they begin no other "
            f"until {format_time(paced_us)[:10]}: the data change faster than repairs can follow. Look for what makes "
            'them change, add it as a feature, or use learn="online".'
        )
    elif is_before(now_us, state.alarm_quiet_until_us):
        left = format_duration((state.alarm_quiet_until_us - now_us) // 3_600_000_000 * 3_600_000_000 + 3_600_000_000)
        found.append(f"An alarm begins no training for {left} more (a quiet time after a promotion or a refusal).")
    if not deployment.retrain.any_of:
        found.append("The deployment declares no retrain=, so only people begin a training.")
    return " ".join(found) or "A repair (a new training) begins when a cause declared in retrain= holds."


def _follow_ups(state: LoopState) -> list[Stage]:
    said = "Another candidate is trained then, because there are more days from after the data changed."
    return [Stage(name="follow up", state="next", until_us=at_us, said=said) for at_us in state.follow_ups_us]
