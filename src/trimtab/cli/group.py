"""The group of all commands; a command's module is imported when the command is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from keyword import iskeyword
from typing import Any

import click

from trimtab.cli.exits import Manner, guarded, leave_in_time
from trimtab.cli.options import manner_options

_START, _DATA, _LOOP, _ASK, _RUN = "Start", "Data in, answers out", "The loop", "What happened", "Long runs"
_KEEP = "What is kept"

# name: (heading, module, what it does); a test holds the texts against the commands' own.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "init": (_START, "starting", "Make a project from one CSV or Parquet file."),
    "doctor": (_START, "starting", "Check this machine and project, and say how to fix what is missing."),
    "demo": (_START, "running", "Replay the project's history through the whole loop, and report."),
    "version": (_START, "starting", "Show the versions of trimtab and of what it stands on."),
    "ingest": (_DATA, "data", "Load a file of a source's history into the log."),
    "quarantine": (_DATA, "quarantine", "Show the rows that could not become events, try them again, or drop them."),
    "predict": (_DATA, "data", "Answer a file of requests, or single rows."),
    "join": (_DATA, "join", "Add features to a file of requests, each as of its own moment."),
    "snapshot": (_DATA, "join", "Write the features of every entity that is known at a moment, or at several."),
    "serve": (_DATA, "running", "Answer over HTTP until stopped."),
    "keys": (_DATA, "keys", "List the API keys of the service, make one, or remove one."),
    "openapi": (_DATA, "openapi", "Write the OpenAPI 3.1 document of the service, which it has at /openapi.json too."),
    "materialise": (_DATA, "loop", "Move new events from the log into one Delta table a source."),
    "rebuild": (_DATA, "views", "Make the online features of a view anew from history."),
    "compact": (_DATA, "views", "Give back the room of online features that nothing depends on any more."),
    "forget": (_DATA, "erasing", "Erase whom a key names from all that the project keeps."),
    "plan": (_LOOP, "planning", "Compare the project file with what is applied, and say what a change means."),
    "apply": (_LOOP, "planning", "Apply the project file: fill new views, drop what nothing uses."),
    "train": (_LOOP, "loop", "Train a candidate now, judge it, promote or refuse it."),
    "search": (_LOOP, "searching", "Look for the parameters of a model's estimator."),
    "trials": (_LOOP, "searching", "Show the trials of a model's newest search."),
    "stages": (_LOOP, "loop", "Show the stages of a model's loop: what is done, where it stands, what comes next."),
    "promote": (_LOOP, "loop", "Judge a registered version, and put it in service when it passes."),
    "approve": (_LOOP, "loop", "Let the candidate that waits for approval take over."),
    "reject": (_LOOP, "loop", "Drop the candidate that is in a stage of its rollout, or waits for approval."),
    "tick": (_LOOP, "loop", "Look at every deployment once and do what is due."),
    "rollback": (_LOOP, "loop", "Let the version before answer again, at once."),
    "arm": (_LOOP, "loop", "Let a version answer beside the one in service: as canary or shadow."),
    "runs": (_LOOP, "runs", "List the runs: trainings, what came of them, and those under way."),
    "run": (_LOOP, "runs", "Show one run with its steps and what it printed, or cancel one that is under way."),
    "import": (_LOOP, "version", "Register a model file, or an MLflow model folder, of elsewhere as a version."),
    "protect": (_LOOP, "registry", "Say what a move of an alias needs: a gate record, a reason, or nothing."),
    "alert": (_LOOP, "alert", "Show who is alerted of what, try it, or mute something for a while."),
    "freeze": (_LOOP, "loop", "Stop all automation at once."),
    "unfreeze": (_LOOP, "loop", "Let automation go on."),
    "features": (_ASK, "planning", "List sources, views and features: meaning, freshness, values, use."),
    "top": (_ASK, "top", "Watch a running service: rates, latencies, versions, what fails."),
    "metrics": (_ASK, "metrics", "Print alerting rules for Prometheus, which watch a service by its /metrics."),
    "status": (_ASK, "asking", "Show how the deployments and sources are."),
    "why": (_ASK, "asking", "Explain one prediction by its id."),
    "report": (_ASK, "asking", "Write a version's evaluation and card as a page."),
    "versions": (_ASK, "registry", "List or search the registered versions of models, or show one with its signature."),
    "card": (_ASK, "version", "Show a version's model card, made from its records alone, as Markdown."),
    "compare": (_ASK, "version", "Show what differs between two versions, and what each answers to the same rows."),
    "tag": (_ASK, "registry", "Give a version tags, or a note."),
    "quality": (_ASK, "quality", "Show the quality of what a model answered, by closed blocks."),
    "exclusions": (_ASK, "exclusions", "List the times whose rows are not learnt from, or release one."),
    "skew": (_ASK, "skew", "Compute a sample of logged predictions again as of their own log positions."),
    "ledger": (_ASK, "asking", "List every decision, or verify their chain."),
    "export": (_KEEP, "version", "Write a version as a folder that runs without trimtab, or that MLflow reads."),
    "disk": (_KEEP, "keeping", "Show what takes how much disk, against the budget."),
    "retain": (_KEEP, "keeping", "Truncate the log to what tables do not have, and remove what is kept no longer."),
    "gc": (_KEEP, "registry", "Remove what nothing needs any more: artifacts of versions, searches, results of steps."),
    "backup": (_KEEP, "keeping", "Copy the project's state to a new folder, while it is served and written to."),
    "restore": (_KEEP, "keeping", "Bring a backup's state back, once every file's checksum was compared."),
    "recover": (_KEEP, "keeping", "Go on after records were lost, or stamped by a clock that was ahead."),
    "simulate": (_RUN, "running", "Replay history in virtual time under several policies."),
}


class Commands(click.Group):
    """A group that knows its commands by name and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"trimtab.cli.{COMMANDS[cmd_name][1]}")
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
        for wanted in (_START, _DATA, _LOOP, _ASK, _KEEP, _RUN):
            with formatter.section(wanted):
                formatter.write_dl([(name, text) for name, (heading, _, text) in COMMANDS.items() if heading == wanted])

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
        leave_in_time(end.code)
        raise
