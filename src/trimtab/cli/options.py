"""The options that all commands have, and how a command opens its project."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from trimtab.cli.exits import Manner
from trimtab.cli.verbs import CAREFUL, CAREFUL_OPTIONS
from trimtab.core.clock import ShiftedClock
from trimtab.core.config import FILE, load_config
from trimtab.core.errors import Misuse, NotFound, TrimtabError
from trimtab.core.time import parse_time_us

if TYPE_CHECKING:
    from trimtab.app import Project
    from trimtab.core.config import Config

F = TypeVar("F", bound=Callable[..., Any])


def manner_options(function: F) -> F:
    """Add `--project`, `--json` and `--debug`, which are accepted before and after the name of the command."""
    for option in (
        click.option("--debug", is_flag=True, expose_value=False, callback=_set_manner, help="Show tracebacks."),
        click.option("--json", is_flag=True, expose_value=False, callback=_set_manner, help="Print JSON."),
        click.option(
            "--project",
            metavar="DIR",
            expose_value=False,
            callback=_set_manner,
            help="The project's folder (default: this folder or the nearest above it with trimtab.toml).",
        ),
    ):
        function = option(function)
    return function


def _set_manner(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value:
        assert parameter.name is not None  # a declared option always has a name
        setattr(ctx.ensure_object(Manner), parameter.name, value)


def command(name: str, *, safe: str = "Nothing was changed.") -> Callable[[Callable[..., Any]], click.Command]:
    """Declare a command. `safe` is printed if the command is interrupted."""

    def declare(function: Callable[..., Any]) -> click.Command:
        return click.command(name, cls=_command_class(safe))(manner_options(function))

    return declare


def _command_class(safe: str) -> type[click.Command]:
    class Stoppable(click.Command):
        def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
            with fewer_proposals():
                return super().parse_args(ctx, args)

        def invoke(self, ctx: click.Context) -> Any:
            ctx.ensure_object(Manner).safe = safe
            _check_text(ctx)
            return super().invoke(ctx)

    return Stoppable


@contextmanager
def fewer_proposals() -> Iterator[None]:
    """For an unknown option, propose a similar one, unless that is in `CAREFUL_OPTIONS`.

    If none is proposed but a harmless neighbouring verb has the option, the message names that verb.
    """
    try:
        yield
    except click.NoSuchOption as error:
        near = next(iter(error.possibilities or ()), None)
        said = f" Did you mean {near!r}?" if near is not None and near not in CAREFUL_OPTIONS else ""
        above = error.ctx.parent if error.ctx is not None else None
        if not said and above is not None and above.parent is not None and isinstance(above.command, click.Group):
            others = [(name, above.command.get_command(above, name)) for name in above.command.list_commands(above)]
            having = [name for name, one in others if one and any(error.option_name in p.opts for p in one.params)]
            having = [path for name in having if (path := f"{above.info_name} {name}") not in CAREFUL]
            said = f" It is an option of: trimtab {having[0]}" if having else ""
        raise click.UsageError(f"{error.message}{said}", error.ctx) from None


def _check_text(ctx: click.Context) -> None:
    """Refuse text that cannot be stored, before any work. File names may contain any bytes."""
    for parameter in ctx.command.params:
        given = ctx.params.get(parameter.name or "")
        for text in given if isinstance(given, tuple) else (given,):
            if isinstance(text, str):
                try:
                    text.encode()
                except UnicodeEncodeError:
                    said = f"found {os.fsencode(text)!r}, which is not UTF-8. Give it in UTF-8."
                    raise click.BadParameter(said, ctx=ctx, param=parameter) from None


def names(*kinds: str) -> Callable[[click.Context, click.Parameter, str], Any]:
    """Return the shell completion of an argument: names of these kinds, such as "model" and "version"."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
        from trimtab.cli.completing import completed

        try:
            with ctx.scope(cleanup=False):
                return completed(project_folder(), ctx, parameter, incomplete, kinds)
        except (TrimtabError, OSError):  # propose nothing; the command itself will say why
            return []

    return complete


def manner() -> Manner:
    """Return the general options of the running command."""
    return click.get_current_context().ensure_object(Manner)


def project_folder() -> Path:
    """Return the folder given by `--project` or, by default, the nearest project at or above the current folder.

    Raises:
        NotFound: There is no project.
    """

    named = manner().project
    if named is not None:
        return Path(named).absolute()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / FILE).is_file():
            return folder
    raise NotFound(f"no {FILE} in {here} or above it. Name the project (--project DIR), or make one: trimtab init FILE")


def project_config() -> Config:
    """Return the settings of the project."""
    return load_config(project_folder(), os.environ)


def opened_project(*, as_of: str | None = None) -> Project:
    """Open the project, for use in a `with` statement. With `as_of`, its clock starts at that time, not now."""
    folder = project_folder()  # first, to report a missing project at once
    from trimtab.app import open_project

    start_us = time_given("--as-of", as_of)
    clock = None if start_us is None else ShiftedClock(start_us)
    return open_project(folder, clock=clock, environment=os.environ)


def say_which(project: Project, model: str | None, command: str) -> str | None:
    """Return the deployment that a command should use: the named one or, by default, the first.

    If there are several and none was named, a line on standard error names the chosen one. None: there is no
    deployment.
    """
    names = list(project.definitions.deployments)
    if model is None and len(names) > 1:
        from trimtab.cli.output import show_lines

        others = ", ".join(f"trimtab {command} {name}" for name in names[1:])
        show_lines([f"{command}: no MODEL was given, so {names[0]!r} is taken. For the others: {others}"], err=True)
    return next(iter(names), None) if model is None else model


def refuse_given(why: str, *names: str) -> None:
    """Raise an error if one of the parameters `names` was given, because it would have no effect.

    Raises:
        UsageError: One was given. The message names it and ends with `why`.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        if parameter.name in names and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
            named = parameter.opts[0] if isinstance(parameter, click.Option) else parameter.human_readable_name
            raise click.UsageError(f"{named} {why}", context)


def account() -> str:
    """Return the name of the user account that runs the command."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # the account has no name
        return "a person"


def time_given(option: str, text: str | None) -> int | None:
    """Return the time that an option gives, in UTC microseconds; None if the option was not given.

    Raises:
        Misuse: The value is not a time. The message names the option.
    """

    try:
        return None if text is None else parse_time_us(text)
    except Misuse as error:
        raise Misuse(f"{option}: {str(error).removeprefix('time: ')}") from None
