"""Fits that scenarios share: the same recipe on the same rows is fitted only once."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import numpy as np

from trimtab.core.hashing import bytes_hash
from trimtab.registry import LoadedModel
from trimtab.steering.candidates.recipes import Floats, Recipe, Rows, Scoring
from trimtab.training.data.sets import TrainingSet
from trimtab.training.fitting.fitted import Fitted

_KEPT = 8
_Key = tuple[str, str, str, int | None]


class FitCache:
    """The newest fits, by recipe, data and rows."""

    def __init__(self) -> None:
        self._fits: OrderedDict[_Key, Fitted] = OrderedDict()

    def get(self, key: _Key) -> Fitted | None:
        return self._fits.get(key)

    def put(self, key: _Key, fitted: Fitted) -> None:
        self._fits[key] = fitted
        while len(self._fits) > _KEPT:
            self._fits.popitem(last=False)


class Spent:
    """The cost of a scenario: its fits, including fits taken from another scenario, and its CPU time."""

    def __init__(self) -> None:
        self.fits = 0
        self.rows = 0
        self.cpu_s = 0.0  # CPU time of this process for answering, logging and steering

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the CPU time of the work done inside the `with` block."""
        begun = time.process_time()
        try:
            yield
        finally:
            self.cpu_s += time.process_time() - begun


class SharedRecipe:
    """A recipe whose fits are looked up before they are made; all other methods are the recipe's own.

    Args:
        recipe: The recipe that fits. It is deterministic, so that a stored fit equals the fit that it would make.
        address: The address of the model's definition and the seed.
        cache: The cache that all scenarios share.
        spent: Counts the fits of the scenario.
    """

    def __init__(self, recipe: Recipe, address: str, cache: FitCache, spent: Spent) -> None:
        self._spent = spent
        self._recipe = recipe
        self._address = address
        self._cache = cache

    def fit(self, training_set: TrainingSet, rows: Rows) -> Fitted:
        chosen = bytes_hash(np.packbits(rows).tobytes())
        key = (self._address, training_set.manifest.data_hash, chosen, training_set.half_life_us)
        self._spent.fits += 1
        self._spent.rows += int(rows.sum())
        found = self._cache.get(key)
        if found is None:
            found = self._recipe.fit(training_set, rows)
            self._cache.put(key, found)
        return found

    def candidate_scores(self, fitted: Scoring, training_set: TrainingSet, window: Rows) -> Floats:
        return self._recipe.candidate_scores(fitted, training_set, window)

    def champion_scores(self, champion: LoadedModel, training_set: TrainingSet, window: Rows) -> Floats:
        return self._recipe.champion_scores(champion, training_set, window)


class Sabotaged:
    """A recipe that simulates a failed refit: while a fault lasts, fits with the newest rows learn shuffled labels.

    Args:
        recipe: The recipe that may be shared.
        own: The recipe that fits the shuffled rows; its fits are never shared.
        share: The share of the rows whose labels are shuffled now; 0 while no fault lasts.
        seed: Seed of the shuffle.
    """

    def __init__(self, recipe: Recipe, own: Recipe, share: Callable[[], float], seed: int) -> None:
        self._recipe = recipe
        self._own = own
        self._share = share
        self._seed = seed

    def fit(self, training_set: TrainingSet, rows: Rows) -> Fitted:
        usable = np.flatnonzero(training_set.usable)
        share = self._share()
        if not share or not usable.size or not rows[usable[-1]]:
            return self._recipe.fit(training_set, rows)
        values, rng = training_set.labels.values.copy(), np.random.default_rng(self._seed)
        shuffled = rows & (rng.random(rows.size) < share)
        values[shuffled] = rng.permutation(values[shuffled])
        labels = msgspec.structs.replace(training_set.labels, values=values)
        return self._own.fit(msgspec.structs.replace(training_set, labels=labels), rows)

    def candidate_scores(self, fitted: Scoring, training_set: TrainingSet, window: Rows) -> Floats:
        return self._recipe.candidate_scores(fitted, training_set, window)

    def champion_scores(self, champion: LoadedModel, training_set: TrainingSet, window: Rows) -> Floats:
        return self._recipe.champion_scores(champion, training_set, window)
