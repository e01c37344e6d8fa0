"""One row has several ways through a model: by name, in the order in which they are tried."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias, runtime_checkable

from trimtab.core.errors import NotFound
from trimtab.training.runtimes.ports import Score, Scorer

RowCall: TypeAlias = "Callable[[list[float]], Score]"


@runtime_checkable
class ChoosingScorer(Scorer, Protocol):
    """A scorer with more than one way to score one row. Choose before threads share it."""

    @property
    def row_call(self) -> str:
        """The way that `predict_row` takes."""
        ...

    @property
    def row_calls(self) -> Mapping[str, RowCall]:
        """All ways that there are here; the last is the library's own, which is right by definition."""
        ...

    def choose(self, name: str) -> None:
        """Take one of them from now on. Raises NotFound for one that is not there."""
        ...


class Ways:
    """What keeps the ways of a scorer: a scorer that has some inherits it.

    No way may hold the scorer, not even as a method of it: they would hold each other, and in a service, which seldom
    collects cycles, the model would stay in memory after it was let go. What scores is an object of its own.
    """

    predict_row: RowCall

    def __init__(self, row_calls: Mapping[str, RowCall]) -> None:
        self.row_calls = row_calls
        self.choose(next(iter(row_calls)))

    def choose(self, name: str) -> None:
        """Take the way `name` from now on.

        Raises:
            NotFound: It is not there; the message lists those that are.
        """
        if name not in self.row_calls:
            raise NotFound(f"one-row call {name!r}: here there are {', '.join(self.row_calls)}.")
        self.row_call = name
        self.predict_row = self.row_calls[name]


def per_thread(prepare: Callable[[], RowCall]) -> RowCall:
    """A way whose call each thread prepares for itself when it first asks."""
    local = threading.local()

    def prepared(row: list[float]) -> Score:
        try:
            call = local.call
        except AttributeError:
            call = local.call = prepare()
        found: Score = call(row)
        return found

    return prepared


def chooser(scorer: object) -> ChoosingScorer | None:
    """The scorer inside one that has a choice; None: it has none."""
    while (inner := getattr(scorer, "inner", None)) is not None:
        scorer = inner
    return scorer if isinstance(scorer, ChoosingScorer) and len(scorer.row_calls) > 1 else None
