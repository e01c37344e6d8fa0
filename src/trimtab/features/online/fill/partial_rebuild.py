"""States of a few entities made anew, after some of a source's events were erased: the same as if all were. # D129

What an event gives lies in the states of its entities, in the index of what was applied, and, where its source has a
key, among its entities' rows. Another entity is touched when it had an event of the same id: that one may count now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, TypeAlias, cast

import msgspec

from trimtab.core.columns.data import Columns
from trimtab.events.definitions import Source
from trimtab.events.records import Event, Value, padded
from trimtab.features.online.failures import Figures, unnamed
from trimtab.features.online.fill.fill import sweep
from trimtab.features.online.fill.load import MOST_ROWS, History, load
from trimtab.features.online.generations import FILLING, place
from trimtab.features.online.packed.plan import ViewPlan, name_bytes
from trimtab.features.online.packed.ties import rows_of
from trimtab.features.online.store import Changes, Cursor, OnlineStore, write_cursors
from trimtab.store.ports import KeyValue

MOST_SHARE = 0.25  # of a view's records: to make states of more than that anew, it is filled from history
_SWEPT = 5_000

Read: TypeAlias = Callable[[Source, Mapping[str, int], Callable[[Event], bool]], History]


class Gone(msgspec.Struct, frozen=True):
    """A record that was erased, or another version of its event, as it was before."""

    event_at_us: int
    id: str
    values: Sequence[Value]


def mend(
    store: OnlineStore,
    gone: Mapping[str, Sequence[Gone]],
    read: Read,
    *,
    most_share: float = MOST_SHARE,
) -> list[str]:
    """Make the states anew that depend on events which were erased from the log; nothing else writes meanwhile.

    Afterwards every value and reason is what a view filled from the erased log gives. What the views count of the
    records they met stays as it was.

    Args:
        store: The views' states, as they were before.
        gone: By source, every version of each event of which some record was erased.
        read: The records of a source, as they are now, up to some positions, those at least that are needed.
        most_share: Of a view's records, how many may have to be read into states again.

    Returns:
        The names of views that have to be filled anew: so much is touched that it would cost no less, or they were
        not filled yet.
    """
    while sweep(store, _SWEPT):
        pass
    cursors, counts = store.cursors(), store.counts()
    views: list[_Mending] = []
    left = []
    for name, plan in store.plans.items():
        if plan.view.source.name in gone:
            cursor = cursors.get(plan.cursor_name)
            if cursor is None or FILLING + plan.cursor_name in cursors:
                left.append(name)
            else:
                most_rows = min(MOST_ROWS, most_share * counts[name].applied)
                views.append(_Mending(name, plan, cursor, gone[plan.view.source.name], most_rows))
    views.sort(key=lambda one: repr(one.reads))
    for _, group in groupby(views, key=lambda one: one.reads):
        alike = list(group)
        _find(alike, read)
        for one in alike:
            if one.given_up:
                left.append(one.name)
            else:
                changes = one.changes(store.kv)
                puts = {key: value for key, value in changes.items() if value is not None}
                store.kv.write(puts, [key for key, value in changes.items() if value is None])
                cursors[one.plan.cursor_name] = _unnamed(one.cursor, gone[one.reads[0]])
    write_cursors(store.kv, cursors)
    return left


def _unnamed(cursor: Cursor, gone: Sequence[Gone]) -> Cursor:
    """A cursor that names no event that is gone."""
    return msgspec.structs.replace(cursor, failures=unnamed(cursor.failures, {event.id for event in gone}))


def _find(views: Sequence[_Mending], read: Read) -> None:
    """Let views of one source take the rows that they need: whom these are about is found first, then their rows."""
    source, positions = views[0].plan.view.source, views[0].cursor.positions
    growing = True
    while growing:
        growing = False
        for chunk in read(source, positions, lambda event: any(one.touches(event) for one in views)):
            for one in views:
                growing |= one.look(chunk)
            if all(one.given_up for one in views):
                return
    wanted = frozenset[str]().union(*(one.ids for one in views))
    for chunk in read(source, positions, lambda event: event.id in wanted):
        for one in views:
            one.take(chunk)
        if all(one.given_up for one in views):
            return


class _Mending:
    """One view: the entities that are touched, the ids of all their events, and these events' records.

    Once these are more than `most_rows` it is given up, and nothing of them is kept.
    """

    def __init__(self, name: str, plan: ViewPlan, cursor: Cursor, gone: Sequence[Gone], most_rows: float) -> None:
        self.name = name
        self.plan = plan
        self.cursor = cursor
        source = plan.view.source
        self.reads = source.name, tuple(source.columns), sorted(cursor.positions.items())
        self._gone = gone
        self._gone_ids = frozenset(one.id for one in gone)
        self._width = len(plan.columns)
        found = (plan.entity_of(padded(one.values, self._width)) for one in gone)
        self._entities: set[Any] = {entity for entity in found if entity is not None}
        self.ids: set[str] = set(self._gone_ids)  # of these entities' events, and of those that are gone
        self._taken: list[Columns] = []
        self._taken_rows = 0
        self._most_rows = most_rows
        self.given_up = False  # so much is touched that the view is better filled anew

    def touches(self, event: Event) -> bool:
        """Whether `look` needs an event."""
        if self.given_up:
            return False
        values = event.values if len(event.values) == self._width else padded(event.values, self._width)
        return self.plan.entity_of(values) in self._entities or event.id in self._gone_ids

    def look(self, chunk: Columns) -> bool:
        """Note whose events have an id of one that is gone, and the ids of all events of those; whether more are."""
        if self.given_up:
            return False
        before = len(self._entities)
        entities, ids = self._entities_of(chunk), chunk["_id"].values.tolist()
        if not self.plan.keyed:  # of a source with a key every version of such an event is known already
            self._entities.update(
                e for e, event_id in zip(entities, ids, strict=True) if event_id in self._gone_ids and e is not None
            )
        touched = self._entities
        self.ids.update(event_id for e, event_id in zip(entities, ids, strict=True) if e in touched)
        more = len(touched) > before
        self._check(len(self.ids) - len(self._gone_ids))  # each has a record to be taken, but for those that are gone
        return more and not self.given_up

    def take(self, chunk: Columns) -> None:
        """Keep the records of these ids."""
        import numpy as np

        found = [row for row, event_id in enumerate(chunk["_id"].values.tolist()) if event_id in self.ids]
        self._taken_rows += len(found)
        self._check(self._taken_rows)
        if found and not self.given_up:
            self._taken.append(chunk.take(np.array(found, np.int64)))

    def _check(self, rows: int) -> None:
        """Give up where so many records, which have to be taken at least, are too many."""
        if rows > self._most_rows:
            self.given_up = True
            self._entities, self.ids, self._taken = set(), set(), []

    def changes(self, kv: KeyValue) -> Changes:
        """What to write."""
        rows = _Taken(self._taken)
        plan = place(ViewPlan(self.plan.view), self.cursor.generation)
        aside = _Aside()
        for _ in load(cast("KeyValue", aside), plan, rows, self.cursor.s_us, Figures(), most_rows=MOST_ROWS):
            pass
        names = set(map(name_bytes, self._entities))
        changes: Changes = dict.fromkeys(plan.state_prefix + name for name in names)
        changes |= dict.fromkeys(self._index_keys(plan))
        for name in names:
            changes |= dict.fromkeys(key for key, _ in rows_of(plan, kv, name))
        for key, value in aside.pairs.items():
            if key.startswith(plan.index_prefix) or _named(plan, key) in names:
                changes[key] = value
        return changes

    def _index_keys(self, plan: ViewPlan) -> Iterator[bytes]:
        """Where the events that are gone stand in the index of what was applied."""
        for one in self._gone:
            if plan.keyed:
                yield plan.index_prefix + name_bytes(one.id)
            elif plan.windowed:
                yield plan.index_key(one.event_at_us, one.id)

    def _entities_of(self, chunk: Columns) -> list[Any]:
        lists = [chunk[name].to_list() for name in self.plan.view.by]
        return lists[0] if len(lists) == 1 else [None if None in e else e for e in zip(*lists, strict=True)]


class _Taken:
    """Rows that lie in memory."""

    def __init__(self, chunks: Sequence[Columns]) -> None:
        self._chunks = chunks
        self.most = sum(chunk.rows for chunk in chunks)

    def __iter__(self) -> Iterator[Columns]:
        return iter(self._chunks)


class _Aside:
    """What `load` writes of a few entities, which is not for the store as it is."""

    def __init__(self) -> None:
        self.pairs: dict[bytes, bytes] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.pairs.get(key) for key in keys]

    def write(self, puts: Mapping[bytes, bytes]) -> None:
        self.pairs |= puts


def _named(plan: ViewPlan, key: bytes) -> bytes:
    """Whose state or row lies under a key."""
    if key.startswith(plan.state_prefix):
        return key[len(plan.state_prefix) :]
    at = len(plan.rows_prefix) + 1
    return key[at : at + key[at - 1]]
