"""Fits shared by lines that would do the same: the same recipe on the same rows is fitted once."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from trimtab.core.hashing import bytes_hash
from trimtab.registry import LoadedModel
from trimtab.steering.recipes import Floats, Recipe, Rows
from trimtab.training.fitted import Fitted
from trimtab.training.sets import TrainingSet

_KEPT = 8


class FitCache:
    """The newest fits by recipe, data and rows."""

    def __init__(self) -> None:
        self._fits: OrderedDict[tuple[str, str, str], Fitted] = OrderedDict()

    def get(self, key: tuple[str, str, str]) -> Fitted | None:
        return self._fits.get(key)

    def put(self, key: tuple[str, str, str], fitted: Fitted) -> None:
        self._fits[key] = fitted
        while len(self._fits) > _KEPT:
            self._fits.popitem(last=False)


class SharedRecipe:
    """A recipe whose fits are looked up before they are made; everything else is the recipe's own.

    Args:
        recipe: What fits; deterministic, so that a fit found is the fit it would make.
        address: Of the model's definition and the seed.
        cache: Shared by all lines.
    """

    def __init__(self, recipe: Recipe, address: str, cache: FitCache) -> None:
        self._recipe = recipe
        self._address = address
        self._cache = cache

    def fit(self, training_set: TrainingSet, rows: Rows) -> Fitted:
        key = (self._address, training_set.manifest.data_hash, bytes_hash(np.packbits(rows).tobytes()))
        found = self._cache.get(key)
        if found is None:
            found = self._recipe.fit(training_set, rows)
            self._cache.put(key, found)
        return found

    def candidate_scores(self, fitted: Fitted, training_set: TrainingSet, window: Rows) -> Floats:
        return self._recipe.candidate_scores(fitted, training_set, window)

    def champion_scores(self, champion: LoadedModel, training_set: TrainingSet, window: Rows) -> Floats:
        return self._recipe.champion_scores(champion, training_set, window)
