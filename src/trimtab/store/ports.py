"""The five ports: a protocol for each kind of store. `trimtab.testing` has tests for implementations."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import msgspec

from trimtab.core.columns.data import Columns

_Stored = TypeVar("_Stored")


# gc=False is safe, because the struct can hold no reference cycle
class LogRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One record of a log: its position, append time and payload."""

    partition: str
    position: int  # 1, 2, ... within the partition; never used twice
    appended_at_us: int  # never decreases within a partition
    payload: bytes


class Log(Protocol):
    """A log that records are appended to. Each process that writes appends to a partition of its own."""

    @property
    def partition(self) -> str:
        """The partition that this process appends to. The first append or the first use of this property takes one."""
        ...

    def append(self, payloads: Sequence[bytes], *, at_us: Sequence[int] | None = None) -> range:
        """Append all of `payloads` or none. Return their positions once they are safe.

        `at_us` are the append times of the payloads, for a replay. By default, they are from the clock. A time before
        the partition's last append time is raised to that time. Threads that append at once share one sync.
        """
        ...

    def read(self, partition: str, after: int, *, limit: int = 10_000) -> list[LogRecord]:
        """Return up to `limit` records with position > `after`, in order.

        Raise Corrupt at the first damaged record.
        """
        ...

    def positions(self) -> dict[str, int]:
        """Return the last position of every partition."""
        ...

    def truncate(self, partition: str, through: int) -> int:
        """Remove the records up to and including position `through`, and return their number.

        Their positions are not used again.
        """
        ...

    def erase(self, partition: str, instead: Mapping[int, bytes]) -> int:
        """Replace the payloads at the given positions, but not the append times. Return how many were replaced.

        When this returns, the files have no bytes of the old payloads, nor of records that were removed before. If
        another process writes the partition, raise Conflict and do nothing.
        """
        ...

    def mark(self) -> Hashable | None:
        """Return a value that changes whenever a process appends. None: this log cannot find this out cheaply."""
        ...

    def maintenance(self) -> None:
        """Do work that appends would otherwise have to do, such as a checkpoint. Appends wait meanwhile.

        After the first call, appends only do this work if it is long overdue. If it cannot be done now, raise
        Unavailable.
        """
        ...

    def close(self) -> None: ...


@runtime_checkable
class Packing(Protocol):
    """A log that stores packs of payloads (`core.columns.packs`). When it is read, each payload is a record."""

    def append_packs(self, packs: Sequence[bytes], *, at_us: int | None = None) -> range:
        """Append the payloads in all packs or none, with one append time. Return their positions."""
        ...


@runtime_checkable
class Repairable(Protocol):
    """A log whose partitions can be repaired, after records were lost or were stamped by a wrong clock."""

    def skip_to(self, partition: str, position: int, again: Iterable[tuple[bytes, int]]) -> None:
        """Remove the records up to `position`, and append `again` (payloads and their append times) after it.

        All of this is done, or nothing. A partition that does not exist is created.
        """
        ...

    def restamp(self, partition: str, above_us: int, at_us: int) -> int:
        """Set the append time of all records appended after `above_us` to `at_us`, and return their number."""
        ...


class Table(Protocol):
    """A table to which rows are appended, each time with the log position up to which the rows were read."""

    def append(self, rows: Columns, *, writer: str, position: int) -> bool:
        """Add rows in one commit that also stores `position` for `writer`.

        If the writer has already reached `position`, return False and do nothing.
        """
        ...

    def position(self, writer: str) -> int:
        """Return the last position that was stored for `writer`, or 0 if there is none."""
        ...

    def scan(self, names: Sequence[str] | None = None, *, version: int | None = None) -> Columns:
        """Return the rows of the newest version, or of `version`, with the columns `names` (None: all columns)."""
        ...

    def erase(self, rows: Columns, instead: Columns | None = None) -> int:
        """Remove each row that equals one of `rows` in all columns of `rows`, even from the files of older versions.

        The rows `instead` are added in the same commit. Return the number of removed rows.
        """
        ...

    def compact(self) -> None:
        """Merge small files into large files. The rows do not change."""
        ...

    def version(self) -> int:
        """Return the number of the newest version, or -1 before the first append."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Prunable(Protocol):
    """A table whose rows can be read or removed by an SQL condition. In the condition, `rows` is the table."""

    def prune(self, condition: str) -> int:
        """Remove the rows that fulfil `condition`, in one commit, and return their number."""
        ...

    def count(self, condition: str = "true") -> int:
        """Return the number of rows that fulfil `condition`."""
        ...

    def rows(self, condition: str, names: Sequence[str] | None = None) -> Columns:
        """Return the rows that fulfil `condition`, with the columns `names` (None: all that the table has)."""
        ...

    def vacuum(self, older_h: int) -> int:
        """Delete files that the newest version has not needed for `older_h` hours. Return the bytes freed."""
        ...


@runtime_checkable
class Copyable(Protocol):
    """A store that can write a consistent copy of itself while other processes write to it."""

    def copy_to(self, to: Path, /) -> object: ...


@runtime_checkable
class InFolder(Protocol):
    """A store whose files are in a folder on this machine. Related files can be kept in the same folder."""

    folder: Path | None  # None: the store has no folder


class KeyValue(Protocol):
    """A map of bytes to bytes. One process writes, and many read. A write is synced and atomic."""

    def get(self, key: bytes) -> bytes | None: ...

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of all keys, from one snapshot."""
        ...

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = ()) -> None:
        """Store and delete pairs in one transaction.

        For example, the log position of a view has its own key, and changes together with the view's state.
        """
        ...

    def release_writer(self) -> None:
        """Let other processes write. (After a write, only the same process may write until it calls this or ends.)"""
        ...

    def scan(self, prefix: bytes, *, after: bytes = b"", limit: int = 10_000) -> Iterator[tuple[bytes, bytes]]:
        """Yield up to `limit` pairs whose key starts with `prefix` and is greater than `after`, in key order."""
        ...

    def erase(self, keys: Iterable[bytes] = ()) -> None:
        """Delete keys. Remove their data, and all data deleted or replaced earlier, from the disk.

        If another process has the store open, raise Conflict and do nothing.
        """
        ...

    def reopen_if_replaced(self, *, make: bool = False) -> bool:
        """If other files are in the store's place now, open it again. Return whether this was the case.

        If the files are missing, raise Unavailable. With `make`, which only the writer may set, create an empty store
        instead.
        """
        ...

    def close(self) -> None: ...


