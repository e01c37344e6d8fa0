from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor

from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.training import environment
from trimtab.training.runtimes import runtime_for

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 6))
Y = (X[:, 0] + RNG.normal(size=400) > 0).astype(np.int64)
THREE = np.digitize(X[:, 0], [-0.5, 0.5])


def saved(estimator: Any, target: Any = Y) -> tuple[Any, bytes]:
    runtime = runtime_for(estimator)
    runtime.configure(estimator, seed=0, threads=1)
    fitted = runtime.fit(estimator, X, target, tuple(f"x{n}" for n in range(X.shape[1])))
    return runtime, runtime.save(fitted)


@pytest.mark.fast
def test_a_lightgbm_model_is_loaded_and_scored_without_numpy_and_without_its_package(tmp_path: Path) -> None:
    runtime, data = saved(LGBMClassifier(n_estimators=10))
    file = tmp_path / "model"
    file.write_bytes(data)
    code = (
        "import sys\n"
        "from trimtab.training.runtimes import runtime_named\n"
        "scorer = runtime_named('lightgbm').load(open(sys.argv[1], 'rb').read())\n"
        "row = [0.5, float('nan'), -0.0, 5e-324, 1e300, -3.25]\n"
        "print(scorer.predict_row(row).hex(), scorer.predict_rows([row])[0].hex())\n"
        "assert not {'numpy', 'lightgbm', 'sklearn', 'scipy'} & sys.modules.keys(), sorted(sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True).stdout
    here = runtime.load(data).predict(np.array([[0.5, np.nan, -0.0, 5e-324, 1e300, -3.25]]))[0]
    assert out.split() == [here.hex(), here.hex()]


def test_lightgbm_rows_batches_and_rows_without_numpy_have_the_same_bits_in_each_thread() -> None:
    odd = X[:50].copy()
    odd[::3, 1], odd[1::3, 2], odd[2::5, 3] = np.nan, 5e-324, -0.0
    for estimator, target in ((LGBMClassifier(n_estimators=9), THREE), (LGBMRegressor(n_estimators=9), X[:, 1])):
        runtime, data = saved(estimator, target)
        scorer = runtime.load(data)
        together = scorer.predict(odd)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(lambda one: [*map(one.predict_row, odd.tolist())], scorer) for _ in range(4)]
            found = [np.array(one.result()) for one in asked]
        found.append(np.array(scorer.predict_rows(odd.tolist())))
        assert [one.tobytes() for one in found] == [together.tobytes()] * 5
        assert scorer.predict(np.asfortranarray(odd)).tobytes() == together.tobytes()


def test_a_lightgbm_row_of_another_width_or_kind_and_bytes_that_are_no_booster_are_refused() -> None:
    runtime, data = saved(LGBMClassifier(n_estimators=2))
    scorer = runtime.load(data)
    with pytest.raises(Misuse, match="needed 6 numbers, found 2 values"):
        scorer.predict_row([1.0, 2.0])
    with pytest.raises(Misuse, match="not a number"):
        scorer.predict_row(["a"] * 6)
    with pytest.raises(Misuse, match="6 columns"):
        scorer.predict(X[:, :2])
    with pytest.raises(Corrupt, match="not a booster"):
        runtime.load(b"tree\nnothing of the kind")


@pytest.mark.fast
def test_the_level_of_the_processor_is_read_as_numpy_sees_it() -> None:
    code = "from trimtab.training.environment import cpu_level; import sys; print(cpu_level(), 'numpy' in sys.modules)"
    told = {name: value for name, value in os.environ.items() if not name.startswith("NPY_")}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=told).stdout
    assert out.split()[0] == environment._numpy_level()


def odd_rows(*, nulls: bool) -> Any:
    rows = np.vstack([X[:120], RNG.normal(scale=50.0, size=(60, X.shape[1]))])
    rows[::11, 1], rows[1::11, 2], rows[2::11, 3], rows[3::11, 4] = 5e-324, -0.0, 1e30, -1e-40
    if nulls:
        rows[5::6, 0], rows[4::9, 3], rows[7] = np.nan, np.nan, np.nan
    return rows


def trees(kind: str) -> Any:
    import sklearn.ensemble
    import sklearn.tree

    sizes = {"n_estimators": 12} if kind.startswith(("Random", "Extra")) else {}
    return getattr(sklearn.tree if kind.startswith("Decision") else sklearn.ensemble, kind)(**sizes)


