"""The reconciler: looks at what monitoring found, and moves one deployment on by recorded decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, Misuse, NotFound, Unavailable
from trimtab.core.records import ChangeOnset, Decision
from trimtab.core.time import DAY_US, HOUR_US, format_time
from trimtab.monitoring.quality.quality import QualityMonitor
from trimtab.run import Cancelled
from trimtab.steering.candidates.ports import Exposed, Guard, Stored, Workshop
from trimtab.steering.definitions import Deployment
from trimtab.steering.ledger import Entry, Evidence, Ledger
from trimtab.steering.loop.budgets import spent_budget, with_fits
from trimtab.steering.loop.closed_days import ClosedDays
from trimtab.steering.loop.deployment_record import DeploymentRecord
from trimtab.steering.loop.evidence import evidence_of, evidence_of_left_out, short_name
from trimtab.steering.loop.rolling_out import RolloutStages
from trimtab.steering.loop.triggering import PRIORITY, Seen, Trigger, find_trigger
from trimtab.steering.loop_state import (
    APART,
    APPROVAL,
    CANARY,
    IDLE,
    PROMOTING,
    REQUEST,
    SHADOW,
    Changes,
    LoopState,
    Quiet,
    Repair,
    Requested,
)
from trimtab.store.ports import Append, Catalog, Put, Remove

FOLLOW_UP_DAYS = (7, 21)  # labelled days after a repair of a change: more is known of the new world then
LOOK_AGAIN_US = 6 * HOUR_US  # how long what is missing to judge by is taken to be missing, unless a day was closed
MOST_COOLDOWNS = 8  # refusals double the quiet time up to so many times the declared one


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
        builder: Workshop,
        ledger: Ledger,
        catalog: Catalog,
        clock: Clock,
        exposure: Exposed,
        guard: Guard,
    ) -> None:
        self._deployment = deployment
        self._exposure = exposure
        self._monitor = monitor
        self._builder = builder
        self._catalog = catalog
        self._clock = clock
        self._record = DeploymentRecord(deployment, ledger=ledger, catalog=catalog, clock=clock, waits=self._waits)
        self._stages = RolloutStages(
            deployment, self._record, builder, exposure=exposure, guard=guard, clock=clock, refuse=self._refuse
        )
        self._closed_days = ClosedDays(catalog, deployment, monitor)

    @property
    def state(self) -> LoopState:
        return self._record.state

    def reload(self) -> None:
        """Read the state again: another process may have moved it."""
        self._record.reload()

    def check_frozen(self) -> None:
        """Raise `Conflict` when all automation is stopped."""
        self._record.check_frozen()

    def finish(self) -> list[Decision]:
        """Finish a promotion that was under way when a process ended; the decisions taken.

        While automation is frozen the alias stays where it is, and only what has happened is written down.
        """
        repair = self._record.state.repair
        if repair is None or repair.successor is None or self._record.state.phase != PROMOTING:
            return []
        if self._record.frozen() is not None and self._builder.champion() != repair.successor:
            return []
        now_us = self._clock.now_us()
        gate = {"gate": repair.gate.id}
        try:
            replaced = self._builder.promote(
                repair, repair.reason, self._record.state.approved_by or self._record.state.asked_by
            )
        except (Conflict, Misuse, NotFound) as error:  # another champion, or evidence that is gone
            entry = self._record.entry("refuse", str(error), gate, version=repair.successor)
            return self._refuse(now_us, [entry], self._exposure.share(repair, 0.0))
        _, anchored = self._monitor.anchor(  # as of the repair: the alias may have moved long before this is written
            repair.successor,
            repair.reference,
            at_us=repair.cut_us,
            loss_cap=repair.loss_cap,
            slices=repair.slices,
            allowance=repair.allowance,
            name=repair.name,
        )
        decisions = self._record.write(
            [
                self._record.entry(
                    "promote",
                    self._record.state.cause,
                    gate,
                    version=repair.successor,
                    replaced=replaced,
                    actor=self._record.state.approved_by,
                )
            ],
            [*anchored, *self._exposure.share(repair, 0.0)],
            **IDLE,
            **self._followed(repair),
            bake=self._stages.bake_of(repair, replaced, now_us),
            quiet_until_us=now_us + self._deployment.cooldown_us,
            cooldown_us=self._deployment.cooldown_us,
            alarm_quiet_until_us=now_us + self._deployment.cooldown_us,
            alarm_cooldown_us=self._deployment.cooldown_us,
            quiets=dict.fromkeys(("slice", "labels"), Quiet(now_us + self._deployment.cooldown_us)),
            trained_at_us=repair.cut_us if repair.trained_us is None else repair.trained_us,
        )
        self._monitor.reload()
        return decisions

    def tick(self) -> list[Decision]:
        """Do what is due; the decisions taken, oldest first."""
        decisions = self.finish()
        if decisions or self._record.frozen() is not None:
            return decisions
        decisions = self._stages.baked()
        now_us = self._clock.now_us()
        if self._record.state.phase == APPROVAL:
            return decisions + self._drop_unanswered(now_us)
        trigger = self._trigger(now_us)
        if self._record.state.repair is not None:
            if trigger is None:
                return decisions + self._stages.tick() + self.finish()
            decisions += self._stages.supersede(trigger.cause)
        if trigger is not None:
            decisions += self._begun(trigger, now_us)
        elif self._record.state.phase == "idle":
            return decisions
        if now_us < self._record.state.ready_at_us:
            return decisions
        bound = self._bound(now_us)
        if bound is not None:
            return decisions + bound
        if self._looked_already(now_us):
            return decisions
        lack = self._blocked(now_us)
        if lack is not None:
            self._record.write([], lack=lack, looked_us=now_us, looked_for=self._builder.champion())
            return decisions
        try:
            return decisions + self._repair(now_us)
        except Conflict:
            if self._record.frozen() is None:
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
        changes = msgspec.structs.replace(self._record.state.changes, onset=self._onset())
        blocked = self._builder.blocked(now_us, changes)
        if blocked is not None and changes.onset is not None:  # too soon after it: judge on the newest days instead
            changes = msgspec.structs.replace(changes, onset=None)
            blocked = self._builder.blocked(now_us, changes)
        if blocked is not None:
            raise Unavailable(f"train {self._deployment.name!r}: {blocked}")
        self._record.write(
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
        if self._builder.champion() == stored.version:
            return decisions  # by what was under way when a process ended
        repair = self._builder.judge_stored(stored, self._clock.now_us())
        self.check_frozen()
        gate = repair.gate
        seen = {} if stored.seen_until_us is None else {"seen_until_us": stored.seen_until_us}
        evidence = {**evidence_of(gate), **seen}
        entry = self._record.entry(
            "gate", gate.reason, evidence, version=gate.candidate, replaced=gate.champion, actor=actor
        )
        if repair.successor is None:
            told = {"gate": gate.id}
            refused = self._record.entry("refuse", repair.reason, told, version=stored.version, actor=actor)
            return decisions + self._record.write([entry, refused])
        decisions += self._stages.begin([entry], repair, cause=why, asked_by=actor, begun_by="person")
        return decisions + self.finish()

    def approve(self, actor: str, why: str) -> list[Decision]:
        """Let the candidate that waits for approval take over.

        Raises:
            Conflict: None waits, its time is over, another champion stands there than the gate compared it with, or
                automation is frozen. A candidate that can never take over any more is dropped, and the ledger says so.
        """
        repair = self._asked(f"approve {self._deployment.name!r}")
        gate = {"gate": repair.gate.id}
        entry = self._record.entry(
            "approve", why, gate, version=repair.successor, replaced=repair.gate.champion, actor=actor
        )
        decisions = self._stages.after_approval([entry], repair, approved_by=actor)
        return decisions + self.finish()

    def reject(self, actor: str, why: str) -> list[Decision]:
        """Drop the candidate in a stage of its rollout, or that waits for approval; the quiet time is a refusal's.

        Raises:
            Misuse: No reason is given.
            Conflict: As `approve`.
        """
        what = f"reject {self._deployment.name!r}"
        if not why.strip():
            raise Misuse(f"{what}: why? Give one sentence for the ledger.")
        if self._record.state.phase in (SHADOW, CANARY):  # also while automation is frozen: it ends something
            assert self._record.state.repair is not None  # stored with the phase
            repair = self._record.state.repair
        else:
            repair = self._asked(what)
        entry = self._record.entry("reject", why, {"gate": repair.gate.id}, version=repair.successor, actor=actor)
        also = self._exposure.share(repair, 0.0)
        return self._refuse(self._clock.now_us(), [entry], also)

    def _free(self, what: str) -> list[Decision]:
        """Finish what was under way, and see to it that a person may begin something; the decisions taken."""
        self.check_frozen()
        decisions = self.finish()
        if self._record.state.phase == APPROVAL:
            decisions += self._drop_unanswered(self._clock.now_us())
        if self._record.state.phase == APPROVAL:
            raise Conflict(f"{what}: {self._waits(self._record.state)} Answer that first.")
        if self._record.state.phase in (SHADOW, CANARY):
            name = self._deployment.name
            raise Conflict(
                f"{what}: a candidate is in its {self._record.state.phase} stage. Wait for it, or drop it: "
                f"trimtab reject {name} --why TEXT"
            )
        return decisions

    def _asked(self, what: str) -> Repair:
        """The candidate that somebody answers for, once it still can take over."""
        self.finish()
        if self._record.state.phase != APPROVAL:
            raise Conflict(f"{what}: no candidate waits for approval. See: trimtab status")
        self.check_frozen()
        dropped = self._drop_unanswered(self._clock.now_us())
        if dropped:
            raise Conflict(f"{what}: {dropped[-1].cause} It was dropped; train another one.")
        assert self._record.state.repair is not None  # stored with the phase
        return self._record.state.repair

    def _drop_unanswered(self, now_us: int) -> list[Decision]:
        """Drop a candidate whose time to be approved is over, or which another champion has overtaken."""
        repair = self._record.state.repair
        assert repair is not None  # stored with the phase
        gate, champion = {"gate": repair.gate.id}, self._builder.champion()
        if champion != repair.gate.champion:
            said = f"It was compared with {short_name(repair.gate.champion)}; champion is now {short_name(champion)}."
            entry = self._record.entry("refuse", said, gate, version=repair.successor, actor="policy")
            return self._refuse(now_us, [entry])
        if now_us < self._record.state.expires_us:
            return []
        said = f"Nobody answered until {format_time(self._record.state.expires_us)}."
        return self._refuse(
            now_us, [self._record.entry("expire", said, gate, version=repair.successor, actor="policy")]
        )

    def _waits(self, state: LoopState) -> str:
        """Who waits for approval, until when, and how to answer."""
        name = self._deployment.name
        return (
            f"A candidate waits for approval until {format_time(state.expires_us)}. A person answers: "
            f"trimtab approve {name}, or trimtab reject {name} --why TEXT."
        )

    def _onset(self) -> ChangeOnset | None:
        """When the change began that the watch found; None where it found none."""
        watch = self._monitor.watch
        return None if watch is None else watch.onset

    def _trigger(self, now_us: int) -> Trigger | None:
        """What starts a repair now; while one waits, only what is more urgent."""
        record = self._catalog.get(REQUEST, self._deployment.name)
        requested = None if record is None else msgspec.json.decode(record.body, type=Requested)
        serves, watch = self._builder.champion() is not None, self._monitor.watch
        days, state = self._closed_days, self._record.state
        seen = Seen(now_us, serves, watch, requested, lambda: days.new_labels(state.trained_at_us), days.rise_by_slice)
        found = find_trigger(self._deployment, state, seen)
        if found is None or self._record.state.phase == "idle":
            return found
        begun_by = self._record.state.begun_by
        if begun_by == "person":  # what people asked for may be in a shadow for weeks
            staged = self._record.state.phase in (SHADOW, CANARY)
            return found if staged and found.kind in ("call", "alarm") else None
        urgent = begun_by in PRIORITY and PRIORITY.index(found.kind) < PRIORITY.index(begun_by)
        return found if urgent else None

    def _begun(self, trigger: Trigger, now_us: int) -> list[Decision]:
        """Write down what begins a repair."""
        changes = msgspec.structs.replace(self._record.state.changes, onset=trigger.onset)
        known = {} if trigger.onset is None else msgspec.to_builtins(trigger.onset)
        told: Evidence = {"onset_us": known.get("at_us"), **known}
        entries = [self._record.entry("trigger", trigger.cause, told, actor=trigger.actor)]
        if trigger.ready_at_us > now_us:
            until = format_time(trigger.ready_at_us)
            entries.append(
                self._record.entry("wait", f"For labels from after the change, until {until}.", actor=trigger.actor)
            )
        watch = self._monitor.watch
        return self._record.write(
            entries,
            [Remove(REQUEST, self._deployment.name)] if trigger.kind == "call" else [],
            phase="waiting",
            cause=trigger.cause,
            begun_by=trigger.kind,
            asked_by=trigger.actor,
            changes=changes,
            risen_us=0 if watch is None else watch.risen_us,
            follow_ups_us=self._record.state.follow_ups_us[trigger.kind == "follow-up" :],
            triggered_at_us=now_us,
            ready_at_us=trigger.ready_at_us,
            lack="",
        )

    def _bound(self, now_us: int) -> list[Decision] | None:
        """Say once that a budget lets nothing be fitted, and until when; None where none binds."""
        bound = spent_budget(self._deployment, self._record.state, now_us)
        if bound is None:
            return None
        return self._record.write([self._record.entry("wait", bound.said)], ready_at_us=bound.until_us)

    def _looked_already(self, now_us: int) -> bool:
        """Whether nothing can have changed since something was missing: a look may build a whole training set.

        Days close at midnight; six hours let labels in that were loaded after it.
        """
        state = self._record.state
        if not state.lack or state.looked_for != self._builder.champion() or now_us - state.looked_us >= LOOK_AGAIN_US:
            return False
        label = self._deployment.model.label
        return label.closed_until(now_us) == label.closed_until(state.looked_us)

    def _blocked(self, now_us: int) -> str | None:
        try:
            return self._builder.blocked(now_us, self._record.state.changes)
        except NotFound as error:  # no request was ever asked
            return str(error)

    def _repair(self, now_us: int) -> list[Decision]:
        """Train, judge, and promote or refuse.

        Raises:
            _Failed: No candidate could be made, or somebody cancelled it; it is written down, and the quiet time runs.
            Conflict: Automation was frozen meanwhile, or another process has moved the state.
        """
        try:
            state = self._record.state
            changes = msgspec.structs.replace(state.changes, refreshes=state.begun_by in ("schedule", "labels"))
            repair = self._builder.repair(now_us, self.check_frozen, changes)
        except Cancelled as error:  # by a person: the next trigger may come after the usual quiet time
            raise _Failed(error, self._cancel(now_us, str(error))) from error
        except Misuse as error:
            entry = self._record.entry("failed", str(error), {"cause": self._record.state.cause, "cut_us": now_us})
            spent = with_fits(self._record.state, now_us, 1)
            raise _Failed(error, self._refuse(now_us, [entry], fits=spent)) from error
        self.check_frozen()
        gate, spent = repair.gate, with_fits(self._record.state, now_us, repair.fits)
        rows: Evidence = {"rows": repair.rows, "cut_us": repair.cut_us, **evidence_of_left_out(repair)}
        entries = [
            self._record.entry(
                "train", self._record.state.cause, rows, version=repair.candidate, data_hash=repair.data_hash
            ),
            self._record.entry(
                "gate", gate.reason, evidence_of(gate), version=repair.candidate, replaced=gate.champion
            ),
        ]
        if repair.successor is None:
            entries.append(self._record.entry("refuse", repair.reason, {"gate": gate.id}, version=repair.candidate))
            return self._refuse(now_us, entries, fits=spent)
        return self._stages.begin(entries, repair, fits=spent) + self.finish()

    def _refuse(
        self, now_us: int, entries: Sequence[Entry], also: Sequence[Put | Append | Remove] = (), **changes: object
    ) -> list[Decision]:
        """Record that the champion stays, and keep quiet for longer each time in a row: for causes of the same kind."""
        most_us = MOST_COOLDOWNS * self._deployment.cooldown_us
        quiet_us = min(
            self._record.state.quiet_of(self._record.state.begun_by).cooldown_us or self._deployment.cooldown_us,
            most_us,
        )
        quiet = self._quiet(now_us + quiet_us, min(2 * quiet_us, most_us))
        return self._record.write(entries, also, **{**IDLE, **quiet, **changes})

    def _cancel(self, now_us: int, why: str) -> list[Decision]:
        entry = self._record.entry("cancel", why, {"cut_us": now_us})
        return self._record.write([entry], **IDLE, **self._quiet(now_us + self._deployment.cooldown_us))

    def _followed(self, repair: Repair) -> dict[str, Any]:
        """What is kept of a change that a repair was for: when it began, and when another repair is tried."""
        onset = self._record.state.changes.onset
        if onset is None or repair.gate.folds == 1:  # of a cause that no change has
            return {"changes": msgspec.structs.replace(self._record.state.changes, onset=None)}
        repaired = {"changes": Changes(repaired=onset)}
        if self._record.state.begun_by == "follow-up":
            return repaired
        final_us = self._deployment.model.label.final_at(repair.cut_us)
        return {**repaired, "follow_ups_us": tuple(final_us + d * DAY_US for d in FOLLOW_UP_DAYS)}

    def _quiet(self, until_us: int, next_us: int | None = None) -> dict[str, Any]:
        """What keeps causes of the kind at work quiet, and for how long after the next refusal."""
        state = self._record.state
        kind = state.begun_by
        if kind == "follow-up":  # there are two of them, and no more
            return {}
        if kind in APART:
            cooldown_us = state.quiet_of(kind).cooldown_us if next_us is None else next_us
            return {"quiets": {**state.quiets, kind: Quiet(until_us, cooldown_us)}}
        prefix = "alarm_" if kind == "alarm" else ""
        grown = {} if next_us is None else {f"{prefix}cooldown_us": next_us}
        return {f"{prefix}quiet_until_us": until_us, **grown}


class _Failed(Exception):
    """A fit failed or was cancelled; carries the error, and what was written down about it."""

    def __init__(self, error: Misuse | Cancelled, decisions: list[Decision]) -> None:
        super().__init__(str(error))
        self.error = error
        self.decisions = decisions
