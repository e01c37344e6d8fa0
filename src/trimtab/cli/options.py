"""What every command takes, and how it opens its project."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trimtab.cli.exits import Manner
from trimtab.core.errors import NotFound

if TYPE_CHECKING:
    from trimtab.app import Project
    from trimtab.core.config import Config

F = TypeVar("F", bound=Callable[..., Any])


def manner_options(function: F) -> F:
    """`--project`, `--json` and `--debug`, before or after the command's name."""
    for option in (
        click.option("--debug", is_flag=True, expose_value=False, callback=_remember, help="Show tracebacks."),
        click.option("--json", is_flag=True, expose_value=False, callback=_remember, help="Answer in JSON."),
        click.option(
            "--project",
            metavar="DIR",
            expose_value=False,
            callback=_remember,
            help="The project's folder; left out, the nearest one upward with trimtab.toml.",
        ),
    ):
        function = option(function)
    return function


def _remember(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value:
        assert parameter.name is not None  # a declared option has a name
        setattr(ctx.ensure_object(Manner), parameter.name, value)


def command(name: str, *, safe: str = "Nothing was changed.") -> Callable[[Callable[..., Any]], click.Command]:
    """Declare a command; `safe` says, to somebody who stops it, what holds then."""

    def declare(function: Callable[..., Any]) -> click.Command:
        return click.command(name, cls=_command_class(safe))(manner_options(function))

    return declare


def _command_class(safe: str) -> type[click.Command]:
    class Stoppable(click.Command):
        def invoke(self, ctx: click.Context) -> Any:
            ctx.ensure_object(Manner).safe = safe
            return super().invoke(ctx)

    return Stoppable


def manner() -> Manner:
    """How the running command is to speak."""
    return click.get_current_context().ensure_object(Manner)


def project_folder() -> Path:
    """The folder named by `--project`, or the nearest one upward that is a project.

    Raises:
        NotFound: There is none.
    """
    from trimtab.core.config import FILE

    named = manner().project
    if named is not None:
        return Path(named).absolute()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / FILE).is_file():
            return folder
    raise NotFound(f"no {FILE} in {here} or above it. Name the project (--project DIR), or make one: trimtab init FILE")


def project_config() -> Config:
    """The settings of the project."""
    from trimtab.core.config import load_config

    return load_config(project_folder(), os.environ)


def opened_project(*, as_of: str | None = None) -> Project:
    """The project, open: use it with `with`. `as_of` lets its clock start at another moment than now."""
    folder = project_folder()  # first: a folder that is none is told without loading anything
    from trimtab.app import open_project
    from trimtab.core.clock import ShiftedClock
    from trimtab.core.time import moment_us

    clock = None if as_of is None else ShiftedClock(moment_us(as_of))
    return open_project(folder, clock=clock, environment=os.environ)
