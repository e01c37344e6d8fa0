from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, PoissonRegressor

from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse
from trimtab.core.expressions.nodes import col
from trimtab.core.time import DAY_US
from trimtab.stats import pinball
from trimtab.training import Evaluation, TrainingSet, evaluate, fit, time_split
from trimtab.training.data.sets import numbered_lists
from trimtab.training.judge.parts import values_of


def judged(world: Any, training_set: TrainingSet, **options: Any) -> Evaluation:
    model, split = options.pop("model", world.model), time_split(training_set)
    fitted = fit(model, training_set, rows=split.train)
    return evaluate(model, fitted, training_set, rows=split.holdout, train=split.train, **options)


def with_target(training_set: TrainingSet, values: Any) -> TrainingSet:
    return msgspec.structs.replace(training_set, labels=msgspec.structs.replace(training_set.labels, values=values))


def test_slices_part_the_rows_of_a_column_and_each_is_judged_as_if_alone(world: Any, training_set: TrainingSet) -> None:
    found = judged(world, training_set, slices=["carrier", "km", "carrier.late_rate_7d"])
    for column in ("carrier", "km", "carrier.late_rate_7d"):
        parts = [one for one in found.slices if one.column == column]
        assert sum(one.rows for one in parts) == found.rows
        assert sum(one.rows * one.value for one in parts) / found.rows == pytest.approx(found.value)
    assert {one.holds for one in found.slices if one.column == "carrier"} == {"c0", "c1", "c2", "c3"}
    numbers = [one for one in found.slices if one.column == "km"]
    assert len(numbers) == 4
    assert max(one.rows for one in numbers) - min(one.rows for one in numbers) <= 1
    split = time_split(training_set)
    c1 = split.holdout & (training_set.requests["carrier"].values == "c1")
    fitted = fit(world.model, training_set, rows=split.train)
    alone = evaluate(world.model, fitted, training_set, rows=c1, train=split.train)
    (slice_,) = [one for one in found.slices if one.holds == "c1"]
    assert (slice_.rows, slice_.auc) == (alone.rows, alone.auc)
    assert slice_.value == pytest.approx(alone.value)


@pytest.mark.fast
def test_a_text_that_ends_with_nul_is_a_slice_and_a_list_of_its_own() -> None:
    asked = Columns.of({"query": ("str", ["a\0", "a", None, "a\0", "", "\0", "a\0"])})
    found = {name: np.flatnonzero(here).tolist() for name, here in values_of(asked["query"])}
    assert found == {"a\0": [0, 3, 6], "": [4], "\0": [5], "a": [1], "null": [2]}
    assert next(iter(found)) == "a\0"
    assert numbered_lists(asked, "query").tolist() == [3, 2, -1, 3, 0, 1, 3]


def test_weeks_and_months_part_the_holdout(world: Any, training_set: TrainingSet) -> None:
    found = judged(world, training_set)
    assert [one.week for one in found.weeks] == ["2013-01-21", "2013-01-28", "2013-02-04"]
    for periods in (found.weeks, found.months):
        assert sum(one.rows for one in periods) == found.rows
        assert sum(one.rows * one.value for one in periods) / found.rows == pytest.approx(found.value)
    assert all(one.interval is not None for one in found.months)


def test_a_small_slice_shows_its_rows_and_a_wide_interval_or_none(world: Any, training_set: TrainingSet) -> None:
    split = time_split(training_set)
    rows = np.flatnonzero(training_set.usable & split.holdout)
    days = training_set.at_us[rows] // DAY_US
    names = np.full(training_set.rows, "usual", object)
    names[rows[days == days[0]][:3]] = "one day"
    names[rows[np.unique(days, return_index=True)[1]][1:4]] = "three days"
    columns = training_set.requests.replace(
        {"carrier": msgspec.structs.replace(training_set.requests["carrier"], values=names)}
    )
    found = judged(world, msgspec.structs.replace(training_set, requests=columns), slices=["carrier"])
    by_name = {one.holds: one for one in found.slices}
    assert (by_name["one day"].rows, by_name["one day"].interval) == (3, None)
    three, usual = by_name["three days"].interval, by_name["usual"].interval
    assert by_name["three days"].rows == 3
    assert three is not None
    assert usual is not None
    assert three.high - three.low > 4 * (usual.high - usual.low)


