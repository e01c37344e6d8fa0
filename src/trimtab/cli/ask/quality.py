"""The command `quality`, which shows how good a model's predictions were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from trimtab.cli.ask.asking import shown_decisions
from trimtab.cli.options import account, command, manner, names, opened_project, refuse_given, time_given
from trimtab.cli.output import show, show_json, show_lines
from trimtab.cli.printed import Written

if TYPE_CHECKING:
    from trimtab.app.project import Project


@command("quality")
@click.argument("model", required=False, shell_complete=names("model"))
@click.option(
    "--by",
    type=click.Choice(["hour", "day", "week", "month", "all", "batch"]),
    default="day",
    show_default=True,
    help="The length of a block (batch: a block for each batch of `trimtab predict`).",
)
@click.option("--slices", metavar="COLUMN", help="Show a row for each value of a column or named expression.")
@click.option("--since", metavar="T", help="Leave out blocks that begin before T.")
@click.option("--until", metavar="T", help="Leave out blocks that begin at T or later.")
@click.option(
    "--version", "version", metavar="VERSION", shell_complete=names("version"), help="Only what this version answered."
)
@click.option("--amended", is_flag=True, help="Also count late and corrected labels (not by hour, slice or batch).")
@click.option("--page", "page", metavar="FILE", help="Write a page with plots instead: a file that ends in .html.")
@click.option("--accept", is_flag=True, help="Accept a quality that is worse than that of the last healthy version.")
@click.option("--why", "reason", default="", metavar="TEXT", help="Needed with --accept: the reason, for the ledger.")
@click.option("--actor", "actor", metavar="NAME", help="With --accept: who accepts it (default: your account).")
def quality(model: str | None, page: str | None, accept: bool, reason: str, actor: str | None, **wanted: Any) -> None:
    """Show the quality of a model's answers, by closed blocks of time.

    Prints a table and a plot. A day is closed when its labels are final, after the label's wait. Without MODEL, the
    project's first deployment is meant.

    \b
    Example:
      trimtab quality show late_flight --since 2024-05-01
      trimtab quality show late_flight --by week --slices carrier
      trimtab quality show late_flight --page quality.html
      trimtab quality show late_flight --accept --why "the new route is harder, and stays"
    """
    wanted |= {name: time_given(f"--{name}", wanted[name]) for name in ("since", "until")}
    if accept:
        refuse_given("has no effect with --accept.", *wanted, "page")
        with opened_project() as project:
            decision = project.accept_level(model, why=reason, actor=actor or account())
        show(decision, shown_decisions([decision]))
        return
    if page is not None:
        refuse_given("has no effect with --page, which has its own blocks.", *wanted)
        with opened_project() as project:
            file = project.quality_page(model, to=page)
        show(Written(file=str(file)), [f"Written: {file}"])
        return
    with opened_project() as project:
        table = project.quality(model, **wanted)
        if manner().json:
            for row in table.to_rows():
                show_json(row)
            return
        from trimtab.app.inspect.quality import quality_lines

        chosen = any(wanted[name] is not None for name in ("since", "until", "version")) or wanted["by"] == "hour"
        show_lines(quality_lines(table, _level(project, model), chosen=chosen))


def _level(project: Project, model: str | None) -> float | None:
    """Return the normal excess loss of the deployed version, in units of the metric.

    The excess loss is the capped loss minus its expectation if the scores are right. None: it is not monitored.
    """
    from trimtab.monitoring.quality.watches import LOSS

    name = project.definitions.deployment(model).name
    watch = project.loop(name).monitor.watch
    figure = None if watch is None else watch.figures.get(LOSS)
    return None if watch is None or figure is None or not figure.excess else figure.spec.mean * watch.loss_cap
