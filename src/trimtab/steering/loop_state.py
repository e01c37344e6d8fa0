"""The stored state of a deployment's loop. This module does not load NumPy."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from trimtab.core.records import LOSS_CAP, ChangeOnset, DayQuality, GateRecord
from trimtab.store.ports import Catalog, read_record

Cause = Literal["first", "call", "alarm", "slice", "estimate", "skew", "follow-up", "labels", "schedule", "person"]
KIND = "loop"  # the kind of catalogue records that hold a `LoopState`
FREEZE = "freeze"
REQUEST: Final = "repair_request"  # the kind of catalogue records for repairs that were requested over HTTP
APART: Final = ("call", "slice", "estimate", "skew", "labels")  # causes whose quiet times are in `LoopState.quiets`
OF_CHANGES: Final = ("alarm", "slice", "estimate")  # causes that are about a recent change of the data
SHADOW: Final = "shadow"
APPROVAL: Final = "waiting for approval"
CANARY: Final = "canary"
PROMOTING: Final = "promoting"
Phase = Literal["idle", "waiting", "shadow", "waiting for approval", "canary", "promoting"]


class PairedDay(msgspec.Struct, frozen=True, kw_only=True):
    """One closed day (a day whose labels are final) on which two models scored the same rows."""

    day_us: int  # the beginning of the day
    rows: int  # the number of labelled rows, or of lists for a ranking
    difference: float  # the mean loss of the successor (the new version), minus that of the champion
    champion: float  # the mean loss of the champion


class Repair(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate, its judgement, and the version to put in service if it passed."""

    candidate: str  # the id of the version that was judged
    gate: GateRecord
    # the id of the candidate's refit on more data, which goes into service; None: the candidate was refused
    successor: str | None
    reason: str  # why it passed or was refused
    reference: tuple[DayQuality, ...]  # days that the successor's quality in service is compared with
    cut_us: int
    rows: int  # the number of rows on which the candidate was fitted
    data_hash: str
    loss_cap: float = LOSS_CAP  # larger losses of a row count as this in `reference`
    slices: dict[str, tuple[DayQuality, ...]] = {}  # for each slice, its sums on the days of `reference`
    # for each watched metric, how far it may be from `reference` only because the version is a refit
    allowance: dict[str, float] = {}
    name: str = ""  # the name of the successor
    left_out: dict[str, int] = {}  # how many rows were left out for each reason (faulty inputs or labels)
    fits: int = 1  # how many fits were made for this repair
    unseen_from_us: int = 0  # the successor has not learnt from requests since this time
    # candidate and champion on the days of the gate; empty: there was no comparison
    gate_days: tuple[PairedDay, ...] = ()
    # whether another version scored `gate_days` in place of the champion; then they do not show the usual variation
    stood_in: bool = False

    @property
    def proved(self) -> float:
        """The loss of the candidate minus the champion's that the gate proved, below 0; 0: it proved none below 0."""
        return min(self.gate.bound or 0.0, 0.0) if self.gate.checks.get("provably_better") else 0.0

    def proved_after(self, onset: ChangeOnset) -> bool:
        """Return whether the gate proved that the candidate is better, mostly on days after a change."""
        return self.proved < 0.0 and 2 * onset.at_us <= self.gate.window_start_us + self.gate.window_end_us


class Requested(msgspec.Struct, frozen=True, kw_only=True):
    """A repair that was requested over HTTP."""

    at_us: int
    actor: str
    why: str


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Known changes of the data, which the plan of a repair takes into account."""

    onset: ChangeOnset | None = None  # the change to repair now; None: no change is known
    # the change that was repaired last: the version in service has learnt from days after it; None: there was none
    repaired: ChangeOnset | None = None
    standing: ChangeOnset | None = (
        None  # the change that a quality alarm is about, while another cause began the repair
    )
    refreshes: bool = False  # whether the schedule or new labels began the repair
    alarming: bool = False  # whether there is an alarm, also about a slice, in a deployment that repairs after alarms


IDLE: dict[str, Any] = {  # the values of the fields about a repair while there is no repair
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
    """Return whether a time is before `until_us`, a time of a `LoopState` (0: not set).

    >>> is_before(-5, 0), is_before(5, 10)
    (False, True)
    """
    return until_us != 0 and now_us < until_us


def loop_state(catalog: Catalog, model: str) -> LoopState:
    """Return the state of a deployment's loop; idle before its first tick."""
    return read_record(catalog, KIND, model, LoopState) or LoopState()


