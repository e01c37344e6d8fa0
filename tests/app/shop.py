"""A small project that was made up: visits to two sites, what sensors there read, and who bought something."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # a child that a test starts has it from here

import forked
from processes import eventually
from trimtab.app.project import Project, open_project
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.time import DAY_US, HOUR_US, parse_time_us
from trimtab.serving.workers.states import ServiceState, read_state

BEGIN_US = parse_time_us("2024-03-01T00:00:00Z")
DAYS = 40
NOW_US = BEGIN_US + DAYS * DAY_US
PROJECT = """
import trimtab as tt

readings = tt.source("readings", time="read_at", columns={"site": str, "level": float})
sales = tt.source("sales", time="closed_at", key="visit_id", columns={"visit_id": str, "site": str, "bought": bool})
visit = tt.request("visit", key="visit_id", time="at", columns={
    "visit_id": str, "site": str, "at": tt.Time, "x": float})
site = tt.view("site", source=readings, by="site", features={
    "level": tt.latest("level", max_age="9h"), "level_1d": tt.mean("level", over="1d")})


def batch():
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression()


def stream():
    from sklearn.linear_model import SGDClassifier

    return SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.05)


def buyer(name, estimator, **rules):
    model = tt.model(
        name, request=visit, features=[{"x": tt.col("x"), "site": tt.col("site").category()}, site],
        label=tt.label(sales, key="visit_id", value="bought", wait="2d"), estimator=estimator, metric="log_loss")
    return tt.deployment(model, gate=tt.beats_champion(margin=-0.5, calibration=0.5), **rules)


buyer("buyer", batch)
"""
ONLINE = 'buyer("learner", stream, learn="online")\n'


def write_project(folder: Path, *, online: bool = False, settings: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trimtab.toml").write_text(settings)
    (folder / "project.py").write_text(PROJECT + (ONLINE if online else ""))
    return folder


def opened(folder: Path, now_us: int = NOW_US) -> Project:
    """The project with a clock that stands still until it is moved."""
    return open_project(folder, clock=VirtualClock(now_us), environment={})


def load(project: Project, *, end_us: int = NOW_US, per_day: int = 30) -> None:
    """Ingest the days before `end_us`."""
    chance = np.random.default_rng(1)
    begin_us = end_us - DAYS * DAY_US
    count = DAYS * per_day
    at_us = np.sort(begin_us + chance.integers(0, DAYS * DAY_US - HOUR_US, count))
    x = chance.normal(size=count)
    sites = [("north", "south")[n] for n in chance.integers(0, 2, count)]
    bought = (chance.random(count) < 1 / (1 + np.exp(-2 * x))).tolist()
    ids = [f"v{n:05d}" for n in range(count)]
    readings = np.arange(begin_us, end_us, 3 * HOUR_US)
    tables = {
        "readings": {
            "site": ("str", ["north", "south"] * len(readings)),
            "level": ("float", chance.normal(size=2 * len(readings)).tolist()),
            "read_at": ("time", np.repeat(readings, 2).tolist()),
        },
        "sales": {
            "visit_id": ("str", ids),
            "site": ("str", sites),
            "bought": ("bool", bought),
            "closed_at": ("time", (at_us + HOUR_US // 2).tolist()),
        },
        "visit": {
            "visit_id": ("str", ids),
            "site": ("str", sites),
            "at": ("time", at_us.tolist()),
            "x": ("float", x.tolist()),
        },
    }
    for name, columns in tables.items():
        project.ingestor.load(name, Columns.of(columns))  # type: ignore[arg-type]  # dtypes are literals


def visit(key: str, at_us: int, x: float = 0.5, site: str = "north") -> dict[str, Any]:
    return {"visit_id": key, "site": site, "at": at_us, "x": x}


def move(project: Project, us: int) -> int:
    """Move the project's clock by `us`; the new moment."""
    clock = project.clock
    assert isinstance(clock, VirtualClock)
    clock.advance_to(clock.now_us() + us)
    return clock.now_us()


def a_day_of_visits(project: Project, rng: np.random.Generator, count: int = 40) -> None:
    """Ask and answer a day of visits, and load their labels."""
    begin_us = project.clock.now_us()
    sales = []
    for at_us in np.linspace(begin_us + HOUR_US, begin_us + 22 * HOUR_US, count).astype(int).tolist():
        move(project, at_us - project.clock.now_us())
        readings = [{"site": place, "level": float(rng.normal()), "read_at": at_us} for place in ("north", "south")]
        project.push("readings", readings)
        project.views.catch_up()
        x, site = float(rng.normal()), ("north", "south")[int(rng.integers(2))]
        project.predict("buyer", [visit(f"s{at_us}", at_us, x, site)])
        bought = bool(rng.random() < 1 / (1 + np.exp(-2 * x)))
        sales.append((f"s{at_us}", site, bought, at_us + HOUR_US))
    move(project, begin_us + DAY_US - project.clock.now_us())
    keys, sites, bought_all, closed = (list(column) for column in zip(*sales, strict=True))
    table = {
        "visit_id": ("str", keys),
        "site": ("str", sites),
        "bought": ("bool", bought_all),
        "closed_at": ("time", closed),
    }
    project.ingestor.load("sales", Columns.of(table))  # type: ignore[arg-type]  # dtypes are literals


# --- a process that serves


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRIMTAB_")}
    return {**kept, "PYTHONWARNINGS": "ignore"}


@contextmanager
def serving(
    folder: Path, *arguments: str, stop: signal.Signals = signal.SIGTERM, begun: Any = forked.Popen
) -> Iterator[tuple[Any, str]]:
    """A `trimtab serve` of its own on a free port, and its URL; begun with `subprocess.Popen` it has a new Python."""
    command = [sys.executable, "-c", "from trimtab.cli import main; main()", "serve", "--port", "0", "--json"]
    process = begun(
        [*command, *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise AssertionError(process.communicate()[1])
        yield process, json.loads(line)["url"]
    finally:
        if process.poll() is None:
            process.send_signal(stop)
        process.communicate(timeout=60)


def state(folder: Path) -> ServiceState | None:
    """What the supervisor of several workers says."""
    return read_state(folder / ".trimtab" / "workers")


def all_ready(folder: Path) -> ServiceState:
    """The state of the service once every worker answers."""

    def look() -> ServiceState | None:
        found = state(folder)
        return found if found is not None and all(worker.ready for worker in found.workers) else None

    found: ServiceState = eventually(look)
    return found


def call(url: str, body: Any = None) -> tuple[int, Any]:
    """POST JSON, or GET; status and what came back."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            text = response.read()
            return response.status, json.loads(text) if text.startswith((b"{", b"[")) else text.decode()
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def faults_of_log(project: Project, predicted: list[str], pushed: list[int]) -> dict[str, int]:
    """Of what was acknowledged, and of readings of the site "east", how much is lost and how much is there twice."""
    logged = Counter(p.id for block in project.predictions.scan() for p in block)
    project.history.refresh()
    frame = project.history.frame("readings")
    levels = frame.columns["level"].values[frame.columns["site"].values == "east"]
    events = Counter(levels.astype(int).tolist())
    project.views.catch_up()
    assert project.views.lag_records() == 0
    return {
        "predictions lost": sum(not logged[one] for one in predicted),
        "predictions doubled": sum(count > 1 for count in logged.values()),
        "events lost": sum(not events[one] for one in pushed),
        "events doubled": sum(count > 1 for count in events.values()) + project.history.duplicates["readings"],
    }
