"""The commands below `alert`, for alerts and their receivers."""

from __future__ import annotations

import click

from trimtab.cli.ask.asking import shown_decisions
from trimtab.cli.exits import FAILED
from trimtab.cli.options import account, command, names, opened_project
from trimtab.cli.output import progress, show

_WHY = click.option("--why", "reason", default="", metavar="TEXT", help="The reason, for the ledger; a mute needs one.")


@command("list")
def list_() -> None:
    """Show receivers, waiting alerts, signals, mutes and pages (alerts sent at once).

    \b
    Example:
      trimtab alert list
    """
    with opened_project() as project:
        found = project.alerts()
    show(found, found.lines())


@command("test")
@click.argument("receiver", required=False)
def test(receiver: str | None) -> int:
    """Send a test alert to all receivers, or to one. Exit status 1: one failed, or no receiver is declared.

    \b
    Example:
      trimtab alert test team
    """
    with opened_project() as project, progress("sending"):
        found = project.test_alerts(receiver)
    lines = [
        f"{one.receiver}  {one.kind}  {'arrived' if one.ok else 'FAILED'} in {one.took_s:.1f} s: {one.said}"
        for one in found
    ]
    show(found, lines or ["No receiver is declared. See docs/alerts.md, [alerts.receivers.NAME]."])
    return 0 if found and all(one.ok for one in found) else FAILED


@command("mute")
@click.argument("what", shell_complete=names("model"))
@click.option("--for", "time", metavar="DURATION", help="How long: 4h, 2d; at most 90d. Required: a mute always ends.")
@_WHY
def mute(what: str, time: str | None, reason: str) -> None:
    """Mute some alerts for a while.

    WHAT is a model, a kind of signal or a subject ("column temp"); or MODEL/KIND or MODEL/KIND/SUBJECT, where * stands
    for any.

    \b
    Example:
      trimtab alert mute late_flight/no_labels --for 4h --why "the feed is being moved"
    """
    if time is None:
        raise click.UsageError("mute needs --for DURATION, such as --for 4h: a mute always ends.")
    with opened_project() as project:
        row = project.mute_alerts(what, time=time, why=reason, actor=account())
    show(row, shown_decisions([row]))


@command("unmute")
@click.argument("what", shell_complete=names("model"))
@_WHY
def unmute(what: str, reason: str) -> None:
    """End a mute. WHAT is what was given to `trimtab alert mute`.

    \b
    Example:
      trimtab alert unmute late_flight/no_labels
    """
    with opened_project() as project:
        row = project.unmute_alerts(what, why=reason, actor=account())
    show(row, shown_decisions([row]))
