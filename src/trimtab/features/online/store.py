"""The online store: features of all entities, kept up to date with the event log."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from functools import partial
from typing import Any, TypeAlias, cast

import msgspec

from trimtab.core.errors import Misuse
from trimtab.events.columns.frames import NEVER_US
from trimtab.events.records import decode_all, known_at_us
from trimtab.features.definitions import View
from trimtab.features.online.failures import Counts, FeatureFailures, together
from trimtab.features.online.generations import FILLING, GOING, id_of, place
from trimtab.features.online.packed.arrivals import Arrival, Kept, too_late
from trimtab.features.online.packed.keys import EVENT_AT, GIVES, ID, KNOWN_AT, PARTITION, POSITION, UNTIL, KeySpace, Row
from trimtab.features.online.packed.latest import latest_state
from trimtab.features.online.packed.plan import ViewPlan
from trimtab.features.online.packed.state import EntityState
from trimtab.features.online.packed.ties import Ties
from trimtab.features.online.packed.versions import NewVersions, VersionIndex
from trimtab.store.ports import KeyValue, LogRecord

POSITIONS_KEY = b"p"
Changes: TypeAlias = dict[bytes, bytes | None]  # None: the key is deleted

_check = struct.Struct(">I").pack
# a batch deletes at most this many index entries of expired events, or two for each of its records if that is more
_PRUNE = 2_000


class ViewApplied(msgspec.Struct, frozen=True, kw_only=True):
    """What one batch of records changed in one view. All fields are counts."""

    applied: int = 0  # all records of the view's source
    duplicates: int = 0  # records that repeat an event, as far as the view still has the event
    id_conflicts: int = 0  # ignored records of a source without a key: same event time and id, but other content
    corrections: int = 0  # further versions of events, and deletions
    too_late: int = 0  # events that were already too old for all windows when they became known
    no_entity: int = 0  # events in which a column that identifies the entity is null
    refused_deletes: int = 0  # deletions in a source without a key, where a view cannot find the event
    raw_rows_read: int = 0  # single rows that were read from the store to apply corrections
    failed: int = 0  # events for which a feature could not be computed; see `FeatureFailures`


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What one batch of records changed."""

    records: int
    skipped: int  # records that all views had applied before
    views: Mapping[str, ViewApplied]  # by the name of the view

    def total(self, name: str) -> int:
        """Return one of the counts in `ViewApplied`, added up over all views."""
        return sum(getattr(view, name) for view in self.views.values())


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """How far a view has read the log, and what it has counted up to there."""

    s_us: int  # the latest append time that was applied (S)
    positions: dict[str, int]  # for each partition, the last position that was applied
    generation: int = 0  # the generation of the view's states (see `generations.py`)
    counts: tuple[int, ...] = ()  # the counts of `ViewApplied` over all applied records, in the order of its fields
    failures: dict[str, FeatureFailures] = {}  # by feature

    @property
    def place(self) -> tuple[int, dict[str, int]]:
        """The append time S, and the positions."""
        return self.s_us, self.positions

    def counted(self, more: Counts) -> Cursor:
        """Return a copy of this cursor with further counts added."""
        before = dict(zip(COUNT_NAMES, self.counts, strict=False))
        counts = tuple(before.get(name, 0) + more.get(name, 0) for name in COUNT_NAMES)
        return msgspec.structs.replace(self, counts=counts, failures=together(self.failures, more.failures))


COUNT_NAMES = ViewApplied.__struct_fields__
BEGIN = Cursor(-(2**62), {})
_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decode = msgspec.msgpack.Decoder(dict[str, Cursor]).decode


