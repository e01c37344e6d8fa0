"""Gate records (stored judgements of candidates), and the check that a new champion has passed a gate."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trimtab.core.errors import Conflict, Misuse, NotFound
from trimtab.core.records import GateCheck, GateRecord
from trimtab.core.time import format_time
from trimtab.registry.protection import SHORTEST_REASON
from trimtab.registry.versions import Version
from trimtab.stats.metrics.loss_names import top_of
from trimtab.store.ports import Catalog, Put

# the names of the checks that every candidate must pass, with or without a champion to compare with
_ALONE = ("loads", "finite", "calibrated")
_OF_LISTS = ("loads", "finite", "lists")  # the same for candidates that rank lists
# the further checks of a candidate that is compared with the present champion
_COMPARED = ("better_by_margin", "provably_better")
# the further checks of a scheduled refit (the same definition, fitted on more data)
_REFRESHED = ("not_provably_worse",)
_ROLLOUT = "rollout"  # the check of the record that a version gets if it is refused in its rollout


class Gates:
    """Stores and reads gate records. A gate record holds the outcome of each check of one candidate."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def put(self, record: GateRecord) -> None:
        """Store a gate record. Storing an equal record a second time changes nothing.

        Raises:
            Conflict: A different record with this id is already stored.
        """
        try:
            self._catalog.write(_puts(record))
        except Conflict:
            if self.get(record.id) != record:
                raise Conflict(
                    f"gate {record.id}: another record has this id. Give each gate record its own id."
                ) from None

    def get(self, gate_id: str) -> GateRecord:
        """Return the gate record with an id.

        Raises:
            NotFound: No record with this id is stored.
        """
        record = self._catalog.get("gate", gate_id)
        if record is None:
            raise NotFound(f"gate {gate_id!r}: no such record. Store it with put_gate before you use it.")
        return msgspec.json.decode(record.body, type=GateRecord)

    def of(self, version: Version) -> list[GateRecord]:
        """Return the gate records of a version, sorted by id. Records of the version that it refits are included."""
        candidates = [version.id] + ([] if version.refit_of is None else [version.refit_of])
        keys = [record.key for one in candidates for record in self._catalog.find("gate_of", f"{one}/")]
        return [self.get(key.partition("/")[2]) for key in sorted(keys, key=lambda k: k.partition("/")[2])]

    def passed(self, version: Version) -> GateRecord | None:
        """Return the newest gate record that a version has passed, as `in_force` defines it; None: there is none."""
        return max(in_force(version, self.of(version)), key=lambda gate: gate.judged_at_us, default=None)

    def check_ungated(self, what: str, version: Version, why: str) -> None:
        """Call `check_ungated` for a version with its newest passed record."""
        check_ungated(f"{what} {version.name}", self.passed(version), why)

    def check_newer(self, version: Version, gate: GateRecord | None) -> None:
        """Raise `Misuse` if a version was refused in its rollout after a gate record that it passed."""
        refused = _refused_rollout(self.of(version), version)
        if gate is not None and refused is not None and gate.judged_at_us <= refused.judged_at_us:
            raise Misuse(
                f"promote {version.name}: after gate record {gate.id}, the version was refused in its rollout on "
                f"{format_time(refused.judged_at_us)[:10]}: {refused.reason} Judge it again{_how(version, 'champion')}."
            )

    def refusal(self, version: Version, why: str, at_us: int) -> list[Put]:
        """Return the changes that store that a version was refused in its rollout; none if it has passed no gate."""
        gate = self.passed(version)
        if gate is None:
            return []
        check = GateCheck(name=_ROLLOUT, figure=None, bound=None, verdict="failed", reason=why)
        record = msgspec.structs.replace(
            gate, id=f"{gate.id}_{_ROLLOUT}_{version.id[:12]}", candidate=version.id, judged_at_us=at_us,
            difference=None, bound=None, passed=False, checks={_ROLLOUT: False}, reason=why, findings=(check,),
        )  # fmt: skip
        return _puts(record)


def in_force(version: Version, gates: Sequence[GateRecord]) -> list[GateRecord]:
    """Return the gate records that a version, or the version that it refits, has passed.

    If the version was refused in its rollout, these are only the records from after that.
    """
    refused = _refused_rollout(gates, version)
    since_us = -(2**63) if refused is None else refused.judged_at_us
    return [gate for gate in gates if gate.passed and gate.judged_at_us > since_us]


def _refused_rollout(gates: Sequence[GateRecord], version: Version) -> GateRecord | None:
    """Return the record of the newest refusal of a version in its rollout; None: there is none."""
    refused = [gate for gate in gates if gate.candidate == version.id and _ROLLOUT in gate.checks]
    return max(refused, key=lambda gate: gate.judged_at_us, default=None)


