"""Copy the event log to tables, truncate it, and remove data past its retention (`trimtab storage prune`). # D23

The process may be killed at any point without harm. Records are in a table before the log loses them, removals are
recorded before they happen, and each step may be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from trimtab.app.features.materialising import SPARED_H, copy_to_tables
from trimtab.app.features.source_counts import discard_counts, store_counts
from trimtab.app.keep.disk_usage import Taken, log_growth, over_budget, record_bytes, taken
from trimtab.app.state.lease import Lease
from trimtab.app.state.retention_needs import lifetime_features, newest_features, source_needs, views_in_use
from trimtab.app.state.state import KEPT, kept_from, note_kept_from, truncation, truncation_put
from trimtab.app.system import System
from trimtab.core.errors import Conflict
from trimtab.core.shown import Shown, count_of, format_bytes
from trimtab.core.time import DAY_US, format_duration, format_time
from trimtab.events.expiry import expired
from trimtab.events.records import ERASED, decode_all
from trimtab.experiments.days import needed_from_us
from trimtab.features.online.generations import FILLING, id_of
from trimtab.store.log_places import begin_of, positions_before
from trimtab.store.ports import Catalog, Log, Prunable, Put, Table, read_record

LEASE = "retention"
_BATCH = 10_000
_FILES = 32  # a table with more files is compacted
_LEARNT_WAITS = 2  # a learner reads predictions that are up to this many label waits old
_IN_TABLE = 0.3  # an event in a table takes about this share of its bytes in the log


class Retained(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The result of `trimtab storage prune` or, with `dry_run`, an estimate of it."""

    at: str
    dry_run: bool
    truncated: dict[str, int]  # the number of records removed from each partition of the event log; tables have them
    expired: dict[str, int]  # the number of removed events by source
    predictions: int
    quarantined: int
    freed_bytes: int
    size_bytes: int  # the size of the state folder afterwards; in a dry run, its size now
    budget_bytes: int | None
    growth_bytes: dict[str, float]  # the growth of each log in bytes a day before it was truncated; dry run: empty
    notes: list[str]  # what was kept and why, and which features are affected
    red: list[str]

    def lines(self) -> list[str]:
        """The result as lines of text."""
        truncated, removed = ("would truncate", "would remove") if self.dry_run else ("truncated", "removed")
        records = count_of(sum(self.truncated.values()), "record")
        out = [f"{truncated} {records} of the event log, which are in tables of record"]
        out += [f"{removed} {count_of(rows, 'event')} of {source}" for source, rows in self.expired.items() if rows]
        out += [f"{removed} {count_of(self.predictions, 'prediction')}"] if self.predictions else []
        out += [f"{removed} {count_of(self.quarantined, 'quarantined row')}"] if self.quarantined else []
        of = "" if self.budget_bytes is None else f" of a budget of {format_bytes(self.budget_bytes)}"
        room = f"{'would free about' if self.dry_run else 'freed'} {format_bytes(self.freed_bytes)}"
        if self.freed_bytes < 0:
            room = f"took {format_bytes(-self.freed_bytes)} more, because online features or tables were filled"
        out.append(f"{room}; {format_bytes(self.size_bytes)}{of} are taken")
        return out + self.notes + [f"RED  {line}" for line in self.red]


def retain(system: System, *, dry_run: bool = False) -> Retained:
    """Apply the retention settings; see `Project.retain`."""
    if dry_run:
        return plan_retention(system)
    otherwise = f"{system.state.folder}: another process runs retention or a backup. Try again when it is done."
    with Lease(system.state.catalog, LEASE, system.state.folder).taken(otherwise):
        return _retain(system)


def retain_when_due(system: System) -> Retained | None:
    """Apply the retention settings if they are set and were not applied in the last day.

    The result is None if nothing was due, or if another process does it.
    """
    last = last_retained(system.state.catalog)
    if not system.config.retention.is_set:
        return None
    if last is not None and system.clock.now_us() - last.at_us < DAY_US:
        return None
    try:
        return retain(system)
    except Conflict:
        return None