class OnlineStore:
    """The states of views in a key-value store, one for each view and entity. Records of the event log update them.

    A batch is one transaction, with the new positions. After a crash, records can be given again: each view skips those
    up to its position.

    Args:
        kv: The store for the states. One process may apply records, and many processes may read.
        views: The views to keep up to date. A changed definition begins without states; those of the old one are kept.
        filling: Whether to apply records to the states that are being filled, instead of those that are read (see
            `fill/fill.py`).
    """

    def __init__(self, kv: KeyValue, views: Sequence[View], *, filling: bool = False) -> None:
        self.kv = kv
        self._filling = filling
        # by name; if two definitions have the same name, the second is called "name@01234567" (8 digits of its hash)
        self.plans: dict[str, ViewPlan] = {}
        self._set_views(views)

    def apply(self, records: Sequence[LogRecord], *, reached: Mapping[str, int] | None = None) -> Applied:
        """Apply records to all views that have not applied them yet.

        Records of a partition must be in order and without gaps. Partitions may be mixed in any way.

        Args:
            reached: For records from tables of record (permanent copies of the log), which may have gaps: for each
                partition, the position up to which `records` has all records that any view needs. # D23

        Raises:
            Misuse: Records between a view's position and the given ones are missing.
            Corrupt: A record is not an event, or a stored state is damaged.
        """
        stored = self.cursors()
        changes: Changes = {}
        counts = {plan.id: Counts() for plan in self.plans.values()}
        taken = 0
        for cursor, plans in self._by_cursor(stored):
            after, arrivals = _arrivals(cursor, records, {p.view.source.name for p in plans}, reached)
            new = sum(after.positions.values()) - sum(cursor.positions.values())
            taken = max(taken, new)
            if new:
                versions: dict[Any, NewVersions] = {}  # by the source's name and columns
                for plan in plans:
                    before, source = stored.get(self._name(plan), BEGIN), plan.view.source
                    place(plan, before.generation)
                    if plan.keyed:
                        key = source.name, *source.columns.items()
                        if key not in versions:
                            versions[key] = NewVersions.of(arrivals[source.name], len(source.columns))
                        self._apply_keyed(plan, versions[key], changes, counts[plan.id])
                    else:
                        self._apply_plain(plan, arrivals[source.name], changes, counts[plan.id])
                    moved = msgspec.structs.replace(before, s_us=after.s_us, positions=after.positions)
                    stored[self._name(plan)] = moved.counted(counts[plan.id])
        if taken:
            changes[POSITIONS_KEY] = _encode(stored)
            deletes = [key for key, value in changes.items() if value is None]
            self.kv.write(_without(changes, deletes), deletes)
        views = {name: ViewApplied(**counts[plan.id]) for name, plan in self.plans.items()}
        return Applied(records=len(records), skipped=max(0, len(records) - taken), views=views)

    def positions(self) -> dict[str, int]:
        """The positions that all views have reached. Reading of the log continues from there."""
        cursors = self.cursors()
        found = [cursors.get(self._name(plan), BEGIN).positions for plan in self.plans.values()]
        names = set().union(*found) if found else set()
        least = {name: min(positions.get(name, 0) for positions in found) for name in names}
        return {name: position for name, position in sorted(least.items()) if position}

    @property
    def s_us(self) -> int:
        """S: the latest append time that all views have applied."""
        cursors = self.cursors()
        return min((cursors.get(self._name(plan), BEGIN).s_us for plan in self.plans.values()), default=BEGIN.s_us)

    def counts(self) -> dict[str, ViewApplied]:
        """For each view (by name), the counts over all records that it has applied. Each record counts once.

        A view that was filled from history has the counts that it would have if it had applied the records one by one.
        Only repetitions of events that are in no window any more may be missing.
        """
        cursors = self.cursors()
        found = {name: cursors.get(self._name(plan), BEGIN).counts for name, plan in self.plans.items()}
        return {name: ViewApplied(**dict(zip(COUNT_NAMES, counts, strict=False))) for name, counts in found.items()}

    def failures(self) -> dict[str, dict[str, FeatureFailures]]:
        """For each view and feature, the events for which it could not be computed since the view was filled."""
        cursors = read_cursors(self.kv)  # safe while another thread applies records
        found = {name: cursors.get(self._name(plan), BEGIN).failures for name, plan in self.plans.items()}
        return {name: failures for name, failures in found.items() if failures}

    def reset(self) -> int:
        """Delete the states of this store's views, so that they are filled from the beginning of the log.

        Return how many keys were deleted.
        """
        mine = {plan.cursor_name for plan in self.plans.values()}
        return self._drop(mine.union(name for name in self.cursors() if id_of(name) in mine))

    def drop_others(self) -> int:
        """Delete the states of views and definitions that this store does not have.

        Return how many keys were deleted.
        """
        mine = {plan.cursor_name for plan in self.plans.values()}
        return self._drop({name for name in self.cursors() if id_of(name) not in mine})

    def take_up(self, views: Sequence[View]) -> None:
        """Keep exactly these views up to date from now on. No records may be applied during this call.

        If a view has applied less of the log than another one, its states are deleted, so that it is filled again. The
        states of views that are not in `views` are kept; see `drop_others`.
        """
        self._set_views(views)
        cursors = self.cursors()
        mine = [plan.cursor_name for plan in self.plans.values() if plan.cursor_name in cursors]
        front = max((cursors[name] for name in mine), key=lambda c: sum(c.positions.values()), default=BEGIN)
        behind = {name for name in mine if cursors[name].place != front.place}
        if behind:
            self._drop(behind)

    def _set_views(self, views: Sequence[View]) -> None:
        before = {plan.view.hash: plan for plan in self.plans.values()}
        plans: dict[str, ViewPlan] = {}
        for digest, view in {view.hash: view for view in views}.items():
            plan = before.get(digest) or ViewPlan(view)
            plans[f"{view.name}@{digest[:8]}" if view.name in plans else view.name] = plan
        self.plans = plans  # assigned in one step, because other threads may be reading

    def _drop(self, ids: Set[str]) -> int:
        """Delete the states of some views. These are marked first, so that `cursors` can finish this after a crash."""
        cursors = self.cursors()
        marked = {(GOING + name if name in ids else name): cursor for name, cursor in cursors.items()}
        write_cursors(self.kv, marked)
        return self._sweep(marked)

    def _sweep(self, cursors: dict[str, Cursor]) -> int:
        """Delete the states of marked views, and return how many keys were deleted."""
        gone = 0
        for name in [name for name in cursors if name.startswith(GOING)]:
            for prefix in KeySpace.of(bytes.fromhex(id_of(name)), cursors[name].generation).all:
                while keys := [key for key, _ in self.kv.scan(prefix)]:
                    self.kv.write({}, keys)
                    gone += len(keys)
            del cursors[name]
        write_cursors(self.kv, cursors)
        return gone

    def cursors(self) -> dict[str, Cursor]:
        """The cursor of each view, by its name in the record of positions. Interrupted deletions are finished first."""
        cursors = read_cursors(self.kv)
        if any(name.startswith(GOING) for name in cursors):
            self._sweep(cursors)
        return cursors

    def _name(self, plan: ViewPlan) -> str:
        return FILLING + plan.cursor_name if self._filling else plan.cursor_name

    def _by_cursor(self, stored: Mapping[str, Cursor]) -> list[tuple[Cursor, list[ViewPlan]]]:
        groups: list[tuple[Cursor, list[ViewPlan]]] = []
        for plan in self.plans.values():
            if self._name(plan) not in stored and FILLING + plan.cursor_name in stored:
                continue  # the view is being filled, and records are applied to it afterwards
            cursor = stored.get(self._name(plan), BEGIN)
            for other, plans in groups:
                if other.place == cursor.place:
                    plans.append(plan)
                    break
            else:
                groups.append((cursor, [plan]))
        return groups

    def _apply_plain(self, plan: ViewPlan, arrivals: list[Arrival], changes: Changes, count: Counts) -> None:
        """Apply events of a source without a key. They are never corrected, but a record may repeat an event."""
        count["applied"] += len(arrivals)
        repeats = self._repeats(plan, arrivals, changes, count) if plan.windowed else None
        kept = Kept(plan, arrivals, repeats, count)
        groups: dict[bytes, list[Row]] = {}
        sealed_at: dict[bytes, int] = {}
        for (s_us, known_at, record, event), name, gives in kept.rows():
            row = [event.event_at_us, known_at, record.partition, record.position, NEVER_US, event.id, gives]
            if name in groups:
                groups[name].append(row)
            else:
                groups[name] = [row]
            sealed_at[name] = s_us
        keys = [plan.keys.states + name for name in groups]
        for key, packed, (name, rows) in zip(keys, self.kv.get_many(keys), groups.items(), strict=True):
            s_us = sealed_at[name]
            if kept.errors:
                _mark(rows, kept.errors)
            if not plan.windowed:
                usual = latest_state(plan, packed, rows, s_us)
                if usual is not None:
                    changes[key] = usual
                    if kept.errors:
                        _count_failed(plan, rows, set(), kept.errors, count)
                    continue
            state = EntityState(plan, packed)
            ties = Ties(plan, self.kv, name, state) if plan.latest else None
            rows = rows if ties is None else ties.new(rows, count)
            again = kept.repeated if plan.windowed else _repeated(state, rows, count)
            if kept.errors:
                _count_failed(plan, rows, again, kept.errors, count)
            if again:
                for row in rows:
                    if (row[PARTITION], row[POSITION]) in again:
                        state.repeat(row)
                    else:
                        state.unsealed.append(row)
            else:
                state.unsealed += rows
            state.seal(s_us)
            if ties is not None:
                ties.settle()
                changes |= ties.changes
            changes[key] = state.pack()

    def _repeats(self, plan: ViewPlan, arrivals: list[Arrival], changes: Changes, count: Counter[str]) -> list[bool]:
        """Return for each record whether it repeats an event. Add new events to the index, delete expired ones."""
        keys = [plan.keys.applied(event.event_at_us, event.id) for _, _, _, event in arrivals]
        stored = zip(keys, self.kv.get_many(keys), strict=True)
        found = {key: there for key, there in stored if there is not None}
        repeats, crc32, longest_us = [], zlib.crc32, plan.longest_us
        for key, (s_us, _, _, event) in zip(keys, arrivals, strict=True):
            check = _check(crc32(_encode(event.values)))
            if event.op == "delete":
                repeats.append(False)
            elif key in found:
                repeats.append(True)
                count["duplicates" if found[key] == check else "id_conflicts"] += 1
            else:
                repeats.append(False)
                if event.event_at_us >= s_us - longest_us or not plan.expired(event.event_at_us, s_us):
                    found[key] = changes[key] = check
        if arrivals and not plan.forever:
            end = plan.keys.applied_from(plan.earliest_us(arrivals[-1][0]))
            if any(key < end for key, _ in self.kv.scan(plan.keys.index, limit=1)):
                for key, _ in self.kv.scan(plan.keys.index, limit=max(_PRUNE, 2 * len(arrivals))):
                    if key >= end:
                        break
                    changes[key] = None
        return repeats

    def _apply_keyed(self, plan: ViewPlan, new: NewVersions, changes: Changes, count: Counts) -> None:
        """Apply events of a source with a key, which may be corrected or deleted: add rows, remove replaced rows."""
        index = VersionIndex(plan, self.kv, new.names)
        for row, errors in index.take(new, count):
            count.fail(plan, row, errors)
        count["applied"] += len(new.versions)
        count["too_late"] += too_late(plan, [(version[3], version[0]) for version in new.versions])
        groups = [(entity, of, of.s_us) for entity, of in index.entities.items() if of.s_us is not None]
        keys = [plan.keys.states + entity for entity, _, _ in groups]
        for (entity, changed, s_us), key, packed in zip(groups, keys, self.kv.get_many(keys), strict=True):
            state = EntityState(plan, packed)
            before_us = state.s_us
            for row in changed.gone.values():
                _withdraw(state, row)
            state.unsealed += changed.come.values()
            state.seal(s_us)
            if changed.gone:
                count["raw_rows_read"] += state.restore(partial(index.rows, entity, s_us))
            changes[key] = state.pack()
            if not plan.forever and (cut_us := plan.earliest_us(s_us)) > plan.earliest_us(before_us):
                index.forget_before(entity, cut_us)
        changes.update(index.changes())


