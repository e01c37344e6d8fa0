"""Gate records, and the evidence that a version needs to become champion."""

from __future__ import annotations

import msgspec

from trimtab.core.errors import Conflict, Misuse, NotFound
from trimtab.core.records import GateRecord
from trimtab.registry.protection import SHORTEST_REASON
from trimtab.registry.versions import Version
from trimtab.stats.metrics.loss_names import top_of
from trimtab.store.ports import Catalog, Put

_ALONE = ("loads", "finite", "calibrated")  # checks that every gate makes,
_OF_LISTS = ("loads", "finite", "lists")  # of a ranking these,
_COMPARED = ("better_by_margin", "provably_better")  # and those where a champion answered,
_REFRESHED = ("better_by_margin", "not_provably_worse")  # of a scheduled refit of its recipe these


class Gates:
    """Reads and keeps gate records."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def put(self, record: GateRecord) -> None:
        """Keep a record; the same one again changes nothing.

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
        """A record.

        Raises:
            NotFound: It was never kept.
        """
        record = self._catalog.get("gate", gate_id)
        if record is None:
            raise NotFound(f"gate {gate_id!r}: no such record. Keep it with put_gate before it is used.")
        return msgspec.json.decode(record.body, type=GateRecord)

    def of(self, version: Version) -> list[GateRecord]:
        """The records that judged a version, or the one that it refits, by id."""
        candidates = [version.id] + ([] if version.refit_of is None else [version.refit_of])
        keys = [record.key for one in candidates for record in self._catalog.find("gate_of", f"{one}/")]
        return [self.get(key.partition("/")[2]) for key in sorted(keys, key=lambda k: k.partition("/")[2])]

    def passed(self, version: Version) -> GateRecord | None:
        """The newest record by which a version, or the one that it refits, passed a gate; None: it passed none."""
        passed = [gate for gate in self.of(version) if gate.passed]
        return max(passed, key=lambda gate: gate.judged_at_us, default=None)


def check_evidence(
    version: Version, gate: GateRecord | None, *, first: bool, champion: str | None, alias: str = "champion"
) -> None:
    """Refuse a champion without a passed gate record of its own, or of the version that it refits.

    Args:
        version: Who is to become champion.
        gate: The stored record that is said to speak for it.
        first: It is said to be the first champion, and needs none.
        champion: The address of the present champion; of another protected alias where it points, or the champion.
        alias: Which alias it is to be.

    Raises:
        Misuse: The evidence is missing or speaks against it.
        Conflict: It was judged against another champion than the present one.
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
        judged = gate.champion[:12] if gate.champion else "nobody"
        raise Conflict(
            f"{what}: gate record {gate.id} compared it with {judged}; {alias} is now "
            f"{champion[:12] if champion else 'nobody'}. Judge it again{_how(version, alias)}."
        )


def check_ungated(what: str, gate: GateRecord | None, why: str) -> None:
    """Refuse to let a version answer requests that passed no gate, unless a reason is given. # D196

    Args:
        what: The act, for the message.
        gate: The passed record that speaks for the version; None: there is none.
        why: The reason that was given.

    Raises:
        Misuse: There is neither a record nor a reason of ten letters or more.
    """
    if gate is None and len(why.strip()) < SHORTEST_REASON:
        raise Misuse(
            f"{what}: no gate record that passed speaks for it, and why={why!r} is no reason. Judge it first (trimtab "
            f"promote MODEL@N), or say why it is to answer all the same, in {SHORTEST_REASON} letters or more (--why)."
        )


def _instead(version: Version, alias: str, champion: str | None) -> str:
    """What to do where no record speaks for a version."""
    if alias != "champion":
        return (
            f"Name one that passed its gate (trimtab card {version.name} shows whether it did), or ask for less: "
            f"trimtab protect {version.model} {alias} --needs reason --why TEXT"
        )
    hint = "" if champion else ", or bring in the first champion without one (trimtab import --first, first=True)"
    return f"Judge it first{_how(version, alias)}, or give the passed record{hint}."


def _how(version: Version, alias: str) -> str:
    """The command that judges a version and puts it in service."""
    return f" (trimtab promote {version.name})" if alias == "champion" else ""


def _lacking(gate: GateRecord) -> list[str]:
    """What speaks against a candidate, or was never looked at: a sentence a check."""
    said = {one.name: one.reason for one in gate.findings}
    lacking = [f"Not {name}: {said.get(name, gate.reason)}" for name, held in gate.checks.items() if not held]
    if gate.findings:  # a record of an earlier trimtab has none: then what it says is all there is
        alone = _alone(gate.metric)
        compared = _REFRESHED if _REFRESHED[1] in gate.checks else _COMPARED
        needed = alone if gate.champion_metric is None else (*alone, *compared)
        lacking += [f"Not {name}: the record says nothing of it." for name in needed if name not in gate.checks]
    return lacking or ([] if gate.passed else [gate.reason])


def _alone(metric: str) -> tuple[str, ...]:
    return _ALONE if top_of(metric) is None else _OF_LISTS
