"""Release of scorers: they are freed at once, since a service rarely collects reference cycles."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from trimtab.stats.recalibration import fit_recalibration
from trimtab.training import onnx
from trimtab.training.fitting.artifact import CalibratedScorer
from trimtab.training.fitting.classes import Classes, ClassScorer
from trimtab.training.fitting.standardize import StandardizedScorer, fit_standardize
from trimtab.training.runtimes import runtime_for

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 5))
Y = (X[:, 0] + RNG.normal(size=200) > 0).astype(np.int64)
THREE = np.digitize(X[:, 0], [-0.5, 0.5])


def made(library: str, name: str) -> Callable[[], Any]:
    return lambda: getattr(pytest.importorskip(library), name)(n_estimators=5)


def onnx_forest() -> Any:
    pytest.importorskip("skl2onnx")
    pytest.importorskip("onnxruntime")
    return onnx(RandomForestClassifier(5))


ESTIMATORS: dict[str, Callable[[], Any]] = {
    "lightgbm": made("lightgbm", "LGBMClassifier"),
    "xgboost": made("xgboost", "XGBClassifier"),
    "catboost": made("catboost", "CatBoostClassifier"),
    "onnx": onnx_forest,
    "forest": lambda: RandomForestClassifier(5),
    "boosted": lambda: GradientBoostingClassifier(n_estimators=5),
    "histogram": lambda: HistGradientBoostingClassifier(max_iter=5),
    "folded": lambda: make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()),
    "pipeline": lambda: make_pipeline(SimpleImputer(), PolynomialFeatures(), LogisticRegression()),
    "linear": LogisticRegression,
}


def weakly(scorer: Any) -> list[weakref.ref[Any]]:
    """The scorer and the library's own object in it, which holds the memory."""
    model = getattr(scorer, "model", None)
    held = [getattr(model, name, None) for name in ("session", "model", "estimator")]
    return [weakref.ref(one) for one in (scorer, model, *held) if one is not None]


@pytest.mark.parametrize("target", [Y, THREE], ids=["two", "three"])
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.usefixtures("uncollected")
def test_a_released_scorer_is_freed_without_the_collector(name: str, target: Any) -> None:
    estimator = ESTIMATORS[name]()
    runtime = runtime_for(estimator)
    runtime.configure(estimator, seed=0, threads=1)
    data = runtime.save(runtime.fit(estimator, X, target, tuple("abcde")))
    del estimator
    row = X[0].tolist()
    for way in getattr(runtime.load(data), "row_calls", ("only",)):
        scorer: Any = runtime.load(data)
        if way != "only":
            scorer.choose(way)
        alone = scorer.predict_row(row)
        other = threading.Thread(target=scorer.predict_row, args=(row,))
        other.start()
        other.join()
        np.testing.assert_allclose(alone, scorer.predict(X[:1])[0], rtol=0, atol=1e-5)
        watched = weakly(scorer)
        del scorer, other
        assert {one() for one in watched} == {None}, way


@pytest.mark.usefixtures("uncollected")
def test_what_is_around_a_scorer_goes_with_it() -> None:
    estimator = ESTIMATORS["lightgbm"]()
    runtime = runtime_for(estimator)
    runtime.configure(estimator, seed=0, threads=1)
    data = runtime.save(runtime.fit(estimator, X, Y, tuple("abcde")))
    scorer: Any = runtime.load(data)
    watched = weakly(scorer)
    scorer = CalibratedScorer(
        fit_recalibration("isotonic", Y, scorer.predict(X)), StandardizedScorer(fit_standardize(X, None), scorer)
    )
    scorer.predict_row(X[0].tolist())
    del scorer
    assert {one() for one in watched} == {None}
    scorer = runtime.load(data)
    watched = weakly(scorer)
    scorer = ClassScorer(Classes(names=("a", "b", "c"), fitted=(0, 1), rows=200), scorer)
    scorer.predict_row(X[0].tolist())
    del scorer
    assert {one() for one in watched} == {None}


@pytest.mark.usefixtures("uncollected")
def test_compiled_trees_of_catboost_are_freed_without_the_collector() -> None:
    pytest.importorskip("catboost")
    from trimtab.training.runtimes.boosters.catboost_code import _sum_of_leaves, _Tree

    total = _sum_of_leaves([_Tree(splits=[], leaf_values=[1.5])], {0: 0}, 1)
    assert total([0.0]) == 1.5
    watched = weakref.ref(total)
    del total
    assert watched() is None