def _puts(record: GateRecord) -> list[Put]:
    return [
        Put("gate", record.id, msgspec.json.encode(record), expected=0),
        Put("gate_of", f"{record.candidate}/{record.id}", b"null", expected=0),
    ]


def check_evidence(
    version: Version, gate: GateRecord | None, *, first: bool, champion: str | None, alias: str = "champion"
) -> None:
    """Check that a version has a passed gate record, so that an alias may be moved to the version.

    A refit may use the gate record of the version that it refits.

    Args:
        gate: The gate record that the caller gives as evidence; None if the caller gives none.
        first: Whether this is to be the alias's first version, which needs no gate record.
        champion: The id of the version that the gate record must compare with. It is the version that the alias points
            to now; for other aliases than "champion", it may be the present champion instead. None: no version.
        alias: The alias to move.

    Raises:
        Misuse: There is no gate record, it judged another version, or it was not passed. Or `first` is given, but there
            is a champion already.
        Conflict: The gate record compares with a version other than `champion`.
    """
    what = f"promote {version.name} ({version.id[:12]})" + ("" if alias == "champion" else f" to {alias!r}")
    if first and champion is None:
        return
    if first:
        raise Misuse(
            f"{what}: it was given as the first version (--first, first=True), but {champion and champion[:12]} is "
            f"{alias} already. Judge it against that version{_how(version, alias)}, or give the record of a gate that "
            "it passed."
        )
    if gate is None:
        alone = _alone(version.metric)
        needed = ", ".join((*alone, *_COMPARED) if champion else alone)
        raise Misuse(
            f"{what}: no gate record, so these checks are missing: {needed}. {_instead(version, alias, champion)}"
        )
    if gate.model != version.model or gate.candidate not in (version.id, version.refit_of):
        raise Misuse(
            f"{what}: gate record {gate.id} judged {gate.candidate[:12]} of {gate.model!r}; needed a record of "
            f"{version.id[:12]}" + (f" or of {version.refit_of[:12]}, which it refits." if version.refit_of else ".")
        )
    if lacking := _lacking(gate):
        raise Misuse(f"{what}: gate record {gate.id} did not pass: {' '.join(lacking)}")
    if gate.champion != champion:
        judged = gate.champion[:12] if gate.champion else "no version"
        raise Conflict(
            f"{what}: gate record {gate.id} compared the version with {judged}, but {alias} is now "
            f"{champion[:12] if champion else 'no version'}. Judge it again{_how(version, alias)}."
        )


def check_ungated(what: str, gate: GateRecord | None, why: str) -> None:
    """Check that a version has passed a gate, or that the user gives a reason to put it in service without one.  # D196

    Args:
        what: The action to check, for the error message.
        gate: A gate record that the version passed; None if there is none.
        why: The user's reason; may be empty.

    Raises:
        Misuse: There is no gate record, and the reason has fewer than ten characters.
    """
    if gate is None and len(why.strip()) < SHORTEST_REASON:
        raise Misuse(
            f"{what}: the version has no passed gate record, and why={why!r} is too short to be a reason. Judge "
            "it first (trimtab promote MODEL@N), or say why it needs no gate, in "
            f"{SHORTEST_REASON} letters or more (--why)."
        )


def _instead(version: Version, alias: str, champion: str | None) -> str:
    """Return a sentence about what to do if a version has no gate record."""
    if alias != "champion":
        return (
            f"Give a version that passed its gate (trimtab versions card {version.name} shows whether this one did), "
            f"or require less of the alias: trimtab versions protect {version.model} {alias} --needs reason --why TEXT"
        )
    hint = (
        ""
        if champion
        else ", or import the first champion without a gate (trimtab versions import --first, first=True)"
    )
    return f"Judge it first{_how(version, alias)}, or give the record of a gate that it passed{hint}."


def _how(version: Version, alias: str) -> str:
    """Return the command that judges and promotes a version, in brackets; "" for aliases other than "champion"."""
    return f" (trimtab promote {version.name})" if alias == "champion" else ""


def _lacking(gate: GateRecord) -> list[str]:
    """Return one sentence for each check that a candidate failed, or that is missing from the gate record."""
    reasons = {one.name: one.reason for one in gate.findings}
    lacking = [f"{name} failed: {reasons.get(name, gate.reason)}" for name, held in gate.checks.items() if not held]
    alone = _alone(gate.metric)
    compared = _REFRESHED if _REFRESHED[0] in gate.checks else _COMPARED
    needed = alone if gate.champion_metric is None else (*alone, *compared)
    lacking += [f"{name} is missing from the record." for name in needed if name not in gate.checks]
    return lacking or ([] if gate.passed else [gate.reason])


def _alone(metric: str) -> tuple[str, ...]:
    return _ALONE if top_of(metric) is None else _OF_LISTS
