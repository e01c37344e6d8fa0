"""Gate records, and the evidence that a version needs to become champion."""

from __future__ import annotations

import msgspec

from trimtab.core.errors import Conflict, Misuse, NotFound
from trimtab.core.records import GateRecord
from trimtab.registry.protection import SHORTEST_REASON
from trimtab.registry.versions import Version
from trimtab.stats.metrics.loss_names import top_of
from trimtab.store.ports import Catalog, Put

_ALONE = ("loads", "finite", "calibrated")  # the checks of every gate
_OF_LISTS = ("loads", "finite", "lists")  # the checks of every gate of rankings
_COMPARED = ("better_by_margin", "provably_better")  # further checks of a comparison with a champion
_REFRESHED = ("better_by_margin", "not_provably_worse")  # further checks of a scheduled refit


class Gates:
    """Reads and stores gate records."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def put(self, record: GateRecord) -> None:
        """Store a record. To store an equal record again changes nothing.

        Raises:
            Conflict: Another record has this id.
        """
        changes = [
            Put("gate", record.id, msgspec.json.encode(record), expected=0),
            Put("gate_of", f"{record.candidate}/{record.id}", b"null", expected=0),
        ]
        try:
            self._catalog.write(changes)
        except Conflict:
            if self.get(record.id) != record:
                raise Conflict(f"gate {record.id}: another record has this id. Give each judgement its own.") from None

    def get(self, gate_id: str) -> GateRecord:
        """Return a record.

        Raises:
            NotFound: The record was never stored.
        """
        record = self._catalog.get("gate", gate_id)
        if record is None:
            raise NotFound(f"gate {gate_id!r}: no such record. Keep it with put_gate before it is used.")
        return msgspec.json.decode(record.body, type=GateRecord)

    def of(self, version: Version) -> list[GateRecord]:
        """Return the records that judged a version, or the version that it refits, by id."""
        candidates = [version.id] + ([] if version.refit_of is None else [version.refit_of])
        keys = [record.key for one in candidates for record in self._catalog.find("gate_of", f"{one}/")]
        return [self.get(key.partition("/")[2]) for key in sorted(keys, key=lambda k: k.partition("/")[2])]

    def passed(self, version: Version) -> GateRecord | None:
        """Return the newest record by which a version passed a gate; None if there is none.

        A record of the version that it refits counts as well.
        """
        passed = [gate for gate in self.of(version) if gate.passed]
        return max(passed, key=lambda gate: gate.judged_at_us, default=None)


def check_evidence(
    version: Version, gate: GateRecord | None, *, first: bool, champion: str | None, alias: str = "champion"
) -> None:
    """Refuse a champion without a passed gate record of its own, or of the version that it refits.

    Args:
        version: The version to promote.
        gate: The stored record given as evidence.
        first: Promote it as the first champion, without a record.
        champion: The id of the present champion. For another protected alias: the id of the version to compare with.
        alias: The alias to move.

    Raises:
        Misuse: The evidence is missing or speaks against it.
        Conflict: The version was judged against another champion than the present one.
    """
    what = f"promote {version.name} ({version.id[:12]})" + ("" if alias == "champion" else f" to {alias!r}")
    if first and champion is None:
        return
    if first:
        raise Misuse(
            f"{what}: it is to be the first (--first, first=True), but {champion and champion[:12]} is {alias}. Judge "
            f"it against that{_how(version, alias)}, or give the passed record."
        )
    if gate is None:
        alone = _alone(version.metric)
        needed = ", ".join((*alone, *_COMPARED) if champion else alone)
        raise Misuse(f"{what}: no gate record, so nothing shows {needed}. {_instead(version, alias, champion)}")
    if gate.model != version.model or gate.candidate not in (version.id, version.refit_of):
        raise Misuse(
            f"{what}: gate record {gate.id} judged {gate.candidate[:12]} of {gate.model!r}; needed is one of "
            f"{version.id[:12]}" + (f" or of {version.refit_of[:12]}, which it refits." if version.refit_of else ".")
        )
    if lacking := _lacking(gate):
        raise Misuse(f"{what}: gate record {gate.id} did not pass: {' '.join(lacking)}")
    if gate.champion != champion:
        judged = gate.champion[:12] if gate.champion else "no version"
        raise Conflict(
            f"{what}: gate record {gate.id} compared it with {judged}; {alias} is now "
            f"{champion[:12] if champion else 'no version'}. Judge it again{_how(version, alias)}."
        )


def check_ungated(what: str, gate: GateRecord | None, why: str) -> None:
    """Refuse to put a version in service that passed no gate, unless a reason is given. # D196

    Args:
        what: What is to be done, for the message.
        gate: A record by which the version passed; None: there is no such record.
        why: The reason given by the user.

    Raises:
        Misuse: There is neither a record nor a reason of ten characters or more.
    """
    if gate is None and len(why.strip()) < SHORTEST_REASON:
        raise Misuse(
            f"{what}: it has no passed gate record, and why={why!r} is no reason. Judge it first (trimtab "
            f"promote MODEL@N), or give a reason to do without, of {SHORTEST_REASON} letters or more (--why)."
        )


def _instead(version: Version, alias: str, champion: str | None) -> str:
    """Return the advice for a version without a record."""
    if alias != "champion":
        return (
            f"Name one that passed its gate (trimtab card {version.name} shows whether it did), or ask for less: "
            f"trimtab protect {version.model} {alias} --needs reason --why TEXT"
        )
    hint = "" if champion else ", or bring in the first champion without one (trimtab import --first, first=True)"
    return f"Judge it first{_how(version, alias)}, or give the passed record{hint}."


def _how(version: Version, alias: str) -> str:
    """Return the command that judges a version and puts it in service."""
    return f" (trimtab promote {version.name})" if alias == "champion" else ""


def _lacking(gate: GateRecord) -> list[str]:
    """Return the failed and the missing checks of a candidate, one sentence each."""
    reasons = {one.name: one.reason for one in gate.findings}
    lacking = [f"Not {name}: {reasons.get(name, gate.reason)}" for name, held in gate.checks.items() if not held]
    if gate.findings:  # records of an earlier trimtab have no checks
        alone = _alone(gate.metric)
        compared = _REFRESHED if _REFRESHED[1] in gate.checks else _COMPARED
        needed = alone if gate.champion_metric is None else (*alone, *compared)
        lacking += [f"Not {name}: it is not in the record." for name in needed if name not in gate.checks]
    return lacking or ([] if gate.passed else [gate.reason])


def _alone(metric: str) -> tuple[str, ...]:
    return _ALONE if top_of(metric) is None else _OF_LISTS
