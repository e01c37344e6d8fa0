"""Replay scenarios in several processes at the same time."""

from __future__ import annotations

import logging
import os
import pickle
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec

from trimtab.app.replay.scenarios import scenarios_of, scenarios_of_policies
from trimtab.app.state.definitions import Definitions, load_definitions
from trimtab.core.config import ScenarioSettings
from trimtab.core.errors import Conflict
from trimtab.core.time import DAY_US, format_time
from trimtab.run import Event, Line, ProcessExecutor, Task, Workplace
from trimtab.run import Progress as TaskProgress
from trimtab.simulation.policies import Policy
from trimtab.simulation.replay import Progress, Recording, Replay, ReplaySettings, Start
from trimtab.simulation.results import ReplayResult
from trimtab.simulation.scenarios.scenario import Scenario

# One process for each of these many simulated days, added over all scenarios: about 15 s of work. A child process takes
# 1 to 2 s to start, and repeats work that scenarios of one process share.
_DAYS_OF_A_PROCESS = 400
_POLL_S = 0.5
_logger = logging.getLogger(__name__)


class ScenarioSource(msgspec.Struct, frozen=True):
    """What the scenarios of a replay are made of. Unlike scenarios, it can be sent to another process."""

    project_file: str
    lines: Sequence[ScenarioSettings] = ()
    policies: Sequence[Policy | str] = ()  # in place of `lines`; a child process only gets texts
    model: str | None = None

    def scenarios(self, definitions: Definitions) -> list[Scenario]:
        """Return all scenarios."""
        if self.policies:
            return scenarios_of_policies(definitions, self.policies, self.model, Path(self.project_file).parent)
        return scenarios_of(definitions, self.lines)


class ReplayTask(msgspec.Struct, frozen=True):
    """The scenarios that a child process replays."""

    source: ScenarioSource
    deployments: dict[str, str]  # the name of each scenario, with the hash of its deployment
    recording: str  # the file of the recording and the settings
    folder: str  # the folder in which the child process keeps its state
    sends_decisions: bool  # whether the child process sends a text for each decision


def divide_by_features(scenarios: Sequence[Scenario]) -> list[list[Scenario]]:
    """Divide scenarios into those that this process replays, and those for a child process, if there are any.

    Scenarios with the same features as the first one, or that use the project's own state, stay in this process.
    """
    shared = scenarios[0].deployment.model.features.hash
    here = [one for one in scenarios if one.main or one.deployment.model.features.hash == shared]
    away = [one for one in scenarios if one not in here]
    return [here, away] if away else [here]


def divide_among_processors(
    scenarios: Sequence[Scenario], source: ScenarioSource, settings: ReplaySettings
) -> list[list[Scenario]]:
    """Divide policies into parts for at most as many processes as there are processors. The first part is for this one.

    Policies that are Python objects stay in this process. Scenarios of `lines`, which may have different models, are
    not divided.
    """
    days = (settings.until_us - settings.start_us) / DAY_US
    processes = min(_processors(), int(days * len(scenarios) / _DAYS_OF_A_PROCESS) + 1, len(source.policies) or 1)
    objects = {one.name for one in source.policies if not isinstance(one, str)}
    parts = [[one for one in scenarios if one.name in objects], *(list[Scenario]() for _ in range(processes - 1))]
    for one in sorted(scenarios, key=_cost, reverse=True):
        if one.name not in objects:
            min(parts, key=lambda part: sum(map(_cost, part))).append(one)
    return [sorted(part, key=scenarios.index) for part in parts if part]


def _cost(scenario: Scenario) -> int:
    """Return the relative cost: 1 without a gate, 2 if it never retrains, 3 if it retrains through a gate."""
    return 1 if scenario.decide is not None else 3 if scenario.deployment.retrain.any_of else 2


def replay_side_by_side(
    parts: Sequence[Sequence[Scenario]],
    source: ScenarioSource,
    recording: Recording,
    folder: Path,
    settings: ReplaySettings,
    *,
    progress: Callable[[Progress], object] = lambda at: None,
    reached: Callable[[int], object] = lambda at_us: None,
    show: Callable[[str], object] | None = None,
) -> ReplayResult:
    """Replay the first part of the scenarios in this process, and each other one in a child process.

    Args:
        folder: An existing folder for the state. This process's part is in it as a `Replay` leaves it.
        progress: Called with the progress of this process's part.
        reached: Called with the virtual time that all parts have reached.
        show: Called with a text for each decision of a child process, from another thread, if it is given.

    Raises:
        Misuse: A scenario has no version at any of the starts.
        Conflict: The project file was changed after this process had read it.
        Unavailable: A child process died.
    """
    begun: Start | None = None
    with ExitStack() as stack:
        if parts[1:] and settings.or_start_us:  # all parts must begin at the same time
            (folder / "start").mkdir()
            with Replay([one for part in parts for one in part], recording, folder / "start", settings) as replay:
                begun = replay.find_start()
            settings = msgspec.structs.replace(settings, start_us=begun.start_us, or_start_us=())
        file = folder / "recording.pickle"
        if parts[1:]:
            stack.callback(file.unlink, missing_ok=True)
            write_recording(recording, settings, file)
        children = [
            stack.enter_context(closing(ChildReplay(part, source, file, folder / f"child{n}", show)))
            for n, part in enumerate(parts[1:])
        ]

        def on_progress(at: Progress) -> None:
            progress(at)
            reached(min([at.now_us, *(child.reached_us() for child in children)]))

        own = stack.enter_context(Replay(parts[0], recording, folder, settings, progress=on_progress))
        result = own.run()
        lines = dict(result.lines)
        for child in children:
            lines |= child.result(lambda: reached(min(child.reached_us() for child in children))).lines
        reached(settings.until_us)
    refused = result.refused_starts if begun is None else begun.refused
    return msgspec.structs.replace(result, lines=lines, refused_starts=refused)


