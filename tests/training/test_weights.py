from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightgbm import LGBMClassifier
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

import trimtab as tt
from trimtab.core.columns.data import Column
from trimtab.core.errors import Misuse
from trimtab.core.expressions.nodes import col
from trimtab.training import Model, TrainingSet, build_training_set, evaluate, fit, fit_online, model, time_split
from trimtab.training.data.weights import balance_of, weigh
from trimtab.training.fitting.standardize import fit_standardize
from trimtab.training.runtimes import runtime_for
from trimtab.training.weighting import Sample


def declared(world: Any, **options: Any) -> Model:
    given: dict[str, Any] = {
        "request": world.model.request,
        "features": [world.model.features.views[0], {"km": col("distance")}],
        "label": world.model.label,
        "estimator": LogisticRegression,
        "metric": "log_loss",
    }
    return model("late_flight", **{**given, **options})


def weighed(made: Model, training_set: TrainingSet) -> Any:
    chosen = np.flatnonzero(training_set.usable)
    return weigh(made, training_set, chosen, training_set.target[chosen])


@pytest.mark.parametrize(
    "estimator",
    [
        lambda: LogisticRegression(C=1e4, tol=1e-10, max_iter=2000),
        Ridge,
        LinearRegression,
        GaussianNB,
        lambda: DecisionTreeClassifier(max_depth=3, random_state=0),
        lambda: make_pipeline(LogisticRegression(C=1e4, tol=1e-10, max_iter=2000)),
    ],
)
@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_weight_of_three_is_a_row_three_times(estimator: Callable[[], Any], seed: int) -> None:
    chance = np.random.default_rng(seed)
    inputs = chance.normal(size=(60, 3))
    target = (inputs[:, 0] + chance.normal(size=60) > 0).astype(np.int64)
    target[:2] = 0, 1
    weights = chance.integers(1, 4, 60)
    again = np.repeat(np.arange(60), weights)
    runtime = runtime_for(estimator())
    names = ("a", "b", "c")
    one = runtime.fit(estimator(), inputs, target, names, weights.astype(float))
    other = runtime.fit(estimator(), inputs[again], target[again], names)
    asked = chance.normal(size=(20, 3))
    answers = [runtime.load(runtime.save(found)).predict(asked) for found in (one, other)]
    np.testing.assert_allclose(*answers, atol=1e-4)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6) | st.just(np.nan), st.integers(1, 5)), min_size=1, max_size=20))