def plan_retention(system: System) -> Retained:
    """Estimate what `storage prune` would do now, without any change."""
    size = taken(system.state_folder)
    log, notes = system.state.events, _differences(system)
    # if no process applies the log to the views, `storage prune` does so first; then no view needs the log
    followed, held = _follower_positions(system) if system.views.followed() else ({}, [])
    truncated, freed = {}, 0.0
    through = truncation(system.state.catalog).through
    for partition, last in log.positions().items():
        begin = begin_of(log, partition, last)
        cut = min(last, followed.get(partition, last))
        cut, strange = _before_strangers(log, partition, max(begin, through.get(partition, 0)), cut, system)
        truncated[partition] = max(0, cut - begin)
        of_file = size.parts["event log"].get(partition, 0)
        share = truncated[partition] * record_bytes(log, partition, of_file)
        freed += share * (1 - _IN_TABLE)
        notes += strange
    gone: dict[str, int] = {}
    tables = system.state.tables(system.sources, make=False)
    if any(system.config.retention.events_us(one.name) is not None for one in system.sources) and not tables:
        notes.append("how many events would be removed is only known after the first run, which creates the tables")
    for source, table in tables.items():
        kept_us = _kept_us(system, source)
        if kept_us is not None and isinstance(table, Prunable):
            condition = expired(_newest_us(system) - kept_us, _entities(system)[source])
            rows, gone[source] = table.count(), table.count(condition)
            freed += size.parts["tables of record"].get(source, 0) * gone[source] / max(1, rows)
    closed_us, state = _closed_before(system), system.state
    counts = {}
    for part, one, cuts in (
        ("prediction log", state.predictions, _cuts(state.predictions, closed_us)),
        ("exposure log", state.exposures, _cuts(state.exposures, closed_us)),
        ("quarantine", state.quarantine, _quarantined_before(system)),
    ):
        counts[part] = 0
        for partition, cut in cuts.items():
            rows = max(0, cut - begin_of(one, partition, cut))
            counts[part] += rows
            freed += rows * record_bytes(one, partition, size.parts.get(part, {}).get(partition, 0))
    if exposures := counts["exposure log"]:
        notes.append(f"would remove {exposures:,} exposures of experiments, whose days are closed")
    return Retained(
        at=format_time(system.clock.now_us()),
        dry_run=True,
        truncated=truncated,
        expired=gone,
        predictions=counts["prediction log"],
        quarantined=counts["quarantine"],
        freed_bytes=round(freed),
        size_bytes=size.size_bytes,
        budget_bytes=system.config.retention.budget_bytes,
        growth_bytes={},
        notes=held + notes,
        red=[*_over(system, size), *kept_longer(system)],
    )


def last_retained(catalog: Catalog) -> _Last | None:
    """Return the result of the newest run that has ended."""
    return read_record(catalog, KEPT, "last", _Last)


class _Last(msgspec.Struct, frozen=True, kw_only=True):
    """The stored result of the last finished run."""

    at_us: int
    freed_bytes: int
    growth_bytes: dict[str, float]
    notes: list[str]

    @property
    def at(self) -> str:
        return format_time(self.at_us)


def _retain(system: System) -> Retained:
    state = system.state
    state.check_clock()
    before = taken(system.state_folder)
    growth = growths(system, before)
    copy_to_tables(system)
    system.views.catch_up()
    truncated, notes = _truncate_events(system)
    tables = state.tables(system.sources, make=True)
    gone = _expire(system, tables)
    store_counts(system)
    _vacuum(tables, SPARED_H)
    _compact(system, tables)
    closed_us = _closed_before(system)
    predictions = _truncate(state.predictions, _cuts(state.predictions, closed_us), notes)
    if exposures := _truncate(state.exposures, _cuts(state.exposures, closed_us), notes):
        notes.append(f"removed {exposures:,} exposures of experiments, whose days are closed")
    quarantined = _truncate(state.quarantine, _quarantined_before(system), notes)
    after = taken(system.state_folder)
    if _over(system, after):
        _vacuum(tables, 0)
        after = taken(system.state_folder)
    elif gone:
        notes.append(
            "the disk space of removed events is freed by the next run that is at least an hour later: until then "
            "other tools may be reading the files"
        )
    notes += _differences(system)
    done = Retained(
        at=format_time(system.clock.now_us()),
        dry_run=False,
        truncated=truncated,
        expired=gone,
        predictions=predictions,
        quarantined=quarantined,
        freed_bytes=before.size_bytes - after.size_bytes,
        size_bytes=after.size_bytes,
        budget_bytes=system.config.retention.budget_bytes,
        growth_bytes=growth,
        notes=notes,
        red=[*_over(system, after), *kept_longer(system)],
    )
    last = _Last(at_us=system.clock.now_us(), freed_bytes=done.freed_bytes, growth_bytes=growth, notes=notes)
    state.catalog.write([Put(KEPT, "last", msgspec.json.encode(last))])
    return done


def _truncate_events(system: System) -> tuple[dict[str, int], list[str]]:
    """Truncate the event log up to the position of its slowest reader.

    Return the number of removed records by partition, and remarks about what was kept.
    """
    log, state = system.state.events, system.state
    followed, notes = _follower_positions(system)
    reached = {
        source: {partition: table.position(partition) for partition in log.positions()}
        for source, table in state.tables(system.sources, make=True).items()
    }
    cuts = {}
    for partition, last in log.positions().items():
        behind = [positions.get(partition, 0) for positions in reached.values()]
        cut = min([followed.get(partition, last), *behind])
        cut, strange = _before_strangers(log, partition, begin_of(log, partition, last), cut, system)
        cuts[partition] = cut
        notes += strange
    noted = truncation_put(state.catalog, reached, cuts, _newest_us(system))
    state.catalog.write([noted])  # stored first, so that readers can tell the truncation from a loss of records
    truncated = {}
    for partition, cut in cuts.items():
        truncated[partition] = _truncate(log, {partition: cut}, notes)
    return truncated, notes