def test_many_values_are_judged_together_and_null_apart(world: Any, training_set: TrainingSet) -> None:
    generator = np.random.default_rng(0)
    names = generator.choice([f"n{n}" for n in range(40)], training_set.rows).astype(object)
    there = generator.random(training_set.rows) < 0.9
    names[~there] = None
    column = msgspec.structs.replace(training_set.requests["carrier"], values=names, valid=there)
    other = msgspec.structs.replace(training_set, requests=training_set.requests.replace({"carrier": column}))
    found = judged(world, other, slices=["carrier"]).slices
    assert [one.holds for one in found][-2:] == ["28 others", "null"]
    assert len(found) == 14


def test_shuffling_a_feature_that_says_nothing_costs_nothing(world: Any, training_set: TrainingSet) -> None:
    found = judged(world, training_set)
    rises = {one.name: one for one in found.permuted}
    assert set(rises) == set(world.model.features.names)
    assert rises["km"].rise > 3 * rises["km"].spread > 0.0
    flat = judged(world, training_set, model=msgspec.structs.replace(world.model, estimator=DummyClassifier))
    assert {one.rise for one in flat.permuted} == {0.0}
    assert flat.auc == 0.5
    again = judged(world, training_set)
    assert again.permuted == found.permuted


def test_features_of_one_view_are_also_shuffled_together(make: Callable[..., Any]) -> None:
    from trimtab.features.aggregates import count, mean
    from trimtab.features.definitions import view
    from trimtab.training import model

    world = make()
    made = world.model
    twice = model(
        "late",
        request=made.request,
        features=[
            view(
                "carrier",
                source=made.label.source,
                by="carrier",
                features={
                    "late_7d": mean(col("delay") >= 30, over="7d"),
                    "late_8d": mean(col("delay") >= 30, over="8d"),
                    "landings": count(over="1d"),
                },
            ),
            {"km": col("distance")},
        ],
        label=made.label,
        estimator=partial(LGBMClassifier, n_estimators=20, min_child_samples=5),
        metric="log_loss",
    )
    training_set = world.training_set(model=twice)
    split = time_split(training_set)
    fitted = fit(twice, training_set, rows=split.train)
    found = {
        one.name: one for one in evaluate(twice, fitted, training_set, rows=split.holdout, train=split.train).permuted
    }
    together = found["carrier (all)"]
    assert together.features == ("carrier.late_7d", "carrier.late_8d", "carrier.landings")
    assert together.rise > max(found["carrier.late_7d"].rise, found["carrier.late_8d"].rise)


def test_a_learning_curve_ends_with_the_model_itself(world: Any, training_set: TrainingSet) -> None:
    seen = []

    def refit(rows: Any) -> Any:
        seen.append(int((rows & training_set.usable).sum()))
        assert not (rows & time_split(training_set).holdout).any()
        return fit(world.model, training_set, rows=rows)

    found = judged(world, training_set, refit=refit)
    curve = found.learning_curve
    assert [one.rows for one in curve] == [*seen[:-4], int(time_split(training_set).train.sum())]  # then four folds
    assert [one.rows for one in curve] == sorted(one.rows for one in curve)
    assert curve[-1].value == found.value
    assert all(one.interval is not None for one in curve)
    assert curve[0].since_us > curve[-1].since_us

    def failing(rows: Any) -> Any:
        raise Misuse("too few")

    found = judged(world, training_set, refit=failing)
    assert [one.value is None for one in found.learning_curve][:-1] == [True] * (len(found.learning_curve) - 1)


