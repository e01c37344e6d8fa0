"""The five ports: the protocols of every backend. Contract suites for them are in `trimtab.testing`."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from trimtab.core.columns.data import Columns


class LogRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):  # it can hold no cycle
    """One record of a log: its position, append time and payload."""

    partition: str
    position: int  # 1, 2, ... within the partition; never used twice
    appended_at_us: int  # never decreases within a partition
    payload: bytes


class Log(Protocol):
    """An append-only log of partitions; each writing process appends to a partition of its own."""

    @property
    def partition(self) -> str:
        """The partition that this process appends to (taken at the first append or at this call)."""
        ...

    def append(self, payloads: Sequence[bytes], *, at_us: Sequence[int] | None = None) -> range:
        """Append all of `payloads` or none, and return their positions once they are safe.

        `at_us` are their append times (a replay); left out, the clock's. A time below the partition's last one is
        raised to it. Thread-safe: appends that arrive together share one sync.
        """
        ...

    def read(self, partition: str, after: int, *, limit: int = 10_000) -> list[LogRecord]:
        """Up to `limit` records with position > `after`, in order. Raises Corrupt on the first damaged one."""
        ...

    def positions(self) -> dict[str, int]:
        """The last position of every partition."""
        ...

    def truncate(self, partition: str, through: int) -> int:
        """Remove the records up to and including `through`; their number. Positions are not used again."""
        ...

    def erase(self, partition: str, instead: Mapping[int, bytes]) -> int:
        """Replace the payloads of records, by position; the number replaced. Append times stay.

        When it returns, neither the old payloads nor truncated ones are on any page of the disk. Raises Conflict while
        another process writes the partition: nothing was done.
        """
        ...

    def mark(self) -> Hashable | None:
        """A value that stays the same only while no process appends; None: not cheaply known."""
        ...

    def maintenance(self) -> None:
        """Do the work that appends otherwise do now and then, such as a checkpoint; appends wait meanwhile.

        After the first call appends do it themselves only when it is long overdue. Raises Unavailable.
        """
        ...

    def close(self) -> None: ...


@runtime_checkable
class Repairable(Protocol):
    """A log whose partitions can be repaired after a loss, or after a wrong clock stamped records."""

    def skip_to(self, partition: str, position: int, again: Iterable[tuple[bytes, int]]) -> None:
        """Continue a partition after `position`, without the records up to there, and append payloads with their
        append times: all or nothing. A missing partition is made."""
        ...

    def restamp(self, partition: str, above_us: int, at_us: int) -> int:
        """Set the append time of records appended after `above_us` to `at_us`; their number."""
        ...


class Table(Protocol):
    """One table of record: rows are appended with the log position that they came from."""

    def append(self, rows: Columns, *, writer: str, position: int) -> bool:
        """Add rows in one commit that also stores `position` for `writer`; False, and nothing is done, when that
        writer had reached `position` already."""
        ...

    def position(self, writer: str) -> int:
        """The last position committed for `writer`; 0 when there is none."""
        ...

    def scan(self, names: Sequence[str] | None = None, *, version: int | None = None) -> Columns:
        """The rows (of all columns, or of those named) in the newest version or in `version`."""
        ...

    def erase(self, rows: Columns, instead: Columns | None = None) -> int:
        """Remove, also from older versions' files, every row that equals one of `rows` in all of its columns, and add
        the rows `instead`, in one commit; the number removed."""
        ...

    def compact(self) -> None:
        """Merge small files into large ones; the rows stay the same."""
        ...

    def version(self) -> int:
        """The newest version, -1 while the table is empty."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Prunable(Protocol):
    """A table whose rows can be removed by an SQL condition, in which `rows` is the table."""

    def prune(self, condition: str) -> int:
        """Remove the rows that fulfil `condition`, in one commit; their number."""
        ...

    def count(self, condition: str = "true") -> int:
        """The number of rows that fulfil `condition`."""
        ...

    def vacuum(self, older_h: int) -> int:
        """Delete files that only versions replaced `older_h` hours ago need; the bytes freed."""
        ...


@runtime_checkable
class Copyable(Protocol):
    """A store that can copy a consistent snapshot of itself while other processes write to it."""

    def copy_to(self, to: Path, /) -> object: ...


@runtime_checkable
class InFolder(Protocol):
    """A store whose files are in a folder of this machine, in which related files can be kept."""

    folder: Path | None  # None: it has no folder


