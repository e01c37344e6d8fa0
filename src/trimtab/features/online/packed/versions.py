"""For one view of a source with a key: the stored versions of each event, and an index of each entity's rows.

Let S be the latest append time that was applied. Of the versions of an event id, only those are kept that can still
matter when a later record arrives: the version that is valid at S, its repetitions, the version before them (if this is
a deletion, all versions back to the last one that is no deletion), and the versions that become known after S. # D33
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, TypeAlias

import msgspec

from trimtab.events.columns.frames import NEVER_US
from trimtab.events.records import padded
from trimtab.features.online.packed.keys import EVENT_AT, GIVES, KNOWN_AT, Row, name_bytes
from trimtab.features.online.packed.plan import ViewPlan
from trimtab.store.ports import KeyValue

Version: TypeAlias = list[Any]  # known at, partition, position, event time, whether it is a deletion, values
Link: TypeAlias = tuple[bytes | None, Row]  # the entity (None: one of its columns is null) and the row of a version
_CHUNK = 64
_REPEATS = 64  # if a version is repeated more often, its first 31 and last 33 repetitions are kept
_LAST = 2**63 - 1

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[list[Any]]).decode


class VersionIndex:
    """The stored versions of one view, with the changes made by one batch.

    All versions of an event id are stored under one key of the store. In addition, each entity has an entry for each id
    whose newest version belongs to it. Entries are sorted by event time, latest first, to find the rows of an interval.
    """

    def __init__(self, plan: ViewPlan, kv: KeyValue, ids: Sequence[str] = ()) -> None:
        self.plan = plan
        self._kv = kv
        self._versions: dict[bytes, list[Version]] = {}  # versions by the name of their id (see `name_bytes`)
        self._changed: set[bytes] = set()  # the names of ids whose versions have changed
        # for each entity, the keys of the entries to write (True) and to delete (False)
        self._entries: dict[bytes, dict[bytes, bool]] = {}
        names = list(dict.fromkeys(map(name_bytes, ids)))
        for name, packed in zip(names, kv.get_many([plan.keys.index + n for n in names]), strict=True):
            self._versions[name] = self._unpacked(packed)

    def add(self, event_id: str, version: Version, s_us: int) -> tuple[list[Link], list[Link]]:
        """Add a version of an id that is applied at append time S. Return the removed links, and the added ones.

        A link whose row gets another `UNTIL`, because its next version has changed, is among both. Versions that
        `needed` drops are not compared, because no read can see them any more.
        """
        name = name_bytes(event_id)
        if not self._versions[name]:  # most ids have only one version
            self._versions[name] = [version]
            self._changed.add(name)
            come = self.chain(event_id, [version])
            self._enter(name, come[0], True)
            return [], come
        versions = self._versions[name] = needed(self._versions[name], s_us)
        before = self.chain(event_id, versions)
        versions.append(version)
        versions.sort(key=_order)
        after = self.chain(event_id, versions)
        self._changed.add(name)
        if before:
            self._enter(name, before[-1], False)
        self._enter(name, after[-1], True)
        return [link for link in before if link not in after], [link for link in after if link not in before]

    def rows(self, entity: bytes, s_us: int, first_us: int, last_us: int) -> Iterator[Row]:
        """Yield the newest row of each id of an entity, if its event time is between two times, latest first.

        Deletions, and rows that became known after `s_us`, are left out.
        """
        for event_at, name in self._found(entity, first_us, last_us):
            chain = self.chain("", self._read(name))
            if chain:
                owner, row = chain[-1]
                if owner == entity and row[EVENT_AT] == event_at and row[KNOWN_AT] <= s_us and row[GIVES] is not None:
                    yield row

    def forget_before(self, entity: bytes, cut_us: int) -> None:
        """Delete up to 64 ids of an entity: those whose versions all happened and became known before `cut_us`."""
        for event_at, name in islice(self._found(entity, -_LAST - 1, cut_us - 1), _CHUNK):
            if all(v[0] < cut_us and v[3] < cut_us for v in self._read(name)):
                self._forget(entity, event_at, name)

    def changes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield the changed keys with their new values. None: the key is deleted."""
        for name in self._changed:
            versions = self._versions[name]
            yield self.plan.keys.index + name, _encode(versions) if versions else None
        for entries in self._entries.values():
            for key, there in entries.items():
                yield key, b"" if there else None

    def chain(self, event_id: str, versions: list[Version]) -> list[Link]:
        """Return a link for each version that counts. A version that repeats the previous one does not count. # D4"""
        plan = self.plan
        counted: list[Version] = []
        for version in versions:
            if counted and _repeats(version, counted[-1]):
                continue
            if version[4] and counted:  # in a deletion, nulls are replaced by the values of the previous version
                filled = [b if v is None else v for v, b in zip(version[5], counted[-1][5], strict=True)]
                version = [*version[:5], filled]
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
            self._entries.setdefault(entity, {})[self._prefix(entity) + _falling(row[EVENT_AT]) + name] = there

    def _forget(self, entity: bytes, event_at: int, name: bytes) -> None:
        self._entries.setdefault(entity, {})[self._prefix(entity) + _falling(event_at) + name] = False
        self._versions[name] = []
        self._changed.add(name)

    def _prefix(self, entity: bytes) -> bytes:
        return self.plan.keys.rows + bytes([len(entity)]) + entity

    def _found(self, entity: bytes, first_us: int, last_us: int) -> Iterator[tuple[int, bytes]]:
        """Yield event time and id (as a part of keys) of an entity's entries between two times, latest first."""
        prefix = self._prefix(entity)
        start, end = prefix + _falling(last_us), prefix + _falling(first_us) + b"\xff"
        entries = dict(self._entries.get(entity, {}))
        new = sorted(key for key, there in entries.items() if there and start <= key < end)
        before = b""
        for key in heapq.merge(self._stored(prefix, start, end), new):
            if key != before and entries.get(key, True):
                at = len(prefix) + 8
                yield _LAST - int.from_bytes(key[len(prefix) : at], "big"), key[at:]
            before = key

    def _stored(self, prefix: bytes, start: bytes, end: bytes) -> Iterator[bytes]:
        while True:
            found = [key for key, _ in self._kv.scan(prefix, after=start, limit=_CHUNK)]
            for key in found:
                if key >= end:
                    return
                yield key
            if len(found) < _CHUNK:
                return
            start = found[-1]

    def _read(self, name: bytes) -> list[Version]:
        if name not in self._versions:
            self._versions[name] = self._unpacked(self._kv.get(self.plan.keys.index + name))
        return self._versions[name]

    def _unpacked(self, packed: bytes | None) -> list[Version]:
        versions = [] if packed is None else _decode(packed)
        width = len(self.plan.columns)
        for version in versions:
            if len(version[5]) < width:  # stored before the source had all of its present columns
                version[5] = list(padded(version[5], width))
        return versions


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


def _repeats(version: Version, before: Version) -> bool:
    """Return whether a version has the same content as the previous one. Two deletions always have."""
    return version[4] == before[4] and (version[4] or version[3:] == before[3:])


def _order(version: Version) -> Any:
    return version[:3]


def _falling(at_us: int) -> bytes:
    """Return eight bytes for a time. Sorted by them, the latest time comes first."""
    return (_LAST - at_us).to_bytes(8, "big")
