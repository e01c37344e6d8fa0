"""Every library's runtime against the contract."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_estimators import Centres, LeastSquares
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import forked
from trimtab.core.errors import Misuse
from trimtab.testing import RuntimeContract, contract_runtime
from trimtab.training import neural, onnx
from trimtab.training.runtimes import runtime_for


@pytest.fixture(autouse=True)
def quick_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the process that loads a model; one kind of model keeps a new Python."""
    if request.cls is not TestSklearn:
        monkeypatch.setattr(contract_runtime, "subprocess", forked.LIKE_SUBPROCESS)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where a class of one's own is found


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


class TestOwnClass(RuntimeContract):
    """A class with fit and predict."""

    classes = False
    trust = "pickle"

    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        return LeastSquares


class TestOwnClassOfChances(RuntimeContract):
    """A class with fit and predict_proba that does not say how many inputs it has: it raises what it raises."""

    trust = "pickle"
    refusal = ValueError
    refused = "could not be broadcast together"

    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        return Centres


class TestOwnClassOfSeveral(TestOwnClassOfChances):
    several = True


class TestLinear(RuntimeContract):
    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        return LogisticRegression


class TestLinearNumbers(RuntimeContract):
    classes = False

    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        return Ridge


class TestTrees(RuntimeContract):
    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        return lambda: RandomForestClassifier(5)


class Several(RuntimeContract):
    """A chance of each of three classes."""

    several = True


class TestSoftmaxOfSeveral(Several):
    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        return LogisticRegression


class TestSklearnOfSeveral(Several):
    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        return lambda: make_pipeline(StandardScaler(), LogisticRegression())


class TestLightgbmOfSeveral(Several):
    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        lightgbm = pytest.importorskip("lightgbm")
        return lambda: lightgbm.LGBMClassifier(n_estimators=20)


class TestXgboostOfSeveral(Several):
    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        xgboost = pytest.importorskip("xgboost")
        return lambda: xgboost.XGBClassifier(n_estimators=20)


class TestCatboostOfSeveral(Several):
    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        catboost = pytest.importorskip("catboost")
        return lambda: catboost.CatBoostClassifier(iterations=20)


class TestRiverOfSeveral(Several):
    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        pytest.importorskip("river")
        from river import linear_model, multiclass, preprocessing

        return lambda: (
            preprocessing.StandardScaler() | multiclass.OneVsRestClassifier(linear_model.LogisticRegression())
        )


class TestOnnxOfSeveral(Several):
    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("skl2onnx")
        return lambda: onnx(RandomForestClassifier(5))


class TestTorch(RuntimeContract):
    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        pytest.importorskip("torch", reason="PyTorch is no part of the lock: its build for Linux brings 3 GB for GPUs")
        return lambda: neural([8], epochs=3)


class TestTorchNumbers(TestTorch):
    classes = False


class TestTorchOfSeveral(TestTorch):
    several = True


def narrow(inputs: int, outputs: int) -> Any:
    import torch

    return torch.nn.Sequential(torch.nn.Linear(inputs, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, outputs))


def test_a_module_of_ones_own_is_found_by_its_name_and_refused_once_it_was_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("torch", reason="PyTorch is no part of the lock: its build for Linux brings 3 GB for GPUs")
    contract = RuntimeContract()
    runtime, found, saved = contract.fitted(lambda: neural(narrow, epochs=2))
    inputs, _ = contract.data()
    assert runtime.load(saved).predict(inputs).tobytes() == found.predict(inputs).tobytes()
    monkeypatch.setitem(globals(), "narrow", lambda inputs, outputs: None)
    with pytest.raises(Misuse, match="was changed after the training"):
        runtime.load(saved)
    with pytest.raises(Misuse, match="cannot be imported by its name"):
        contract.fitted(lambda: neural(lambda inputs, outputs: narrow(inputs, outputs)))


def test_without_torch_the_extra_is_named() -> None:
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401

        pytest.skip("PyTorch is here")
    with pytest.raises(Misuse, match=r'runtime torch: torch is not installed. pip install "trimtab\[torch\]"'):
        runtime_for(neural([4]))
    for wrong in ({"layers": [0]}, {"layers": 16}, {"epochs": 0}, {"learning_rate": 0.0}, {"learning_rate": "0.1"}):
        with pytest.raises(Misuse, match="neural: "):
            neural(**wrong)  # type: ignore[arg-type]  # what somebody may write


def test_a_river_model_with_code_inside_is_refused() -> None:
    pytest.importorskip("river")
    from river import naive_bayes

    contract = RuntimeContract()
    with pytest.raises(Misuse, match=r"skops cannot store it safely: it holds functools\.partial"):
        contract.fitted(naive_bayes.GaussianNB)


def test_a_river_model_of_several_classes_is_not_exported() -> None:
    pytest.importorskip("river")
    from river import linear_model, multiclass

    estimator = multiclass.OneVsRestClassifier(linear_model.LogisticRegression())
    runtime = runtime_for(estimator)
    labels = np.array([0, 1, 2, 1])
    saved = runtime.save(runtime.fit(estimator, np.arange(8.0).reshape(4, 2), labels, ("a", "b")))
    with pytest.raises(Misuse, match="river: a model of several classes cannot be exported"):
        runtime.format.native(saved)


def test_what_onnx_cannot_say_is_named() -> None:
    pytest.importorskip("skl2onnx")
    from sklearn.neighbors import NearestNeighbors

    estimator = onnx(NearestNeighbors())
    runtime = runtime_for(estimator)
    with pytest.raises(Misuse, match="onnx: NearestNeighbors cannot be converted"):
        runtime.save(runtime.fit(estimator, *RuntimeContract().data(), ("a", "b", "c", "d", "e")))


def test_trees_that_ask_for_null_are_not_converted_without_an_end() -> None:
    pytest.importorskip("skl2onnx")
    drawn = np.random.default_rng(0)
    x = drawn.normal(size=(400, 5))
    x[drawn.random(x.shape) < 0.3] = np.nan
    estimator = onnx(make_pipeline(StandardScaler(), RandomForestClassifier(5, random_state=0)))
    runtime = runtime_for(estimator)
    fitted = runtime.fit(estimator, x, np.isnan(x[:, 1]).astype(int), ("a", "b", "c", "d", "e"))
    with pytest.raises(Misuse, match="its trees test for missing values"):
        runtime.save(fitted)
