"""A project with millions of logged predictions and their labels, for the benchmarks of what reads it.

Most predictions are of nine days whose closing is stored as the loop would have stored it: how far it has read, and
where in the log each day is. Three more days with 20,000 predictions each are closed by the loop itself. Each
prediction has a label, which is an event. All of it is appended to the logs as the service encodes it.

    python _big_project.py VERB FOLDER PREDICTION MINUTES SMALL_FOLDER ITS_PREDICTION

A new process, which imports what the verb needs by running it on a small project, and then times the verb on another
one, from opening the project to the answer.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

import trimtab as tt
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.columns.packs import unpack
from trimtab.core.records import Prediction
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US, parse_time_us
from trimtab.events.records import Event, encode
from trimtab.feedback.logged_waiting import Extent
from trimtab.monitoring.inputs.input_state import WatchStore
from trimtab.serving.log.prediction_ids import PredictionIds
from trimtab.serving.log.prediction_record import pack_all
from trimtab.steering.loop.loop import KIND, Reached
from trimtab.store.ports import Put

BEGUN_US = parse_time_us("2026-03-01T00:00:00Z")
BULK_DAYS, DAYS, A_DAY, HISTORY, EACH = 9, 12, 20_000, 50_000, 50_000
NOW_US = BEGUN_US + DAYS * DAY_US + HOUR_US // 2
SMALL, FEW = 65_000, 500_000
PROJECT = """
import trimtab as tt

visits = tt.request("visits", key="id", time="at", columns={"id": str, "at": tt.Time, "x": float, "site": str})
sales = tt.source("sales", key="id", time="closed_at", columns={"id": str, "closed_at": tt.Time, "bought": float})

def linear():
    from sklearn.linear_model import LogisticRegression
    return LogisticRegression()

one = tt.model("one", request=visits, features=[{"x": tt.col("x")}], metric="log_loss", estimator=linear,
    label=tt.label(sales, key="id", value=tt.col("bought"), wait="1d"))
