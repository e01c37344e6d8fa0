"""The commands `disk`, `prune`, `backup`, `restore` and `recover` below `storage`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from trimtab.cli.options import account, command, manner, opened_project, project_config
from trimtab.cli.output import progress, show, show_lines
from trimtab.core.errors import Misuse


@command("disk")
def disk() -> None:
    """Show the disk usage of each part of the state, and the budget.

    It also shows what the next `trimtab storage prune` would free, and how fast the state grows.

    \b
    Example:
      trimtab storage disk
    """
    with opened_project() as project, progress("measuring"):
        found = project.disk()
    show(found, found.lines())


@command("prune", safe="Nothing is lost; run the same command again for the rest.")
@click.option("--dry-run", is_flag=True, help="Change nothing; show roughly what would be done.")
def prune(dry_run: bool) -> None:
    """Truncate the log, and remove data past its retention.

    Events are moved to the tables of record first, so only data past a limit of [retention] in trimtab.toml are
    removed. If [retention] has a limit, a running `trimtab serve` does this once a day.

    \b
    Example:
      trimtab storage prune --dry-run
    """
    with opened_project() as project, progress("pruning"):
        done = project.retain(dry_run=dry_run)
    show(done, done.lines())


@command("backup", safe="No incomplete backup was left.")
@click.argument("to", metavar="DEST", type=click.Path(path_type=Path))
def backup(to: Path) -> None:
    """Copy the project's state to a new folder, while it is served and written to.

    DEST must not exist. It appears when the backup is complete.

    \b
    Example:
      trimtab storage backup /backups/flights-2026-03-01
    """
    with opened_project() as project, progress(f"backing up to {to}"):
        made = project.backup(to)
    show(made, [f"{to}: complete", *made.lines()])


@command("restore", safe="The state is as it was before.")
@click.argument("backup", metavar="BACKUP", type=click.Path(path_type=Path))
@click.option("--into", type=click.Path(path_type=Path), help="The state folder to make (default: the project's).")
@click.option("--force", is_flag=True, help="Replace the state that is there.")
def restore(backup: Path, into: Path | None, force: bool) -> None:
    """Restore a backup's state, after comparing every file's checksum.

    \b
    Example:
      trimtab storage restore /backups/flights-2026-03-01 --force
    """
    folder = project_config().state_folder if into is None else into
    from trimtab.app.keep.backup import read_manifest, undone_erasures
    from trimtab.app.keep.backup import restore as bring_back

    with progress(f"restoring {backup}") as meter:
        undone = undone_erasures(folder, read_manifest(backup.absolute()).made_at)
        made = bring_back(backup, folder, force=force, progress=meter)
        manner().safe = "The backup was restored."
    show(made, [f"{folder}: restored", *made.lines(), f"What was written after {made.made_at[:19]} is gone."])
    show_lines(undone, err=True)


@command("recover", safe="No more was lost; run the same command again to finish.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Change nothing; say what is lost and what would be done.")
def recover(yes: bool, dry_run: bool) -> None:
    """Go on after records were lost, or stamped by a clock that was ahead.

    It shows which positions of which log are lost and what had read them, and lets the log continue after them. Append
    times in the future are replaced by the current time, and online features are rebuilt. Stop the service first. If
    you can still find the lost files or a newer backup, restore these instead.

    \b
    Example:
      trimtab storage recover --dry-run
      trimtab storage recover --yes
    """
    with opened_project() as project:
        found = project.recover(dry_run=True, actor=account())
        if not (found.is_empty or dry_run):
            if not yes:
                if not sys.stdin.isatty():
                    raise Misuse(
                        "recover: no terminal to ask at. Look at `trimtab storage recover --dry-run`, then add --yes."
                    )
                show_lines(found.lines())
                click.confirm("Go on without what is lost?", abort=True, err=True)
            with progress("recovering"):
                found = project.recover(actor=account())
    show(found, found.lines())
