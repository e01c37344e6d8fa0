"""Set the canary and shadow versions (the arms) of a model, and the shares of requests that they get."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import msgspec

from trimtab.app.system import System
from trimtab.app.versions.alias_moves import NO_REASON, write_row
from trimtab.core.errors import Conflict, Misuse, NotFound
from trimtab.core.records import Decision, GateRecord
from trimtab.registry import AliasMove, Registry, Version
from trimtab.registry.evidence import check_ungated, in_force
from trimtab.registry.protection import CHAMPION
from trimtab.serving.arms.arms import CANARY, KIND, SHADOW, ArmShares, arm_shares, shares_of
from trimtab.steering.ledger import Entry, Evidence, Ledger
from trimtab.store.ports import Append, Put, Record, Remove

ARMS = (CANARY, SHADOW)


class ArmOfExperiment(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment's changes and ledger row, which are written together with the canary that it sets or ends."""

    name: str | None  # the experiment that splits the requests from now on; None: no experiment does any more
    entry: Entry  # its row of the ledger
    changes: Sequence[Put | Append | Remove]


def set_arm(
    system: System,
    reference: str,
    arm: str,
    *,
    share: float,
    why: str,
    actor: str,
    experiment: ArmOfExperiment | None = None,
) -> Decision:
    """Set or end a canary or shadow; see `Project.set_arm`, also for errors.

    With `experiment`, the changes and the ledger row of the experiment are written in the same transaction.
    """
    if arm not in ARMS:
        raise Misuse(f"arm {arm!r}: needed one of {', '.join(ARMS)}.")
    given: object = share
    if isinstance(given, bool) or not isinstance(given, Real):
        raise Misuse(f"{arm}: share={share!r}. Give a number from 0 (no request) to 1 (all requests).")
    share = float(share)  # the catalogue cannot store the numbers of NumPy
    catalog, registry = system.state.catalog, system.registry
    name, reason = system.definitions.deployment(reference.partition("@")[0]).name, why or NO_REASON
    before, unmoved = catalog.get(KIND, name), registry.touch(name, arm)
    # read after `unmoved`, so that the write raises Conflict if the alias moves in between
    there = registry.aliases(name).get(arm)
    if there is None and "@" not in reference:
        raise NotFound(f"{name}: no version is its {arm} yet. Name one: {name}@N")
    if experiment is None and share > 0.0:
        check_not_split(system, name, arm)
    version = registry.get(reference if there is None or "@" in reference else there.version)
    moves = there is None or there.version != version.id  # a later roll back or a share would let it answer
    if arm == CANARY and (share > 0.0 or moves):  # a shadow need not have passed a gate: no client gets its answers
        check_ungated(f"{version.name} as {arm}", registry.passed_gate(version), why)
    ledgered = LedgeredArm(system, share, experiment)
    if there is not None and not moves:
        move = {"previous": there.version, "at_us": system.clock.now_us(), "why": reason, "actor": actor}
        ledgered.write(msgspec.structs.replace(there, **move), [unmoved], before)
    else:
        registry.move(
            name,
            arm,
            version,
            why=reason,
            gate=_evidence(registry, name, arm, version),
            expected_previous=None if there is None else there.version,
            actor=actor,
            together=ledgered,
        )
    return ledgered.decision


class LedgeredArm:
    """Writes the move of a canary or shadow alias, its share, and the row of the ledger of decisions together.

    `share` None: the share stays as it is.
    """

    decision: Decision  # the row that was written to the ledger

    def __init__(self, system: System, share: float | None = None, experiment: ArmOfExperiment | None = None) -> None:
        self._system = system
        self._share = share
        self._experiment = experiment

    def __call__(self, row: AliasMove, changes: Sequence[Put | Append | Remove]) -> None:
        """Write all of these changes, or none."""
        self.write(row, changes, self._system.state.catalog.get(KIND, row.model))

    def write(self, row: AliasMove, changes: Sequence[Put | Append | Remove], before: Record | None) -> None:
        """Write all of these changes, or none if the stored shares have changed since `before`."""
        shares, mine = shares_of(before), self._experiment
        if self._share is not None:
            shares = msgspec.structs.replace(shares, **{row.alias: self._share})
        if row.alias == CANARY and mine is None and shares.experiment is not msgspec.UNSET:
            if self._share != 0.0:  # ending the canary is always allowed; then the experiment no longer splits requests
                check_not_split(self._system, row.model, row.alias)
            shares = _without_experiment(shares)
        if mine is not None:
            shares = _without_experiment(shares)
            if mine.name is not None:
                shares = msgspec.structs.replace(shares, experiment=mine.name, changed_at_us=mine.entry.at_us)
        revision = 0 if before is None else before.revision
        kept = Put(KIND, row.model, msgspec.json.encode(shares), expected=revision)
        version = self._system.registry.get(row.version).name
        evidence: Evidence = {"arm": row.alias, "share": getattr(shares, row.alias), "version": version}
        if mine is None:
            row = msgspec.structs.replace(row, why=f"{row.alias} {evidence['share']:g}: {row.why}")
            self.decision = write_row(self._system, row, [*changes, kept], "set_arm", evidence)
        else:
            entry = msgspec.structs.replace(mine.entry, evidence={**evidence, **mine.entry.evidence})
            changes = [*changes, kept, *mine.changes]
            self.decision = Ledger(self._system.state.catalog).write([entry], changes)[0]


def check_not_split(system: System, model: str, arm: str) -> None:
    """Raise Conflict if `arm` is the canary, and an experiment decides which requests it gets."""
    shares = arm_shares(system.state.catalog, model)
    if arm == CANARY and shares.experiment is not msgspec.UNSET:
        raise Conflict(
            f"{model}: the experiment {shares.experiment!r} splits its requests. Stop it first: "
            f"trimtab experiment stop {shares.experiment} --why TEXT"
        )


def _without_experiment(shares: ArmShares) -> ArmShares:
    return ArmShares(canary=shares.canary, shadow=shares.shadow)


def _evidence(registry: Registry, model: str, arm: str, version: Version) -> GateRecord | None:
    """Return the record of a gate that a version passed, as evidence for moving an arm to it.

    A record of a comparison with the arm's present version or the champion is preferred; of several, the newest.
    None: the move needs no gate, or the version has passed none.
    """
    if registry.needs(model).get(arm) != "gate":
        return None
    targets = {None if one is None else one.id for one in (registry.alias(model, arm), registry.alias(model, CHAMPION))}
    passed = in_force(version, registry.gates_of(version))
    fitting = [gate for gate in passed if gate.champion in targets]
    return next(reversed(fitting or passed), None)
