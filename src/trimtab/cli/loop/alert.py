"""The command `alert`, for alerts and their receivers."""

from __future__ import annotations

import click

from trimtab.cli.exits import FAILED
from trimtab.cli.options import account, command, opened_project, refuse_given
from trimtab.cli.output import progress, show

_WORDS = {"list": (0, 0), "test": (0, 1), "mute": (1, 1), "unmute": (1, 1)}


@command("alert")
@click.argument("words", nargs=-1, metavar="[list | test [RECEIVER] | mute WHAT | unmute WHAT]")
@click.option("--for", "time", metavar="DURATION", help="How long to mute it: 4h, 2d; at most 90d.")
@click.option("--why", "reason", default="", metavar="TEXT", help="Goes into the ledger.")
def alert(words: tuple[str, ...], time: str | None, reason: str) -> int:
    """Show receivers and alerts, send a test alert, or mute a signal for a while.

    WHAT is a model, a kind of signal or a subject ("column temp"); or MODEL/KIND, or MODEL/KIND/SUBJECT with * for any.
    Exit status 1: a test alert did not arrive.

    \b
    Example:
      trimtab alert                           receivers, outbox, signals, mutes, pages
      trimtab alert test team
      trimtab alert mute late_flight/no_labels --for 4h --why "the feed is being moved"
      trimtab alert unmute late_flight/no_labels
    """
    action, *rest = words or ("list",)
    least, most = _WORDS.get(action, (1, 0))
    if not least <= len(rest) <= most:
        raise click.UsageError(f"found {' '.join(words)!r}, needed is list, test [RECEIVER], mute WHAT or unmute WHAT.")
    if action != "mute":
        refuse_given("is for: trimtab alert mute WHAT", "time")
    if action in ("list", "test"):
        refuse_given("is for: trimtab alert mute WHAT, or unmute", "reason")
    if action == "test":
        return _test(rest[0] if rest else None)
    if action == "list":
        with opened_project() as project:
            found = project.alerts()
        show(found, found.lines())
        return 0
    _act(action, rest[0], time, reason)
    return 0


def _test(receiver: str | None) -> int:
    with opened_project() as project, progress("sending"):
        found = project.test_alerts(receiver)
    lines = [
        f"{one.receiver}  {one.kind}  {'arrived' if one.ok else 'FAILED'} in {one.took_s:.1f} s: {one.said}"
        for one in found
    ]
    show(found, lines or ["No receiver is declared. See docs/alerts.md, [alerts.receivers.NAME]."])
    return 0 if found and all(one.ok for one in found) else FAILED


def _act(action: str, what: str, time: str | None, reason: str) -> None:
    from trimtab.cli.ask.asking import shown_decisions

    if action == "mute" and time is None:
        raise click.UsageError("mute needs --for DURATION, such as --for 4h: a mute always ends.")
    with opened_project() as project:
        if action == "mute":
            row = project.mute_alerts(what, time=time or "", why=reason, actor=account())
        else:
            row = project.unmute_alerts(what, why=reason, actor=account())
    show(row, shown_decisions([row]))
