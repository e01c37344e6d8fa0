"""How estimators of scikit-learn's manner are told the weights of their rows."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from trimtab.core.errors import Misuse
from trimtab.training.runtimes.watched import watched

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FitsInPlace:
    """The `fit` of runtimes whose estimators are fitted as scikit-learn's are: by their own `fit`, in place."""

    def fit(
        self,
        estimator: Any,
        inputs: NDArray[Any],
        target: NDArray[Any],
        names: tuple[str, ...],
        weights: NDArray[Any] | None = None,
    ) -> Any:
        fit_weighted(estimator, inputs, target, weights)
        return estimator


def fit_weighted(estimator: Any, inputs: NDArray[Any], target: NDArray[Any], weights: NDArray[Any] | None) -> Any:
    """What the estimator's `fit` gives, told the weights if there are any; of a pipeline, its last part is told.

    Raises:
        Misuse: There are weights, and the estimator takes none.
    """
    with watched(estimator) as how:
        return _fitted(estimator, inputs, target, weights, how)


def _fitted(
    estimator: Any, inputs: NDArray[Any], target: NDArray[Any], weights: NDArray[Any] | None, how: dict[str, Any]
) -> Any:
    if weights is None:
        return estimator.fit(inputs, target, **how)
    steps = getattr(estimator, "steps", None)
    name, part = steps[-1] if steps else ("", estimator)
    if not takes_weights(part.fit, "sample_weight"):
        raise refused(part)
    return estimator.fit(inputs, target, **{f"{name}__sample_weight" if name else "sample_weight": weights}, **how)


def takes_weights(function: Any, name: str) -> bool:
    """Whether a function has a parameter for weights."""
    return name in inspect.signature(function).parameters


def refused(estimator: Any) -> Misuse:
    """What to tell somebody whose estimator takes no weights."""
    return Misuse(
        f"estimator {type(estimator).__name__}: its fit takes no sample_weight, and the model declares weights or a "
        "sample. Leave weights and sample out, or choose an estimator that takes them."
    )
