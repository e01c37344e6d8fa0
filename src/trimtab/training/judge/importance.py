"""Permutation importance: how much worse the metric becomes if a feature, or all features of a view, are shuffled."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.stats.metrics.lists import unit_losses
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model
from trimtab.training.fitting.fitted import Fitted
from trimtab.training.runtimes.table import runtime_row

_REPEATS = 5
_ROWS = (200, 2_000)  # the smallest and the largest number of rows of the holdout to use
# with many features, fewer rows are used (but at least `_ROWS[0]`), to make about this many predictions in all
_ANSWERS = 500_000
_SLOW_ANSWERS = 60_000  # the same for libraries that score rows one by one


class Permuted(msgspec.Struct, frozen=True, kw_only=True):
    """The importance of one feature, or of all features of one view together."""

    name: str
    features: tuple[str, ...]
    rise: float  # the mean rise of the metric over the repetitions; about 0 or negative for features that are not used
    spread: float  # the standard deviation over the repetitions
    repeats: int


def permuted(
    model: Model, fitted: Fitted, training_set: TrainingSet, chosen: NDArray[Any], *, seed: int
) -> tuple[Permuted, ...]:
    """Shuffle each feature, then the features of each view together, and return how much the metric rises each time.

    If features contain the same information, each of them alone seems unimportant, because the others replace it. The
    importance of the view (if it has several features) shows what they contribute together.

    Source: Breiman (2001); Fisher, Rudin & Dominici (2019).
    """
    generator = np.random.default_rng(seed)
    inputs = fitted.artifact.inputs
    lines = [*((name, (name,)) for name in inputs), *_views(inputs).items()]
    answers = _SLOW_ANSWERS if runtime_row(fitted.artifact.runtime).by_rows else _ANSWERS
    most = min(max(answers // (_REPEATS * len(lines)), _ROWS[0]), _ROWS[1])
    sample = _sample(training_set, chosen, most, generator)
    matrix, labels = fitted.matrix(training_set.features.values.take(sample)), training_set.target[sample]
    lists = training_set.lists_of(sample)

    def loss(inputs: NDArray[Any]) -> float:
        return float(unit_losses(model.metric, labels, fitted.scorer.predict(inputs), lists)[0].mean())

    base = loss(matrix)
    found = []
    for name, features in lines:
        places = [inputs.index(feature) for feature in features]
        rises = []
        for _ in range(_REPEATS):
            shuffled = matrix.copy()
            shuffled[:, places] = matrix[generator.permutation(len(matrix))][:, places]
            rises.append(loss(shuffled) - base)
        found.append(
            Permuted(
                name=name,
                features=features,
                rise=float(np.mean(rises)),
                spread=float(np.std(rises, ddof=1)),
                repeats=_REPEATS,
            )
        )
    return tuple(found)


def _sample(training_set: TrainingSet, chosen: NDArray[Any], most: int, generator: np.random.Generator) -> NDArray[Any]:
    """Draw about `most` rows, and return them in their order. In a ranking, whole lists are drawn."""
    lists = training_set.lists_of(chosen)
    if lists is None:
        kept: NDArray[Any] = chosen[np.sort(generator.permutation(chosen.size)[:most])]
        return kept
    names, counts = np.unique(lists, return_counts=True)
    drawn = generator.permutation(names.size)
    enough = max(1, int(np.searchsorted(np.cumsum(counts[drawn]), most, side="right")))
    return chosen[np.isin(lists, names[drawn[:enough]])]


def _views(inputs: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the features of each view that has several. Features of views are named "view.feature"."""
    by_view: dict[str, list[str]] = {}
    for name in inputs:
        view, dot, _ = name.partition(".")
        if dot:
            by_view.setdefault(view, []).append(name)
    return {f"{view} (all)": tuple(names) for view, names in by_view.items() if len(names) > 1}
