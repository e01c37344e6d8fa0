"""The command `skew`, which checks that predictions used the right feature values."""

from __future__ import annotations

from typing import Any

import click

from trimtab.cli.exits import FAILED
from trimtab.cli.options import command, names, opened_project, refuse_given, time_given
from trimtab.cli.output import progress, show, show_each


@command("skew", safe="No prediction was changed; the unfinished check is not recorded.")
@click.argument("model", required=False, shell_complete=names("model"))
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=1_000,
    show_default=True,
    metavar="N",
    help="The number of predictions to check.",
)
@click.option("--all", "everything", is_flag=True, help="Check all predictions.")
@click.option("--since", metavar="T", help="Only predictions made at T or later.")
@click.option("--seed", type=int, metavar="N", help="Seed of the sample.")
@click.option("--scores", is_flag=True, help="Also score the logged inputs again.")
@click.option("--history", type=click.IntRange(min=1), metavar="N", help="Show the newest N checks instead.")
def skew(model: str | None, sample: int, everything: bool, since: str | None, history: int | None, **given: Any) -> int:
    """Compute features of logged predictions again, and compare them bit by bit.

    They are computed for a sample, from the events that each prediction could use. Exit status 1 if a value differs for
    a cause that needs action, or if there was nothing to compare.

    \b
    Example:
      trimtab quality skew --sample 200
      trimtab quality skew late_flight --since 2024-05-01
    """
    time_given("--since", since)
    if history is not None:
        alone = "is for a new check; --history shows the newest checks of all models."
        refuse_given(alone, "model", "sample", "everything", "since", *given)
    if everything:
        refuse_given("and --all exclude each other.", "sample")
    with opened_project() as project:
        if history is not None:
            found = project.skew_checks(last=history)
            show_each(found, [line for one in found for line in one.lines()] or ["No check yet."])
            return 0
        with progress("Computing predictions again"):
            report = project.skew(model, sample=None if everything else sample, since=since, **given)
    show(report, report.lines())
    return FAILED if report.is_red else 0
