"""The group of all commands; a command's module is imported when the command is called."""

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

# heading: name: (module, what it does); a test holds the texts against the commands' own.
_VERBS: dict[str, dict[str, tuple[str, str]]] = {
    "Start": {
        "init": ("start.starting", "Make a project from one CSV or Parquet file."),
        "doctor": ("start.starting", "Check this machine and project, and say how to fix what is missing."),
        "demo": ("start.replaying", "Replay the project's history through the whole loop, and report."),
        "version": ("start.starting", "Show the versions of trimtab and of what it stands on."),
    },
    "Data in, answers out": {
        "ingest": ("data.files", "Load a file of a source's history into the log."),
        "quarantine": ("data.quarantine", "Show the rows that could not become events, try them again, or drop them."),
        "predict": ("data.files", "Answer a file of requests, or single rows."),
        "join": ("data.tables", "Add features to a file of requests, each as of its own time."),
        "snapshot": ("data.tables", "Write the features of every entity that is known at a time, or at several."),
        "serve": ("serve.serving", "Answer over HTTP until stopped."),
        "keys": ("serve.keys", "List the API keys of the service, make one, or remove one."),
        "openapi": (
            "serve.openapi",
            "Write the OpenAPI 3.1 document of the service, which it has at /openapi.json too.",
        ),
        "materialise": ("data.stored", "Move new events from the log into one Delta table a source."),
        "rebuild": ("data.stored", "Rebuild the online features of a view from history."),
        "compact": ("data.stored", "Give back the room of online features that nothing depends on any more."),
        "forget": ("keep.erasing", "Erase whom a key names from all that the project keeps."),
    },
    "The loop": {
        "plan": ("loop.planning", "Compare the project file with what is applied, and say what a change means."),
        "apply": ("loop.planning", "Apply the project file: fill new views, drop what nothing uses."),
        "train": ("loop.training", "Train a candidate now, judge it, promote or refuse it."),
        "search": ("loop.searching", "Look for the parameters of a model's estimator."),
        "trials": ("loop.searching", "Show the trials of a model's newest search."),
        "stages": (
            "loop.training",
            "Show the stages of a model's loop: what is done, where it stands, what comes next.",
        ),
        "promote": ("loop.moving", "Judge a registered version, and put it in service when it passes."),
        "approve": ("loop.moving", "Let the candidate that waits for approval take over."),
        "reject": ("loop.moving", "Drop the candidate that is in a stage of its rollout, or waits for approval."),
        "tick": ("loop.training", "Look at every deployment once and do what is due."),
        "rollback": ("loop.moving", "Let the previous version answer again, at once."),
        "arm": ("loop.moving", "Let a version answer next to the one in service: as canary or shadow."),
        "runs": ("loop.runs", "List the runs: trainings, what came of them, and those still running."),
        "run": ("loop.runs", "Show one run with its steps and what it printed, or cancel one that is running."),
        "import": ("versions.version", "Register a model file, or an MLflow model folder, as a version."),
        "protect": ("versions.registered", "Say what a move of an alias needs: a gate record, a reason, or nothing."),
        "alert": ("loop.alert", "Show who is alerted of what, try it, or mute something for a while."),
        "freeze": ("loop.moving", "Stop all automation at once."),
        "unfreeze": ("loop.moving", "Let automation go on."),
    },
    "What happened": {
        "features": ("loop.planning", "List sources, views and features: meaning, freshness, values, use."),
        "top": ("top", "Watch a running service: rates, latencies, versions, what fails."),
        "metrics": ("serve.metrics", "Print alerting rules for Prometheus, which watch a service by its /metrics."),
        "status": ("ask.asking", "Show how the deployments and sources are."),
        "why": ("ask.asking", "Explain one prediction by its id."),
        "report": ("ask.asking", "Write a version's evaluation and card as a page."),
        "versions": (
            "versions.registered",
            "List or search the registered versions of models, or show one with its signature.",
        ),
        "card": ("versions.version", "Show a version's model card, made from its records alone, as Markdown."),
        "compare": (
            "versions.version",
            "Show what differs between two versions, and what each answers to the same rows.",
        ),
        "tag": ("versions.registered", "Give a version tags, or a note."),
        "quality": ("ask.quality", "Show the quality of what a model answered, by closed blocks."),
        "exclusions": ("ask.exclusions", "List the times whose rows are not learnt from, or release one."),
        "skew": ("ask.skew", "Compute a sample of logged predictions again as of their own log positions."),
        "ledger": ("ask.asking", "List every decision, or verify their chain."),
    },
    "What is kept": {
        "export": ("versions.version", "Write a version as a folder that runs without trimtab, or that MLflow reads."),
        "disk": ("keep.keeping", "Show what takes how much disk, against the budget."),
        "retain": ("keep.keeping", "Truncate the log to what tables do not have, and remove what is kept no longer."),
        "gc": (
            "versions.registered",
            "Remove what nothing needs any more: artifacts of versions, searches, results of steps.",
        ),
        "backup": ("keep.keeping", "Copy the project's state to a new folder, while it is served and written to."),
        "restore": ("keep.keeping", "Bring a backup's state back, once every file's checksum was compared."),
        "recover": ("keep.keeping", "Go on after records were lost, or stamped by a clock that was ahead."),
    },
    "Long runs": {
        "simulate": ("start.replaying", "Replay history in virtual time under several policies."),
    },
}
COMMANDS = {name: verb for verbs in _VERBS.values() for name, verb in verbs.items()}


class Commands(click.Group):
    """A group that knows its commands by name and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"trimtab.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = [] if args[0] in COMMANDS or args[0].startswith("-") else get_close_matches(args[0], COMMANDS, n=1)
        if near and not ctx.resilient_parsing:  # completion goes through here, too, and says nothing
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in the help, under headings, without importing a single command."""
        for heading, verbs in _VERBS.items():
            with formatter.section(heading):
                formatter.write_dl([(name, text) for name, (_, text) in verbs.items()])

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
    """Run the command line; never returns."""
    try:
        trimtab.main()
    except SystemExit as end:
        end_in_time(end.code)
        raise