class Quiet(msgspec.Struct, frozen=True):
    """The quiet time of a kind of cause."""

    until_us: int = 0  # no repair is started before this time
    cooldown_us: int = 0  # how long the quiet time after the next refusal is; 0: as declared


class Bake(msgspec.Struct, frozen=True, kw_only=True):
    """The time after a promotion in which the version is rolled back if it exceeds a limit of the service."""

    version: str  # the id of the version that was promoted
    replaced: str
    since_us: int
    until_us: int


class LoopState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a deployment's loop between two ticks. It is one record of the catalogue."""

    phase: Phase = "idle"
    cause: str = ""
    triggered_at_us: int = 0
    ready_at_us: int = 0  # phase "waiting": the repair waits until this time
    begun_by: Cause = "schedule"
    changes: Changes = Changes()
    # when the newest versions that alarms led to went into service, at most `MOST_REPAIRS`
    repairs_us: tuple[int, ...] = ()
    follow_ups_us: tuple[int, ...] = ()  # when to repeat the repair of the last change, with more days
    quiet_until_us: int = 0  # the schedule starts no repair before this time
    cooldown_us: int = 0  # how long the schedule's quiet time after its next refusal is
    alarm_quiet_until_us: int = 0  # likewise for alarms, whose refusals are counted separately
    alarm_cooldown_us: int = 0
    quiets: dict[str, Quiet] = {}  # the quiet times of the causes in `APART`
    fits: tuple[tuple[int, int], ...] = ()  # the fits of the last seven days, as pairs of time and count
    lack: str = ""  # phase "waiting": which data the last check found missing; "": none, or not checked yet
    looked_us: int = 0  # the time of that check; in phase "shadow": of the last comparison
    looked_for: str | None = None  # the id of the version in service at the time of that check
    # the change that the newest refused repair of an alarm assumed; None: none was refused, or it was repaired since
    tried: ChangeOnset | None = None
    # `Watch.risen_us` at the beginning of the repair; if a loss rises further later, the quiet time of alarms ends
    risen_us: int = 0
    # the latest likely beginning of the rise for which an estimate began its newest repair; 0: it began none
    estimated_us: int = 0
    version: str | None = None  # the id of the version in service at the last tick; None: unknown
    trained_at_us: int = 0  # the training cut of this version, from which schedules count
    repair: Repair | None = None  # phases "shadow" to "promoting": the repair that passed the gate
    stage_since_us: int = 0  # phases "shadow" and "canary": when the stage, or its present share, began
    shadow_until_us: int = 0  # phase "shadow": days before this time were already compared
    shadow: tuple[PairedDay, ...] = ()  # the days of the shadow; they are kept until the next repair
    canary_step: int = 0  # phase "canary": the index of the present share
    bake: Bake | None = None  # set while a promoted version is guarded
    expires_us: int = 0  # phase "waiting for approval": the candidate waits until this time
    approved_by: str | None = None  # phase "promoting": the person who approved the candidate, if any
    asked_by: str | None = None  # the person who asked for the present repair, if any

    @property
    def repaired(self) -> ChangeOnset | None:
        """The change that the last repair assumed, refused or not; None: there was no repair of a change."""
        return self.tried or self.changes.repaired

    def quiet_of(self, kind: Cause) -> Quiet:
        """Return the quiet time of a kind of cause."""
        if kind in APART:
            return self.quiets.get(kind, Quiet())
        if kind == "alarm":
            return Quiet(self.alarm_quiet_until_us, self.alarm_cooldown_us)
        return Quiet(self.quiet_until_us, self.cooldown_us)

    def fits_since(self, at_us: int) -> int:
        """Return the number of fits since a time within the last seven days."""
        return sum(fits for when_us, fits in self.fits if when_us > at_us)
