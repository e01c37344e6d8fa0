"""Models that learn from each label as it arrives."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier

from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.hashing import bytes_hash
from trimtab.training.data.leakage import find_leaks, refuse_leaks
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model
from trimtab.training.fitting.artifact import Artifact
from trimtab.training.fitting.fit import finish, new_estimator, prepare, training_target
from trimtab.training.fitting.fitted import Fitted
from trimtab.training.runtimes.ports import Score, Scorer
from trimtab.training.runtimes.sklearn import RUNTIME, LinearScorer
from trimtab.training.runtimes.skops_bytes import dumps, loads

_BATCH = 1_000  # the number of rows in each call of `partial_fit` during the first fit


class OnlineState(msgspec.Struct, frozen=True, kw_only=True):
    """The stored state of a learner."""

    format: Literal[1] = 1
    base: str  # the hash of the estimator that it started from
    learned: int  # the number of rows learnt since then
    estimator: bytes


class OnlineLearner:
    """A model that predicts, and learns from labels with `partial_fit`. Only one thread may use it at a time.

    It starts from an artifact (a stored model), and never changes the artifact's encoding and scaling. The same rows in
    the same batches lead to the same predictions, bit for bit, even if the state is stored and restored in between.

    Raises:
        Misuse: The artifact's estimator is not from scikit-learn or has no `partial_fit`, or its scores are
            recalibrated.
    """

    _scorer: Scorer

    def __init__(self, artifact: Artifact) -> None:
        if artifact.runtime != "sklearn":
            raise Misuse(
                f"online learning of {artifact.model!r}: its runtime is {artifact.runtime}. Use an estimator of "
                'scikit-learn with partial_fit: SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.001).'
            )
        if artifact.recalibration is not None:
            raise Misuse(_no_calibration(artifact.model, artifact.recalibration.kind))
        self.artifact = artifact
        self.learned = 0  # the number of rows learnt since the artifact was made
        self._base = bytes_hash(artifact.estimator)
        self._use(loads(artifact.estimator))

    def predict(self, matrix: NDArray[Any]) -> NDArray[np.float64]:
        """Return the score of each row of an encoded matrix."""
        return np.asarray(self._scorer.predict(self._stepped(matrix)), np.float64)

    def predict_row(self, row: list[float]) -> Score:
        """Return the score of one encoded row."""
        step = self.artifact.step
        return self._scorer.predict_row(row if step is None else step.apply_row(row))

    def learn(self, matrix: NDArray[Any], labels: NDArray[Any]) -> None:
        """Learn from encoded rows and their labels, in this order.

        Raises:
            Misuse: A label is not a number, a class is not 0 or 1, or the numbers of labels and rows differ. Nothing
                was learnt.
        """
        target = np.asarray(labels, np.float64)
        if target.shape != (len(matrix),) or not np.isfinite(target).all():
            raise Misuse(
                f"online learning of {self.artifact.model!r}: found labels of shape {target.shape} for {len(matrix)} "
                "rows, needed one finite number for each row."
            )
        if self.artifact.task == "binary" and not np.isin(target, (0.0, 1.0)).all():
            raise Misuse(f"online learning of {self.artifact.model!r}: a label is neither 0 nor 1.")
        if not len(target):
            return
        partial_fit(self._estimator, self._stepped(matrix), target)
        self.learned += len(target)
        if isinstance(self._scorer, LinearScorer):  # its copy of the weights is old now
            self._scorer = RUNTIME.scorer(self._estimator)

    def state(self) -> bytes:
        """Return the state as bytes. After `restore`, predictions are the same, bit for bit."""
        state = OnlineState(base=self._base, learned=self.learned, estimator=dumps(self._estimator))
        return msgspec.msgpack.encode(state)

    def restore(self, data: bytes) -> None:
        """Continue from the stored state of a learner that started from the same artifact.

        Raises:
            Corrupt: The bytes are damaged.
            Misuse: The state is that of a learner that started from another artifact.
        """
        try:
            state = msgspec.msgpack.decode(data, type=OnlineState)
        except msgspec.DecodeError as error:
            raise Corrupt(f"online learner: these {len(data)} bytes are not a stored state: {error}") from error
        if state.base != self._base:
            raise Misuse(
                f"online learner: the state is of a learner that started from {state.base[:12]}, this one started from "
                f"{self._base[:12]}."
            )
        self._use(loads(state.estimator))
        self.learned = state.learned

    def _use(self, estimator: Any) -> None:
        if not hasattr(estimator, "partial_fit"):
            kind = type(estimator).__name__
            raise Misuse(f"online learning of {self.artifact.model!r}: {kind} has no partial_fit.")
        self._estimator = estimator
        self._scorer = RUNTIME.scorer(estimator)

    def _stepped(self, matrix: NDArray[Any]) -> NDArray[Any]:
        return matrix if self.artifact.step is None else self.artifact.step.apply(matrix)


def fit_online(
    model: Model, training_set: TrainingSet, *, rows: NDArray[np.bool_] | None = None, seed: int = 0, passes: int = 5
) -> Fitted:
    """Fit an online learner for the first time: call `partial_fit` on the usable rows in order of time, `passes` times.

    The result is registered like any fitted model. `OnlineLearner(fitted.artifact)` continues from it.

    Raises:
        Misuse: As for `fit`; or the estimator has no `partial_fit`, or the model has several classes, a calibration,
            weights or a sample.
    """
    if model.task == "multiclass":
        raise Misuse(
            f"online learning of {model.name!r}: its label has {len(model.label.classes)} classes, but online "
            'learners predict two classes or a number. Use learn="batch".'
        )
    if model.calibration is not None:
        raise Misuse(_no_calibration(model.name, model.calibration))
    if model.weights is not None or model.sample is not None:
        raise Misuse(
            f"online learning of {model.name!r}: weights and sample apply only to the first fit, not to what is "
            'learnt afterwards. Leave them out, or use learn="batch".'
        )
    chosen, labels = training_target(model, training_set, rows)
    refuse_leaks(model, find_leaks(model, training_set, chosen))
    order = np.argsort(training_set.at_us[chosen], kind="stable")
    estimator, runtime = new_estimator(model, None, seed=seed, threads=1)
    if not hasattr(estimator, "partial_fit"):
        raise Misuse(f"model {model.name!r}: {type(estimator).__name__} has no partial_fit, so it cannot learn online.")
    needs_step = not runtime.accepts_null(estimator)
    prepared = prepare(model, training_set, (chosen[order], labels[order]), needs_step=needs_step)
    for _ in range(passes):
        for at in range(0, len(prepared.target), _BATCH):
            partial_fit(estimator, prepared.inputs[at : at + _BATCH], prepared.target[at : at + _BATCH])
    return finish(model, training_set, prepared, estimator, runtime, trust=None, seed=seed)


def partial_fit(estimator: Any, inputs: NDArray[Any], target: NDArray[Any]) -> None:
    """Let an estimator learn rows. In its first call, a classifier also gets the list of all classes."""
    if not is_classifier(estimator):
        estimator.partial_fit(inputs, target)
    elif hasattr(estimator, "classes_"):
        estimator.partial_fit(inputs, target.astype(np.int64))
    else:
        estimator.partial_fit(inputs, target.astype(np.int64), classes=np.array([0, 1]))


def _no_calibration(model: str, kind: str) -> str:
    return (
        f"online learning of {model!r}: calibration={kind!r} is fitted once and would not follow what is learnt. "
        'Leave calibration out, or use learn="batch".'
    )
