"""The events of the last six weeks, for the checks of inputs: kept in files, to which each tick adds what is new."""

from __future__ import annotations

import threading
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.app.state.state import INDEX
from trimtab.app.system import System
from trimtab.core.columns.data import Column, Columns, Dtype
from trimtab.core.errors import Conflict, Unavailable
from trimtab.core.time import DAY_US
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.columns.key_index import hashes_of
from trimtab.events.columns.versions import Versions
from trimtab.events.definitions import Source
from trimtab.events.records import decode_all, decode_heads
from trimtab.events.tables import recorded_between
from trimtab.features.definitions import Label
from trimtab.features.labels import outcome_column, positives
from trimtab.monitoring.inputs.checks.feeds import REACH_US
from trimtab.store.durable_files import make_folder
from trimtab.store.file_lock import FileLock
from trimtab.store.ports import LogRecord, Put

KIND = "recent_events"  # the kind of the catalogue record
_KEY = "all"
# if a source has more events in the last six weeks than this, a sample of them is kept (60 bytes for each event)
_MOST = 1_000_000
# old events are dropped if they are more than this and more than half of all, or if there are over `_MOST` events
_FEW = 10_000
_BATCH = 100_000
# the fields of a row; after them come the values of its columns, and then whether each value is present
_FIELDS = [
    ("event_at", "<i8"),
    ("known_at", "<i8"),
    ("position", "<i8"),
    ("loaded_h", "<i4"),
    ("hash", "<u4"),
    ("partition", "<i2"),
    ("deleted", "?"),
]
_Rows = NDArray[Any]


class _File(msgspec.Struct, frozen=True):
    """The file with the recent events of one source."""

    name: str
    columns: dict[str, Dtype]  # numbers, what names entities (texts as hashes), whether labels are positive
    step: int = 1  # a power of two: events whose id has a hash divisible by it are in the sample
    rows: int = 0
    checksum: int = 0


class _Stored(msgspec.Struct, frozen=True):
    """The catalogue record: the files, and the log positions up to which they have the events."""

    positions: dict[str, int] = {}
    partitions: list[str] = []  # the names of partitions of the log; rows refer to them by their index in this list
    files: dict[str, _File] = {}  # by source


