from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from lightgbm import LGBMClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier

import trimtab as tt
from trimtab.core.errors import Misuse
from trimtab.core.expressions.nodes import col
from trimtab.features.definitions import label
from trimtab.stats.recalibration import ClassOdds, LogOdds
from trimtab.training import OnlineLearner, TrainingSet, build_training_set, evaluate, fit, fit_online, time_split
from trimtab.training.fitting.artifact import decode_artifact, encode_artifact, golden_difference, scorer_for


def overfitted() -> Any:
    return LGBMClassifier(n_estimators=80, min_child_samples=3)


def calibrated(world: Any, kind: str, estimator: Callable[[], Any] = overfitted) -> Any:
    return msgspec.structs.replace(world.model, calibration=kind, estimator=estimator)


@pytest.mark.parametrize("kind", ["platt", "beta", "isotonic"])
def test_a_calibrated_model_promises_what_comes(world: Any, training_set: TrainingSet, kind: str) -> None:
    model, split = calibrated(world, kind), time_split(training_set)
    fitted = fit(model, training_set, rows=split.train)
    found = evaluate(model, fitted, training_set, rows=split.holdout, train=split.train)
    assert found.recalibration == kind
    assert found.raw_calibration_error is not None
    assert found.calibration_error is not None
    assert found.calibration_error < found.raw_calibration_error
    assert sum(one.rows for one in found.raw_calibration) == found.rows


def test_it_is_part_of_the_artifact_and_of_the_recipe_and_repeats_its_golden_predictions(
    world: Any, training_set: TrainingSet
) -> None:
    model = calibrated(world, "beta")
    first, again = fit(model, training_set), fit(model, world.training_set())
    assert first.data == again.data
    assert model.hash != calibrated(world, "platt").hash
    artifact = decode_artifact(first.data)
    assert artifact == first.artifact
    assert golden_difference(artifact, scorer_for(artifact)) == 0.0
    scorer, matrix = scorer_for(artifact), first.matrix(training_set.features.values)
    assert [scorer.predict_row(row) for row in matrix[:300].tolist()] == scorer.predict(matrix)[:300].tolist()


def test_the_map_comes_from_rows_that_the_trees_had_not_seen(world: Any, training_set: TrainingSet) -> None:
    """Trees that know their rows by heart score them 0 and 1; a map from those would believe them."""
    fitted = fit(calibrated(world, "platt"), training_set)
    found = fitted.artifact.recalibration
    assert isinstance(found, LogOdds)
    assert 0.0 < found.rise < 0.6


def test_a_past_change_of_level_is_not_predicted_to_repeat(world: Any, training_set: TrainingSet) -> None:
    """Late flights become twice as frequent after the first half; scores of the whole are right about the newest."""
    generator = np.random.default_rng(3)
    split = time_split(training_set)
    early = training_set.at_us < np.quantile(training_set.at_us, 0.4)
    rarer = np.where(early & (generator.random(training_set.rows) < 0.6), 0.0, training_set.target)
    moved = msgspec.structs.replace(
        training_set,
        labels=msgspec.structs.replace(
            training_set.labels, values=np.where(np.isnan(training_set.target), np.nan, rarer)
        ),
    )
    trees = lambda: LGBMClassifier(n_estimators=15, min_child_samples=30)  # noqa: E731
    rows = training_set.usable & split.train
    plain, corrected = (
        fit(msgspec.structs.replace(world.model, calibration=kind, estimator=trees), moved, rows=split.train)
        for kind in (None, "platt")
    )
    values = training_set.features.values.take(rows)
    assert corrected.predict(values).mean() == pytest.approx(plain.predict(values).mean(), abs=0.03)


def test_the_level_of_balanced_classes_is_brought_back(world: Any, training_set: TrainingSet) -> None:
    split = time_split(training_set)
    trees = lambda: LGBMClassifier(n_estimators=30, min_child_samples=30, class_weight={0: 1, 1: 8})  # noqa: E731
    rows = training_set.usable & split.holdout
    values, share = training_set.features.values.take(rows), training_set.target[rows].mean()
    off = {}
    for kind in (None, "platt", "beta", "isotonic"):
        model = msgspec.structs.replace(world.model, calibration=kind, estimator=trees)
        off[kind] = abs(fit(model, training_set, rows=split.train).predict(values).mean() - share)
    assert off[None] > 0.15
    assert max(off["platt"], off["beta"], off["isotonic"]) < 0.06


def test_labels_after_the_rows_to_fit_on_change_nothing(world: Any, training_set: TrainingSet) -> None:
    split = time_split(training_set)
    turned = np.where(split.train, training_set.target, 1.0 - training_set.target)
    other = msgspec.structs.replace(training_set, labels=msgspec.structs.replace(training_set.labels, values=turned))
    model = calibrated(world, "isotonic")
    assert fit(model, training_set, rows=split.train).data == fit(model, other, rows=split.train).data


def test_an_artifact_of_before_there_was_calibration_is_read(world: Any, training_set: TrainingSet) -> None:
    fields = msgspec.msgpack.decode(encode_artifact(fit(world.model, training_set).artifact))
    del fields["recalibration"]
    assert decode_artifact(msgspec.msgpack.encode(fields)).recalibration is None


def test_a_recipe_without_calibration_keeps_its_hash(world: Any) -> None:
    from trimtab.core.expressions.code import code_hash
    from trimtab.core.hashing import content_hash

    model = world.model
    assert model.hash == content_hash(
        [model.name, model.features.hash, model.label.hash, model.metric, code_hash(model.estimator)]
    )
    assert msgspec.structs.replace(model, slices=("carrier",)).hash == model.hash


