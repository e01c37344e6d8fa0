from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightgbm import LGBMClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier, SGDRegressor
from sklearn.naive_bayes import GaussianNB

from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.expressions.nodes import col
from trimtab.training import Fitted, OnlineLearner, TrainingSet, fit, fit_online

pytestmark = pytest.mark.fast


def sgd() -> Any:
    return SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.001)


@pytest.fixture(scope="module")
def fitted(world: Any, training_set: TrainingSet) -> Fitted:
    model = msgspec.structs.replace(world.model, estimator=sgd)
    return fit_online(model, training_set, rows=np.arange(training_set.rows) < 800)


@settings(max_examples=25, deadline=None)
@given(
    batches=st.lists(st.integers(1, 40), min_size=1, max_size=8), saved=st.integers(0, 8), seed=st.integers(0, 2**16)
)
def test_a_restored_learner_goes_on_bit_for_bit(batches: list[int], saved: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    whole, broken = OnlineLearner(FIT().artifact), OnlineLearner(FIT().artifact)
    for number, rows in enumerate(batches):
        if number == saved:
            state = broken.state()
            broken = OnlineLearner(FIT().artifact)
            broken.restore(state)
        matrix = generator.normal(scale=500, size=(rows, 3))
        matrix[generator.random((rows, 3)) < 0.1] = np.nan
        labels = generator.integers(0, 2, rows).astype(np.float64)
        assert whole.predict(matrix).tobytes() == broken.predict(matrix).tobytes()
        assert whole.predict_row(matrix[0].tolist()).hex() == broken.predict_row(matrix[0].tolist()).hex()
        whole.learn(matrix, labels)
        broken.learn(matrix, labels)
    assert whole.learned == broken.learned == sum(batches)
    matrix = generator.normal(size=(5, 3))
    assert whole.predict(matrix).tobytes() == broken.predict(matrix).tobytes()


def test_a_learner_begins_where_the_artifact_ends_and_follows_the_labels(fitted: Fitted, world: Any) -> None:
    values = world.training_set().features.values
    learner = OnlineLearner(fitted.artifact)
    matrix = fitted.matrix(values)
    assert learner.predict(matrix).tobytes() == fitted.predict(values).tobytes()
    before = learner.predict(matrix).mean()
    for _ in range(20):
        learner.learn(matrix, np.ones(len(matrix)))
    assert learner.predict(matrix).mean() > before + 0.2


@pytest.mark.parametrize("estimator", [GaussianNB, lambda: SGDRegressor(learning_rate="constant", eta0=0.001)])
def test_any_estimator_with_partial_fit_learns(make: Callable[..., Any], estimator: Callable[[], Any]) -> None:
    number = estimator is not GaussianNB
    world = make(
        estimator=estimator, metric="squared_error" if number else "log_loss", value=col("delay") if number else None
    )
    training_set = world.training_set()
    learner = OnlineLearner(fit_online(world.model, training_set, passes=2).artifact)
    rows = np.flatnonzero(training_set.usable)[:50]
    matrix = learner.artifact.encoding.matrix(training_set.features.values.take(rows))
    learner.learn(matrix, training_set.target[rows])
    other = OnlineLearner(learner.artifact)
    other.restore(learner.state())
    assert other.predict(matrix).tobytes() == learner.predict(matrix).tobytes()


def test_who_cannot_learn_online_is_refused(world: Any, training_set: TrainingSet) -> None:
    trees = msgspec.structs.replace(world.model, estimator=lambda: LGBMClassifier(n_estimators=5))
    with pytest.raises(Misuse, match="LGBMClassifier has no partial_fit"):
        fit_online(trees, training_set)
    with pytest.raises(Misuse, match="runtime is lightgbm"):
        OnlineLearner(fit(trees, training_set).artifact)
    with pytest.raises(Misuse, match="LogisticRegression has no partial_fit"):
        OnlineLearner(fit(world.model, training_set).artifact)
    assert world.model.estimator is LogisticRegression


@pytest.mark.parametrize("labels", [[0.0, 2.0], [0.0, np.nan], [0.0], [0.0, 1.0, 1.0]])
def test_labels_that_cannot_be_learnt_change_nothing(fitted: Fitted, labels: list[float]) -> None:
    learner = OnlineLearner(fitted.artifact)
    matrix = np.ones((2, 3))
    before = learner.predict(matrix)
    with pytest.raises(Misuse, match="online learning of 'late_flight'"):
        learner.learn(matrix, np.array(labels))
    assert learner.predict(matrix).tobytes() == before.tobytes()
    learner.learn(np.empty((0, 3)), np.empty(0))
    assert learner.learned == 0


def test_a_snapshot_that_is_damaged_or_of_another_model_is_refused(fitted: Fitted, make: Callable[..., Any]) -> None:
    learner = OnlineLearner(fitted.artifact)
    state = learner.state()
    for damaged in (b"", state[:-20], b"\x00" * 40):
        with pytest.raises(Corrupt):
            learner.restore(damaged)
    world = make(seed=5, estimator=sgd)
    other = OnlineLearner(fit_online(world.model, world.training_set()).artifact)
    with pytest.raises(Misuse, match="the state is of a learner that started from"):
        other.restore(state)


_fitted: list[Fitted] = []


def FIT() -> Fitted:  # noqa: N802 (a constant that is made at its first use)
    return _fitted[0]


@pytest.fixture(autouse=True)
def _keep(fitted: Fitted) -> None:
    _fitted[:] = [fitted]