class RecentEvents:
    """The versions of events that became known in the last six weeks, for the sources that deployed models read.

    Of the versions that became known earlier, at least the one with the newest event time is kept, and one for each
    hour in which a file was loaded. If a source has over a million recent versions, only those of about every second id
    are kept, or of every fourth, and so on. Kept are the times of a version, its position in the log, its columns of
    numbers, the columns by which a view groups events (texts as hashes), and whether its label is positive.

    New records are compared with the earlier versions of their events, which an index finds. So the kept versions are
    as if the whole log had been read. If a file is damaged, or the record in the catalogue is about another log or
    other columns, all files are made again from the log.
    """

    def __init__(self, system: System) -> None:
        self._system = system
        self._stored = _Stored()
        self._revision = -1  # of the catalogue record that was read or written last
        self._rows: dict[str, _Rows] = {}
        self._frames: dict[str, EventFrame] = {}
        self._mutex = threading.RLock()

    def frame(self, source: str) -> EventFrame:
        """Return the recent events of a source. Until there are new ones, this returns the same object.

        It only has some columns (see the class; `outcome_column`), and no version is marked as superseded.
        """
        with self._mutex:
            self._refresh()
            if source not in self._frames:
                self._frames[source] = self._frame(source)
            return self._frames[source]

    def _sources(self) -> list[Source]:
        declared = self._system.definitions
        models = [one.model for one in declared.deployments.values()]
        names = {model.label.source.name for model in models}
        names |= {view.source.name for model in models for view in model.features.views}
        return [declared.sources[name] for name in sorted(names & declared.sources.keys())]

    def _columns(self, source: Source) -> dict[str, Dtype]:
        """Return the columns to keep of a source, with the types that they are kept as."""
        models = [one.model for one in self._system.definitions.deployments.values()]
        views = [view for model in models for view in model.features.views if view.source.name == source.name]
        entities = {name for view in views for name in view.by}
        found: dict[str, Dtype] = {}
        for name, dtype in source.columns.items():
            if dtype in ("float", "int") or name in entities:
                found[name] = "float" if dtype == "float" else "int"
        return found | dict.fromkeys(self._labels(source), "bool")

    def _labels(self, source: Source) -> dict[str, Label]:
        """Return the labels of models with two classes that are read from a source, by their column in the file."""
        models = [one.model for one in self._system.definitions.deployments.values() if one.model.task == "binary"]
        return {outcome_column(one.label): one.label for one in models if one.label.source.name == source.name}

    def _refresh(self) -> None:
        record = self._system.state.catalog.get(KIND, _KEY)
        if self._revision != (0 if record is None else record.revision):
            self._revision = 0 if record is None else record.revision
            self._begin(_Stored() if record is None else msgspec.json.decode(record.body, type=_Stored))
        ends = self._system.state.events.positions()
        if any(self._stored.positions.get(name, 0) < end for name, end in ends.items()):
            before = self._stored
            self._read(ends)
            self._write(before)

    def _begin(self, stored: _Stored) -> None:
        """Read the files of a catalogue record, or begin without any."""
        ends, sources = self._system.state.events.positions(), self._sources()
        fits = all(position <= ends.get(name, position) for name, position in stored.positions.items())
        found: dict[str, _Rows] = {}
        for source in sources:
            file = stored.files.get(source.name)
            if fits and file is not None and file.columns == self._columns(source):
                with suppress(OSError):
                    rows = np.fromfile(self._folder / file.name, _kind(file.columns), count=file.rows)
                    if len(rows) == file.rows and zlib.crc32(rows.data) == file.checksum:
                        found[source.name] = rows
        if len(found) < len(sources):
            files = {one.name: _File(f"{one.name}.0.recent", self._columns(one)) for one in sources}
            stored = _Stored(files=files)
            found = {name: np.zeros(0, _kind(one.columns)) for name, one in files.items()}
        self._stored, self._rows, self._frames = stored, found, {}

    def _read(self, ends: dict[str, int]) -> None:
        """Add the records of the log up to some positions."""
        system, sources = self._system, self._sources()
        moved, positions = system.state.moved(sources), dict(self._stored.positions)
        partitions = list(dict.fromkeys([*self._stored.partitions, *sorted(ends)]))
        self._stored = msgspec.structs.replace(self._stored, partitions=partitions)
        for partition, end in ends.items():
            span = partition, positions.get(partition, 0), end
            for records, reached in recorded_between(system.state.events, moved, sources, span, batch=_BATCH):
                heads = decode_heads([one.payload for one in records])
                for source in sources:
                    mine = [n for n, head in enumerate(heads) if head.source == source.name]
                    upto = {**positions, partition: reached}
                    self._add(source, [records[n] for n in mine], [heads[n].id for n in mine], positions, upto)
                positions[partition] = reached
        self._stored = msgspec.structs.replace(self._stored, positions=positions)

    def _add(
        self, source: Source, records: list[LogRecord], ids: list[str], before: dict[str, int], upto: dict[str, int]
    ) -> None:
        """Add records of a source, between two positions of the log."""
        name, file, index = source.name, self._stored.files[source.name], self._system.event_ids
        if file.step > 1:
            sampled = np.flatnonzero(hashes_of(name, ids) % file.step == 0).tolist()
            records, ids = [records[n] for n in sampled], [ids[n] for n in sampled]
        if not ids:
            return
        again = index.seen(name, ids, before)
        again |= {one for one, times in Counter(ids).items() if times > 1} if len(set(ids)) < len(ids) else set()
        new = [record for record, event_id in zip(records, ids, strict=True) if event_id not in again]
        rows = self._rows[name]
        if again:
            versions = [one for one in index.find(source, again) if one.position <= upto.get(one.partition, 0)]
            new += versions
            places = np.array([_place(self._stored.partitions.index(r.partition), r.position) for r in versions])
            known = np.isin(_place(rows["partition"].astype(np.int64), rows["position"]), places)
            rows = rows[~known] if known.any() else rows
        more = np.concatenate([rows, self._made(source, new)])
        self._rows[name] = self._kept(name, more)
        self._frames.pop(name, None)

    def _made(self, source: Source, records: Sequence[LogRecord]) -> _Rows:
        """Return the versions of some events, given all of their records: repetitions do not count (see `Versions`)."""
        found, file = Versions(source, self._stored.partitions), self._stored.files[source.name]
        events = decode_all([one.payload for one in records])
        found.add(records, events)
        frame = found.frame()
        rows = np.zeros(frame.rows, _kind(file.columns))
        numbers = [self._stored.partitions.index(name) for name in frame.partitions]
        ids = {(one.partition, one.position): event.id for one, event in zip(records, events, strict=True)}
        places = zip(frame.partition.tolist(), frame.position.tolist(), strict=True)
        rows["hash"] = hashes_of(source.name, [ids[frame.partitions[part], position] for part, position in places])
        rows["partition"] = np.array(numbers, np.int16)[frame.partition]
        rows["event_at"], rows["known_at"], rows["position"] = frame.event_at_us, frame.known_at_us, frame.position
        rows["deleted"], rows["loaded_h"] = frame.deleted, frame.loaded_h
        labels = self._labels(source)
        for number, name in enumerate(file.columns):
            column = positives(labels[name], frame.columns) if name in labels else frame.columns[name]
            texts = column.dtype == "str"
            values = hashes_of(name, [one or "" for one in column.to_list()]) if texts else column.values
            rows[f"c{number}"], rows[f"v{number}"] = values, column.present()
        return rows

    def _kept(self, name: str, rows: _Rows) -> _Rows:
        """Drop old rows if there are many, and rows that are not in the sample if it has to be smaller."""
        old = rows["known_at"] <= self._system.clock.now_us() - REACH_US - DAY_US
        if old.sum() > max(_FEW, len(rows) // 2) or len(rows) > _MOST:
            needed = ~old
            if old.any():
                passed = np.flatnonzero(old)
                needed[passed[np.argmax(rows["event_at"][passed])]] = True
                needed[passed[np.unique(rows["loaded_h"][passed], return_index=True)[1]]] = True
            rows, old = rows[needed], old[needed]
        file = self._stored.files[name]
        step = file.step
        while len(rows) > _MOST:
            step *= 2
            chosen = old | (rows["hash"] % step == 0)
            rows, old = rows[chosen], old[chosen]
        files = {**self._stored.files, name: msgspec.structs.replace(file, step=step)}
        self._stored = msgspec.structs.replace(self._stored, files=files)
        return rows

    def _frame(self, source: str) -> EventFrame:
        rows, file = self._rows[source], self._stored.files[source]
        names = tuple(sorted(self._stored.partitions))
        numbers = np.array([names.index(one) for one in self._stored.partitions], np.int16)
        columns = {
            name: Column(dtype, np.ascontiguousarray(rows[f"c{n}"]), np.ascontiguousarray(rows[f"v{n}"]))
            for n, (name, dtype) in enumerate(file.columns.items())
        }
        return EventFrame(
            source=source,
            columns=Columns(columns),
            event_at_us=np.ascontiguousarray(rows["event_at"]),
            known_at_us=np.ascontiguousarray(rows["known_at"]),
            superseded_at_us=np.full(len(rows), NEVER_US),
            deleted=np.ascontiguousarray(rows["deleted"]),
            partition=numbers[rows["partition"]],
            position=np.ascontiguousarray(rows["position"]),
            partitions=names,
            loaded_h=np.ascontiguousarray(rows["loaded_h"]),
        )

    @property
    def _folder(self) -> Path:
        return self._system.state_folder / INDEX

    def _write(self, before: _Stored) -> None:
        """Store the rows, unless another process does, or the disk cannot be written: then they stay in memory."""
        with suppress(OSError, Conflict, Unavailable):
            make_folder(self._folder)
            lock = FileLock.take(self._folder / "recent.lock")
            if lock is None:
                return
            try:
                record = self._system.state.catalog.get(KIND, _KEY)
                if self._revision != (0 if record is None else record.revision):
                    return  # the next refresh reads what the other process has stored
                files = {name: self._written(name, before.files.get(name)) for name in self._rows}
                self._stored = msgspec.structs.replace(self._stored, files=files)
                body = msgspec.json.encode(self._stored)
                self._system.state.catalog.write([Put(KIND, _KEY, body, expected=self._revision)])
                self._revision += 1
                names = {one.name for one in files.values()}
                for path in self._folder.glob("*.recent"):
                    if path.name not in names:
                        path.unlink(missing_ok=True)
            finally:
                lock.release()

    def _written(self, source: str, before: _File | None) -> _File:
        """Add the new rows of a source to its file. If rows in the file changed or were dropped, write a new file."""
        rows, file = self._rows[source], self._stored.files[source]
        continues = before is not None and before.rows <= len(rows) and before.name == file.name
        if continues and before is not None and zlib.crc32(rows[: before.rows].data) == before.checksum:
            with (self._folder / file.name).open("r+b" if before.rows else "wb") as out:
                out.seek(before.rows * rows.itemsize)
                out.write(rows[before.rows :].data)
                out.truncate()
            checksum = zlib.crc32(rows[before.rows :].data, before.checksum)
            return msgspec.structs.replace(file, rows=len(rows), checksum=checksum)
        name = f"{source}.{self._revision + 1}.recent"
        (self._folder / name).write_bytes(rows.data)
        return msgspec.structs.replace(file, name=name, rows=len(rows), checksum=zlib.crc32(rows.data))


def _kind(columns: Mapping[str, Dtype]) -> np.dtype[Any]:
    kinds = {"float": "<f8", "bool": "?"}
    numbers = [(f"c{n}", kinds.get(dtype, "<i8")) for n, dtype in enumerate(columns.values())]
    return np.dtype([*_FIELDS, *numbers, *((f"v{n}", "?") for n in range(len(columns)))])


def _place(partition: Any, position: Any) -> Any:
    return (partition << 48) + position
