"""The evidence of decisions, as rows of the ledger tell it."""

from __future__ import annotations

from trimtab.core.records import GateRecord
from trimtab.steering.ledger import Evidence
from trimtab.steering.loop_state import Repair


def short_name(version: str | None) -> str:
    """The beginning of an address, for messages."""
    return "nobody" if version is None else version[:12]


def evidence_of_left_out(repair: Repair) -> Evidence:
    """What was not learnt from because its inputs or labels were faulty."""
    found = repair.left_out
    return {"left_out": sum(found.values()), "left_out_why": "; ".join(found)} if found else {}


def evidence_of(gate: GateRecord) -> Evidence:
    """The values of a judgement, and which of its checks held."""
    return {
        "gate": gate.id,
        "rows": gate.rows,
        "candidate": gate.candidate_metric,
        "champion": gate.champion_metric,
        "difference": gate.difference,
        "bound": gate.bound,
        **gate.checks,
    }
