"""The reconciler: looks at what monitoring found, and moves one deployment on by recorded decisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, Misuse, NotFound, Unavailable
from trimtab.core.records import ChangeOnset, Decision, GateRecord
from trimtab.core.time import DAY_US, format_duration, format_moment
from trimtab.monitoring.quality import QualityMonitor
from trimtab.registry.protection import CHAMPION, hold, let_go
from trimtab.run import Cancelled
from trimtab.steering.definitions import Deployment, Every, OnQualityDrop
from trimtab.steering.ledger import Entry, Evidence, Ledger
from trimtab.steering.loop_state import APPROVAL, FREEZE, KIND, Cause, Changes, LoopState, Repair, is_before
from trimtab.store.ports import Append, Catalog, Put, Remove

_IDLE: dict[str, Any] = {
    "phase": "idle",
    "cause": "",
    "repair": None,
    "expires_us": 0,
    "approved_by": None,
    "asked_by": None,
}
FOLLOW_UP_DAYS = (7, 21)  # labelled days after a repair of a change: more is known of the new world then
MOST_COOLDOWNS = 8  # refusals double the quiet time up to so many times the declared one


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A stored version that a person puts forward."""

    version: str  # its address
    seen_until_us: int | None = None  # until when it may have seen data, where a person says so


class Workshop(Protocol):
    """Makes, judges and puts forward versions; `app` and `simulation` hand one to the controller."""

    def champion(self) -> str | None:
        """Address of the version in service."""
        ...

    def blocked(self, cut_us: int, changes: Changes) -> str | None:
        """Why no candidate can be judged on the data known at `cut_us`, in one sentence; None when it can."""
        ...

    def repair(self, cut_us: int, go_on: Callable[[], None], changes: Changes) -> Repair:
        """Train a candidate on what was known at `cut_us` and judge it against the champion.

        Args:
            cut_us: Only what was known by then is looked at.
            go_on: Called before the gate; what it raises ends the repair.
            changes: Days since one that is repaired now are judged, and partly learnt from.

        Raises:
            Misuse: No candidate can be made of these data or by this recipe.
        """
        ...

    def judge_stored(self, stored: Stored, cut_us: int, *, keep: bool = True) -> Repair:
        """Judge a stored version against the champion on what was known at `cut_us`; its record is kept if asked.

        Raises:
            Unavailable: There is no window that neither has seen.
            Misuse: It cannot answer here.
        """
        ...

    def promote(self, repair: Repair, why: str, actor: str | None = None) -> str | None:
        """Put the successor in service; the address of what it replaced. Once is as good as twice.

        Raises:
            Conflict: Another champion stands there than the one that the gate compared with.
        """
        ...


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
        cooldown_us = self._deployment.cooldown_us
        fresh = LoopState(cooldown_us=cooldown_us, alarm_cooldown_us=cooldown_us)
        state = fresh if record is None else msgspec.json.decode(record.body, type=LoopState)
        if not state.alarm_cooldown_us:  # written by an earlier trimtab
            state = msgspec.structs.replace(state, alarm_cooldown_us=cooldown_us)
        self._state = state

    def finish(self) -> list[Decision]:
        """Finish a promotion that was under way when a process ended; the decisions taken.

        While automation is frozen the alias stays where it is, and only what has happened is written down.
        """
        repair = self._state.repair
        if repair is None or repair.successor is None or self._state.phase == APPROVAL:
            return []
        if self._frozen() is not None and self._workshop.champion() != repair.successor:
            return []
        now_us = self._clock.now_us()
        gate = {"gate": repair.gate.id}
        try:
            replaced = self._workshop.promote(repair, repair.reason, self._state.approved_by or self._state.asked_by)
        except Conflict as error:
            return self._refuse(now_us, [self._entry("refuse", str(error), gate, version=repair.candidate)])
        _, anchored = self._monitor.anchor(  # as of the repair: the alias may have moved long before this is written
            repair.successor,
            repair.reference,
            at_us=repair.cut_us,
            loss_cap=repair.loss_cap,
            slices=repair.slices,
            allowance=repair.allowance,
            name=repair.name,
        )
        decisions = self._write(
            [
                self._entry(
                    "promote",
                    self._state.cause,
                    gate,
                    version=repair.successor,
                    replaced=replaced,
                    actor=self._state.approved_by,
                )
            ],
            anchored,
            **_IDLE,
            **self._followed(repair),
            quiet_until_us=now_us + self._deployment.cooldown_us,
            cooldown_us=self._deployment.cooldown_us,
            alarm_quiet_until_us=now_us + self._deployment.cooldown_us,
            alarm_cooldown_us=self._deployment.cooldown_us,
            trained_at_us=repair.cut_us if repair.trained_us is None else repair.trained_us,
        )
        self._monitor.reload()
        return decisions

    def tick(self) -> list[Decision]:
        """Do what is due; the decisions taken, oldest first."""
        decisions = self.finish()
        if decisions or self._frozen() is not None:
            return decisions
        now_us = self._clock.now_us()
        if self._state.phase == APPROVAL:
            return self._drop_unanswered(now_us)
        if self._state.repair is not None:
            return decisions
        if self._state.phase == "idle":
            trigger = self._trigger(now_us)
            if trigger is None:
                return []
            changes = msgspec.structs.replace(self._state.changes, onset=trigger.onset)
            known = {} if trigger.onset is None else msgspec.to_builtins(trigger.onset)
            entries = [self._entry("trigger", trigger.cause, {"onset_us": known.get("at_us"), **known})]
            if trigger.ready_at_us > now_us:
                until = format_moment(trigger.ready_at_us)
                entries.append(self._entry("wait", f"For labels from after the change, until {until}."))
            decisions += self._write(
                entries,
                phase="waiting",
                cause=trigger.cause,
                begun_by=trigger.kind,
                changes=changes,
                risen_us=0 if self._monitor.watch is None else self._monitor.watch.risen_us,
                follow_ups_us=self._state.follow_ups_us[trigger.kind == "follow-up" :],
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
            Cancelled: Somebody ended it.
            Conflict: Automation is frozen, or a candidate waits for approval.
        """
        decisions = self._free(f"train {self._deployment.name!r}")
        now_us = self._clock.now_us()
        changes = msgspec.structs.replace(self._state.changes, onset=self._onset())
        blocked = self._workshop.blocked(now_us, changes)
        if blocked is not None and changes.onset is not None:  # too soon after it: judge on the newest days instead
            changes = msgspec.structs.replace(changes, onset=None)
            blocked = self._workshop.blocked(now_us, changes)
        if blocked is not None:
            raise Unavailable(f"train {self._deployment.name!r}: {blocked}")
        self._write(
            [],
            phase="waiting",
            cause=f"Asked for by {actor}.",
            begun_by="person",
            changes=changes,
            triggered_at_us=now_us,
            ready_at_us=now_us,
            asked_by=actor,
        )
        try:
            return decisions + self._repair(now_us)
        except _Failed as failed:
            raise failed.error from failed.error.__cause__

    def promote(self, stored: Stored, actor: str, why: str) -> list[Decision]:
        """Judge a stored version, and let it take over when it passes (and, where that is declared, is approved).

        A refusal leaves everything as it is, quiet times included: it says nothing about the recipe. # D88

        Raises:
            Unavailable: There is no window to judge on.
            Misuse: It cannot answer here.
            Conflict: Automation is frozen, a candidate waits for approval, or another process has moved the state.
        """
        decisions = self._free(f"promote {stored.version[:12]} of {self._deployment.name!r}")
        if self._workshop.champion() == stored.version:
            return decisions  # by what was under way when a process ended
        repair = self._workshop.judge_stored(stored, self._clock.now_us())
        self.check_frozen()
        gate = repair.gate
        seen = {} if stored.seen_until_us is None else {"seen_until_us": stored.seen_until_us}
        evidence = {**_evidence(gate), **seen}
        entry = self._entry("gate", gate.reason, evidence, version=gate.candidate, replaced=gate.champion, actor=actor)
        if repair.successor is None:
            told = {"gate": gate.id}
            refused = self._entry("refuse", repair.reason, told, version=stored.version, actor=actor)
            return decisions + self._write([entry, refused])
        return decisions + self._passed([entry], repair, cause=why, asked_by=actor, begun_by="person")

    def approve(self, actor: str, why: str) -> list[Decision]:
        """Let the candidate that waits for approval take over.

        Raises:
            Conflict: None waits, its time is over, another champion stands there than the gate compared it with, or
                automation is frozen. A candidate that can never take over any more is dropped, and the ledger says so.
        """
        repair = self._asked(f"approve {self._deployment.name!r}")
        gate = {"gate": repair.gate.id}
        entry = self._entry("approve", why, gate, version=repair.successor, replaced=repair.gate.champion, actor=actor)
        decisions = self._write([entry], phase="promoting", approved_by=actor)
        return decisions + self.finish()

    def reject(self, actor: str, why: str) -> list[Decision]:
        """Drop the candidate that waits for approval; the quiet time runs as after a refusal.

        Raises:
            Misuse: No reason is given.
            Conflict: As `approve`.
        """
        what = f"reject {self._deployment.name!r}"
        if not why.strip():
            raise Misuse(f"{what}: why? Give one sentence for the ledger.")
        repair = self._asked(what)
        gate = {"gate": repair.gate.id}
        return self._refuse(
            self._clock.now_us(), [self._entry("reject", why, gate, version=repair.successor, actor=actor)]
        )

    def _free(self, what: str) -> list[Decision]:
        """Finish what was under way, and see to it that a person may begin something; the decisions taken."""
        self.check_frozen()
        decisions = self.finish()
        if self._state.phase == APPROVAL:
            decisions += self._drop_unanswered(self._clock.now_us())
        if self._state.phase == APPROVAL:
            raise Conflict(f"{what}: {self._waits(self._state)} Answer that first.")
        return decisions

    def _asked(self, what: str) -> Repair:
        """The candidate that somebody answers for, once it still can take over."""
        self.finish()
        if self._state.phase != APPROVAL:
            raise Conflict(f"{what}: no candidate waits for approval. See: trimtab status")
        self.check_frozen()
        dropped = self._drop_unanswered(self._clock.now_us())
        if dropped:
            raise Conflict(f"{what}: {dropped[-1].cause} It was dropped; train another one.")
        assert self._state.repair is not None  # stored with the phase
        return self._state.repair

    def _drop_unanswered(self, now_us: int) -> list[Decision]:
        """Drop a candidate whose time to be approved is over, or which another champion has overtaken."""
        repair = self._state.repair
        assert repair is not None  # stored with the phase
        gate, champion = {"gate": repair.gate.id}, self._workshop.champion()
        if champion != repair.gate.champion:
            said = f"It was compared with {_short(repair.gate.champion)}; champion is now {_short(champion)}."
            entry = self._entry("refuse", said, gate, version=repair.successor, actor="policy")
            return self._refuse(now_us, [entry])
        if now_us < self._state.expires_us:
            return []
        said = f"Nobody answered until {format_moment(self._state.expires_us)}."
        return self._refuse(now_us, [self._entry("expire", said, gate, version=repair.successor, actor="policy")])

    def _waits(self, state: LoopState) -> str:
        """Who waits for approval, until when, and how to answer."""
        name = self._deployment.name
        return (
            f"A candidate waits for approval until {format_moment(state.expires_us)}. A person answers: "
            f"trimtab approve {name}, or trimtab reject {name} --why TEXT."
        )

    def _onset(self) -> ChangeOnset | None:
        """When the change began that the watch found; None where it found none."""
        watch = self._monitor.watch
        return None if watch is None else watch.onset

    def _trigger(self, now_us: int) -> _Trigger | None:
        """What starts a repair now: an alarm before a follow-up before the schedule, each with its own quiet time."""
        state, rules = self._state, self._deployment.retrain.any_of
        if self._workshop.champion() is None:
            return (
                None
                if is_before(now_us, state.quiet_until_us)
                else _Trigger("first", "No version is in service yet.", now_us)
            )
        watch, onset = self._monitor.watch, self._onset()
        risen = watch is not None and watch.risen_us > state.risen_us
        heard = any(isinstance(rule, OnQualityDrop) for rule in rules)
        heard = heard and (risen or not is_before(now_us, state.alarm_quiet_until_us))
        if heard and watch is not None and onset is not None:
            settled_us = onset.at_us + self._deployment.settle_us + self._deployment.model.label.wait_us
            return _Trigger("alarm", f"Quality alarm: {', '.join(watch.rung)}.", max(now_us, settled_us), onset)
        if state.follow_ups_us and now_us >= state.follow_ups_us[0]:
            said = "More labelled days since the change that was repaired."
            return _Trigger("follow-up", said, now_us, state.changes.repaired)
        if is_before(now_us, state.quiet_until_us):
            return None
        for rule in rules:
            if isinstance(rule, Every) and now_us - state.trained_at_us >= rule.period_us:
                said = f"Schedule: trained {format_duration(rule.period_us)} ago or more."
                return _Trigger("schedule", said, now_us)
        return None

    def _blocked(self, now_us: int) -> str | None:
        try:
            return self._workshop.blocked(now_us, self._state.changes)
        except NotFound as error:  # no request was ever asked
            return str(error)

    def _repair(self, now_us: int) -> list[Decision]:
        """Train, judge, and promote or refuse.

        Raises:
            _Failed: No candidate could be made, or somebody cancelled it; it is written down, and the quiet time runs.
            Conflict: Automation was frozen meanwhile, or another process has moved the state.
        """
        try:
            repair = self._workshop.repair(now_us, self.check_frozen, self._state.changes)
        except Cancelled as error:  # by a person: the next trigger may come after the usual quiet time
            raise _Failed(error, self._cancel(now_us, str(error))) from error
        except Misuse as error:
            entry = self._entry("failed", str(error), {"cause": self._state.cause, "cut_us": now_us})
            raise _Failed(error, self._refuse(now_us, [entry])) from error
        self.check_frozen()
        gate = repair.gate
        rows: Evidence = {"rows": repair.rows, "cut_us": repair.cut_us, **_left_out(repair)}
        entries = [
            self._entry("train", self._state.cause, rows, version=repair.candidate, data_hash=repair.data_hash),
            self._entry("gate", gate.reason, _evidence(gate), version=repair.candidate, replaced=gate.champion),
        ]
        if repair.successor is None:
            entries.append(self._entry("refuse", repair.reason, {"gate": gate.id}, version=repair.candidate))
            return self._refuse(now_us, entries)
        return self._passed(entries, repair)

    def _passed(self, entries: list[Entry], repair: Repair, **changes: Any) -> list[Decision]:
        """Let what passed take over, or ask for approval where that is declared."""
        if self._deployment.approval_us is None:
            decisions = self._write(entries, phase="promoting", repair=repair, **changes)
            return decisions + self.finish()
        expires_us = self._clock.now_us() + self._deployment.approval_us
        said, gate = f"For somebody to approve it, until {format_moment(expires_us)}.", repair.gate
        entry = self._entry("ask", said, {"gate": gate.id}, version=repair.successor, replaced=gate.champion)
        asked = msgspec.structs.replace(entry, actor=entries[-1].actor)
        return self._write([*entries, asked], phase=APPROVAL, repair=repair, expires_us=expires_us, **changes)

    def _refuse(self, now_us: int, entries: Sequence[Entry]) -> list[Decision]:
        """Record that the champion stays, and keep quiet for longer each time in a row: for causes of the same kind."""
        most_us = MOST_COOLDOWNS * self._deployment.cooldown_us
        of_alarm = self._state.begun_by == "alarm"
        quiet_us = min(self._state.alarm_cooldown_us if of_alarm else self._state.cooldown_us, most_us)
        return self._write(entries, **_IDLE, **self._quiet(now_us + quiet_us, min(2 * quiet_us, most_us)))

    def _cancel(self, now_us: int, why: str) -> list[Decision]:
        entry = self._entry("cancel", why, {"cut_us": now_us})
        return self._write([entry], **_IDLE, **self._quiet(now_us + self._deployment.cooldown_us))

    def _followed(self, repair: Repair) -> dict[str, Any]:
        """What is kept of a change that a repair was for: when it began, and when another repair is tried."""
        onset = self._state.changes.onset
        if onset is None or repair.gate.folds == 1:  # of a cause that no change has
            return {"changes": msgspec.structs.replace(self._state.changes, onset=None)}
        repaired = {"changes": Changes(repaired=onset)}
        if self._state.begun_by == "follow-up":
            return repaired
        wait_us = self._deployment.model.label.wait_us
        return {**repaired, "follow_ups_us": tuple(repair.cut_us + d * DAY_US + wait_us for d in FOLLOW_UP_DAYS)}

    def _quiet(self, until_us: int, next_us: int | None = None) -> dict[str, Any]:
        """What keeps causes of the kind at work quiet, and for how long after the next refusal."""
        if self._state.begun_by == "follow-up":  # there are two of them, and no more
            return {}
        kind = "alarm_" if self._state.begun_by == "alarm" else ""
        grown = {} if next_us is None else {f"{kind}cooldown_us": next_us}
        return {f"{kind}quiet_until_us": until_us, **grown}

    def _frozen(self) -> str | None:
        """Why all automation is stopped; None when it is not."""
        record = self._catalog.get(FREEZE, "all")
        return None if record is None else str(msgspec.json.decode(record.body))

    def check_frozen(self) -> None:
        """Raise `Conflict` when all automation is stopped."""
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
        actor: str | None = None,  # left out: who asked for what is under way, else the policy
    ) -> Entry:
        return Entry(
            at_us=self._clock.now_us(),
            model=self._deployment.name,
            act=act,
            cause=cause,
            actor=actor or self._state.asked_by or "policy",
            evidence=dict(evidence or {}),
            version=version,
            replaced=replaced,
            data_hash=data_hash,
        )

    def _write(
        self, entries: Sequence[Entry], also: Sequence[Put | Remove | Append] = (), **changes: object
    ) -> list[Decision]:
        """Decisions, the state after them and what belongs to it: all in one write."""
        state = msgspec.structs.replace(self._state, **changes)
        put = Put(KIND, self._deployment.name, msgspec.json.encode(state), expected=self._revision)
        decisions = self._ledger.write(entries, [put, *also, *self._held(state)])
        self._state, self._revision = state, self._revision + 1
        return decisions

    def _held(self, state: LoopState) -> list[Put | Remove]:
        """The changes that keep the alias where it is while a candidate waits for approval, and let it go after."""
        name = self._deployment.name
        if state.phase == APPROVAL:
            return [hold(name, CHAMPION, self._waits(state))]
        return [let_go(name, CHAMPION)] if self._state.phase == APPROVAL else []


class _Failed(Exception):
    """A fit failed or was cancelled; carries the error, and what was written down about it."""

    def __init__(self, error: Misuse | Cancelled, decisions: list[Decision]) -> None:
        super().__init__(str(error))
        self.error = error
        self.decisions = decisions


class _Trigger(msgspec.Struct, frozen=True):
    kind: Cause
    cause: str
    ready_at_us: int
    onset: ChangeOnset | None = None


def _short(version: str | None) -> str:
    return "nobody" if version is None else version[:12]


def _left_out(repair: Repair) -> Evidence:
    """What was not learnt from because its inputs or labels were faulty."""
    found = repair.left_out
    return {"left_out": sum(found.values()), "left_out_why": "; ".join(found)} if found else {}


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
