"""Every library's runtime against the contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trimtab.core.errors import Misuse
from trimtab.testing import RuntimeContract
from trimtab.training import onnx
from trimtab.training.runtimes import runtime_for


class TestSklearn(RuntimeContract):
    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        return lambda: make_pipeline(StandardScaler(), LogisticRegression())


class TestLightgbm(RuntimeContract):
    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        lightgbm = pytest.importorskip("lightgbm")
        return lambda: lightgbm.LGBMClassifier(n_estimators=20)


class TestXgboost(RuntimeContract):
    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        xgboost = pytest.importorskip("xgboost")
        return lambda: xgboost.XGBClassifier(n_estimators=20)


class TestXgboostNumbers(RuntimeContract):
    classes = False

    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        xgboost = pytest.importorskip("xgboost")
        return lambda: xgboost.XGBRegressor(n_estimators=20)


class TestCatboost(RuntimeContract):
    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        catboost = pytest.importorskip("catboost")
        return lambda: catboost.CatBoostClassifier(iterations=20)


class TestCatboostNumbers(RuntimeContract):
    classes = False

    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        catboost = pytest.importorskip("catboost")
        return lambda: catboost.CatBoostRegressor(iterations=20)


class TestRiver(RuntimeContract):
    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        pytest.importorskip("river")
        from river import linear_model, preprocessing

        return lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression()


class TestRiverNumbers(RuntimeContract):
    classes = False

    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        pytest.importorskip("river")
        from river import linear_model, preprocessing

        return lambda: preprocessing.StandardScaler() | linear_model.LinearRegression()


class TestOnnx(RuntimeContract):
    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("skl2onnx")
        return lambda: onnx(RandomForestClassifier(5))


class TestOnnxNumbers(RuntimeContract):
    classes = False

    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("skl2onnx")
        return lambda: onnx(make_pipeline(StandardScaler(), Ridge()))


def test_a_river_model_with_code_inside_is_refused() -> None:
    pytest.importorskip("river")
    from river import naive_bayes

    contract = RuntimeContract()
    with pytest.raises(Misuse, match=r"skops cannot store it safely: it holds functools\.partial"):
        contract.fitted(naive_bayes.GaussianNB)


def test_what_onnx_cannot_say_is_named() -> None:
    pytest.importorskip("skl2onnx")
    from sklearn.neighbors import NearestNeighbors

    estimator = onnx(NearestNeighbors())
    runtime = runtime_for(estimator)
    with pytest.raises(Misuse, match="onnx: NearestNeighbors cannot be converted"):
        runtime.save(runtime.fit(estimator, *RuntimeContract().data(), ("a", "b", "c", "d", "e")))
