"""The stages from the gate to full service: shadow, approval, canary, and guarded time after the promotion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound
from trimtab.core.records import Decision
from trimtab.core.time import DAY_US, format_duration, format_time
from trimtab.registry import AliasMove
from trimtab.steering.candidates.ports import Candidates, ChampionFailed
from trimtab.steering.definitions import Deployment
from trimtab.steering.gate.checks import percent
from trimtab.steering.gate.shadow import LABELS_US, evidence_of_shadow, judged, level_of, said_of_shadow
from trimtab.steering.ledger import Entry, Evidence
from trimtab.steering.loop.deployment_record import DeploymentRecord
from trimtab.steering.loop.evidence import overtaken
from trimtab.steering.loop.exposure import Exposure
from trimtab.steering.loop.quiet_times import after_promotion
from trimtab.steering.loop.service_guard import ServiceGuard
from trimtab.steering.loop_state import APPROVAL, CANARY, IDLE, PROMOTING, SHADOW, Bake, Changes, PairedDay, Repair
from trimtab.steering.rollouts import MOST_STEPS, Rollout
from trimtab.store.ports import Append, Put, Remove


class RolloutStages:
    """Moves a candidate that passed the gate through the stages that its deployment declares.

    A crash between any two transactions does no harm. The shadow only reads, and the canary's alias points to the right
    version before the canary gets its share of the requests.
    """

    def __init__(
        self,
        deployment: Deployment,
        record: DeploymentRecord,
        candidates: Candidates,
        *,
        exposure: Exposure,
        guard: ServiceGuard | None,
        clock: Clock,
    ) -> None:
        self._deployment = deployment
        self._rollout = deployment.rollout or Rollout()
        self._record = record
        self._candidates = candidates
        self._exposure = exposure
        self._guard = guard
        self._clock = clock

    def begin(self, entries: Sequence[Entry], repair: Repair, **changes: Any) -> list[Decision]:
        """Begin the first stage of a candidate that passed the gate."""
        rollout = self._rollout
        if rollout.shadow_us is None or repair.gate.champion is None:
            return self.after_shadow(entries, repair, **changes)
        if not repair.gate_days:
            said = "No shadow: the gate compared nothing with the version in service."
            entry = self._entry("shadow", said, repair, entries)
            return self.after_shadow([*entries, entry], repair, **changes)
        said = (
            "Once labels are known, the candidate scores the same rows as the version in service, for at least "
            f"{format_duration(rollout.shadow_us)} and at most {format_duration(rollout.within_us)} of closed days."
        )
        return self._record.write(
            [*entries, self._entry("shadow", said, repair, entries)],
            phase=SHADOW,
            repair=repair,
            stage_since_us=self._clock.now_us(),
            shadow_until_us=repair.unseen_from_us,
            looked_us=self._clock.now_us(),
            shadow=(),
            **changes,
        )

    def after_shadow(self, entries: Sequence[Entry], repair: Repair, **changes: Any) -> list[Decision]:
        """Ask for approval if the deployment declares it; otherwise go on to the next stage."""
        if self._deployment.approval_us is None:
            return self.after_approval(entries, repair, **changes)
        expires_us = self._clock.now_us() + self._deployment.approval_us
        said = f"Waits until {format_time(expires_us)} for a person to approve the candidate."
        entry = self._entry("ask", said, repair, entries)
        return self._record.write([*entries, entry], phase=APPROVAL, repair=repair, expires_us=expires_us, **changes)

    def after_approval(self, entries: Sequence[Entry], repair: Repair, **changes: Any) -> list[Decision]:
        """If canaries are declared, begin with the first share; otherwise promote the candidate."""
        if not self._rollout.canary or repair.gate.champion is None:
            return self._record.write(entries, phase=PROMOTING, repair=repair, **changes)
        return self._share(0, entries, repair, **changes)

    def tick(self) -> list[Decision]:
        """Go on to the next stage if the present one is over. Return the decisions made."""
        state, now_us = self._record.state, self._clock.now_us()
        repair = state.repair
        if repair is None or state.phase not in (SHADOW, CANARY):
            return []
        reason = overtaken(repair, self._candidates.champion())
        if reason is not None:
            return self._drop(repair, reason)
        recipe = self._exposure.recipe(repair)
        if state.begun_by != "person" and recipe not in (None, self._deployment.model.hash):
            return self._supersede(repair, "The model is declared in another way now, so this candidate is dropped.")
        steps = len(self._rollout.canary)
        if (self._rollout.shadow_us is None) if state.phase == SHADOW else state.canary_step >= steps:
            return self._drop(repair, f"The deployment no longer declares a {state.phase} stage. Train again.")
        return self._compare(now_us, repair) if state.phase == SHADOW else self._guarded(now_us, repair)

    def _drop(
        self, repair: Repair, why: str, evidence: Evidence | None = None, *, failed: bool = False, **changes: Any
    ) -> list[Decision]:
        """Refuse the candidate that is being rolled out. If it has `failed`, its gate record counts no more."""
        entry = self._record.entry_about(repair, "refuse", why, evidence)
        also = self._exposure.share(repair, 0.0)
        if failed and repair.successor is not None:
            also += self._exposure.refused(repair.successor, why, self._clock.now_us())
        return self._record.refuse([entry], also, **changes)

    def supersede(self, cause: str) -> list[Decision]:
        """For a more urgent cause, drop the candidate in rollout. This is no refusal, so no quiet time begins."""
        repair = self._record.state.repair
        assert repair is not None  # only called while a candidate is being rolled out
        return self._supersede(repair, f"Dropped for a more urgent cause. {cause}")

    def _supersede(self, repair: Repair, why: str) -> list[Decision]:
        entry = self._record.entry_about(repair, "supersede", why)
        return self._record.write([entry], self._exposure.share(repair, 0.0), **IDLE)

    def bake_of(self, repair: Repair, replaced: str | None, now_us: int) -> Bake | None:
        """Return until when a promoted successor (the new version) is guarded, and which version it is compared with.

        None: it is not guarded.
        """
        assert repair.successor is not None  # a promoted repair always has a successor
        if not self._rollout.bake_us or replaced is None:
            return None
        until_us = now_us + self._rollout.bake_us
        return Bake(version=repair.successor, replaced=replaced, since_us=now_us, until_us=until_us)

    def follow(self) -> None:
        """If a person has put another version in service, schedules and quiet times count from that version."""
        state, version = self._record.state, self._candidates.champion()
        if version in (state.version, None):
            return
        moved: dict[str, Any] = {}
        if state.version is not None:
            by_hand, cooldown_us = msgspec.structs.replace(state, begun_by="person"), self._deployment.cooldown_us
            changes = msgspec.structs.replace(state.changes, repaired=None)
            moved = {"bake": None, "follow_ups_us": (), "changes": changes}
            moved |= after_promotion(by_hand, cooldown_us, self._clock.now_us())
        self._record.write([], version=version, trained_at_us=self._candidates.champion_cut(), **moved)

    def baked(self) -> list[Decision]:
        """Guard a version that was just promoted: roll it back if it exceeds a limit. Stop when the time is over."""
        bake, now_us = self._record.state.bake, self._clock.now_us()
        if bake is None:
            return []
        said = self._breach(bake.version, bake.replaced, bake.since_us)
        if said is not None:
            return self._roll_back(bake, said)
        return self._record.write([], bake=None) if now_us >= bake.until_us else []

    def _roll_back(self, bake: Bake, why: str) -> list[Decision]:
        """Put the replaced version in service again. A quiet time begins, as after a refusal."""
        decisions: list[Decision] = []
        refused = self._exposure.refused(bake.version, f"Rolled back: {why}", self._clock.now_us())

        def together(row: AliasMove, changes: Sequence[Put | Append | Remove]) -> None:
            said = f"Rolled back to the previous version: {why}"
            entries = [
                self._record.entry("roll_back", said, version=bake.replaced, replaced=bake.version, actor="policy")
            ]
            also: list[Put | Append | Remove] = [*changes, *refused]
            repair = self._record.state.repair
            # a candidate in a rollout was compared with the version that is rolled back
            if repair is not None:
                gone = "The version that the candidate was compared with was rolled back."
                entries.append(self._record.entry_about(repair, "refuse", gone))
                also += self._exposure.share(repair, 0.0)
            before: dict[str, Any] = {"version": None, "changes": Changes(), "follow_ups_us": ()}
            decisions.extend(self._record.refuse(entries, also, bake=None, **before))

        self._exposure.roll_back(bake.version, why, together)
        self.follow()
        return decisions

    def _compare(self, now_us: int, repair: Repair) -> list[Decision]:
        """Compare successor and champion on the days that were closed since the last comparison, and decide."""
        state, rollout = self._record.state, self._rollout
        label = self._deployment.model.label
        closed_us = label.closed_until(now_us)
        again = closed_us > state.shadow_until_us and now_us - state.looked_us >= LABELS_US
        if closed_us <= label.closed_until(state.looked_us) and not again:
            return []
        try:
            new, until_us = self._candidates.shadow_days(repair, state.shadow_until_us, now_us)
        # a champion that cannot score rows must not block its successor
        except ChampionFailed as error:
            entry = self._entry("compare", f"No comparison: {error}", repair, [])
            return self.after_shadow([entry], repair)
        except (Corrupt, Misuse, NotFound) as error:
            return self._drop(repair, f"The shadow of the candidate failed: {error}", failed=True)
        # the labels of the newest day may still be loaded, so leave it to a later comparison
        if _is_early(new, until_us, repair, label.final_until(now_us)):
            new, until_us = new[:-1], max(state.shadow_until_us, until_us - DAY_US)
        days = (*state.shadow, *new)
        found, lasted_us = judged(rollout, days, repair), until_us - repair.unseen_from_us
        values = (found, days, rollout.margin, level_of(repair))
        said, evidence = said_of_shadow(*values), evidence_of_shadow(*values)
        known: dict[str, Any] = {"shadow": days, "shadow_until_us": until_us, "looked_us": now_us}
        if found.verdict == "promote":
            entry = self._record.entry_about(repair, "compare", said, evidence)
            return self.after_shadow([entry], repair, **known)
        over = bool(days) and lasted_us >= rollout.within_us  # faulty days may have come before the first that counts
        over = over or now_us - state.stage_since_us >= 2 * rollout.within_us
        if found.verdict == "reject" or over:
            return self._drop(repair, said, evidence, failed=True, **known)
        return self._record.write([], **known)

    def _guarded(self, now_us: int, repair: Repair) -> list[Decision]:
        """Withdraw a canary that exceeds a limit; otherwise begin its next share if the present one is over."""
        state, rollout = self._record.state, self._rollout
        assert repair.successor is not None  # a repair that is rolled out always has a successor
        assert repair.gate.champion is not None  # and a champion to compare with
        guard, since_us, share = self._guard, state.stage_since_us, rollout.canary[state.canary_step]
        said = self._breach(repair.successor, repair.gate.champion, since_us)
        if said is not None:
            return self._drop(repair, f"The canary of {percent(share)} was withdrawn: {said}", failed=True)
        other, answered = self._exposure.answered(repair)
        if other is not None:
            why = f"A person made {other} the canary, which now answers {percent(answered)} of the requests."
            return self._drop(repair, f"{why} So the rollout ends.")
        if answered != share:
            why = f"The canary answers {percent(answered)} of the requests, but the declared share is {percent(share)}."
            return self._drop(repair, f"{why} A person changed one of them, so the rollout ends.")
        if now_us < state.stage_since_us + rollout.step_us:
            return []
        least = rollout.guardrails.least
        if guard is not None and (seen := guard.requests(repair.successor, since_us=since_us)) < least:
            if now_us < state.stage_since_us + MOST_STEPS * rollout.step_us:
                return []
            lasted = format_duration(now_us - state.stage_since_us)
            said = f"The canary answered too few requests: {seen} in {lasted}; {least} are needed."
            return self._drop(repair, f"{said} If the service was running, declare a longer step.")
        if state.canary_step + 1 < len(rollout.canary):
            return self._share(state.canary_step + 1, [], repair)
        return self._record.write([], phase=PROMOTING)

    def _breach(self, version: str, against: str, since_us: int) -> str | None:
        """Return a sentence about the limit that a version exceeds; None if there is none, or no service."""
        return None if self._guard is None else self._guard(version, against, since_us=since_us)

    def _share(self, step: int, entries: Sequence[Entry], repair: Repair, **changes: Any) -> list[Decision]:
        """Let the successor answer the share of the requests that is declared for a step."""
        share = self._rollout.canary[step]
        try:
            exposed = self._exposure.share(repair, share)
        except Conflict as error:  # another version is the canary, or an experiment splits the requests
            refused = self._entry("refuse", str(error), repair, entries)
            spent = {name: value for name, value in changes.items() if name == "fits"}
            return self._record.refuse([*entries, refused], **spent)
        lasts = format_duration(self._rollout.step_us)
        said = f"The candidate answers {percent(share)} of the requests, of fixed entities, for {lasts} or longer."
        entry = self._entry("canary", said, repair, entries, share=share)
        return self._record.write(
            [*entries, entry],
            exposed,
            phase=CANARY,
            repair=repair,
            canary_step=step,
            stage_since_us=self._clock.now_us(),
            **changes,
        )

    def _entry(self, act: str, said: str, repair: Repair, entries: Sequence[Entry], **evidence: float) -> Entry:
        """Return a row for the ledger (the record of decisions), with the same actor as the last of `entries`."""
        actor = entries[-1].actor if entries else None
        made = self._record.entry_about(repair, act, said, evidence, actor=actor)
        return msgspec.structs.replace(made, replaced=repair.gate.champion)


def _is_early(new: Sequence[PairedDay], until_us: int, repair: Repair, closed_us: int) -> bool:
    """Return whether the newest day was closed only hours ago, and has fewer than half as many labels as usual."""
    if closed_us >= until_us + LABELS_US:
        return False
    typical = sorted(one.rows for one in repair.gate_days)
    newest = new[-1].rows if new and new[-1].day_us + DAY_US >= until_us else 0
    return newest < typical[len(typical) // 2] / 2
