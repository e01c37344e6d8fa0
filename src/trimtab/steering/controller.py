"""The reconciler: looks at what monitoring found, and moves one deployment on by recorded decisions."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Unavailable
from trimtab.core.records import DayQuality, Decision, GateRecord
from trimtab.core.time import format_duration, format_moment
from trimtab.monitoring.quality import QualityMonitor
from trimtab.steering.definitions import Deployment, Every, OnQualityDrop
from trimtab.steering.ledger import Evidence, Ledger
from trimtab.store.ports import Catalog, Put

KIND = "loop"
FREEZE = "freeze"
CHAMPION = "champion"


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


class Workshop(Protocol):
    """Makes, judges and puts forward versions; `app` and `simulation` hand one to the controller."""

    def champion(self) -> str | None:
        """Address of the version in service."""
        ...

    def blocked(self, cut_us: int) -> str | None:
        """Why no candidate can be judged on the data known at `cut_us`, in one sentence; None when it can."""
        ...

    def repair(self, cut_us: int) -> Repair:
        """Train a candidate on what was known at `cut_us` and judge it against the champion."""
        ...

    def promote(self, repair: Repair, why: str) -> str | None:
        """Put the successor in service; the address of what it replaced."""
        ...


class LoopState(msgspec.Struct, frozen=True, kw_only=True):
    """Where a deployment stands between two ticks: one record of the catalogue."""

    phase: Literal["idle", "waiting"] = "idle"
    cause: str = ""
    triggered_at_us: int = 0
    ready_at_us: int = 0  # waiting: not before
    quiet_until_us: int = 0  # no trigger starts anything before
    cooldown_us: int = 0  # the quiet time after the next candidate if it is refused
    trained_at_us: int = 0  # the cut of the version in service; schedules count from here


class Controller:
    """Steers one deployment. `tick` may be called at any time and as often as one likes.

    A crash between two of its writes is harmless: a repair that was promoted but not yet noted is refused at the next
    tick because its data are the champion's own, and everything else is done again from the same inputs.
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
        record = catalog.get(KIND, deployment.name)
        fresh = LoopState(cooldown_us=deployment.cooldown_us)
        self._state = fresh if record is None else msgspec.json.decode(record.body, type=LoopState)

    @property
    def state(self) -> LoopState:
        return self._state

    def tick(self) -> list[Decision]:
        """Do what is due; the decisions taken, oldest first."""
        now_us = self._clock.now_us()
        if self._catalog.get(FREEZE, "all") is not None:
            return []
        decisions: list[Decision] = []
        if self._state.phase == "idle":
            trigger = self._trigger(now_us)
            if trigger is None:
                return []
            decisions.append(self._record("trigger", trigger.cause, {"onset_us": trigger.onset_us}))
            if trigger.ready_at_us > now_us:
                until = format_moment(trigger.ready_at_us)
                decisions.append(self._record("wait", f"For labels from after the change, until {until}."))
            self._save(phase="waiting", cause=trigger.cause, triggered_at_us=now_us, ready_at_us=trigger.ready_at_us)
        if now_us < self._state.ready_at_us:
            return decisions
        return decisions + self._repair(now_us)

    def train(self, actor: str) -> list[Decision]:
        """Make and judge a candidate now, whatever is due; the gate decides as ever.

        Raises:
            Unavailable: No candidate can be judged on what is known now; the message says why.
        """
        now_us = self._clock.now_us()
        blocked = self._workshop.blocked(now_us)
        if blocked is not None:
            raise Unavailable(f"train {self._deployment.name!r}: {blocked} Wait for more labels.")
        self._save(phase="waiting", cause=f"Asked for by {actor}.", triggered_at_us=now_us, ready_at_us=now_us)
        return self._repair(now_us)

    def _trigger(self, now_us: int) -> _Trigger | None:
        if self._workshop.champion() is None:
            return _Trigger("No version is in service yet.", None, now_us)
        if now_us < self._state.quiet_until_us:
            return None
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

    def _repair(self, now_us: int) -> list[Decision]:
        blocked = self._workshop.blocked(now_us)
        if blocked is not None:
            return []  # stays waiting: the next tick looks again
        repair = self._workshop.repair(now_us)
        gate = repair.gate
        rows = {"rows": repair.rows, "cut_us": repair.cut_us}
        decisions = [
            self._record("train", self._state.cause, rows, version=repair.candidate, data_hash=repair.data_hash),
            self._record("gate", gate.reason, _evidence(gate), version=repair.candidate, replaced=gate.champion),
        ]
        quiet_us, trained_at_us = self._deployment.cooldown_us, repair.cut_us
        cooldown_us = quiet_us
        if repair.successor is not None:
            replaced = self._workshop.promote(repair, gate.reason)
            self._monitor.anchor(repair.successor, repair.reference, at_us=now_us)
            decisions.append(
                self._record(
                    "promote", self._state.cause, {"gate": gate.id}, version=repair.successor, replaced=replaced
                )
            )
        else:
            quiet_us, trained_at_us = self._state.cooldown_us, self._state.trained_at_us
            cooldown_us = 2 * quiet_us
            decisions.append(self._record("refuse", repair.reason, {"gate": gate.id}, version=repair.candidate))
        self._save(
            phase="idle",
            cause="",
            quiet_until_us=now_us + quiet_us,
            cooldown_us=cooldown_us,
            trained_at_us=trained_at_us,
        )
        return decisions

    def _record(
        self,
        act: str,
        cause: str,
        evidence: Evidence | None = None,
        *,
        version: str | None = None,
        replaced: str | None = None,
        data_hash: str | None = None,
    ) -> Decision:
        return self._ledger.record(
            at_us=self._clock.now_us(),
            model=self._deployment.name,
            act=act,
            cause=cause,
            evidence=evidence,
            version=version,
            replaced=replaced,
            data_hash=data_hash,
        )

    def _save(self, **changes: object) -> None:
        self._state = msgspec.structs.replace(self._state, **changes)
        self._catalog.write([Put(KIND, self._deployment.name, msgspec.json.encode(self._state))])


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
