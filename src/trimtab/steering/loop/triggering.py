"""Find the most urgent trigger of a repair. Each kind of cause has a quiet time of its own. # D0197"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from trimtab.core.records import ChangeOnset, Signal
from trimtab.core.time import DAY_US, format_duration, format_time
from trimtab.monitoring.quality.loss_estimates import SIGNAL, onset_of
from trimtab.monitoring.quality.watches import Watch
from trimtab.steering.candidates.plans import least_of_halves
from trimtab.steering.candidates.windows import LEAST_DAYS
from trimtab.steering.causes import (
    Every,
    OnEstimatedDrop,
    OnNewLabels,
    OnQualityDrop,
    OnSkew,
    OnSliceDrop,
    Single,
    parts_of_trigger,
)
from trimtab.steering.definitions import LEAST_WINDOW_US, Deployment
from trimtab.steering.loop.quiet_times import paced_until_us
from trimtab.steering.loop_state import CANARY, OF_CHANGES, SHADOW, Cause, LoopState, Requested, is_before

# if a slice raised the loss of all rows by this share, its alarm counts like an alarm about all rows
HARMFUL_RISE: Final = 0.1

PRIORITY: Final[tuple[Cause, ...]] = (
    "first", "call", "alarm", "slice", "follow-up", "estimate", "skew", "labels", "schedule",
)  # fmt: skip
_KINDS: Final[dict[type, Cause]] = {
    OnQualityDrop: "alarm",
    OnSliceDrop: "slice",
    OnEstimatedDrop: "estimate",
    OnSkew: "skew",
    OnNewLabels: "labels",
    Every: "schedule",
}


class Trigger(msgspec.Struct, frozen=True):
    """A trigger that holds: its cause, the reason, and when the repair may begin."""

    kind: Cause
    cause: str  # the reason, in words
    ready_at_us: int  # the repair waits until this time
    onset: ChangeOnset | None = None  # the change of the data that is to be repaired; None: no change is known
    actor: str | None = None  # the person who asked for the repair; None: no person did


class Seen(msgspec.Struct, frozen=True):
    """The facts that decide which triggers hold."""

    now_us: int
    serves: bool  # whether a version is in service
    watch: Watch | None
    requested: Requested | None
    new_labels: Callable[[], int]  # returns the number of labels since the training of the version in service
    # returns by what share a slice has raised the loss of all rows since a change began
    rise_by_slice: Callable[[str, ChangeOnset], float]
    signals: Callable[[], Sequence[Signal]]  # returns the open signals about the model
    newest_us: Callable[[], int] = lambda: 0  # see `red_windows.not_used_yet_us`

    def harmful(self, rules: Deployment) -> dict[str, ChangeOnset]:
        """Return the onsets of slices with an alarm that raised the loss of all rows by `HARMFUL_RISE`.

        If there is an alarm about all rows, only slices are returned whose change began later than the change of all
        rows: by more than the deployment's `settle`, so that it is no other date of the same change.
        """
        if self.watch is None:
            return {}
        whole, rise = self.watch.onset, self.rise_by_slice
        from_us = 0 if whole is None else whole.latest_us + rules.settle_us
        found = {name: onset for name, onset in self.watch.slice_onsets.items() if onset.earliest_us > from_us}
        return {name: onset for name, onset in found.items() if rise(name, onset) >= HARMFUL_RISE}

    def rise(self) -> Signal | None:
        """Return the open signal about the newest rise of the estimated loss; None if there is none."""
        return max((one for one in self.signals() if one.kind == SIGNAL), key=lambda one: one.onset_us, default=None)


def find_trigger(rules: Deployment, state: LoopState, seen: Seen) -> Trigger | None:
    """Return the most urgent trigger that holds and is not in its quiet time; None if there is none.

    If triggers are joined by `&`, the most urgent one decides which kind, and so which quiet time, counts for all.
    """
    now_us, requested = seen.now_us, _requested(seen, state)
    if not seen.serves:
        first = Trigger("first", "No version is in service yet.", now_us)
        return requested or (None if is_before(now_us, state.quiet_until_us) else first)
    found = [] if requested is None else [requested]
    if state.follow_ups_us and now_us >= state.follow_ups_us[0] and declares(rules, "follow-up"):
        said = "There are more labelled days since the change that was repaired."
        found.append(Trigger("follow-up", said, now_us, state.changes.repaired))
    for rule in rules.retrain.any_of:
        parts = sorted(parts_of_trigger(rule), key=lambda one: PRIORITY.index(_KINDS[type(one)]))
        kind = _KINDS[type(parts[0])]
        if _quiet(kind, rules, state, seen):
            continue
        holding = [_holding(part, rules, state, seen) for part in parts]
        if all(one is not None for one in holding):
            found.append(_together(kind, [one for one in holding if one is not None]))
    return min(found, key=lambda one: PRIORITY.index(one.kind), default=None)


def overtakes(found: Trigger, state: LoopState) -> bool:
    """Return whether a trigger ends the repair that goes on, because it is more urgent."""
    if state.repair is not None and found.kind in ("alarm", "slice") and found.onset is not None:
        estimated = state.changes.onset if state.begun_by == "estimate" else None
        same = estimated is not None and found.onset.earliest_us <= estimated.latest_us
        if same or state.repair.proved_after(found.onset):
            return False  # the alarm is about the version in service; the repair of this change passed its gate
    # a version that a person put forward may be in a shadow for weeks; a request over HTTP or an alarm ends that
    if state.begun_by == "person":
        return state.phase in (SHADOW, CANARY) and found.kind in ("call", "alarm")
    return state.begun_by in PRIORITY and PRIORITY.index(found.kind) < PRIORITY.index(state.begun_by)


def declares(rules: Deployment, kind: Cause) -> bool:
    """Return whether a deployment (still) declares the trigger of a cause. A follow-up belongs to an alarm."""
    if kind not in _KINDS.values() and kind != "follow-up":
        return True
    declared = {_KINDS[type(one)] for one in rules.retrain.singles()}
    return bool(declared & {"alarm", "slice", "estimate"}) if kind == "follow-up" else kind in declared


def outlook(rules: Deployment, state: LoopState, watch: Watch, rise: Callable[[str, ChangeOnset], float]) -> str:
    """Return in words when the next training for a repaired change is due, or that no alarm begins a repair; or ""."""
    if state.follow_ups_us and declares(rules, "follow-up"):
        return f"The next training for this change is due on {format_time(state.follow_ups_us[0])[:10]}."
    onsets, said = watch.slice_onsets, "No declared trigger repairs this"
    if state.phase != "idle" or (declares(rules, "slice") and onsets):
        return ""
    if declares(rules, "alarm"):
        most = max((rise(name, onset) for name, onset in onsets.items()), default=0.0)
        if watch.onset is not None or most >= HARMFUL_RISE:
            return ""
        if onsets:
            said += f": no slice raised the loss of all rows by more than {max(most, 0.0):.0%}, and {HARMFUL_RISE:.0%} "
            said += "is needed. tt.on_slice_drop() would repair it"
    return f"{said}. To train now: trimtab train {rules.name}"


def _requested(seen: Seen, state: LoopState) -> Trigger | None:
    if seen.requested is None or is_before(seen.now_us, state.quiet_of("call").until_us):
        return None
    request = seen.requested
    onset = None if seen.watch is None else seen.watch.onset
    return Trigger("call", f"Requested over HTTP by {request.actor}: {request.why}", seen.now_us, onset, request.actor)


def _quiet(kind: Cause, rules: Deployment, state: LoopState, seen: Seen) -> bool:
    """Return whether a kind of cause is in its quiet time.

    The quiet time of alarms ends early in two cases: the loss has risen further since the last repair began, or newer
    days show that the change of the data began later than that repair assumed, so that it learnt hardly anything about
    the change. That change may be one of a slice (`Seen.harmful`). Neither case counts after several repairs in a short
    time (`paced_until_us`).

    A quiet time of alarms holds for estimates, too, because both are about the same days. For estimates, both quiet
    times end early if there is a rise that began later than the changes which the last repairs assumed.
    """
    if kind in OF_CHANGES and is_before(seen.now_us, paced_until_us(state)):
        return True
    if kind == "alarm" and seen.watch is not None:
        onsets = (seen.watch.onset, *(seen.harmful(rules).values() if state.repaired else ()))
        if seen.watch.risen_us > state.risen_us or any(is_later(onset, state) for onset in onsets):
            return False
    if kind == "estimate" and state.estimated_us and (rise := seen.rise()) is not None:
        tried_us = max(state.estimated_us, 0 if state.tried is None else state.tried.latest_us)
        if onset_of(rise).earliest_us > tried_us:
            return False
    kinds: tuple[Cause, ...] = ("estimate", "alarm") if kind == "estimate" else (kind,)
    return any(is_before(seen.now_us, state.quiet_of(one).until_us) for one in kinds)


def is_later(onset: ChangeOnset | None, state: LoopState) -> bool:
    """Return whether a change began later than the one that the last repair assumed."""
    return onset is not None and state.repaired is not None and onset.earliest_us > state.repaired.latest_us


def _holding(rule: Single, rules: Deployment, state: LoopState, seen: Seen) -> Trigger | None:
    """Return a single declared trigger if it holds now; otherwise None."""
    now_us, watch = seen.now_us, seen.watch
    match rule:
        case OnQualityDrop():
            if watch is None:
                return None
            harmful = seen.harmful(rules)
            if watch.onset is not None and not harmful:
                said = f"Quality alarm: {', '.join(watch.alarming_kinds)}."
                if (again := _dated_again(rules, state.tried, watch.onset)) is not None:
                    return Trigger("alarm", said, now_us, again)
                return Trigger("alarm", said, _settled_us(rules, watch.onset, seen), watch.onset)
            said = f"Quality alarm: slices raised the loss of all rows by {HARMFUL_RISE:.0%} or more:"
            return _of_slices("alarm", said, harmful, rules, seen)
        case OnSliceDrop():
            onsets = {} if watch is None else watch.slice_onsets
            return _of_slices("slice", "Slice alarm:", onsets, rules, seen)
        case OnEstimatedDrop():
            # it only holds once the repair can begin: until then, other causes may begin repairs
            rise = seen.rise()
            if rise is None or _settled_us(rules, onset_of(rise), seen) > now_us:
                return None
            return Trigger("estimate", rise.message, now_us, onset_of(rise))
        case OnSkew():
            found = [one for one in seen.signals() if one.kind == "skew" and one.severity == "red"]
            return Trigger("skew", f"Skew, {found[-1].subject}: {found[-1].message}", now_us) if found else None
        case OnNewLabels(least=least):
            if (labels := seen.new_labels()) < least:
                return None
            return Trigger("labels", f"{labels:,} new labels ({least:,} are enough for a training).", now_us)
        case Every(period_us=period_us):
            if now_us - state.trained_at_us < period_us:
                return None
            said = f"Schedule: the version in service was trained at least {format_duration(period_us)} ago."
            return Trigger("schedule", said, now_us)


def _of_slices(
    kind: Cause, said: str, onsets: Mapping[str, ChangeOnset], rules: Deployment, seen: Seen
) -> Trigger | None:
    """Return the trigger for slices that have an alarm; None if there are no such slices."""
    if not onsets:
        return None
    onset = max(onsets.values(), key=lambda one: one.at_us)
    return Trigger(kind, f"{said} {', '.join(onsets)}.", _settled_us(rules, onset, seen), onset)


def _together(kind: Cause, parts: list[Trigger]) -> Trigger:
    if len(parts) == 1:
        return parts[0]
    onset = next((one.onset for one in parts if one.onset is not None), None)
    return Trigger(kind, " ".join(one.cause for one in parts), max(one.ready_at_us for one in parts), onset)


def _dated_again(rules: Deployment, tried: ChangeOnset | None, onset: ChangeOnset) -> ChangeOnset | None:
    """Return a wider range for the beginning of a change, if a repair was refused that assumed it to be too early.

    The next repair need not wait: enough days have passed since the earlier estimate, and it also judges on the newest
    of these days alone. None: no repair was refused, or `onset` is another change.
    """
    if tried is None or not tried.latest_us < onset.at_us <= tried.latest_us + rules.settle_us:
        return None
    return ChangeOnset(at_us=tried.at_us, earliest_us=tried.earliest_us, latest_us=onset.at_us)


def _settled_us(rules: Deployment, onset: ChangeOnset, seen: Seen) -> int:
    """Return when enough days have passed since the change began. A repair waits until then.

    If labels overlap over several days, each half of the days must be longer than the gap between the two.
    """
    halves_us = least_of_halves(rules.model.label)
    settle_us = max(rules.settle_us, halves_us + DAY_US if halves_us else 0)  # the newest day is not closed
    least_us = (LEAST_DAYS + 1) * DAY_US  # one more, because the newest day is not closed
    settled_us = max(onset.at_us + settle_us, onset.latest_us + min(settle_us, least_us))
    settled_us = max(settled_us, onset.at_us + min(settle_us, LEAST_WINDOW_US) + seen.newest_us())
    return max(seen.now_us, rules.model.label.final_at(settled_us))
