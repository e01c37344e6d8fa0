"""Scoring paths of a loaded model: calls that score one row, by name, the fastest first.  # D99"""

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
    """A scorer that scores one row by one of several paths. Choose one before threads share it.

    No path may hold this object, not even as a bound method: the two would hold each other, and the model would stay in
    memory after its release until the garbage collector runs, which a service rarely lets it do.

    Args:
        model: The library's own model, whose `predict_row` is the path "library": right by definition.
        quick: Faster paths, in the order of preference.
    """

    predict_row: RowCall

    def __init__(self, model: Scorer, quick: Mapping[str, RowCall]) -> None:
        self.model = model
        self.row_calls = {**quick, "library": model.predict_row}
        self.choose(next(iter(self.row_calls)))

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        return self.model.predict(matrix)

    def choose(self, name: str) -> None:
        """Take the path `name` from now on.

        Raises:
            NotFound: It is not there; the message lists those that are.
        """
        if name not in self.row_calls:
            raise NotFound(f"one-row call {name!r}: here there are {', '.join(self.row_calls)}.")
        self.row_call = name
        self.predict_row = self.row_calls[name]


class PlainScoringPaths(ScoringPaths):
    """Scoring paths of a model that does without NumPy."""

    model: PlainScorer

    def predict_rows(self, rows: list[list[float]]) -> list[Score]:
        """The scores of a batch, computed without NumPy."""
        return self.model.predict_rows(rows)


def with_paths(model: Scorer, quick: Mapping[str, RowCall]) -> ScoringPaths:
    """A model with its faster paths for one row."""
    return PlainScoringPaths(model, quick) if isinstance(model, PlainScorer) else ScoringPaths(model, quick)


def per_thread(prepare: Callable[[], RowCall]) -> RowCall:
    """A path whose call each thread prepares for itself at its first row."""
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
    """The scoring paths inside a scorer; None where there is only one path."""
    while (inner := getattr(scorer, "inner", None)) is not None:
        scorer = inner
    return scorer if isinstance(scorer, ScoringPaths) and len(scorer.row_calls) > 1 else None