def test_too_few_rows_or_one_class_to_calibrate_on_are_named(world: Any, training_set: TrainingSet) -> None:
    few = np.zeros(training_set.rows, bool)
    few[np.flatnonzero(training_set.usable)[:80]] = True
    with pytest.raises(Misuse, match=r"'late_flight': platt calibration: needs at least 50 rows.*found 4\d rows"):
        fit(calibrated(world, "platt"), training_set, rows=few)
    few[np.flatnonzero(few)[6:]] = False
    with pytest.raises(Misuse, match=r"'late_flight', calibration='platt', fold 1 from 2013"):
        fit(calibrated(world, "platt"), training_set, rows=few)


def test_what_learns_online_is_not_calibrated(world: Any, training_set: TrainingSet) -> None:
    model = calibrated(world, "platt", lambda: SGDClassifier(loss="log_loss"))
    with pytest.raises(Misuse, match="would not follow what is learnt"):
        fit_online(model, training_set)
    with pytest.raises(Misuse, match="would not follow what is learnt"):
        OnlineLearner(fit(model, training_set).artifact)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibration": "temperature"}, "calibration='temperature'.*platt, isotonic, beta"),
        ({"calibration": "platt", "metric": "squared_error"}, "a metric of probabilities"),
        ({"metric": "auc"}, "metric='auc' must be one of.*tt.pinball"),
        ({"metric": None}, "metric=None must be one of"),
        ({"metric": "pinball(2)"}, "must be one of"),
        ({"slices": ["wind"]}, r"slices=\['wind'\].*one of flight_id, carrier"),
        ({"slices": "carrier"}, "Give a list of names"),
        ({"costs": {"false_positive": 1}}, "under these two names"),
        ({"costs": 5}, "under these two names"),
        ({"costs": {"false_positive": 1, "false_negative": -1}}, "at least 0"),
        ({"costs": {"false_positive": 1, "false_negative": "5"}}, "at least 0"),
        ({"costs": {"false_positive": 0, "false_negative": 0}}, "not both of them 0"),
        ({"costs": {"false_positive": 1, "false_negative": 5}, "metric": "absolute_error"}, "metric of probabilities"),
    ],
)
def test_a_definition_that_makes_no_sense_is_refused(world: Any, changes: dict[str, Any], message: str) -> None:
    from trimtab.training import model

    made = world.model
    given = {"metric": "log_loss", **changes}
    with pytest.raises(Misuse, match=message):
        model(
            "late",
            request=made.request,
            features=[{"km": col("distance")}],
            label=made.label,
            estimator=overfitted,
            **given,
        )


def bands(make: Any, **more: Any) -> Any:
    """A model of delays in three bands, and its training set."""
    world = make(late=lambda chance, risk: 40.0 * risk + chance.normal(0.0, 8.0, risk.size), days=60)
    source, key = world.model.label.source, world.model.label.key
    delays = label(source, key=key, value=col("delay").bucket([5.0, 25.0]), wait="1d", classes=[0, 1, 2])
    model = msgspec.structs.replace(world.model, label=delays, metric="multi_log_loss", **more)
    return model, build_training_set(model, world.requests, world.frames, cut_us=world.cut_us, positions={})


@pytest.mark.slow
def test_several_classes_are_calibrated_by_one_slope_and_an_offset_each(make: Any) -> None:
    model, training_set = bands(make, estimator=overfitted, calibration="platt")
    split = time_split(training_set)
    fitted = fit(model, training_set, rows=split.train)
    assert fitted.data == fit(model, training_set, rows=split.train).data
    found = evaluate(model, fitted, training_set, rows=split.holdout, train=split.train)
    plain = msgspec.structs.replace(model, calibration=None)
    without = evaluate(
        plain, fit(plain, training_set, rows=split.train), training_set, rows=split.holdout, train=split.train
    )
    assert found.recalibration == "platt"
    assert found.calibration_error is not None
    assert found.raw_calibration_error is not None
    assert found.calibration_error < found.raw_calibration_error / 2
    assert found.raw_calibration == without.calibration
    assert found.value < without.value - 0.05  # trees that know their rows by heart
    artifact = decode_artifact(fitted.data)
    assert isinstance(artifact.recalibration, ClassOdds)
    assert artifact.recalibration.rise < 0.6
    scorer, matrix = scorer_for(artifact), fitted.matrix(training_set.features.values)
    assert [scorer.predict_row(row) for row in matrix[:300].tolist()] == scorer.predict(matrix)[:300].tolist()
    assert golden_difference(artifact, scorer) == 0.0
    assert model.hash != plain.hash


def test_balanced_weights_are_brought_back_to_the_level_of_each_class(make: Any) -> None:
    model, training_set = bands(make, calibration="platt", weights="balanced", estimator=LogisticRegression)
    fitted = fit(model, training_set)
    rows = np.flatnonzero(training_set.usable)
    shares = np.bincount(training_set.target[rows].astype(int), minlength=3) / rows.size
    values = training_set.features.values.take(rows)
    plain = fit(msgspec.structs.replace(model, calibration=None), training_set)
    assert np.abs(plain.predict(values).mean(axis=0) - shares).max() > 0.05
    assert np.abs(fitted.predict(values).mean(axis=0) - shares).max() < 0.03


@pytest.mark.fast
def test_a_kind_of_calibration_that_several_classes_do_not_have_is_named(make: Any) -> None:
    made = bands(make)[0]
    for kind in ("isotonic", "beta"):
        with pytest.raises(Misuse, match="for several classes only platt"):
            tt.model(
                "m",
                request=made.request,
                features=[{"km": col("distance")}],
                label=made.label,
                estimator=LogisticRegression,
                metric="multi_log_loss",
                calibration=kind,  # type: ignore[arg-type]  # a text of the loop
            )