def test_means_and_spreads_count_rows_by_weight(rows: list[tuple[float, int]]) -> None:
    values, weights = np.array([[value] for value, _ in rows]), np.array([weight for _, weight in rows], float)
    one, other = fit_standardize(values, weights), fit_standardize(np.repeat(values, weights.astype(int), axis=0))
    np.testing.assert_allclose(one.means, other.means, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(one.scales, other.scales, rtol=1e-6, atol=1e-3)


@pytest.mark.fast
def test_balanced_classes_weigh_the_same(world: Any, training_set: TrainingSet) -> None:
    found = weighed(declared(world, weights="balanced"), training_set)
    sums = [float(found.weights[found.target == one].sum()) for one in (0, 1)]
    assert sums[0] == pytest.approx(sums[1])
    assert sum(sums) == pytest.approx(found.kept.size)


def test_weights_come_from_a_column_an_expression_or_a_function(world: Any, training_set: TrainingSet) -> None:
    distance = training_set.requests["distance"].values[training_set.usable]
    for given_weights, expected in (
        ("distance", distance),
        ("km", distance),
        (col("distance") / 100, distance / 100),
        (lambda km: km * 2, distance * 2),
    ):
        made = declared(world, weights=given_weights)
        np.testing.assert_array_equal(weighed(made, training_set).weights, expected)
        assert made.hash != declared(world).hash
    assert declared(world, weights="distance").hash != declared(world, weights="km").hash


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "weight"}, "weights read weight, which is not known. Known: flight_id"),
        ({"weights": "carrier"}, "is str. Needed: a number"),
        ({"weights": 3}, 'Needed: "balanced", the name of a column'),
        ({"weights": "balanced", "metric": "squared_error"}, "needs a model of classes"),
        ({"sample": 0.1}, r"Needed: tt.sample\(negatives=0.1, seed=1\)"),
        ({"sample": Sample(negatives=0.5), "metric": "squared_error"}, r"tt.sample\(rows=0.1\)"),
        ({"rows": "live"}, 'neither "history" nor "logged"'),
        ({"group": "customer"}, "group='customer' must be one of"),
        ({"allow_leakage": "km"}, "allow_leakage='km'. Give a list of names"),
        ({"allow_leakage": ["kms"]}, r"allow_leakage=\['kms'\]"),
    ],
)
def test_what_cannot_be_weighed_is_refused_where_it_is_declared(
    world: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(Misuse, match=message):
        declared(world, **options)


@pytest.mark.parametrize(
    "options", [{}, {"negatives": 0}, {"negatives": 1.5}, {"rows": True}, {"rows": 0.5, "seed": "a"}]
)
def test_a_sample_is_a_share(options: dict[str, Any]) -> None:
    with pytest.raises(Misuse, match="sample"):
        tt.sample(**options)


def test_a_weight_that_is_no_number_names_its_request(world: Any, training_set: TrainingSet) -> None:
    chosen = np.flatnonzero(training_set.usable)
    for value, shown in ((np.nan, "nan"), (-1.0, "-1"), (np.inf, "nan")):
        distance = training_set.requests["distance"].values.copy()
        distance[chosen[5]] = value
        requests = training_set.requests.replace({"distance": Column("float", distance, ~np.isnan(distance))})
        with pytest.raises(Misuse, match=rf"1 of {chosen.size} weights .*'f{chosen[5]}', {shown}"):
            fit(declared(world, weights="distance"), msgspec.structs.replace(training_set, requests=requests))
    with pytest.raises(Misuse, match=r"weights of all .* rows are 0"):
        fit(declared(world, weights=col("distance") * 0), training_set)


def test_a_sample_keeps_the_level_of_probabilities_and_the_same_rows(make: Callable[..., Any]) -> None:
    world = make(days=40, per_day=150)
    training_set = world.training_set()
    made = declared(world, sample=tt.sample(negatives=0.2, seed=3))
    found = weighed(made, training_set)
    zeros, ones = found.target == 0, found.target == 1
    all_rows = training_set.target[training_set.usable]
    assert ones.sum() == (all_rows == 1).sum()
    assert zeros.sum() == pytest.approx(0.2 * (all_rows == 0).sum(), rel=0.1)
    assert set(found.weights[zeros]) == {5.0}
    older = training_set.usable & (np.arange(training_set.rows) < 3000)
    chosen = np.flatnonzero(older)
    part = weigh(made, training_set, chosen, training_set.target[chosen])
    assert set(part.kept) == {row for row in found.kept if older[row]}
    values = training_set.features.values
    whole, sampled = fit(declared(world), training_set), fit(made, training_set)
    assert sampled.rows == found.kept.size < whole.rows
    assert sampled.predict(values).mean() == pytest.approx(whole.predict(values).mean(), abs=0.02)
    unweighted = fit(declared(world), training_set, rows=np.isin(np.arange(training_set.rows), found.kept))
    assert unweighted.predict(values).mean() > whole.predict(values).mean() + 0.1
    balance = evaluate(
        made, sampled, training_set, rows=(split := time_split(training_set)).holdout, train=split.train
    ).balance
    assert balance[0].kept < 0.3 * balance[0].rows
    assert balance[1].kept == balance[1].rows
    assert balance[1].weight == pytest.approx(balance[1].rows / (balance[0].rows + balance[1].rows), abs=0.03)


def test_balanced_scores_are_probabilities_once_they_are_calibrated(make: Callable[..., Any]) -> None:
    world = make(days=40, per_day=100)
    training_set = world.training_set()
    values, share = training_set.features.values, training_set.target[training_set.usable].mean()
    moved = fit(declared(world, weights="balanced"), training_set).predict(values).mean() - share
    mended = fit(declared(world, weights="balanced", calibration="platt"), training_set).predict(values).mean() - share
    assert abs(moved) > 0.05 > 0.03 > abs(mended)


def test_a_sample_that_leaves_too_little_is_refused(world: Any, training_set: TrainingSet) -> None:
    with pytest.raises(Misuse, match=r"keeps \d+ of \d+ rows, too few for 2 features"):
        fit(declared(world, sample=tt.sample(rows=0.0001)), training_set)
    with pytest.raises(Misuse, match="all of them labelled 1"):
        fit(declared(world, sample=tt.sample(negatives=0.000001)), training_set)


@pytest.mark.parametrize("options", [{"sample": tt.sample(rows=0.0001)}, {"weights": col("distance") * -1}])
def test_the_balance_counts_what_a_sample_keeps_also_if_a_fit_would_be_refused(
    world: Any, training_set: TrainingSet, options: dict[str, Any]
) -> None:
    made = declared(world, **{"sample": tt.sample(negatives=0.5), **options})
    with pytest.raises(Misuse):
        weighed(made, training_set)
    kept = [one.kept for one in balance_of(made, training_set, np.ones(training_set.rows, bool), np.empty(0))]
    rows = [one.rows for one in balance_of(made, training_set, np.ones(training_set.rows, bool), np.empty(0))]
    assert sum(kept) < sum(rows)


def test_an_estimator_that_takes_no_weights_is_named(world: Any, training_set: TrainingSet) -> None:
    for estimator in (
        LinearDiscriminantAnalysis,
        lambda: make_pipeline(StandardScaler(), LinearDiscriminantAnalysis()),
    ):
        with pytest.raises(Misuse, match=r"late_flight.*LinearDiscriminantAnalysis: its fit takes no sample_weight"):
            fit(declared(world, estimator=estimator, weights="balanced"), training_set)
        assert fit(declared(world, estimator=estimator), training_set).rows
    with pytest.raises(Misuse, match=r"online learning .* weights and sample"):
        fit_online(declared(world, weights="balanced"), training_set)


def test_a_search_passes_the_weights_on(world: Any, training_set: TrainingSet) -> None:
    searched = lambda: GridSearchCV(LogisticRegression(max_iter=200), {"C": [0.1]}, cv=2)  # noqa: E731
    made = {"estimator": searched, "trust": "pickle"}
    plain = fit(declared(world, **made), training_set)
    weighted = fit(declared(world, weights="balanced", **made), training_set)
    rows = training_set.features.values
    assert weighted.predict(rows).mean() > plain.predict(rows).mean()


def test_trees_of_the_library_follow_weights(world: Any, training_set: TrainingSet) -> None:
    def mean(weights: Any) -> float:
        made = declared(world, estimator=lambda: LGBMClassifier(n_estimators=20), weights=weights)
        return float(fit(made, training_set).predict(training_set.features.values).mean())

    assert abs(mean("balanced") - 0.5) < abs(mean(None) - 0.5)


@pytest.mark.fast
def test_a_sample_by_class_names_the_class_and_keeps_the_hash_of_other_recipes() -> None:
    assert repr(tt.sample(classes={"on_time": 0.1, 3: 0.5}, rows=0.5)) == (
        "sample(rows=0.5, classes={'on_time': 0.1, '3': 0.5}, seed=0)"
    )
    assert msgspec.json.encode(tt.sample(negatives=0.5)) == b'{"negatives":0.5,"positives":1.0,"rows":1.0,"seed":0}'
    for wrong in ({"classes": {"a": 0.0}}, {"classes": {"a": 1.0}}, {"classes": ["a"]}, {"classes": {}}):
        with pytest.raises(Misuse, match="sample: "):
            tt.sample(**wrong)  # type: ignore[arg-type]  # what somebody may write


def bands(make: Any, **more: Any) -> Any:
    """A model of delays in three bands, and its training set."""
    world = make(late=lambda chance, risk: 40.0 * risk + chance.normal(0.0, 8.0, risk.size))
    source, key = world.model.label.source, world.model.label.key
    delays = tt.label(source, key=key, value=tt.col("delay").bucket([5.0, 25.0]), wait="1d", classes=[0, 1, 2])
    made = tt.model(
        "bands",
        request=world.model.request,
        features=[{"km": tt.col("distance")}],
        label=delays,
        estimator=LogisticRegression,
        metric="multi_log_loss",
        **more,
    )
    return made, build_training_set(made, world.requests, world.frames, cut_us=world.cut_us, positions={})


def test_a_sample_by_class_keeps_the_level_of_probabilities(make: Any) -> None:
    plain, training_set = bands(make)
    sampled, _ = bands(make, sample=tt.sample(classes={1: 0.3}, seed=2))
    chosen = np.flatnonzero(training_set.usable)
    target = training_set.target[chosen].astype(int)
    found = weigh(sampled, training_set, chosen, target)
    assert found.weights is not None
    assert set(found.weights[found.target == 1].tolist()) == {1 / 0.3}
    assert set(found.weights[found.target != 1].tolist()) == {1.0}
    assert (found.target != 1).sum() == (target != 1).sum()
    assert (found.target == 1).sum() == pytest.approx(0.3 * (target == 1).sum(), rel=0.25)
    values = training_set.features.values
    levels = [fit(one, training_set).predict(values).mean(axis=0) for one in (plain, sampled)]
    np.testing.assert_allclose(levels[0], levels[1], atol=0.04)
    assert plain.hash != sampled.hash


def test_a_sample_that_keeps_one_class_names_this_class(make: Any) -> None:
    made, training_set = bands(make)
    label = msgspec.structs.replace(made.label, classes=(7, 8, 9))
    few = msgspec.structs.replace(made, label=label, sample=tt.sample(classes={7: 1e-9, 8: 1e-9}))
    chosen = np.flatnonzero(training_set.usable)
    with pytest.raises(Misuse, match="all of them labelled 9"):
        weigh(few, training_set, chosen, training_set.target[chosen])


@pytest.mark.fast
@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"sample": tt.sample(negatives=0.5)}, r"Give shares by class: tt.sample\(classes=\{'0': 0.1\}\)"),
        ({"sample": tt.sample(classes={"x": 0.5})}, "names 'x'; its classes are 0, 1, 2"),
        ({"costs": {"false_positive": 1, "false_negative": 2}}, "for each true class of 0, 1, 2"),
        ({"costs": {0: 1, 1: 1, 2: {0: 1}}}, "for the true class '2', one number, or one for each of 0, 1"),
        ({"costs": {0: 1, 1: 1, 2: -1}}, "numbers of at least 0"),
        ({"costs": {0: 0, 1: 0, 2: 0}}, "not all of them 0"),
        ({"costs": [1, 2, 3]}, "under these names"),
    ],
)
def test_shares_and_costs_of_classes_that_are_none_are_named(make: Any, more: dict[str, Any], said: str) -> None:
    with pytest.raises(Misuse, match=rf"model 'bands'.*{said}"):
        bands(make, **more)


@pytest.mark.fast
def test_costs_of_classes_are_in_the_order_in_which_they_were_declared_and_of_no_hash(make: Any) -> None:
    made, _ = bands(make, costs={2: {1: 3, 0: 9}, 0: 1, 1: {0: 2, 2: 4}})
    assert made.costs.rows == ((0.0, 1.0, 1.0), (2.0, 0.0, 4.0), (9.0, 3.0, 0.0))
    assert made.hash == bands(make)[0].hash
