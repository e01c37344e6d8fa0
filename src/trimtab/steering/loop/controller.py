"""The controller of one deployment: from a trigger through training and the gate to promotion."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound, Unavailable
from trimtab.core.records import ChangeOnset, Decision, GateRecord, Signal
from trimtab.core.time import DAY_US, HOUR_US, format_time
from trimtab.monitoring.inputs.red_windows import not_used_yet_us, released_since
from trimtab.monitoring.quality.quality import Change, QualityMonitor
from trimtab.monitoring.quality.watches import LOSS
from trimtab.monitoring.signals import standing_signals
from trimtab.run import Cancelled
from trimtab.steering.candidates.ports import Candidates, Stored
from trimtab.steering.definitions import Deployment
from trimtab.steering.ledger import Evidence, Ledger
from trimtab.steering.loop.approvals import Approvals
from trimtab.steering.loop.budgets import spent_budget, with_fits
from trimtab.steering.loop.closed_days import ClosedDays
from trimtab.steering.loop.deployment_record import DeploymentRecord
from trimtab.steering.loop.evidence import evidence_of, evidence_of_left_out, most_gain
from trimtab.steering.loop.exposure import Exposure
from trimtab.steering.loop.quiet_times import after_promotion, with_repair
from trimtab.steering.loop.rolling_out import RolloutStages
from trimtab.steering.loop.service_guard import ServiceGuard
from trimtab.steering.loop.triggering import Seen, Trigger, declares, find_trigger, is_later, outlook, overtakes
from trimtab.steering.loop_state import (
    APPROVAL,
    CANARY,
    IDLE,
    PROMOTING,
    REQUEST,
    SHADOW,
    Changes,
    LoopState,
    Repair,
    Requested,
)
from trimtab.store.ports import Catalog, Remove, read_record

# a repair is repeated this many days after the labels of its rows are final, with more labels from after the change
FOLLOW_UP_DAYS = (7, 21)
# If a repair can lower the loss by less than this share at best, it is not repeated. If an alarm triggered it, and the
# candidate is refused, the longest quiet time follows.
LEAST_GAIN = 0.01
_USELESS = (
    "Even at the better end of the confidence interval, the loss is lowered by less than 1 %. A repair is tried again "
    "after the longest quiet time, or when the loss rises further."
)
LOOK_AGAIN_US = 6 * HOUR_US  # missing data are looked for again after this time, or when a day is closed


class Controller:
    """Steers one deployment. `tick` may be called at any time, any number of times.

    A repair is one attempt to replace the version in service: a trigger, a candidate, its gate and its rollout.

    A crash does no harm. A decision is stored in the same transaction as the phase that follows it. A promotion is
    stored with all its evidence before the alias is moved. If the process ends in between, the next process completes
    the promotion with `finish`, which may be repeated.
    """

    def __init__(
        self,
        deployment: Deployment,
        *,
        monitor: QualityMonitor,
        candidates: Candidates,
        ledger: Ledger,
        catalog: Catalog,
        clock: Clock,
        exposure: Exposure,
        guard: ServiceGuard | None,
    ) -> None:
        self._deployment = deployment
        self._exposure = exposure
        self._monitor = monitor
        self._candidates = candidates
        self._catalog = catalog
        self._clock = clock
        self._record = DeploymentRecord(deployment, ledger=ledger, catalog=catalog, clock=clock)
        self._stages = RolloutStages(deployment, self._record, candidates, exposure=exposure, guard=guard, clock=clock)
        self._approvals = Approvals(deployment, self._record, candidates, clock)
        self._closed_days = ClosedDays(catalog, deployment, monitor)
        monitor.outlook = lambda watch: outlook(deployment, self.state, watch, self._closed_days.rise_by_slice)

    @property
    def state(self) -> LoopState:
        return self._record.state

    def reload(self) -> None:
        """Read the state again, because another process may have changed it."""
        self._record.reload()

    def check_frozen(self) -> None:
        """Raise `Conflict` if all automation is frozen (stopped by a person)."""
        self._record.check_frozen()

    def finish(self) -> list[Decision]:
        """Carry out a promotion that was decided, also if it was interrupted before. Return the decisions made.

        While automation is frozen, the alias is not moved. A promotion is then only recorded if the alias was already
        moved.
        """
        state, repair = self.state, self.state.repair
        if repair is None or repair.successor is None or state.phase != PROMOTING:
            return []
        if self._record.frozen() is not None and self._candidates.champion() != repair.successor:
            return []
        now_us, cooldown_us = self._clock.now_us(), self._deployment.cooldown_us
        gate = {"gate": repair.gate.id}
        try:
            replaced = self._candidates.promote(repair, repair.reason, state.approved_by or state.asked_by)
        except (Conflict, Misuse, NotFound) as error:  # another version is champion now, or the evidence is gone
            entry = self._record.entry_about(repair, "refuse", str(error))
            return self._record.refuse([entry], self._exposure.share(repair, 0.0))
        followed = self._followed(repair)  # before the alarm ends
        # not the present time: if an interrupted call has moved the alias, the days since then must be compared, too
        _, anchored = self._monitor.anchor(
            repair.successor,
            repair.reference,
            at_us=repair.cut_us,
            loss_cap=repair.loss_cap,
            slices=repair.slices,
            allowance=repair.allowance,
            name=repair.name,
            continues="not_provably_worse" in repair.gate.checks,  # a scheduled refit, which repairs no change # D0214
            after_change=state.begun_by == "estimate",
            now_us=now_us,
        )
        entry = self._record.entry(
            "promote", state.cause, gate, version=repair.successor, replaced=replaced, actor=state.approved_by
        )
        decisions = self._record.write(
            [entry],
            [*anchored, *self._exposure.share(repair, 0.0)],
            **IDLE,
            **followed,
            **after_promotion(state, cooldown_us, now_us),
            tried=state.tried if state.changes.onset is None else None,
            repairs_us=with_repair(state, now_us),
            bake=self._stages.bake_of(repair, replaced, now_us),
            version=repair.successor,
            trained_at_us=self._candidates.champion_cut(),
        )
        self._monitor.reload()
        return decisions

    def tick(self) -> list[Decision]:
        """Do everything that is due. Return the decisions made, oldest first."""
        decisions = self.finish()
        if decisions or self._record.frozen() is not None:
            return decisions
        self._stages.follow()
        decisions = self._stages.baked()
        now_us = self._clock.now_us()
        if self.state.phase == APPROVAL:
            return decisions + self._approvals.drop_outdated()
        waiting = self.state.phase == "waiting" and self.state.begun_by
        if waiting and not declares(self._deployment, waiting):
            said = "Cancelled, because retrain= of the deployment no longer declares the cause that began this repair."
            return decisions + self._record.cancel(self._record.entry("cancel", said))
        trigger = self._trigger(now_us)
        if self.state.repair is not None:
            if trigger is None:
                return decisions + self._stages.tick() + self.finish()
            decisions += self._stages.supersede(trigger.cause)
        if trigger is not None:
            decisions += self._begun(trigger, now_us)
        elif self.state.phase == "idle":
            return decisions
        if now_us < self.state.ready_at_us:
            return decisions
        spent = self._spent(now_us)
        if spent is not None:
            return decisions + spent
        if self._looked_already(now_us):
            return decisions
        lack = self._blocked(now_us)
        if lack is not None:
            self._record.write([], lack=lack, looked_us=now_us, looked_for=self._candidates.champion())
            return decisions
        try:
            return decisions + self._repair(now_us)
        except Conflict:
            if self._record.frozen() is None:
                raise
            return decisions  # automation was frozen meanwhile; a later tick goes on with the repair
        except _Failed as failed:
            return decisions + failed.decisions

    def train(self, actor: str) -> list[Decision]:
        """Make and judge a candidate now, even if no repair is due. The gate decides as usual.

        Raises:
            Unavailable: No candidate can be made here, or judged on the data known now. The message says why.
            Misuse: No candidate can be made. The ledger (the record of decisions) says so.
            Cancelled: A person has cancelled the training.
            Conflict: Automation is frozen, or a candidate waits for approval or is being rolled out.
        """
        decisions = self._free(f"train {self._deployment.name!r}")
        now_us = self._clock.now_us()
        changes = msgspec.structs.replace(self.state.changes, onset=self._onset())
        blocked = self._candidates.blocked(now_us, changes)
        # too few days since the change to judge on: judge on the newest days, as if no change were known
        if blocked is not None and changes.onset is not None:
            changes = msgspec.structs.replace(changes, onset=None)
            blocked = self._candidates.blocked(now_us, changes)
        if blocked is not None:
            raise Unavailable(f"train {self._deployment.name!r}: {blocked}")
        self._record.write(
            [],
            phase="waiting",
            cause=f"Requested by {actor}.",
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
        """Judge a stored version. If it passes (and is approved, if that is needed), let it take over.

        If it is refused, nothing changes. No quiet time begins, because the refusal says nothing about the declared
        model. # D0196

        Raises:
            Unavailable: There are no days to judge on.
            Misuse: The version cannot be loaded, or cannot score the rows of this model.
            Conflict: Automation is frozen, a candidate waits for approval or is being rolled out, or another process
                has changed the state.
        """
        decisions = self._free(f"promote {stored.version[:12]} of {self._deployment.name!r}")
        if self._candidates.champion() == stored.version:
            return decisions  # an interrupted promotion of this version is complete now
        repair = self._candidates.judge_stored(stored, self._clock.now_us())
        self.check_frozen()
        gate = repair.gate
        seen = {} if stored.seen_until_us is None else {"seen_until_us": stored.seen_until_us}
        evidence = {**evidence_of(gate), **seen}
        record = self._record
        entry = record.entry("gate", gate.reason, evidence, version=gate.candidate, replaced=gate.champion, actor=actor)
        if repair.successor is None:
            refused = record.entry("refuse", repair.reason, {"gate": gate.id}, version=stored.version, actor=actor)
            return decisions + record.write([entry, refused])
        decisions += self._stages.begin([entry], repair, cause=why, asked_by=actor, begun_by="person")
        return decisions + self.finish()

    def approve(self, actor: str, why: str) -> list[Decision]:
        """Approve the candidate that waits for approval, so that it takes over.

        Raises:
            Conflict: No candidate waits, its time is over, the champion is not the version that the gate compared with,
                or automation is frozen. A candidate that can never take over is dropped, and the ledger records this.
        """
        self.finish()
        self.check_frozen()
        repair = self._approvals.waiting(f"approve {self._deployment.name!r}")
        gate = {"gate": repair.gate.id}
        entry = self._record.entry(
            "approve", why, gate, version=repair.successor, replaced=repair.gate.champion, actor=actor
        )
        decisions = self._stages.after_approval([entry], repair, approved_by=actor)
        return decisions + self.finish()

    def reject(self, actor: str, why: str) -> list[Decision]:
        """Drop the candidate that is being rolled out or waits for approval. This counts as a refusal.

        Raises:
            Misuse: `why` gives no reason.
            Conflict: As in `approve`, but a freeze does not matter.
        """
        what = f"reject {self._deployment.name!r}"
        if not why.strip():
            raise Misuse(f"{what}: no reason is given. Give one sentence, which the ledger records (--why TEXT).")
        repair = self.state.repair
        # allowed even while automation is frozen, because it only ends something
        if repair is None or self.state.phase not in (SHADOW, CANARY):
            self.finish()
            repair = self._approvals.waiting(what)
        entry = self._record.entry_about(repair, "reject", why, actor=actor)
        return self._record.refuse([entry], self._exposure.share(repair, 0.0))

    def _free(self, what: str) -> list[Decision]:
        """Complete an interrupted promotion, and check that a person may begin a repair. Return the decisions made."""
        self.check_frozen()
        decisions = self.finish()
        if self.state.phase == APPROVAL:
            decisions += self._approvals.drop_outdated()
        if self.state.phase == APPROVAL:
            raise Conflict(f"{what}: {self._record.waits(self.state)} Approve or reject that one first.")
        if self.state.phase in (SHADOW, CANARY):
            name = self._deployment.name
            raise Conflict(
                f"{what}: a candidate is in its {self.state.phase} stage. Wait for it, or drop it: "
                f"trimtab reject {name} --why TEXT"
            )
        return decisions

    def _onset(self) -> ChangeOnset | None:
        """Return the estimated beginning of the change that raised a quality alarm; None if there is no alarm."""
        return None if (watch := self._monitor.watch) is None else watch.onset

    def _trigger(self, now_us: int) -> Trigger | None:
        """Return the trigger that holds now, or None. While a repair goes on, only a more urgent trigger counts."""
        requested = read_record(self._catalog, REQUEST, self._deployment.name, Requested)
        watch = self._monitor.watch
        days, state = self._closed_days, self.state
        labels = partial(days.new_labels, state.trained_at_us)
        champion = self._candidates.champion()
        newest = partial(not_used_yet_us, self._catalog, self._deployment.model)

        def signals() -> list[Signal]:
            found = standing_signals(self._catalog, self._deployment.name)
            return [one for one in found if one.version == champion]

        seen = Seen(now_us, champion is not None, watch, requested, labels, days.rise_by_slice, signals, newest)
        found = find_trigger(self._deployment, state, seen)
        return found if found is None or state.phase == "idle" or overtakes(found, state) else None

    def _begun(self, trigger: Trigger, now_us: int) -> list[Decision]:
        """Record the trigger with which a repair begins."""
        changes = msgspec.structs.replace(self.state.changes, onset=trigger.onset)
        known = {} if trigger.onset is None else msgspec.to_builtins(trigger.onset)
        evidence: Evidence = {"onset_us": known.get("at_us"), **known}
        entries = [self._record.entry("trigger", trigger.cause, evidence, actor=trigger.actor)]
        if trigger.ready_at_us > now_us:
            said = f"Waits until {format_time(trigger.ready_at_us)} for labels from after the change."
            entries.append(self._record.entry("wait", said, actor=trigger.actor))
        return self._record.write(
            entries,
            [Remove(REQUEST, self._deployment.name)] if trigger.kind == "call" else [],
            phase="waiting",
            cause=trigger.cause,
            begun_by=trigger.kind,
            asked_by=trigger.actor,
            changes=changes,
            tried=trigger.onset if trigger.kind in ("alarm", "slice") else self.state.tried,
            risen_us=0 if (watch := self._monitor.watch) is None else watch.risen_us,
            estimated_us=trigger.onset.latest_us
            if trigger.kind == "estimate" and trigger.onset
            else self.state.estimated_us,
            # refusals of repairs of an earlier change do not make the quiet time longer
            alarm_cooldown_us=0 if is_later(trigger.onset, self.state) else self.state.alarm_cooldown_us,
            follow_ups_us=self.state.follow_ups_us[trigger.kind == "follow-up" :],
            triggered_at_us=now_us,
            ready_at_us=trigger.ready_at_us,
            lack="",
        )

    def _spent(self, now_us: int) -> list[Decision] | None:
        """If a limit on fits is reached, record once until when it lasts. Otherwise return None."""
        spent = spent_budget(self._deployment, self.state, now_us)
        if spent is None:
            return None
        return self._record.write([self._record.entry("wait", spent.message)], ready_at_us=spent.until_us)

    def _looked_already(self, now_us: int) -> bool:
        """Return whether data that were missing at the last check are probably still missing.

        A check may build a training set. So the next one is only made when another day is closed (at midnight), another
        version is in service, a red window was released, or labels may have been loaded: after six hours.
        """
        state, name = self.state, self._deployment.name
        if not state.lack or now_us - state.looked_us >= LOOK_AGAIN_US:
            return False
        if state.looked_for != self._candidates.champion() or released_since(self._catalog, name, state.looked_us):
            return False
        label = self._deployment.model.label
        return label.closed_until(now_us) == label.closed_until(state.looked_us)

    def _blocked(self, now_us: int) -> str | None:
        rollout = self._deployment.rollout
        taken = self._exposure.taken() if rollout is not None and rollout.canary else None
        try:
            return taken or self._candidates.blocked(now_us, self.state.changes)
        except NotFound as error:  # there was never a request
            return str(error)

    def _repair(self, now_us: int) -> list[Decision]:
        """Fit a candidate, judge it, and promote or refuse it.

        Raises:
            _Failed: No candidate could be made, or a person cancelled the training. The ledger has a row about this,
                and a quiet time begins.
            Conflict: Automation was frozen in the meantime, or another process has changed the state.
        """
        state, record = self.state, self._record
        try:
            watch, listens = self._monitor.watch, declares(self._deployment, "follow-up")
            changes = msgspec.structs.replace(
                state.changes,
                refreshes=state.begun_by in ("schedule", "labels"),
                alarming=watch is not None and listens and (watch.alarming or bool(watch.slice_onsets)),
                standing=self._onset() if listens else None,
            )
            repair = self._candidates.repair(now_us, self.check_frozen, changes)
        except Cancelled as error:  # the declared quiet time begins, not doubled
            raise _Failed(error, record.cancel(record.entry("cancel", str(error), {"cut_us": now_us}))) from error
        except (Misuse, Unavailable) as error:
            if isinstance(error, Unavailable) and state.begun_by != "person":
                raise  # a later tick tries again
            entry = record.entry("failed", str(error), {"cause": state.cause, "cut_us": now_us})
            raise _Failed(error, record.refuse([entry], fits=with_fits(state, now_us, 1))) from error
        self.check_frozen()
        gate, spent = repair.gate, with_fits(state, now_us, repair.fits)
        rows: Evidence = {"rows": repair.rows, "cut_us": repair.cut_us, **evidence_of_left_out(repair)}
        entries = [
            record.entry("train", state.cause, rows, version=repair.candidate, data_hash=repair.data_hash),
            record.entry("gate", gate.reason, evidence_of(gate), version=repair.candidate, replaced=gate.champion),
        ]
        # not if a slice's alarm began the repair: a slice has few rows, so the loss of all rows can only fall a little
        useless = state.begun_by == "alarm" and most_gain(gate) < LEAST_GAIN
        if repair.successor is None or (useless and self._repairs_nothing(gate)):
            but = "" if repair.successor is None else " It is not put in service, because it would repair nothing."
            said = f"{repair.reason}{but} {_USELESS}" if useless else repair.reason
            entries.append(record.entry("refuse", said, {"gate": gate.id}, version=repair.candidate))
            refused = record.refuse(
                entries, _first_watch(self._monitor, self._candidates, now_us), fits=spent, longest=useless
            )
            self._monitor.reload()
            return refused
        return self._stages.begin(entries, repair, fits=spent) + self.finish()

    def _repairs_nothing(self, gate: GateRecord) -> bool:
        """Return whether the only alarm is about the loss, but the candidate's loss is not provably lower.

        Such a candidate passes if the margin of the gate is negative, which allows a higher loss. If there is also an
        alarm about the calibration, the result is False, because its repair need not lower the loss.
        """
        watch = self._monitor.watch
        about_loss = watch is not None and set(watch.alarming_kinds) == {LOSS}
        return about_loss and gate.bound is not None and gate.bound > 0.0

    def _followed(self, repair: Repair) -> dict[str, Any]:
        """Return the fields of the state that say which change was repaired, and when to repeat the repair."""
        onset = self.state.changes.onset
        if onset is None or repair.gate.folds == 1:  # only a candidate for a known change is judged in several folds
            standing = self._onset() if onset is None and declares(self._deployment, "follow-up") else None
            return {"changes": Changes(repaired=standing or self.state.changes.repaired)}
        repaired = {"changes": Changes(repaired=onset)}
        if self.state.begun_by == "follow-up" or most_gain(repair.gate) < LEAST_GAIN:
            return repaired
        final_us = self._deployment.model.label.final_at(repair.cut_us)
        return {**repaired, "follow_ups_us": tuple(final_us + days * DAY_US for days in FOLLOW_UP_DAYS)}


class _Failed(Exception):
    """Raised if a fit failed or was cancelled, with the error and the recorded decisions."""

    def __init__(self, error: Misuse | Unavailable | Cancelled, decisions: list[Decision]) -> None:
        super().__init__(str(error))
        self.error = error
        self.decisions = decisions


def _first_watch(monitor: QualityMonitor, candidates: Candidates, now_us: int) -> list[Change]:
    """Return the changes that begin the watch of a champion that never had one, because it was imported.

    Its reference are its scores of the newest days that it has not seen.
    """
    champion = candidates.champion()
    if champion is None or monitor.watch is not None:
        return []
    try:
        own = candidates.judge_stored(Stored(version=champion), now_us, keep=False)
    except (Corrupt, Misuse, NotFound, Unavailable):  # the status goes on saying that it is not watched
        return []
    days, cap, slices = own.reference, own.loss_cap, own.slices
    return monitor.anchor(champion, days, at_us=now_us, loss_cap=cap, slices=slices, name=own.name)[1]
