"""Start, ramp, pause, resume, stop and conclude experiments. Each change is a row of the ledger with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from trimtab.app.training.promoting import PromotionRequest, promote_version
from trimtab.app.training.training_runs import refusal
from trimtab.app.versions.arms import ArmOfExperiment, set_arm
from trimtab.core.errors import Conflict, Misuse
from trimtab.core.records import Decision
from trimtab.experiments.assignment import BUCKETS, first_buckets, free_slots, reallocated
from trimtab.experiments.days import cut_windows, not_closed
from trimtab.experiments.declaring import checked_weights
from trimtab.experiments.definitions import Experiment
from trimtab.experiments.records import (
    KIND,
    PAST,
    Allocation,
    ExperimentState,
    past_key,
    running_experiments,
    stored_definition,
)
from trimtab.monitoring.breaches import breach
from trimtab.monitoring.guardrails import Guardrails
from trimtab.registry.evidence import check_ungated
from trimtab.registry.protection import CHAMPION
from trimtab.serving.arms.arm_metrics import service_metrics
from trimtab.serving.arms.arms import CANARY, ArmShares, arm_shares, shares_of
from trimtab.serving.arms.arms import KIND as ARMS
from trimtab.steering.ledger import Entry, Evidence, Ledger
from trimtab.steering.loop.service_guard import ServiceGuard
from trimtab.steering.loop_state import loop_state
from trimtab.steering.rollouts import Rollout
from trimtab.store.ports import Append, Put, Remove

if TYPE_CHECKING:
    from trimtab.app.system import System

LAYER = "experiment_layer"  # the kind of the catalogue records with the `Slots` of a layer
Change = Put | Append | Remove
Slots = dict[str, tuple[int, int]]  # for each experiment of a layer: the first of its buckets, and the end


class Running:
    """One experiment of a project, as it is read from the catalogue, with the changes that a person can make.

    If another process has changed the experiment since it was read, every change fails with Conflict, and nothing is
    changed. (Only the promotion of a winning version may have happened already.)

    Raises:
        NotFound: There is no such experiment.
        Misuse: No reason is given.
    """

    def __init__(self, system: System, name: str, *, why: str, actor: str) -> None:
        self._system, self._name, self._why, self._actor = system, name, why.strip(), actor
        self._catalog = system.state.catalog
        record = self._catalog.get(KIND, name)
        self.state = None if record is None else msgspec.json.decode(record.body, type=ExperimentState)
        self._revision = 0 if record is None else record.revision
        if self.state is None:
            system.definitions.experiment(name)
        if not self._why:
            raise Misuse(f"experiment {name!r}: no reason is given. Say why, for the ledger.")

    def start(self, *, again: bool = False) -> Decision:
        """Start the experiment: from now on, units take part. If it was concluded before, `again` must be True."""
        name, before, now_us = self._name, self.state, self._system.clock.now_us()
        if before is not None and before.phase in ("running", "paused"):
            raise Conflict(f"experiment {name!r}: it is {before.phase}. Stop it before it is started again.")
        definition = self._system.declared.experiment(name)
        if before is not None and before.phase == "concluded" and not again:
            raise Conflict(
                f"experiment {name!r}: concluded with winner {before.winner!r}. To start again with new assignments: "
                f"start_experiment(..., again=True), or trimtab experiment start {name} --again --why TEXT"
            )
        lost = None
        if before is not None:
            from trimtab.app.experiments.closing import close_due  # loads NumPy

            close_due(self._system, name)  # the days that are not closed now never will be
            lost = not_closed(self._catalog, before)
        weights = dict(zip(definition.variants, definition.weights, strict=True))
        slots, taken = self._take_slots(definition)
        state = ExperimentState(
            name=name,
            hash=definition.hash,
            definition=msgspec.json.encode(definition),
            generation=1 if before is None else before.generation + 1,
            phase="running",
            started_at_us=now_us,
            allocations=[
                Allocation(from_us=now_us, share=definition.share, weights=weights, buckets=first_buckets(weights))
            ],
            versions=self._versions(definition),
            slots=slots,
            holdout=self._system.config.experiments.holdout,
        )
        if stored_definition(state).hash != state.hash:
            raise Misuse(f"experiment {name!r}: where= cannot be stored. Use no Python functions in it.")
        if before is not None:
            taken = [*taken, Put(PAST, past_key(name, before.generation), msgspec.json.encode(before))]
        return self._write("start_experiment", state, taken, {"not closed": lost} if lost else None)

    def ramp(self, share: float | None, weights: Mapping[str, float] | None) -> Decision:
        """Let another share of the units take part, or change the weights of the variants."""
        state = self._active("running")
        definition, last = stored_definition(state), state.allocations[-1]
        if share is None and weights is None:
            raise Misuse(f"experiment {self._name!r}: give the new share=, or new weights=.")
        share = last.share if share is None else share
        most = (state.slots[1] - state.slots[0]) / BUCKETS
        if not isinstance(share, int | float) or isinstance(share, bool) or not 1 / BUCKETS <= share <= 1:
            wanted = f"Give a number from {1 / BUCKETS:g} to 1, such as 0.3; or pause it."
            raise Misuse(f"experiment {self._name!r}: share={share!r}. {wanted}")
        if share > most:
            raise Misuse(
                f"experiment {self._name!r}: it took {most:.4g} of layer {definition.layer!r} at its start, so "
                f"share={share:g} is too large. Declare a larger share or ramp, stop it and start it again."
            )
        new = checked_weights(
            f"experiment {self._name!r}", definition.variants, last.weights if weights is None else weights
        )
        return self._write("ramp_experiment", self._allocated(state, share, new, by_hand=True))

    def ramp_when_due(self) -> Decision | None:
        """Take the newest due step of the declared ramp, unless a person has ramped, paused or resumed before."""
        state = self.state
        if state is None or state.phase != "running" or any(one.by_hand for one in state.allocations):
            return None
        past_us, last = self._system.clock.now_us() - state.started_at_us, state.allocations[-1]
        definition = stored_definition(state)
        due = [share for after_us, share in definition.ramp if after_us <= past_us]
        due += [share for at_us, share in definition.ramp_at if at_us <= state.started_at_us + past_us]
        if not due or due[-1] <= last.share:
            return None
        return self._write("ramp_experiment", self._allocated(state, due[-1], last.weights, by_hand=False))

    def must_stop(self) -> str | None:
        """Return why an experiment over versions or deployments must stop now; None if it need not.

        The reasons: a version exceeds a guardrail of the service or became the champion, a compared deployment has no
        version in service, or a person has ended the canary (or the split among deployments).
        """
        state = self.state
        if state is None or state.phase != "running" or not state.versions:
            return None
        definition, catalog, registry = stored_definition(state), self._catalog, self._system.registry
        model, treatments = str(definition.model), [n for n in state.versions if n != definition.control]
        if arm_shares(catalog, model).experiment != self._name:
            return f"A person has ended the {'split' if definition.deployments else 'canary'}."
        champion = registry.alias(model, CHAMPION)
        deployment = self._system.definitions.deployments.get(model)
        rollout = Rollout() if deployment is None or deployment.rollout is None else deployment.rollout
        guard = ServiceGuard(model, registry, catalog, rollout.guardrails)
        if champion is None:
            return None
        for name in treatments:
            if definition.deployments:
                harm = self._harm_of(str(definition.variants[name]), model, rollout.guardrails)
                if harm is not None:
                    return f"{name}: {harm}"
                continue
            if champion.id == state.versions[name]:
                return f"The version of {name!r} is in service now, so it and the control are the same version."
            if (why := guard(state.versions[name], champion.id, since_us=state.started_at_us)) is not None:
                return f"{name}: {why}" if len(treatments) > 1 else why
        return None

    def _harm_of(self, model: str, control: str, limits: Guardrails) -> str | None:
        """Return why the experiment must stop because of the deployment `model`; None if it need not.

        The reasons: `model` exceeds a guardrail compared with the deployment `control`, or one of them has no champion.
        """
        assert self.state is not None  # `must_stop` has checked this
        found = []
        for name in (model, control):
            champion = self._system.registry.alias(name, CHAMPION)
            if champion is None:
                return f"No version of {name} is in service."
            since_us = self.state.started_at_us
            found.append(service_metrics(self._catalog, name, champion.id, CHAMPION, since_us=since_us))
        over = breach(found[0], found[1], limits)
        return None if over is None else over.message

    def pause(self) -> Decision:
        """Give all units the control until the experiment is resumed."""
        state = self._active("running")
        paused = self._allocated(state, 0.0, state.allocations[-1].weights, by_hand=True)
        return self._write("pause_experiment", msgspec.structs.replace(paused, phase="paused"))

    def resume(self) -> Decision:
        """Assign the same units to the same variants as before the pause."""
        state = self._active("paused")
        share = next(one.share for one in reversed(state.allocations) if one.share > 0)
        resumed = self._allocated(state, share, state.allocations[-1].weights, by_hand=True)
        return self._write("resume_experiment", msgspec.structs.replace(resumed, phase="running"))

    def stop(self) -> Decision:
        """End the experiment without a winner: all units get the control."""
        state = self._active("running", "paused")
        ended = msgspec.structs.replace(state, phase="stopped", ended_at_us=self._system.clock.now_us())
        return self._write("stop_experiment", ended, self._give_slots(state), _not_counted(ended))

    def conclude(self, winner: str) -> Decision:
        """End the experiment with a winner. A version that won is judged by the gate, and promoted only if it passes.

        A deployment that won is only named in the ledger. If the variants are plain values, all units now get the value
        of the winner, except those in the global holdout.
        """
        state = self._active("running", "paused")
        definition = stored_definition(state)
        if winner not in definition.variants:
            raise Misuse(
                f"experiment {self._name!r}: {winner!r} is no variant. Variants: {', '.join(definition.variants)}."
            )
        from trimtab.app.experiments.report import experiment_report  # loads SciPy, which a service does without

        reading = experiment_report(self._system, self._name, slices=False)
        more = {"reading": reading.decision.text}
        if definition.deployments and winner != definition.control:
            # nothing is promoted, because clients can call the winner's own endpoint
            more |= {"call instead": str(definition.variants[winner])}
        elif definition.model is not None and winner != definition.control:
            wanted = PromotionRequest(why=self._why, actor=self._actor, seen_until_us=None, dry_run=False)
            found = promote_version(self._system, state.versions[winner], wanted, None)
            reason = "" if found.gate is None else found.gate.reason
            more |= {"promotion": found.state, **({"promotion reason": reason} if reason else {})}
            said = refusal(reason) if found.state == "refused" else found.state
            state = msgspec.structs.replace(state, promotion=said)
        elif definition.where is not None and winner != definition.control:
            more |= {"also": f"units that where= kept out get {winner}, too, although it was not tried on them"}
        ended_us = self._system.clock.now_us()
        ended = msgspec.structs.replace(state, phase="concluded", winner=winner, ended_at_us=ended_us)
        return self._write("conclude_experiment", ended, self._give_slots(state), {**more, **_not_counted(ended)})

    def _active(self, *phases: str) -> ExperimentState:
        state = self.state
        if state is None or state.phase not in phases:
            found = "not started" if state is None else state.phase
            first = {"paused": "Resume it first.", "running": "Pause it first."}.get(found, "Start it first.")
            raise Conflict(f"experiment {self._name!r}: it is {found}, not {' or '.join(phases)}. {first}")
        return state

    def _allocated(
        self, state: ExperimentState, share: float, weights: dict[str, float], *, by_hand: bool
    ) -> ExperimentState:
        last = state.allocations[-1]
        new = Allocation(
            from_us=max(self._system.clock.now_us(), last.from_us),
            share=share,
            weights=weights,
            buckets=last.buckets if weights == last.weights else reallocated(last.buckets, weights),
            by_hand=by_hand,
        )
        return msgspec.structs.replace(state, allocations=[*state.allocations, new])

    def _take_slots(self, definition: Experiment) -> tuple[tuple[int, int], list[Change]]:
        """Return the slots that the experiment gets in its layer (first, end), and the changes that reserve them."""
        if not definition.layer:
            return (0, BUCKETS), []
        taken, revision = self._taken(definition.layer)
        wanted = round(definition.largest_share * BUCKETS)
        found = free_slots(taken, max(wanted, 1))
        if found is None:
            runs = ", ".join(f"{name} {(end - begin) / BUCKETS:.4g}" for name, (begin, end) in sorted(taken.items()))
            raise Conflict(
                f"experiment {self._name!r}: layer {definition.layer!r} has no room for a share of "
                f"{wanted / BUCKETS:.4g} in one piece. Taken: {runs}. Stop one of these, or declare a smaller share."
            )
        return found, [_slots(definition.layer, {**taken, self._name: found}, revision)]

    def _give_slots(self, state: ExperimentState) -> list[Change]:
        layer = stored_definition(state).layer
        if not layer:
            return []
        taken, revision = self._taken(layer)
        return [_slots(layer, taken, revision)]

    def _taken(self, layer: str) -> tuple[Slots, int]:
        """Return the slots of a layer without those of this experiment, and the revision of the record."""
        record = self._catalog.get(LAYER, layer)
        if record is None:
            return {}, 0
        found = msgspec.json.decode(record.body, type=Slots)
        return {name: run for name, run in found.items() if name != self._name}, record.revision

    def _versions(self, definition: Experiment) -> dict[str, str]:
        """Return the ids of the compared versions, after checking that they can be compared now."""
        model = definition.model
        if model is None:
            return {}
        shares = arm_shares(self._catalog, model)
        if shares.experiment is not msgspec.UNSET:
            raise Conflict(
                f"experiment {self._name!r}: {shares.experiment!r} compares versions of {model!r}. Stop it first."
            )
        if shares.canary > 0:
            raise Conflict(
                f"experiment {self._name!r}: a canary answers {shares.canary:.0%} of the requests of {model!r}. End it "
                f"first: trimtab canary {model} --share 0"
            )
        self._check_no_overlap(definition)
        registry = self._system.registry
        of = "@champion" if definition.deployments else ""
        for deployed in definition.variants.values() if definition.deployments else ():
            if registry.alias(deployed, CHAMPION) is None:
                raise Conflict(
                    f"experiment {self._name!r}: no version of {deployed!r} is in service yet. Train one that passes "
                    f"its gate: trimtab train {deployed}"
                )
        found = {name: registry.get(f"{reference}{of}").id for name, reference in definition.variants.items()}
        for name, address in found.items():
            version = registry.get(address)
            if same := [other for other in found if found[other] == address and other != name]:
                what = f"variants {name!r} and {same[0]!r} are both {version.name}"
                raise Misuse(f"experiment {self._name!r}: {what}. Compare different versions.")
            if name != definition.control:
                check_ungated(f"experiment {self._name!r}: {version.name}", registry.passed_gate(version), self._why)
        return found

    def _check_no_overlap(self, definition: Experiment) -> None:
        """Raise Conflict if a running experiment has a deployment in common, and one of the two compares deployments.

        The predictions of the two could not be told apart.
        """
        for state in running_experiments(self._catalog):
            other = stored_definition(state)
            both = [model for model in definition.models if model in other.models]
            if both and (definition.deployments or other.deployments):
                raise Conflict(
                    f"experiment {self._name!r}: {state.name!r} is {state.phase} and compares {both[0]!r}, too. A "
                    f"deployment is in one experiment at a time, so stop {state.name!r} first, or compare all of them "
                    "in one experiment."
                )

    def _write(
        self, act: str, state: ExperimentState, more: Sequence[Change] = (), evidence: Evidence | None = None
    ) -> Decision:
        """Write the state with a row of the ledger and, for an experiment over versions, the share of the canary."""
        definition, now = stored_definition(state), state.allocations[-1]
        about: Evidence = {
            "experiment": self._name,
            "generation": state.generation,
            "share": now.share,
            **{f"weight {name}": weight for name, weight in now.weights.items()},
            **({} if state.winner is None else {"winner": state.winner}),
            **(evidence or {}),
        }
        entry = Entry(
            at_us=self._system.clock.now_us(),
            model=definition.model or self._name,
            act=act,
            actor=self._actor,
            cause=self._why,
            evidence=dict(about),
        )
        changes = [Put(KIND, self._name, msgspec.json.encode(state), expected=self._revision), *more]
        try:
            if definition.model is None:
                return Ledger(self._catalog).write([entry], changes)[0]
            return self._write_with_canary(definition, state, entry, changes)
        except Conflict as error:
            raise Conflict(
                f"experiment {self._name!r}: another process changed it meanwhile, so your change was not made. Look "
                "at its state, and try again."
            ) from error

    def _write_with_shares(self, model: str, state: ExperimentState, entry: Entry, changes: list[Change]) -> Decision:
        """Write the state of an experiment over deployments. While it runs, the requests to its control are split."""
        record = self._catalog.get(ARMS, model)
        shares = shares_of(record)
        starts = len(state.allocations) == 1 and state.phase == "running"
        if starts or shares.experiment == self._name:
            runs = state.phase in ("running", "paused")
            # always later than the stored time, so that all processes see a change even if the clock stood still
            before_us = -1 if shares.changed_at_us is msgspec.UNSET else shares.changed_at_us
            shares = ArmShares(canary=shares.canary, shadow=shares.shadow)
            if runs:
                changed_us = max(entry.at_us, before_us + 1)
                shares = msgspec.structs.replace(shares, experiment=self._name, changed_at_us=changed_us)
            revision = 0 if record is None else record.revision
            changes = [*changes, Put(ARMS, model, msgspec.json.encode(shares), expected=revision)]
        return Ledger(self._catalog).write([entry], changes)[0]

    def _write_with_canary(
        self, definition: Experiment, state: ExperimentState, entry: Entry, changes: list[Change]
    ) -> Decision:
        """Write the state, and give the canary the treatment's share of the requests, unless a person has ended it.

        With several treatments, the alias `canary` and its share are those of the first. When the experiment ends, the
        share becomes 0, or stays if a rollout of the same version is in its canary stage.
        """
        if definition.deployments:
            return self._write_with_shares(str(definition.model), state, entry, changes)
        model, treatment = (
            str(definition.model),
            next(name for name in definition.variants if name != definition.control),
        )
        version, runs, now = state.versions[treatment], state.phase in ("running", "paused"), state.allocations[-1]
        others = {
            f"version {name}": one
            for name, one in state.versions.items()
            if name not in (treatment, definition.control)
        }
        entry = msgspec.structs.replace(entry, version=version, evidence={**entry.evidence, **others})
        stored, starts = arm_shares(self._catalog, model), len(state.allocations) == 1 and runs
        if not starts and stored.experiment != self._name:  # a person has ended the canary
            return Ledger(self._catalog).write([entry], changes)[0]
        rollout = loop_state(self._catalog, model)
        rolled_out = rollout.repair is not None and rollout.repair.successor == version and rollout.phase == CANARY
        share = now.share * now.weights[treatment] if runs else stored.canary if rolled_out else 0.0
        return set_arm(
            self._system,
            self._system.registry.get(version).name if starts else model,
            CANARY,
            share=share,
            why=self._why,
            actor=self._actor,
            experiment=ArmOfExperiment(name=self._name if runs else None, entry=entry, changes=changes),
        )


def _not_counted(ended: ExperimentState) -> Evidence:
    """Return for the ledger which units the end keeps from counting; empty if there are none."""
    said = cut_windows(ended, stored_definition(ended))
    return {} if said is None else {"not counted": said}


def _slots(layer: str, taken: Slots, revision: int) -> Put:
    return Put(LAYER, layer, msgspec.json.encode(taken), expected=revision)
