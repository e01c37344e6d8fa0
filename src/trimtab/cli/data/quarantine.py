"""The commands `quarantine list`, `quarantine replay` and `quarantine drop`, for rows that could not become events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import click

from trimtab.cli.options import command, names, opened_project
from trimtab.cli.output import progress, show
from trimtab.cli.printed import Dropped
from trimtab.core.shown import count_of
from trimtab.core.time import format_time
from trimtab.events.quarantine import Example, SetAside, check_reason

_LONGEST = 160  # rows are shown with at most this many characters


_SAFE = "Rows that were taken or dropped are done; run the same command again for the rest."
_SOURCE = click.argument("source", required=False, shell_complete=names("source"))
_REASON = click.option("--reason", metavar="REASON", help="Only rows with this reason.")


@command("list")
@_SOURCE
@_REASON
def list_(source: str | None, reason: str | None) -> None:
    """Show the rows that could not become events: their number, reasons and examples.

    Each row is kept as it came, with its reason.

    \b
    Example:
      trimtab quarantine list landings
    """
    check_reason(reason)
    with opened_project() as project:
        found = [group for group in project.quarantined(source) if reason in (None, group.reason)]
        declared = {name: one.declared for name, one in project.definitions.sources.items()}
    show(found, _shown(found, declared) or ["Nothing is in quarantine."])


@command("replay", safe=_SAFE)
@_SOURCE
@_REASON
def replay(source: str | None, reason: str | None) -> None:
    """Try quarantined rows again, for example after a fix of project.py. Rows that fail again stay in quarantine.

    \b
    Example:
      trimtab quarantine replay landings
    """
    with opened_project() as project, progress("trying rows again"):
        done = project.replay_quarantine(source, reason=reason)
    show(done, [f"{count_of(done.accepted, 'row')} taken, {done.quarantined:,} do not fit and stay in quarantine"])


@command("drop", safe=_SAFE)
@_SOURCE
@_REASON
@click.option("--yes", is_flag=True, help="Drop the rows: this cannot be undone.")
def drop(source: str | None, reason: str | None, yes: bool) -> None:
    """Delete quarantined rows for good.

    \b
    Example:
      trimtab quarantine drop landings --reason bad_time --yes
    """
    check_reason(reason)
    with opened_project() as project:
        rows = sum(group.rows for group in project.quarantined(source) if reason in (None, group.reason))
        if rows and not yes:
            raise click.UsageError(f"{count_of(rows, 'row')} would be dropped for good. Add --yes.")
        rows = project.drop_quarantined(source, reason=reason)
    show(Dropped(dropped=rows), [f"{count_of(rows, 'row')} dropped"])


def _shown(groups: Sequence[SetAside], declared: Mapping[str, Mapping[str, str]]) -> list[str]:

    lines = []
    for group in groups:
        fields = ", ".join(f"{name} ({rows:,})" for name, rows in group.fields.items() if name)
        since, newest = format_time(group.since_us)[:19], format_time(group.newest_us)[:19]
        lines.append(
            f"{group.source}  {group.reason}: {count_of(group.rows, 'row')}{fields and ', at fault: '}{fields}"
        )
        lines.append(f"  set aside from {since} to {newest}")
        lines += [f"  {_cut(_example(example, declared.get(group.source, {})))}" for example in group.examples]
    return lines


def _example(example: Example, dtypes: Mapping[str, str]) -> str:
    """Return a quarantined row as text: first the faulty value, and then the other values."""
    from trimtab.events.values.checks import LAST_OF_OTHER_UNITS_US

    row = {
        name: format_time(value)
        if dtypes.get(name) == "time" and isinstance(value, int) and value > LAST_OF_OTHER_UNITS_US
        else value
        for name, value in example.row.items()
    }
    if "_line" in row:
        return f"line {row['_line_number']}{f' of {file}' if (file := row.get('_file')) else ''}: {row['_line']}"
    said = json.dumps(row, ensure_ascii=False)
    if example.field not in row:
        return f"no {example.field}  {said}"
    return f"{example.field} = {_cut(json.dumps(row[example.field], ensure_ascii=False), _LONGEST // 2)}  {said}"


def _cut(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
