"""Make records with ordinary values, for tests that care about only one or two fields."""

from __future__ import annotations

from typing import Any

import msgspec

from trimtab.core.clock import SystemClock
from trimtab.core.records import GateCheck, GateRecord, Prediction, Signal
from trimtab.registry.versions import Version
from trimtab.serving.log.prediction_ids import PredictionIds
from trimtab.training.environment import Environment

_new_id = PredictionIds(SystemClock())


def a_prediction(**changes: Any) -> Prediction:
    """Make a prediction of version "v" of model "m". Each prediction has an id of its own.

    >>> a_prediction(model="late", score=0.25).score
    0.25
    """
    made = Prediction(
        id=_new_id(),
        request_id="r",
        model="m",
        version="v",
        arm="champion",
        mode="live",
        made_at_us=0,
        at_us=0,
        positions={},
        score=0.5,
        request=b"",
        values=b"",
        reasons=b"",
    )
    return msgspec.structs.replace(made, **changes)


def a_signal(raised_at_us: int = 0, **changes: Any) -> Signal:
    """Make a red signal, which says that half of the values in column x of model "m" are null.

    >>> a_signal(5, severity="info").onset_us
    5
    """
    kind, subject = changes.get("kind", "null_values"), changes.get("subject", "column x")
    made = Signal(
        id=f"{kind}/{changes.get('model', 'm')}/{subject}/{changes.get('version', 'v')}/{raised_at_us}",
        kind=kind,
        model="m",
        version="v",
        raised_at_us=raised_at_us,
        onset_us=raised_at_us,
        severity="red",
        evidence={"share": 0.5},
        message="Half of x is null.",
        subject=subject,
    )
    return msgspec.structs.replace(made, **changes)


def a_gate_record(**changes: Any) -> GateRecord:
    """Make the record of a first version of model "m" that passed its gate.

    Without `checks`, it has those that a promotion needs. If `passed` is False, the last of these failed.

    >>> a_gate_record().lines()[-1], a_gate_record(passed=False, reason="Off by 0.1.").checks["calibrated"]
    ('calibrated  held          It passed.', False)
    """
    made = GateRecord(
        id="gate",
        model="m",
        candidate="b" * 64,
        champion=None,
        judged_at_us=0,
        window_start_us=0,
        window_end_us=1,
        rows=1,
        metric="log_loss",
        candidate_metric=0.4,
        champion_metric=None,
        difference=None,
        bound=None,
        margin=0.0,
        passed=True,
        checks={},
        reason="It passed.",
    )
    made = msgspec.structs.replace(made, **changes)
    if "checks" in changes:
        return made
    compared = () if made.champion is None else ("better_by_margin", "provably_better")
    names = ("loads", "finite", "calibrated", *compared)
    failed = None if made.passed else names[-1]
    findings = tuple(
        GateCheck(
            name=name, figure=None, bound=None, verdict="failed" if name == failed else "held", reason=made.reason
        )
        for name in names
    )
    return msgspec.structs.replace(made, checks={name: name != failed for name in names}, findings=findings)


def a_version(**changes: Any) -> Version:
    """Make version 1 of model "m", trained on 1,000 rows.

    >>> a_version(number=7).name
    'm@7'
    """
    made = Version(
        id="b" * 64,
        model="m",
        number=1,
        artifact="a" * 64,
        recipe="c" * 64,
        features="d" * 64,
        runtime="sklearn",
        trust=None,
        training_set="e" * 64,
        refit_of=None,
        metric="log_loss",
        cut_us=0,
        positions={},
        rows=1_000,
        evaluation=None,
        made_at_us=0,
        actor="a person",
        environment=Environment(python="3.11", packages={}, cpu="x86", commit=None),
    )
    return msgspec.structs.replace(made, **changes)
