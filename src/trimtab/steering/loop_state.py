"""The stored state of a deployment's loop. This module does not load NumPy."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from trimtab.core.records import LOSS_CAP, ChangeOnset, DayQuality, GateRecord
from trimtab.store.ports import Catalog, read_record

Cause = Literal["first", "call", "alarm", "slice", "follow-up", "labels", "schedule", "person"]
KIND = "loop"  # kind of the records that hold a `LoopState`
FREEZE = "freeze"
REQUEST: Final = "repair_request"  # kind of the records of repairs that were requested over HTTP
APART: Final = ("call", "slice", "labels")  # causes whose quiet times are stored in `LoopState.quiets`
SHADOW: Final = "shadow"
APPROVAL: Final = "waiting for approval"
CANARY: Final = "canary"
PROMOTING: Final = "promoting"
Phase = Literal["idle", "waiting", "shadow", "waiting for approval", "canary", "promoting"]


class PairedDay(msgspec.Struct, frozen=True, kw_only=True):
    """One closed day on which two models scored the same rows."""

    day_us: int  # the beginning of the day
    rows: int  # number of labelled rows, in a ranking of lists
    difference: float  # mean loss of the successor minus mean loss of the champion
    champion: float  # mean loss of the champion


class Repair(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate, its judgement, and the version to put in service if the candidate passed."""

    candidate: str  # address of the version that was judged
    gate: GateRecord
    successor: str | None  # address of the refit on all labels, which is promoted; None: refused
    reason: str  # why the candidate passed or was refused, in one sentence
    reference: tuple[DayQuality, ...]  # healthy days that the watch of the successor compares with
    cut_us: int
    rows: int  # number of rows that the candidate was fitted on
    data_hash: str
    loss_cap: float = LOSS_CAP  # the cap of the losses of a row in `reference`
    slices: dict[str, tuple[DayQuality, ...]] = {}  # the healthy days of each slice
    allowance: dict[str, float] = {}  # by kind of signal, how far the refit's healthy days may be from `reference`
    name: str = ""  # the successor's name, for people
    left_out: dict[str, int] = {}  # number of rows that were left out, by reason: faulty inputs or labels
    fits: int = 1  # number of fits that were made for this repair
    unseen_from_us: int = 0  # the successor has learnt from no request made at or after this time
    gate_days: tuple[PairedDay, ...] = ()  # candidate and champion on the judged days; empty: nothing was compared
    stood_in: bool = False  # another version answered for the champion: these days do not show the usual spread
    trained_us: int | None = None  # the cut of a stored version; None: the same as `cut_us`


class Requested(msgspec.Struct, frozen=True, kw_only=True):
    """A repair that was requested over HTTP."""

    at_us: int
    actor: str
    why: str


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of the data that the plan of a repair takes into account."""

    onset: ChangeOnset | None = None  # the change that is to be repaired now
    repaired: ChangeOnset | None = None  # the last change, which the version in service has repaired
    refreshes: bool = False  # no change is known; only a schedule or a number of new labels asks for a repair


IDLE: dict[str, Any] = {  # values that the fields of a state about a repair have after the repair
    "phase": "idle",
    "cause": "",
    "repair": None,
    "expires_us": 0,
    "stage_since_us": 0,
    "shadow_until_us": 0,
    "canary_step": 0,
    "approved_by": None,
    "asked_by": None,
    "lack": "",
}


def is_before(now_us: int, until_us: int) -> bool:
    """Return whether a clock's time is before a time of a `LoopState`; a time of 0 is not set, so nothing is before it.

    >>> is_before(-5, 0), is_before(5, 10)
    (False, True)
    """
    return until_us != 0 and now_us < until_us


def loop_state(catalog: Catalog, model: str) -> LoopState:
    """The state of a deployment's loop; idle before its first tick."""
    return read_record(catalog, KIND, model, LoopState) or LoopState()


class Quiet(msgspec.Struct, frozen=True):
    """The quiet time of a cause."""

    until_us: int = 0  # the cause starts no repair before this time
    cooldown_us: int = 0  # length of the quiet time after the next refusal; 0: the declared length


class Bake(msgspec.Struct, frozen=True, kw_only=True):
    """The time after a promotion in which a breach of the service rolls it back."""

    version: str  # the version that has taken over
    replaced: str
    since_us: int
    until_us: int
    trained_at_us: int = 0  # the cut of the replaced version


class LoopState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a deployment between two ticks: one record of the catalogue."""

    phase: Phase = "idle"
    cause: str = ""
    triggered_at_us: int = 0
    ready_at_us: int = 0  # phase "waiting": the time until which the repair waits
    begun_by: Cause = "schedule"
    changes: Changes = Changes()
    follow_ups_us: tuple[int, ...] = ()  # times of further repairs of the repaired change, with more days
    quiet_until_us: int = 0  # the schedule starts no repair before this time
    cooldown_us: int = 0  # length of the schedule's quiet time after its next refusal
    alarm_quiet_until_us: int = 0  # quiet time of alarms, whose refusals are counted separately
    alarm_cooldown_us: int = 0
    quiets: dict[str, Quiet] = {}  # quiet times of the causes call, slice and labels
    fits: tuple[tuple[int, int], ...] = ()  # times and numbers of fits of the last seven days
    lack: str = ""  # phase "waiting": the data missing at the newest look; empty: no look yet
    looked_us: int = 0  # the time of that look; in a shadow: of the newest comparison
    looked_for: str | None = None  # the version in service at the time of that look
    risen_us: int = 0  # newest rise within a repaired alarm; a newer rise ends the quiet time of alarms
    trained_at_us: int = 0  # the cut of the version in service; schedules count from here
    repair: Repair | None = None  # phases from shadow to promoting: the repair that passed the gate
    stage_since_us: int = 0  # phases shadow and canary: when the stage, or the present share, began
    shadow_until_us: int = 0  # phase "shadow": days before this time are already compared
    shadow: tuple[PairedDay, ...] = ()  # the days compared so far; kept until the next repair
    canary_step: int = 0  # phase "canary": index of the present share
    bake: Bake | None = None  # after a promotion, while the service is guarded
    expires_us: int = 0  # phase "approval": the time until which the candidate waits
    approved_by: str | None = None  # phase "promoting": the person who approved the candidate, if any
    asked_by: str | None = None  # the person who asked for the repair in flight, if any

    def quiet_of(self, kind: Cause) -> Quiet:
        """The quiet time of causes of one kind."""
        if kind in APART:
            return self.quiets.get(kind, Quiet())
        if kind == "alarm":
            return Quiet(self.alarm_quiet_until_us, self.alarm_cooldown_us)
        return Quiet(self.quiet_until_us, self.cooldown_us)

    def fits_since(self, at_us: int) -> int:
        """The number of fits since a time, which must lie within the last seven days."""
        return sum(fits for when_us, fits in self.fits if when_us > at_us)
