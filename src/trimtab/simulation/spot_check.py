"""Sampled questions of a replay, read through the online path in another process and compared with the columns.

The process follows the event log as `trimtab serve` does: it reads the log from disk, applies the log to LMDB up to the
time of each question, and reads the question there. The process runs next to the replay, on another core.
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

_RUN = 20  # neighbouring questions are checked together, because little of the log has to be applied between them


class Setup(msgspec.Struct, frozen=True):
    """The definitions and files that the process needs to read questions."""

    folder: str
    features: FeatureSet
    code: dict[str, str] = {}  # files that define plain functions among the features, and the modules they were


class Question(msgspec.Struct, frozen=True):
    """A question, its time, and the values that the columns have for it."""

    at_us: int
    request: dict[str, Any]
    values: list[Any]
    reasons: list[int | None]  # codes of reasons; None for a value that comes from no view


class Job(msgspec.Struct, frozen=True):
    """Questions for the process, in the order of their times."""

    setup: Setup | None = None  # sent with the first questions
    questions: list[Question] = []
    last: bool = False  # if True, the whole log is applied after this job


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The number of values that were compared, and the differences."""

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
    """Draws questions, sends them to the process, and collects its verdict.

    Args:
        features: The features that are read.
        folder: Holds the event log in `log/events`. Online state is stored in `online/`, which has all of the log
            applied when the check is over.
        count: How many questions to sample; 0 starts no process.
        seed: Seed of the sample.
    """

    def __init__(self, features: FeatureSet, folder: Path, count: int, seed: int) -> None:
        self._features = features
        self._count = count
        self._seed = seed
        self._setup: Setup | None = Setup(str(folder), features, code_of(features))  # kept until it was sent
        self._chosen: NDArray[Any] = np.zeros(0, np.int64)
        self._executor = ProcessExecutor(nice=0)
        self._thread = ThreadPoolExecutor(1, "trimtab-spot-check")  # the thread that waits for the process
        self._closed = False
        self._verdicts: list[Future[Verdict]] = []

    def choose(self, first: int, stop: int) -> None:
        """Draw the questions to check from [first, stop): runs of neighbouring questions, spread over the range."""
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
        """Send the sampled questions of a block. All events of the block must be in the log."""
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
        """Let the process check the remaining questions and apply the whole log.

        Raises:
            Unavailable: The process ended too early.
        """
        if self._count:
            self._send([], last=True)
        return sum((one.result() for one in self._verdicts), Verdict())

    def close(self) -> None:
        """End the process."""
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
    """The files that define the plain functions among some features, each with the name of its module here."""
    expressions = [*features.transforms.values()]
    for view in features.views:
        for aggregate in view.features.values():
            expressions += [e for e in (aggregate.of, aggregate.where) if e is not None]
    modules = {getattr(module, "__file__", None): name for name, module in list(sys.modules.items())}
    return {file: modules.get(file, "") for file in files_of(expressions)}