def write_recording(recording: Recording, settings: ReplaySettings, file: Path) -> None:
    """Write a recording and settings into a file for child processes."""
    # a child gets the sources from the project file, because pickle cannot store the functions in them
    without = msgspec.structs.replace(recording, sources=()), msgspec.structs.replace(settings, sampled_rows=0)
    with file.open("wb") as out:
        pickle.dump(without, out, pickle.HIGHEST_PROTOCOL)


class ChildReplay:
    """A replay in a child process, which starts immediately. `close` ends it.

    Args:
        recording: The file of the recording and the settings.
        folder: The folder in which the child process keeps its state. It must not exist.
        show: Called with a text for each decision, from another thread; None: what the process prints is logged.
    """

    def __init__(
        self,
        scenarios: Sequence[Scenario],
        source: ScenarioSource,
        recording: Path,
        folder: Path,
        show: Callable[[str], object] | None,
    ) -> None:
        self._reached_us = 0
        self._show = show or _logger.warning
        self._closed = threading.Event()
        self._executor = ProcessExecutor(nice=0, threads=None)
        self._thread = ThreadPoolExecutor(1, "trimtab-replay")
        folder.mkdir(parents=True)
        texts = [one for one in source.policies if isinstance(one, str)]
        task = ReplayTask(
            source=msgspec.structs.replace(source, policies=texts),
            deployments={one.name: one.deployment.hash for one in scenarios},
            recording=str(recording),
            folder=str(folder),
            sends_decisions=show is not None,
        )
        self._result = self._thread.submit(self._run, task)

    def reached_us(self) -> int:
        """Return the virtual time that the child process has reached. If it failed, raise its error."""
        if self._result.done():
            self._result.result()
        return self._reached_us

    def result(self, waiting: Callable[[], object] = lambda: None) -> ReplayResult:
        """Wait for the child process, and return its result. Meanwhile, call `waiting` every half second."""
        while True:
            try:
                found: ReplayResult = pickle.loads(Path(self._result.result(_POLL_S).decode()).read_bytes())
            except StillRunning:
                waiting()
            else:
                return found

    def close(self) -> None:
        """End the child process if it is still running."""
        self._closed.set()
        self._thread.shutdown()
        self._executor.close()

    def _run(self, task: ReplayTask) -> bytes:
        about = f"replay of {', '.join(task.deployments)}"
        return self._executor.run(
            Task(f"{__name__}:replay_scenarios", pickle.dumps(task), about=about),
            on_event=self._hear,
            cancelled=lambda: "closed" if self._closed.is_set() else None,
        )

    def _hear(self, event: Event) -> None:
        if isinstance(event, Line):
            self._show(event.text)
        elif isinstance(event, TaskProgress):
            self._reached_us = int(event.done)


def shown_decisions(at: Progress) -> list[str]:
    """Return a line of text for each decision since the last report of progress."""
    return [
        f"  {format_time(at.now_us)[:10]} {name:12} {d.act:8} {(d.version or '')[:8]:8} {d.cause}"
        for name, d in at.decisions
    ]


def replay_scenarios(argument: bytes, place: Workplace) -> bytes:
    """Replay the scenarios of a pickled `ReplayTask` in the child process, and return the path of the pickled result.

    Raises:
        Conflict: The project file was changed after the parent process had read it.
    """
    logging.getLogger().setLevel(logging.WARNING)  # warnings are passed to the parent process, which shows them
    task: ReplayTask = pickle.loads(argument)
    file = task.source.project_file
    definitions = load_definitions(Path(file))
    scenarios = [one for one in task.source.scenarios(definitions) if one.name in task.deployments]
    if {one.name: one.deployment.hash for one in scenarios} != task.deployments:
        raise Conflict(f"simulate: {file} was changed since this project was opened. Open the project again.")
    given: tuple[Recording, ReplaySettings] = pickle.loads(Path(task.recording).read_bytes())
    recording, settings = msgspec.structs.replace(given[0], sources=list(definitions.sources.values())), given[1]

    def show(at: Progress) -> None:
        place.progress(at.now_us, settings.until_us)
        for text in shown_decisions(at) if task.sends_decisions else ():
            place.emit(Line(text))

    with Replay(scenarios, recording, Path(task.folder), settings, progress=show) as replay:
        found = replay.run()
    result = Path(task.folder, "result.pickle")  # too large for the pipe between the processes
    result.write_bytes(pickle.dumps(found, pickle.HIGHEST_PROTOCOL))
    return str(result).encode()


def _processors() -> int:
    """Return how many processors this process may use."""
    usable: Any = getattr(os, "sched_getaffinity", None)  # macOS does not have it
    return len(usable(0)) if usable else os.cpu_count() or 1
