"""Sampled questions of a replay, read through the online path by a process of their own and held against the columns.

The process follows the event log as `trimtab serve` does: it reads it from disk, applies it to LMDB up to each
question's moment, and reads the question there. It runs beside the replay, on another core.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Unavailable
from trimtab.core.expressions.functions import files_of
from trimtab.features.feature_set import FeatureSet
from trimtab.simulation.scenarios.rows import Block

_RUN = 20  # neighbours are checked together: between them little has to be applied, between runs much at once


class Setup(msgspec.Struct, frozen=True):
    """What the process is told first."""

    folder: str
    features: FeatureSet
    code: dict[str, str] = {}  # files that define plain functions among the features, and the modules they were
    path: list[str] = []  # where modules are found


class Question(msgspec.Struct, frozen=True):
    """A question, its moment, and what the columns say."""

    at_us: int
    request: dict[str, Any]
    values: list[Any]
    reasons: list[int | None]  # codes; None: from no view


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in all."""

    rows: int = 0
    values: int = 0
    mismatches: int = 0
    first: str = ""  # the first mismatch, in words


class SpotCheck:
    """Draws questions, hands them to the process, and collects its verdict.

    Args:
        features: What is read.
        folder: Holds the event log in `log/events`; online state is kept in `online/`, and stands at the end of the
            log when the check is over.
        count: How many questions to sample; 0 starts no process.
        seed: Chooses them.
    """

    def __init__(self, features: FeatureSet, folder: Path, count: int, seed: int) -> None:
        self._features = features
        self._count = count
        self._seed = seed
        self._chosen: NDArray[Any] = np.zeros(0, np.int64)
        self._process: subprocess.Popen[bytes] | None = None
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        if count:
            self._start(folder)

    def choose(self, first: int, stop: int) -> None:
        """Draw the questions to be checked from [first, stop): runs of neighbours, spread over the whole."""
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
        """Hand over the sampled questions of a block, whose events are all in the log."""
        for row in self._chosen[(self._chosen >= block.start) & (self._chosen < block.stop)].tolist():
            place = row - block.start
            here = slice(place, place + 1)
            codes = block.features.reasons
            names = self._features.names
            question = Question(
                int(block.at_us[place]),
                block.requests.take(here).to_rows()[0],
                [block.features.values[name].take(here).to_list()[0] for name in names],
                [int(codes[name][place]) if name in codes else None for name in names],
            )
            self._outbox.put(packed(question))

    def finish(self) -> Verdict:
        """Let the process check what it has, apply the whole log, and say what it found.

        Raises:
            Unavailable: It ended before; its own error is on standard error.
        """
        if self._process is None:
            return Verdict()
        self._outbox.put(None)
        self._writer.join()
        assert self._process.stdout is not None  # it was started with a pipe
        with self._process.stdout as stdout:
            found = read_packed(stdout)
        self._process.wait()
        if found is None:
            raise Unavailable("replay: the process that checks the online path ended early. See its error above.")
        self._process = None
        return msgspec.msgpack.decode(found, type=Verdict)

    def close(self) -> None:
        """End the process when it still runs."""
        if self._process is not None:
            self._process.kill()
            self._outbox.put(None)
            self._writer.join()
            assert self._process.stdout is not None  # it was started with a pipe
            self._process.stdout.close()
            self._process.wait()

    def _start(self, folder: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "trimtab.simulation.spot_check_worker"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            process_group=0,  # Ctrl-C is for this process, which ends the other
        )
        assert self._process.stdin is not None  # it was started with a pipe
        self._writer = threading.Thread(target=_write, args=(self._outbox, self._process.stdin), daemon=True)
        self._writer.start()
        self._outbox.put(packed(Setup(str(folder), self._features, code_of(self._features), list(sys.path))))


def code_of(features: FeatureSet) -> dict[str, str]:
    """The files that define the plain functions among features, each with the name of its module here."""
    expressions = [*features.transforms.values()]
    for view in features.views:
        for aggregate in view.features.values():
            expressions += [e for e in (aggregate.of, aggregate.where) if e is not None]
    modules = {getattr(module, "__file__", None): name for name, module in list(sys.modules.items())}
    return {file: modules.get(file, "") for file in files_of(expressions)}


def packed(message: msgspec.Struct) -> bytes:
    """A message with its length in front."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(4, "big") + body


def read_packed(stream: IO[bytes]) -> bytes | None:
    """The next message's body, None at the end."""
    size = stream.read(4)
    return stream.read(int.from_bytes(size, "big")) if len(size) == 4 else None


def _write(outbox: SimpleQueue[bytes | None], stream: IO[bytes]) -> None:
    """Write messages until None; a reader that is gone is noticed by `finish`."""
    gone = False
    while (message := outbox.get()) is not None:
        if not gone:
            try:
                stream.write(message)
            except BrokenPipeError:
                gone = True  # what is still to come is dropped
    with suppress(BrokenPipeError):
        stream.close()
