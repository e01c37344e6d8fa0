from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trimtab.core.errors import Misuse
from trimtab.core.expressions.nodes import col
from trimtab.training import TrainingSet, fit
from trimtab.training.fitting.artifact import decode_artifact, golden_difference, golden_rows, scorer_for
from trimtab.training.runtimes import sklearn
from trimtab.training.runtimes.scoring_paths import several_paths
from trimtab.training.runtimes.sklearn_rows import quick_row


class Own:
    """An estimator of the user's, as bad as a test wants it."""

    def __init__(self, answer: Any = 0.5, raises: str = "") -> None:
        self.answer = answer
        self.raises = raises

    def fit(self, x: Any, y: Any) -> None:
        assert not np.isnan(x).any()
        if self.raises == "fit":
            raise RuntimeError("out of memory")

    def predict(self, x: Any) -> Any:
        if self.raises == "predict" or (self.raises == "alone" and len(x) == 1):
            raise RuntimeError("no answer")
        empty = (x == 0.0).all(axis=1)  # a row of nulls: each is the mean, which is 0 once it is standardized
        if (self.raises == "empty" and empty.any()) or (self.raises == "empty alone" and len(x) == 1 and empty.all()):
            raise RuntimeError("no values")
        return self.answer if isinstance(self.answer, np.ndarray) else np.full(len(x), self.answer)


def with_estimator(world: Any, estimator: Callable[[], Any]) -> Any:
    return msgspec.structs.replace(world.model, estimator=estimator)


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression,
        lambda: LGBMClassifier(n_estimators=20, min_child_samples=5),
        lambda: SGDClassifier(loss="log_loss"),
    ],
)
def test_an_equal_fit_gives_equal_bytes_and_beats_the_base_rate(
    world: Any, training_set: TrainingSet, estimator: Callable[[], Any]
) -> None:
    model = with_estimator(world, estimator)
    first, again = fit(model, training_set, seed=1), fit(model, world.training_set(), seed=1)
    assert first.data == again.data
    assert first.digest == again.digest
    assert first.rows == training_set.usable.sum()
    scores = first.predict(training_set.features.values)[training_set.usable]
    target = training_set.target[training_set.usable]
    assert scores[target == 1].mean() > scores[target == 0].mean() + 0.05


def test_an_artifact_read_back_repeats_its_golden_predictions(world: Any, training_set: TrainingSet) -> None:
    fitted = fit(with_estimator(world, lambda: LGBMClassifier(n_estimators=20)), training_set)
    artifact = decode_artifact(fitted.data)
    assert artifact == fitted.artifact
    assert golden_difference(artifact, scorer_for(artifact)) == 0.0
    values = training_set.features.values
    assert scorer_for(artifact).predict(artifact.encoding.matrix(values)).tobytes() == fitted.predict(values).tobytes()


def test_only_the_rows_of_the_mask_are_learnt_from(world: Any, training_set: TrainingSet) -> None:
    mask = np.arange(training_set.rows) < 300
    part = fit(world.model, training_set, rows=mask)
    assert part.rows == (training_set.usable & mask).sum()
    assert part.digest != fit(world.model, training_set).digest


def test_estimators_that_refuse_nulls_get_imputed_and_scaled_columns(world: Any, training_set: TrainingSet) -> None:
    linear = fit(world.model, training_set)
    trees = fit(with_estimator(world, LGBMClassifier), training_set)
    assert linear.artifact.step is not None
    assert trees.artifact.step is None
    empty = np.full((1, len(linear.artifact.inputs)), np.nan)
    assert np.isfinite(linear.scorer.predict(empty)).all()


def test_numbers_are_learnt_as_well(make: Callable[..., Any]) -> None:
    for estimator in (Ridge, lambda: LGBMRegressor(n_estimators=20)):
        world = make(value=col("delay"), metric="squared_error", estimator=estimator)
        fitted = fit(world.model, world.training_set())
        assert fitted.artifact.task == "regression"
        assert fitted.predict(world.training_set().features.values).max() > 1.5


def test_a_training_window_without_labels_is_refused(world: Any, training_set: TrainingSet) -> None:
    with pytest.raises(Misuse, match=r"'late_flight': no labels.*pending"):
        fit(world.model, training_set, rows=np.zeros(training_set.rows, bool))
    early = world.training_set(cut_us=int(training_set.at_us[200]))
    none = np.arange(early.rows) >= early.rows - 5
    with pytest.raises(Misuse, match="no labels"):
        fit(world.model, early, rows=none)


def test_one_class_is_refused(world: Any, training_set: TrainingSet) -> None:
    with pytest.raises(Misuse, match=r"all \d+ labels are 1"):
        fit(world.model, training_set, rows=training_set.target == 1.0)


