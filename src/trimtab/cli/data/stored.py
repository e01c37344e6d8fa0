"""The commands `materialise`, `rebuild` and `compact`, for stored events and online features."""

from __future__ import annotations

import click

from trimtab.cli.options import command, names, opened_project
from trimtab.cli.output import progress, show
from trimtab.cli.printed import Rebuilt
from trimtab.core.shown import count_of, format_bytes


@command("materialise", safe="What was copied is in the tables; run the same command again for the rest.")
def materialise() -> None:
    """Copy new events from the log to one Delta table per source.

    The log stays as it is. Training and requests about the past then read the tables first.

    \b
    Example:
      trimtab storage materialise
    """
    with opened_project() as project, progress("copying events to tables"):
        moved = project.materialise()
    show(moved, [f"{source}: {rows:,} new rows" for source, rows in moved.rows.items()])


@command("rebuild", safe="What was there before is kept; run the same command again.")
@click.argument("view", required=False, shell_complete=names("view"))
@click.option("--all", "every", is_flag=True, help="Rebuild all views, also damaged ones.")
def rebuild(view: str | None, every: bool) -> None:
    """Rebuild the online features of a view from history.

    Requests read the previous features until the new ones replace them in one step. If there is a serving process, it
    does the work, and this command waits for it.

    With --all and no serving process, all views are rebuilt from scratch, and damaged ones repaired. Until this is
    done, processes that have the project open read the previous features.

    \b
    Example:
      trimtab storage rebuild carrier
      trimtab storage rebuild --all
    """
    if every == (view is not None):
        raise click.UsageError("Name a view, or give --all.", click.get_current_context())
    what = view or "all views"
    with opened_project() as project, progress(f"rebuilding {what}") as meter:
        rows = project.views.rebuild_all(progress=meter) if view is None else project.rebuild(view, progress=meter)
    show(Rebuilt(view=view, records=rows), [f"{what}: rebuilt from {count_of(rows, 'record')}"])


@command("compact", safe="The space that was freed stays free. Run the command again to go on.")
@click.option("--largest", type=click.IntRange(0, 1_000), default=0, metavar="N", help="Show the N largest states too.")
def compact(largest: int) -> None:
    """Free the space of online features that no answer needs any more.

    No answer changes. A serving process does this by itself every hour; this command is then refused.

    \b
    Example:
      trimtab storage compact --largest 10
    """
    from trimtab.features.online.compaction import CompactedStates, largest_states

    with opened_project() as project, progress("compacting online features"):
        done = project.views.compact()
        states = largest_states(project.views.store, largest) if largest else []
    freed = f"{format_bytes(done.freed_bytes)} and {done.index_rows:,} index rows given back"
    summary = f"{done.states:,} states looked at, {done.shrunk:,} made smaller, {freed}"
    names = ["(a long name)" if one.entity is None else repr(one.entity) for one in states]
    lines = [f"{format_bytes(one.size_bytes):>10}  {one.view}  {n}" for one, n in zip(states, names, strict=True)]
    show(CompactedStates(compacted=done, largest=states), [summary, *lines])