def _truncate(log: Log, cuts: Mapping[str, int], notes: list[str]) -> int:
    """Truncate partitions that no other process writes, and return the number of removed records.

    A remark about each of the other partitions is added to `notes`.
    """
    removed = 0
    for partition, cut in cuts.items():
        last = log.positions().get(partition, 0)
        if cut <= begin_of(log, partition, last):
            continue
        try:
            removed += log.truncate(partition, cut)
        except Conflict as error:
            notes.append(f"not truncated now: {error} (once a day, `trimtab serve` truncates what it writes)")
    return removed


def _follower_positions(system: System) -> tuple[dict[str, int], list[str]]:
    """Return for each partition the position of the slowest online view, and remarks about these views.

    No other reader needs the log: `materialise` has just brought the tables up to date, and labels, outcomes, learners
    and training sets read the history, which includes the tables.
    """
    if not system.views.views:
        return {}, []
    applied, ends = system.views.store.positions(), system.state.events.positions()
    lag = sum(max(0, last - applied.get(name, 0)) for name, last in ends.items())
    notes = [f"{lag:,} records of the log are kept until they are in the online features"] if lag else []
    filled, being_filled = _filling_positions(system)
    notes += [
        f"view {name!r} is being filled, so the records of the log that it has not read are kept. If its rebuild was "
        f"interrupted, run: trimtab storage rebuild {name}"
        for name in being_filled
    ]
    return {name: min(one.get(name, 0) for one in (applied, *filled)) for name in ends}, notes


def _filling_positions(system: System) -> tuple[list[dict[str, int]], list[str]]:
    """Return the positions after which views that are being filled need the log, and the names of these views. # D31

    Views are filled by the process that applies the log to them. If there is none, the filling was interrupted and will
    begin again, so nothing is returned.
    """
    if not system.views.followed():
        return [], []
    store = system.views.store
    names = {plan.cursor_name: plan.name for plan in store.plans.values()}
    filling = {id_of(name): cursor for name, cursor in store.cursors().items() if name.startswith(FILLING)}
    # a cursor without counts: the view still reads the tables, so it needs the log from its beginning
    reading = [cursor.positions if cursor.counts else {} for cursor in filling.values()]
    return reading, [names.get(one, one) for one in filling]


def _before_strangers(log: Log, partition: str, after: int, cut: int, system: System) -> tuple[int, list[str]]:
    """Return the position up to which records may be removed, and a remark if this is lower than `cut`.

    Records of undeclared sources are in no table, so the first of them and all later records must stay in the log.
    """
    known = {ERASED, *system.definitions.sources}
    while after < cut:
        records = log.read(partition, after, limit=min(_BATCH, cut - after))
        if not records:
            break
        for record, event in zip(records, decode_all([r.payload for r in records]), strict=True):
            if event.source not in known and record.position <= cut:
                return record.position - 1, [
                    f"the log is kept from {partition} at {record.position:,} on: source {event.source!r} is no "
                    "longer declared, so its events have no table. Declare it again"
                ]
        after = records[-1].position
    return cut, []