tt.deployment(one, gate=tt.beats_champion(calibration=0.2))
"""


def make(folder: Path, predictions: int) -> list[str]:
    """Make the project, and return the id of one of each 50,000 predictions."""
    folder.mkdir()
    (folder / "trimtab.toml").write_text('[serve]\nlog = "relaxed"\n')
    (folder / "project.py").write_text(PROJECT)
    clock = VirtualClock(BEGUN_US)
    with opened(folder, clock) as project:
        _load_history(project, np.random.default_rng(1))
        project.tick()
        version = project.registry.alias("one", "champion")
        assert version is not None
        (first,) = project.predict("one", [{"id": "first", "at": clock.now_us(), "x": 0.5, "site": "s1"}])
        common = Prediction(
            id="", request_id="", model="one", version=version.id, arm="champion", mode="live", made_at_us=0, at_us=0,
            positions={}, score=first.score, request=b"", values=np.array([0.5]).tobytes(), reasons=b"\xff",
        )  # fmt: skip
        logged = Logged(project, common)
        tail = (DAYS - BULK_DAYS) * A_DAY
        logged.add(BEGUN_US, BULK_DAYS, predictions - tail)
        _store_closing(project, logged)
        for day in range(BULK_DAYS, DAYS):
            logged.add(BEGUN_US + day * DAY_US, 1, A_DAY)
            clock.advance_to(BEGUN_US + (day + 1) * DAY_US)
            project.tick()
        clock.advance_to(NOW_US)
        project.tick()
    return logged.ids


def opened(folder: Path, clock: VirtualClock) -> tt.Project:
    return tt.open(folder, clock=clock, environment={"TRIMTAB_TRAINING_EXECUTOR": "thread"})


class Projects:
    """A large project, one with 500,000 predictions, and a small one, whose verbs are timed in new processes."""

    def __init__(self, folder: Path, verb: str, predictions: int) -> None:
        self._verb = verb
        self._made = {count: folder / str(count) for count in (SMALL, FEW, predictions)}
        self._ids = {count: make(path, count) for count, path in self._made.items()}
        self._start_s: list[float] = []
        self._minutes = 0

    def verb_ms(self, predictions: int) -> float:
        """Milliseconds of the verb in a new process. The start of Python and all imports are before that."""
        self._minutes += 1
        ids = self._ids[predictions]
        small = (self._made[SMALL], self._ids[SMALL][0])
        arguments = [self._verb, self._made[predictions], ids[len(ids) // 2], self._minutes, *small]
        command = [sys.executable, __file__, *map(str, arguments)]
        began_s = time.perf_counter()
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        took_ms = float(found.stdout)
        self._start_s.append(time.perf_counter() - began_s - took_ms / 1e3)
        return took_ms

    def close(self) -> None:
        start_s = statistics.median(self._start_s)
        print(f"  {self._verb}: {start_s:.2f} s for Python's start, imports and a small project are not included")


def _load_history(project: tt.Project, rng: np.random.Generator) -> None:
    at_us = BEGUN_US - np.arange(HISTORY, 0, -1) * (40 * DAY_US // HISTORY)
    ids, x = [f"h{n}" for n in range(HISTORY)], rng.normal(size=HISTORY)
    visits = {"id": ("str", ids), "at": ("time", at_us.tolist()), "x": ("float", x.tolist()), "site": ("str", ids)}
    bought = (rng.random(HISTORY) < 1 / (1 + np.exp(-x))).astype(float).tolist()
    sales = {"id": ("str", ids), "closed_at": ("time", (at_us + 1).tolist()), "bought": ("float", bought)}
    project.ingestor.load("visits", Columns.of(visits), history=True)
    project.ingestor.load("sales", Columns.of(sales), history=True)


class Logged:
    """Logs predictions, evenly over some days, and a label for each."""

    def __init__(self, project: tt.Project, common: Prediction) -> None:
        self.ids: list[str] = []
        self.extents: dict[int, list[Extent]] = {}  # by day: where its predictions are in the log
        self._project = project
        self._common = common
        self._rows = 0
        self._clock = VirtualClock(BEGUN_US)
        self._new_id = PredictionIds(self._clock, seed=1)

    def add(self, begin_us: int, days: int, count: int) -> None:
        for first in range(0, count, EACH):
            self._add([begin_us + n * (days * DAY_US) // count for n in range(first, min(first + EACH, count))])

    def _add(self, times: list[int]) -> None:
        project, keys, ids = self._project, [f"r{self._rows + n}" for n in range(len(times))], list[str]()
        for at_us in times:
            self._clock.advance_to(at_us)
            ids.append(self._new_id())
        asked = [msgspec.msgpack.encode([key, at_us, 0.5, "s1"]) for key, at_us in zip(keys, times, strict=True)]
        columns = {"id": ids, "request_id": keys, "made_at_us": times, "at_us": times, "request": asked}
        after = project.predictions.log.positions()
        project.predictions.append_payloads(unpack(pack_all(self._common, columns)), at_us=times)
        for name, last in project.predictions.log.positions().items():
            for day in range(times[0] // DAY_US, times[-1] // DAY_US + 1):
                self.extents.setdefault(day, []).append(Extent(name, after.get(name, 0), last))
        labels = [float((self._rows + n) % 8 < 5) for n in range(len(times))]
        events = [
            encode(Event("sales", key, at_us + 1, 0, "upsert", False, (key, at_us + 1, label)))
            for key, at_us, label in zip(keys, times, labels, strict=True)
        ]
        project.state.events.append(events, at_us=[at_us + 1 for at_us in times])
        self._rows += len(times)
        self.ids.append(ids[len(ids) // 2])


def _store_closing(project: tt.Project, logged: Logged) -> None:
    """Store what the loop knows after it has closed the first days."""
    closed_us = BEGUN_US + BULK_DAYS * DAY_US
    extents = {day: tuple(found) for day, found in logged.extents.items()}
    reached = Reached(closed_until_us=closed_us, positions=project.predictions.log.positions(), extents=extents)
    inputs = WatchStore(project.state.catalog, "one")
    watch, revision = inputs.watch()
    watch = msgspec.structs.replace(watch, closed_until_us=closed_us, last_us=closed_us - 1)
    changes = [
        Put(KIND, "one", msgspec.json.encode(reached)),
        WatchStore(project.state.catalog, "one").put(watch, revision),
    ]
    project.state.catalog.write(changes)


def _run(verb: str, folder: Path, prediction: str, minutes: int) -> None:
    with opened(folder, VirtualClock(NOW_US + minutes * MINUTE_US)) as project:
        if verb == "why":
            found = project.why(prediction)
            if found.label is None:
                raise SystemExit(f"why: {prediction} has no label, but {found.label_state}.")
        elif verb == "tick":
            project.tick()
        else:
            project.status()


if __name__ == "__main__":
    verb, folder, prediction, minutes, small, small_id = sys.argv[1:]
    _run(verb, Path(small), small_id, int(minutes))
    began_s = time.perf_counter()
    _run(verb, Path(folder), prediction, int(minutes))
    print(1e3 * (time.perf_counter() - began_s))
