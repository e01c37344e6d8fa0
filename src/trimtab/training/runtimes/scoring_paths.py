"""Scoring paths: several functions that score a single row with the same model, of which one is used.  # D99"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from trimtab.core.errors import NotFound
from trimtab.training.runtimes.ports import PlainScorer, Score, Scorer

if TYPE_CHECKING:
    from numpy.typing import NDArray

RowCall: TypeAlias = "Callable[[list[float]], Score]"


class ScoringPaths:
    """A scorer with several scoring paths. Choose a path before threads share the scorer.

    No path may hold a reference to this object, not even as a bound method. Such a cycle would keep the model in memory
    until the garbage collector runs, and a service rarely lets it run.

    Args:
        model: The library's own model. Its `predict_row` is the path "library", with which other paths must agree.
        quick: Faster paths, fastest first.
    """

    predict_row: RowCall

    def __init__(self, model: Scorer, quick: Mapping[str, RowCall]) -> None:
        self.model = model
        self.row_calls = {**quick, "library": model.predict_row}
        self.choose(next(iter(self.row_calls)))

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        return self.model.predict(matrix)

    def choose(self, name: str) -> None:
        """Use the path with the given name from now on.

        Raises:
            NotFound: There is no such path. The message lists those that exist.
        """
        if name not in self.row_calls:
            raise NotFound(f"scoring path {name!r}: not found. This model has {', '.join(self.row_calls)}.")
        self.row_call = name
        self.predict_row = self.row_calls[name]


class PlainScoringPaths(ScoringPaths):
    """A scorer with several scoring paths, for a model that does not need NumPy."""

    model: PlainScorer

    def predict_rows(self, rows: list[list[float]]) -> list[Score]:
        """Return the scores of rows, without NumPy."""
        return self.model.predict_rows(rows)


def with_paths(model: Scorer, quick: Mapping[str, RowCall]) -> ScoringPaths:
    """Return a scorer with the model's own path and the faster ones."""
    return PlainScoringPaths(model, quick) if isinstance(model, PlainScorer) else ScoringPaths(model, quick)


def per_thread(prepare: Callable[[], RowCall]) -> RowCall:
    """Return a path for which each thread prepares a function of its own, when it scores its first row."""
    local = threading.local()

    def prepared(row: list[float]) -> Score:
        try:
            call = local.call
        except AttributeError:
            call = local.call = prepare()
        found: Score = call(row)
        return found

    return prepared


def several_paths(scorer: object) -> ScoringPaths | None:
    """Return the part of a scorer that has scoring paths; None if there is only one path."""
    while (inner := getattr(scorer, "inner", None)) is not None:
        scorer = inner
    return scorer if isinstance(scorer, ScoringPaths) and len(scorer.row_calls) > 1 else None
