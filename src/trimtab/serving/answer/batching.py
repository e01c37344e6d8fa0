"""Micro-batching: concurrent requests of one row share a call of the model if this was measured to be cheaper.

The costs are measured when a version is deployed. Most models take only microseconds for a row. For these, waiting for
a batch would only delay the answers.  # D108
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

if TYPE_CHECKING:
    from trimtab.serving.answer.served import RowScorer

WORTH_S = 50e-6  # if a row costs less than this, gathering rows takes longer than scoring them one by one
LONGEST_WAIT_S = 0.002
MOST_ROWS = 64  # the largest number of rows in a batch
_SIZES = (8, 32)  # the batch sizes that are timed
_GAIN = 1.5  # a row in a batch must be this many times cheaper than a row alone
_LOOKS = 4  # as long as a batch grows, it waits for at most this many more iterations of the event loop
_CALLS = 3  # the number of timed calls for each size; the fastest counts

_Row = TypeVar("_Row")
_Answer = TypeVar("_Answer")
_Answers = Callable[[Sequence[Any]], Sequence[Any]]


class BatchCosts(msgspec.Struct, frozen=True, kw_only=True):
    """The time that a model takes per row, for single rows and in batches."""

    alone_s: float
    together_s: dict[int, float] = {}  # per row, by batch size; empty: not measured (see `measure_costs`)

    @property
    def pays(self) -> bool:
        """Return whether batches are cheaper than single rows.

        >>> BatchCosts(alone_s=0.005, together_s={8: 0.0007, 32: 0.0002}).pays
        True
        """
        return bool(self.together_s) and min(self.together_s.values()) * _GAIN <= self.alone_s

    @property
    def wait_s(self) -> float:
        """Return how long a row may wait for other rows: as long as the model takes for one row, but at most 2 ms."""
        return min(self.alone_s, LONGEST_WAIT_S)


def measure_costs(scorer: RowScorer, inputs: int, *, stopwatch_s: Callable[[], float] = perf_counter) -> BatchCosts:
    """Measure how long a model takes for rows of zeros.

    Batches are measured only if a single row takes so long that a batch may be cheaper.

    Args:
        inputs: The number of inputs in a row.
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
    except Exception:  # the model fails on zeros, so batches are not used
        return BatchCosts(alone_s=0.0)
    return BatchCosts(alone_s=alone_s, together_s=together_s)


class Joined(Generic[_Row, _Answer]):
    """A row that waits for a shared call of the model.

    `done` gets its answer. If the shared call fails, the row is answered alone, and `done` gets that answer or error.
    (If the error concerns all rows, `done` gets it at once.)
    """

    def __init__(self, group: object, answers: _Answers, row: _Row, done: asyncio.Future[_Answer]) -> None:
        self.group = group
        self.answers = answers
        self.row = row
        self.done = done
        self.joined_s = self.began_s = perf_counter()  # `began_s` is updated when the call begins


class Batching(Generic[_Row, _Answer]):
    """Gathers single rows in one event loop, and answers several of them by one call of the model.

    A row that is alone is answered at the end of the loop's iteration. Clients often send their next request as soon as
    they have an answer. So after a call for several rows, the next call waits for as many rows, but no longer than
    `BatchCosts.wait_s`. If a shared call fails, each row is answered alone, unless the error would occur for all rows.

    Args:
        of_all: Returns whether each row of a call would raise the given error as well.
    """

    def __init__(self, of_all: Callable[[Exception], bool] = lambda error: False) -> None:
        self._of_all = of_all
        self.costs = BatchCosts(alone_s=0.0)
        self.calls: dict[int, int] = {}  # number of calls by the number of rows in a call
        self.waited_s = 0.0  # the total time that rows have waited for their calls
        self._gathered: list[Joined[_Row, _Answer]] = []
        self._expected = 1  # the number of rows in the last batch, which is expected again
        self._timer: asyncio.Handle | None = None

    @property
    def rows(self) -> int:
        """Return how many rows have been answered."""
        return sum(rows * calls for rows, calls in self.calls.items())

    def join(self, group: object, answers: _Answers, row: _Row) -> Joined[_Row, _Answer]:
        """Let the next call answer `row`.

        Args:
            group: Only rows of one group share a call.
            answers: A function that takes rows and returns their answers in the order of the rows.
        """
        loop = asyncio.get_running_loop()
        one: Joined[_Row, _Answer] = Joined(group, answers, row, loop.create_future())
        self._gathered.append(one)
        count = len(self._gathered)
        if count >= MOST_ROWS:
            self._flush()
        elif count == self._expected:  # enough rows wait; rows that arrive in this iteration still join
            self._set(loop.call_soon(self._look, loop, count, _LOOKS))
        elif count == 1:
            self._set(loop.call_later(self.costs.wait_s, self._flush))
        return one

    def _set(self, timer: asyncio.Handle | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer

    def _look(self, loop: asyncio.AbstractEventLoop, seen: int, looks: int) -> None:
        """Wait for another iteration of the loop if rows have arrived in the last one, and otherwise answer."""
        if looks and len(self._gathered) > seen:
            self._set(loop.call_soon(self._look, loop, len(self._gathered), looks - 1))
        else:
            self._flush()

    def _flush(self) -> None:
        self._set(None)
        gathered, self._gathered = self._gathered, []
        waiting = [one for one in gathered if not one.done.done()]  # leave out rows whose clients are gone
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
        except Exception as error:  # a model may raise any error
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
    """Return the number of calls by size, for metrics.

    The size of a call is its number of rows, rounded up to a power of two.

    >>> calls_by_size({1: 5, 3: 2, 4: 1})
    {'1': 5, '4': 3}
    """
    found: dict[str, int] = {}
    for rows, count in sorted(calls.items()):
        size = str(1 << (rows - 1).bit_length())
        found[size] = found.get(size, 0) + count
    return found


def _quickest_s(call: Callable[[], object], stopwatch_s: Callable[[], float]) -> float:
    call()  # not timed, because the first call may load and prepare something
    taken = []
    for _ in range(_CALLS):
        before = stopwatch_s()
        call()
        taken.append(stopwatch_s() - before)
    return min(taken)
