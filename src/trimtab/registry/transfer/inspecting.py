"""Read a foreign model file and score rows with its model. This runs in a child process, because it may crash."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Corrupt
from trimtab.run import Workplace
from trimtab.training.runtimes.formats import Inspected, ModelFile
from trimtab.training.runtimes.ports import Scorer
from trimtab.training.runtimes.table import ROWS, RuntimeRow, runtime_named, runtime_row

_MOST_SCORES = 10_000  # the largest number of scores per row, one for each class
_OUT_OF_MEMORY = ("bad_alloc", "allocate memory", "out of memory")
_BY_FORMAT = {row.format: row for row in ROWS}


class ScoringTask(msgspec.Struct, frozen=True, kw_only=True):
    """A model and rows to score with it."""

    runtime: str
    data: bytes  # the model's bytes, in the format in which its library stores models
    rows: bytes  # float64, row after row
    columns: int


def inspect(argument: bytes, place: Workplace) -> bytes:
    """Read a model file, load the model and score one row. This runs in the child process."""
    file = msgspec.msgpack.decode(argument, type=ModelFile)
    row = _BY_FORMAT[file.format]
    limit_memory(row, len(file.data))
    found = inspect_file(file)
    _score(runtime_named(found.runtime).load(found.data), np.zeros((1, len(file.names))))
    return msgspec.msgpack.encode(found)


def score(argument: bytes, place: Workplace) -> bytes:
    """Score rows with a model, in a batch and two alone, to find out whether the model ends the process.

    This runs in the child process, before the importing process scores the rows.
    """
    task = msgspec.msgpack.decode(argument, type=ScoringTask)
    limit_memory(runtime_row(task.runtime), len(task.data) + len(task.rows))
    rows = np.frombuffer(task.rows, np.float64).reshape(-1, task.columns)
    _score(runtime_named(task.runtime).load(task.data), rows)
    return b""


def _score(scorer: Scorer, rows: NDArray[np.float64]) -> None:
    """Score rows, and raise an error if the model needs too much memory or returns far too many scores.

    Other errors are ignored, because the importing process scores the rows, too, and reports them.
    """
    try:
        scores = np.asarray(scorer.predict(rows))
        if scores.size > _MOST_SCORES * len(rows):
            raise Corrupt(
                f"the model gives {scores.size // len(rows)} numbers a row; at most {_MOST_SCORES} are allowed."
            )
        for row in rows[:1].tolist() + rows[-1:].tolist():
            scorer.predict_row(row)
    except Corrupt:
        raise
    except Exception as error:  # libraries raise exceptions of any type
        if isinstance(error, MemoryError) or any(text in str(error).lower() for text in _OUT_OF_MEMORY):
            raise Corrupt(
                f"to score {len(rows)} rows, the model takes far more memory than the size of its file."
            ) from error


def inspect_file(file: ModelFile) -> Inspected:
    """Read a model file in this process, and describe the model."""
    read = runtime_named(_BY_FORMAT[file.format].name).format.inspect
    assert read is not None  # each format with a file has a reader
    return read(file)


def limit_memory(row: RuntimeRow, size: int) -> None:
    """Limit the memory of this process to what a model of `size` bytes and its rows can need. (Only on Linux.)"""
    if row.memory_bytes is None or sys.platform != "linux":
        return
    import resource

    # import libraries first, so that they count as memory in use
    for module in (row.reader or row.library, row.module):
        import_module(module)
    lines = Path("/proc/self/status").read_text().splitlines()
    used = 1024 * int(next(line for line in lines if line.startswith("VmData")).split()[1])
    resource.setrlimit(resource.RLIMIT_DATA, (used + row.memory_bytes + 32 * size, resource.RLIM_INFINITY))
