"""An index of the event log: it finds the records with an id or a key without reading the whole log."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain, compress, pairwise
from pathlib import Path
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.events.columns.frames import EventFrame
from trimtab.events.columns.versions import Versions
from trimtab.events.definitions import Source
from trimtab.events.records import Event, Value, decode_all, decode_heads
from trimtab.events.tables import Moved, rows_where, table_records, within
from trimtab.store.durable_files import make_folder
from trimtab.store.log_order import append_order
from trimtab.store.ports import Log, LogRecord

_Hashes = NDArray[np.uint32]
_BLOCK = 4_096
_MANY = 64 * _BLOCK  # this many removed records are read from the tables of record at once
_TOGETHER = 64  # this many blocks are searched at once: 1 MB
_NEAR = 100  # records that are at most this far apart are read together


class _Known(msgspec.Struct, frozen=True, eq=False):
    """The hashes of a partition's records: whole blocks, shape (blocks, 4096), and the rest. 0: there is no key."""

    blocks: tuple[_Hashes, ...] = ()
    rest: _Hashes = np.zeros(0, np.uint32)

    @property
    def rows(self) -> int:
        return sum(one.size for one in self.blocks) + len(self.rest)

    def added(self, new: Sequence[_Hashes]) -> _Known:
        """Return these hashes, followed by new ones."""
        rest = np.concatenate([self.rest, *new])
        whole = len(rest) // _BLOCK * _BLOCK
        blocks = (*self.blocks, rest[:whole].reshape(-1, _BLOCK)) if whole else self.blocks
        return _Known(blocks, rest[whole:].copy())

    def search(self, wanted: _Hashes) -> tuple[NDArray[np.int64], _Hashes]:
        """Return the positions of all records whose hash is among `wanted`, and the hash at each."""
        # First find the hashes whose 20 highest bits equal those of a wanted hash: they are few. Each step searches a
        # few blocks, which fit into the processor's cache.
        heads = np.zeros(1 << 20, np.bool_)
        heads[wanted >> 12] = True
        positions, found, begin = [np.zeros(0, np.int64)], [self.rest[:0]], 1
        for part in (*self.blocks, self.rest[None]):
            for first in range(0, len(part), _TOGETHER):
                some = part[first : first + _TOGETHER]
                maybe = np.flatnonzero(some == wanted[0] if len(wanted) == 1 else heads[some >> 12])
                hashes = some[maybe // some.shape[1], maybe % some.shape[1]]
                there = np.isin(hashes, wanted)
                positions.append(maybe[there] + begin)
                found.append(hashes[there])
                begin += some.size
        return np.concatenate(positions), np.concatenate(found)


class KeyIndex:
    """For each record of the event log, in order, a hash of its source and its key: 32 bits.

    A search compares the hash of the wanted key with all of them (5 ms for 5,000,000), and reads the records where it
    occurs. The hashes of whole blocks of records are kept in a file for each partition. A file has for each block its
    hashes, the checksum of its last record, and a checksum of both. As files only depend on the log, any process may
    add to them at any time, and a damaged block, or a file about other records, is made again.

    Args:
        moved: Returns the tables of record, which have the records that were removed from the log.
        column: The source and the name of the column whose values are the keys. None: the keys are the ids of events,
            of all sources.
    """

    def __init__(
        self, log: Log, folder: Path, moved: Callable[[], Moved], *, column: tuple[Source, str] | None = None
    ) -> None:
        self._log = log
        self._folder = folder
        self._moved = moved
        self._column = column
        self._known: dict[str, _Known] = {}  # by partition
        self._stored: dict[str, int] = {}  # by partition: how many blocks its file has
        self._mutex = threading.Lock()

    def ids(self, source: Source, keys: Collection[Value]) -> set[str]:
        """Return the ids of the events of a source that have, or had, one of these keys."""
        return {event.id for event in decode_all([one.payload for one in self.find(source, keys)])}

    def find(self, source: Source, keys: Collection[Value]) -> list[LogRecord]:
        """Return all records of a source with one of these keys, ordered by append time, partition and position."""
        self.refresh()
        wanted = set(keys)
        hashes = np.unique(np.array([_hash(source.name, one) for one in wanted], np.uint32))
        found: list[LogRecord] = []
        for partition, known in self._known.items():
            found += self._read(source, partition, known.search(hashes)[0].tolist())
        events = decode_all([one.payload for one in found])
        mine = [r for r, e in zip(found, events, strict=True) if e.source == source.name and self._key(e) in wanted]
        return sorted(mine, key=append_order)

    def seen(self, source: str, ids: Sequence[str], before: Mapping[str, int]) -> set[str]:
        """Return which ids have a record up to some positions, and perhaps a few other ids with equal hashes."""
        self.refresh()
        hashes = hashes_of(source, ids)
        wanted, there = np.unique(hashes), [np.zeros(0, np.uint32)]
        for partition, known in self._known.items():
            positions, found = known.search(wanted)
            there.append(found[positions <= before.get(partition, 0)])
        return set(compress(ids, np.isin(hashes, np.concatenate(there)).tolist()))

    def refresh(self) -> None:
        """Add the hashes of the new records of the log, and store those of whole blocks."""
        with self._mutex:
            self._refresh()

    def _refresh(self) -> None:
        moved, ends = self._moved(), self._log.positions()
        for partition in {**moved.through, **ends}:
            end, truncated = ends.get(partition, 0), moved.through.get(partition, 0)
            known, last = self._known.get(partition), max(end, truncated)
            if known is None or known.rows > last:  # not read yet, or the log was replaced by an older copy
                known = self._load(partition, last)
            new: list[_Hashes] = []
            after = known.rows
            while after < last:
                new.append(self._hashes(partition, after, end, moved))
                after += len(new[-1])
            self._known[partition] = known.added(new) if new else known
            if known.rows // _BLOCK < after // _BLOCK:
                self._store(partition)

    def _key(self, event: Event) -> Value:
        if self._column is None:
            return event.id
        place = list(self._column[0].columns).index(self._column[1])
        return event.values[place] if place < len(event.values) else None

    def _hashes(self, partition: str, after: int, end: int, moved: Moved) -> _Hashes:
        """Return the hashes of some records after a position: from the log, or if they were removed, from tables."""
        records = self._log.read(partition, after, limit=_BLOCK) if after < end else []
        first = records[0].position if records else max(end, moved.through.get(partition, 0)) + 1
        if first > after + 1:
            return self._of_tables(partition, after, min(first - 1, after + _MANY), moved)
        if self._column is None:
            return _hashed((h.source, h.id) for h in decode_heads([one.payload for one in records]))
        events, name = decode_all([one.payload for one in records]), self._column[0].name
        return _hashed((e.source, self._key(e) if e.source == name else None) for e in events)

    def _of_tables(self, partition: str, after: int, last: int, moved: Moved) -> _Hashes:
        found = np.zeros(last - after, np.uint32)
        key = "_id" if self._column is None else self._column[1]
        for name, table in moved.tables.items():
            if self._column is None or name == self._column[0].name:
                rows = rows_where(table, within(partition, after, last), ["_position", key])
                if key in rows:
                    found[rows["_position"].values - after - 1] = _hashed((name, one) for one in rows[key].to_list())
        return found

    def _read(self, source: Source, partition: str, positions: Sequence[int]) -> list[LogRecord]:
        """Return the records at some positions; those that no longer exist are left out."""
        found: dict[int, LogRecord] = {}
        there = self._log.positions()
        for first, last in _runs(positions):
            if partition in there:
                records = self._log.read(partition, first - 1, limit=last - first + 1)
                found |= {one.position: one for one in records}
        removed = [one for one in positions if one not in found]
        table = self._moved().tables.get(source.name) if removed else None
        if table is not None:
            for first in range(0, len(removed), _BLOCK):
                some = ", ".join(map(str, removed[first : first + _BLOCK]))
                rows = rows_where(table, f'{within(partition, 0, removed[-1])} AND "_position" IN ({some})')
                found |= {one.position: one for one in table_records(source, rows)}
        return [found[one] for one in positions if one in found]

    def _load(self, partition: str, end: int) -> _Known:
        """Return the hashes of the sound blocks of a file, if it is about the records that the log has now."""
        self._stored[partition] = 0
        try:
            words = np.fromfile(self._file(partition), np.uint32)
        except OSError:
            return _Known()
        blocks = words[: len(words) // (_BLOCK + 2) * (_BLOCK + 2)].reshape(-1, _BLOCK + 2)
        sound = next((n for n, one in enumerate(blocks) if crc32(one[:-1].data) != one[-1]), len(blocks))
        if sound * _BLOCK > end or (sound and not self._is_last(partition, sound * _BLOCK, blocks[sound - 1, -2])):
            return _Known()
        self._stored[partition] = sound
        return _Known((blocks[:sound, :-2],))

    def _is_last(self, partition: str, position: int, checksum: np.uint32) -> bool:
        """Return whether the record at a position has this checksum; True if it was removed from the log."""
        if position > self._log.positions().get(partition, 0):
            return True
        records = self._log.read(partition, position - 1, limit=1)
        return not records or records[0].position > position or crc32(records[0].payload) == checksum

    def _store(self, partition: str) -> None:
        """Write the blocks that the file of a partition lacks. If that cannot be done, they stay in memory."""
        stored, lines = self._stored[partition], list[bytes]()
        there = self._log.positions().get(partition, 0)
        for number, block in enumerate(chain.from_iterable(self._known[partition].blocks)):
            if number >= stored:
                last = (number + 1) * _BLOCK
                records = self._log.read(partition, last - 1, limit=1) if last <= there else []
                check = crc32(records[0].payload) if records and records[0].position == last else 0
                line = np.append(block, np.uint32(check))
                lines.append(line.tobytes() + crc32(line.data).to_bytes(4, "little"))
        with suppress(OSError):  # the disk is full, or may not be written
            make_folder(self._folder)
            with self._file(partition).open("r+b" if stored else "wb") as file:
                file.seek(stored * 4 * (_BLOCK + 2))
                file.write(b"".join(lines))
                file.truncate()
            self._stored[partition] = stored + len(lines)

    def _file(self, partition: str) -> Path:
        what = "ids" if self._column is None else f"{self._column[0].name}.{self._column[1]}"
        return self._folder / f"{partition}.{what}"


def versions_of(index: KeyIndex, source: Source, ids: Collection[str]) -> EventFrame:
    """Return all versions of some events, as a `History` of the whole log has them."""
    records = index.find(source, ids)
    versions = Versions(source, list(dict.fromkeys(one.partition for one in records)))
    if records:
        versions.add(records, decode_all([one.payload for one in records]))
    return versions.frame()


def hashes_of(source: str, ids: Sequence[str]) -> NDArray[np.uint32]:
    """Return the hash of each event's id, as the index has it."""
    return _hashed((source, one) for one in ids)


def _hash(source: str, key: Value) -> int:
    """Return a hash, which is never 0, because 0 means that there is no key."""
    return crc32(key.encode() if isinstance(key, str) else msgspec.msgpack.encode(key), crc32(source.encode())) or 1


def _hashed(keys: Iterable[tuple[str, Value]]) -> _Hashes:
    return np.array([0 if key is None else _hash(source, key) for source, key in keys], np.uint32)


def _runs(positions: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first and the last position of groups of positions that are near each other."""
    ends = [n for n, (one, two) in enumerate(pairwise(positions), 1) if two - one > _NEAR or n % _BLOCK == 0]
    bounds = [0, *ends, len(positions)]
    return [(positions[a], positions[b - 1]) for a, b in pairwise(bounds) if b > a]
