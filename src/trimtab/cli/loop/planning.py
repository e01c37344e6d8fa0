"""The commands `plan`, `apply`, `features list` and `features show`, for the definitions of a project."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from typing import TYPE_CHECKING

import click

from trimtab.cli.exits import FAILED, printable
from trimtab.cli.options import account, command, names, opened_project
from trimtab.cli.output import progress, show, show_lines
from trimtab.core.errors import Misuse, NotFound

if TYPE_CHECKING:
    from trimtab.app import Project
    from trimtab.app.features.feature_catalogue import Catalogue, Entry


@command("plan")
def plan() -> int:
    """Compare the project file with the applied definitions, and show the consequences.

    It lists new, changed (field by field) and removed definitions, the views to fill and the number of their events,
    what happens to the versions in service, what is dropped, and what is dangerous. Nothing is changed. Exit status 0:
    there is nothing to apply; 1: there is something.

    \b
    Example:
      trimtab plan
    """
    with opened_project() as project, progress("comparing"):
        found = project.plan()
    show(found, found.lines())
    return 0 if found.is_empty else FAILED


@command("apply", safe="Run `trimtab apply` again, to finish what was begun. Until then, services answer as before.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def apply(yes: bool) -> None:
    """Apply the project file: fill new views, drop unused ones.

    Versions in service keep the definitions of their training, until a version that was trained with the new
    definitions is promoted.

    \b
    Example:
      trimtab apply --yes
    """
    with opened_project() as project:
        found = project.plan()
        if not found.is_empty and not found.refused and not yes:
            if not sys.stdin.isatty():
                raise Misuse("apply: no terminal to ask at. Look at `trimtab plan`, then: trimtab apply --yes")
            show_lines(found.lines())
            click.confirm("Apply this?", abort=True, err=True)
        with progress("filling views") as meter:
            done = project.apply(actor=account(), progress=meter)
    show(done, done.lines())


@command("list")
@click.option("--search", metavar="TEXT", help="Only what has TEXT in its name, description, tags, owner or columns.")
def features(search: str | None) -> None:
    """List sources, views and features: meaning, freshness, values, use.

    \b
    Example:
      trimtab features list
      trimtab features list --search delay
    """
    with opened_project() as project, progress("looking at values"):
        found = project.catalogue(search=search)
    show(found, found.lines())


@command("show")
@click.argument("name", shell_complete=names("source", "view", "request"))
def feature(name: str) -> None:
    """Show a source, an entity, a view or a feature in full.

    NAME names a source, an entity, a view such as carrier, or a feature such as carrier.late_rate_7d.

    \b
    Example:
      trimtab features show carrier.late_rate_7d
    """
    with opened_project() as project, progress("looking at values"):
        one = _one(project.catalogue(), name)
    show(one, one.lines())


def _one(found: Catalogue, name: str) -> Entry:
    """Return the entry with a name. If there is none, the error suggests similar names."""
    try:
        return found.find(name)
    except NotFound:
        names = [one.name for one in found.entries]
        near = [one for one in names if name.casefold() in one.casefold()]
        near = list(dict.fromkeys(get_close_matches(name, names, 5, 0.5) + near))[:8]
        said = f"Did you mean {', '.join(near)}?" if near else "See all: trimtab features"
        raise NotFound(f"features: no {name!r} among {len(names):,} names. {said}") from None


def say_first(project: Project) -> None:
    """Apply the definitions if none have been applied yet, and print a line about it."""
    first = project.apply_first()
    if first is not None:
        print(printable(f"trimtab: {first.cause}"), file=sys.stderr)