class KeyValue(Protocol):
    """A map of bytes to bytes. One process writes, many read; a write is all or nothing and synced."""

    def get(self, key: bytes) -> bytes | None: ...

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of all keys, read in one snapshot."""
        ...

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = ()) -> None:
        """Put and delete in one transaction. A view's log position is one of the keys, so it moves with its state."""
        ...

    def release_writer(self) -> None:
        """Let another process write until this one writes again. A write makes its process the only writer."""
        ...

    def scan(self, prefix: bytes, *, after: bytes = b"", limit: int = 10_000) -> Iterator[tuple[bytes, bytes]]:
        """Up to `limit` pairs whose key starts with `prefix` and is greater than `after`, in key order."""
        ...

    def erase(self, keys: Iterable[bytes] = ()) -> None:
        """Delete keys so that neither they nor anything deleted or replaced before is on the disk any more.

        Raises Conflict while another process has the store open: nothing was done.
        """
        ...

    def reopen_if_replaced(self, *, make: bool = False) -> bool:
        """Open the store again if its files were removed or replaced; whether they were.

        Raises Unavailable if the files are missing; with `make`, for the writer, an empty store is made instead.
        """
        ...

    def close(self) -> None: ...


class Blob(Protocol):
    """Bytes by the SHA-256 of their content."""

    def put(self, data: bytes) -> str:
        """Store `data`; its hash, 64 hexadecimal digits. Durable when it returns."""
        ...

    def get(self, digest: str) -> bytes:
        """The bytes. Raises NotFound, or Corrupt when they no longer match their hash."""
        ...

    def exists(self, digest: str) -> bool: ...

    def delete(self, digest: str) -> bool:
        """Remove it; False when it was not there."""
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
        """One blob; None when it is not there."""
        ...

    def all(self) -> Iterator[StoredBlob]:
        """Every blob, in no order; one that comes or goes meanwhile may be among them or not."""
        ...

    def expire(self, digest: str, before_us: int) -> bool:
        """Remove one unless it was put since a time; False if it stays or was not there."""
        ...

    def sweep(self, before_us: int, *, look: bool = False) -> int:
        """Remove partial files that killed processes left before a time; their bytes. `look`: only count them."""
        ...


class Record(msgspec.Struct, frozen=True):
    """A small named document of the catalogue, and the number of its writes."""

    kind: str
    key: str
    revision: int  # 1 at the first write
    body: bytes  # JSON


class Entry(msgspec.Struct, frozen=True):
    """One line of an append-only journal of the catalogue."""

    journal: str
    sequence: int  # 1, 2, 3, ... without gaps within the journal
    at_us: int
    body: bytes  # JSON


class Put(msgspec.Struct, frozen=True, tag="put"):
    """Write a record; `expected` is the revision it must have now (0: must not exist, None: any)."""

    kind: str
    key: str
    body: bytes
    expected: int | None = None


class Remove(msgspec.Struct, frozen=True, tag="remove"):
    """Remove a record; `expected` as in `Put`."""

    kind: str
    key: str
    expected: int | None = None


class Append(msgspec.Struct, frozen=True, tag="append"):
    """Add a line to a journal; `expected` is the sequence number it must get (None: the next one)."""

    journal: str
    at_us: int
    body: bytes
    expected: int | None = None


class Catalog(Protocol):
    """Small records, append-only journals and leases, changed in transactions by several processes."""

    def get(self, kind: str, key: str) -> Record | None: ...

    def find(self, kind: str, prefix: str = "") -> list[Record]:
        """Records of a kind whose key starts with `prefix`, by key."""
        ...

    def write(self, changes: Sequence[Put | Remove | Append]) -> None:
        """All changes or none. Raises Conflict, naming the first one whose `expected` did not hold."""
        ...

    def journal(self, name: str, *, after: int = 0, limit: int = 10_000) -> list[Entry]:
        """Up to `limit` lines with sequence > `after`, in order."""
        ...

    def acquire(self, lease: str, holder: str, ttl_s: float) -> bool:
        """Take or renew a lease; False while another holder has it and it has not run out."""
        ...

    def release(self, lease: str, holder: str) -> None:
        """Release a lease; does nothing if `holder` does not hold it."""
        ...

    def mark(self) -> Hashable | None:
        """A value that stays the same only while no process writes; None: not cheaply known."""
        ...

    def close(self) -> None: ...
