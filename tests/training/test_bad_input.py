"""What cannot be learnt from, and estimators that fail: a named error, whatever the kind of model."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from trimtab.core.errors import Misuse
from trimtab.core.expressions.nodes import col
from trimtab.training import TrainingSet, fit


class Answers:
    """Gives the same answer to every row, of a shape of its own."""

    def __init__(self, answer: Callable[[int], Any] = np.zeros, *, raises: bool = False) -> None:
        self.answer = answer
        self.raises = raises

    def fit(self, inputs: Any, target: Any) -> None:
        if self.raises:
            raise MemoryError("out of memory")

    def predict(self, inputs: Any) -> Any:
        return self.answer(len(inputs))


def two_columns(rows: int) -> Any:
    return np.zeros((rows, 2))


def one_row_less(rows: int) -> Any:
    return np.zeros(rows - 1)


def not_a_number(rows: int) -> Any:
    return np.full(rows, np.nan)


def endless(rows: int) -> Any:
    return np.full(rows, np.inf)


def words(rows: int) -> Any:
    return np.array(["late"] * rows)


def above_one(rows: int) -> Any:
    return np.full(rows, 1.2)


def below_zero(rows: int) -> Any:
    return np.full(rows, -0.3)


def with_target(training_set: TrainingSet, row: int, value: float) -> TrainingSet:
    values = training_set.target.copy()
    values[np.flatnonzero(training_set.usable)[row]] = value
    return msgspec.structs.replace(training_set, labels=msgspec.structs.replace(training_set.labels, values=values))


KINDS = {"log_loss": None, "squared_error": col("delay"), "poisson_deviance": col("delay")}


@pytest.mark.fast
@pytest.mark.parametrize("metric", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_target_that_is_no_number_names_its_request(make: Callable[..., Any], metric: str, value: float) -> None:
    world = make(metric=metric, value=KINDS[metric], days=20)
    training_set = with_target(world.training_set(), 3, value)
    key = training_set.keys.to_list()[np.flatnonzero(training_set.usable)[3]]
    with pytest.raises(Misuse, match=rf"'late_flight': 1 of \d+ labels are not numbers .*'{key}', {value}"):
        fit(world.model, training_set)


@pytest.mark.parametrize("metric", KINDS)
def test_windows_that_hold_too_little_are_refused_for_every_kind(make: Callable[..., Any], metric: str) -> None:
    world = make(metric=metric, value=KINDS[metric], days=20)
    training_set = world.training_set()
    few = np.zeros(training_set.rows, bool)
    with pytest.raises(Misuse, match="no labels to learn from"):
        fit(world.model, training_set, rows=few)
    few[np.flatnonzero(training_set.usable)[:2]] = True
    with pytest.raises(Misuse, match="2 labelled rows for 3 features"):
        fit(world.model, training_set, rows=few)


@pytest.mark.parametrize("metric", KINDS)
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (two_columns, r"predictions of shape \(\d+, 2\) for \d+ rows, needed one number"),
        (one_row_less, r"predictions of shape \(\d+,\) for \d+ rows, needed one number"),
        (not_a_number, "predictions are not numbers, e.g. nan"),
        (endless, "predictions are not numbers, e.g. inf"),
        (words, "its prediction raised ValueError"),
    ],
)
def test_answers_that_are_none_are_refused_for_every_kind(
    make: Callable[..., Any], metric: str, answer: Callable[[int], Any], message: str
) -> None:
    world = make(metric=metric, value=KINDS[metric], days=20, estimator=lambda: Answers(answer))
    with pytest.raises(Misuse, match=message):
        fit(world.model, world.training_set(), trust="pickle")


@pytest.mark.parametrize(
    ("metric", "answer", "message"),
    [
        ("log_loss", above_one, r"lie outside \[0, 1\], e.g. 1.2"),
        ("log_loss", below_zero, r"lie outside \[0, 1\], e.g. -0.3"),
        ("poisson_deviance", below_zero, "are below 0, e.g. -0.3"),
    ],
)
def test_answers_out_of_range_are_refused(
    make: Callable[..., Any], metric: str, answer: Callable[[int], Any], message: str
) -> None:
    world = make(metric=metric, value=KINDS[metric], days=20, estimator=lambda: Answers(answer))
    with pytest.raises(Misuse, match=message):
        fit(world.model, world.training_set(), trust="pickle")


class Chances:
    """A classifier that gives chances and nothing else."""

    def fit(self, inputs: Any, target: Any) -> None:
        self.share = float(np.mean(target))

    def predict_proba(self, inputs: Any) -> Any:
        return np.tile([1.0 - self.share, self.share], (len(inputs), 1))


class Leaves:
    """Ends its process the polite way, in the fit or in the prediction."""

    def __init__(self, where: str) -> None:
        self.where = where

    def fit(self, inputs: Any, target: Any) -> None:
        if self.where == "fit":
            raise SystemExit(3)

    def predict(self, inputs: Any) -> Any:
        raise SystemExit(3)


def leaves_at_once() -> Any:
    raise SystemExit(3)


def test_a_classifier_with_probabilities_needs_no_predict_and_a_model_of_numbers_does(
    make: Callable[..., Any],
) -> None:
    world = make(days=20, estimator=Chances)
    fitted = fit(world.model, world.training_set(), trust="pickle")
    assert 0.0 < fitted.scorer.predict_row([1.0, 2.0, 3.0]) < 1.0
    world = make(metric="squared_error", value=col("delay"), days=20, estimator=Chances)
    with pytest.raises(Misuse, match="its estimator Chances has no predict method"):
        fit(world.model, world.training_set(), trust="pickle")
    world = make(days=20, estimator=object)
    with pytest.raises(Misuse, match="its estimator object has no fit method"):
        fit(world.model, world.training_set(), trust="pickle")


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (lambda: Leaves("fit"), r"Leaves.fit raised SystemExit: 3 \(on \d+ rows"),
        (lambda: Leaves("predict"), "its prediction raised SystemExit: 3"),
        (leaves_at_once, "its estimator function raised SystemExit: 3"),
    ],
)
def test_an_estimator_that_wants_to_end_the_process_is_named(
    make: Callable[..., Any], estimator: Callable[[], Any], message: str
) -> None:
    world = make(days=20, estimator=estimator)
    with pytest.raises(Misuse, match=message):
        fit(world.model, world.training_set(), trust="pickle")


def test_an_estimator_that_raises_says_on_how_much_and_where(make: Callable[..., Any]) -> None:
    world = make(days=20, estimator=lambda: Answers(raises=True))
    said = (
        r"Answers.fit raised MemoryError: out of memory \(on \d+ rows x 3 features\), in fit at test_bad_input.py:\d+$"
    )
    with pytest.raises(Misuse, match=said):
        fit(world.model, world.training_set(), trust="pickle")
    world = make(days=20, estimator=lambda: LogisticRegression(C=-1.0))
    with pytest.raises(Misuse, match=r"features\), in \w+ at \w+\.py:\d+$"):
        fit(world.model, world.training_set())


def misspelt() -> Any:
    from sklearn.linear_model import LogisticRegresion  # type: ignore[attr-defined]  # that is what is tried

    return LogisticRegresion()


def test_a_misspelt_import_is_no_missing_library(make: Callable[..., Any]) -> None:
    world = make(days=20, estimator=misspelt)
    said = r"raised ImportError: cannot import name 'LogisticRegresion' .*, in misspelt at test_bad_input.py:\d+$"
    with pytest.raises(Misuse, match=said):
        fit(world.model, world.training_set())


def test_scores_that_differ_between_calls_are_reported_apart_from_losses_of_storing(make: Callable[..., Any]) -> None:
    world = make(days=20, estimator=lambda: Answers(np.random.default_rng(1).random))
    with pytest.raises(Misuse, match=r"Answers scores the same rows differently a second time, by up to 0\.\d+"):
        fit(world.model, world.training_set(), trust="pickle")


class Clip(TransformerMixin, BaseEstimator):
    """A part of a pipeline that skops does not know."""

    def fit(self, inputs: Any, target: Any = None) -> Clip:
        return self

    def transform(self, inputs: Any) -> Any:
        return np.clip(inputs, -2.0, 2.0)


def clipped() -> Any:
    return make_pipeline(Clip(), LogisticRegression())


def test_a_pipeline_with_a_part_of_ones_own_is_stored_by_pickle_where_that_is_trusted(make: Callable[..., Any]) -> None:
    world = make(estimator=clipped)
    with pytest.raises(Misuse, match=r'^model .*skops cannot store it safely: it holds .*Clip\. .*trust="pickle"'):
        fit(world.model, world.training_set())
    fitted = fit(world.model, world.training_set(), trust="pickle")
    assert (fitted.artifact.runtime, fitted.artifact.trust, fitted.artifact.kind) == ("pickle", "pickle", "Pipeline")
    plain = make(estimator=lambda: make_pipeline(StandardScaler(), LogisticRegression()))
    assert fit(plain.model, plain.training_set(), trust="pickle").artifact.runtime == "sklearn"


class Spoiler:
    """Changes the rows that it scores."""

    def fit(self, inputs: Any, target: Any) -> None: ...

    def predict(self, inputs: Any) -> Any:
        inputs[:, 0] = 0.0
        return np.full(len(inputs), 0.5)


def test_an_estimator_that_changes_the_rows_it_answers_is_refused(make: Callable[..., Any]) -> None:
    world = make(estimator=Spoiler)
    with pytest.raises(Misuse, match=r"Spoiler changes the rows that it scores\. .* a copy of the rows"):
        fit(world.model, world.training_set(), trust="pickle")


def test_an_estimator_that_nothing_stores_is_named_with_its_model(make: Callable[..., Any]) -> None:
    world = make(estimator=Spoiler)
    with pytest.raises(Misuse, match=r"^model 'late_flight': estimator .*Spoiler: no safe format can store it"):
        fit(world.model, world.training_set())


class Locked:
    """Holds what cannot be stored."""

    def fit(self, inputs: Any, target: Any) -> None:
        self.lock = Lock()

    def predict(self, inputs: Any) -> Any:
        return np.full(len(inputs), 0.5)


def test_what_cannot_be_stored_or_gives_no_probability_is_named_with_its_model(make: Callable[..., Any]) -> None:
    locked, classes = make(estimator=Locked), make(estimator=LinearSVC)
    with pytest.raises(Misuse, match=r"^model 'late_flight': .*cannot pickle '_thread\.lock'.*no lock, open file"):
        fit(locked.model, locked.training_set(), trust="pickle")
    with pytest.raises(Misuse, match=r"^model 'late_flight': estimator LinearSVC: it predicts classes, not prob"):
        fit(classes.model, classes.training_set())
