"""For one view of a source with a key: the stored versions of each event, and an index of each entity's rows.

Let S be the latest append time that was applied. Of the versions of an event id, only those are kept that can still
matter when a later record arrives: the version that is valid at S, its repetitions, the version before them (if this is
a deletion, all versions back to the last one that is no deletion), and the versions that become known after S. # D33
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeAlias

import msgspec

from trimtab.events.columns.frames import NEVER_US
from trimtab.events.records import padded
from trimtab.features.online.packed.arrivals import Arrival, Names
from trimtab.features.online.packed.keys import EVENT_AT, GIVES, KNOWN_AT, PARTITION, POSITION, UNTIL, Row, name_bytes
from trimtab.features.online.packed.plan import ViewPlan
from trimtab.store.ports import KeyValue

Version: TypeAlias = tuple[Any, ...]  # known at, partition, position, event time, whether it is a deletion, values
Link: TypeAlias = tuple[bytes | None, Row]  # the entity (None: one of its columns is null) and the row of a version
_CHUNK = 64
_REPEATS = 64  # if a version is repeated more often, its first 31 and last 33 repetitions are kept
_LAST = 2**63 - 1

_encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(list[tuple[int, str, int, int, bool, tuple[Any, ...]]]).decode


class NewVersions:
    """The versions of events in one batch, for a source with a key. All views of the source share them.

    Args:
        ids: The id of each version's event.
        versions: The versions, in the order of the log.
        s_us: For each version, the append time S at which it is applied.
    """

    def __init__(self, ids: Sequence[str], versions: Sequence[Version], s_us: Sequence[int]) -> None:
        self.ids, self.versions, self.s_us = ids, versions, s_us
        self.names = list(map(name_bytes, ids))
        self.alone = [[version] for version in versions]  # the versions of an id that has only this one
        self.packed = list(map(_encode, self.alone))
        self.tails = [_falling(version[3]) + name for version, name in zip(versions, self.names, strict=True)]
        self.places = [version[1:3] for version in versions]
        self._rows: dict[Any, tuple[list[Row], Mapping[int, Mapping[int, str]]]] = {}

    @staticmethod
    def of(arrivals: list[Arrival], width: int) -> NewVersions:
        """Return the versions in the records of a source with `width` columns."""
        versions = [
            (known_at, r.partition, r.position, e.event_at_us, e.op == "delete", e.values)
            for _, known_at, r, e in arrivals
        ]
        ids, s_us = [event.id for _, _, _, event in arrivals], [s_us for s_us, _, _, _ in arrivals]
        return NewVersions(ids, [_widened(version, width) for version in versions], s_us)

    def rows(self, plan: ViewPlan) -> tuple[list[Row], Mapping[int, Mapping[int, str]]]:
        """Return the row of each version, as if its id had no other version, and the errors of failed series.

        The errors are by index of the version. Views that compute the same values get the same rows.
        """
        key = plan.values.content
        if key not in self._rows:
            live = [n for n, version in enumerate(self.versions) if not version[4]]
            gives, failed = plan.values.of_many([self.versions[n][5] for n in live])
            given = dict(zip(live, gives, strict=True))
            rows: list[Row] = [
                [v[3], v[0], v[1], v[2], NEVER_US, event_id, given.get(n)]
                for n, (v, event_id) in enumerate(zip(self.versions, self.ids, strict=True))
            ]
            errors = {live[n]: of_series for n, of_series in failed.items()}
            for n, of_series in errors.items():
                rows[n].append([*of_series])
            self._rows[key] = rows, errors
        return self._rows[key]

    def entities(self, plan: ViewPlan) -> list[bytes | None]:
        """Return the entity of each version."""
        return list(map(Names().__getitem__, [plan.entity_of(version[5]) for version in self.versions]))


class EntityChanges:
    """What one batch changes for an entity: rows that it adds or removes, and entries of the index.

    A row that the batch adds and later removes again is neither in `come` nor in `gone`.
    """

    def __init__(self) -> None:
        self.s_us: int | None = None  # S at the last change of a row; None: no row was changed
        self.gone: dict[tuple[str, int], Row] = {}  # by partition and position of the record
        self.come: dict[tuple[str, int], Row] = {}
        self.entries: dict[bytes, bytes | None] = {}  # by the ends of their keys (see `VersionIndex`); None: deleted


class VersionIndex:
    """The stored versions of one view, with the changes made by one batch.

    All versions of an event id are stored under one key of the store. In addition, each entity has an entry for each id
    whose newest version belongs to it. Its key ends with the event time, latest first, and the id, so that the rows of
    an interval are found.
    """

    def __init__(self, plan: ViewPlan, kv: KeyValue, names: Sequence[bytes] = ()) -> None:
        self.plan = plan
        self._kv = kv
        self._versions: dict[bytes, list[Version]] = {}  # versions by the name of their id (see `name_bytes`)
        # the encoded versions of changed ids by their names; None: not encoded yet, or there are no versions any more
        self._changed: dict[bytes, bytes | None] = {}
        self.entities: defaultdict[bytes, EntityChanges] = defaultdict(EntityChanges)
        self._load(list(dict.fromkeys(names)))

    def take(self, new: NewVersions, count: Counter[str]) -> list[tuple[Row, Mapping[int, str]]]:
        """Add the versions of a batch, and count them. Return the rows for which series failed, with the errors."""
        versions, changed, entities = self._versions, self._changed, self.entities
        rows, errors = new.rows(self.plan)
        failed: list[tuple[Row, Mapping[int, str]]] = []
        each = zip(new.names, new.alone, new.packed, new.tails, new.places, new.entities(self.plan), rows, strict=True)
        for n, (name, alone, packed, tail, place, entity, row) in enumerate(each):
            if versions.get(name):
                come = self._correct(new, n, count)
                if n in errors:
                    failed += [(r, errors[n]) for owner, r in come if owner is not None and _place(r) == place]
                continue
            versions[name], changed[name] = alone, packed  # most ids have only one version
            deleted = row[GIVES] is None
            if deleted:
                count["corrections"] += 1
            if entity is None:
                count["no_entity"] += 1
                continue
            of_entity = entities[entity]
            of_entity.entries[tail] = b""
            if not deleted:  # a deletion does not make an entity known  # D4
                of_entity.s_us = new.s_us[n]
                of_entity.come[place] = row
            if n in errors:
                failed.append((row, errors[n]))
        return failed

    def _correct(self, new: NewVersions, n: int, count: Counter[str]) -> list[Link]:
        """Add a version of an id that has other versions. Return the added links."""
        s_us = new.s_us[n]
        gone, come = self._add(new.ids[n], new.versions[n], s_us)
        if not come:
            count["duplicates"] += 1
        elif gone or new.versions[n][4] or come[0][1][UNTIL] != NEVER_US:
            count["corrections"] += 1
        count["no_entity"] += any(entity is None for entity, _ in come)
        for entity, row in gone:
            if entity is not None:
                of_entity = self.entities[entity]
                of_entity.s_us = s_us
                if of_entity.come.pop(_place(row), None) is None:
                    of_entity.gone[_place(row)] = row
        for entity, row in come:
            if entity is not None and row[GIVES] is not None:  # a deletion does not make an entity known  # D4
                self.entities[entity].s_us = s_us
                self.entities[entity].come[_place(row)] = row
        return come

    def _add(self, event_id: str, version: Version, s_us: int) -> tuple[list[Link], list[Link]]:
        """Add a version of an id that is applied at append time S. Return the removed links, and the added ones.

        A link whose row gets another `UNTIL`, because its next version has changed, is among both. Versions that
        `needed` drops are not compared, because no read can see them any more.
        """
        name = name_bytes(event_id)
        versions = self._versions[name] = needed(self._versions.get(name, []), s_us)
        before = self.chain(event_id, versions)
        versions.append(version)
        versions.sort(key=_order)
        after = self.chain(event_id, versions)
        self._changed[name] = None
        if before:
            self._enter(name, before[-1], False)
        self._enter(name, after[-1], True)
        return [link for link in before if link not in after], [link for link in after if link not in before]

    def rows(self, entity: bytes, s_us: int, first_us: int, last_us: int) -> Iterator[Row]:
        """Yield the newest row of each id of an entity, if its event time is between two times, latest first.

        Deletions, and rows that became known after `s_us`, are left out.
        """
        for tail in self._found(entity, first_us, last_us):
            if tail[8:] not in self._versions:
                self._load([tail[8:]])
            chain = self.chain("", self._versions.get(tail[8:], []))
            if chain:
                owner, row = chain[-1]
                counts = row[KNOWN_AT] <= s_us and row[GIVES] is not None
                if counts and owner == entity and _falling(row[EVENT_AT]) == tail[:8]:
                    yield row

    def forget_before(self, entity: bytes, cut_us: int) -> None:
        """Delete up to 64 ids of an entity: those whose versions all happened and became known before `cut_us`."""
        found = list(islice(self._found(entity, -_LAST - 1, cut_us - 1), _CHUNK))
        self._load([tail[8:] for tail in found if tail[8:] not in self._versions])
        entries = self.entities[entity].entries
        for tail in found:
            name = tail[8:]
            if all(v[0] < cut_us and v[3] < cut_us for v in self._versions.get(name, [])):
                entries[tail] = None
                self._versions[name], self._changed[name] = [], None

    def changes(self) -> dict[bytes, bytes | None]:
        """Return the changed keys with their new values. None: the key is deleted."""
        for name, packed in self._changed.items():
            if packed is None and self._versions[name]:
                self._changed[name] = _encode(self._versions[name])
        parts = [(self.plan.keys.index, self._changed)]
        parts += [(self._prefix(entity), of.entries) for entity, of in self.entities.items()]
        changes: dict[bytes, bytes | None] = {}
        for prefix, changed in parts:
            changes.update(zip(map(prefix.__add__, changed), changed.values(), strict=True))
        return changes

    def chain(self, event_id: str, versions: list[Version]) -> list[Link]:
        """Return a link for each version that counts. A version that repeats the previous one does not count. # D4"""
        plan = self.plan
        counted: list[Version] = []
        for version in versions:
            if counted and _repeats(version, counted[-1]):
                continue
            if version[4] and counted:  # in a deletion, nulls are replaced by the values of the previous version
                filled = tuple(b if v is None else v for v, b in zip(version[5], counted[-1][5], strict=True))
                version = (*version[:5], filled)
            counted.append(version)
        chain: list[Link] = []
        for i, (known_at, partition, position, event_at, deleted, values) in enumerate(counted):
            until = counted[i + 1][0] if i + 1 < len(counted) else NEVER_US
            entity = plan.entity_of(values)
            row: Row = [event_at, known_at, partition, position, until, event_id, None]
            if not deleted:
                plan.give(row, values)
            chain.append((None if entity is None else name_bytes(entity), row))
        return chain

    def _enter(self, name: bytes, link: Link, there: bool) -> None:
        entity, row = link
        if entity is not None:
            self.entities[entity].entries[_falling(row[EVENT_AT]) + name] = b"" if there else None

    def _prefix(self, entity: bytes) -> bytes:
        return self.plan.keys.rows + bytes([len(entity)]) + entity

    def _found(self, entity: bytes, first_us: int, last_us: int) -> Iterator[bytes]:
        """Yield the ends of the keys of an entity's entries between two event times, latest first."""
        start, end = _falling(last_us), _falling(first_us) + b"\xff"
        entries = dict(self.entities[entity].entries)
        new = sorted(tail for tail, there in entries.items() if there is not None and start <= tail < end)
        stored = self._stored(self._prefix(entity), start, end)
        before = b""
        for tail in heapq.merge(stored, new) if new else stored:
            if tail != before and entries.get(tail, b"") is not None:
                yield tail
            before = tail

    def _stored(self, prefix: bytes, start: bytes, end: bytes) -> Iterator[bytes]:
        size = len(prefix)
        while True:
            found = [key[size:] for key, _ in self._kv.scan(prefix, after=prefix + start, limit=_CHUNK)]
            for tail in found:
                if tail >= end:
                    return
                yield tail
            if len(found) < _CHUNK:
                return
            start = found[-1]

    def _load(self, names: Sequence[bytes]) -> None:
        width = len(self.plan.columns)
        for name, packed in zip(names, self._kv.get_many([self.plan.keys.index + n for n in names]), strict=True):
            if packed is not None:
                self._versions[name] = [_widened(version, width) for version in decode(packed)]


