"""Micro-batching: concurrent requests of one row share a call of the model, where that was measured to be cheaper.

It is measured when a version is put in place: most models take microseconds a row, and a batch would only delay
them.  # D108
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import msgspec

if TYPE_CHECKING:
    from numpy.typing import NDArray

WORTH_S = 50e-6  # gathering a row takes longer than answering one that costs less
LONGEST_WAIT_S = 0.002
MOST_ROWS = 64  # of one batch
_SIZES = (8, 32)  # of timed batches
_GAIN = 1.5  # how many times cheaper a row of a batch must be
_LOOKS = 4  # iterations of the loop during which a batch may go on growing
_CALLS = 3  # of each size; the fastest counts

_Row = TypeVar("_Row")
_Answer = TypeVar("_Answer")
_Answers = Callable[[Sequence[Any]], Sequence[Any]]


class Scores(Protocol):
    """A model."""

    def predict(self, matrix: NDArray[Any], /) -> NDArray[Any]: ...

    def predict_row(self, row: list[float], /) -> float | list[float]: ...


class BatchCosts(msgspec.Struct, frozen=True, kw_only=True):
    """What a row costs a model, alone and in batches."""

    alone_s: float
    together_s: dict[int, float] = {}  # by rows of a batch; empty: not measured, since a row costs next to nothing

    @property
    def pays(self) -> bool:
        """Whether batches are cheaper.

        >>> BatchCosts(alone_s=0.005, together_s={8: 0.0007, 32: 0.0002}).pays
        True
        """
        return bool(self.together_s) and min(self.together_s.values()) * _GAIN <= self.alone_s

    @property
    def wait_s(self) -> float:
        """How long a row waits for others: no longer than it costs."""
        return min(self.alone_s, LONGEST_WAIT_S)


def measure_costs(scorer: Scores, inputs: int, *, stopwatch_s: Callable[[], float] = perf_counter) -> BatchCosts:
    """Time a model with rows of zeros; batches only where one row takes so long that they may be cheaper.

    Args:
        scorer: The model, ready to answer.
        inputs: How many numbers a row has.
        stopwatch_s: A monotonic clock, in seconds.
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
    except Exception:  # a model that fails on zeros: no batches
        return BatchCosts(alone_s=0.0)
    return BatchCosts(alone_s=alone_s, together_s=together_s)


class Joined(Generic[_Row, _Answer]):
    """A row that shares a call: `done` has its answer, or the error of answering it alone."""

    def __init__(self, group: object, answers: _Answers, row: _Row, done: asyncio.Future[_Answer]) -> None:
        self.group = group
        self.answers = answers
        self.row = row
        self.done = done
        self.joined_s = self.began_s = perf_counter()  # when the call began, once it has


class Batching(Generic[_Row, _Answer]):
    """Gathers single rows of one event loop, and answers them by common calls.

    A row that comes alone is answered at the end of the loop's iteration. After a call that answered several, the next
    ones wait until as many are there again, but no longer than `BatchCosts.wait_s`: clients that were just answered
    send their next requests. When a common call fails, each row is answered alone, unless all of them would fail.

    Args:
        of_all: Whether each row of a call would raise the same error.
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
        """Answer `row` by the next call.

        Args:
            group: Only rows of one group share a call.
            answers: A function that gives the answers to rows, in their order.
            row: The row.
        """
        loop = asyncio.get_running_loop()
        one: Joined[_Row, _Answer] = Joined(group, answers, row, loop.create_future())
        self._gathered.append(one)
        count = len(self._gathered)
        if count >= MOST_ROWS:
            self._flush()
        elif count == self._expected:  # enough, and what else comes in this iteration
            self._set(loop.call_soon(self._look, loop, count, _LOOKS))
        elif count == 1:
            self._set(loop.call_later(self.costs.wait_s, self._flush))
        return one

    def _set(self, timer: asyncio.Handle | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer

    def _look(self, loop: asyncio.AbstractEventLoop, seen: int, looks: int) -> None:
        """Wait another iteration while rows keep coming."""
        if looks and len(self._gathered) > seen:
            self._set(loop.call_soon(self._look, loop, len(self._gathered), looks - 1))
        else:
            self._flush()

    def _flush(self) -> None:
        self._set(None)
        gathered, self._gathered = self._gathered, []
        waiting = [one for one in gathered if not one.done.done()]  # a client may have gone
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
        except Exception as error:  # a model may raise anything
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
