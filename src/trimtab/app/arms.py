"""Who answers beside the version in service: the record of the shares, and how a person sets it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from trimtab.core.errors import Conflict, Misuse, NotFound
from trimtab.core.records import Decision, GateRecord
from trimtab.registry import AliasMove, Registry, Version
from trimtab.serving.arms import CANARY, SHADOW, ArmShares
from trimtab.steering.controller import CHAMPION
from trimtab.steering.ledger import Entry, Ledger
from trimtab.store.ports import Append, Catalog, Put, Record, Remove

if TYPE_CHECKING:
    from trimtab.app.project import Project

KIND = "arms"  # of the records, by model
ARMS = (CANARY, SHADOW)
_ATTEMPTS = 20  # others set arms of the same model


def arm_shares(catalog: Catalog, model: str) -> ArmShares:
    """What share of a model's requests goes to its canary, and to its shadow."""
    return _shares(catalog.get(KIND, model))


def set_arm(project: Project, reference: str, arm: str, *, share: float, why: str, actor: str) -> Decision:
    """See `Project.set_arm`."""
    if arm not in ARMS:
        raise Misuse(f"arm {arm!r}: there is none such. Give one of: {', '.join(ARMS)}.")
    catalog, name = project.state.catalog, project.definitions.deployment(reference.partition("@")[0]).name
    for _ in range(_ATTEMPTS):
        before = catalog.get(KIND, name)  # read before the alias: whoever sets an arm writes this record, too
        try:
            return _set(project, name, reference, arm, share=share, why=why, actor=actor, before=before)
        except Conflict:
            if catalog.get(KIND, name) == before:
                raise
    raise Conflict(f"arms of {name!r}: others set them {_ATTEMPTS} times meanwhile. Try again.")


def _set(
    project: Project, name: str, reference: str, arm: str, *, share: float, why: str, actor: str, before: Record | None
) -> Decision:
    catalog, registry = project.state.catalog, project.registry
    there = registry.alias(name, arm)
    version = registry.get(reference) if "@" in reference else there
    if version is None:
        raise NotFound(f"{name}: no version is its {arm} yet. Name one: {name}@N")
    entry = Entry(
        at_us=project.clock.now_us(),
        model=name,
        act="set_arm",
        actor=actor,
        cause=why or "No reason was given.",
        evidence={"arm": arm, "share": share, "version": version.name},
        version=version.id,
        replaced=None if there is None else there.id,
    )
    if there is not None and there.id == version.id:
        return Ledger(catalog).write([entry], [_kept(name, before, arm, share)])[0]
    written: list[Decision] = []

    def write(row: AliasMove, changes: Sequence[Put | Append | Remove]) -> None:
        kept = _kept(name, catalog.get(KIND, name), arm, share)
        written.extend(Ledger(catalog).write([entry], [*changes, kept]))

    registry.move(
        name,
        arm,
        version,
        why=entry.cause,
        gate=_evidence(registry, name, arm, version),
        expected_previous=entry.replaced,
        actor=actor,
        together=write,
    )
    return written[-1]


def _shares(record: Record | None) -> ArmShares:
    return ArmShares() if record is None else msgspec.json.decode(record.body, type=ArmShares)


def _kept(model: str, before: Record | None, arm: str, share: float) -> Put:
    """The shares with that of one arm changed, if the record is what it was before."""
    shares = msgspec.structs.replace(_shares(before), **{arm: share})
    return Put(KIND, model, msgspec.json.encode(shares), expected=0 if before is None else before.revision)


def _evidence(registry: Registry, model: str, arm: str, version: Version) -> GateRecord | None:
    """The newest record that speaks for a version, where a move of the arm needs one; None where there is none."""
    if registry.needs(model).get(arm) != "gate":
        return None
    rivals = {None if one is None else one.id for one in (registry.alias(model, arm), registry.alias(model, CHAMPION))}
    passed = [gate for gate in registry.gates_of(version) if gate.passed]
    fitting = [gate for gate in passed if gate.champion in rivals]
    return next(reversed(fitting or passed), None)