def needed(versions: list[Version], s_us: int) -> list[Version]:
    """Return the versions of an id that can still matter at S or later, whatever else becomes known.

    Versions are sorted by known-at time, and a late record may be inserted before the version that is valid at S. This
    matters in two cases. First, if the record has the content of the valid version, the record counts instead of the
    valid version, which now repeats it. Second, if it has other content and comes between two equal versions, the later
    of these is no repetition any more, and counts. Besides, a deletion takes the values that it does not state from the
    version before it. Versions that are not needed for these cases are dropped.
    """
    first = next((i for i in range(len(versions) - 1, -1, -1) if versions[i][0] <= s_us), 0)
    in_force = first
    while first > 0 and _repeats(versions[first], versions[first - 1]):
        first -= 1
    run = first
    first = max(0, first - 1)
    while first > 0 and versions[first][4]:
        first -= 1
    if in_force - run > _REPEATS:
        half = _REPEATS // 2
        return versions[first : run + half] + versions[in_force - half :]
    return versions[first:]


def _widened(version: Version, width: int) -> Version:
    """Return a version with nulls for the columns that its source got after the version was recorded."""
    return version if len(version[5]) == width else (*version[:5], padded(version[5], width))


def _repeats(version: Version, before: Version) -> bool:
    """Return whether a version has the same content as the previous one. Two deletions always have."""
    return version[4] == before[4] and (version[4] or version[3:] == before[3:])


def _place(row: Row) -> tuple[str, int]:
    return row[PARTITION], row[POSITION]


def _order(version: Version) -> Any:
    return version[:3]


def _falling(at_us: int) -> bytes:
    """Return eight bytes for a time. Sorted by them, the latest time comes first."""
    return (_LAST - at_us).to_bytes(8, "big")
