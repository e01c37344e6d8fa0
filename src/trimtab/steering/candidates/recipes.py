"""Recipes: how a candidate is fitted, and how it scores rows as it would in service."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trimtab.core.time import HOUR_US
from trimtab.registry import LoadedModel
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model
from trimtab.training.fitting.artifact import Artifact
from trimtab.training.fitting.classes import aligned
from trimtab.training.fitting.fit import fit
from trimtab.training.fitting.fitted import Fitted
from trimtab.training.runtimes.ports import Scorer

Floats = NDArray[np.float64]
Rows = NDArray[np.bool_]


class Scoring(Protocol):
    """A model that can score rows: one that was just fitted, or a stored version."""

    @property
    def artifact(self) -> Artifact: ...

    @property
    def scorer(self) -> Scorer: ...


class Recipe(Protocol):
    """Fits models, and scores rows as the models would in service."""

    def fit(self, training_set: TrainingSet, rows: Rows) -> Fitted: ...

    def expect(self, training_set: TrainingSet, rows: Rows) -> bool:
        """Begin in the background a fit that will probably be needed, if the recipe can. Return whether it has begun.

        A later call of `fit` with the same arguments then returns this fit.
        """
        ...

    def candidate_scores(self, fitted: Scoring, training_set: TrainingSet, window: Rows) -> Floats: ...

    def champion_scores(self, champion: LoadedModel, training_set: TrainingSet, window: Rows) -> Floats:
        """Return the champion's logged scores of rows. Rows without a logged score are scored now."""
        ...


def stored_scores(recipe: Recipe, loaded: LoadedModel, training_set: TrainingSet, model: Model) -> Floats:
    """Return the scores that a stored version would give in service to all rows of a training set.

    A model that learns online also learns from the rows while it scores them.
    """
    scores = recipe.candidate_scores(loaded, training_set, np.ones(training_set.rows, np.bool_))
    what = f"promote {loaded.version.name}"
    return np.asarray(aligned(scores, loaded.artifact.class_names, model.label.class_names, what), np.float64)


class BatchRecipe:
    """The recipe of a model that does not change after its fit."""

    def __init__(self, model: Model, *, seed: int, threads: int = 1) -> None:
        self._model = model
        self._seed = seed
        self._threads = threads

    def fit(self, training_set: TrainingSet, rows: Rows) -> Fitted:
        return fit(self._model, training_set, rows=rows, seed=self._seed, threads=self._threads)

    def expect(self, training_set: TrainingSet, rows: Rows) -> bool:
        """Return False: fits are made one after the other, so as not to slow down a service."""
        return False

    def candidate_scores(self, fitted: Scoring, training_set: TrainingSet, window: Rows) -> Floats:
        matrix = fitted.artifact.encoding.matrix(training_set.features.values.take(window))
        return np.asarray(fitted.scorer.predict(matrix), np.float64)

    def champion_scores(self, champion: LoadedModel, training_set: TrainingSet, window: Rows) -> Floats:
        matrix = champion.encoding.matrix(training_set.features.values.take(window))
        answers = training_set.answers
        if answers is None:
            scores = np.asarray(champion.predict(matrix), np.float64)
        else:
            scores = answers.take(window).scores_of(champion.version.id, champion.artifact, matrix)
            missing = np.isnan(scores if scores.ndim == 1 else scores.sum(axis=1))
            if missing.any():
                scores[missing] = champion.predict(matrix[missing])
        what = f"gate of {self._model.name!r}"
        return aligned(scores, champion.artifact.class_names, self._model.label.class_names, what)


class LiveScores(Protocol):
    """The scores that a deployment gave in service."""

    def scores_of(self, keys: list[object], *, version: str, since_us: int) -> Floats:
        """Return the score that `version` gave to each request key since `since_us`; NaN if it gave none."""
        ...


class OnlineRecipe:
    """The recipe of a model that goes on learning in service: it learns from the labels of answered requests.

    A candidate that is judged learns from the labels in the same way, hour by hour.
    """

    def __init__(self, model: Model, live: LiveScores, *, seed: int) -> None:
        self._model = model
        self._live = live
        self._seed = seed

    def fit(self, training_set: TrainingSet, rows: Rows) -> Fitted:
        from trimtab.training.fitting.online import fit_online  # imported here, because it loads scikit-learn

        return fit_online(self._model, training_set, rows=rows, seed=self._seed)

    def expect(self, training_set: TrainingSet, rows: Rows) -> bool:
        """Return False: fits are made one after the other."""
        return False

    def candidate_scores(self, fitted: Scoring, training_set: TrainingSet, window: Rows) -> Floats:
        from trimtab.training.fitting.online import OnlineLearner  # imported here, because it loads scikit-learn

        learner = OnlineLearner(fitted.artifact)
        matrix = fitted.artifact.encoding.matrix(training_set.features.values.take(window))
        labels = training_set.target[window]
        at_us, known_at_us = training_set.at_us[window], training_set.label_known_at_us[window]
        scores = np.zeros(len(matrix))
        learnt = np.zeros(len(matrix), bool)
        hours = at_us // HOUR_US
        for hour in np.unique(hours):
            known = np.flatnonzero(~learnt & (known_at_us < hour * HOUR_US))
            known = known[np.argsort(known_at_us[known], kind="stable")]
            learner.learn(matrix[known], labels[known])
            learnt[known] = True
            rows = hours == hour
            scores[rows] = learner.predict(matrix[rows])
        return scores

    def champion_scores(self, champion: LoadedModel, training_set: TrainingSet, window: Rows) -> Floats:
        """Return the logged scores. Rows without one are scored by the version as it was registered."""
        logged = self._live.scores_of(
            training_set.keys.take(window).to_list(),
            version=champion.version.id,
            since_us=int(training_set.at_us[window].min()),
        )
        matrix = champion.encoding.matrix(training_set.features.values.take(window))
        return np.where(np.isnan(logged), np.asarray(champion.predict(matrix), np.float64), logged)
