"""The commands `join` and `snapshot`, which compute features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from trimtab.cli.options import command, names, opened_project, time_given
from trimtab.cli.output import progress, show
from trimtab.core.shown import count_of

if TYPE_CHECKING:
    from trimtab.app.features.feature_tables import FeatureFile

_SAFE = "Nothing was written, but finished parts are kept: run the same command again to go on."

_OUT = click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The file to write: .parquet or .csv."
)
_FINAL = click.option(
    "--as-known",
    type=click.Choice(["then", "final"]),
    default="then",
    show_default=True,
    help="then: from what was known at each time; final: from what is known now.",
)
_REASONS = click.option(
    "--reasons",
    is_flag=True,
    help="For each feature of a view, and each expression that may fail, add a column: why its value is null.",
)
_EVENTS = click.option(
    "--events",
    multiple=True,
    metavar="SOURCE=PATH",
    help="A Parquet file or folder to use in place of a source's history; may be repeated.",
)


@command("join", safe=_SAFE)
@click.argument("requests", type=click.Path(path_type=Path))
@click.option(
    "--model",
    metavar="NAME",
    shell_complete=names("model"),
    help="The features of this model (default: the project's only one).",
)
@click.option(
    "--view",
    "views",
    multiple=True,
    metavar="NAME",
    shell_complete=names("view"),
    help="The features of this view; may be repeated.",
)
@click.option("--at", metavar="TIME", help="The column of times, or one ISO 8601 time (default: the request's).")
@_FINAL
@_REASONS
@_EVENTS
@_OUT
def join(requests: Path, model: str | None, views: tuple[str, ...], events: tuple[str, ...], **given: Any) -> None:
    """Add features to a file of requests, each as of its own time.

    REQUESTS is .parquet or .csv. The result has the same rows in the same order: the columns of REQUESTS and then the
    features. Data that do not fit into memory are processed in parts. The same command resumes a stopped run.

    \b
    Example:
      trimtab features join flights.parquet --model late_flight --out features.parquet
      trimtab features join customers.csv --view spending --at asked_at --out features.csv
    """
    if model is not None and views:
        raise click.UsageError("Give either --model or --view.")
    chosen: Any = list(views) or model
    with opened_project() as project, progress(f"joining {requests.name}") as meter:
        made = project.join(requests, chosen, events=_named(events), progress=meter, **given)
    _show(cast("FeatureFile", made))


@command("snapshot", safe=_SAFE)
@click.argument("views", nargs=-1, required=True, metavar="VIEW...", shell_complete=names("view"))
@click.option("--at", metavar="TIME", help="The time, ISO 8601 (default: now).")
@click.option("--start", metavar="TIME", help="The first of several times; with --end and --every.")
@click.option("--end", metavar="TIME", help="The end of several times, exclusive.")
@click.option("--every", metavar="DURATION", help='The step from one time to the next, such as "1d".')
@_FINAL
@_REASONS
@_EVENTS
@_OUT
def snapshot(
    views: tuple[str, ...],
    at: str | None,
    start: str | None,
    end: str | None,
    every: str | None,
    events: tuple[str, ...],
    **given: Any,
) -> None:
    """Write the features of every entity that is known at a time, or at several times.

    \b
    Example:
      trimtab features snapshot carrier --at 2013-06-01 --out carriers.parquet
      trimtab features snapshot carrier --start 2013-01-01 --end 2014-01-01 --every 7d --out weekly.parquet
    """
    ranged = [start, end, every]
    if any(ranged) and (not all(ranged) or at is not None):
        raise click.UsageError("Give either --at, or all of --start, --end and --every.")
    for option, time in (("--at", at), ("--start", start), ("--end", end)):
        time_given(option, time)
    with opened_project() as project, progress(f"snapshot of {', '.join(views)}") as meter:
        given |= {"events": _named(events), "progress": meter}
        if start is not None and end is not None and every is not None:
            made = project.snapshots(list(views), start=start, end=end, every=every, **given)
        else:
            made = project.snapshot(list(views), at=at, **given)
    _show(cast("FeatureFile", made))


def _named(events: Sequence[str]) -> dict[str, str]:
    out = {}
    for text in events:
        source, equals, path = text.partition("=")
        if not equals or not source or not path:
            raise click.UsageError(f"--events {text}: write SOURCE=PATH.")
        out[source] = path
    return out


def _show(made: FeatureFile) -> None:
    parts = f", events in {made.parts} parts" if made.parts > 1 else ""
    lines = [
        f"{count_of(made.rows, 'row')} with {count_of(len(made.features), 'feature')} written to {made.path}{parts}"
    ]
    changed = {name: count for name, count in made.let_in.items() if count}
    lines += [f"  {name}: {count_of(count, 'value')} not known then" for name, count in changed.items()]
    if made.let_in and not changed:
        lines.append("  every value was known then")
    show(made, lines)
