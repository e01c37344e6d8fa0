"""Fits that scenarios share: each recipe is fitted only once on the same rows."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.hashing import bytes_hash
from trimtab.registry import LoadedModel
from trimtab.steering.candidates.recipes import Floats, Recipe, Rows, Scoring
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model
from trimtab.training.fitting.fitted import Fitted
from trimtab.training.judge.baselines import Baseline, baseline_scores

T = TypeVar("T")
_KEPT = 32  # this many fits and other results are kept, the newest ones
_FITS_AT_ONCE = 2
# Libraries whose fits give the same bytes even if two run at the same time. Fits of other libraries may draw random
# numbers from a generator that all threads share.
_CONCURRENT = frozenset(("lightgbm",))


class FitCache:
    """The newest fits, and results of them. A fit that will be needed can begin early, in another thread."""

    def __init__(self) -> None:
        self._fits: OrderedDict[Hashable, Future[Any]] = OrderedDict()
        self._threads = ThreadPoolExecutor(_FITS_AT_ONCE, "trimtab-fits")

    def begin(self, key: Hashable, fit: Callable[[], Fitted]) -> None:
        """Begin a fit in another thread, unless it exists already."""
        if key not in self._fits:
            self._keep(key, self._threads.submit(fit))

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the fit (or another result) of a key: the existing one, or else a new one."""
        found: Future[T] | None = self._fits.get(key)
        if found is None:
            found = Future()
            found.set_result(make())
            self._keep(key, found)
        return found.result()

    def baselines(
        self, model: Model, training_set: TrainingSet, chosen: NDArray[Any], train: Rows, *, seed: int
    ) -> dict[str, Baseline | None]:
        """Do what `baseline_scores` does, but only once for the same rows."""
        about = model.hash, seed, training_set.half_life_us, msgspec.json.encode(training_set.manifest)
        key = (*about, chosen.tobytes(), train.tobytes())
        return self.get(key, lambda: baseline_scores(model, training_set, chosen, train, seed=seed))

    def close(self) -> None:
        """Cancel the fits that have not begun, and wait for those that run."""
        self._threads.shutdown(cancel_futures=True)

    def _keep(self, key: Hashable, fitted: Future[Any]) -> None:
        self._fits[key] = fitted
        while len(self._fits) > _KEPT:
            self._fits.popitem(last=False)[1].cancel()


class Spent:
    """The work of a scenario: its CPU time, and its fits, including fits that were taken from another scenario."""

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
    """A recipe (how a model is fitted) that reuses stored fits. Scores are computed by the given recipe.

    Args:
        recipe: The recipe that fits. It must be deterministic, so that a stored fit equals a new one.
        address: A hash of the model's definition and the seed, under which fits are stored.
        spent: Counts the fits of the scenario.
    """

    def __init__(self, recipe: Recipe, address: str, cache: FitCache, spent: Spent) -> None:
        self._spent = spent
        self._recipe = recipe
        self._address = address
        self._cache = cache
        self._runtime = ""  # the library of the newest fit

    def fit(self, training_set: TrainingSet, rows: Rows) -> Fitted:
        self._spent.fits += 1
        self._spent.rows += int(rows.sum())
        found = self._cache.get(self._key(training_set, rows), lambda: self._recipe.fit(training_set, rows))
        self._runtime = found.artifact.runtime
        return found

    def expect(self, training_set: TrainingSet, rows: Rows) -> bool:
        if self._runtime not in _CONCURRENT:
            return False
        self._cache.begin(self._key(training_set, rows), lambda: self._recipe.fit(training_set, rows))
        return True

    def _key(self, training_set: TrainingSet, rows: Rows) -> Hashable:
        chosen = bytes_hash(np.packbits(rows).tobytes())
        return self._address, training_set.manifest.data_hash, chosen, training_set.half_life_us

    def candidate_scores(self, fitted: Scoring, training_set: TrainingSet, window: Rows) -> Floats:
        # the scorer is kept with its scores, so that no other one can get its id
        key = (id(fitted.scorer), training_set.manifest.data_hash, window.tobytes())
        make = self._recipe.candidate_scores
        return self._cache.get(key, lambda: (fitted.scorer, make(fitted, training_set, window)))[1]

    def champion_scores(self, champion: LoadedModel, training_set: TrainingSet, window: Rows) -> Floats:
        return self._recipe.champion_scores(champion, training_set, window)


class Sabotaged:
    """A recipe that simulates a fault of training: fits that include the newest rows get shuffled labels.

    Args:
        recipe: The recipe for fits without the fault, which scenarios may share.
        own: The recipe for fits with shuffled labels. These are never shared.
        share: Returns the share of labels to shuffle now; 0 while there is no fault.
    """

    def __init__(self, recipe: Recipe, own: Recipe, share: Callable[[], float], seed: int) -> None:
        self._recipe = recipe
        self._own = own
        self._share = share
        self._seed = seed

    def fit(self, training_set: TrainingSet, rows: Rows) -> Fitted:
        share = self._share_of(training_set, rows)
        if not share:
            return self._recipe.fit(training_set, rows)
        values, rng = training_set.labels.values.copy(), np.random.default_rng(self._seed)
        shuffled = rows & (rng.random(rows.size) < share)
        values[shuffled] = rng.permutation(values[shuffled])
        labels = msgspec.structs.replace(training_set.labels, values=values)
        return self._own.fit(msgspec.structs.replace(training_set, labels=labels), rows)

    def expect(self, training_set: TrainingSet, rows: Rows) -> bool:
        return not self._share_of(training_set, rows) and self._recipe.expect(training_set, rows)

    def _share_of(self, training_set: TrainingSet, rows: Rows) -> float:
        """Return the share of rows whose labels are shuffled; 0 if `rows` leaves out the newest usable row."""
        usable = np.flatnonzero(training_set.usable)
        return self._share() if usable.size and rows[usable[-1]] else 0.0

    def candidate_scores(self, fitted: Scoring, training_set: TrainingSet, window: Rows) -> Floats:
        return self._recipe.candidate_scores(fitted, training_set, window)

    def champion_scores(self, champion: LoadedModel, training_set: TrainingSet, window: Rows) -> Floats:
        return self._recipe.champion_scores(champion, training_set, window)
