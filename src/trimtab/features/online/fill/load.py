"""Compute the states of a view from a whole history. They give the same values as records applied one by one. # D31

Rows are processed entity by entity, and for each entity in the order of event times, so that each state is only encoded
once. To limit the memory, a long history is read several times, each time for a part of the entities.

In a source with a key, records with the same id are versions of one event, and a later version can move the event to
another entity. So a long history of such a source is read once for each part of the ids, and the versions of these
events are stored in the index of versions (`versions.py`). Afterwards the states are computed from this index, for one
part of the entities at a time. Versions that can no longer matter are not in the index. For their entities, a stub is
stored first: a state that only says that the entity exists, or from which event time on.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from typing import Any, Protocol

import msgspec

from trimtab.core.columns.data import Columns
from trimtab.events.columns.frames import NEVER_US
from trimtab.features.online.failures import Counts
from trimtab.features.online.fill.load_latest import LatestLoad, loads_columns
from trimtab.features.online.packed.keys import (
    EVENT_AT,
    FAILS,
    GIVES,
    ID,
    KNOWN_AT,
    POSITION,
    UNTIL,
    Row,
    floor,
    name_bytes,
)
from trimtab.features.online.packed.plan import ViewPlan
from trimtab.features.online.packed.state import EntityState
from trimtab.features.online.packed.ties import beyond
from trimtab.features.online.packed.versions import Link, NewVersions, Version, VersionIndex, decode, needed
from trimtab.store.ports import KeyValue

MOST_ROWS = 1_000_000  # the default number of rows in memory at once
_WRITE = 20_000  # how many keys one transaction writes
_STEP = 5_000  # how many rows are processed between two yields
_FALLING = 2**63 - 1

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class History(Protocol):
    """The rows of a history. They can be read several times, and their maximum number is known (see `SourceRows`)."""

    @property
    def most(self) -> int: ...

    def __iter__(self) -> Iterator[Columns]: ...


def load(
    kv: KeyValue, plan: ViewPlan, rows: History, s_us: int, count: Counts, *, most_rows: int = MOST_ROWS
) -> Iterator[int]:
    """Write the states of a view as of `s_us`. There must be no keys with the prefixes of `plan` yet.

    The work is done in small steps while the iterator is consumed. Each step yields how many rows were read, or ids
    processed, since the last step. A row that is read several times counts each time.

    Args:
        kv: The store to write to.
        plan: The compiled view. Its keys must belong to a new set of states that is not read yet.
        rows: All records of the view's source that the states are made from.
        s_us: The latest append time in the log up to the end of `rows` (called S in this file).
        count: The counts of `ViewApplied`, to which this load is added.
        most_rows: How many rows may be in memory at once.
    """
    parts = max(1, -(-rows.most // most_rows))
    for number in range(parts):
        part = _Part(number, parts)
        if loads_columns(plan):
            latest = LatestLoad(plan, s_us, count, _entity_states)
            for chunk in rows:
                latest.take(chunk, part)
                yield chunk.rows
            yield from _written_in_thread(kv, latest.states())
        elif plan.keyed:
            yield from _keyed(kv, plan, rows, s_us, count, part)
        else:
            yield from _plain(kv, plan, rows, s_us, count, part)
    if plan.keyed and parts > 1:
        for number in range(parts):
            yield from _keyed_states(kv, plan, s_us, _Part(number, parts))


class _Part:
    """One of several parts into which the names of entities, or ids of events, are divided by a hash."""

    def __init__(self, number: int, parts: int) -> None:
        self.number, self.parts = number, parts
        self.is_first = number == 0

    def has(self, name: bytes) -> bool:
        return self.parts == 1 or zlib.crc32(name) % self.parts == self.number


class _EntityRows:
    """The rows of each entity that are needed to compute its state at S."""

    def __init__(self, plan: ViewPlan, s_us: int) -> None:
        self.plan = plan
        self.s_us = s_us
        self.cut_us = plan.earliest_us(s_us) if plan.groups else NEVER_US  # no window contains events before this time
        self.last_us = s_us if plan.inclusive else s_us - 1  # the latest event time of rows that count at S
        self.rows: dict[bytes, list[Row]] = defaultdict(list)
        # Entities with rows that were omitted from `rows`, because they are in no window any more or were replaced.
        # Usually with an empty list. But if a source without a key has latest values, these need the newest of the rows
        # that are in no window, so the list has them (several if their event times are equal).
        self.omitted: dict[bytes, list[Row]] = {}
        # Versions that were replaced before S reached their event time never count, but their entity exists from the
        # earliest of these event times on. For each entity, this is the version with the earliest event time.
        self.known_from: dict[bytes, Row] = {}
        self._latest = bool(plan.latest)

    def omit(self, name: bytes, row: Row) -> bool:
        """If a row is in no window any more, omit it (see `omitted`), and return True.

        Return False if the row is in a window, or if S has not reached its event time and its known-at time.
        """
        if row[EVENT_AT] >= self.cut_us or row[EVENT_AT] > self.last_us or row[KNOWN_AT] > self.s_us:
            return False
        before = self.omitted.setdefault(name, [])
        if self._latest:
            if not before or row[EVENT_AT] > before[0][EVENT_AT]:
                self.omitted[name] = [row]
            elif row[EVENT_AT] == before[0][EVENT_AT]:
                before.append(row)
        return True

    def omit_replaced(self, name: bytes, row: Row) -> None:
        """Omit a version of an entity that was replaced at or before S.

        From the event time of this version on, a read finds that the entity exists, even if it has no other rows.
        """
        if row[EVENT_AT] <= self.last_us:
            self.omitted.setdefault(name, [])
        elif name not in self.known_from or row[EVENT_AT] < self.known_from[name][EVENT_AT]:
            self.known_from[name] = row

    def add_versions(self, chain: Iterable[Link]) -> None:
        """Add the versions of one event: a link (entity and row) for each. Deletions do not make an entity known."""
        for name, row in chain:
            if name is not None and row[GIVES] is not None:
                if row[UNTIL] <= self.s_us:
                    self.omit_replaced(name, row)
                else:
                    self.rows[name].append(row)

    def states(self) -> Iterator[tuple[bytes, EntityState]]:
        """Yield the state of each entity, sorted by name."""
        for name in sorted(self.rows.keys() | self.omitted.keys() | self.known_from.keys()):
            omitted = self.omitted.get(name)
            rows = [*(omitted or ()), *self.rows.get(name, ())]
            if name in self.known_from:
                rows.append(self.known_from[name])
            yield name, entity_state(self.plan, rows, self.s_us, known=omitted is not None)


def entity_state(plan: ViewPlan, rows: list[Row], s_us: int, *, known: bool = False) -> EntityState:
    """Return the state at `s_us` of an entity with the given rows.

    `known` says whether the entity also had rows that are not in `rows`, because they do not count any more.
    """
    state = EntityState(plan)
    state.seal(s_us)
    state.known = int(known)
    rows.sort(key=lambda row: row[: POSITION + 1])
    hop_us = plan.groups[0].hop_us if plan.groups else 0
    at, end = 0, len(rows)
    while at < end:  # a tile holds the sums over one step of a window; add all rows of one tile at once
        first = at
        at += 1
        if hop_us:
            behind = floor(rows[first][EVENT_AT], hop_us) + hop_us
            while at < end and rows[at][EVENT_AT] < behind:
                at += 1
        else:
            at = end
        state.unsealed.extend(rows[first:at])
        state.seal(s_us)
    return state


def _entity_states(plan: ViewPlan, groups: Mapping[bytes, list[Row]], s_us: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and encoded states of entities, for a source without a key. Repeated rows are removed."""
    return _packed(plan, ((name, entity_state(plan, _distinct(rows), s_us)) for name, rows in groups.items()))


