"""A serialisable description of a project for other processes, and the choice of the process in which tasks run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from trimtab.app.state.definitions import Definitions, load_definitions
from trimtab.app.system import System
from trimtab.core.clock import Clock, SystemClock
from trimtab.core.config import Config, TrainingSettings
from trimtab.run import Executor, ProcessExecutor, ThreadExecutor


class ProjectSpec(msgspec.Struct, frozen=True):
    """The settings and the state folder of a project, from which another process can open the project.

    That process reads the project file itself.
    """

    settings: dict[str, Any]
    state: str

    @staticmethod
    def of(config: Config, state: Path) -> ProjectSpec:
        """Return the specification of these settings and this state folder."""
        return ProjectSpec(msgspec.to_builtins(config, enc_hook=str), str(state))

    @property
    def config(self) -> Config:
        return msgspec.convert(self.settings, Config, dec_hook=lambda kind, value: kind(value))

    def open(self, definitions: Definitions | None = None, *, clock: Clock | None = None) -> System:
        """Open the project. The caller must close it."""
        config = self.config
        found = load_definitions(config.project_file) if definitions is None else definitions
        return System(config, found, clock=clock, state=Path(self.state))


def child(settings: TrainingSettings) -> ProcessExecutor:
    """Return an executor in a child process, with the priority and the number of threads of the settings."""
    return ProcessExecutor(nice=settings.nice, threads=settings.threads)


def runs_in_child(settings: TrainingSettings, clock: Clock) -> bool:
    """Return whether tasks may run in a child process.

    With a simulated clock they may not, because a child process would read the system's clock.
    """
    return settings.executor != "thread" and isinstance(clock, SystemClock)


def executor(settings: TrainingSettings, clock: Clock, here: dict[str, Any]) -> Executor:
    """Return the executor of a project's tasks: a child process, or a thread that uses the objects in `here`."""
    return child(settings) if runs_in_child(settings, clock) else ThreadExecutor(here)
