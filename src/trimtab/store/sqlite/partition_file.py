"""The file of one partition of a `SqliteLog`: its tables, its head row, and the check of its records."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from trimtab.core.columns.packs import packed_rows, unpack
from trimtab.core.errors import Corrupt, Misuse, Unavailable
from trimtab.store.durable_files import narrow, sync_directory
from trimtab.store.ports import LogRecord
from trimtab.store.sqlite.errors import SQLITE_RAISES, named

Mode = Literal["durable", "relaxed"]
FileId: TypeAlias = tuple[int, int]  # the device and inode number of a file

FORMAT, PACKED = 1, 2  # the formats of a file: 1, and 2 as soon as a pack was written to it
_APPLICATION = 0x74724C67  # the application id in the file's header: the letters "trLg"
_SCHEMA = """
CREATE TABLE record(
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    appended_at_us INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    payload BLOB NOT NULL
);
CREATE TABLE head(
    name TEXT NOT NULL,
    durable INTEGER NOT NULL,
    truncated_through INTEGER NOT NULL,
    truncated_at_us INTEGER NOT NULL,
    crc INTEGER NOT NULL
);
"""
# A row is one record, or a pack of several records, of which the last has the row's position. The `crc` of a pack is
# negative: all bits of the checksum are inverted. # D0222
SELECT = "SELECT position, appended_at_us, crc, payload FROM record"
SELECT_WITHOUT_PACKS = SELECT.replace("payload", "CASE WHEN crc < 0 THEN NULL ELSE payload END")
PREFIX = struct.Struct("<qq").pack


def file_id(path: str) -> FileId | None:
    """Return the device and inode number of the file at a path, or None if no file is there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def create(path: Path) -> None:
    """Create an empty partition file. The file is complete before it gets its name."""
    new = path.with_suffix(".new")
    try:
        for leftover in (new, Path(f"{new}-wal"), Path(f"{new}-shm"), Path(f"{new}-journal")):
            leftover.unlink(missing_ok=True)
        connection = sqlite3.connect(new, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            # allows `give_back` to return free pages to the disk
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.executescript(_SCHEMA)
            write_head(connection, Head(path.stem, True, 0, 0))
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()
        # these may be left from an earlier file of this name, and SQLite would apply them to the new file
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{path}{suffix}", f"{path}{suffix}.lost")
        narrow(new)
        new.rename(path)
        sync_directory(path.parent)
    except SQLITE_RAISES as error:
        raise named(error, str(path)) from error
    except OSError as error:
        raise Unavailable(f"{path}: cannot be made ({error}). Check free space and access, and try again.") from error


class Head(msgspec.Struct, frozen=True):
    """The single row that describes a partition's file."""

    name: str
    # whether the last writer used the mode `durable`; if not, a power cut may have damaged the write-ahead log
    durable: bool
    truncated_through: int  # records up to this position were removed; 0: none
    truncated_at_us: int  # the append time of the last of these; 0 if `skip_to` removed them

    def crc(self) -> int:
        return zlib.crc32(repr(msgspec.structs.astuple(self)).encode())


def check_format(connection: sqlite3.Connection, path: Path) -> Head:
    """Check that the file has a format that this version reads, and return the file's head row."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION:
        raise Corrupt(f"{path}: not a trimtab log (application id {application:#x}). Move it away, or restore it.")
    if version not in (FORMAT, PACKED):
        raise Misuse(f"{path}: log format {version}, this trimtab reads up to {PACKED}. Use the trimtab that wrote it.")
    return read_head(connection, path)


def read_head(connection: sqlite3.Connection, path: Path) -> Head:
    """Read the head row. Check its checksum, and that it names this file."""
    query = "SELECT name, durable, truncated_through, truncated_at_us, crc FROM head"
    try:
        ((name, durable, through, at_us, crc),) = connection.execute(query).fetchall()
        head = Head(name.decode(), durable == 1, through, at_us)
        sound = crc == head.crc()
    except (ValueError, AttributeError):  # damage can remove the row, or make it undecodable
        sound = False
    if not sound:
        raise Corrupt(f"{path}: its head row is damaged. Restore the partition from a copy, or move its files away.")
    if head.name != path.stem:
        raise Misuse(f"{path}: this is partition {head.name!r} under another name. Give it its own name back.")
    return head


def write_head(connection: sqlite3.Connection, head: Head) -> None:
    """Write the head row in place of the old one."""
    connection.execute("DELETE FROM head")
    row = (head.name, int(head.durable), head.truncated_through, head.truncated_at_us, head.crc())
    connection.execute("INSERT INTO head VALUES (?,?,?,?,?)", row)


def sequence(connection: sqlite3.Connection, head: Head) -> int:
    """Return the last position ever used, even if its record was removed. (SQLite's AUTOINCREMENT keeps it.)"""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'record'").fetchone()
    return head.truncated_through if row is None else int(row[0])


class StoredRow(msgspec.Struct, frozen=True):
    """A row of the file: one record, or a pack of the records `first` to `position`."""

    first: int
    position: int
    at_us: int
    payload: bytes
    is_pack: bool

    @property
    def rows(self) -> int:
        """Return the number of records."""
        return self.position - self.first + 1


def crc_of(payload: bytes, position: int, at_us: int, *, is_pack: bool = False) -> int:
    """Return the `crc` of a row."""
    crc = zlib.crc32(payload, zlib.crc32(PREFIX(position, at_us)))
    return ~crc if is_pack else crc


def stored(rows: Iterable[tuple[int, int, int, bytes]], path: Path, after: int | None = None) -> Iterator[StoredRow]:
    """Yield the rows of a query. Check their checksums and, with `after`, that they follow it without a gap.

    Raises:
        Corrupt: A row is damaged, or a record is missing.
    """
    for position, at_us, crc, payload in rows:
        try:
            is_pack = crc < 0
            sound = crc == crc_of(payload, position, at_us, is_pack=is_pack)
        except (TypeError, struct.error):  # damage can turn a number into a text
            sound = False
        if not sound:
            raise _damaged(path, position)
        first = position - packed_rows(payload) + 1 if is_pack else position
        if after is not None and not first <= after + 1 <= position:
            raise missing(path, after + 1, first)
        after = position
        yield StoredRow(first, position, at_us, payload, is_pack)


def verified(rows: list[tuple[int, int, int, bytes]], after: int, path: Path) -> list[LogRecord]:
    """Return rows that are no packs as records. Check their checksums, and that they follow `after` without a gap."""
    crc32, prefix, name = zlib.crc32, PREFIX, path.stem
    records = []
    for position, at_us, crc, payload in rows:
        after += 1
        try:
            sound = crc == crc32(payload, crc32(prefix(position, at_us)))
        except (TypeError, struct.error):  # damage can turn a number into a text
            sound = False
        if position != after:
            raise missing(path, after, position)
        if not sound:
            raise _damaged(path, position)
        records.append(LogRecord(name, position, at_us, payload))
    return records


def split_pack(connection: sqlite3.Connection, path: Path, position: int, *, unless_last: bool = False) -> None:
    """If the record at a position is in a pack, store each record of the pack in a row of its own.

    With `unless_last`, do nothing if the record is the last one of the pack.
    """
    rows = connection.execute(f"{SELECT} WHERE position >= ? ORDER BY position LIMIT 1", (position,)).fetchall()
    for pack in stored(rows, path):
        if pack.is_pack and pack.first <= position and not (unless_last and position == pack.position):
            connection.execute("DELETE FROM record WHERE position = ?", (pack.position,))
            numbered = enumerate(unpack(pack.payload), pack.first)
            single = [(n, pack.at_us, crc_of(payload, n, pack.at_us), payload) for n, payload in numbered]
            connection.executemany("INSERT INTO record VALUES (?,?,?,?)", single)


def missing(path: Path, position: int, found: int) -> Corrupt:
    """Return the error for a missing record at a position. `found` is the position of the next record."""
    return Corrupt(f"{path}: position {position} is missing (found {found}). Restore the partition from a copy.")


def _damaged(path: Path, position: int) -> Corrupt:
    return Corrupt(f"{path}: position {position} is damaged (wrong checksum). Restore the partition from a copy.")
