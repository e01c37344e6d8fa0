from __future__ import annotations

import concurrent.futures
import hashlib
import io
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, PolynomialFeatures, StandardScaler

from trimtab.core.errors import Corrupt, Misuse, NotFound, Unavailable
from trimtab.training.fitting.standardize import StandardizedScorer, fit_standardize
from trimtab.training.runtimes import runtime_for, runtime_named
from trimtab.training.runtimes.table import missing_library

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 5))
Y = (X[:, 0] + RNG.normal(size=300) > 0).astype(np.int64)
ESTIMATORS: dict[str, Callable[[], Any]] = {
    "lightgbm": lambda: LGBMClassifier(n_estimators=20),
    "lightgbm_number": lambda: LGBMRegressor(n_estimators=20),
    "logistic": LogisticRegression,
    "sgd": lambda: SGDClassifier(loss="log_loss"),
    "ridge": Ridge,
    "histogram": lambda: HistGradientBoostingClassifier(max_iter=5),
    "forest": lambda: RandomForestClassifier(5),
    "pipeline": lambda: make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()),
}


class Mean:
    """A user's own class."""

    def fit(self, x: Any, y: Any) -> None:
        self.mean = float(np.mean(y))

    def predict(self, x: Any) -> Any:
        return np.full(len(x), self.mean)


class Opens:
    """What an attacker would put into a pickle."""

    def __reduce__(self) -> Any:
        return (print, ("executed",))


def fitted(make: Callable[[], Any], *, seed: int = 3) -> tuple[Any, Any]:
    estimator = make()
    runtime = runtime_for(estimator)
    runtime.configure(estimator, seed=seed, threads=1)
    estimator.fit(X, Y)
    return estimator, runtime


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_saved_estimator_scores_like_the_one_in_memory_and_equal_fits_give_equal_bytes(name: str) -> None:
    estimator, runtime = fitted(ESTIMATORS[name])
    data = runtime.save(estimator)
    assert data == runtime.save(fitted(ESTIMATORS[name])[0])
    scorer = runtime.load(data)
    own = estimator.predict_proba(X)[:, 1] if hasattr(estimator, "predict_proba") else estimator.predict(X)
    np.testing.assert_allclose(scorer.predict(X), own, rtol=0, atol=1e-12)
    alone = np.array([scorer.predict_row(row) for row in X[:20].tolist()])
    together = scorer.predict(X[:20])
    if runtime.row_exact:
        assert alone.tobytes() == together.tobytes()
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-12)
    assert scorer.predict(X[:0]).shape == (0,)


@pytest.mark.slow
def test_equal_fits_give_equal_bytes_in_another_process() -> None:
    code = (
        "import sys, hashlib; sys.path.insert(0, sys.argv[1]); import test_runtimes as t\n"
        "for n in ('lightgbm', 'logistic', 'forest'):\n"
        "    e, r = t.fitted(t.ESTIMATORS[n]); print(hashlib.sha256(r.save(e)).hexdigest())"
    )
    folder = __file__.rpartition("/")[0]
    other = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True).stdout
    fits = (fitted(ESTIMATORS[name]) for name in ("lightgbm", "logistic", "forest"))
    assert other.split() == [hashlib.sha256(runtime.save(estimator)).hexdigest() for estimator, runtime in fits]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.just(float("nan")), st.floats(-1e150, 1e150)), min_size=5, max_size=5))
def test_one_row_through_the_c_interface_has_the_bits_of_a_batch(row: list[float]) -> None:
    assert BOOSTER.predict_row(row).hex() == float(BOOSTER.predict(np.array([row]))[0]).hex()


def test_threads_score_rows_at_once() -> None:
    expected = BOOSTER.predict(X).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(BOOSTER.predict_row, X.tolist())) == expected


def test_a_row_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(Misuse, match="needed 5 numbers, found 4"):
        BOOSTER.predict_row([1.0] * 4)


@pytest.mark.parametrize(("name", "accepts"), [("lightgbm", True), ("logistic", False), ("pipeline", True)])
def test_who_refuses_nulls_is_known(name: str, accepts: bool) -> None:
    estimator = ESTIMATORS[name]()
    assert runtime_for(estimator).accepts_null(estimator) is accepts


def test_who_refuses_nulls_is_known_of_each_part_of_a_column_transformer() -> None:
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    rows = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)
    for sides, rest, accepts in (
        ([(numbers, [0, 1]), (OneHotEncoder(handle_unknown="ignore"), [2])], "drop", True),
        ([(SimpleImputer(), [0, 1, 2, 3, 4])], "drop", True),
        ([(make_union(SimpleImputer(), MissingIndicator(features="all")), [0, 1])], "drop", True),
        ([(numbers, [0, 1])], "passthrough", False),
        ([(StandardScaler(), [0, 1])], "drop", False),
        ([(PolynomialFeatures(), [0]), (SimpleImputer(), [1])], "drop", False),
    ):
        estimator = make_pipeline(make_column_transformer(*sides, remainder=rest), LogisticRegression())
        assert runtime_for(estimator).accepts_null(estimator) is accepts, sides
        try:
            estimator.fit(rows, Y).predict_proba(np.full((1, rows.shape[1]), np.nan))
        except ValueError:
            assert not accepts, sides
        else:
            assert accepts, sides


