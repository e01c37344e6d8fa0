"""Make online states smaller, a few at a time, and find the largest states. # D33"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import msgspec

from trimtab.core.shown import Shown
from trimtab.events.columns.frames import NEVER_US
from trimtab.features.online.generations import place
from trimtab.features.online.packed.keys import EVENT_AT, Name
from trimtab.features.online.packed.plan import ViewPlan
from trimtab.features.online.packed.state import EntityState
from trimtab.features.online.packed.ties import KEPT, rows_of
from trimtab.features.online.packed.versions import VersionIndex
from trimtab.features.online.store import BEGIN, Changes, OnlineStore
from trimtab.store.ports import KeyValue

_SCAN = 5_000


class Compacted(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The result of one step of a compaction, or of several steps added up."""

    states: int = 0  # the number of states that were looked at
    shrunk: int = 0  # the number of states that became smaller
    freed_bytes: int = 0  # how many bytes smaller the states became; the store's file reuses this space
    index_rows: int = 0  # the number of index rows that were deleted
    done: bool = False  # whether all views have been processed once

    def __add__(self, other: Compacted) -> Compacted:
        return Compacted(
            states=self.states + other.states,
            shrunk=self.shrunk + other.shrunk,
            freed_bytes=self.freed_bytes + other.freed_bytes,
            index_rows=self.index_rows + other.index_rows,
            done=self.done or other.done,
        )


class StateSize(msgspec.Struct, frozen=True, kw_only=True):
    """The size of the state of one entity."""

    view: str
    entity: Name | None  # None: the name is too long, so the key only has its hash
    size_bytes: int


