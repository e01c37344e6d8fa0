import pytest

from trimtab.core.errors import Misuse
from trimtab.core.records import GateCheck, GateRecord
from trimtab.registry.evidence import check_evidence
from trimtab.testing.builders import a_gate_record, a_version

VERSION = a_version(id="c" * 64, number=2, runtime="sklearn", rows=1, actor="Ada")


def found(name: str, held: bool, reason: str) -> GateCheck:
    return GateCheck(name=name, figure=None, bound=None, verdict="held" if held else "failed", reason=reason)


def record(*findings: GateCheck) -> GateRecord:
    checks = {one.name: one.verdict == "held" for one in findings}
    return a_gate_record(
        candidate=VERSION.id,
        champion="d" * 64,
        champion_metric=0.4,
        passed=all(checks.values()),
        checks=checks,
        reason="Refused.",
        findings=findings,
    )


SOUND = [
    found(name, True, "Fine.") for name in ("loads", "finite", "better_by_margin", "provably_better", "calibrated")
]


def said(gate: GateRecord | None) -> str:
    with pytest.raises(Misuse) as error:
        check_evidence(VERSION, gate, first=False, champion="d" * 64)
    return str(error.value)


def test_what_passed_is_let_through() -> None:
    check_evidence(VERSION, record(*SOUND), first=False, champion="d" * 64)


def test_without_a_record_the_missing_checks_are_named() -> None:
    assert "so these checks are missing: loads, finite, calibrated, better_by_margin, provably_better." in said(None)


def test_each_failed_check_is_named_with_its_reason() -> None:
    slow, worse = found("latency", False, "p99 9 ms."), found("every_slice", False, "Worse on carrier=UA.")
    message = said(record(*SOUND, slow, worse))
    assert "latency failed: p99 9 ms. every_slice failed: Worse on carrier=UA." in message


def test_a_record_that_leaves_a_check_out_is_no_evidence_for_it() -> None:
    assert "provably_better is missing from the record." in said(record(*(SOUND[:3] + SOUND[4:])))
