"""The command `signals`, which lists what monitoring has found."""

from __future__ import annotations

import click

from trimtab.cli.options import command, names, opened_project, time_given
from trimtab.cli.output import show_each
from trimtab.core.records import Signal
from trimtab.core.time import format_time


@command("signals")
@click.argument("model", required=False, shell_complete=names("model"))
@click.option("--since", metavar="T", help="Leave out signals that ended before T.")
@click.option("--red", is_flag=True, help="Leave out signals that are only information.")
@click.option("--open", "standing", is_flag=True, help="Leave out signals that have ended.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the newest N signals.")
def signals(model: str | None, since: str | None, red: bool, standing: bool, last: int | None) -> None:
    """List what monitoring has found, oldest first: when each signal began and ended, and why.

    Without MODEL, the signals of all deployments are listed.

    \b
    Example:
      trimtab signals late_flight --since 2024-05-01 --red
    """
    since_us = time_given("--since", since) or 0
    with opened_project() as project:
        found = every = project.signals()
        if model is not None and not any(one.model == model for one in found):
            project.definitions.deployment(model)  # raises NotFound, with the names that there are
    found = [
        one
        for one in found
        if (model is None or one.model == model)
        and (one.ended_at_us is None or (one.ended_at_us >= since_us and not standing))
        and (one.severity == "red" or not red)
    ]
    found = found[-last:] if last else found
    show_each(found, [_line(one) for one in found] or ["No such signal." if every else "No signal yet."])


def _line(signal: Signal) -> str:
    about = f"{signal.kind} of {signal.subject}" if signal.subject else signal.kind
    line = f"{_minute(signal.raised_at_us)}  {signal.severity:4}  {signal.model}  {about}: {signal.message}"
    line += "" if signal.cause is None else f" Possible cause: {signal.cause}."
    if signal.ended_at_us is None:
        return f"{line} Not ended."
    because = "" if signal.ended_because is None else f": {signal.ended_because}"
    return f"{line} Ended {_minute(signal.ended_at_us)}{because}."


def _minute(at_us: int) -> str:
    return format_time(at_us)[:16].replace("T", " ")
