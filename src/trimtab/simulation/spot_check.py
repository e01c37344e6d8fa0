"""Check that sampled requests of a replay have the same features as in service.

Like `trimtab serve`, a child process reads the event log from the disk, applies the events before each sampled request
to the online state in LMDB, and reads the request's features there. It runs at the same time as the replay, on another
core.
"""

from __future__ import annotations

import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.expressions.functions import files_of
from trimtab.features.feature_set import FeatureSet
from trimtab.run.executors import ProcessExecutor, Task
from trimtab.simulation.scenarios.rows import Block

_RUN = 20  # requests are sampled in groups of this many neighbours, so that few events are applied in between


class Setup(msgspec.Struct, frozen=True):
    """The definitions and the folder from which the child process reads features."""

    folder: str
    features: FeatureSet
    # the files that define Python functions used in features, with their module names
    code: dict[str, str] = {}


class Question(msgspec.Struct, frozen=True):
    """A sampled request, its time, and the features that the replay computed for it."""

    at_us: int
    request: dict[str, Any]
    values: list[Any]
    # for each value, the code of its null reason (one code means not null); None: the value does not come from a view
    reasons: list[int | None]


class Job(msgspec.Struct, frozen=True):
    """A group of requests for the child process, in the order of time."""

    setup: Setup | None = None  # only sent with the first job
    questions: list[Question] = []
    last: bool = False  # whether to apply the rest of the log after this job


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The result of the comparison: how many values were compared, and how many differed."""

    rows: int = 0
    values: int = 0
    mismatches: int = 0
    first: str = ""  # the first difference, in words

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(
            rows=self.rows + other.rows,
            values=self.values + other.values,
            mismatches=self.mismatches + other.mismatches,
            first=self.first or other.first,
        )


class SpotCheck:
    """Samples requests, sends them to a child process, and collects its result.

    Args:
        folder: The folder of the state, with the event log in `log/events`. The online state is written to `online/`.
            At the end, the whole log is applied to it.
        count: How many requests to sample. If it is 0, no process is started.
    """

    def __init__(self, features: FeatureSet, folder: Path, count: int, seed: int) -> None:
        self._features = features
        self._count = count
        self._seed = seed
        self._setup: Setup | None = Setup(str(folder), features, code_of(features))  # None after it was sent
        self._chosen: NDArray[Any] = np.zeros(0, np.int64)
        self._executor = ProcessExecutor(nice=0)
        self._thread = ThreadPoolExecutor(1, "trimtab-spot-check")  # a thread that waits for the child process
        self._closed = False
        self._verdicts: list[Future[Verdict]] = []

    def choose(self, first: int, stop: int) -> None:
        """Sample requests to check among the indices first to stop - 1: groups of neighbours, spread evenly.

        If more than half of them are to be checked, the first ones are taken.
        """
        count = min(self._count, stop - first)
        if 2 * count > stop - first:
            self._chosen = np.arange(first, first + count)
            return
        run = min(_RUN, max(count, 1))
        runs = -(-count // run)
        each = (stop - first) // max(runs, 1)
        starts = np.random.default_rng(self._seed).integers(0, each - run + 1, runs)
        spread = first + np.arange(runs) * each + starts
        self._chosen = (spread[:, None] + np.arange(run)).ravel()[:count]

    def compare(self, block: Block) -> None:
        """Send the sampled requests of a block to the child process. All earlier events must be in the log already."""
        names, codes = self._features.names, block.features.reasons
        questions = []
        for row in self._chosen[(self._chosen >= block.start) & (self._chosen < block.stop)].tolist():
            place = row - block.start
            here = slice(place, place + 1)
            question = Question(
                int(block.at_us[place]),
                block.requests.take(here).to_rows()[0],
                [block.features.values[name].take(here).to_list()[0] for name in names],
                [int(codes[name][place]) if name in codes else None for name in names],
            )
            questions.append(question)
        if questions:
            self._send(questions)

    def finish(self) -> Verdict:
        """Wait until the child process has checked all requests and applied the whole log, and return the result.

        Raises:
            Unavailable: The child process ended too early.
        """
        if self._count:
            self._send([], last=True)
        return sum((one.result() for one in self._verdicts), Verdict())

    def close(self) -> None:
        """End the child process."""
        self._closed = True
        self._thread.shutdown(cancel_futures=True)
        self._executor.close()

    def _send(self, questions: list[Question], *, last: bool = False) -> None:
        job, self._setup = Job(self._setup, questions, last), None
        task = Task(f"{__name__}_worker:check", msgspec.msgpack.encode(job), about="the check of the online path")
        self._verdicts.append(self._thread.submit(self._done, task))

    def _done(self, task: Task) -> Verdict:
        found = self._executor.run(
            task, on_event=lambda event: None, cancelled=lambda: "The replay is over." if self._closed else None
        )
        return msgspec.msgpack.decode(found, type=Verdict)


def code_of(features: FeatureSet) -> dict[str, str]:
    """Return the files that define the Python functions in some features, with their module names in this process."""
    expressions = [*features.transforms.values()]
    for view in features.views:
        for aggregate in view.features.values():
            expressions += [e for e in (aggregate.of, aggregate.where) if e is not None]
    modules = {getattr(module, "__file__", None): name for name, module in list(sys.modules.items())}
    return {file: modules.get(file, "") for file in files_of(expressions)}