def read_cursors(kv: KeyValue) -> dict[str, Cursor]:
    """Return the stored cursors of all views, even of those that are being filled or deleted.

    Raises:
        Corrupt: The store is damaged.
    """
    return cursors_of(kv.get(POSITIONS_KEY))


def write_cursors(kv: KeyValue, cursors: Mapping[str, Cursor]) -> None:
    """Store the cursors of all views."""
    kv.write({POSITIONS_KEY: _encode(cursors)})


def cursors_of(packed: bytes | None) -> dict[str, Cursor]:
    """Return the stored cursors, by their names in the record of positions (see `generations.py`)."""
    return {} if packed is None else _decode(packed)


def _arrivals(
    cursor: Cursor, records: Sequence[LogRecord], sources: set[str], reached: Mapping[str, int] | None
) -> tuple[Cursor, dict[str, list[Arrival]]]:
    """Return the cursor after these records and, for each source, the records that the old cursor does not include."""
    s_us, positions = cursor.s_us, dict(cursor.positions)
    fresh: list[LogRecord] = []
    sealed_at: list[int] = []
    for record in records:
        partition, position, appended_at_us = record.partition, record.position, record.appended_at_us
        last = positions.get(partition, 0)
        if position <= last:
            continue
        if position != last + 1 and reached is None:
            raise Misuse(
                f"online store: needs record {last + 1} of partition {partition!r}, found {position}. "
                "Give the records in order; when the log was truncated, start from the tables of record."
            )
        positions[partition] = position
        if appended_at_us > s_us:
            s_us = appended_at_us
        fresh.append(record)
        sealed_at.append(s_us)
    arrivals: dict[str, list[Arrival]] = {source: [] for source in sources}
    for record, at_us, event in zip(fresh, sealed_at, decode_all([r.payload for r in fresh]), strict=True):
        if event.source in arrivals:
            arrivals[event.source].append((at_us, known_at_us(event, record), record, event))
    positions.update({name: max(position, positions.get(name, 0)) for name, position in (reached or {}).items()})
    return Cursor(s_us, positions), arrivals


