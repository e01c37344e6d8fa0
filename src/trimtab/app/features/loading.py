"""Load rows of any kind into the event log.

Invalid rows go to quarantine, where they can be tried again, and undeclared columns are reported.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import structs

from trimtab.app.features.source_counts import Appended, store_counts
from trimtab.app.system import System
from trimtab.core.errors import Misuse
from trimtab.events.definitions import Source
from trimtab.events.files.files import Rows, read_rows
from trimtab.events.ingest import Pushed
from trimtab.events.redelivered_rows import changed_columns, new_and_changed, redelivered
from trimtab.events.values.fitting import FileRows

_COMPARED = 1_000_000  # more accepted rows than this are not compared with recorded rows: `new`, `changed` are None


class Ingested(Pushed, frozen=True):
    """The number of rows loaded, and the differences between their columns and the columns of the source."""

    ignored: tuple[str, ...] = ()  # the undeclared columns of the rows, which are not kept
    not_final: int = 0  # rows that were left out because their values may not be final yet
    new: int | None = None  # how many accepted rows are new; None: not compared, because there are too many
    changed: int | None = None  # how many accepted rows change a recorded row; rows that are neither repeat one


def load_rows(
    system: System,
    source: str,
    given: Rows,
    *,
    history: bool,
    absent_ok: bool,
    progress: Callable[[int, int], object] | None,
) -> Ingested:
    """Load rows into the event log; see `Project.ingest`."""
    rows = read_rows(given, system.definitions.source(source), on_error="quarantine")
    if rows.absent and not absent_ok:
        extra = f" Columns that are not declared: {', '.join(rows.ignored)}." if rows.ignored else ""
        raise Misuse(
            f"ingest into {source!r}: the declared column{'s' * (len(rows.absent) > 1)} {', '.join(rows.absent)} "
            f"{'are' if len(rows.absent) > 1 else 'is'} missing.{extra} Add or rename columns, or let "
            "missing ones be null: --absent-as-null, in Python absent_ok=True."
        )
    rows, not_final = _final(system.definitions.source(source), rows, system.clock.now_us()) if history else (rows, 0)
    _refuse_again(system, source, rows, history)
    before = system.state.events.positions()
    pushed = system.ingestor.take(source, rows, history=history, progress=progress)
    new, changed = _new_and_changed(system, source, rows, before, pushed)
    only_new = pushed.accepted > 0 and new == pushed.accepted
    store_counts(system, _appended(system, source, rows, before, pushed) if only_new else None)
    return Ingested(
        accepted=pushed.accepted,
        quarantined=pushed.quarantined,
        partition=pushed.partition,
        position=pushed.position,
        problems=pushed.problems,
        ignored=rows.ignored,
        not_final=not_final,
        new=new,
        changed=changed,
        absent=rows.absent + tuple(name for name in pushed.absent if name not in rows.absent),
    )


def _appended(system: System, source: str, rows: FileRows, before: dict[str, int], pushed: Pushed) -> Appended | None:
    """Return which records the rows became; None if others were appended between them, or not all rows were taken."""
    first = before.get(pushed.partition, 0) + 1
    if not rows.columns.rows == pushed.accepted == pushed.position + 1 - first:
        return None
    times = rows.columns[system.definitions.source(source).time].values
    return Appended(pushed.partition, first, pushed.position, source, int(times.max()))


def _new_and_changed(
    system: System, source: str, rows: FileRows, before: dict[str, int], pushed: Pushed
) -> tuple[int, int] | tuple[None, None]:
    """Compare the accepted rows with the recorded ones, unless they are so many that it would take long."""
    if not pushed.accepted:
        return 0, 0
    declared, index = system.definitions.source(source), system.event_ids
    empty = not any(before.values()) and not system.state.moved([declared]).tables
    if empty and declared.key is not None and rows.columns.rows == pushed.accepted:
        keys = rows.columns[declared.key]
        if len(set(keys.values.tolist())) == pushed.accepted:  # nothing was recorded, and no key is there twice
            return pushed.accepted, 0
    if pushed.accepted > _COMPARED:
        return None, None
    return new_and_changed(declared, system.state.events, index, before, pushed.partition, pushed.position)


def _final(source: Source, rows: FileRows, now_us: int) -> tuple[FileRows, int]:
    """Leave out the rows whose time is less than the source's `delay` before that of the newest row. Count them.

    This is only done for a source with `only_final`. Rows that are dated in the future do not count as newest.

    The reason: the values of these rows may not have been final when the file was written. For example, a return is
    recorded when it happens, but "not returned" only weeks later, so the newest rows would hold too many returns.
    """
    if not source.reading.only_final:
        return rows, 0
    times = rows.columns[source.time]
    past = times.values[times.present() & (times.values <= now_us)]
    newest = int(past.max(initial=-(2**62)))  # times before 1970 are negative
    final = ~times.present() | (times.values + source.delay_us <= newest)
    left_out = int((~final).sum())
    kept = None if rows.kept is None else rows.kept[final]
    counted = None if rows.counted is None else rows.counted - left_out
    return structs.replace(rows, columns=rows.columns.take(final), kept=kept, counted=counted), left_out


def _refuse_again(system: System, source: str, rows: FileRows, history: bool) -> None:
    """Refuse recorded rows that would get new ids and count twice, because their source got or lost columns. # D34"""
    what = system.definitions.source(source)
    changed = changed_columns(what, rows)
    if not changed:
        return
    events = system.ingestor.events(source, rows.columns, history=history)
    again = redelivered(what, events, system.state.events, system.state.moved([what]))
    if again:
        added = changed[0] in what.declared
        then = "without" if added else "with"
        or_omit = f", or omit {', '.join(changed)} from the file (--absent-as-null)" if added else ""
        raise Misuse(
            f"ingest into {source!r}: {again:,} of {rows.columns.rows:,} rows are recorded already, {then} "
            f"{', '.join(changed)}. The source has no key, so these rows would count twice, for good. Nothing was "
            f"taken. Ingest only new rows{or_omit}; if the rows are other events, give them an `_id`."
        )
