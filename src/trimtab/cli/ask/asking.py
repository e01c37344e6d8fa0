"""The commands `status`, `why`, `versions report`, `ledger list` and `ledger verify`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from trimtab.cli.exits import FAILED
from trimtab.cli.options import command, names, opened_project
from trimtab.cli.output import show, show_each
from trimtab.cli.printed import Verified, Written
from trimtab.core.records import Decision
from trimtab.core.shown import count_of
from trimtab.core.time import format_time


@command("status")
@click.option("--check", is_flag=True, help="Exit status 1 if something is red.")
def status(check: bool) -> int:
    """Show the state of deployments and sources.

    \b
    Example:
      trimtab status
    """
    with opened_project() as project:
        found = project.status()
    show(found, found.lines())
    return FAILED if check and found.is_red else 0


@command("why")
@click.argument("prediction_id", metavar="ID")
def why(prediction_id: str) -> None:
    """Explain one prediction by its id.

    \b
    Example:
      trimtab why p_01kne71xcn000001ttevzs38xs
    """
    with opened_project() as project:
        found = project.why(prediction_id)
    show(found, found.lines())


@command("report")
@click.argument("version", shell_complete=names("version"))
@click.option(
    "--out", type=click.Path(), metavar="FILE", help="The file to write (default: in reports/ of the state folder)."
)
def report(version: str, out: str | None) -> None:
    """Write a version's evaluation as a page, and its card as Markdown next to it.

    \b
    Example:
      trimtab versions report late_flight@champion
    """
    with opened_project() as project:
        page = project.report(version, out)
    show(Written(page=str(page)), [f"evaluation: {page}"])


@command("list")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the newest N rows.")
def ledger(last: int | None) -> None:
    """List every decision: its time, the model, who decided, what was done, and why.

    \b
    Example:
      trimtab ledger list --last 10
    """
    with opened_project() as project:
        decisions = project.ledger()
    decisions = decisions[-last:] if last else decisions
    show_each(decisions, shown_decisions(decisions) or ["No decision yet."])


@command("verify")
def verify() -> None:
    """Verify the chain of hashes of all decisions.

    \b
    Example:
      trimtab ledger verify
    """
    with opened_project() as project:
        rows = project.verify_ledger()
    show(Verified(rows=rows, sound=True), [f"{count_of(rows, 'row')}, all sound."])


def shown_decisions(decisions: Sequence[Decision]) -> list[str]:
    """Return one line of text for each decision: its time, the model, who decided, what was done, and why."""
    lines = []
    for row in decisions:
        version = f"  {row.version[:12]}" if row.version else ""
        about = f"{row.sequence:>4}  {format_time(row.at_us)[:19]}  {row.model}"
        lines.append(f"{about}  {row.actor}  {row.act}{version}: {row.cause}")
    return lines