def _without(changes: Changes, deletes: Sequence[bytes]) -> dict[bytes, bytes]:
    for key in deletes:
        del changes[key]
    return cast("dict[bytes, bytes]", changes)


def _repeated(state: EntityState, rows: list[Row], count: Counter[str]) -> set[tuple[str, int]]:
    """Return which rows repeat a row that the state still has, by partition and position."""
    known = {(row[EVENT_AT], row[ID]) for row in (*state.unsealed, *state.latest_rows)}
    again = set()
    for row in rows:
        name = row[EVENT_AT], row[ID]
        if name in known:
            again.add((row[PARTITION], row[POSITION]))
        known.add(name)
    count["duplicates"] += len(again)
    return again


def _mark(rows: list[Row], errors: Mapping[tuple[str, int], Mapping[int, str]]) -> None:
    for row in rows:
        of_row = errors.get((row[PARTITION], row[POSITION]))
        if of_row:
            row.append([*of_row])


def _count_failed(
    plan: ViewPlan,
    rows: list[Row],
    again: set[tuple[str, int]],
    errors: Mapping[tuple[str, int], Mapping[int, str]],
    count: Counts,
) -> None:
    """Count the rows with a series that could not be computed, except rows that repeat an event."""
    for row in rows:
        place = row[PARTITION], row[POSITION]
        if place in errors and place not in again:
            count.fail(plan, row, errors[place])


def _withdraw(state: EntityState, row: Row) -> None:
    """Remove from a state a row that no longer counts. If its `UNTIL` is at or before S, it was removed already."""
    last = state.s_us if state.plan.inclusive else state.s_us - 1
    found = state.find_open(row[PARTITION], row[POSITION])
    if found is not None:
        state.unsealed.remove(found)
    elif row[GIVES] is not None and row[EVENT_AT] <= last and row[KNOWN_AT] <= state.s_us < row[UNTIL]:
        state.known -= 1
        if row[UNTIL] == NEVER_US:
            state.unseal(row)
