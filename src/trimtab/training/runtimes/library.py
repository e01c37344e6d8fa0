"""The parts that most runtimes share: fitting, weights of rows, progress."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trimtab.core.errors import Misuse
from trimtab.training.runtimes.formats import Format
from trimtab.training.runtimes.scoring_paths import RowCall

if TYPE_CHECKING:
    from trimtab.training.runtimes.ports import Array


class LibraryRuntime:
    """The base of runtimes whose estimators have a `fit` like those of scikit-learn."""

    format = Format()
    parity = 1e-9

    def accepts_null(self, estimator: Any) -> bool:
        return True

    def fit(
        self, estimator: Any, inputs: Array, target: Array, names: tuple[str, ...], weights: Array | None = None
    ) -> Any:
        given: dict[str, Any] = {}
        if weights is not None:  # the last step of a pipeline gets the weights
            steps = getattr(estimator, "steps", None)
            name, part = steps[-1] if steps else ("", estimator)
            if not takes_weights(part.fit, "sample_weight"):
                raise no_weights(part)
            given = {f"{name}__sample_weight" if name else "sample_weight": weights}
        with self.progress(estimator) as options:
            estimator.fit(inputs, target, **given, **options)
        return estimator

    @contextmanager
    def progress(self, estimator: Any) -> Iterator[dict[str, Any]]:
        """Yield arguments that make the estimator's `fit` report its progress; no arguments if no caller listens.

        These arguments do not change the fitted model.
        """
        yield {}

    def scoring_paths(self, model: Any) -> Mapping[str, RowCall]:
        """Return functions that score one row as the library does, but faster. The fastest comes first."""
        return {}

    def importance(self, fitted: Any) -> Array | None:
        return None


def takes_weights(function: Any, name: str) -> bool:
    """Return whether a function has a parameter for weights, or accepts any named argument."""
    parameters = inspect.signature(function).parameters
    return name in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def no_weights(estimator: Any) -> Misuse:
    """Return the error for an estimator that does not accept weights."""
    return Misuse(
        f"estimator {type(estimator).__name__}: its fit takes no sample_weight, but the model declares weights or a "
        "sample. Leave weights and sample out, or choose an estimator that takes them."
    )


def tree_count(estimator: Any, default: int) -> int:
    """Return how many trees an estimator will have."""
    params = estimator.get_params()
    names = ("iterations", "n_estimators", "num_boost_round", "num_trees")
    return next((int(params[name]) for name in names if params.get(name)), default)
