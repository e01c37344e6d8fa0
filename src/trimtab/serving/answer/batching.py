"""Micro-batching: requests of one row that come together are answered by one call of the model, where that is cheaper.

Whether it is, is measured when a version is put in place: most of what trimtab serves takes microseconds a row, and a
batch would only make it wait.  # D100
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import msgspec

if TYPE_CHECKING:
    from numpy.typing import NDArray

WORTH_S = 50e-6  # a row that takes less is answered sooner than it could be gathered
LONGEST_WAIT_S = 0.002
MOST_ROWS = 64  # of one batch
_SIZES = (8, 32)  # of the batches that are timed
_GAIN = 1.5  # times cheaper than alone a row of a batch has to be
_LOOKS = 4  # turns of the loop for which a batch that grows may go on growing
_CALLS = 3  # of each size; the quickest counts, since what else the machine does makes a call slower, never faster

_Row = TypeVar("_Row")
_Answer = TypeVar("_Answer")
_Answers = Callable[[Sequence[Any]], Sequence[Any]]


class Scores(Protocol):
    """What is asked of a model."""

    def predict(self, matrix: NDArray[Any], /) -> NDArray[Any]: ...

    def predict_row(self, row: list[float], /) -> float | list[float]: ...


class BatchCosts(msgspec.Struct, frozen=True, kw_only=True):
    """What a row costs a model alone, and as one of several."""

    alone_s: float
    together_s: dict[
        int, float
    ] = {}  # a row of a batch of so many; empty: not tried, since alone it costs next to nothing

    @property
    def pays(self) -> bool:
        """Whether batches are worth while.

        >>> BatchCosts(alone_s=0.005, together_s={8: 0.0007, 32: 0.0002}).pays
        True
        """
        return bool(self.together_s) and min(self.together_s.values()) * _GAIN <= self.alone_s

    @property
    def wait_s(self) -> float:
        """How long a row may wait for others: no longer than it costs itself."""
        return min(self.alone_s, LONGEST_WAIT_S)


def measure_costs(scorer: Scores, inputs: int, *, stopwatch_s: Callable[[], float] = perf_counter) -> BatchCosts:
    """Time a model with rows of zeros; batches only where one row takes so long that they may pay.

    Args:
        scorer: The model, ready to answer.
        inputs: How many numbers a row has.
        stopwatch_s: Never goes back.
    """
    row = [0.0] * inputs
    try:
        alone_s = _quickest_s(lambda: scorer.predict_row(row), stopwatch_s)
        if alone_s < WORTH_S:
            return BatchCosts(alone_s=alone_s)
        import numpy as np

        together_s = {}
        for rows in _SIZES:
            matrix = np.zeros((rows, inputs))
            together_s[rows] = _quickest_s(lambda given=matrix: scorer.predict(given), stopwatch_s) / rows  # type: ignore[misc]
    except Exception:  # a model that refuses zeros, in whatever way, answers each row by itself
        return BatchCosts(alone_s=0.0)
    return BatchCosts(alone_s=alone_s, together_s=together_s)


class Joined(Generic[_Row, _Answer]):
    """A row that shares a call: its answer is there once `done` is, which raises what answering it alone raised."""

    def __init__(self, group: object, answers: _Answers, row: _Row, done: asyncio.Future[_Answer]) -> None:
        self.group = group
        self.answers = answers
        self.row = row
        self.done = done
        self.joined_s = self.began_s = perf_counter()  # when the call began, once it has


class Batching(Generic[_Row, _Answer]):
    """Gathers single rows of one event loop, and lets each have its answer of a common call.

    A row that comes alone is answered at the end of the loop's turn. After a call that answered several, the next ones
    wait until as many are there again, but no longer than `BatchCosts.wait_s`: whoever was just answered is asking the
    next question. When a common call fails, each row is asked by itself, so that no request fails by another's fault;
    not so where it fails by no row's fault.

    Args:
        of_all: Whether what a call raised is what each of its rows would raise.
    """

    def __init__(self, of_all: Callable[[Exception], bool] = lambda error: False) -> None:
        self._of_all = of_all
        self.costs = BatchCosts(alone_s=0.0)
        self.calls: dict[int, int] = {}  # by how many rows they answered
        self.waited_s = 0.0  # by all rows
        self._gathered: list[Joined[_Row, _Answer]] = []
        self._expected = 1  # rows of the last batch
        self._timer: asyncio.Handle | None = None

    @property
    def rows(self) -> int:
        """How many rows were answered."""
        return sum(rows * calls for rows, calls in self.calls.items())

    def join(self, group: object, answers: _Answers, row: _Row) -> Joined[_Row, _Answer]:
        """Have `row` answered by the next call.

        Args:
            group: What answers: only rows of one and the same are answered together.
            answers: Answers to many rows, in their order.
            row: One.
        """
        loop = asyncio.get_running_loop()
        one: Joined[_Row, _Answer] = Joined(group, answers, row, loop.create_future())
        self._gathered.append(one)
        count = len(self._gathered)
        if count >= MOST_ROWS:
            self._flush()
        elif count == self._expected:  # enough, and whoever else comes in this turn
            self._set(loop.call_soon(self._look, loop, count, _LOOKS))
        elif count == 1:
            self._set(loop.call_later(self.costs.wait_s, self._flush))
        return one

    def _set(self, timer: asyncio.Handle | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer

    def _look(self, loop: asyncio.AbstractEventLoop, seen: int, looks: int) -> None:
        """Wait another turn while rows keep coming."""
        if looks and len(self._gathered) > seen:
            self._set(loop.call_soon(self._look, loop, len(self._gathered), looks - 1))
        else:
            self._flush()

    def _flush(self) -> None:
        self._set(None)
        gathered, self._gathered = self._gathered, []
        waiting = [one for one in gathered if not one.done.done()]  # the asker of another may have gone
        self._expected = max(1, len(waiting))
        now_s = perf_counter()
        groups: dict[int, list[Joined[_Row, _Answer]]] = {}
        for one in waiting:
            self.waited_s += now_s - one.joined_s
            one.began_s = now_s
            groups.setdefault(id(one.group), []).append(one)
        for together in groups.values():
            self._answer(together)

    def _answer(self, together: list[Joined[_Row, _Answer]]) -> None:
        try:
            found = together[0].answers([one.row for one in together])
        except Exception as error:  # whatever a model raises: each asker hears of its own row
            if len(together) > 1 and not self._of_all(error):
                for one in together:
                    self._answer([one])
                return
            self._count(together)
            for one in together:
                if not one.done.done():
                    one.done.set_exception(error)
            return
        self._count(together)
        for one, answer in zip(together, found, strict=True):
            if not one.done.done():
                one.done.set_result(answer)

    def _count(self, together: Sequence[object]) -> None:
        self.calls[len(together)] = self.calls.get(len(together), 0) + 1


def calls_by_size(calls: Mapping[int, int]) -> dict[str, int]:
    """Calls by the power of two that their rows do not exceed, for metrics.

    >>> calls_by_size({1: 5, 3: 2, 4: 1})
    {'1': 5, '4': 3}
    """
    found: dict[str, int] = {}
    for rows, count in sorted(calls.items()):
        size = str(1 << (rows - 1).bit_length())
        found[size] = found.get(size, 0) + count
    return found


def _quickest_s(call: Callable[[], object], stopwatch_s: Callable[[], float]) -> float:
    call()  # the first one may load and prepare
    taken = []
    for _ in range(_CALLS):
        before = stopwatch_s()
        call()
        taken.append(stopwatch_s() - before)
    return min(taken)
