"""What must be shown before a version becomes champion."""

from __future__ import annotations

from trimtab.core.errors import Conflict, Misuse
from trimtab.core.records import GateRecord
from trimtab.registry.versions import Version


def check_evidence(version: Version, gate: GateRecord | None, *, first: bool, champion: str | None) -> None:
    """Refuse a champion without a passed gate record of its own, or of the version that it refits.

    Args:
        version: Who is to become champion.
        gate: The stored record that is said to speak for it.
        first: It is said to be the first champion, and needs none.
        champion: The address of the present champion.

    Raises:
        Misuse: The evidence is missing or speaks against it.
        Conflict: It was judged against another champion than the present one.
    """
    what = f"promote {version.name} ({version.id[:12]})"
    if first and champion is None:
        return
    if first:
        raise Misuse(f"{what}: first=True, but {champion and champion[:12]} is champion. Give a passed gate record.")
    if gate is None:
        hint = " or pass first=True" if champion is None else ""
        raise Misuse(f"{what}: no gate record. Judge it first and give the passed record{hint}.")
    if gate.model != version.model or gate.candidate not in (version.id, version.refit_of):
        raise Misuse(
            f"{what}: gate record {gate.id} judged {gate.candidate[:12]} of {gate.model!r}; needed is one of "
            f"{version.id[:12]}" + (f" or of {version.refit_of[:12]}, which it refits." if version.refit_of else ".")
        )
    if not gate.passed:
        raise Misuse(f"{what}: gate record {gate.id} did not pass: {gate.reason}")
    if gate.champion != champion:
        judged = gate.champion[:12] if gate.champion else "nobody"
        raise Conflict(
            f"{what}: gate record {gate.id} compared it with {judged}; champion is now "
            f"{champion[:12] if champion else 'nobody'}. Judge it again."
        )
