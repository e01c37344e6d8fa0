"""The whole loop on ten months of flights, March to December 2013, under the example's own policy: seconds.

Two months of history are loaded and trained on first. A thousand questions are read through the online path as well.
The process of the replay must stay below 2 GB of memory. Further figures, of `project.simulate`: four policies on these
flights, and four on a generated year of 500 and of 2,000 requests a day with a linear model and a change on day 40.
"""

from __future__ import annotations

import importlib.util
import itertools
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import trimtab as tt
from trimtab.app.state.definitions import load_definitions
from trimtab.core.config import load_config
from trimtab.core.time import parse_time_us
from trimtab.events import read_file
from trimtab.simulation.replay import Recording, Replay, ReplaySettings
from trimtab.simulation.scenarios.scenario import Scenario

NAME = "simulate_year"
TARGET = "ours <= 60"
UNIT = "s"
BETTER = "lower"
_MOST_MB = 2_000
_EXAMPLES = Path(__file__).parents[1] / "examples"
_PROJECT = _EXAMPLES / "flights"


def setup(folder: Path) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("flights_load", _PROJECT / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    files = module.load(folder)
    declared, demo = load_definitions(_PROJECT / "project.py"), load_config(_PROJECT, {}).demo
    assert demo is not None
    return {
        "project": declared,
        "demo": demo,
        "tables": {name: read_file(files[name], source).columns for name, source in declared.sources.items()},
        "generated": shutil.copytree(_EXAMPLES / "change", folder / "change"),
        "flights": shutil.copytree(_PROJECT, folder / "flights", ignore=shutil.ignore_patterns(".trimtab")),
        "folders": (folder / f"replay{n}" for n in itertools.count()),
    }


def ours(state: dict[str, Any]) -> float:
    took_s = replayed(state)
    if memory_mb() > _MOST_MB:
        raise SystemExit(f"The replay needed {memory_mb():.0f} MB of memory; {_MOST_MB} are allowed.")
    return took_s


def replayed(state: dict[str, Any]) -> float:
    """Return how long a replay of the project's own policy takes, in seconds."""
    demo, sources = state["demo"], list(state["project"].sources.values())
    scenarios = [Scenario(name="project", deployment=state["project"].deployments["late_flight"], main=True)]
    settings = ReplaySettings(
        start_us=parse_time_us(demo.start),
        until_us=parse_time_us(demo.until),
        seed=1,
        sampled_rows=demo.sampled_rows,
    )
    start = time.perf_counter()
    with Replay(scenarios, Recording(state["tables"], sources), next(state["folders"]), settings) as replay:
        result = replay.run()
    took_s = time.perf_counter() - start
    if result.mismatches or result.checked_rows != demo.sampled_rows:
        raise SystemExit(f"{result.mismatches} mismatches in {result.checked_rows} rows: {result.first_mismatch}")
    return took_s


def memory_mb() -> float:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def more(state: dict[str, Any]) -> dict[str, float]:
    memory = memory_mb()  # of one policy
    policies = ["project", "never", "ungated 30d", "30d"]
    found = {"peak memory, MB": memory}
    with tt.open(state["flights"]) as flights:
        for name, table in state["tables"].items():
            flights.ingestor.load(name, table, history=True)
        start = time.perf_counter()
        flights.simulate(policies=policies, model="late_flight", start=state["demo"].start, until=state["demo"].until)
        found["four policies on flights, s"] = time.perf_counter() - start
    for per_day in (500, 2_000):
        start = time.perf_counter()
        with tt.open(state["generated"]) as generated:
            generated.simulate(stream=f"days=365 per_day={per_day} concept=40", policies=policies)
        found[f"four policies on a generated year, {per_day} a day, s"] = time.perf_counter() - start
    return found
