"""The commands that show experiments: `list` and `show`."""

from __future__ import annotations

import click

from trimtab.cli.options import command, names, opened_project
from trimtab.cli.output import show, show_each
from trimtab.cli.printed import Written

_NAME = click.argument("name", shell_complete=names("experiment"))


@command("list")
def list_() -> None:
    """List the experiments: phase, variants, and the share of the units that take part.

    \b
    Example:
      trimtab experiment list
    """
    with opened_project() as project:
        found = project.experiments()
    lines = [line for one in found for line in one.lines()]
    show_each(found, lines or ["No experiment is declared. Declare one in the project file: tt.experiment(...)"])


@command("show")
@_NAME
@click.option("--page", metavar="FILE", help="Write a page with plots instead: a file that ends in .html.")
@click.option("--generation", type=click.IntRange(1), metavar="N", help="Show the N-th start instead of the newest.")
def show_one(name: str, page: str | None, generation: int | None) -> None:
    """Show what an experiment says, and what to do.

    Days that are over are closed first. Only closed days count, and effects are shown only as far as the rule of the
    experiment allows.

    \b
    Example:
      trimtab experiment show checkout
      trimtab experiment show checkout --page checkout.html
    """
    from trimtab.experiments.reading.document import experiment_document
    from trimtab.report import terminal_text

    with opened_project() as project:
        if page is not None:
            file = project.experiment_page(name, to=page, generation=generation)
            show(Written(file=str(file)), [f"Written: {file}"])
            return
        reading = project.experiment_report(name, generation=generation)
    show(reading, [terminal_text(experiment_document(reading))])