class Place(Protocol):
    """Where a key-value store is kept, such as a folder. Except for `fresh`, the methods do not open the store."""

    def mark(self) -> Hashable | None:
        """Return a value that changes when another store replaces this one; None while there is no store."""
        ...

    def is_aside(self) -> bool:
        """Return whether an old store is set aside, because `fresh` is running or was killed."""
        ...

    def drop_aside(self) -> None:
        """Delete the old store that a killed `fresh` has set aside."""
        ...

    def fresh(self, opened: Callable[[], KeyValue]) -> AbstractContextManager[None]:
        """Run the block with an empty store, even if the old one is damaged. If the block fails, put the old one back.

        `opened` returns the store, and opens it first if it is not open.
        """
        ...


class Blob(Protocol):
    """A store of byte strings, each under the SHA-256 of its content."""

    def put(self, data: bytes) -> str:
        """Store `data` and return its hash, 64 hexadecimal digits. When this returns, the data are durable."""
        ...

    def get(self, digest: str) -> bytes:
        """Return the bytes with a hash. Raise NotFound, or Corrupt if they no longer match the hash."""
        ...

    def exists(self, digest: str) -> bool: ...

    def delete(self, digest: str) -> bool:
        """Remove a blob. Return False if it does not exist."""
        ...

    def close(self) -> None: ...


class StoredBlob(msgspec.Struct, frozen=True):
    """The size of a stored blob, and the time of its last `put`."""

    digest: str
    size_bytes: int
    put_at_us: int  # by the store's clock


@runtime_checkable
class Listed(Protocol):
    """A blob store that lists its blobs with sizes and ages, so that unused blobs can be removed."""

    def stored(self, digest: str) -> StoredBlob | None:
        """Return the size and the time of one blob, or None if it does not exist."""
        ...

    def all(self) -> Iterator[StoredBlob]:
        """Yield every blob in any order. A blob that is stored or removed meanwhile may be included or missing."""
        ...

    def expire(self, digest: str, before_us: int) -> bool:
        """Remove a blob if its last `put` was before a time. Return whether it was removed."""
        ...

    def sweep(self, before_us: int, *, look: bool = False) -> int:
        """Remove unfinished files that killed processes left before a time. Return the number of bytes freed.

        If `look` is True, only count the bytes.
        """
        ...


class Record(msgspec.Struct, frozen=True):
    """A small named document in the catalogue. `revision` counts how often it was written."""

    kind: str
    key: str
    revision: int  # 1 after the first write
    body: bytes  # a JSON document


class Entry(msgspec.Struct, frozen=True):
    """One line of a journal in the catalogue. Lines are only appended."""

    journal: str
    sequence: int  # 1, 2, 3, ... without gaps within the journal
    at_us: int
    body: bytes  # a JSON document


class Put(msgspec.Struct, frozen=True, tag="put"):
    """A change that writes a record.

    `expected` is the revision that the record must have now. 0: the record must not exist. None: any revision.
    """

    kind: str
    key: str
    body: bytes
    expected: int | None = None


class Remove(msgspec.Struct, frozen=True, tag="remove"):
    """A change that removes a record. `expected` has the same meaning as in `Put`."""

    kind: str
    key: str
    expected: int | None = None


class Append(msgspec.Struct, frozen=True, tag="append"):
    """A change that adds a line to a journal.

    `expected` is the sequence number that the line must get. None: the next number.
    """

    journal: str
    at_us: int
    body: bytes
    expected: int | None = None


class Catalog(Protocol):
    """A store of small records, journals and leases, which several processes change in transactions."""

    def get(self, kind: str, key: str) -> Record | None: ...

    def find(self, kind: str, prefix: str = "") -> list[Record]:
        """Return the records of a kind whose keys start with `prefix`, in the order of their keys."""
        ...

    def write(self, changes: Sequence[Put | Remove | Append]) -> None:
        """Make all changes or none. If an `expected` is not met, raise Conflict with the first such change."""
        ...

    def journal(self, name: str, *, after: int = 0, limit: int = 10_000) -> list[Entry]:
        """Return up to `limit` lines with a sequence number above `after`, in order."""
        ...

    def acquire(self, lease: str, holder: str, ttl_s: float) -> bool:
        """Take or renew a lease for `ttl_s` seconds. Return False if another holder has it and it has not expired."""
        ...

    def release(self, lease: str, holder: str) -> None:
        """Release a lease. Do nothing if `holder` does not have the lease."""
        ...

    def mark(self) -> Hashable | None:
        """Return a value that changes whenever a process writes. None: this catalogue cannot find this out cheaply."""
        ...

    def vacuum(self) -> None:
        """Leave no bytes of replaced and removed records in the files. Raise Unavailable if they are being read."""
        ...

    def close(self) -> None: ...


def read_record(catalog: Catalog, kind: str, key: str, what: type[_Stored]) -> _Stored | None:
    """Return the document in a record, or None if there is no such record."""
    record = catalog.get(kind, key)
    return None if record is None else msgspec.json.decode(record.body, type=what)
