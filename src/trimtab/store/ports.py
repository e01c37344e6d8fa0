"""The five ports: the protocols of every backend. Contract suites for them are in `trimtab.testing`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import msgspec

from trimtab.core.columns.data import Columns

_Stored = TypeVar("_Stored")


class LogRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):  # the struct can hold no reference cycle
    """One record of a log: its position, append time and payload."""

    partition: str
    position: int  # 1, 2, ... within the partition; never used twice
    appended_at_us: int  # never decreases within a partition
    payload: bytes


class Log(Protocol):
    """An append-only log of partitions. Each writing process appends to a partition of its own."""

    @property
    def partition(self) -> str:
        """The partition that this process appends to (taken at the first append or at this call)."""
        ...

    def append(self, payloads: Sequence[bytes], *, at_us: Sequence[int] | None = None) -> range:
        """Append all of `payloads` or none, and return their positions once they are safe.

        `at_us` are their append times (for a replay). If left out, the time of the clock. A time below the partition's
        last append time is raised to that time. Thread-safe: appends that arrive together share one sync.
        """
        ...

    def read(self, partition: str, after: int, *, limit: int = 10_000) -> list[LogRecord]:
        """Return up to `limit` records with position > `after`, in order.

        Raises Corrupt at the first damaged record.
        """
        ...

    def positions(self) -> dict[str, int]:
        """Return the last position of every partition."""
        ...

    def truncate(self, partition: str, through: int) -> int:
        """Remove the records up to and including `through`, and return their number.

        Their positions are not used again.
        """
        ...

    def erase(self, partition: str, instead: Mapping[int, bytes]) -> int:
        """Replace the payloads of records, by position, and return the number replaced. Append times stay.

        When it returns, neither the old payloads nor truncated payloads are on any page of the disk. Raises Conflict,
        and does nothing, while another process writes the partition.
        """
        ...

    def mark(self) -> Hashable | None:
        """Return a value that stays the same only while no process appends, or None if there is no cheap value."""
        ...

    def maintenance(self) -> None:
        """Do the work that appends otherwise do now and then, such as a checkpoint. Appends wait meanwhile.

        After the first call, appends do this work themselves only when it is long overdue. Raises Unavailable.
        """
        ...

    def close(self) -> None: ...


@runtime_checkable
class Repairable(Protocol):
    """A log whose partitions can be repaired after a loss, or after a wrong clock stamped records."""

    def skip_to(self, partition: str, position: int, again: Iterable[tuple[bytes, int]]) -> None:
        """Continue a partition after `position`, without the records up to there, and append payloads with their
        append times.

        The call does all of this or nothing. A missing partition is made.
        """
        ...

    def restamp(self, partition: str, above_us: int, at_us: int) -> int:
        """Set the append time of records appended after `above_us` to `at_us`, and return their number."""
        ...


class Table(Protocol):
    """One table of record. Rows are appended with the log position from which they came."""

    def append(self, rows: Columns, *, writer: str, position: int) -> bool:
        """Add rows in one commit that also stores `position` for `writer`.

        If the writer had reached `position` already, return False and do nothing.
        """
        ...

    def position(self, writer: str) -> int:
        """Return the last position committed for `writer`, or 0 when there is none."""
        ...

    def scan(self, names: Sequence[str] | None = None, *, version: int | None = None) -> Columns:
        """Return the rows (with all columns, or with those named) in the newest version or in `version`."""
        ...

    def erase(self, rows: Columns, instead: Columns | None = None) -> int:
        """Remove every row that equals one of `rows` in all of its columns, even from files of older versions.

        The rows `instead` are added in the same commit. Returns the number of removed rows.
        """
        ...

    def compact(self) -> None:
        """Merge small files into large files. The rows stay the same."""
        ...

    def version(self) -> int:
        """Return the newest version, or -1 while the table is empty."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Prunable(Protocol):
    """A table whose rows can be removed by an SQL condition. In the condition, `rows` is the table."""

    def prune(self, condition: str) -> int:
        """Remove the rows that fulfil `condition`, in one commit, and return their number."""
        ...

    def count(self, condition: str = "true") -> int:
        """Return the number of rows that fulfil `condition`."""
        ...

    def vacuum(self, older_h: int) -> int:
        """Delete files that are needed only by versions replaced `older_h` hours ago, and return the bytes freed."""
        ...


@runtime_checkable
class Copyable(Protocol):
    """A store that can copy a consistent snapshot of itself while other processes write to it."""

    def copy_to(self, to: Path, /) -> object: ...


@runtime_checkable
class InFolder(Protocol):
    """A store whose files are in a folder of this machine, in which related files can be kept."""

    folder: Path | None  # None: the store has no folder


