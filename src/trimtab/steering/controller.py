"""The reconciler: looks at what monitoring found, and moves one deployment on by recorded decisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, Misuse, NotFound, Unavailable
from trimtab.core.records import DayQuality, Decision, GateRecord
from trimtab.core.time import format_duration, format_moment
from trimtab.monitoring.quality import QualityMonitor
from trimtab.stats.edetector import LOSS_CAP
from trimtab.steering.definitions import Deployment, Every, OnQualityDrop
from trimtab.steering.ledger import Entry, Evidence, Ledger
from trimtab.store.ports import Catalog, Put

KIND = "loop"
FREEZE = "freeze"
CHAMPION = "champion"
MOST_COOLDOWNS = 8  # refusals double the quiet time up to so many times the declared one


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


class Workshop(Protocol):
    """Makes, judges and puts forward versions; `app` and `simulation` hand one to the controller."""

    def champion(self) -> str | None:
        """Address of the version in service."""
        ...

    def blocked(self, cut_us: int) -> str | None:
        """Why no candidate can be judged on the data known at `cut_us`, in one sentence; None when it can."""
        ...

    def repair(self, cut_us: int, go_on: Callable[[], None]) -> Repair:
        """Train a candidate on what was known at `cut_us` and judge it against the champion.

        `go_on` is called before the gate; what it raises ends the repair.

        Raises:
            Misuse: No candidate can be made of these data or by this recipe.
        """
        ...

    def promote(self, repair: Repair, why: str) -> str | None:
        """Put the successor in service; the address of what it replaced. Once is as good as twice.

        Raises:
            Conflict: Another champion stands there than the one that the gate compared with.
        """
        ...


class LoopState(msgspec.Struct, frozen=True, kw_only=True):
    """Where a deployment stands between two ticks: one record of the catalogue."""

    phase: Literal["idle", "waiting", "promoting"] = "idle"
    cause: str = ""
    triggered_at_us: int = 0
    ready_at_us: int = 0  # waiting: not before
    quiet_until_us: int = 0  # no trigger starts anything before
    cooldown_us: int = 0  # the quiet time after the next candidate if it is refused
    trained_at_us: int = 0  # the cut of the version in service; schedules count from here
    repair: Repair | None = None  # promoting: what passed and is to be in service


class Controller:
    """Steers one deployment. `tick` may be called at any time and as often as one likes.

    A crash between any two of its writes is harmless. What a step decides is stored with the next phase in one write,
    so a candidate is either judged and noted or not at all; and a promotion is stored with all its evidence before
    the alias moves, so whoever comes next finishes it: `finish` may be repeated.
    """

    def __init__(
        self,
        deployment: Deployment,
        *,
        monitor: QualityMonitor,
        workshop: Workshop,
        ledger: Ledger,
        catalog: Catalog,
        clock: Clock,
    ) -> None:
        self._deployment = deployment
        self._monitor = monitor
        self._workshop = workshop
        self._ledger = ledger
        self._catalog = catalog
        self._clock = clock
        self.reload()

    @property
    def state(self) -> LoopState:
        return self._state

    def reload(self) -> None:
        """Read the state again: another process may have moved it."""
        record = self._catalog.get(KIND, self._deployment.name)
        self._revision = 0 if record is None else record.revision
        fresh = LoopState(cooldown_us=self._deployment.cooldown_us)
        self._state = fresh if record is None else msgspec.json.decode(record.body, type=LoopState)

    def finish(self) -> list[Decision]:
        """Finish a promotion that was under way when a process ended; the decisions taken.

        While automation is frozen the alias stays where it is, and only what has happened is written down.
        """
        repair = self._state.repair
        if repair is None or repair.successor is None:
            return []
        if self._frozen() is not None and self._workshop.champion() != repair.successor:
            return []
        now_us = self._clock.now_us()
        gate = {"gate": repair.gate.id}
        try:
            replaced = self._workshop.promote(repair, repair.reason)
        except Conflict as error:
            return self._refuse(now_us, [self._entry("refuse", str(error), gate, version=repair.candidate)])
        _, anchored = self._monitor.anchor(  # as of the repair: the alias may have moved long before this is written
            repair.successor, repair.reference, at_us=repair.cut_us, loss_cap=repair.loss_cap
        )
        decisions = self._write(
            [self._entry("promote", self._state.cause, gate, version=repair.successor, replaced=replaced)],
            [anchored],
            phase="idle",
            cause="",
            quiet_until_us=now_us + self._deployment.cooldown_us,
            cooldown_us=self._deployment.cooldown_us,
            trained_at_us=repair.cut_us,
            repair=None,
        )
        self._monitor.reload()
        return decisions

    def tick(self) -> list[Decision]:
        """Do what is due; the decisions taken, oldest first."""
        decisions = self.finish()
        if decisions or self._state.repair is not None or self._frozen() is not None:
            return decisions
        now_us = self._clock.now_us()
        if self._state.phase == "idle":
            trigger = self._trigger(now_us)
            if trigger is None:
                return []
            entries = [self._entry("trigger", trigger.cause, {"onset_us": trigger.onset_us})]
            if trigger.ready_at_us > now_us:
                until = format_moment(trigger.ready_at_us)
                entries.append(self._entry("wait", f"For labels from after the change, until {until}."))
            decisions += self._write(
                entries,
                phase="waiting",
                cause=trigger.cause,
                triggered_at_us=now_us,
                ready_at_us=trigger.ready_at_us,
            )
        if now_us < self._state.ready_at_us or self._blocked(now_us) is not None:
            return decisions  # stays waiting: the next tick looks again
        try:
            return decisions + self._repair(now_us)
        except Conflict:
            if self._frozen() is None:
                raise
            return decisions  # frozen meanwhile: nothing was decided, or what was is carried out later
        except _Failed as failed:
            return decisions + failed.decisions

    def train(self, actor: str) -> list[Decision]:
        """Make and judge a candidate now, whatever is due; the gate decides as ever.

        Raises:
            Unavailable: No candidate can be judged on what is known now; the message says why.
            Misuse: No candidate can be made; the ledger says so too.
            Conflict: Automation is frozen.
        """
        self._check_frozen()
        decisions = self.finish()
        now_us = self._clock.now_us()
        blocked = self._workshop.blocked(now_us)
        if blocked is not None:
            raise Unavailable(f"train {self._deployment.name!r}: {blocked}")
        self._write([], phase="waiting", cause=f"Asked for by {actor}.", triggered_at_us=now_us, ready_at_us=now_us)
        try:
            return decisions + self._repair(now_us)
        except _Failed as failed:
            raise failed.error from failed.error.__cause__

    def _trigger(self, now_us: int) -> _Trigger | None:
        if now_us < self._state.quiet_until_us:
            return None
        if self._workshop.champion() is None:
            return _Trigger("No version is in service yet.", None, now_us)
        watch = self._monitor.watch
        for rule in self._deployment.retrain.any_of:
            if isinstance(rule, OnQualityDrop) and watch is not None and watch.alarming:
                rung = [kind for kind, figure in watch.figures.items() if figure.state.alarm_day is not None]
                onset_us = watch.onset_us or now_us
                settled_us = onset_us + self._deployment.settle_us + self._deployment.model.label.wait_us
                return _Trigger(f"Quality alarm: {', '.join(rung)}.", onset_us, max(now_us, settled_us))
            if isinstance(rule, Every) and now_us - self._state.trained_at_us >= rule.period_us:
                return _Trigger(f"Schedule: trained {format_duration(rule.period_us)} ago or more.", None, now_us)
        return None

    def _blocked(self, now_us: int) -> str | None:
        try:
            return self._workshop.blocked(now_us)
        except NotFound as error:  # no request was ever asked
            return str(error)

    def _repair(self, now_us: int) -> list[Decision]:
        """Train, judge, and promote or refuse.

        Raises:
            _Failed: No candidate could be made; that is written down, and the quiet time runs.
            Conflict: Automation was frozen meanwhile, or another process has moved the state.
        """
        try:
            repair = self._workshop.repair(now_us, self._check_frozen)
        except Misuse as error:
            entry = self._entry("failed", str(error), {"cause": self._state.cause, "cut_us": now_us})
            raise _Failed(error, self._refuse(now_us, [entry])) from error
        self._check_frozen()
        gate = repair.gate
        rows = {"rows": repair.rows, "cut_us": repair.cut_us}
        entries = [
            self._entry("train", self._state.cause, rows, version=repair.candidate, data_hash=repair.data_hash),
            self._entry("gate", gate.reason, _evidence(gate), version=repair.candidate, replaced=gate.champion),
        ]
        if repair.successor is None:
            entries.append(self._entry("refuse", repair.reason, {"gate": gate.id}, version=repair.candidate))
            return self._refuse(now_us, entries)
        decisions = self._write(entries, phase="promoting", repair=repair)
        return decisions + self.finish()

    def _refuse(self, now_us: int, entries: Sequence[Entry]) -> list[Decision]:
        """Note that the champion stays, and keep quiet for longer each time in a row."""
        most_us = MOST_COOLDOWNS * self._deployment.cooldown_us
        quiet_us = min(self._state.cooldown_us, most_us)
        return self._write(
            entries,
            phase="idle",
            cause="",
            quiet_until_us=now_us + quiet_us,
            cooldown_us=min(2 * quiet_us, most_us),
            repair=None,
        )

    def _frozen(self) -> str | None:
        """Why all automation is stopped; None when it is not."""
        record = self._catalog.get(FREEZE, "all")
        return None if record is None else str(msgspec.json.decode(record.body))

    def _check_frozen(self) -> None:
        why = self._frozen()
        if why is not None:
            raise Conflict(
                f"{self._deployment.name!r}: automation is frozen ({why}), so nothing is trained or promoted. "
                "Let it go on first: trimtab unfreeze"
            )

    def _entry(
        self,
        act: str,
        cause: str,
        evidence: Evidence | None = None,
        *,
        version: str | None = None,
        replaced: str | None = None,
        data_hash: str | None = None,
    ) -> Entry:
        return Entry(
            at_us=self._clock.now_us(),
            model=self._deployment.name,
            act=act,
            cause=cause,
            evidence=dict(evidence or {}),
            version=version,
            replaced=replaced,
            data_hash=data_hash,
        )

    def _write(self, entries: Sequence[Entry], also: Sequence[Put] = (), **changes: object) -> list[Decision]:
        """Decisions, the state after them and what belongs to it: all in one write."""
        state = msgspec.structs.replace(self._state, **changes)
        put = Put(KIND, self._deployment.name, msgspec.json.encode(state), expected=self._revision)
        decisions = self._ledger.write(entries, [put, *also])
        self._state, self._revision = state, self._revision + 1
        return decisions


class _Failed(Exception):
    """A fit failed; carries the error, and what was written down about it."""

    def __init__(self, error: Misuse, decisions: list[Decision]) -> None:
        super().__init__(str(error))
        self.error = error
        self.decisions = decisions


class _Trigger(msgspec.Struct, frozen=True):
    cause: str
    onset_us: int | None
    ready_at_us: int


def _evidence(gate: GateRecord) -> Evidence:
    return {
        "gate": gate.id,
        "rows": gate.rows,
        "candidate": gate.candidate_metric,
        "champion": gate.champion_metric,
        "difference": gate.difference,
        "bound": gate.bound,
        **gate.checks,
    }
