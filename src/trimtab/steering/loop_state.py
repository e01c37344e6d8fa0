"""The stored state of a deployment's loop; loading it loads no NumPy."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from trimtab.core.records import LOSS_CAP, ChangeOnset, DayQuality, GateRecord
from trimtab.store.ports import Catalog

Cause = Literal["first", "call", "alarm", "slice", "follow-up", "labels", "schedule", "person"]
KIND = "loop"  # records with a `LoopState`
FREEZE = "freeze"
REQUEST: Final = "repair_request"  # records of repairs that were requested over HTTP
APART: Final = ("call", "slice", "labels")  # causes whose quiet times are in `LoopState.quiets`
SHADOW: Final = "shadow"
APPROVAL: Final = "waiting for approval"
CANARY: Final = "canary"
PROMOTING: Final = "promoting"
Phase = Literal["idle", "waiting", "shadow", "waiting for approval", "canary", "promoting"]


class PairedDay(msgspec.Struct, frozen=True, kw_only=True):
    """One closed day of two models that scored the same rows."""

    day_us: int  # its beginning
    rows: int  # labelled rows, in a ranking lists
    difference: float  # mean loss of the successor minus the champion's
    champion: float  # mean loss of the champion


class Repair(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate, its judgement, and the version to put in service when it passed."""

    candidate: str  # address of what was judged
    gate: GateRecord
    successor: str | None  # address of the version to promote, the recipe refitted on all labels; None: refused
    reason: str  # why it passed or was refused, one sentence
    reference: tuple[DayQuality, ...]  # healthy days, which the successor's watch is anchored at
    cut_us: int
    rows: int  # rows that the candidate was fitted on
    data_hash: str
    loss_cap: float = LOSS_CAP  # the cap of the losses in `reference`
    slices: dict[str, tuple[DayQuality, ...]] = {}  # the same days of each slice
    allowance: dict[str, float] = {}  # by kind of signal, how far the refit's healthy days may be from `reference`
    name: str = ""  # the successor's name, for people
    left_out: dict[str, int] = {}  # by reason, rows of the set that were left out: faulty inputs or labels
    fits: int = 1  # fits made for it
    unseen_from_us: int = 0  # the successor has learnt nothing of requests since then
    gate_days: tuple[PairedDay, ...] = ()  # candidate and champion on the judged days; empty: nothing was compared
    stood_in: bool = False  # another version answered for the champion, so the days do not give the usual spread
    trained_us: int | None = None  # own cut of a stored version; None: `cut_us`


class Requested(msgspec.Struct, frozen=True, kw_only=True):
    """A repair that was requested over HTTP."""

    at_us: int
    actor: str
    why: str


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of the data that a plan accounts for."""

    onset: ChangeOnset | None = None  # the change to be repaired now
    repaired: ChangeOnset | None = None  # the last change, which the version in service has repaired
    refreshes: bool = False  # no change is known: a schedule, or a number of new labels, asks for newer data


IDLE: dict[str, Any] = {  # the fields of a state that belong to a repair, as they are after it
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
    """Return whether a time of a `LoopState` is in the future; 0 means not set, even where the clock is before 1970.

    >>> is_before(-5, 0), is_before(5, 10)
    (False, True)
    """
    return until_us != 0 and now_us < until_us


def loop_state(catalog: Catalog, model: str) -> LoopState:
    """The state of a deployment's loop; idle before its first tick."""
    record = catalog.get(KIND, model)
    return LoopState() if record is None else msgspec.json.decode(record.body, type=LoopState)


class Quiet(msgspec.Struct, frozen=True):
    """The quiet time of a cause."""

    until_us: int = 0  # it starts nothing before this
    cooldown_us: int = 0  # the next one after a refusal; 0: the declared one


class Bake(msgspec.Struct, frozen=True, kw_only=True):
    """The time after a promotion in which a breach of the service rolls it back."""

    version: str  # the version that took over
    replaced: str
    since_us: int
    until_us: int
    trained_at_us: int = 0  # the cut of the replaced version


class LoopState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a deployment between two ticks: one record of the catalogue."""

    phase: Phase = "idle"
    cause: str = ""
    triggered_at_us: int = 0
    ready_at_us: int = 0  # waiting: until then
    begun_by: Cause = "schedule"
    changes: Changes = Changes()
    follow_ups_us: tuple[int, ...] = ()  # after the repair of a change: times of further repairs, with more days since
    quiet_until_us: int = 0  # the schedule starts nothing before this
    cooldown_us: int = 0  # the quiet time after its next refusal
    alarm_quiet_until_us: int = 0  # the same of alarms, whose refusals are counted apart
    alarm_cooldown_us: int = 0
    quiets: dict[str, Quiet] = {}  # the same of call, slice and labels
    fits: tuple[tuple[int, int], ...] = ()  # times and numbers of fits of the last seven days
    lack: str = ""  # waiting: what was missing at the newest look; empty: no look yet
    looked_us: int = 0  # the time of that look; in a shadow: when the newest days were compared
    looked_for: str | None = None  # the version in service then
    risen_us: int = 0  # the newest rise within an alarm that was repaired: a newer one ends the quiet time of alarms
    trained_at_us: int = 0  # the cut of the version in service; schedules count from here
    repair: Repair | None = None  # from the shadow to promoting: what passed the gate
    stage_since_us: int = 0  # shadow, canary: when the stage, or its present share, began
    shadow_until_us: int = 0  # shadow: days before this are compared
    shadow: tuple[PairedDay, ...] = ()  # the days compared so far; kept until the next repair
    canary_step: int = 0  # canary: which share, 0 for the first
    bake: Bake | None = None  # after a promotion, while the service is guarded
    expires_us: int = 0  # waiting for approval: until then
    approved_by: str | None = None  # promoting: the person who approved it, if any
    asked_by: str | None = None  # the person who asked for what is in flight, if any

    def quiet_of(self, kind: Cause) -> Quiet:
        """The quiet time of a cause."""
        if kind in APART:
            return self.quiets.get(kind, Quiet())
        if kind == "alarm":
            return Quiet(self.alarm_quiet_until_us, self.alarm_cooldown_us)
        return Quiet(self.quiet_until_us, self.cooldown_us)

    def fits_since(self, at_us: int) -> int:
        """The number of fits since a time of the last seven days."""
        return sum(fits for when_us, fits in self.fits if when_us > at_us)