def test_costs_give_a_threshold_and_the_version_in_service_is_a_baseline(world: Any, training_set: TrainingSet) -> None:
    rows = int((training_set.usable & time_split(training_set).holdout).sum())
    model = msgspec.structs.replace(world.model, slices=("carrier",))
    costs = {"false_positive": 1, "false_negative": 5}
    found = judged(world, training_set, model=model, costs=costs, champion_scores=np.full(rows, 0.5))
    assert found.thresholds is not None
    assert found.thresholds.best.threshold < 0.4
    assert found.thresholds.best.cost < found.thresholds.half.cost
    assert found.baselines["champion"] == pytest.approx(np.log(2))
    assert {one.column for one in found.slices} == {"carrier"}
    assert msgspec.json.decode(msgspec.json.encode(found), type=Evaluation) == found
    with pytest.raises(Misuse, match="3 scores of the champion"):
        judged(world, training_set, champion_scores=np.zeros(3))
    with pytest.raises(Misuse, match="slices="):
        judged(world, training_set, slices=["wind"])


def test_labels_that_are_no_number_and_rows_without_one_are_counted_and_left_out(
    world: Any, training_set: TrainingSet
) -> None:
    split = time_split(training_set)
    fitted = fit(world.model, training_set, rows=split.train)
    values = training_set.target.copy()
    values[np.flatnonzero(training_set.usable & split.holdout)[:4]] = np.nan
    every = np.ones(training_set.rows, bool)
    found = evaluate(
        world.model,
        fitted,
        with_target(training_set, values),
        rows=every & (training_set.at_us >= split.start_us),
        train=split.train,
    )
    assert found.left_out["no number"] == 4
    assert set(found.left_out) >= {"no number", "missing", "pending"}
    assert found.rows + sum(found.left_out.values()) == (training_set.at_us >= split.start_us).sum()
    pending = training_set.at_us > training_set.manifest.cut_us - 3600 * 10**6
    with pytest.raises(Misuse, match=r"no labelled row in the holdout \(\d+ pending\)"):
        evaluate(world.model, fitted, training_set, rows=pending, train=split.train)


def test_labels_in_the_holdout_that_the_metric_is_not_made_for_are_named(world: Any, training_set: TrainingSet) -> None:
    split = time_split(training_set)
    halves = with_target(training_set, np.where(split.holdout, 0.5, training_set.target))
    with pytest.raises(Misuse, match=r"evaluate 'late_flight': metric 'log_loss' needs labels 0 and 1; .* e\.g\. 0\.5"):
        judged(world, halves)


def test_one_class_in_a_slice_a_month_or_the_whole_holdout_is_no_error(world: Any, training_set: TrainingSet) -> None:
    split = time_split(training_set)
    fitted = fit(world.model, training_set, rows=split.train)
    carrier = training_set.requests["carrier"].values == "c0"
    some = with_target(training_set, np.where(split.holdout & carrier, 0.0, training_set.target))
    model = msgspec.structs.replace(world.model, slices=("carrier",))
    found = evaluate(model, fitted, some, rows=split.holdout, train=split.train)
    assert next(one for one in found.slices if one.holds == "c0").auc is None
    costs = {"false_positive": 1, "false_negative": 1}
    none = with_target(training_set, np.where(split.holdout, 0.0, training_set.target))
    found = evaluate(model, fitted, none, rows=split.holdout, train=split.train, costs=costs)
    assert (found.auc, found.auc_interval) == (None, None)
    assert found.thresholds is not None
    assert found.thresholds.best.cost == 0.0


def poisson(generator: Any, risk: Any) -> Any:
    return generator.poisson(4 * risk).astype(float)