class KeyValue(Protocol):
    """A map of bytes to bytes. One process writes, and many read. A write is all or nothing, and synced."""

    def get(self, key: bytes) -> bytes | None: ...

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of all keys, read in one snapshot."""
        ...

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = ()) -> None:
        """Put and delete in one transaction.

        A view's log position is one of the keys, so it moves together with the view's state.
        """
        ...

    def release_writer(self) -> None:
        """Let another process write until this process writes again.

        A write makes its process the only writer.
        """
        ...

    def scan(self, prefix: bytes, *, after: bytes = b"", limit: int = 10_000) -> Iterator[tuple[bytes, bytes]]:
        """Yield up to `limit` pairs whose key starts with `prefix` and is greater than `after`, in key order."""
        ...

    def erase(self, keys: Iterable[bytes] = ()) -> None:
        """Delete keys so that neither they nor anything that was deleted or replaced earlier is on the disk any
        more.

        Raises Conflict, and does nothing, while another process has the store open.
        """
        ...

    def reopen_if_replaced(self, *, make: bool = False) -> bool:
        """Open the store again if its files were removed or replaced, and return whether they were.

        Raises Unavailable if the files are missing. With `make`, which is for the writer, an empty store is made
        instead.
        """
        ...

    def close(self) -> None: ...


class Place(Protocol):
    """The place of a key-value store. Unlike opening the store, a look at its place makes nothing."""

    def mark(self) -> Hashable | None:
        """Return a value that changes when the store is replaced by another one, or None while there is no store."""
        ...

    def is_aside(self) -> bool:
        """Return whether `fresh` is running, or was killed."""
        ...

    def drop_aside(self) -> None:
        """Delete what a killed `fresh` has left."""
        ...

    def fresh(self, opened: Callable[[], KeyValue]) -> AbstractContextManager[None]:
        """Start with an empty store, even if the old store is too damaged to open. `opened` gives the open store."""
        ...


class Blob(Protocol):
    """Bytes by the SHA-256 of their content."""

    def put(self, data: bytes) -> str:
        """Store `data` and return its hash, 64 hexadecimal digits. The data are durable when it returns."""
        ...

    def get(self, digest: str) -> bytes:
        """Return the bytes. Raises NotFound, or Corrupt when the bytes no longer match their hash."""
        ...

    def exists(self, digest: str) -> bool: ...

    def delete(self, digest: str) -> bool:
        """Remove the blob. Returns False when it does not exist."""
        ...

    def close(self) -> None: ...


class StoredBlob(msgspec.Struct, frozen=True):
    """Size and time of a stored blob."""

    digest: str
    size_bytes: int
    put_at_us: int  # the last `put`, by the store's clock


@runtime_checkable
class Listed(Protocol):
    """A blob store that lists its blobs with size and age, so that unused ones can be removed."""

    def stored(self, digest: str) -> StoredBlob | None:
        """Return one blob's size and time, or None when it does not exist."""
        ...

    def all(self) -> Iterator[StoredBlob]:
        """Yield every blob, in no order. A blob that is put or removed meanwhile may or may not be included."""
        ...

    def expire(self, digest: str, before_us: int) -> bool:
        """Remove a blob unless it was put since a time. Returns False if it stays or does not exist."""
        ...

    def sweep(self, before_us: int, *, look: bool = False) -> int:
        """Remove partial files that killed processes left before a time, and return their bytes.

        With `look`, only count the bytes.
        """
        ...


class Record(msgspec.Struct, frozen=True):
    """A small named document of the catalogue, and the number of times it was written."""

    kind: str
    key: str
    revision: int  # 1 after the first write
    body: bytes  # JSON


class Entry(msgspec.Struct, frozen=True):
    """One line of an append-only journal of the catalogue."""

    journal: str
    sequence: int  # 1, 2, 3, ... without gaps within the journal
    at_us: int
    body: bytes  # JSON


class Put(msgspec.Struct, frozen=True, tag="put"):
    """Write a record. `expected` is the revision that it must have now (0: it must not exist, None: any)."""

    kind: str
    key: str
    body: bytes
    expected: int | None = None


class Remove(msgspec.Struct, frozen=True, tag="remove"):
    """Remove a record. `expected` is as in `Put`."""

    kind: str
    key: str
    expected: int | None = None


class Append(msgspec.Struct, frozen=True, tag="append"):
    """Add a line to a journal. `expected` is the sequence number that it must get (None: the next number)."""

    journal: str
    at_us: int
    body: bytes
    expected: int | None = None


class Catalog(Protocol):
    """Small records, append-only journals and leases, which several processes change in transactions."""

    def get(self, kind: str, key: str) -> Record | None: ...

    def find(self, kind: str, prefix: str = "") -> list[Record]:
        """Return records of a kind whose key starts with `prefix`, in the order of their keys."""
        ...

    def write(self, changes: Sequence[Put | Remove | Append]) -> None:
        """Make all changes or none. Raises Conflict, which names the first change whose `expected` did not hold."""
        ...

    def journal(self, name: str, *, after: int = 0, limit: int = 10_000) -> list[Entry]:
        """Return up to `limit` lines with sequence > `after`, in order."""
        ...

    def acquire(self, lease: str, holder: str, ttl_s: float) -> bool:
        """Take or renew a lease. Returns False while another holder has the lease and it has not expired."""
        ...

    def release(self, lease: str, holder: str) -> None:
        """Release a lease. Does nothing if `holder` does not hold the lease."""
        ...

    def mark(self) -> Hashable | None:
        """Return a value that stays the same only while no process writes, or None if there is no cheap value."""
        ...

    def close(self) -> None: ...


def read_record(catalog: Catalog, kind: str, key: str, what: type[_Stored]) -> _Stored | None:
    """Return what a record holds, or None if there is no such record."""
    record = catalog.get(kind, key)
    return None if record is None else msgspec.json.decode(record.body, type=what)
