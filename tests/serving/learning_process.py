"""A process that learns the shop's labels block by block until it is killed: `learning_process.py FOLDER SECONDS`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import msgspec
import numpy as np

from trimtab.serving.arms.online_learning import Example, OnlineDeployment
from trimtab.store.lmdb.kv import LmdbKeyValue


class Averages:
    """A learner that can be checked by hand: it keeps the sum and the number of labels of each first input."""

    def __init__(self) -> None:
        self.sums: dict[int, list[float]] = {}
        self.blocks = 0

    def predict_row(self, row: list[float]) -> float:
        total, count = self.sums.get(int(row[0]), (0.0, 0))
        return total / count if count else 0.5

    def predict(self, matrix: Any) -> Any:
        return np.array([self.predict_row(row) for row in matrix.tolist()])

    def learn(self, matrix: Any, labels: Any) -> None:
        for row, label in zip(matrix.tolist(), labels.tolist(), strict=True):
            entry = self.sums.setdefault(int(row[0]), [0.0, 0])
            entry[0] += label
            entry[1] += 1
        self.blocks += 1

    def state(self) -> bytes:
        return msgspec.msgpack.encode((self.sums, self.blocks))

    def restore(self, state: bytes) -> None:
        sums, self.blocks = msgspec.msgpack.decode(state, type=tuple[dict[int, list[float]], int])
        self.sums = dict(sums)


def examples(start_us: int, until_us: int) -> list[Example]:
    """One label a microsecond: the world that is learnt from."""
    return [
        Example(np.array([n % 5, n], "<f8").tobytes(), float(n % 3 == 0), n) for n in range(start_us + 1, until_us + 1)
    ]


def main(folder: Path, seconds: float) -> None:
    with LmdbKeyValue(folder) as store:
        deployment = OnlineDeployment("late/online", Averages(), store, every_us=10)
        print("learning", flush=True)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begin = max(deployment.saved.until_us, 0)
            deployment.learn(examples(begin, begin + 37), until_us=begin + 37, positions={"p0001": begin + 37})


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
