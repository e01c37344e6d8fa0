"""LightGBM: saved as booster text, scored by the library itself through its C interface."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from trimtab.core.errors import Misuse
from trimtab.training.runtimes.boosters.lightgbm_booster import BoosterScorer
from trimtab.training.runtimes.watched import watched
from trimtab.training.runtimes.weighted import FitsInPlace

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LONGEST = 10_000  # rows of a list: the library's own limit
_DEGREES = 31  # of relevance, where `label_gain` gives no others: 0 to 30


class LightgbmRuntime(FitsInPlace):
    """Fits with a fixed seed and no race between threads, so that equal data give equal text."""

    name = "lightgbm"
    row_exact = True
    parity = 1e-9

    def handles(self, estimator: Any) -> bool:
        import lightgbm

        return isinstance(estimator, lightgbm.LGBMModel)

    def accepts_null(self, estimator: Any) -> bool:
        return True

    def configure(self, estimator: Any, *, seed: int, threads: int) -> None:
        given = estimator.get_params()
        chosen: dict[str, Any] = {"n_jobs": threads, "deterministic": True}
        if not given.get("force_col_wise"):
            chosen["force_row_wise"] = True
        if given.get("random_state") is None:
            chosen["random_state"] = seed
        if "verbose" not in given and "verbosity" not in given:
            chosen["verbosity"] = -1
        estimator.set_params(**chosen)

    def ranks(self, estimator: Any) -> bool:
        import lightgbm

        return isinstance(estimator, lightgbm.LGBMRanker)

    def fit_lists(
        self,
        estimator: Any,
        inputs: NDArray[Any],
        relevance: NDArray[Any],
        sizes: NDArray[Any],
        weights: NDArray[Any] | None = None,
    ) -> Any:
        import numpy as np

        if int(sizes.max()) > _LONGEST:
            raise Misuse(
                f"LGBMRanker: a list has {int(sizes.max()):,} rows, and the library takes {_LONGEST:,} at most. Give "
                "shorter lists (what people were shown), or an estimator that learns each row: LGBMRegressor."
            )
        degrees = len(estimator.get_params().get("label_gain") or range(_DEGREES))
        bad = relevance[(relevance != np.floor(relevance)) | (relevance >= degrees)]
        if bad.size:
            raise Misuse(
                f"LGBMRanker: relevance must be a whole number from 0 to {degrees - 1}; {bad.size} of {relevance.size} "
                f"labels are none, e.g. {bad[0]:g}. Let the label's expression give degrees, give LGBMRanker a "
                "label_gain of more, or take an estimator of numbers: LGBMRegressor."
            )
        with watched(estimator) as how:
            of_rows = None if weights is None else np.repeat(weights, sizes)
            estimator.fit(inputs, relevance, group=sizes, sample_weight=of_rows, **how)
        return estimator

    def save(self, fitted: Any) -> bytes:
        return str(fitted.booster_.model_to_string()).encode()

    def load(self, data: bytes) -> BoosterScorer:
        return BoosterScorer(data)

    def importance(self, fitted: Any) -> NDArray[Any] | None:
        import numpy as np

        return np.asarray(fitted.booster_.feature_importance("gain"), np.float64)


def __getattr__(name: str) -> Any:
    """`RUNTIME`, where LightGBM is installed: what scores loads without importing it."""
    if name == "RUNTIME":
        if find_spec("lightgbm") is None:
            raise ModuleNotFoundError("No module named 'lightgbm'", name="lightgbm")
        return LightgbmRuntime()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
