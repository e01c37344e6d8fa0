"""Work on a project in another process: what that needs to open the same project, and which process it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.clock import Clock, SystemClock
from trimtab.core.config import Config, TrainingSettings
from trimtab.run import Executor, ProcessExecutor, ThreadExecutor

if TYPE_CHECKING:
    from trimtab.app.state.definitions import Definitions
    from trimtab.app.system import System


class ProjectSpec(msgspec.Struct, frozen=True):
    """The project of the asking process: with its settings and its state, and the project file as it is by then."""

    settings: dict[str, Any]
    state: str

    @staticmethod
    def of(config: Config, state: Path) -> ProjectSpec:
        """Of settings and a state folder."""
        return ProjectSpec(msgspec.to_builtins(config, enc_hook=str), str(state))

    @property
    def config(self) -> Config:
        """The settings."""
        return msgspec.convert(self.settings, Config, dec_hook=lambda kind, value: kind(value))

    def open(self, definitions: Definitions | None = None, *, clock: Clock | None = None) -> System:
        """The project, to be closed by the caller."""
        from trimtab.app.state.definitions import load_definitions  # here: a process that only asks has them already
        from trimtab.app.system import System

        config = self.config
        found = load_definitions(config.project_file) if definitions is None else definitions
        return System(config, found, clock=clock, state=Path(self.state))


def child(settings: TrainingSettings) -> ProcessExecutor:
    """A process that gives way to others as the settings say."""
    return ProcessExecutor(nice=settings.nice, threads=settings.threads)


def executor(settings: TrainingSettings, clock: Clock, here: dict[str, Any]) -> Executor:
    """Where a project's tasks are done: in a child, or in a thread that has what is `here` already.

    A project whose clock is not the system's works in its own process: another one would live in another time.
    """
    if settings.executor == "thread" or not isinstance(clock, SystemClock):
        return ThreadExecutor(here)
    return child(settings)
