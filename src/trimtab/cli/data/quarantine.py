"""The command `quarantine`, for rows that could not become events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from trimtab.cli.options import command, opened_project, refuse_given
from trimtab.cli.output import progress, show

if TYPE_CHECKING:
    from trimtab.events.quarantine import Example, SetAside

_ACTIONS = ("show", "replay", "drop")
_LONGEST = 160  # rows are shown with at most this many characters


@command("quarantine", safe="Rows that were given back or dropped stay so; run the same command again for the rest.")
@click.argument("words", nargs=-1, metavar="[show|replay|drop] [SOURCE]")
@click.option("--reason", metavar="REASON", help="Only rows with this reason.")
@click.option("--yes", is_flag=True, help="Drop the rows: this cannot be undone.")
def quarantine(words: tuple[str, ...], reason: str | None, yes: bool) -> None:
    """Show the rows that could not become events, try them again, or drop them.

    Each is kept as it came, with its reason. After a fix, for example in project.py, replay tries them again; those
    that fail again stay.

    \b
    Example:
      trimtab quarantine                          counts, reasons, examples
      trimtab quarantine replay landings
      trimtab quarantine drop landings --reason bad_time --yes
    """
    action, *rest = words if words and words[0] in _ACTIONS else ("show", *words)
    if len(rest) > 1:
        raise click.UsageError(f"found {' '.join(words)!r}, needed is [show|replay|drop] [SOURCE].")
    if action != "drop":
        refuse_given("is for: trimtab quarantine drop", "yes")
    source = rest[0] if rest else None
    if action == "replay":
        _replay(source, reason)
    elif action == "drop":
        _drop(source, reason, yes)
    else:
        _show(source, reason)


def _show(source: str | None, reason: str | None) -> None:
    from trimtab.events.quarantine import check_reason

    check_reason(reason)
    with opened_project() as project:
        found = [group for group in project.quarantined(source) if reason in (None, group.reason)]
    show(found, _shown(found) or ["Nothing is in quarantine."])


def _shown(groups: Sequence[SetAside]) -> list[str]:
    from trimtab.core.time import format_time

    lines = []
    for group in groups:
        fields = ", ".join(f"{name} ({rows:,})" for name, rows in group.fields.items())
        since, newest = format_time(group.since_us)[:19], format_time(group.newest_us)[:19]
        lines.append(f"{group.source}  {group.reason}: {group.rows:,} row{'s' * (group.rows != 1)}, at fault: {fields}")
        lines.append(f"  set aside from {since} to {newest}")
        lines += [f"  {_cut(_example(example))}" for example in group.examples]
    return lines


def _example(example: Example) -> str:
    """Return a quarantined row as text: first the faulty value, and then the other values."""
    row = example.row
    if "_line" in row:
        return f"line {row['_line_number']}{f' of {file}' if (file := row.get('_file')) else ''}: {row['_line']}"
    said = json.dumps(row, ensure_ascii=False)
    if example.field not in row:
        return f"no {example.field}  {said}"
    return f"{example.field} = {_cut(json.dumps(row[example.field], ensure_ascii=False), _LONGEST // 2)}  {said}"


def _cut(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _replay(source: str | None, reason: str | None) -> None:
    with opened_project() as project, progress("giving rows back"):
        done = project.replay_quarantine(source, reason=reason)
    show(done, [f"{done.accepted:,} rows taken, {done.quarantined:,} do not fit and stay in quarantine"])


def _drop(source: str | None, reason: str | None, yes: bool) -> None:
    from trimtab.events.quarantine import check_reason

    check_reason(reason)
    with opened_project() as project:
        rows = sum(group.rows for group in project.quarantined(source) if reason in (None, group.reason))
        if rows and not yes:
            raise click.UsageError(f"{rows:,} rows would be dropped, and could not be had back. Add --yes.")
        rows = project.drop_quarantined(source, reason=reason)
    show({"dropped": rows}, [f"{rows:,} rows dropped"])
