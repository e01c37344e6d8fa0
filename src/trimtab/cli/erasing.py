"""The command that erases: forget."""

from __future__ import annotations

import click

from trimtab.cli.options import command, manner, opened_project
from trimtab.cli.output import progress, show_json, show_lines

_SAFE = "What is erased stays erased; run the same command again to finish."


@command("forget", safe=_SAFE)
@click.argument("entity")
@click.argument("key", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Show what would go, and change nothing.")
@click.option("--why", default="", metavar="TEXT", help="The reason, for the ledger; write no personal data.")
@click.option("--training-sets", is_flag=True, help="Delete the rows of stored training sets that have rows of it.")
def forget(entity: str, key: tuple[str, ...], dry_run: bool, why: str, training_sets: bool) -> None:
    """Erase whom a key names from all that the project keeps.

    ENTITY is an entity, or the column of a source that holds its key; KEY is one value for each of its columns. Stop
    the service first. A run that was stopped is finished by the same command.

    \b
    Example:
      trimtab forget customer_id c-1042 --dry-run
      trimtab forget customer_id c-1042 --why "request 17 of 3 May"
    """
    with opened_project() as project, progress("forgetting"):
        found = project.forget(entity, *key, why=why, dry_run=dry_run, training_sets=training_sets)
    if manner().json:
        show_json(found)
    else:
        show_lines(found.lines())
