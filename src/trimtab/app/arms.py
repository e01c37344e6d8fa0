"""Who answers beside the version in service: the record of the shares, and how a person sets it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from trimtab.core.errors import Misuse, NotFound
from trimtab.core.records import Decision, GateRecord
from trimtab.registry import AliasMove, Registry, Version
from trimtab.serving.arms import CANARY, SHADOW, ArmShares
from trimtab.steering.controller import CHAMPION
from trimtab.steering.ledger import Entry, Ledger
from trimtab.store.ports import Append, Catalog, Put, Remove

if TYPE_CHECKING:
    from trimtab.app.project import Project

KIND = "arms"  # of the records, by model
ARMS = (CANARY, SHADOW)


def arm_shares(catalog: Catalog, model: str) -> ArmShares:
    """What share of a model's requests goes to its canary, and to its shadow."""
    record = catalog.get(KIND, model)
    return ArmShares() if record is None else msgspec.json.decode(record.body, type=ArmShares)


def set_arm(project: Project, reference: str, arm: str, *, share: float, why: str, actor: str) -> Decision:
    """See `Project.set_arm`."""
    if arm not in ARMS:
        raise Misuse(f"arm {arm!r}: there is none such. Give one of: {', '.join(ARMS)}.")
    catalog, registry = project.state.catalog, project.registry
    name = project.definitions.deployment(reference.partition("@")[0]).name
    before = registry.alias(name, arm)
    version = registry.get(reference) if "@" in reference else before
    if version is None:
        raise NotFound(f"{name}: no version is its {arm} yet. Name one: {name}@N")
    shares = msgspec.structs.replace(arm_shares(catalog, name), **{arm: share})
    entry = Entry(
        at_us=project.clock.now_us(),
        model=name,
        act="set_arm",
        actor=actor,
        cause=why or "No reason was given.",
        evidence={"arm": arm, "share": share, "version": version.name},
        version=version.id,
        replaced=None if before is None else before.id,
    )
    kept = Put(KIND, name, msgspec.json.encode(shares))
    if before is not None and before.id == version.id:
        return Ledger(catalog).write([entry], [kept])[0]
    written: list[Decision] = []

    def write(row: AliasMove, changes: Sequence[Put | Append | Remove]) -> None:
        written.extend(Ledger(catalog).write([entry], [*changes, kept]))

    gate = _evidence(registry, name, arm, version)
    registry.move(name, arm, version, why=entry.cause, gate=gate, actor=actor, together=write)
    return written[-1]


def _evidence(registry: Registry, model: str, arm: str, version: Version) -> GateRecord | None:
    """The newest record that speaks for a version, where a move of the arm needs one; None where there is none."""
    if registry.needs(model).get(arm) != "gate":
        return None
    rivals = {None if one is None else one.id for one in (registry.alias(model, arm), registry.alias(model, CHAMPION))}
    passed = [gate for gate in registry.gates_of(version) if gate.passed]
    fitting = [gate for gate in passed if gate.champion in rivals]
    return next(reversed(fitting or passed), None)
