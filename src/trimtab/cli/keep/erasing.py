"""The command `forget`, which erases personal data."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from trimtab.cli.options import account, command, opened_project
from trimtab.cli.output import progress, show
from trimtab.core.errors import Misuse
from trimtab.core.shown import count_of
from trimtab.store.regular_file import regular_file

_SAFE = "What is erased stays erased; run the same command again to finish."


@command("forget", safe=_SAFE)
@click.argument("entity")
@click.argument("key", nargs=-1)
@click.option(
    "--from",
    "file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="A file with one key a line (its values separated by commas); - reads standard input.",
)
@click.option("--dry-run", is_flag=True, help="Change nothing; show what would be erased.")
@click.option("--why", default="", metavar="TEXT", help="The reason, for the ledger; give no personal data.")
@click.option("--training-sets", is_flag=True, help="Also delete whole training sets that contain the key.")
def forget(entity: str, key: tuple[str, ...], file: Path | None, dry_run: bool, why: str, training_sets: bool) -> None:
    """Erase a person, or another entity, from everything that the project keeps.

    ENTITY is a declared entity, or the column of a source that holds the key. KEY has one value for each column of the
    entity, and may be repeated. Stop the service first. If a run was stopped, the same command finishes it.

    \b
    Example:
      trimtab forget customer_id c-1042 --dry-run
      trimtab forget customer_id c-1042 c-77 --why "requests 17 and 18 of 3 May"
      trimtab forget customer_id --from keys.txt
    """
    if not key and file is None:
        raise click.UsageError("Give a KEY, or --from FILE.")
    with opened_project() as project, progress("forgetting"):
        from trimtab.app.keep.subjects import columns_of

        columns = columns_of(project.definitions, project.sources, entity)
        keys = _groups(entity, key, columns) + ([] if file is None else _lines(entity, file, columns))
        found = project.forget(
            entity, keys=keys, why=why, dry_run=dry_run, training_sets=training_sets, actor=account()
        )
    show(found, found.lines())


def _groups(entity: str, values: Sequence[str], columns: Sequence[str]) -> list[Sequence[str]]:
    width = len(columns)
    if len(values) % width:
        raise Misuse(
            f"forget: {entity!r} is known by {', '.join(columns)}, so a key has {width} values, but found "
            f"{count_of(len(values), 'value')}."
        )
    return [values[at : at + width] for at in range(0, len(values), width)]


def _lines(entity: str, file: Path, columns: Sequence[str]) -> list[Sequence[str]]:
    """Return the keys in a file. A first line with the names of the columns is skipped."""
    if str(file) != "-":
        regular_file(file, "--from")
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Misuse(f"--from {file}: not UTF-8 text ({error.reason} at byte {error.start}).") from None
    rows = [(number, row) for number, row in enumerate(csv.reader(text.splitlines()), 1) if row]
    if rows and rows[0][1] == [*columns]:
        rows = rows[1:]
    for number, row in rows:
        if len(row) != len(columns) or not all(row):
            raise Misuse(
                f"--from {file}, line {number}: give {', '.join(columns)}, separated by commas; this line has "
                f"{len(row)} values{'' if all(row) else ', one of them empty'}. Nothing was done."
            )
    if not rows:
        raise Misuse(f"--from {file}: it holds no key of {entity!r}. Write one key per line.")
    return [row for _, row in rows]
