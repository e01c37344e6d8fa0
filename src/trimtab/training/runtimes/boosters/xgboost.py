"""XGBoost: saved as UBJSON, scored by the library itself through its C interface."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from trimtab.core.errors import Misuse
from trimtab.training.runtimes.boosters.xgboost_booster import TreesScorer, no_linear
from trimtab.training.runtimes.watched import watched
from trimtab.training.runtimes.weighted import FitsInPlace

if TYPE_CHECKING:
    from numpy.typing import NDArray


class XgboostRuntime(FitsInPlace):
    """Fits with a fixed seed; equal data give equal bytes."""

    name = "xgboost"
    row_exact = True
    parity = 1e-9

    def handles(self, estimator: Any) -> bool:
        import xgboost

        return isinstance(estimator, xgboost.XGBModel)

    def accepts_null(self, estimator: Any) -> bool:
        return True

    def configure(self, estimator: Any, *, seed: int, threads: int) -> None:
        if estimator.get_params().get("booster") == "gblinear":
            raise no_linear(f"estimator {type(estimator).__name__}")
        chosen: dict[str, Any] = {"n_jobs": threads}
        if estimator.get_params().get("random_state") is None:
            chosen["random_state"] = seed
        if estimator.get_params().get("verbosity") is None:
            chosen["verbosity"] = 0
        estimator.set_params(**chosen)

    def ranks(self, estimator: Any) -> bool:
        import xgboost

        return isinstance(estimator, xgboost.XGBRanker)

    def fit_lists(
        self,
        estimator: Any,
        inputs: NDArray[Any],
        relevance: NDArray[Any],
        sizes: NDArray[Any],
        weights: NDArray[Any] | None = None,
    ) -> Any:
        import numpy as np

        whole = str(estimator.objective) in ("rank:ndcg", "rank:map")
        bad = relevance[relevance != np.floor(relevance)] if whole else relevance[:0]
        if bad.size:
            raise Misuse(
                f"XGBRanker: relevance must be a whole number with {estimator.objective}; {bad.size} of "
                f"{relevance.size} labels are none, e.g. {bad[0]:g}. Let the label's expression give degrees, or take "
                'objective="rank:pairwise".'
            )
        with watched(estimator) as how:
            lists = np.repeat(np.arange(sizes.size), sizes)
            return estimator.fit(inputs, relevance, qid=lists, sample_weight=weights, **how)

    def save(self, fitted: Any) -> bytes:
        booster = fitted.get_booster()
        if callable(fitted.objective):
            raise Misuse("xgboost: an objective that is a function is not stored with the model. Use one by name.")
        return bytes(booster.save_raw("ubj"))

    def load(self, data: bytes) -> TreesScorer:
        return TreesScorer(data)

    def importance(self, fitted: Any) -> NDArray[Any] | None:
        import numpy as np

        return np.asarray(fitted.feature_importances_, np.float64)


def __getattr__(name: str) -> Any:
    """`RUNTIME`, where XGBoost is installed: what scores loads without importing it."""
    if name == "RUNTIME":
        if find_spec("xgboost") is None:
            raise ModuleNotFoundError("No module named 'xgboost'", name="xgboost")
        return XgboostRuntime()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
