"""The commands `search run` and `search trials`, for searches of model parameters."""

from __future__ import annotations

import click

from trimtab.cli.loop.planning import say_first
from trimtab.cli.options import account, command, names, opened_project, say_which
from trimtab.cli.output import progress, show
from trimtab.run import Run

_SAFE = "Every finished trial is kept; run the same command again to go on."
_SHOWN = 10


@command("run", safe=_SAFE)
@click.argument("model", required=False, shell_complete=names("model"))
@click.option("--trials", type=int, metavar="N", help="The number of trials (default: as the model declares).")
@click.option("--time", metavar="DURATION", help="The time limit of all trials together, e.g. 10m.")
def search(model: str | None, trials: int | None, time: str | None) -> None:
    """Look for the best parameters of a model's estimator.

    The model declares the ranges with tt.search. The next `trimtab train` takes the best parameters. A stopped
    search is resumed. Without MODEL, the project's first deployment is meant.

    \b
    Example:
      trimtab search run late_flight --trials 100 --time 10m
    """

    def watch(run: Run) -> None:
        step = run.steps[-1] if run.steps else None
        meter.say(f"searching {run.model}", None if step is None else step.progress)

    with opened_project() as project, progress("searching") as meter:
        say_first(project)
        model = say_which(project, model, "search run")
        found = project.search(model, trials=trials, time=time, actor=account(), watch=watch)
    show(found, [*found.lines(most=_SHOWN), f"\nNext: trimtab train {found.search.model}"])


@command("trials")
@click.argument("model", required=False, shell_complete=names("model"))
@click.option("--best", type=click.IntRange(min=1), metavar="N", help="Only the N best trials.")
def trials(model: str | None, best: int | None) -> None:
    """Show the trials of a model's newest search.

    The best trials come first, then those that were ended early, then those that failed. MODEL may be left out if there
    were searches for only one deployment.

    \b
    Example:
      trimtab search trials late_flight
    """
    with opened_project() as project:
        found = project.trials(model)
    show(found, found.lines(most=best))
