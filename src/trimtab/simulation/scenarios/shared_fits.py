"""Model fits that scenarios share: the same recipe is fitted only once on the same rows."""

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
    """The work of a scenario: its CPU time, and its fits, even those that were taken from another scenario."""

    def __init__(self) -> None:
        self.fits = 0
        self.rows = 0
        self.cpu_s = 0.0  # CPU time of this process for scoring, logging, monitoring and deciding

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the CPU time of the `with` block."""
        begun = time.process_time()
        try:
            yield
        finally:
            self.cpu_s += time.process_time() - begun


class SharedRecipe:
    """A recipe (how a model is fitted) that reuses stored fits. Its other methods are those of the given recipe.

    Args:
        recipe: The recipe that fits. It must be deterministic, so that a stored fit equals a new one.
        address: A hash of the model's definition and the seed, under which fits are stored.
        cache: The fits that all scenarios share.
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
    """A recipe that simulates a fault of training: fits that include the newest rows get shuffled labels.

    Args:
        recipe: The recipe for fits without the fault, which scenarios may share.
        own: The recipe for fits with shuffled labels. These are never shared.
        share: Returns the share of labels to shuffle now; 0 while there is no fault.
        seed: The seed of the shuffle.
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