@pytest.mark.parametrize(
    "kind",
    [
        *("RandomForestClassifier", "RandomForestRegressor", "ExtraTreesClassifier", "ExtraTreesRegressor"),
        *("DecisionTreeClassifier", "DecisionTreeRegressor"),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_trees_of_scikit_learn_are_walked_to_what_the_library_says(kind: str, several: bool) -> None:
    estimator = trees(kind)
    runtime, data = saved(estimator, THREE if several and kind.endswith("Classifier") else Y)
    scorer = runtime.load(data)
    rows = odd_rows(nulls=runtime.accepts_null(estimator))
    alone = np.array([scorer.predict_row(row) for row in rows.tolist()])
    np.testing.assert_allclose(alone, scorer.predict(rows), rtol=0, atol=1e-14)
    assert scorer.row_call == "trees"
    if not several:
        assert alone.tobytes() == scorer.predict(rows).tobytes()
    with pytest.raises(Misuse, match=r"needed 6 numbers|needed 6 columns"):
        scorer.predict_row([1.0])
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="too large"):  # the library's own message
        scorer.predict_row([1e39] * 6)


def test_pipelines_of_scalers_and_a_linear_model_are_one_dot_product_within_their_tolerance() -> None:
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, PolynomialFeatures, RobustScaler, StandardScaler

    for steps, way in (
        ((SimpleImputer(strategy="median"), StandardScaler(), LogisticRegression()), "folded"),
        ((StandardScaler(), SimpleImputer(), MinMaxScaler(), Ridge()), "folded"),
        ((RobustScaler(), MaxAbsScaler(), LogisticRegression()), "folded"),
        ((StandardScaler(with_mean=False), Ridge()), "folded"),
        ((SimpleImputer(add_indicator=True), LogisticRegression()), "library"),
        ((PolynomialFeatures(), LogisticRegression()), "library"),
    ):
        pipeline = make_pipeline(*steps)
        runtime, data = saved(pipeline)
        scorer = runtime.load(data)
        assert scorer.row_call == way, steps
        rows = X[:60].copy()
        if runtime.accepts_null(pipeline):
            rows[::4, 1], rows[3] = np.nan, np.nan
        alone = np.array([scorer.predict_row(row) for row in rows.tolist()])
        np.testing.assert_allclose(alone, scorer.predict(rows), rtol=0, atol=1e-13)


@pytest.mark.parametrize("first", [0.0, float("nan")])
def test_a_pipeline_that_imputes_another_value_than_null_is_not_folded(first: float) -> None:
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    counts = np.random.default_rng(1).poisson(1.0, size=X.shape).astype(np.float64)
    steps = [SimpleImputer()] if first != first else []
    pipeline = make_pipeline(*steps, SimpleImputer(missing_values=0.0), LogisticRegression()).fit(counts, Y)
    runtime = runtime_for(pipeline)
    scorer = runtime.load(runtime.save(pipeline))
    assert scorer.row_call == "library"
    alone = np.array([scorer.predict_row(row) for row in counts[:50].tolist()])
    np.testing.assert_allclose(alone, scorer.predict(counts[:50]), rtol=0, atol=1e-13)


def test_a_path_that_is_wrong_only_at_0_or_at_a_count_does_not_agree() -> None:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from trimtab.training.runtimes.sklearn import EstimatorModel

    own = EstimatorModel(make_pipeline(StandardScaler(), Ridge()).fit(X, Y))

    def off_at(odd: float) -> Callable[[list[float]], Any]:
        return lambda row: np.add(own.predict_row(row), 1e-6 * (odd in row))

    assert own.agrees(own.predict_row)
    assert [own.agrees(off_at(odd)) for odd in (0.0, 1.0, -1.0, 7.0)] == [False, False, False, True]


def test_a_pipeline_without_an_imputer_refuses_a_null_in_one_row_as_it_does_in_a_batch() -> None:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    runtime, data = saved(make_pipeline(StandardScaler(), Ridge()))
    with pytest.raises(Misuse, match="no part of the pipeline imputes it"):
        runtime.load(data).predict_row([0.0, float("nan"), 0.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("task", ["class", "classes", "number"])
@pytest.mark.parametrize("library", ["lightgbm", "xgboost", "catboost"])
def test_each_path_of_an_exact_runtime_gives_the_bits_of_a_batch(library: str, task: str) -> None:
    package = pytest.importorskip(library)
    names = {"lightgbm": "LGBM{}", "xgboost": "XGB{}", "catboost": "CatBoost{}"}
    kind = names[library].format("Regressor" if task == "number" else "Classifier")
    runtime, data = saved(
        getattr(package, kind)(n_estimators=12), {"class": Y, "classes": THREE, "number": X[:, 1]}[task]
    )
    scorer, rows = runtime.load(data), odd_rows(nulls=True)
    together = scorer.predict(rows)
    for name in scorer.row_calls:
        scorer.choose(name)
        alone = np.array([scorer.predict_row(row) for row in rows.tolist()])
        assert alone.tobytes() == together.tobytes(), name
        with pytest.raises(Exception, match=r"\w"):
            scorer.predict_row([1.0])
    halves = [scorer.predict(rows[at : at + 7]) for at in range(0, len(rows), 7)]
    assert np.concatenate(halves).tobytes() == together.tobytes()
    with pytest.raises(NotFound, match="library"):
        scorer.choose("telepathy")


def test_catboost_trees_of_another_shape_stay_with_the_library() -> None:
    catboost = pytest.importorskip("catboost")
    runtime, data = saved(catboost.CatBoostClassifier(n_estimators=5, grow_policy="Lossguide"))
    assert runtime.load(data).row_call == "library"
    runtime, data = saved(catboost.CatBoostClassifier(n_estimators=5))
    assert runtime.load(data).row_call == "compiled"


def test_parts_for_which_onnx_runtime_has_no_kernels_of_double_are_stored_in_single_precision() -> None:
    pytest.importorskip("skl2onnx")
    pytest.importorskip("onnxruntime")
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    from trimtab.training import onnx

    for estimator in (RandomForestRegressor(5), make_pipeline(SimpleImputer(), Ridge())):
        runtime, data = saved(onnx(estimator), X[:, 0])
        scorer = runtime.load(data)
        np.testing.assert_allclose(scorer.predict(X), estimator.predict(X), rtol=0, atol=1e-5)
        assert scorer.predict_row(X[0].tolist()) == pytest.approx(scorer.predict(X)[0], abs=1e-5)
