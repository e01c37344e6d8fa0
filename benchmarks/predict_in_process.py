"""One answer in process: a row checked, 10 features over 3 views read, 100 trees, the prediction in the log.

The floor is three times the model's fastest one-row call plus the online read alone, so the ratio may be at most 1.
Both are measured in one loop over the rows, one after the other, as an answer meets them: "cold". In a loop of its own
over one row, the call finds its trees in the processor's nearest cache, and takes half of the time: "warm". The figure
with a warm floor, and the ratio to it, are printed after the table's line.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import lightgbm
import numpy as np
from _online import ASK, TEN_FEATURES, Reads

from trimtab.core.clock import VirtualClock
from trimtab.features.encoding import Encoding
from trimtab.features.feature_set import feature_set
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.inputs import OnlineInputs
from trimtab.serving.answer.served import Readers, ServedVersion
from trimtab.serving.log.buffered_log import BufferedLog
from trimtab.serving.log.prediction_ids import PredictionIds
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.store.sqlite.log import SqliteLog
from trimtab.training.runtimes import runtime_named

NAME = "predict_in_process"
TARGET = "ratio <= 1"
UNIT = "us"
BETTER = "lower"


class Asking:
    """Everything behind one answer, and its parts for the floor."""

    def __init__(self, folder: Path) -> None:
        reads = Reads(folder, rows=1)
        self.plan, self.now_us = reads._plan, reads._now_us
        self.rows = [{"id": f"r{n}", **rows[0], "asked_at": self.now_us} for n, rows in enumerate(reads._asked)]
        features = feature_set(ASK, TEN_FEATURES)
        rng = np.random.default_rng(5)
        x = rng.normal(size=(20_000, len(features.names)))
        y = x[:, 0] * x[:, 1] + rng.normal(size=len(x)) > 0
        fitted = lightgbm.LGBMClassifier(n_estimators=100, n_jobs=1, verbose=-1).fit(x, y)
        self.scorer = runtime_named("lightgbm").load(fitted.booster_.model_to_string().encode())
        clock = VirtualClock(self.now_us)
        inputs = OnlineInputs(self.plan, Encoding(dtypes=features.dtypes, vocabularies={}))
        served = ServedVersion(model="m", version="0" * 64, label="m@1", arm="champion", inputs=features.names)
        self._log = BufferedLog(SqliteLog(folder / "predictions", mode="relaxed"), folder / "spool")
        log, ids = PredictionLog(self._log), PredictionIds(clock)
        self.answerer = Answerer(served, ASK, Readers(inputs), self.scorer, log=log, clock=clock, ids=ids)

    def close(self) -> None:
        self._log.close()


def setup(folder: Path) -> Asking:
    return Asking(folder)


def ours(asking: Asking) -> float:
    answer, clock, times = asking.answerer.answer, time.perf_counter_ns, []
    for row in asking.rows * 5:
        begin = clock()
        answer([row])
        times.append(clock() - begin)
    return statistics.median(times) / 1_000


def floor(asking: Asking) -> float:
    reads, calls = _reads_and_calls(asking)
    return (3 * statistics.median(calls) + statistics.median(reads)) / 1_000


def more(asking: Asking) -> dict[str, float]:
    predict_row, clock, calls = asking.scorer.predict_row, time.perf_counter_ns, []
    reads, _ = _reads_and_calls(asking)
    values = asking.plan.read([asking.rows[0]], asking.now_us).values[0]
    for _ in asking.rows * 5:
        begin = clock()
        predict_row(values)
        calls.append(clock() - begin)
    warm_us = (3 * statistics.median(calls) + statistics.median(reads)) / 1_000
    return {"floor, warm": warm_us, "ratio to the warm floor": ours(asking) / warm_us}


def _reads_and_calls(asking: Asking) -> tuple[list[int], list[int]]:
    """Return the nanoseconds of each read and each call, which take turns."""
    predict_row, read, now_us = asking.scorer.predict_row, asking.plan.read, asking.now_us
    clock, reads, calls = time.perf_counter_ns, [], []
    for row in asking.rows * 5:
        begin = clock()
        found = read([row], now_us)
        middle = clock()
        predict_row(found.values[0])
        end = clock()
        reads.append(middle - begin)
        calls.append(end - middle)
    return reads, calls
