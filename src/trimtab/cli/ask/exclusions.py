"""The command `exclusions`, which lists time windows excluded from training because of faulty inputs or labels."""

from __future__ import annotations

import click

from trimtab.cli.options import account, command, names, opened_project
from trimtab.cli.output import show_each


@command("exclusions")
@click.argument("model", required=False, shell_complete=names("model"))
@click.option("--all", "everything", is_flag=True, help="Show released windows, too.")
@click.option("--release", "window", metavar="ID", help="End the exclusion of this window.")
@click.option("--why", "reason", default="", metavar="TEXT", help="Needed with --release: the reason, for the ledger.")
@click.option("--by", "actor", metavar="NAME", help="With --release: who releases it (default: your account).")
def exclusions(model: str | None, everything: bool, window: str | None, reason: str, actor: str | None) -> None:
    """List the time windows whose rows are excluded from training, or release one.

    A window is excluded if a monitor found its inputs or labels faulty. Until a person releases it, its rows are used
    neither to fit nor to judge models. Without MODEL, the project's first deployment is meant.

    \b
    Example:
      trimtab quality exclusions late_flight
      trimtab quality exclusions --release nulls/late_flight/... --why "the nulls were meant"
    """
    from trimtab.app.training.exclusions import exclusion_lines

    with opened_project() as project:
        if window is not None:
            found = [project.release(window, model=model, why=reason, actor=actor or account())]
        else:
            found = project.exclusions(model, released=everything)
    show_each(found, exclusion_lines(found))
