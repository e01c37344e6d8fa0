"""The commands `init`, `doctor` and `version`."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import click
import msgspec

from trimtab.cli.exits import FAILED
from trimtab.cli.options import command, manner, project_folder
from trimtab.cli.output import progress, show, show_json, show_lines
from trimtab.core.errors import NotFound


@command("init", safe="No file was made.")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--csv", type=click.Path(path_type=Path), metavar="FILE", help="Another way to give FILE.")
@click.option("--time", metavar="COLUMN", help="When a row happened, or the time of its request.")
@click.option("--key", metavar="COLUMN,...", help="What identifies a row, or its entity; `row`: all columns.")
@click.option("--entity", multiple=True, metavar="COLUMN", help="Whom or what rows are about; its past gives features.")
@click.option("--label", metavar="COLUMN", help="What to predict: classes, or a number.")
@click.option("--positive", metavar="VALUE", help="The label's value that counts as 1.")
@click.option("--known-at", metavar="COLUMN", help="When the label became known; `none`: no column says it.")
@click.option("--wait", metavar="DURATION", help="How long a label takes to be known (default: as the file shows).")
@click.option(
    "--time-format",
    "time_formats",
    multiple=True,
    metavar="[COLUMN=]FORMAT",
    help='How a time is written, such as "%d/%m/%Y %H:%M".',
)
@click.option("--number", multiple=True, metavar="COLUMN=EXAMPLE", help='How 1234.56 is written: "price=1.234,56 €".')
@click.option("--nulls", metavar="WORD,...", help="The words for null (default: as the file shows).")
@click.option("--category", multiple=True, metavar="COLUMN", help="Numbers that are names, such as postal codes.")
@click.option("--merge", multiple=True, metavar="COLUMN", help="Merge spellings that differ in case or spaces only.")
@click.option("--horizon", metavar="DURATION", help="For a series: how long before its time a row is predicted.")
@click.option("--known-ahead", multiple=True, metavar="COLUMN", help="A column that is known when a row is predicted.")
@click.option("--omit", multiple=True, metavar="COLUMN", help="A column that is no feature.")
@click.option("--allow-leakage", multiple=True, metavar="COLUMN", help="A feature that looks like a leak, but is none.")
@click.option(
    "--estimator",
    type=click.Choice(["auto", "linear", "trees"]),
    default="auto",
    show_default=True,
    help="linear: scikit-learn; trees: LightGBM; auto: the one with the lower loss on the newest rows.",
)
@click.option("--run", is_flag=True, help="Also load the file, train, answer one row, and tick the loop once.")
@click.option("--folder", type=click.Path(path_type=Path), help="The new folder (default: named after the file).")
def init(
    file: Path | None,
    csv: Path | None,
    folder: Path | None,
    run: bool,
    time_formats: tuple[str, ...],
    **given: str | tuple[str, ...] | None,
) -> int:
    """Make a project from one CSV or Parquet file.

    Shows what is in the file, then what was assumed, each assumption with the option that changes it. If something
    cannot be guessed, an error names the option to give. The file stays as it is. The project reads it, and later files
    like it, by declared rules. No file is ever overwritten.

    With --run, the commands that load the file, train and answer a row are also run, and then `trimtab tick`, up to the
    first that fails. Exit status 1: one failed.

    \b
    Example:
      trimtab init churn.csv --time signed_up --key customer_id --label churned
      trimtab init churn.csv --run
    """
    from trimtab.app.start.init.file.profile import profile_lines
    from trimtab.app.start.init.options import Options
    from trimtab.app.start.init.plan import plan_lines
    from trimtab.app.start.init.scaffold import scaffold

    data = file if csv is None else csv
    if data is None or (file is not None and csv is not None):
        raise click.UsageError("Missing argument 'FILE'." if data is None else "Give either FILE or --csv FILE.")
    options = msgspec.convert({**given, "time_format": time_formats}, Options)
    plain = not manner().json
    if run and not plain:
        raise click.UsageError("--run prints what its commands print, and no JSON: leave --run or --json out.")
    with progress(f"reading {data.name}"):
        made = scaffold(
            data,
            folder,
            options,
            lambda found: show_lines([f"{data.name}: {profile_lines(found)[0]}", *profile_lines(found)[1:]] * plain),
            lambda planned: show_lines(plan_lines(planned) * plain),
        )
    if not plain:
        show_json(made)
        return 0
    show_lines([f"Made {made.folder}: {', '.join(made.files)}"])
    *first, serve = made.commands
    if run and not _run([*first, "trimtab tick"], made.folder):
        return FAILED
    show_lines(["", "Next:"])
    steps = [] if made.folder.absolute() == Path.cwd() else [f"cd {shlex.quote(str(made.folder))}"]
    steps += [] if run else first
    show_lines(f"  {step}" for step in [*steps, "trimtab simulate", serve])
    return 0


def _run(commands: Sequence[str], folder: Path) -> bool:
    """Run commands of trimtab in a folder, each in a process of its own. Return whether all succeeded."""
    for text in commands:
        show_lines(["", f"$ {text}"])
        sys.stdout.flush()
        status = subprocess.run([sys.executable, "-m", "trimtab.cli", *shlex.split(text)[1:]], cwd=folder).returncode
        if status:
            show_lines(["", f"Stopped: `{text}` ended with status {status}. The project is in {folder}."])
            return False
    return True


@command("doctor")
def doctor() -> int:
    """Check this machine and the project, and say how to fix what is missing.

    Exit status 1: something that is needed is missing.

    \b
    Example:
      trimtab doctor
    """
    from trimtab.app.inspect.doctor import examine, missing

    try:
        folder: Path | None = project_folder()
    except NotFound:
        folder = None  # without a project, only the machine is checked
    with progress("checking"):
        findings = examine(folder, os.environ)
    ill = missing(findings)
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:10}{finding.name:{width}}  {finding.found}")
        if finding.fix and finding.state != "ok":
            lines.append(f"{'':10}{'':{width}}  -> {finding.fix}")
    if folder is None:
        lines.append("No project here: only the machine was checked.")
    warnings = sum(finding.state == "warning" for finding in findings)
    also = f"; warnings: {warnings}" if warnings else ""
    show(findings, [*lines, f"{len(ill)} missing{also}." if ill else f"Nothing is missing{also}."])
    return FAILED if ill else 0


@command("version")
def version() -> None:
    """Show the versions of trimtab and its dependencies.

    \b
    Example:
      trimtab --version
    """
    import platform
    import sqlite3

    import trimtab

    found = {
        "trimtab": trimtab.__version__,
        "Python": platform.python_version(),
        **{name: _version(name) for name in ("numpy", "duckdb", "lmdb", "deltalake", "scikit-learn")},
        "SQLite": sqlite3.sqlite_version,
        "platform": platform.platform(),
    }
    width = max(map(len, found))
    show(found, (f"{name:{width}}  {text}" for name, text in found.items()))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
