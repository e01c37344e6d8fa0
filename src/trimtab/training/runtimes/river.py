"""River: models that learn row by row. They are stored with skops, and only River's own types can be loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from river import base

from trimtab.core.errors import Corrupt, Misuse
from trimtab.training.runtimes.formats import ExportedCode, Format, Inspected, ModelFile
from trimtab.training.runtimes.library import LibraryRuntime, no_weights, takes_weights
from trimtab.training.runtimes.ports import Array, Score, check_columns, wrong_row
from trimtab.training.runtimes.skops_bytes import ALLOWED, dumps, loads

# Types whose names begin with one of these may be loaded: River's own, and plain types of Python, but no functions.
OWN_TYPES = (
    "river.",
    "builtins.frozenset",
    "collections.Counter",
    "collections.deque",
    "collections.defaultdict",
    "random.Random",
)


class _Saved(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stored model, and the names of its inputs, because River's models look up their inputs by name."""

    names: tuple[str, ...]
    model: bytes
    # the number of classes, which River calls 0, 1, 2, ...; 0 for two classes (False and True) and for numbers
    classes: int = 0


def row_scorer(model: Any, inputs: Sequence[str], classes: int) -> Callable[[list[float]], Any]:
    """Return a function that scores one row. `classes` is as in `_Saved`."""
    import math

    from river import base

    last = list(model.steps.values())[-1] if hasattr(model, "steps") else model
    if not isinstance(last, base.Classifier):
        return lambda row: float(model.predict_one(dict(zip(inputs, row, strict=True))))

    def probabilities(row: list[float]) -> Any:
        found = model.predict_proba_one(dict(zip(inputs, row, strict=True)))
        if classes:
            return [float(found.get(place, 0.0 if found else math.nan)) for place in range(classes)]
        return float(found.get(True, math.nan if not found else 0.0))

    return probabilities


def score_exported(data: bytes, inputs: list[str]) -> Any:
    """Return the scorer of an exported model file."""
    import numpy as np
    import skops.io

    trusted = [name for name in skops.io.get_untrusted_types(data=data) if name.startswith(OWN_TYPES)]
    score = row_scorer(skops.io.loads(data, trusted=[*ALLOWED, *trusted]), inputs, 0)
    return lambda matrix: np.array([score(row) for row in matrix.tolist()], np.float64)


def _native(data: bytes) -> bytes:
    saved = msgspec.msgpack.decode(data, type=_Saved)
    if saved.classes:  # River's own file does not contain the number of classes
        raise Misuse("river: a model of several classes cannot be exported. Score it through trimtab.")
    return saved.model


def _inspect(file: ModelFile) -> Inspected:
    data = msgspec.msgpack.encode(_Saved(file.names, file.data))
    RUNTIME.load(data)
    return Inspected(runtime="river", data=data, kind="River", accepts_null=False)


class RiverRuntime(LibraryRuntime):
    """Fits River's models row by row, in the order of the rows."""

    name = "river"
    row_exact = True
    format = Format(
        export_file="model.skops",
        exported=ExportedCode(
            score_exported, needs=(row_scorer,), constants={"ALLOWED": ALLOWED, "OWN_TYPES": OWN_TYPES}
        ),
        native=_native,
        inspect=_inspect,
    )

    def handles(self, estimator: Any) -> bool:
        return isinstance(estimator, base.Estimator)

    def accepts_null(self, estimator: Any) -> bool:
        return False

    def configure(self, estimator: Any, *, seed: int, threads: int) -> None:
        if hasattr(estimator, "seed") and estimator.seed is None:
            estimator.seed = seed

    def fit(
        self, estimator: Any, inputs: Array, target: Array, names: tuple[str, ...], weights: Array | None = None
    ) -> Any:
        probabilities = np.issubdtype(target.dtype, np.integer)
        classes = int(target.max()) + 1 if probabilities and target.max() > 1 else 0
        labels = target.astype(np.bool_).tolist() if probabilities and not classes else target.tolist()
        more: list[dict[str, float]] = [{}] * len(target)
        if weights is not None:
            last = _parts(estimator)[-1]
            if not takes_weights(last.learn_one, "w"):
                raise no_weights(last)
            more = [{"w": weight} for weight in weights.tolist()]
        for row, label, weight in zip(inputs.tolist(), labels, more, strict=True):
            estimator.learn_one(dict(zip(names, row, strict=True)), label, **weight)
        return RiverScorer(estimator, names, classes)

    def save(self, fitted: Any) -> bytes:
        model = fitted.model
        for part in _parts(model):
            if not type(part).__module__.startswith("river."):
                raise Misuse(
                    f"river: {type(part).__module__}.{type(part).__qualname__} is not part of River, and only parts "
                    "of River can be stored. Use one of those, or compute a feature instead (tt.transform)."
                )
        return msgspec.msgpack.encode(_Saved(fitted.names, dumps(model, also=OWN_TYPES), fitted.classes))

    def load(self, data: bytes) -> RiverScorer:
        try:
            saved = msgspec.msgpack.decode(data, type=_Saved)
        except msgspec.DecodeError as error:
            raise Corrupt(f"river: these {len(data)} bytes are not a model: {error}") from error
        return RiverScorer(loads(saved.model, also=OWN_TYPES), saved.names, saved.classes)


class RiverScorer:
    """A loaded model. Scoring does not change it, so threads may share it."""

    def __init__(self, model: Any, names: tuple[str, ...], classes: int = 0) -> None:
        self.model = model
        self.names = names
        self.classes = classes
        self._score = row_scorer(model, names, classes)

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        if self.classes and not len(matrix):
            return np.empty((0, self.classes))
        check_columns("river", matrix, len(self.names))
        return np.array([self.predict_row(row) for row in matrix.tolist()], np.float64)

    def predict_row(self, row: list[float]) -> Score:
        if len(row) != len(self.names):
            raise wrong_row("river", len(row), len(self.names))
        found: Score = self._score(row)
        return found


def _parts(model: Any) -> list[Any]:
    return list(model.steps.values()) if hasattr(model, "steps") else [model]


RUNTIME = RiverRuntime()
