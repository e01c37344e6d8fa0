"""The evidence of decisions, in the form in which rows of the ledger show it."""

from __future__ import annotations

from trimtab.core.records import GateRecord
from trimtab.steering.ledger import Evidence
from trimtab.steering.loop_state import Repair


def overtaken(repair: Repair, champion: str | None) -> str | None:
    """The reason why the comparison of a repair is no longer valid (another champion), or None while it is valid."""
    before = repair.gate.champion
    if champion == before:
        return None
    names = ["no version" if one is None else one[:12] for one in (before, champion)]
    return f"It was compared with {names[0]}; champion is now {names[1]}."


def evidence_of_left_out(repair: Repair) -> Evidence:
    """The numbers of rows that were left out of learning because their inputs or labels were faulty."""
    found = repair.left_out
    return {"left_out": sum(found.values()), "left_out_why": "; ".join(found)} if found else {}


def evidence_of(gate: GateRecord) -> Evidence:
    """The values of a judgement, and the checks that held."""
    return {
        "gate": gate.id,
        "rows": gate.rows,
        "candidate": gate.candidate_metric,
        "champion": gate.champion_metric,
        "difference": gate.difference,
        "bound": gate.bound,
        **gate.checks,
    }