def _packed(plan: ViewPlan, states: Iterable[tuple[bytes, EntityState]]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and encoded states of entities, and before each state the tied rows that it has no room for."""
    for name, state in states:
        yield from beyond(plan, name, state)
        yield plan.keys.states + name, state.pack()


def _plain(kv: KeyValue, plan: ViewPlan, rows: History, s_us: int, count: Counts, part: _Part) -> Iterator[int]:
    """Load events of a source without a key. Repetitions are found by event time and id."""
    entities = _EntityRows(plan, s_us)
    names: dict[Any, bytes] = {}
    # for each event, its row, its entity, and a checksum of its content
    firsts: dict[tuple[int, str], tuple[Row, bytes, bytes]] = {}
    forgets = plan.life is None  # without unlimited windows, old events need not be kept to find repetitions of them
    entity_of, expired = plan.entity_of, plan.expired
    for chunk in rows:
        if part.is_first:
            count["applied"] += chunk.rows
        for event_at, known_at, partition, position, event_id, op, values in _rows(plan, chunk):
            entity = entity_of(values)
            if op == "delete" or entity is None:
                if part.is_first:
                    count["refused_deletes" if op == "delete" else "no_entity"] += 1
                continue
            name = names.get(entity)
            if name is None:
                name = names[entity] = name_bytes(entity)
            if not part.has(name):
                continue
            count["too_late"] += expired(event_at, known_at)
            # the last element has the event's values until `plan.give` puts the values of the series there
            row = [event_at, known_at, partition, position, NEVER_US, event_id, values]
            if forgets and event_at < entities.cut_us and entities.omit(name, row):
                continue
            check = zlib.crc32(_encode(values)).to_bytes(4, "big")
            first, owner, content = firsts.setdefault((event_at, event_id), (row, name, check))
            if first is not row:
                count["duplicates" if content == check else "id_conflicts"] += 1
                if owner == name:
                    _take_earlier(first, row)
                continue
            count.fail(plan, row, plan.give(row, values))
            entities.rows[name].append(row)
        yield chunk.rows
    for omitted in entities.omitted.values():
        omitted[:] = _distinct(omitted)
        for row in omitted:
            count.fail(plan, row, plan.give(row, row[GIVES]))
    if plan.windowed:
        index = (
            (plan.keys.applied(event_at, event_id), content)
            for (event_at, event_id), (_, _, content) in sorted(firsts.items(), key=itemgetter(0))
        )
        yield from _written(kv, index)
    firsts.clear()
    yield from _written(kv, _packed(plan, entities.states()))


def _distinct(rows: Sequence[Row]) -> list[Row]:
    """Return one row for each event of an entity, with the earliest known-at time of its records."""
    firsts: dict[tuple[int, str], Row] = {}
    for row in rows:
        first = firsts.setdefault((row[EVENT_AT], row[ID]), row)
        if first is not row:
            _take_earlier(first, row)
    return list(firsts.values())


def _take_earlier(first: Row, again: Row) -> None:
    """Give a row the known-at time, partition and position of `again`, if they are earlier."""
    if again[KNOWN_AT : POSITION + 1] < first[KNOWN_AT : POSITION + 1]:
        first[KNOWN_AT : POSITION + 1] = again[KNOWN_AT : POSITION + 1]


def _keyed(kv: KeyValue, plan: ViewPlan, rows: History, s_us: int, count: Counts, part: _Part) -> Iterator[int]:
    """Load the versions of the ids in one part, for a source with a key, whose events may be corrected.

    If there is only one part, also write the states.
    """
    # for each id, its versions, each with the latest append time in the log up to the version's record
    versions: dict[str, list[tuple[int, Version]]] = {}
    for chunk in rows:
        if part.is_first:
            count["applied"] += chunk.rows
        applied_at = chunk["_s_at"].values.tolist()
        for of_row, s_at in zip(_rows(plan, chunk), applied_at, strict=True):
            event_at, known_at, partition, position, event_id, op, values = of_row
            if part.parts > 1 and not part.has(name_bytes(event_id)):
                continue
            count["too_late"] += plan.expired(event_at, known_at)
            version = (known_at, partition, position, event_at, op == "delete", values)
            versions.setdefault(event_id, []).append((s_at, version))
        yield chunk.rows
    entities = _EntityRows(plan, s_us)
    index = VersionIndex(plan, kv)
    keep: dict[bytes, bytes] = {}
    entries: list[bytes] = []
    for done, (event_id, arrived) in enumerate(versions.items(), 1):
        of_id = sorted((version for _, version in arrived), key=_version_order)
        chain = index.chain(event_id, of_id)
        if len(of_id) == 1 and len(chain[0][1]) <= FAILS:  # the usual case, which is counted faster
            count["corrections"] += of_id[0][4]
            count["no_entity"] += chain[0][0] is None
        else:
            _count_versions(kv, plan, event_id, arrived, count)
        kept = needed(of_id, s_us)
        # if all kept versions happened and became known before every window, none is stored
        if not plan.forever and all(v[0] < entities.cut_us and v[3] < entities.cut_us for v in kept):
            for owner, row in chain:
                if owner is not None and row[GIVES] is not None:
                    entities.omit_replaced(owner, row)
        else:
            entities.add_versions(chain)
            name = name_bytes(event_id)
            keep[plan.keys.index + name] = _encode(kept)
            owner, row = chain[-1]
            if owner is not None:
                falling = (_FALLING - row[EVENT_AT]).to_bytes(8, "big")
                entries.append(plan.keys.rows + bytes([len(owner)]) + owner + falling + name)
        if done % _STEP == 0:
            yield _STEP
    yield from _written(kv, sorted(keep.items()))
    yield from _written(kv, ((key, b"") for key in sorted(entries)))
    # with several parts, write only stubs here; `_keyed_states` writes the states later
    if part.parts > 1:
        entities.rows.clear()
        _read_stubs(kv, entities, [*entities.omitted, *entities.known_from])
    yield from _written(kv, _packed(plan, entities.states()))


def _keyed_states(kv: KeyValue, plan: ViewPlan, s_us: int, part: _Part) -> Iterator[int]:
    """Write the states of a part of the entities, from the index of versions and from stubs."""
    entities = _EntityRows(plan, s_us)
    index = VersionIndex(plan, kv)
    after = b""
    while found := list(kv.scan(plan.keys.index, after=after, limit=_STEP)):
        for _, packed in found:
            chain = index.chain("", decode(packed))
            entities.add_versions(link for link in chain if link[0] is not None and part.has(link[0]))
        after = found[-1][0]
        yield len(found)
    _read_stubs(kv, entities, [*entities.rows, *entities.omitted, *entities.known_from])
    yield from _written(kv, _packed(plan, entities.states()))


def _read_stubs(kv: KeyValue, entities: _EntityRows, names: Sequence[bytes]) -> None:
    """Read the stubs of these entities, and record that those with a stub had rows which are not in the index."""
    keys = [entities.plan.keys.states + name for name in names]
    for name, packed in zip(names, kv.get_many(keys), strict=True):
        if packed is not None:
            state = EntityState(entities.plan, packed)
            if state.known:
                entities.omitted.setdefault(name, [])
            for row in state.unsealed:
                entities.omit_replaced(name, row)


def _count_versions(
    kv: KeyValue, plan: ViewPlan, event_id: str, versions: Sequence[tuple[int, Version]], count: Counts
) -> None:
    """Count versions as `apply` would count them if they arrived in this order."""
    s_us, of_id = zip(*versions, strict=True)
    new = NewVersions([event_id] * len(of_id), of_id, s_us)
    for row, errors in VersionIndex(plan, kv, new.names).take(new, count):
        count.fail(plan, row, errors)


def _rows(plan: ViewPlan, chunk: Columns) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table: event time, known at, partition, position, id, operation, and the columns' values."""
    values = zip(*(chunk[name].to_list() for name in plan.columns), strict=True)
    fields = ("_event_at", "_known_at", "_partition", "_position", "_id", "_op")
    return zip(*(chunk[name].values.tolist() for name in fields), values, strict=True)


def _written(kv: KeyValue, pairs: Iterable[tuple[bytes, bytes]]) -> Iterator[int]:
    """Write pairs in transactions of limited size. Yield 0 (no rows were read) after each few thousand pairs."""
    puts: dict[bytes, bytes] = {}
    for key, value in pairs:
        puts[key] = value
        if len(puts) == _WRITE:
            kv.write(puts)
            yield 0
            puts = {}
        elif len(puts) % _STEP == 0:
            yield 0
    kv.write(puts)
    yield 0


def _written_in_thread(kv: KeyValue, pieces: Iterator[dict[bytes, bytes]]) -> Iterator[int]:
    """Write each piece in a transaction of its own, while the next piece is made.

    This saves time, because half of the time of a write is waiting for the disk. At each yield, nothing is being
    written.
    """
    with ThreadPoolExecutor(1, "trimtab-load") as thread:
        piece = next(pieces, None)
        while piece is not None:
            written = thread.submit(kv.write, piece)
            piece = next(pieces, None)
            written.result()
            yield 0


def _version_order(version: Version) -> Any:
    return version[:3]