def test_fewer_rows_than_features_are_refused(world: Any, training_set: TrainingSet) -> None:
    few = np.zeros(training_set.rows, bool)
    few[np.flatnonzero(training_set.usable)[:2]] = True
    with pytest.raises(Misuse, match="2 labelled rows for 3 features"):
        fit(world.model, training_set, rows=few)


def test_a_target_that_is_no_number_is_refused(make: Callable[..., Any], training_set: TrainingSet) -> None:
    world = make()
    holes = training_set.target.copy()
    row = int(np.flatnonzero(training_set.usable)[3])
    holes[row] = np.nan
    broken = msgspec.structs.replace(training_set, labels=msgspec.structs.replace(training_set.labels, values=holes))
    with pytest.raises(Misuse, match=f"1 of .* labels are not numbers .*'f{row}'"):
        fit(world.model, broken)


def test_labels_other_than_0_and_1_need_another_metric(make: Callable[..., Any]) -> None:
    world = make(value=col("delay"))
    with pytest.raises(Misuse, match=r"'log_loss' needs labels 0 and 1, found \[3.0, 45.0\]"):
        fit(world.model, world.training_set())


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (lambda: Own(raises="fit"), "Own.fit raised RuntimeError: out of memory"),
        (lambda: Own(raises="predict"), "prediction raised RuntimeError: no answer"),
        (lambda: Own(raises="alone"), r"prediction raised RuntimeError: no answer, in predict at test_fitting\.py"),
        (lambda: Own(raises="empty"), r"prediction raised RuntimeError: no values, in predict at test_fitting\.py"),
        (lambda: Own(raises="empty alone"), r"raised RuntimeError: no values, in predict at test_fitting\.py"),
        (lambda: Own(np.zeros((3, 2))), r"predictions of shape \(3, 2\)"),
        (lambda: Own(np.nan), "are not numbers, e.g. nan"),
        (lambda: Own(1.5), r"lie outside \[0, 1\], e.g. 1.5"),
        (lambda: Own(-0.1), r"lie outside \[0, 1\], e.g. -0.1"),
        (lambda: object(), "has no fit method"),
        (lambda: 1 / 0, "its estimator function raised ZeroDivisionError"),
        (lambda: Path("no/such/file").read_text(), "its estimator function raised FileNotFoundError"),
        (lambda: SGDClassifier(), "predicts classes, not probabilities"),
    ],
)
def test_a_bad_estimator_is_named_with_its_cause(
    world: Any, training_set: TrainingSet, estimator: Callable[[], Any], message: str
) -> None:
    with pytest.raises(Misuse, match=message) as caught:
        fit(with_estimator(world, estimator), training_set, trust="pickle")
    assert "late_flight" in str(caught.value) or "SGDClassifier" in str(caught.value)


def test_an_estimator_without_a_safe_format_is_refused_before_it_is_fitted(
    world: Any, training_set: TrainingSet
) -> None:
    with pytest.raises(Misuse, match='trust="pickle"'):
        fit(with_estimator(world, lambda: Own(raises="fit")), training_set)
    fitted = fit(with_estimator(world, Own), training_set, trust="pickle")
    assert fitted.artifact.trust == "pickle"
    assert fitted.artifact.runtime == "pickle"


def test_trust_is_recorded_only_where_it_is_used(world: Any, training_set: TrainingSet) -> None:
    assert fit(world.model, training_set, trust="pickle").artifact.trust is None


@pytest.mark.slow
def test_a_wrong_scoring_path_is_found_at_the_fit_and_at_each_load(
    world: Any, training_set: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error was recorded as what a row may be off."""

    def make() -> Any:
        return make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression())

    right = fit(with_estimator(world, make), training_set)
    assert several_paths(right.scorer).row_call == "folded"  # type: ignore[union-attr]  # it has several
    place = right.artifact.inputs.index("km")

    def wrong(estimator: Any) -> Any:
        name, call = quick_row(estimator)  # type: ignore[misc]  # there is one
        return name, lambda row: np.add(call(row), 0.25 * (1000.0 < row[place] < 1400.0)).item()

    monkeypatch.setattr(sklearn, "quick_row", wrong)
    found = fit(with_estimator(world, make), training_set)
    assert several_paths(found.scorer).row_call == "library"  # type: ignore[union-attr]
    assert found.artifact.row_tolerance <= 1e-12
    assert any(1000.0 < row[place] < 1400.0 for row in golden_rows(found.artifact))
    again = scorer_for(found.artifact)
    assert several_paths(again).row_call == "folded"  # type: ignore[union-attr]
    assert golden_difference(found.artifact, again) > 0.2
    calibrated = fit(msgspec.structs.replace(with_estimator(world, make), calibration="isotonic"), training_set)
    assert several_paths(calibrated.scorer).row_call == "library"  # type: ignore[union-attr]
    assert calibrated.artifact.row_tolerance <= 1e-12
