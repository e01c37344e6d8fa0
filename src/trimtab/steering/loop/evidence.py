"""The evidence of decisions, in the form in which the ledger (the record of decisions) stores it."""

from __future__ import annotations

import math

from trimtab.core.records import GateRecord
from trimtab.steering.ledger import Evidence
from trimtab.steering.loop_state import Repair


def overtaken(repair: Repair, champion: str | None) -> str | None:
    """Return why the comparison of a repair no longer counts: another version is champion. None: it still counts."""
    before = repair.gate.champion
    if champion == before:
        return None
    names = ["no version" if one is None else one[:12] for one in (before, champion)]
    return f"The candidate was compared with {names[0]}, but the champion is now {names[1]}."


def evidence_of_left_out(repair: Repair) -> Evidence:
    """Return for the ledger how many rows were left out because of faulty inputs or labels."""
    found = repair.left_out
    return {"left_out": sum(found.values()), "left_out_why": "; ".join(found)} if found else {}


def most_gain(gate: GateRecord) -> float:
    """Return how much lower the candidate's mean loss may at best be, as a share of the champion's.

    The gate only has the worse bound of the difference, so the better bound is assumed to be equally far from the
    difference. Infinite if nothing was compared.
    """
    if gate.difference is None or gate.bound is None or not gate.champion_metric:
        return math.inf
    return (gate.bound - 2.0 * gate.difference) / abs(gate.champion_metric)


def evidence_of(gate: GateRecord) -> Evidence:
    """Return for the ledger the numbers of a judgement, and which checks held."""
    return {
        "gate": gate.id,
        "rows": gate.rows,
        "candidate": gate.candidate_metric,
        "champion": gate.champion_metric,
        "difference": gate.difference,
        "bound": gate.bound,
        **gate.checks,
    }
