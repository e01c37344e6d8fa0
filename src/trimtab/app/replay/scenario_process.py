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
from trimtab.run import Progress as Done
from trimtab.simulation.policies import Policy
from trimtab.simulation.replay import Progress, Recording, Replay, ReplaySettings
from trimtab.simulation.results import ReplayResult
from trimtab.simulation.scenarios.scenario import Scenario

# A child process takes 1 to 2 s to start, and repeats work that scenarios of one process share. So it must save this
# many simulated days, added over all scenarios. (A day takes about 40 ms.)
_LEAST_DAYS = 400
_logger = logging.getLogger(__name__)
_POLL_S = 0.5


class Declared(msgspec.Struct, frozen=True):
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

    declared: Declared
    models: dict[str, str]  # the name of each scenario, with the hash of its model
    file: str  # has the pickled recording (without its sources) and settings
    folder: str  # the folder in which the child process keeps its state
    tells: bool  # whether the child process sends a text for each decision


def split(scenarios: Sequence[Scenario]) -> list[list[Scenario]]:
    """Divide scenarios into those that this process replays, and those for a child process, if there are any.

    Scenarios with the same features as the first one, or that use the project's own state, stay in this process.
    """
    shared = scenarios[0].deployment.model.features.hash
    here = [one for one in scenarios if one.main or one.deployment.model.features.hash == shared]
    return [part for part in (here, [one for one in scenarios if one not in here]) if part]


def shares(scenarios: Sequence[Scenario], declared: Declared, settings: ReplaySettings) -> list[list[Scenario]]:
    """Divide scenarios among processes: a share for this process, and one for each child process, if they are worth it.

    There are at most as many processes as processors. A batch that is scored ahead stays with the scenario whose
    version scores it.
    """
    days = (settings.until_us - settings.start_us) / DAY_US
    most = min(_processors(), int(days * len(scenarios) / _LEAST_DAYS) + 1)
    tied = {one.like for one in scenarios if one.like} | {one.name for one in scenarios if one.like}
    functions = {one.name for one in declared.policies if not isinstance(one, str)}  # these cannot be sent
    free = [one for one in scenarios if not one.main and one.name not in tied | functions]
    found = [[one for one in scenarios if one not in free], *(list[Scenario]() for _ in range(most - 1))]
    for one in sorted(free, key=_work, reverse=True):
        min(found, key=lambda share: sum(map(_work, share))).append(one)
    return [sorted(share, key=scenarios.index) for share in found if share]


def _work(scenario: Scenario) -> int:
    """Return roughly how much work a scenario is: checks of inputs and quality, fits with a gate, fits without one."""
    if scenario.decide is not None:
        return 1
    return 3 if scenario.deployment.retrain.any_of else 2


def replay_side_by_side(
    parts: Sequence[Sequence[Scenario]],
    declared: Declared,
    recording: Recording,
    folder: Path,
    settings: ReplaySettings,
    progress: Callable[[Progress, int], object],
    show: Callable[[str], object] | None = None,
) -> ReplayResult:
    """Replay the first part of the scenarios in this process, and each other one in a child process.

    The result is the same as that of one process, because scenarios do not depend on each other.

    Args:
        folder: An existing folder for the state. This process's part is in it as a `Replay` leaves it.
        progress: Called with the progress of this process's part, and the microseconds that all parts have replayed.
        show: Called with a text for each decision of a child process, from another thread, if it is given.

    Raises:
        Misuse: A scenario has no version at any of the starts.
        Conflict: The project file was changed after this process had read it.
        Unavailable: A child process died.
    """
    last: list[Progress] = []
    with ExitStack() as stack:
        file = stored(recording, settings, folder) if parts[1:] else folder
        children = [
            stack.enter_context(closing(ChildReplay(part, declared, file, folder / f"child{n}", show)))
            for n, part in enumerate(parts[1:])
        ]

        def on_progress(at: Progress) -> None:
            last[:] = [msgspec.structs.replace(at, decisions=[])]
            own_us = at.now_us - settings.start_us
            progress(at, int(min([own_us, *(child.done_us() for child in children)])))

        own = stack.enter_context(Replay(parts[0], recording, folder, settings, progress=on_progress))
        result = own.run()
        results = [result, *(child.result(lambda: on_progress(last[0])) for child in children)]
    latest = max(results, key=lambda one: one.start_us)
    if any(one.start_us < latest.start_us for one in results):  # all scenarios must begin at the same time
        later_us = tuple(us for us in settings.or_start_us if us > latest.start_us)
        begin = msgspec.structs.replace(settings, start_us=latest.start_us, or_start_us=later_us)
        (folder / "later").mkdir()
        again = replay_side_by_side(parts, declared, recording, folder / "later", begin, progress, show)
        return msgspec.structs.replace(again, refused_starts=[*latest.refused_starts, *again.refused_starts])
    lines = {name: line for one in results for name, line in one.lines.items()}
    return msgspec.structs.replace(result, lines=lines, refused_starts=latest.refused_starts)


