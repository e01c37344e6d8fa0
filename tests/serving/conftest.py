"""A small shop: payments, checkouts, and a model whose scores can be checked by hand."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # child processes get this path

import forked
from trimtab import features as tt
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.expressions.nodes import col
from trimtab.events import History, Ingestor, source
from trimtab.events.quarantine import Quarantine
from trimtab.features.encoding import fit
from trimtab.features.feature_set import feature_set
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.features.online.store import OnlineStore
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.inputs import OfflineInputs, OnlineInputs
from trimtab.serving.answer.served import Readers, ServedVersion
from trimtab.serving.arms.endpoint import Endpoint
from trimtab.serving.log.buffered_log import BufferedLog
from trimtab.serving.log.prediction_ids import PredictionIds
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.store.lmdb.kv import LmdbKeyValue
from trimtab.store.sqlite.log import SqliteLog

START_US = 1_700_000_000_000_000
SECOND_US = 1_000_000


class Weighted:
    """A model whose score is the weighted sum of the inputs that are not missing."""

    def __init__(self, weights: list[float]) -> None:
        self.weights = weights

    def predict_row(self, row: list[float]) -> float:
        return math.fsum(w * v for w, v in zip(self.weights, row, strict=True) if v == v)

    def predict(self, matrix: Any) -> Any:
        return np.array([self.predict_row(row) for row in matrix.tolist()])


class Shop:
    """One endpoint and all that it needs, on real stores in `folder`, with a clock that the test sets."""

    payments = source("payments", time="paid_at", columns={"user": str, "amount": float})
    spent = tt.view(
        "spent",
        source=payments,
        by="user",
        features={
            "n_1h": tt.count(over="1h"),
            "total": tt.sum("amount", over="1d"),
            "last": tt.latest("amount", max_age="2h"),
        },
    )
    checkout = tt.request(
        "checkout", key="id", time="at", columns={"id": str, "user": str, "basket": float, "kind": str}
    )
    features = feature_set(checkout, [spent, {"log_basket": col("basket").log1p(), "kind": col("kind").category()}])
    weights = (0.5, 0.001, 0.01, 0.1, 1.0)

    def __init__(self, folder: Path, *, clock: Any = None, mode: Any = "relaxed", notes: bool = False) -> None:
        self.clock = clock or VirtualClock(START_US)
        self.seeded = clock is None
        self.events = SqliteLog(folder / "events", mode=mode, clock=self.clock)
        predictions = SqliteLog(folder / "predictions", mode=mode, clock=self.clock)
        self.log = PredictionLog(BufferedLog(predictions, folder / "spool") if notes else predictions)
        self.kv = LmdbKeyValue(folder / "online")
        self.online = OnlineStore(self.kv, [self.spent])
        self.quarantine = Quarantine(SqliteLog(folder / "quarantine", clock=self.clock))
        self.ingestor = Ingestor(self.events, [self.payments], clock=self.clock, quarantine=self.quarantine)
        examples = {"str": ["web", "app"]}
        dtypes = self.features.dtypes
        kinds = Columns.of({name: (dtype, examples.get(dtype, [1, 2])) for name, dtype in dtypes.items()})
        self.encoding = fit(self.features, kinds)
        self.scorer = Weighted(list(self.weights))
        self.inputs = OfflineInputs(self.features, self.encoding, self.snapshot)
        self.endpoint = Endpoint("late")
        self.endpoint.swap(self.answerer())

    def answerer(self, *, number: int = 1, scorer: Any = None, model: str = "late") -> Answerer:
        return Answerer(
            ServedVersion(
                model=model,
                version=f"{number:064}",
                label=f"{model}@{number}",
                arm="champion",
                inputs=self.features.names,
            ),
            self.checkout,
            Readers(OnlineInputs(RequestPlan(self.features, self.kv), self.encoding), past=self.inputs),
            scorer or self.scorer,
            log=self.log,
            clock=self.clock,
            ids=PredictionIds(self.clock, seed=number if self.seeded else None),
        )

    def snapshot(self, upto: Mapping[str, int] | None) -> Any:
        history = History(self.events, [self.payments], upto=upto)
        history.refresh()
        return {"payments": history.frame("payments")}, dict(history.positions)

    def pay(self, user: str, amount: float, *, after_s: float = 1.0) -> None:
        """Move the clock by `after_s`, and apply a payment at once."""
        self.wait(after_s)
        self.ingestor.push("payments", [{"user": user, "amount": amount, "paid_at": self.clock.now_us()}])
        self.apply()

    def apply(self) -> None:
        for partition in self.events.positions():
            self.online.apply(self.events.read(partition, self.online.positions().get(partition, 0)))

    def wait(self, seconds: float) -> None:
        self.clock.advance_to(self.clock.now_us() + round(seconds * SECOND_US))

    def ask(self, user: str | None = "ann", **columns: Any) -> dict[str, Any]:
        """Return a request row."""
        return {"id": "c1", "user": user, "basket": 12.5, "kind": "web", "at": self.clock.now_us(), **columns}

    def close(self) -> None:
        self.events.close()
        self.log.close()
        self.kv.close()


class Server:
    """A process of `serving_process.py` on a free port."""

    def __init__(
        self, folder: Path, mode: str = "relaxed", *, port: int = 0, work_s: float = 0.0, grace_s: float = 10.0
    ) -> None:
        file = str(Path(__file__).with_name("serving_process.py"))
        command = [sys.executable, file, str(folder), mode, str(port), str(work_s), str(grace_s)]
        self.process = forked.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        found = re.search(r"http://127.0.0.1:(\d+)", said)
        if found is None:
            raise AssertionError(f"the server did not start: {said}{self.stop()[1]}")
        self.port = int(found[1])
        self.url = found[0]

    def kill(self) -> None:
        """Kill the process, as a power failure would."""
        self.process.kill()
        self.process.communicate()

    def stop(self) -> tuple[int, str]:
        """Terminate the process; return its exit status and standard error."""
        self.process.terminate()
        return self.ended()

    def ended(self) -> tuple[int, str]:
        """Wait for the process to end; return its exit status and standard error."""
        _, complaints = self.process.communicate(timeout=60)
        return self.process.returncode, complaints


@pytest.fixture(scope="session")
def start_server() -> Any:
    return Server


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    yield made
    made.close()
