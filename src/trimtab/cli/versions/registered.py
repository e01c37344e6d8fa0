"""The commands `versions list`, `versions tag`, `versions protect` and `storage gc`, for all registered versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from trimtab.cli.options import account, command, names, opened_project
from trimtab.cli.output import progress, show, show_each
from trimtab.core.shown import count_of, format_bytes
from trimtab.core.time import format_time

if TYPE_CHECKING:
    from trimtab.registry.collecting.collector import Collection
    from trimtab.registry.searching import Found

_MOST_REASONS = 3  # of the reasons to keep a version, a dry run prints at most this many
_SHOWN = 12  # ids are shown with this many digits


@command("list")
@click.argument("model", required=False, shell_complete=names("model"))
@click.option(
    "--search", metavar="TEXT", help="Only versions with TEXT in name, address, tags, notes, aliases or inputs."
)
@click.option("--tag", metavar="TAG", help="Only versions with this tag.")
@click.option("--metric", metavar="BOUND", help='Only versions with this metric, or within a bound: "auc>0.8".')
@click.option("--feature", metavar="NAME", help="Only versions that read this feature, or a feature of this view.")
@click.option(
    "--source", metavar="NAME", shell_complete=names("source"), help="Only versions whose features read this source."
)
def versions(model: str | None, **wanted: Any) -> None:
    """List or search the registered versions of models.

    \b
    Example:
      trimtab versions list late_flight --tag approved --metric "log_loss<0.4"
    """
    if model is not None and "@" in model:
        raise click.UsageError(
            f"{model} is a single version; `list` takes the name of a model. Show it: trimtab versions show {model}"
        )
    with opened_project() as project:
        found = project.versions(model, **wanted)
        models = project.registry.models()
        named = "" if model is None or models else f" {project.definitions.deployment(model).name}"
    from trimtab.report.tables import text_table

    lines = [f"No version yet. Train: trimtab train{named}"]
    if found:
        headers = ["version", "address", "made", "metric", "aliases", "tags", ""]
        lines = [text_table(headers, [_row(one) for one in found]), *_notes(found)]
    elif models:
        lines = [f"No version matches. There are versions of {', '.join(models)}."]
    show_each(found, lines)


@command("tag")
@click.argument("version", shell_complete=names("version"))
@click.argument("tags", nargs=-1, metavar="TAG...")
@click.option("--note", metavar="TEXT", help="A remark, kept with its author and time.")
def tag(version: str, tags: tuple[str, ...], note: str | None) -> None:
    """Give a version tags, or a note.

    Tags are never removed. Neither tags nor notes change the version's address.

    \b
    Example:
      trimtab versions tag late_flight@7 approved region:eu --note "Looked at the slices by hand."
    """
    if not tags and note is None:
        raise click.UsageError("give at least one TAG, or --note")
    with opened_project() as project:
        found = project.registry.get(version)
        project.registry.tag(found, *tags, note=note, actor=account())
        now = project.registry.tags(found)
    show(now, [f"{found.name}: {', '.join(one.tag for one in now) or 'no tags'}"])


@command("protect")
@click.argument("model", shell_complete=names("model"))
@click.argument("alias", shell_complete=names("alias"))
@click.option("--needs", required=True, type=click.Choice(["gate", "reason", "nothing"]), help="What a move needs.")
@click.option("--why", required=True, metavar="TEXT", help="The reason, for the alias's history.")
def protect(model: str, alias: str, needs: Any, why: str) -> None:
    """Say what a move of an alias needs: a gate record, a reason, or nothing.

    The rule applies at once to all processes, in addition to [registry.protected] in trimtab.toml. Rolling back is
    always allowed. The alias champion always needs a gate record, and cannot be given.

    \b
    Example:
      trimtab versions protect late_flight canary --needs gate --why "five percent of all users see it"
    """
    with opened_project() as project:
        made = project.registry.protect(model, alias, needs, why=why, actor=account())
    show(made, [f"{model}@{alias}: a move needs {needs} from now on"])


@command("gc", safe="What was removed is recorded; run the same command again for the rest.")
@click.option("--dry-run", is_flag=True, help="Change nothing; show what would be removed, and why the rest stays.")
@click.option("--grace", default="7d", show_default=True, metavar="DURATION", help="Keep everything newer than this.")
@click.option(
    "--rollbacks",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Keep this many moves of an alias reversible.",
)
@click.option("--evidence", metavar="DURATION", help="Ignore gate records and ledger rows older than this.")
@click.option(
    "--searches",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    metavar="N",
    help="Keep each model's newest N searches.",
)
@click.option(
    "--why",
    default="nothing needs it any more",
    show_default=True,
    help="The reason, shown when a removed version is loaded later.",
)
def gc(dry_run: bool, **limits: Any) -> None:
    """Remove unneeded searches, results of steps, and artifacts of versions.

    Records of versions stay, so questions about the past can be answered. Kept are: everything new; versions to which
    an alias points or can be rolled back; and versions that a gate record, a ledger row or a logged prediction names.
    Every version that the loop trained has a gate record, so it is kept unless --evidence is given. A dry run shows
    what keeps each version.

    The newest searches are kept, and those that chose a version's parameters. Results of steps are removed if their
    training did not succeed, and ended more than --grace ago (at least a day).

    \b
    Example:
      trimtab storage gc --dry-run --evidence 365d
    """
    with opened_project() as project, progress("looking at versions"):
        done = project.collect(dry_run=dry_run, **limits, actor=account())
    show(done, _collected(done, dry_run))


def _row(found: Found) -> list[str]:
    version = found.version
    value = found.metric if found.value is None else f"{found.metric} {found.value:.4g}"
    made = format_time(version.made_at_us)[:16].replace("T", " ")
    gone = "removed" if found.removed else ""
    return [version.name, version.id[:_SHOWN], made, value, ", ".join(found.aliases), ", ".join(found.tags), gone]


def _notes(found: list[Found]) -> Iterator[str]:
    for one in found:
        for note in one.notes:
            yield f"{one.version.name}: {note.text} ({note.actor})"


def _collected(done: Collection, dry_run: bool) -> Iterator[str]:
    for kept in done.kept:
        told = kept.why[: _MOST_REASONS if dry_run else 1]
        more = f" (and {count_of(len(kept.why) - len(told), 'more reason')})" if len(kept.why) > len(told) else ""
        yield f"stays  {kept.name:<24} {format_bytes(kept.size_bytes):>10}  {'; '.join(told)}{more}"
        if dry_run:
            yield f"       it could be removed with: {', '.join(kept.frees)}"
    word, said = ("would remove", "removing") if dry_run else ("removed", "removed")
    for going in done.going:
        yield f"{word}  {going.name}  {format_bytes(going.size_bytes)} in {count_of(len(going.blobs), 'blob')}"
    for orphan in done.orphans:
        stored = f"{format_bytes(orphan.size_bytes)}, stored {format_time(orphan.put_at_us)[:16]}"
        yield f"{word}  blob {orphan.digest[:_SHOWN]}  {stored}: nothing names it"
    for one in done.forgotten:
        what = "search" if one.what == "search" else "result of step"
        yield f"{word}  {what} {one.name[: one.name.index('/') + 1 + _SHOWN]}, of {format_time(one.at_us)[:16]}"
    if done.unfinished_bytes:
        yield f"{word}  {format_bytes(done.unfinished_bytes)} of unfinished files of killed processes"
    yield (
        f"{count_of(len(done.kept), 'version')} stay{'s' * (len(done.kept) == 1)}; {said} "
        f"{count_of(len(done.going), 'version')} and {count_of(len(done.orphans), 'blob')} that nothing names: "
        f"{format_bytes(done.size_bytes)}{' would be free' if dry_run else ' freed'}"
    )
