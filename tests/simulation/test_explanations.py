"""Which shift or fault explains an alarm: one that can be its cause, and that began nearest to its onset."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import trimtab as tt
from trimtab.core.records import Decision
from trimtab.core.time import DAY_US
from trimtab.simulation import Fault, Shift, fault
from trimtab.simulation.explanations import Origins
from trimtab.simulation.results import ReplayResult, ScenarioResult
from trimtab.simulation.scorecard import Alarm, scorecards
from trimtab.testing.builders import a_signal

pytestmark = pytest.mark.fast


def an_origin() -> Origins:
    visit = tt.request(
        "visit",
        key="visit_id",
        time="at",
        columns={"visit_id": str, "at": tt.Time, "site": str, "x": float, "y": float},
    )
    readings = tt.source("readings", time="at", columns={"site": str, "at": tt.Time, "heat": float})
    sales = tt.source("sales", time="at", key="visit_id", columns={"visit_id": str, "at": tt.Time, "bought": bool})
    place = tt.view("place", source=readings, by="site", features={"heat": tt.latest("heat")})
    model = tt.model(
        "buyer", request=visit, features=[place, {"twice": tt.col("x") * 2, "x": tt.col("x")}], estimator=object,
        label=tt.label(sales, key="visit_id", value="bought", wait="48h"), metric="log_loss",
    )  # fmt: skip
    return Origins.of(model)


def decision(act: str, day: float, version: str) -> Decision:
    return Decision(
        sequence=1, at_us=round(day * DAY_US), model="m", act=act, actor="policy", cause="", evidence={},
        version=version, replaced=None, data_hash=None, previous_hash="", hash="",
    )  # fmt: skip


def alarm(
    changes: list[Fault | Shift],
    raised: float,
    onset: float,
    kind: str = "quality_worse",
    subject: str = "",
    decisions: list[Decision] | None = None,
) -> Alarm:
    signal = a_signal(round(raised * DAY_US), onset_us=round(onset * DAY_US), kind=kind, subject=subject)
    quality = kind.startswith("quality") or kind == "no_labels"
    given: dict[str, Any] = {"signals": [signal]} if quality else {"signals": [], "input_signals": [signal]}
    line = ScenarioResult(
        name="a", at_us=np.array([0]), scores=np.array([0.5]), labels=np.array([1.0]), decisions=decisions or [],
        origins=an_origin(), **given,
    )  # fmt: skip
    result = ReplayResult(
        start_us=0, until_us=100 * DAY_US, lines={"a": line}, entered=0, quarantined=0, checked_rows=0,
        checked_values=0, mismatches=0, first_mismatch="", optimum=line,
        faults=[one for one in changes if isinstance(one, Fault)],
        shifts=[one for one in changes if isinstance(one, Shift)],
    )  # fmt: skip
    card = scorecards(result)[0]
    return (card.alarms or card.input_alarms)[0]


def put(kind: Any, start: float, end: float, **more: Any) -> Fault:
    return fault(kind, round(start * DAY_US), round(end * DAY_US), **more)


def concept(day: float) -> Shift:
    return Shift(kind="concept", day=day, over_us=0, size=1.0, column="x")


def test_the_change_nearest_to_the_onset_explains_a_quality_alarm_and_not_the_newest() -> None:
    null = put("null_column", 43, 50, column="x")
    found = alarm([concept(41), null], raised=45, onset=41)
    assert (found.explained_by, found.delay_us, found.onset_off_us) == ("concept shift", 4 * DAY_US, 0)
    assert alarm([concept(41), null], raised=46, onset=43.5).explained_by == "null_column x"


def test_a_rise_of_the_estimated_loss_is_explained_by_a_change_of_anything_that_the_model_reads() -> None:
    for one, explained in (
        (Shift(kind="covariate", day=40, over_us=0, size=1.0, column="x"), "covariate shift"),
        (put("unit_change", 40, 50, source="readings", column="heat", size=9), "unit_change readings.heat"),
        (put("unit_change", 40, 50, source="visit", column="y", size=9), None),
    ):
        assert alarm([one], raised=43, onset=40, kind="estimated_loss").explained_by == explained


def test_restarts_freezes_and_slow_models_explain_no_alarm() -> None:
    faults: list[Any] = [put("restart", 40, 41), put("freeze", 40, 48), put("slow_model", 40, 48)]
    for kind, subject in (("quality_worse", ""), ("units", "column x"), ("no_labels", "")):
        assert alarm(faults, raised=42, onset=41, kind=kind, subject=subject).explained_by is None
    unit = put("unit_change", 39, 50, column="x", size=9)
    assert alarm([*faults, unit], raised=41.5, onset=40, kind="units", subject="column x").explained_by == unit.said


def test_a_sabotage_explains_alarms_from_the_promotion_of_a_version_that_was_fitted_meanwhile() -> None:
    sabotage = put("sabotaged_refit", 30, 60)
    first = [decision("train", 29, "v1"), decision("promote", 31, "v1")]
    assert alarm([sabotage], raised=45, onset=44, decisions=first).explained_by is None
    assert alarm([sabotage, concept(40)], raised=45, onset=40, decisions=first).explained_by == "concept shift"
    spoilt = [*first, decision("train", 43, "candidate"), decision("promote", 44, "v2")]
    found = alarm([sabotage, concept(36)], raised=47, onset=44, decisions=spoilt)
    assert (found.explained_by, found.delay_us) == ("sabotaged_refit", 3 * DAY_US)
    assert alarm([sabotage], raised=47, onset=44, kind="nulls", subject="column x", decisions=spoilt).delay_us is None


@pytest.mark.parametrize(
    ("one", "kind", "subject"),
    [
        (put("null_column", 40, 45, column="x"), "nulls", "column twice"),
        (put("null_column", 40, 45, source="readings", column="heat"), "nulls", "column place.heat"),
        (put("unit_change", 40, 45, source="readings", column="heat"), "range", "column readings.heat"),
        (put("null_column", 40, 45, column="site"), "nulls", "source readings"),
        (put("late_feed", 40, 45, source="readings"), "nulls", "column place.heat"),
        (put("outage", 40, 45, source="visit"), "traffic_stopped", "traffic"),
        (put("label_stop", 40, 45), "labels_missing", "labels of sales"),
        (put("label_stop", 40, 45), "no_labels", ""),
        (put("label_flip", 40, 45), "quality_worse", ""),
        (put("outage", 40, 45, source="readings"), "quality_worse", ""),
        (Shift(kind="covariate", day=40, over_us=0, size=2.0, column="x"), "range", "column x"),
        (concept(40), "label_shift", "labels of sales"),
    ],
)
def test_a_change_explains_alarms_about_what_it_changes(one: Any, kind: str, subject: str) -> None:
    assert alarm([one], raised=41, onset=40, kind=kind, subject=subject).explained_by is not None


@pytest.mark.parametrize(
    ("one", "kind", "subject"),
    [
        (put("null_column", 40, 45, column="x"), "nulls", "column place.heat"),
        (put("null_column", 40, 45, column="x"), "feed_stopped", "source readings"),
        (put("null_column", 40, 45, column="y"), "quality_worse", ""),  # no feature reads it
        (put("unit_change", 40, 45, column="x"), "nulls", "column x"),
        (put("outage", 40, 45, source="readings"), "nulls", "column x"),
        (put("outage", 40, 45, source="readings"), "no_labels", ""),
        (put("label_flip", 40, 45), "no_labels", ""),
        (concept(40), "nulls", "column x"),
        (concept(40), "no_labels", ""),
    ],
)
def test_a_change_does_not_explain_alarms_about_something_else(one: Any, kind: str, subject: str) -> None:
    assert alarm([one], raised=41, onset=40, kind=kind, subject=subject).explained_by is None


def test_the_end_of_a_fault_is_a_change_for_what_was_promoted_while_it_lasted() -> None:
    null = put("null_column", 20, 40, column="x")
    assert alarm([null], raised=43, onset=40).explained_by == "null_column x"
    found = alarm([null], raised=43, onset=40, decisions=[decision("promote", 30, "v2")])
    assert (found.explained_by, found.onset_off_us) == ("end of null_column x", 0)
