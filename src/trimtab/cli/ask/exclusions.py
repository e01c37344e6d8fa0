"""The command `exclusions`, which lists time windows excluded from training because of faulty inputs or labels."""

from __future__ import annotations

import click

from trimtab.cli.options import account, command, names, opened_project
from trimtab.cli.output import show_each


@command("exclusions")
@click.argument("model", required=False, shell_complete=names("model"))
@click.option("--all", "everything", is_flag=True, help="Show those that were released, too.")
@click.option("--release", "window", metavar="ID", help="Let the rows of this time count again.")
@click.option("--why", "reason", default="", metavar="TEXT", help="With --release: goes into the ledger.")
@click.option("--by", "actor", metavar="NAME", help="With --release: who; left out, the name of your account.")
def exclusions(model: str | None, everything: bool, window: str | None, reason: str, actor: str | None) -> None:
    """List the times whose rows are not learnt from, or release one.

    Rows of times in which inputs or labels were red are used for no fit, gate or reference until a person releases
    them. MODEL may be left out when the project's first deployment is meant.

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
