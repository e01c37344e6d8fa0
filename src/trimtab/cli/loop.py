"""Commands that move the loop: train, tick, freeze, unfreeze."""

from __future__ import annotations

import click

from trimtab.cli.asking import shown_decisions
from trimtab.cli.exits import FAILED
from trimtab.cli.options import command, manner, opened_project
from trimtab.cli.output import progress, show_json, show_lines
from trimtab.cli.planning import say_first

_SAFE = "What was decided is in the ledger; a step that was not finished is done again by the next call."


@command("train", safe=_SAFE)
@click.argument("model", required=False)
def train(model: str | None) -> int:
    """Train a candidate now, judge it, promote or refuse it.

    MODEL may be left out when the project's first deployment is meant. The candidate takes over only when it passes
    the gate; exit status 1 says that it was refused.

    \b
    Example:
      trimtab train late_flight
    """
    with opened_project() as project, progress("training"):
        say_first(project)
        decisions = project.train(model)
        made = [d.version for d in decisions if d.act == "train" and d.version is not None]
        reports = [project.report(version) for version in made]
        judged = [project.evaluation(version) for version in made]
    if manner().json:
        show_json(decisions)
    else:
        show_lines(shown_decisions(decisions) or ["Nothing was decided."])
        from trimtab.app.evaluation_text import evaluation_text

        show_lines(f"\n{evaluation_text(evaluation)}" for evaluation in judged)
        show_lines(f"\nevaluation: {report}" for report in reports)
    return FAILED if decisions and decisions[-1].act == "refuse" else 0


@command("tick", safe=_SAFE)
def tick() -> None:
    """Look at every deployment once and do what is due.

    For schedulers: call it as often as you like. `trimtab serve` does it by itself.

    \b
    Example:
      */10 * * * *  cd /srv/flights && trimtab tick
    """
    with opened_project() as project, progress("looking at the deployments"):
        decisions = project.tick()
    if manner().json:
        show_json(decisions)
    else:
        show_lines(shown_decisions(decisions) or ["Nothing was due."])


@command("freeze")
@click.option("--why", "reason", default="", metavar="TEXT", help="Goes into the ledger.")
def freeze(reason: str) -> None:
    """Stop all automation at once.

    Predictions go on; nothing is trained, promoted or rolled back until `trimtab unfreeze`.

    \b
    Example:
      trimtab freeze --why "strange data since noon"
    """
    with opened_project() as project:
        row = project.freeze(reason)
    show_json(row) if manner().json else show_lines(shown_decisions([row]))


@command("unfreeze")
@click.option("--why", "reason", default="", metavar="TEXT", help="Goes into the ledger.")
def unfreeze(reason: str) -> None:
    """Let automation go on.

    \b
    Example:
      trimtab unfreeze --why "data mended"
    """
    with opened_project() as project:
        row = project.unfreeze(reason)
    show_json(row) if manner().json else show_lines(shown_decisions([row]))


@command("materialise", safe="What was moved is in the tables; run the same command again for the rest.")
def materialise() -> None:
    """Move new events from the log into one Delta table a source.

    The log stays as it is; training and questions about the past then begin with the tables.

    \b
    Example:
      trimtab materialise
    """
    with opened_project() as project, progress("moving events into tables"):
        moved = project.materialise()
    if manner().json:
        show_json(moved)
    else:
        show_lines(f"{source}: {rows:,} new rows" for source, rows in moved.rows.items())
