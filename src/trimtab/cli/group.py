"""The group of all commands. The module of a command is imported only when the command is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from keyword import iskeyword
from typing import Any

import click

from trimtab.cli.exits import Manner, end_in_time, guarded
from trimtab.cli.options import manner_options

# The headings of the help text, with the commands under each heading and their modules.
_VERBS = {
    "Start": {
        "init": "start.starting",
        "doctor": "start.starting",
        "demo": "start.replaying",
        "version": "start.starting",
    },
    "Data in, answers out": {
        "ingest": "data.files",
        "quarantine": "data.quarantine",
        "predict": "data.files",
        "join": "data.tables",
        "snapshot": "data.tables",
        "serve": "serve.serving",
        "keys": "serve.keys",
        "openapi": "serve.openapi",
        "materialise": "data.stored",
        "rebuild": "data.stored",
        "compact": "data.stored",
        "forget": "keep.erasing",
    },
    "The loop": {
        "plan": "loop.planning",
        "apply": "loop.planning",
        "train": "loop.training",
        "search": "loop.searching",
        "trials": "loop.searching",
        "stages": "loop.training",
        "promote": "loop.moving",
        "approve": "loop.moving",
        "reject": "loop.moving",
        "tick": "loop.training",
        "rollback": "loop.moving",
        "arm": "loop.moving",
        "runs": "loop.runs",
        "run": "loop.runs",
        "import": "versions.version",
        "protect": "versions.registered",
        "alert": "loop.alert",
        "freeze": "loop.moving",
        "unfreeze": "loop.moving",
    },
    "What happened": {
        "features": "loop.planning",
        "top": "top",
        "metrics": "serve.metrics",
        "status": "ask.asking",
        "why": "ask.asking",
        "report": "ask.asking",
        "versions": "versions.registered",
        "card": "versions.version",
        "compare": "versions.version",
        "tag": "versions.registered",
        "quality": "ask.quality",
        "exclusions": "ask.exclusions",
        "skew": "ask.skew",
        "ledger": "ask.asking",
    },
    "What is kept": {
        "export": "versions.version",
        "disk": "keep.keeping",
        "retain": "keep.keeping",
        "gc": "versions.registered",
        "backup": "keep.keeping",
        "restore": "keep.keeping",
        "recover": "keep.keeping",
    },
    "Long runs": {
        "simulate": "start.replaying",
    },
}
COMMANDS = {name: module for verbs in _VERBS.values() for name, module in verbs.items()}


class Commands(click.Group):
    """A group of commands that imports the module of a command only when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"trimtab.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = [] if args[0] in COMMANDS or args[0].startswith("-") else get_close_matches(args[0], COMMANDS, n=1)
        if near and not ctx.resilient_parsing:  # shell completion also calls this method, and must print nothing
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands with its headings."""
        for heading, verbs in _VERBS.items():
            with formatter.section(heading):
                formatter.write_dl([(name, self._first_line(ctx, name)) for name in verbs])

    def _first_line(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        return "" if command is None else (command.help or "").partition("\n")[0]

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        manner = Manner()

        def work() -> object:
            return click.Group.main(self, args, prog_name or "trimtab", complete_var, False, obj=manner, **extra)

        if not standalone_mode:
            return work()
        sys.exit(guarded(work, manner))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@manner_options
def trimtab() -> None:
    """The whole production machine-learning loop in one process.

    A project is a folder with trimtab.toml and project.py. From one file to answers:

    \b
      trimtab init churn.csv          make the project, and say what to call next
      trimtab doctor                  see whether anything is missing

    Exit status: 0 done, 1 a check failed, 2 usage or a wrong argument, 3 not found, 4 conflict, 5 unavailable,
    6 corrupt, 70 unexpected, 130 Ctrl-C, 143 SIGTERM.
    """


def main() -> None:
    """Run the command line. This does not return."""
    try:
        trimtab.main()
    except SystemExit as end:
        end_in_time(end.code)
        raise