@pytest.mark.parametrize(
    ("metric", "estimator"),
    [
        ("poisson_deviance", partial(LGBMRegressor, objective="poisson", n_estimators=30)),
        ("poisson_deviance", PoissonRegressor),
        (pinball(0.9), partial(LGBMRegressor, objective="quantile", alpha=0.9, n_estimators=30)),
    ],
)
def test_counts_and_quantiles_are_fitted_and_judged_by_their_own_figures(
    make: Callable[..., Any], metric: str, estimator: Callable[[], Any]
) -> None:
    world = make(value=col("delay"), metric=metric, estimator=estimator, late=poisson)
    found = judged(world, world.training_set())
    names = [figure.name for figure in found.figures]
    assert names[0] == found.metric == metric
    assert found.auc is None
    assert found.baselines["constant"] is not None
    assert found.baselines["linear"] is not None
    assert found.value < found.baselines["constant"]
    if metric == "poisson_deviance":
        assert found.baselines["last_value"] is not None
        assert "r2" in names
    else:
        assert found.baselines["last_value"] is None
        coverage = next(figure for figure in found.figures if figure.name == "coverage")
        assert coverage.value == pytest.approx(0.9, abs=0.08)


def test_counts_below_nothing_are_refused_as_labels_and_as_answers(make: Callable[..., Any]) -> None:
    from sklearn.linear_model import LinearRegression

    world = make(value=col("delay") - 5, metric="poisson_deviance", estimator=LinearRegression)
    with pytest.raises(Misuse, match=r"counts of at least 0, found a label of -2"):
        fit(world.model, world.training_set())
    world = make(value=col("delay") - 3, metric="poisson_deviance", estimator=LinearRegression)
    with pytest.raises(Misuse, match=r"predictions are below 0.*Poisson objective"):
        fit(world.model, world.training_set())


def test_an_evaluation_of_before_is_read(world: Any, training_set: TrainingSet) -> None:
    old = msgspec.json.decode(msgspec.json.encode(judged(world, training_set)))
    for name in ("figures", "weeks", "slices", "recalibration", "raw_calibration", "raw_calibration_error"):
        del old[name]
    for name in ("permuted", "learning_curve", "thresholds", "left_out"):
        del old[name]
    for month in old["months"]:
        del month["interval"]
    read = msgspec.json.decode(msgspec.json.encode(old), type=Evaluation)
    assert read.figures == read.permuted == ()


@pytest.mark.parametrize("estimator", [LogisticRegression, partial(LGBMClassifier, n_estimators=20)])
def test_contributions_add_up_to_the_raw_score(
    world: Any, training_set: TrainingSet, estimator: Callable[[], Any]
) -> None:
    fitted = fit(msgspec.structs.replace(world.model, estimator=estimator), training_set)
    found = fitted.contributions(training_set.features.values)
    assert found.names == world.model.features.names
    assert found.values.sum(axis=1) + found.base == pytest.approx(found.raw)
    assert 1 / (1 + np.exp(-found.raw)) == pytest.approx(fitted.predict(training_set.features.values))
    none = fitted.contributions(training_set.features.values.take(slice(0, 0)))
    assert none.values.shape == (0, 3)


@pytest.mark.parametrize("library", ["xgboost", "catboost"])
def test_contributions_of_other_trees_add_up_as_well(make: Callable[..., Any], library: str) -> None:
    if library == "xgboost":
        from xgboost import XGBClassifier, XGBRegressor

        makers: list[Callable[[], Any]] = [
            partial(XGBClassifier, n_estimators=20),
            partial(XGBRegressor, n_estimators=20),
        ]
    else:
        from catboost import CatBoostClassifier, CatBoostRegressor

        makers = [partial(CatBoostClassifier, iterations=20), partial(CatBoostRegressor, iterations=20)]
    for estimator, metric in zip(makers, ("log_loss", "squared_error"), strict=True):
        world = make(days=15, estimator=estimator, metric=metric)
        fitted = fit(world.model, world.training_set())
        values = world.training_set().features.values
        found = fitted.contributions(values)
        assert found.values.sum(axis=1) + found.base == pytest.approx(found.raw, abs=1e-4)
        scores = 1 / (1 + np.exp(-found.raw)) if metric == "log_loss" else found.raw
        assert scores == pytest.approx(fitted.predict(values), abs=1e-5)
