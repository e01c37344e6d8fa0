"""River: models that learn row by row, saved with skops; only River's own types are read back."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from river import base

from trimtab.core.errors import Corrupt, Misuse
from trimtab.training.runtimes.ports import Score, check_columns, wrong_row
from trimtab.training.runtimes.skops_bytes import dumps, loads
from trimtab.training.runtimes.weighted import refused, takes_weights

# Data that River keeps: its own types and plain containers. Nothing that can be called.
_ALLOWED = (
    "river.",
    "builtins.frozenset",
    "collections.Counter",
    "collections.deque",
    "collections.defaultdict",
    "random.Random",
)


class _Saved(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is stored: the inputs' names, by which River models know their features, and the model."""

    names: tuple[str, ...]
    model: bytes
    classes: int = 0  # three or more: its classes are the numbers below; else they are False and True


class RiverRuntime:
    """Learns the rows one by one, in order."""

    name = "river"
    row_exact = True
    parity = 1e-9

    def handles(self, estimator: Any) -> bool:
        return isinstance(estimator, base.Estimator)

    def accepts_null(self, estimator: Any) -> bool:
        return False

    def configure(self, estimator: Any, *, seed: int, threads: int) -> None:
        if hasattr(estimator, "seed") and estimator.seed is None:
            estimator.seed = seed

    def fit(
        self,
        estimator: Any,
        inputs: NDArray[Any],
        target: NDArray[Any],
        names: tuple[str, ...],
        weights: NDArray[Any] | None = None,
    ) -> Any:
        chances = np.issubdtype(target.dtype, np.integer)
        classes = int(target.max()) + 1 if chances and target.max() > 1 else 0
        labels = target.astype(np.bool_).tolist() if chances and not classes else target.tolist()
        more: list[dict[str, float]] = [{}] * len(target)
        if weights is not None:
            last = _parts(estimator)[-1]
            if not takes_weights(last.learn_one, "w"):
                raise refused(last)
            more = [{"w": weight} for weight in weights.tolist()]
        for row, label, weight in zip(inputs.tolist(), labels, more, strict=True):
            estimator.learn_one(dict(zip(names, row, strict=True)), label, **weight)
        return RiverScorer(estimator, names, classes)

    def save(self, fitted: Any) -> bytes:
        model = fitted.model
        for part in _parts(model):
            if not type(part).__module__.startswith("river."):
                raise Misuse(
                    f"river: {type(part).__module__}.{type(part).__qualname__} is no part of River, and only those are "
                    "stored. Use River's own, or a function of the request's features instead."
                )
        return msgspec.msgpack.encode(_Saved(fitted.names, dumps(model, also=_ALLOWED), fitted.classes))

    def load(self, data: bytes) -> RiverScorer:
        try:
            saved = msgspec.msgpack.decode(data, type=_Saved)
        except msgspec.DecodeError as error:
            raise Corrupt(f"river: these {len(data)} bytes are no model: {error}") from error
        return RiverScorer(loads(saved.model, also=_ALLOWED), saved.names, saved.classes)

    def importance(self, fitted: Any) -> NDArray[Any] | None:
        return None


class RiverScorer:
    """A model with the names of its inputs. It is not taught here, so threads may share it."""

    def __init__(self, model: Any, names: tuple[str, ...], classes: int = 0) -> None:
        self.model = model
        self.names = names
        self.classes = classes
        self._ask = model.predict_proba_one if _classifies(model) else model.predict_one
        self._classifies = _classifies(model)

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        if self.classes and not len(matrix):
            return np.empty((0, self.classes))
        check_columns("river", matrix, len(self.names))
        return np.array([self.predict_row(row) for row in matrix.tolist()], np.float64)

    def predict_row(self, row: list[float]) -> Score:
        if len(row) != len(self.names):
            raise wrong_row("river", len(row), len(self.names))
        answer = self._ask(dict(zip(self.names, row, strict=True)))
        if not self._classifies:
            return float(answer)
        if self.classes:
            return [float(answer.get(place, 0.0 if answer else math.nan)) for place in range(self.classes)]
        return float(answer.get(True, math.nan if not answer else 0.0))


def _classifies(model: Any) -> bool:
    last = list(model.steps.values())[-1] if hasattr(model, "steps") else model
    return isinstance(last, base.Classifier)


def _parts(model: Any) -> list[Any]:
    return list(model.steps.values()) if hasattr(model, "steps") else [model]


RUNTIME = RiverRuntime()
