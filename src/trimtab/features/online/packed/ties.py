"""Ties: rows at an entity's newest event time that do not fit in its state, and have keys of their own. # D33

In a source without a key, a record may repeat any event, and may give it an earlier known-at time, which changes the
order of tied rows. So each tied row must be found by its id, and none may be forgotten. A state keeps up to 64
(`2 * KEPT`) tied rows. If there are more, all but the last `KEPT` get keys of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec

from trimtab.features.online.packed.keys import EVENT_AT, ID, KNOWN_AT, POSITION, Row, name_bytes
from trimtab.features.online.packed.plan import ViewPlan
from trimtab.features.online.packed.state import EntityState
from trimtab.store.ports import KeyValue

KEPT = 32
_SCAN = 10_000
_LAST = 2**63 - 1

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list).decode


class Ties:
    """The stored ties of one entity, while a batch of records is applied to its state.

    Args:
        plan: The compiled view. Its source has no key.
        name: The name of the entity, as a part of keys.
        state: The state before the batch.
    """

    def __init__(self, plan: ViewPlan, kv: KeyValue, name: bytes, state: EntityState) -> None:
        self.changes: dict[bytes, bytes | None] = {}
        self._plan, self._kv, self._name, self._state = plan, kv, name, state
        self._spills = len(state.latest_rows) >= KEPT  # whether the store may have further tied rows
        self._at_us = state.latest_rows[-1][EVENT_AT] if state.latest_rows else None
        self._least = _place(state.latest_rows[0]) if state.latest_rows else []

    def new(self, rows: list[Row], count: Counter[str]) -> list[Row]:
        """Find the new rows that repeat a stored tie. If their known-at time is earlier, the tie takes it.

        A tie takes the partition and position together with the time. Return the rows that repeat no tie; if the view
        has windows, return all rows.
        """
        tied = {key_of(self._plan, self._name, row): row for row in rows if row[EVENT_AT] == self._at_us}
        if not (self._spills and tied):
            return rows
        stored = zip(tied, self._kv.get_many(list(tied)), strict=True)
        found = {key: _decode(packed) for key, packed in stored if packed is not None}
        kept = []
        for row in rows:
            there = found.get(key_of(self._plan, self._name, row)) if row[EVENT_AT] == self._at_us else None
            if there is None:
                kept.append(row)
            elif _place(row) < _place(there):
                there[KNOWN_AT : POSITION + 1] = _place(row)
                self._put(there)
        if not self._plan.windowed:
            count["duplicates"] += len(rows) - len(kept)
        # with windows, the caller passes repetitions to `EntityState.repeat`
        return rows if self._plan.windowed else kept

    def settle(self) -> None:
        """Keep the last tied rows in the state, and store the others.

        If the batch has a newer event time, delete the stored ties of the old one. Call this after the rows of the
        batch were sealed (see `state.py`).
        """
        state = self._state
        if self._spills and state.latest_rows[-1][EVENT_AT] != self._at_us:
            self.changes |= dict.fromkeys(key for key, _ in rows_of(self._plan, self._kv, self._name))
        elif self._spills:
            self._spill([row for row in state.latest_rows if _place(row) < self._least])
            if len(state.latest_rows) < KEPT:
                self._reload()
        if len(state.latest_rows) > 2 * KEPT:
            self._spill(state.latest_rows[:-KEPT])

    def _spill(self, rows: list[Row]) -> None:
        for row in rows:
            self._put(row)
        self._state.latest_rows = self._state.latest_rows[len(rows) :]

    def _reload(self) -> None:
        stored = dict[bytes, bytes | None](rows_of(self._plan, self._kv, self._name))
        rows = [_decode(packed) for packed in (stored | self.changes).values() if packed is not None]
        rows.sort(key=_order)
        best = rows[-KEPT:]
        self.changes |= dict.fromkeys(key_of(self._plan, self._name, row) for row in best)
        self._state.latest_rows = best + self._state.latest_rows

    def _put(self, row: Row) -> None:
        self.changes[key_of(self._plan, self._name, row)] = _encode(row)


def beyond(plan: ViewPlan, name: bytes, state: EntityState) -> Iterator[tuple[bytes, bytes]]:
    """Limit the tied rows of a state that was computed from history. Yield the keys and values of the removed ones."""
    if not plan.keyed and len(state.latest_rows) > 2 * KEPT:
        for row in state.latest_rows[:-KEPT]:
            yield key_of(plan, name, row), _encode(row)
        state.latest_rows = state.latest_rows[-KEPT:]


def key_of(plan: ViewPlan, name: bytes, row: Row) -> bytes:
    """Return the key of a row of an entity."""
    event_at_us: int = row[EVENT_AT]
    return _prefix(plan, name) + (_LAST - event_at_us).to_bytes(8, "big") + name_bytes(row[ID])


def rows_of(plan: ViewPlan, kv: KeyValue, name: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of all stored rows of an entity, sorted by key."""
    prefix, after = _prefix(plan, name), b""
    while found := list(kv.scan(prefix, after=after, limit=_SCAN)):
        yield from found
        after = found[-1][0]


def _prefix(plan: ViewPlan, name: bytes) -> bytes:
    return plan.keys.rows + bytes([len(name)]) + name


def _place(row: Row) -> Row:
    return row[KNOWN_AT : POSITION + 1]


def _order(row: Row) -> Row:
    return row[: POSITION + 1]
