"""Replay in a child process, at the same time, those scenarios that share no features with the first one."""

from __future__ import annotations

import logging
import os
import pickle
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from trimtab.app.replay.scenarios import DEMO_LOOKS_US, scenarios_of
from trimtab.app.state.definitions import load_definitions
from trimtab.core.config import load_config
from trimtab.core.time import format_time, parse_time_us
from trimtab.events import read_file
from trimtab.run import Event, Line, ProcessExecutor, Task, Workplace
from trimtab.simulation.replay import Progress, Recording, Replay, ReplaySettings
from trimtab.simulation.results import ScenarioResult
from trimtab.simulation.scenarios.scenario import Scenario


class ReplayTask(msgspec.Struct, frozen=True):
    """The scenarios that a child process replays, and the data that it needs."""

    project: str
    files: dict[str, str]  # for each source, the file of its recorded events
    folder: str  # the folder in which the child process keeps its state
    scenarios: list[str]
    seed: int


def split(scenarios: Sequence[Scenario]) -> tuple[list[Scenario], list[Scenario]]:
    """Divide scenarios into those that this process replays, and those for a child process.

    Scenarios with the same features as the first one, or that use the project's own state, stay in this process.
    """
    shared = scenarios[0].deployment.model.features.hash
    here = [one for one in scenarios if one.main or one.deployment.model.features.hash == shared]
    return here, [one for one in scenarios if one not in here]


class ChildReplay:
    """A replay in a child process, which starts immediately. `close` ends it.

    Args:
        task: The scenarios to replay. If there are none, no child process is started.
        show: Called with the text of each decision, from another thread.
    """

    def __init__(self, task: ReplayTask, show: Callable[[str], object]) -> None:
        self._task = task
        self._show = show
        self._closed = threading.Event()
        self._executor = ProcessExecutor(nice=0, threads=os.cpu_count() or 1)
        self._thread = ThreadPoolExecutor(1, "trimtab-replay")
        self._result = self._thread.submit(self._run) if task.scenarios else None

    def results(self) -> dict[str, ScenarioResult]:
        """Wait for the child process, and return the result of each scenario by name.

        Raises:
            Unavailable: The child process died.
        """
        found: dict[str, ScenarioResult] = {} if self._result is None else pickle.loads(self._result.result())
        return found

    def close(self) -> None:
        """End the child process if it is still running."""
        self._closed.set()
        self._thread.shutdown()
        self._executor.close()

    def _run(self) -> bytes:
        about = f"replay of {', '.join(self._task.scenarios)}"
        task = Task(f"{__name__}:replay_scenarios", msgspec.msgpack.encode(self._task), about=about)
        return self._executor.run(
            task, on_event=self._hear, cancelled=lambda: "closed" if self._closed.is_set() else None
        )

    def _hear(self, event: Event) -> None:
        if isinstance(event, Line):
            self._show(event.text)


def shown_decisions(at: Progress) -> list[str]:
    """Return a line of text for each decision since the last report of progress."""
    return [
        f"  {format_time(at.now_us)[:10]} {name:12} {d.act:8} {(d.version or '')[:8]:8} {d.cause}"
        for name, d in at.decisions
    ]


def replay_scenarios(argument: bytes, place: Workplace) -> bytes:
    """Replay the scenarios of a task in the child process.

    The result is a pickled dict of results by the name of the scenario.
    """
    logging.getLogger().setLevel(logging.WARNING)  # warnings are passed to the parent process, which shows them
    task = msgspec.msgpack.decode(argument, type=ReplayTask)
    config = load_config(Path(task.project), os.environ)
    definitions = load_definitions(config.project_file)
    assert config.demo is not None  # the parent process has read these settings
    tables = {source: read_file(path, definitions.source(source)).columns for source, path in task.files.items()}
    folder = Path(task.folder)
    folder.mkdir(parents=True)

    def show(at: Progress) -> None:
        for text in shown_decisions(at):
            place.emit(Line(text))

    with Replay(
        [one for one in scenarios_of(definitions, config.demo.lines) if one.name in task.scenarios],
        Recording(tables, list(definitions.sources.values())),
        folder,
        ReplaySettings(
            start_us=parse_time_us(config.demo.start),
            until_us=parse_time_us(config.demo.until),
            seed=task.seed,
            look_every_us=DEMO_LOOKS_US,
        ),
        progress=show,
    ) as replay:
        return pickle.dumps(replay.run().lines)
