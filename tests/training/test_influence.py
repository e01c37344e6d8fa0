"""Contributions summed up over a holdout, and the walk forward before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge

from trimtab.core.errors import Misuse
from trimtab.core.expressions.nodes import col
from trimtab.features.definitions import label
from trimtab.training import TrainingSet, build_training_set, evaluate, fit, time_split
from trimtab.training.fitting.folds import known_before
from trimtab.training.judge.backtest import backtest
from trimtab.training.judge.influence import influences
from trimtab.training.judge.parts import Judged


def several(make: Any, estimator: Any, classes: list[str], edges: Sequence[float] = (5.0, 25.0)) -> Any:
    """A fit of delays in bands, its set, and the rows that can be explained."""
    world = make(estimator=estimator, late=lambda chance, risk: 40.0 * risk + chance.normal(0.0, 8.0, risk.size))
    delays = label(
        world.model.label.source,
        key=world.model.label.key,
        value=col("delay").bucket(list(edges)),
        wait="1d",
        classes=[int(one) for one in classes],
    )
    model = msgspec.structs.replace(world.model, label=delays, metric="multi_log_loss")
    training_set = build_training_set(model, world.requests, world.frames, cut_us=world.cut_us, positions={})
    return fit(model, training_set), training_set, np.flatnonzero(training_set.usable)


def test_contributions_of_a_linear_model_are_its_weights_times_the_distance_from_the_mean(make: Any) -> None:
    for estimator, metric, value in (
        (lambda: LogisticRegression(C=0.5), "log_loss", None),
        (Ridge, "squared_error", col("delay")),
    ):
        world = make(estimator=estimator, metric=metric, value=value)
        training_set = world.training_set()
        fitted = fit(world.model, training_set)
        values = training_set.features.values.take(np.flatnonzero(training_set.usable))
        found = fitted.contributions(values)
        np.testing.assert_allclose(found.values.sum(axis=1) + found.base, found.raw, atol=1e-9)
        assert found.values.mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-9)  # of an average row nothing is left
        scores = fitted.predict(values)
        raw = scores if metric == "squared_error" else np.log(scores / (1 - scores))
        np.testing.assert_allclose(found.raw, raw, atol=1e-6)


def test_an_estimator_whose_score_is_no_sum_says_so(make: Any) -> None:
    world = make(estimator=lambda: RandomForestClassifier(5, random_state=0))
    training_set = world.training_set()
    fitted = fit(world.model, training_set)
    with pytest.raises(Misuse, match=r"'late_flight': RandomForestClassifier \(sklearn\) cannot compute them"):
        fitted.contributions(training_set.features.values)
    found, why = influences(fitted, training_set, np.flatnonzero(training_set.usable), seed=0)
    assert found == ()
    assert "cannot compute them" in why


@pytest.mark.parametrize("library", ["linear", "lightgbm"])
def test_what_moves_answers_is_ranked_with_its_direction(make: Any, library: str) -> None:
    if library == "linear":
        estimator: Any = LogisticRegression
    else:
        lightgbm = pytest.importorskip("lightgbm")
        estimator = lambda: lightgbm.LGBMClassifier(n_estimators=20, verbose=-1)  # noqa: E731
    world = make(estimator=estimator)
    training_set = world.training_set()
    fitted = fit(world.model, training_set)
    chosen = np.flatnonzero(training_set.usable)
    found, why = influences(fitted, training_set, chosen, seed=0)
    assert why == ""
    by_name = {one.name: one for one in found}
    assert [one.mean for one in found] == sorted((one.mean for one in found), reverse=True)
    assert by_name["km"].direction is not None
    assert by_name["km"].direction < -0.8  # the farther, the less often late: so the world was made
    assert by_name["carrier.late_rate_7d"].direction is not None
    assert by_name["carrier.late_rate_7d"].direction > 0.5
    assert by_name["name"].direction is None  # a category has no order
    assert all(shade is None for _, shade in by_name["name"].points)
    assert 50 < len(by_name["km"].points) <= 120
    exact = fitted.contributions(training_set.features.values.take(chosen))
    for place, name in enumerate(exact.names):
        assert by_name[name].mean == pytest.approx(np.abs(exact.values[:, place]).mean())
    assert influences(fitted, training_set, chosen, seed=0)[0] == found


def test_the_walk_forward_of_an_evaluation_fits_on_the_past_of_each_fold(world: Any, training_set: TrainingSet) -> None:
    split = time_split(training_set)
    seen: list[Any] = []

    def refit(rows: Any) -> Any:
        seen.append(rows)
        return fit(world.model, training_set, rows=rows)

    found = evaluate(
        world.model,
        fit(world.model, training_set, rows=split.train),
        training_set,
        rows=split.holdout,
        train=split.train,
        refit=refit,
    )
    assert len(found.folds) == 4
    for fold in found.folds:
        past = split.train & known_before(training_set, fold.start_us)
        assert any((rows == past).all() for rows in seen)
        assert fold.fitted_rows == int((past & training_set.usable).sum())
        assert fold.interval is not None
        assert fold.value is not None
        assert fold.interval.low <= fold.value <= fold.interval.high
        assert fold.end_us < split.start_us
    assert sum(fold.rows for fold in found.folds) == pytest.approx(split.train.sum() / 2, abs=2)
    assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found
    without = evaluate(world.model, fit(world.model, training_set), training_set, rows=split.holdout, train=split.train)
    assert without.folds == ()
    assert without.influences


def test_a_fold_whose_past_cannot_be_fitted_says_so_and_the_others_stand(world: Any, training_set: TrainingSet) -> None:
    calls: list[int] = []

    def refit(rows: Any) -> Any:
        calls.append(int(rows.sum()))
        if len(calls) == 1:
            raise Misuse("too few")
        return fit(world.model, training_set, rows=rows)

    def judge(fitted: Any, numbers: Any) -> Judged:
        scores = fitted.predict(training_set.features.values.take(numbers))
        return Judged("log_loss", True, training_set.target[numbers], scores, training_set.at_us[numbers])

    found = backtest(refit, judge, training_set, training_set.usable)
    assert [fold.value is None for fold in found] == [True, False, False, False]
    assert found[0].fitted_rows == calls[0]
    few = np.zeros(training_set.rows, bool)
    few[np.flatnonzero(training_set.usable)[:150]] = True
    assert backtest(refit, judge, training_set, few) == ()


@pytest.mark.parametrize("library", ["linear", "lightgbm", "xgboost", "catboost"])
def test_each_of_several_classes_has_contributions_of_its_own_that_add_up_to_its_raw_score(
    make: Any, library: str
) -> None:
    if library == "linear":
        estimator: Any = LogisticRegression
    else:
        module = pytest.importorskip(library)
        estimator = {
            "lightgbm": lambda: module.LGBMClassifier(n_estimators=20),
            "xgboost": lambda: module.XGBClassifier(n_estimators=20),
            "catboost": lambda: module.CatBoostClassifier(iterations=20),
        }[library]
    for classes in (["0", "1", "2"], ["0", "1", "2", "3"]):  # of the last there is no row
        fitted, training_set, chosen = several(make, estimator, classes)
        values = training_set.features.values.take(chosen)
        found = fitted.contributions(values)
        assert found.classes == ("0", "1", "2")
        assert found.values.shape == (len(chosen), 3, 3)
        np.testing.assert_allclose(found.values.sum(axis=1) + found.base, found.raw, atol=1e-4)
        powers = np.exp(found.raw - found.raw.max(axis=1, keepdims=True))
        known = fitted.predict(values)[:, :3]
        np.testing.assert_allclose(
            powers / powers.sum(axis=1, keepdims=True), known / known.sum(axis=1, keepdims=True), atol=1e-5
        )
        assert fitted.contributions(values.take(np.arange(0))).values.shape == (0, 3, 3)
        by_name = {one.name: one for one in influences(fitted, training_set, chosen, seed=0)[0]}
        km = by_name["km"]
        assert (km.direction, km.points) == (None, ())
        assert km.mean == pytest.approx(np.mean([one.mean for one in km.classes]))
        first, last = km.classes[0], km.classes[2]
        assert first.direction is not None
        assert last.direction is not None
        assert first.direction > 0.3 > -0.3 > last.direction  # the farther, the less late


def test_of_two_classes_with_rows_the_second_has_the_one_raw_score(make: Any) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    fitted, training_set, chosen = several(
        make, lambda: lightgbm.LGBMClassifier(n_estimators=5), ["0", "1", "2"], edges=[15.0]
    )
    found = fitted.contributions(training_set.features.values.take(chosen))
    assert found.classes == ("1",)
    assert found.values.shape == (len(chosen), 3, 1)
