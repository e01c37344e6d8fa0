"""Where a deployment's loop stands, as it is stored: light, for all who only look."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from trimtab.core.records import LOSS_CAP, ChangeOnset, DayQuality, GateRecord
from trimtab.store.ports import Catalog

Cause = Literal["first", "call", "alarm", "slice", "follow-up", "labels", "schedule", "person"]
KIND = "loop"  # of the record that holds a `LoopState`
FREEZE = "freeze"
REQUEST: Final = "repair_request"  # of the record of a repair that was asked for over HTTP
APART: Final = ("call", "slice", "labels")  # causes whose quiet times stand in `LoopState.quiets`
SHADOW: Final = "shadow"
APPROVAL: Final = "waiting for approval"
CANARY: Final = "canary"
PROMOTING: Final = "promoting"
Phase = Literal["idle", "waiting", "shadow", "waiting for approval", "canary", "promoting"]


class PairedDay(msgspec.Struct, frozen=True, kw_only=True):
    """What one closed day says of two models that scored the same rows."""

    day_us: int  # its beginning
    rows: int  # labelled rows; of a ranking lists
    difference: float  # mean loss of the successor minus that of the champion
    champion: float  # mean loss of the champion


class Repair(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate, how it was judged, and the version to put in service when it passed."""

    candidate: str  # address of what was judged
    gate: GateRecord
    successor: str | None  # address of the version to promote: the recipe refitted on all labels; None: refused
    reason: str  # why it passed or was refused, one sentence
    reference: tuple[DayQuality, ...]  # the candidate's days on the gate's window: what healthy means from now on
    cut_us: int
    rows: int  # that the candidate was fitted on
    data_hash: str
    loss_cap: float = LOSS_CAP  # what the losses in `reference` were capped at
    slices: dict[str, tuple[DayQuality, ...]] = {}  # the same days of each slice
    allowance: dict[str, float] = {}  # by kind of signal how far the refit's healthy days may be from `reference`
    name: str = ""  # of the successor, for people
    left_out: dict[str, int] = {}  # rows of the set that were left out, by why: their inputs or labels were faulty
    fits: int = 1  # that were made for it
    unseen_from_us: int = 0  # what was asked since then has taught the successor nothing
    gate_days: tuple[PairedDay, ...] = ()  # candidate and champion on the judged days; none: nothing was compared
    stood_in: bool = False  # another version answered for the champion: how much such days differ is not known
    trained_us: int | None = None  # the cut of what goes in service, where that is not `cut_us`: of a stored version


class Requested(msgspec.Struct, frozen=True, kw_only=True):
    """A repair that was asked for over HTTP."""

    at_us: int
    actor: str
    why: str


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of the world that a plan allows for."""

    onset: ChangeOnset | None = None  # of the one that is to be repaired now
    repaired: ChangeOnset | None = None  # of the last one that the version in service has repaired
    refreshes: bool = (
        False  # nothing is known to have changed: a schedule, or a number of new labels, asks for newer data
    )


IDLE: dict[str, Any] = {  # the fields of a state that belong to a repair, once that is over
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
    """Whether a time of a `LoopState` is still to come; 0 says that none was set, also where the clock is before 1970.

    >>> is_before(-5, 0), is_before(5, 10)
    (False, True)
    """
    return until_us != 0 and now_us < until_us


def loop_state(catalog: Catalog, model: str) -> LoopState:
    """Where a deployment's loop stands; idle where it has never begun."""
    record = catalog.get(KIND, model)
    return LoopState() if record is None else msgspec.json.decode(record.body, type=LoopState)


class Quiet(msgspec.Struct, frozen=True):
    """The quiet time of a cause."""

    until_us: int = 0  # it starts nothing before
    cooldown_us: int = 0  # after the next candidate if it is refused; 0: the declared one


class Bake(msgspec.Struct, frozen=True, kw_only=True):
    """The time after a promotion in which the service is guarded, and goes back to what answered before."""

    version: str  # what took over
    replaced: str
    since_us: int
    until_us: int
    trained_at_us: int = 0  # the cut of what was replaced


class LoopState(msgspec.Struct, frozen=True, kw_only=True):
    """Where a deployment stands between two ticks: one record of the catalogue."""

    phase: Phase = "idle"
    cause: str = ""
    triggered_at_us: int = 0
    ready_at_us: int = 0  # waiting: not before
    begun_by: Cause = "schedule"
    changes: Changes = Changes()
    follow_ups_us: tuple[int, ...] = ()  # after a repair of a change: when another one is tried, with more days since
    quiet_until_us: int = 0  # the schedule starts nothing before
    cooldown_us: int = 0  # the quiet time after the next candidate if it is refused
    alarm_quiet_until_us: int = 0  # an alarm starts nothing before: its refusals are counted apart
    alarm_cooldown_us: int = 0
    quiets: dict[str, Quiet] = {}  # of the causes whose refusals are counted apart as well: call, slice, labels
    fits: tuple[tuple[int, int], ...] = ()  # when fits were made in the last seven days, and how many
    lack: str = ""  # waiting: what nothing could be judged without at the newest look; empty: nobody has looked yet
    looked_us: int = 0  # when that was; in a shadow: when the newest days were compared
    looked_for: str | None = None  # who was in service then
    risen_us: int = 0  # the newest rise within an alarm that a repair was begun for: a newer one ends every quiet time
    trained_at_us: int = 0  # the cut of the version in service; schedules count from here
    repair: Repair | None = None  # from the shadow to promoting: what passed the gate
    stage_since_us: int = 0  # shadow, canary: when the stage, or the present share of it, began
    shadow_until_us: int = 0  # shadow: days before this are compared
    shadow: tuple[PairedDay, ...] = ()  # the days compared so far; kept until the next repair
    canary_step: int = 0  # canary: which share, 0 for the first
    bake: Bake | None = None  # after a promotion, while the service is guarded
    expires_us: int = 0  # waiting for approval: until then
    approved_by: str | None = None  # promoting: who let it take over, where that was a person
    asked_by: str | None = None  # who asked for what is under way, where that was a person

    def quiet_of(self, kind: Cause) -> Quiet:
        """The quiet time of a cause."""
        if kind in APART:
            return self.quiets.get(kind, Quiet())
        if kind == "alarm":
            return Quiet(self.alarm_quiet_until_us, self.alarm_cooldown_us)
        return Quiet(self.quiet_until_us, self.cooldown_us)

    def fits_since(self, at_us: int) -> int:
        """How many fits were made since a time of the last seven days."""
        return sum(fits for when_us, fits in self.fits if when_us > at_us)