class CompactedStates(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `trimtab storage compact`."""

    compacted: Compacted
    largest: list[StateSize]


class Compaction:
    """Goes through all states of a store again and again. It runs in the process that applies records to the store.

    Let S be the append time up to which a view has applied the log. Rows whose event time and known-at time S has
    passed are sealed, that is, added to sums. Tiles (sums over one hop), extremes and latest values that no read at S
    or later can need are dropped. Even if all values are dropped, an almost empty state remains, so that the entity
    stays known. Index rows that no correction or repetition can need are deleted. Reads give the same bits as before.
    """

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self._plans = {name: ViewPlan(plan.view) for name, plan in store.plans.items()}
        self._left = list(self._plans)  # the views that are still to be processed
        self._after = b""  # the last processed key of a state
        self._in_index = False  # whether the states of the view are done, and its index is processed

    def step(self, limit: int = 500) -> Compacted:
        """Process up to `limit` states or index rows in one transaction."""
        cursors = self._store.cursors()
        while self._left:
            plan = self._plans[self._left[0]]
            cursor = cursors.get(plan.cursor_name)
            if cursor is not None and _shrinks(plan):
                before = plan.keys.states
                # if the view was filled again in the meantime, begin again with its new states
                if place(plan, cursor.generation).keys.states != before:
                    self._after, self._in_index = b"", False
                found = (
                    self._index_step(plan, cursor.s_us, limit)
                    if self._in_index
                    else self._state_step(plan, cursor.s_us, limit)
                )
                if found is not None:
                    return found
                if not self._in_index and not plan.keyed and plan.windowed:
                    self._in_index = True
                    continue
            self._left.pop(0)
            self._after, self._in_index = b"", False
        self._left = list(self._plans)
        return Compacted(done=True)

    def whole(self) -> Iterator[Compacted]:
        """Process everything once, and yield the result of each step."""
        while True:
            found = self.step(_SCAN)
            yield found
            if found.done:
                return

    def _state_step(self, plan: ViewPlan, s_us: int, limit: int) -> Compacted | None:
        """Make the next states smaller. Return None if no state is left."""
        kv = self._store.kv
        states = list(kv.scan(plan.keys.states, after=self._after, limit=limit))
        if not states:
            return None
        horizon_us = _horizon_us(plan, s_us)
        changes: Changes = {}
        freed = shrunk = 0
        index = VersionIndex(plan, kv)
        for key, packed in states:
            smaller = _smaller(plan, packed, s_us)
            if smaller is not None:
                changes[key] = smaller
                if not plan.keyed:
                    changes |= _lost_ties(plan, kv, key[len(plan.keys.states) :], packed, smaller)
                freed += len(packed) - len(smaller)
                shrunk += 1
            if plan.keyed and horizon_us is not None:
                index.forget_before(key[len(plan.keys.states) :], horizon_us)
        rows = index.changes()
        _write(kv, {**changes, **rows})
        self._after = states[-1][0]
        return Compacted(states=len(states), shrunk=shrunk, freed_bytes=freed, index_rows=len(rows))

    def _index_step(self, plan: ViewPlan, s_us: int, limit: int) -> Compacted | None:
        """Delete index rows of events whose repetition would change nothing. Return None if there are no more."""
        horizon_us = _horizon_us(plan, s_us)
        if horizon_us is None:
            return None
        end = plan.keys.applied_from(horizon_us)
        gone = [key for key, _ in self._store.kv.scan(plan.keys.index, limit=limit) if key < end]
        if not gone:
            return None
        self._store.kv.write({}, gone)
        return Compacted(index_rows=len(gone))


def largest_states(store: OnlineStore, n: int = 10) -> list[StateSize]:
    """Return the entities with the largest states over all views, largest first."""
    cursors = store.cursors()
    best: list[tuple[int, str, bytes]] = []
    for view, given in store.plans.items():
        plan = place(ViewPlan(given.view), cursors.get(given.cursor_name, BEGIN).generation)
        after = b""
        while found := list(store.kv.scan(plan.keys.states, after=after, limit=_SCAN)):
            sizes = [(len(packed), view, key[len(plan.keys.states) :]) for key, packed in found]
            best = heapq.nlargest(n, [*best, *sizes])
            after = found[-1][0]
    return [StateSize(view=view, entity=name_of(name), size_bytes=size) for size, view, name in best]


def name_of(raw: bytes) -> Name | None:
    """Return the entity that a part of a key stands for; None if the key only has a hash of its name.

    >>> from trimtab.features.online.packed.keys import name_bytes
    >>> [name_of(name_bytes(name)) for name in ("UA", -3, ("JFK", 7), "x" * 200)]
    ['UA', -3, ('JFK', 7), None]
    """
    kind, rest = raw[:1], raw[1:]
    if kind == b"s":
        return rest.decode("utf-8", "surrogatepass")
    if kind == b"i":
        return int.from_bytes(rest, "big") - 2**63
    if kind != b"t":
        return None
    parts: list[str | int] = []
    while rest:
        part = name_of(rest[1 : 1 + rest[0]])
        if part is None or isinstance(part, tuple):
            return None
        parts.append(part)
        rest = rest[1 + rest[0] :]
    return tuple(parts)


def _smaller(plan: ViewPlan, packed: bytes, s_us: int) -> bytes | None:
    """Return the state as of S if it is smaller than the stored one; otherwise None."""
    state = EntityState(plan, packed)
    state.seal(s_us)
    ages = [feature.max_age_us for feature in plan.latest]
    if state.latest_rows and None not in ages:
        age_us = s_us - state.latest_rows[-1][EVENT_AT]
        if all(max_age_us is not None and age_us > max_age_us for max_age_us in ages):
            state.latest_rows = []
    after = state.pack()
    return after if len(after) < len(packed) else None


def _lost_ties(plan: ViewPlan, kv: KeyValue, name: bytes, before: bytes, after: bytes) -> Changes:
    """Return changes that delete the stored ties of an entity that its new state does not need.

    Ties are rows with the newest event time that do not fit in the state (see `ties.py`).
    """
    if len(EntityState(plan, before).latest_rows) < KEPT or EntityState(plan, after).latest_rows:
        return {}
    return dict.fromkeys(key for key, _ in rows_of(plan, kv, name))


def _shrinks(plan: ViewPlan) -> bool:
    """Return whether anything in the states of a view expires."""
    return bool(plan.groups) or any(feature.max_age_us is not None for feature in plan.latest)


def _horizon_us(plan: ViewPlan, s_us: int) -> int | None:
    """Return a time before which no event matters any more; None: there is no such time."""
    if plan.life is not None:
        return None
    horizon_us = plan.earliest_us(s_us) if plan.groups else NEVER_US
    for feature in plan.latest:
        if feature.max_age_us is None:
            return None
        horizon_us = min(horizon_us, s_us - feature.max_age_us)
    return horizon_us


def _write(kv: KeyValue, changes: Changes) -> None:
    if changes:
        deletes = [key for key, value in changes.items() if value is None]
        kv.write({key: value for key, value in changes.items() if value is not None}, deletes)
