"""Labels of several classes: declared once, the same in every version, and no other version's bits moved for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge

import trimtab as tt
from trimtab.core.columns.data import Columns, column
from trimtab.core.errors import Misuse
from trimtab.core.expressions.nodes import col
from trimtab.core.hashing import bytes_hash
from trimtab.core.time import DAY_US
from trimtab.events.definitions import Time, source
from trimtab.features.definitions import label
from trimtab.features.encoding import Encoding
from trimtab.training import evaluate, fit, fit_online, model, time_split
from trimtab.training.data.leakage import find_leaks
from trimtab.training.fitting.artifact import (
    Artifact,
    Golden,
    decode_artifact,
    encode_artifact,
    golden_difference,
    scorer_for,
)
from trimtab.training.fitting.classes import Classes, aligned

CLASSES = ["on_time", "late", "cancelled"]
LANDINGS = source(
    "landings",
    time="landed_at",
    key="flight_id",
    columns={"flight_id": str, "carrier": str, "landed_at": Time, "delay": float, "status": str, "code": int},
)


def several(
    make: Callable[..., Any],
    *,
    estimator: Callable[[], Any] = LogisticRegression,
    metric: str = "multi_log_loss",
    classes: Any = CLASSES,
    value: str = "status",
    instead: dict[str, str] | None = None,
    **more: Any,
) -> Any:
    """The world of the other tests with a status of three kinds; `instead` writes some of them otherwise."""
    world = make(value=col("delay"), metric="squared_error")
    frame = world.frames["landings"]
    cancelled = np.random.default_rng(3).random(frame.rows) < 0.1
    delays = frame.columns["delay"].values
    status = np.where(cancelled, "cancelled", np.where(delays > 30, "late", "on_time")).tolist()
    status = [(instead or {}).get(one, one) for one in status]
    codes = [CLASSES.index(one) if one in CLASSES else 9 for one in status]
    columns = Columns({**frame.columns.by_name, "status": column("str", status), "code": column("int", codes)})
    made = model(
        "late_flight",
        request=world.model.request,
        features=more.pop("features", [{"name": col("carrier").category(), "km": col("distance")}]),
        label=label(LANDINGS, key="flight_id", value=value, wait="1d", classes=classes),
        estimator=estimator,
        metric=metric,
        **more,
    )
    return msgspec.structs.replace(
        world, model=made, frames={"landings": msgspec.structs.replace(frame, columns=columns)}
    )


def test_a_fitted_model_gives_a_probability_of_each_declared_class_in_their_order(make: Any):
    world = several(make)
    training_set = world.training_set()
    fitted = fit(world.model, training_set)
    values = training_set.features.values
    found = fitted.predict(values)
    assert found.shape == (training_set.rows, 3)
    there = np.isfinite(training_set.target)
    shares = np.bincount(training_set.target[there].astype(int), minlength=3) / there.sum()
    np.testing.assert_allclose(found[there].mean(axis=0), shares, atol=0.02)
    again = decode_artifact(fitted.data)
    assert again == fitted.artifact
    assert (again.format, again.class_names) == (2, tuple(CLASSES))
    assert golden_difference(again, scorer_for(again)) <= max(1e-12, again.row_tolerance)
    other = fit(several(make, classes=CLASSES[::-1]).model, several(make, classes=CLASSES[::-1]).training_set())
    np.testing.assert_allclose(other.predict(values)[:, ::-1], found, atol=1e-3)
    assert other.recipe != fitted.recipe


def test_whole_numbers_are_classes_too_and_teach_the_same(make: Any):
    one, other = several(make), several(make, value="code", classes=[0, 1, 2])
    assert (
        fit(one.model, one.training_set()).artifact.estimator
        == fit(other.model, other.training_set()).artifact.estimator
    )
    assert other.model.label.class_names == ("0", "1", "2")


def test_a_class_without_rows_gets_a_small_probability_and_one_row_the_bits_of_a_batch(make: Any):
    world = several(make, instead={"cancelled": "late"})
    training_set = world.training_set()
    fitted = fit(world.model, training_set)
    found = fitted.predict(training_set.features.values)
    assert np.unique(found[:, 2]).tolist() == [1 / (fitted.rows + 3)]
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-12)
    rows = fitted.matrix(training_set.features.values)
    np.testing.assert_allclose([fitted.scorer.predict_row(row) for row in rows[:50].tolist()], found[:50], atol=1e-12)
    with pytest.raises(Misuse, match=r"all \d+ labels are 'on_time'"):
        fit(world.model, several(make, instead={"cancelled": "on_time", "late": "on_time"}).training_set())


def test_a_label_that_is_no_class_is_counted_and_neither_learnt_from_nor_judged(make: Any):
    world = several(make, instead={"cancelled": "diverted"})
    training_set = world.training_set()
    strange = training_set.manifest.by_state["unlisted"]
    assert strange > 50
    assert training_set.manifest.usable + strange < training_set.rows
    split = time_split(training_set, holdout_us=10 * DAY_US)
    fitted = fit(world.model, training_set, rows=split.train)
    window = training_set.at_us >= training_set.at_us[split.holdout].min()
    found = evaluate(world.model, fitted, training_set, rows=window, train=split.train)
    assert found.left_out["unlisted"] == int((training_set.labels.state[window & ~training_set.usable] == 4).sum())


def test_an_evaluation_has_figures_of_each_class_and_baselines(make: Any):
    world = several(make, slices=["carrier"], weights="balanced")
    training_set = world.training_set()
    split = time_split(training_set, holdout_us=10 * DAY_US)
    fitted = fit(world.model, training_set, rows=split.train)
    champion = fitted.predict(training_set.features.values)[training_set.usable & split.holdout]
    found = evaluate(world.model, fitted, training_set, rows=split.holdout, train=split.train, champion_scores=champion)
    assert found.baselines["champion"] == found.value == found.figures[0].value
    assert [name for name, value in found.baselines.items() if value is None] == ["last_year"]
    assert all(one.interval is not None for one in found.judged_baselines.values())
    assert [one.name for one in found.classes] == [one.name for one in found.balance] == CLASSES
    assert [round(one.weight, 6) for one in found.balance] == [round(1 / 3, 6)] * 3
    assert np.array(found.confusion).sum() == found.rows
    assert found.calibration_error is not None
    assert all(one.auc is not None for one in (*found.months, *found.weeks, *found.slices))


def test_a_feature_that_predicts_one_class_is_a_leak(make: Any):
    world = several(make, features=[{"name": col("carrier").category(), "km": col("distance")}])
    training_set = world.training_set()
    told = np.where(training_set.target == 2, 1.0, 0.0) + np.random.default_rng(0).normal(size=training_set.rows) / 50
    values = training_set.features.values.replace({"km": column("float", told.tolist())})
    planted = msgspec.structs.replace(
        training_set, features=msgspec.structs.replace(training_set.features, values=values)
    )
    (leak,) = find_leaks(world.model, planted, np.flatnonzero(planted.usable))
    assert (leak.check, leak.name, leak.severity) == ("foretells", "km", "error")
    assert "predicts the label being 'cancelled' with AUC" in leak.found
    with pytest.raises(Misuse, match="has information that is not known"):
        fit(world.model, planted)
    assert find_leaks(world.model, training_set, np.flatnonzero(training_set.usable)) == ()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("value", "classes", "message"),
    [
        ("status", None, r'list the values that it can have: classes=\["'),
        ("status", ["a", "b"], "For two classes, leave classes out"),
        ("status", ["a", "b", "a"], "'a' is listed twice"),
        ("status", [1, 2, 3], "different texts"),
        ("code", ["1", "2", "3"], "different whole numbers"),
        ("code", [0, True, 2], "different whole numbers"),
        ("status", ["a", "", "c"], "different texts"),
        ("status", "abc", "a list of 3 to 100"),
        ("status", [], "a list of 3 to 100"),
        ("status", [str(n) for n in range(101)], "found 101"),
        ("delay", ["a", "b", "c"], "needs a value that is a text or a whole number; found float"),
    ],
)
def test_classes_that_make_no_sense_are_refused(value: str, classes: Any, message: str):
    with pytest.raises(Misuse, match=message):
        label(LANDINGS, key="flight_id", value=value, wait="1d", classes=classes)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "log_loss"}, "the label has 3 classes. Needed: one of multi_log_loss"),
        ({"metric": "accuracy"}, "must be one of multi_log_loss"),
        ({"classes": None, "value": "code"}, "the label declares none"),
        ({"calibration": "isotonic"}, "for several classes only platt"),
        ({"costs": {"false_positive": 1, "false_negative": 2}}, "for each true class of on_time, late, cancelled"),
        ({"sample": tt.sample(negatives=0.1)}, "of several classes"),
    ],
)
def test_what_there_is_for_two_classes_only_is_refused_by_name(make: Any, changes: dict[str, Any], message: str):
    with pytest.raises(Misuse, match=message):
        several(make, **changes)


def test_what_cannot_answer_of_several_classes_is_refused(make: Any):
    world = several(make, estimator=Ridge)
    with pytest.raises(Misuse, match="needed a probability of each of the 3 fitted classes"):
        fit(world.model, world.training_set())
    with pytest.raises(Misuse, match='Use learn="batch"'):
        fit_online(world.model, world.training_set())
    with pytest.raises(Misuse, match='Use learn="batch"'):
        tt.deployment(world.model, learn="online")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=3), min_size=1, max_size=5), st.data())
def test_probabilities_of_some_classes_become_those_of_all_with_the_same_bits_in_a_batch(rows: Any, data: Any):
    width = data.draw(st.integers(3, 6))
    fitted = tuple(sorted(data.draw(st.sets(st.integers(0, width - 1), min_size=3, max_size=3))))
    classes = Classes(names=tuple("abcdef"[:width]), fitted=fitted, rows=data.draw(st.integers(3, 10**6)))
    scores = np.array(rows, float) / np.sum(rows, axis=1, keepdims=True)
    found = classes.probabilities(scores)
    assert [classes.probabilities_row(row) for row in scores.tolist()] == found.tolist()
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-12)
    two = Classes(names=("a", "b", "c"), fitted=(0, 2), rows=9)
    assert [two.probabilities_row(one) for one in scores[:, 0].tolist()] == two.probabilities(scores[:, 0]).tolist()
    with pytest.raises(Misuse, match="the 2 fitted classes"):
        two.probabilities(scores)


@pytest.mark.fast
def test_a_version_of_other_classes_is_compared_by_their_names():
    scores = np.array([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]])
    assert aligned(scores, "abc", "abc", "gate") is scores
    assert aligned(scores, "abc", "cab", "gate").tolist() == [[0.25, 0.5, 0.25], [1.0, 0.0, 0.0]]
    assert aligned(scores, "abc", ["b", "a", "new"], "gate").tolist() == [[1 / 3, 2 / 3, 0.0], [1 / 3] * 3]
    with pytest.raises(Misuse, match="they cannot be compared"):
        aligned(scores, "abc", "xyz", "gate")
    with pytest.raises(Misuse, match="predicts no classes"):
        aligned(scores[:, 0], (), "abc", "gate")


# --- what was there before


@pytest.mark.fast
def test_versions_of_one_number_a_row_keep_their_addresses_and_their_bytes():
    """The figures were taken before there were several classes."""
    landings = tt.source("landings", key="flight_id", time="landed_at", columns={"flight_id": str, "late": bool})
    truth = tt.label(landings, key="flight_id", value=tt.col("late"), wait="48h")
    assert truth.hash == "8dbf33b16a74ce58ccc41d86af677ecae6fe8d6a929c75ed5a53485b6646c2db"
    artifact = Artifact(
        model="late",
        task="binary",
        metric="log_loss",
        runtime="sklearn",
        trust=None,
        kind="X",
        inputs=("far",),
        encoding=Encoding(dtypes={"far": "bool"}, vocabularies={}),
        step=None,
        estimator=b"e",
        row_exact=True,
        row_tolerance=0.0,
        golden=Golden(b"", b""),
    )
    assert bytes_hash(encode_artifact(artifact)) == "05bff32edd18910f1a95b1e248ff016783d5b75cd7d34aaaecf2f17e3b2fe823"
