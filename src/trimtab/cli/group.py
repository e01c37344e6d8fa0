"""The group of all commands. The module of a command is imported only when the command is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from types import MappingProxyType
from typing import Any

import click

from trimtab.cli.exits import Manner, end_in_time, guarded
from trimtab.cli.options import fewer_proposals, manner_options
from trimtab.cli.verbs import ALSO, CAREFUL, HIDDEN, TOP, VERBS, Group, paths

_BELOW = {path.rpartition(" ")[2]: path for path in paths()}  # so that "trimtab disks" proposes "storage disk"
_KNOWN = _BELOW | {name: name for name in TOP} | ALSO
_MANNER = {"--json": 1, "--debug": 1, "--project": 2}  # the number of words of each option


class _Lazy(click.Group):
    """A group of commands that imports the module of a command only when it is needed."""

    places: Mapping[str, str | Group]

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = self.places.get(cmd_name)
        return None if place is None else _loaded(cmd_name, place)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with fewer_proposals():
            return super().parse_args(ctx, args)

    def first_line(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        return "" if command is None else (command.help or "").partition("\n")[0]

    def refuse(self, ctx: click.Context, word: str, known: dict[str, str], otherwise: str = "") -> None:
        """Raise an error that proposes the nearest of `known`, unless it is in `CAREFUL`, or ends with `otherwise`."""
        near = get_close_matches(word, known, n=1)
        proposed = known[near[0]] if near else ""
        said = f" Did you mean {proposed!r}?" if proposed and proposed not in CAREFUL else ""
        ctx.fail(f"No such command {word!r}.{said or otherwise}")


class Commands(_Lazy):
    """The group of all verbs."""

    places: Mapping[str, str | Group] = MappingProxyType({**TOP, **HIDDEN})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(TOP)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = _first_word(args)
        if at < len(args) and args[at] == "--version":
            args = [*args[:at], *args[at + 1 :], "version"]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word, rest = args[0], args[1:]
        new = ALSO.get(word, word)
        if new not in self.places and not ctx.resilient_parsing and not word.startswith("-"):
            self.refuse(ctx, word, _KNOWN)
        return super().resolve_command(ctx, [new, *rest])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs with its headings."""
        also = {name: other for other, name in ALSO.items()}
        for heading, verbs in VERBS.items():
            with formatter.section(heading):
                rows = [(name, self.first_line(ctx, name)) for name in verbs]
                formatter.write_dl([(f"{name}, {also[name]}" if name in also else name, line) for name, line in rows])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        manner = Manner()
        if "_TRIMTAB_COMPLETE" in os.environ:
            import trimtab.cli.completing  # noqa: F401  # completion for Bash

        def work() -> object:
            return click.Group.main(self, args, prog_name or "trimtab", complete_var, False, obj=manner, **extra)

        if not standalone_mode:
            return work()
        sys.exit(guarded(work, manner))


class Below(_Lazy):
    """The verbs below a verb, such as those of `trimtab versions`."""

    def __init__(self, name: str, group: Group) -> None:
        example = f"\n\n\b\nExample:\n  trimtab {group.example}"
        super().__init__(name, help=group.help + example, callback=lambda: None)
        self.verbs, self.places = group, {**group.below}
        manner_options(self).params.reverse()  # click adds options to a function in the reverse order

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if ctx.resilient_parsing else self._completed(ctx, args))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.first_line(ctx, name)) for name in self.places])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.places and not ctx.resilient_parsing:
            listed = f" `trimtab {self.name}` has {', '.join(self.places)}."
            self.refuse(ctx, args[0], {name: f"{self.name} {name}" for name in self.places}, listed)
        return super().resolve_command(ctx, args)

    def _completed(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Return the arguments with the verb first. It is moved before options, and added if it was left out."""
        assert self.name is not None
        start = _first_word(args)
        at = self._first_name(ctx, args, start)
        head, word = args[:start], args[at] if at < len(args) else None
        if word is None:
            helped = any(one in ctx.help_option_names for one in args)
            return args if helped or self.verbs.default is None else [*head, self.verbs.default, *args[start:]]
        return [*head, word, *args[start:at], *args[at + 1 :]]

    def _first_name(self, ctx: click.Context, args: list[str], start: int) -> int:
        """Return the index of the first word that is neither an option nor an option's value."""
        if start < len(args) and not args[start].startswith("-"):
            return start
        commands = [self.get_command(ctx, name) for name in self.places]
        options = [one for command in commands if command for one in command.params if isinstance(one, click.Option)]
        with_value = {name for one in options if not one.is_flag for name in one.opts}
        at = start
        while at < len(args) and args[at].startswith("-") and args[at] != "--":
            at += 2 if args[at] in with_value else 1
        return at


def _loaded(name: str, place: str | Group) -> click.Command:
    if isinstance(place, Group):
        return Below(name, place)
    module, _, attribute = place.partition(":")
    command: click.Command = getattr(import_module(f"trimtab.cli.{module}"), attribute)
    return command


def _first_word(args: Sequence[str]) -> int:
    """Return the index of the first word after `--json`, `--debug` and `--project DIR`."""
    at = 0
    while at < len(args) and (name := args[at].partition("=")[0]) in _MANNER:
        at += 1 if "=" in args[at] else _MANNER[name]
    return min(at, len(args))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@manner_options
@click.option("--version", is_flag=True, expose_value=False, help="Show the versions of trimtab and its dependencies.")
def trimtab() -> None:
    """The whole production machine-learning loop in one process.

    A project is a folder with trimtab.toml and project.py. From one file to answers:

    \b
      trimtab init churn.csv          make the project, and say what to call next
      trimtab doctor                  see whether anything is missing
      trimtab help versions           explain `versions`, and list the verbs below it

    Exit status: 0 done, 1 a check failed or a version was refused, 2 usage or a wrong argument, 3 not found,
    4 conflict, 5 unavailable, 6 corrupt, 70 unexpected, 130 Ctrl-C, 143 SIGTERM.
    """


def main() -> None:
    """Run the command line. This does not return."""
    try:
        trimtab.main()
    except SystemExit as end:
        end_in_time(end.code)
        raise