def stored(recording: Recording, settings: ReplaySettings, folder: Path) -> Path:
    """Write a recording and settings for child processes into a new file, and return its path."""
    file = folder / "recording.pickle"
    # a child gets the sources from the project file, because pickle cannot store the functions in them
    without = msgspec.structs.replace(recording, sources=()), msgspec.structs.replace(settings, sampled_rows=0)
    file.write_bytes(pickle.dumps(without, pickle.HIGHEST_PROTOCOL))
    return file


class ChildReplay:
    """A replay in a child process, which starts immediately. `close` ends it.

    Args:
        file: The recording and the settings, as `stored` has written them.
        folder: The folder in which the child process keeps its state. It must not exist.
        show: Called with a text for each decision, from another thread; None: only warnings are logged.
    """

    def __init__(
        self,
        scenarios: Sequence[Scenario],
        declared: Declared,
        file: Path,
        folder: Path,
        show: Callable[[str], object] | None,
    ) -> None:
        self._done_us = 0.0
        self._show = show or _logger.warning
        self._closed = threading.Event()
        self._executor = ProcessExecutor(nice=0, threads=os.cpu_count() or 1)
        self._thread = ThreadPoolExecutor(1, "trimtab-replay")
        folder.mkdir(parents=True)
        task = ReplayTask(
            declared=msgspec.structs.replace(
                declared, policies=[one for one in declared.policies if isinstance(one, str)]
            ),
            models={one.name: one.deployment.model.hash for one in scenarios},
            file=str(file),
            folder=str(folder),
            tells=show is not None,
        )
        self._result = self._thread.submit(self._run, task)

    def done_us(self) -> float:
        """Return how many microseconds the child process has replayed. If it has failed, raise its error."""
        if self._result.done():
            self._result.result()
        return self._done_us

    def result(self, waiting: Callable[[], object] = lambda: None) -> ReplayResult:
        """Wait for the child process, and return its result. Meanwhile, call `waiting` every half second."""
        while True:
            try:
                found: ReplayResult = pickle.loads(self._result.result(_POLL_S))
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
        about = f"replay of {', '.join(task.models)}"
        return self._executor.run(
            Task(f"{__name__}:replay_scenarios", pickle.dumps(task), about=about),
            on_event=self._hear,
            cancelled=lambda: "closed" if self._closed.is_set() else None,
        )

    def _hear(self, event: Event) -> None:
        if isinstance(event, Line):
            self._show(event.text)
        elif isinstance(event, Done):
            self._done_us = event.done


def shown_decisions(at: Progress) -> list[str]:
    """Return a line of text for each decision since the last report of progress."""
    return [
        f"  {format_time(at.now_us)[:10]} {name:12} {d.act:8} {(d.version or '')[:8]:8} {d.cause}"
        for name, d in at.decisions
    ]


def replay_scenarios(argument: bytes, place: Workplace) -> bytes:
    """Replay the scenarios of a pickled `ReplayTask` in the child process, and return the pickled result.

    Raises:
        Conflict: The project file was changed after the parent process had read it.
    """
    logging.getLogger().setLevel(logging.WARNING)  # warnings are passed to the parent process, which shows them
    task: ReplayTask = pickle.loads(argument)
    definitions = load_definitions(Path(task.declared.project_file))
    scenarios = [one for one in task.declared.scenarios(definitions) if one.name in task.models]
    if {one.name: one.deployment.model.hash for one in scenarios} != task.models:
        raise Conflict("simulate: the project file was changed after it had been read. Start again.")
    given: tuple[Recording, ReplaySettings] = pickle.loads(Path(task.file).read_bytes())
    recording, settings = msgspec.structs.replace(given[0], sources=list(definitions.sources.values())), given[1]

    def show(at: Progress) -> None:
        place.progress(at.now_us - settings.start_us, settings.until_us - settings.start_us)
        for text in shown_decisions(at) if task.tells else ():
            place.emit(Line(text))

    with Replay(scenarios, recording, Path(task.folder), settings, progress=show) as replay:
        return pickle.dumps(replay.run())


def _processors() -> int:
    """Return how many processors this process may use."""
    usable: Any = getattr(os, "sched_getaffinity", None)  # macOS does not have it
    return len(usable(0)) if usable else os.cpu_count() or 1