def test_a_seed_that_the_user_chose_stays() -> None:
    estimator = LGBMClassifier(random_state=11)
    runtime_for(estimator).configure(estimator, seed=3, threads=1)
    assert estimator.get_params()["random_state"] == 11
    assert estimator.get_params()["n_jobs"] == 1


def test_an_estimator_outside_the_safe_formats_needs_trust() -> None:
    with pytest.raises(Misuse, match='trust="pickle"'):
        runtime_for(Mean())
    own = make_pipeline(FunctionTransformer(abs_of), LogisticRegression())
    runtime = runtime_for(own)
    own.fit(X, Y)
    with pytest.raises(Misuse, match=r"abs_of.*trust=\"pickle\""):
        runtime.save(own)


def test_pickle_works_once_it_is_trusted() -> None:
    estimator = Mean()
    runtime = runtime_for(estimator, trust="pickle")
    estimator.fit(X, Y)
    assert runtime.name == "pickle"
    assert pickle.loads(pickle.dumps(1)) == 1
    local = type("Local", (Mean,), {})()
    with pytest.raises(Misuse, match="pickle cannot store it"):
        runtime.save(local)


@pytest.mark.parametrize("data", [b"", b"not a model", b"tree\nversion=v4\n"])
def test_damaged_bytes_are_named(data: bytes) -> None:
    for name in ("lightgbm", "sklearn", "pickle"):
        with pytest.raises(Corrupt, match=f"{len(data)}"):
            runtime_named(name).load(data)


def test_bytes_that_would_run_code_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    runtime = runtime_named("sklearn")
    model = make_pipeline(FunctionTransformer(abs_of), LogisticRegression()).fit(X, Y)
    for data in (skops.io.dumps(model), pickle.dumps(Opens())):
        with pytest.raises(Corrupt):
            runtime.load(data)
    assert "executed" not in capsys.readouterr().out


def test_stored_archives_hold_no_times_and_no_addresses() -> None:
    estimator, runtime = fitted(ESTIMATORS["logistic"])
    with zipfile.ZipFile(io.BytesIO(runtime.save(estimator))) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist()[:2] == ["0.npy", "1.npy"]


def test_missing_libraries_say_what_to_install() -> None:
    gomp = missing_library("lightgbm", OSError("libgomp.so.1: cannot open shared object file"))
    assert isinstance(gomp, Unavailable)
    assert "apt-get install libgomp1" in str(gomp)
    absent = missing_library("lightgbm", ModuleNotFoundError("No module named 'lightgbm'", name="lightgbm"))
    assert isinstance(absent, Misuse)
    assert 'pip install "trimtab[lightgbm]"' in str(absent)
    part = missing_library("catboost.core", ModuleNotFoundError("No module named 'catboost'", name="catboost.core"))
    assert 'pip install "trimtab[catboost]"' in str(part)
    other = missing_library("forests", ModuleNotFoundError("No module named 'forests.deep'", name="forests.deep"))
    assert isinstance(other, Misuse)
    assert (
        str(other) == "library forests.deep: it is not installed. Install the package that provides 'forests' with pip"
    )
    with pytest.raises(NotFound, match="There are lightgbm"):
        runtime_named("tensorflow")


def test_the_step_has_the_same_bits_for_a_row_and_a_matrix_and_leaves_no_null() -> None:
    matrix = np.column_stack([X, np.full(300, np.nan), np.full(300, 7.0)])
    matrix[::3, 1] = np.nan
    step = fit_standardize(matrix)
    scaled = step.apply(matrix)
    assert np.isfinite(scaled).all()
    assert not scaled[:, 5].any()
    assert not scaled[:, 6].any()
    assert np.array([step.apply_row(row) for row in matrix.tolist()]).tobytes() == scaled.tobytes()
    np.testing.assert_allclose(np.nanmean(matrix[:, :5], axis=0), step.means[:5])
    np.testing.assert_allclose(scaled[:, 0].std(), 1.0)
    scorer = StandardizedScorer(fit_standardize(X), BOOSTER)
    assert scorer.predict_row(X[0].tolist()) == scorer.predict(X)[0]


def abs_of(x: Any) -> Any:
    return np.abs(x)


BOOSTER = (lambda pair: pair[1].load(pair[1].save(pair[0])))(fitted(ESTIMATORS["lightgbm"]))


def test_a_linear_booster_of_xgboost_is_refused_before_its_fit_and_where_its_bytes_are_read() -> None:
    xgboost = pytest.importorskip("xgboost")
    estimator = xgboost.XGBClassifier(booster="gblinear", n_estimators=3, verbosity=0)
    with pytest.raises(Misuse, match=r'estimator XGBClassifier: booster="gblinear" has no trees.*booster="gbtree"'):
        runtime_for(estimator).configure(estimator, seed=0, threads=1)
    data = bytes(estimator.fit(X, Y).get_booster().save_raw("ubj"))
    with pytest.raises(Misuse, match=r'xgboost: booster="gblinear" has no trees'):
        runtime_named("xgboost").load(data)