def _expire(system: System, tables: Mapping[str, Table]) -> dict[str, int]:
    """Remove events that are older than the settings allow. Return by source the number of removed rows."""
    gone, entities = {}, _entities(system)
    already = kept_from(system.state.catalog)
    for source, table in tables.items():
        kept_us = _kept_us(system, source)
        if kept_us is None or not isinstance(table, Prunable):
            continue
        before_us = max((_newest_us(system) - kept_us) // DAY_US * DAY_US, already.get(source, -(2**62)))
        condition = expired(before_us, entities[source])
        if table.count(condition):
            # stored first: if the process is killed before the removal, some events stay longer, which does no harm
            note_kept_from(system.state.catalog, source, before_us)
            discard_counts(system)
            gone[source] = table.prune(condition)
    return gone


def _entities(system: System) -> dict[str, list[tuple[str, ...]]]:
    """Return for each source the columns by which views group its events into entities."""
    found: dict[str, list[tuple[str, ...]]] = {name: [] for name in system.definitions.sources}
    for view in views_in_use(system.definitions, system.live.views()):
        found.setdefault(view.source.name, []).append(view.by)
    return found


def _kept_us(system: System, source: str) -> int | None:
    """Return how long the events of a source are kept; None: for ever.

    This is the time in the settings or, if longer, the time for which the definitions and deployed versions need them.
    """
    kept_us = system.config.retention.events_us(source)
    need = source_needs(system.definitions, system.live.views()).get(source)
    return kept_us if kept_us is None or need is None else max(kept_us, -(-need.us // DAY_US) * DAY_US)


def _closed_before(system: System) -> int | None:
    """Return the time before which predictions and exposures may be removed; None: they are kept.

    Predictions and exposures before this time are older than the settings allow, their days are closed (also those of
    experiments), and online learners have read them.
    """
    from trimtab.steering.loop.loop import KIND, Reached

    kept_us = system.config.retention.predictions_us
    if kept_us is None:
        return None
    before_us = min(_newest_us(system) - kept_us, needed_from_us(system.state.catalog))
    for name, deployment in system.definitions.deployments.items():
        closed = read_record(system.state.catalog, KIND, name, Reached) or Reached()
        learnt_us = system.clock.now_us() - _LEARNT_WAITS * deployment.model.label.final_at(0)
        before_us = min(before_us, closed.closed_until_us, learnt_us)
    return before_us


def _cuts(log: Log, before_us: int | None) -> dict[str, int]:
    """Return for each partition of a log the last position that may be removed; `before_us` None: nothing may."""
    return {} if before_us is None else positions_before(log, before_us)


def _quarantined_before(system: System) -> dict[str, int]:
    kept_us = system.config.retention.quarantine_us
    return {} if kept_us is None else positions_before(system.state.quarantine, _newest_us(system) - kept_us)


def _newest_us(system: System) -> int:
    """Return the latest append time of events and predictions, but at most the present time.

    The age of data is measured from this time and not from the clock, so that no data is removed if the clock is ahead.
    """
    newest = [
        record.appended_at_us
        for log in (system.state.events, system.state.predictions)
        for partition, last in log.positions().items()
        for record in log.read(partition, max(0, last - 1), limit=1)
    ]
    truncated = truncation(system.state.catalog)
    newest += [truncated.newest_us] if truncated.through else []
    return min(system.clock.now_us(), max(newest, default=0))


def _vacuum(tables: Mapping[str, Table], older_h: int) -> int:
    return sum(table.vacuum(older_h) for table in tables.values() if isinstance(table, Prunable))


def _compact(system: System, tables: Mapping[str, Table]) -> None:
    """Merge the files of tables that have many files."""
    for source, table in tables.items():
        if sum(1 for _ in (system.state_folder / "tables" / source).glob("*.parquet")) > _FILES:
            table.compact()


def kept_longer(system: System) -> list[str]:
    """Return a message about each source whose events are kept longer than set, as a deployed version needs them."""
    settings, found = system.config.retention, []
    for source, need in source_needs(system.definitions, system.live.views()).items():
        set_us, kept_us = settings.events_us(source), _kept_us(system, source)
        if set_us is not None and kept_us is not None and kept_us > set_us:
            found.append(
                f"events of {source} are kept for {format_duration(kept_us)} and not for the {format_duration(set_us)} "
                f"of [retention], because a version in service needs them: {need.why}. Promote a version of today's "
                "definitions, or raise the setting."
            )
    return found


def _differences(system: System) -> list[str]:
    """Return remarks about features that would use removed events: their values change, or may change later."""
    settings, notes = system.config.retention, []
    views = views_in_use(system.definitions, system.live.views())
    for source, names in lifetime_features(views).items():
        if settings.events_us(source) is not None:
            notes.append(
                f"{', '.join(names)}: these cover the lifetime of an entity, but not all events of {source} are kept. "
                "Online they include all events ever received; in training, answers about the past and rebuilds, "
                "only those that are kept"
            )
    for source, names in newest_features(views).items():
        if settings.events_us(source) is not None:
            notes.append(
                f"{', '.join(names)}: each entity's newest event is kept, however old; if this event is corrected or "
                "deleted later, no earlier one is left"
            )
    return notes


def growths(system: System, size: Taken) -> dict[str, float]:
    """Return the growth of each log in bytes a day. For an empty log, return what the last retention measured."""
    last = last_retained(system.state.catalog)
    growths = {} if last is None else dict(last.growth_bytes)
    state, now_us = system.state, system.clock.now_us()
    logs = {"event log": state.events, "prediction log": state.predictions, "exposure log": state.exposures}
    for part, log in logs.items():
        found = log_growth(log, size.parts.get(part, {}), now_us, events=log is state.events)
        if found is not None:
            growths[part] = found
    return growths


def _over(system: System, size: Taken) -> list[str]:
    red = over_budget(size.size_bytes, system.config.retention.budget_bytes)
    return [] if red is None else [red]
