"""The transaction log of a Delta table: its schema, its commits and their checksums."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import deltalake
import deltalake.exceptions as delta_errors
from deltalake.schema import PrimitiveType
from deltalake.transaction import AddAction, RemoveAction

from trimtab.core.columns.data import Columns, Dtype
from trimtab.core.errors import Corrupt, Misuse, NotFound, TrimtabError, Unavailable
from trimtab.core.hashing import bytes_hash
from trimtab.store.delta.files import DISK_FULL
from trimtab.store.durable_files import file_mode, make_folder, narrow, sync_directory
from trimtab.store.forks import forked

_CHECKPOINT_EVERY = 50  # a checkpoint is made after this number of commits
COMMIT_ATTEMPTS = 10
_TYPES: dict[Dtype, str] = {"float": "double", "int": "long", "bool": "boolean", "str": "string", "time": "timestamp"}
_DTYPES: dict[str, Dtype] = {name: dtype for dtype, name in _TYPES.items()}
# With less free space than this, an error is reported as a full disk, because Delta's library does not always say so.
_ROOM_BYTES = 64 << 10
# matches codes for colours, and the box-drawing characters in messages of Delta's library
_COLOUR = re.compile(r"\x1b\[[0-9;]*m|[\u2190-\u257f]")
_CONFIGURATION = {
    "delta.checkpointInterval": "1000000000",  # trimtab makes checkpoints itself, so that it can keep their checksums
    # old commits are kept, because training sets may refer to any version of the table
    "delta.enableExpiredLogCleanup": "false",
}
_FORMAT = "trimtab table, format 1"  # stored as the description of the Delta table


class DeltaLog:
    """The transaction log of one table. Callers must hold a mutex during each call.

    Each commit is synced, and the hash of its file is written to the folder `_checks`. When the commit is read, its
    file is compared with this hash.
    """

    def __init__(self, directory: Path) -> None:
        refuse_fork(directory)
        self.directory = directory
        self.closed = False
        self._delta: deltalake.DeltaTable | None = None
        self._checked_through = -1  # the newest commit whose hash was compared
        self._positions: dict[str, tuple[int, int]] = {}  # by writer: a version, and the position in it

    @staticmethod
    def move(writer: str, position: int) -> list[deltalake.Transaction]:
        """Return what a commit must contain to record that `writer` has reached `position`."""
        check = deltalake.Transaction(f"{writer}#crc", _position_crc(writer, position))
        return [deltalake.Transaction(writer, position), check]

    def dtypes(self, delta: deltalake.DeltaTable) -> dict[str, Dtype]:
        """Return the table's columns with their types."""
        found: dict[str, Dtype] = {}
        for field in delta.schema().fields:
            name = field.type.type if isinstance(field.type, PrimitiveType) else str(field.type)
            if name not in _DTYPES:
                raise Misuse(
                    f"{self.directory}: column {field.name!r} is a {name}, which trimtab cannot write. Use another "
                    "type."
                )
            found[field.name] = _DTYPES[name]
        return found

    def files(self, version: int) -> list[str]:
        """Return the log files that a version needs, and their checksum files, as paths relative to the table."""
        directory = self.directory / "_delta_log"
        names = [name for name in sorted(os.listdir(directory)) if name[:20].isdigit() and int(name[:20]) <= version]
        with contextlib.suppress(FileNotFoundError):
            if json.loads((directory / "_last_checkpoint").read_bytes())["version"] <= version:
                names.append("_last_checkpoint")
        checks = [f"_checks/{name}" for name in names if (self.directory / "_checks" / name).exists()]
        return [*(f"{directory.name}/{name}" for name in names), *checks]

    def refresh(self) -> deltalake.DeltaTable | None:
        """Check new commits, and return the newest state of the table; None before the first append."""
        refuse_fork(self.directory)
        if self.closed:
            raise Misuse(f"{self.directory}: this table is closed. Open it again with store.open.")
        if self._delta is None:
            if not (self.directory / "_delta_log").is_dir():
                return None
            self._check_log()
            with named(self.directory):
                try:
                    delta = deltalake.DeltaTable(str(self.directory))
                except delta_errors.TableNotFoundError:
                    if any((self.directory / "_checks").glob("*")):
                        raise Corrupt(f"{self.directory}/_delta_log: its commits are gone. Restore them.") from None
                    return None
            found = delta.metadata().description
            if found != _FORMAT:
                raise Misuse(
                    f"{self.directory}: found a table of {found!r}, needed {_FORMAT!r}. Use the program that wrote it."
                )
            self._delta, self._checked_through = delta, delta.version()
            return delta
        newest, following = (f"{self._delta.version() + more:020}.json" for more in (0, 1))
        commits = self.directory / "_delta_log"
        if (commits / newest).exists() and not (commits / following).exists():  # commits are never removed
            return self._delta
        with named(self.directory):
            self._delta.update_incremental()
        for version in range(self._checked_through + 1, self._delta.version() + 1):
            self._check_sealed(f"{version:020}.json")
        self._checked_through = self._delta.version()
        return self._delta

    def create(self, rows: Columns) -> deltalake.DeltaTable:
        if not rows.by_name:
            raise Misuse(f"{self.directory}: the first append has no columns. Give the columns, even without rows.")
        folded = {name.casefold() for name in rows.names}
        if len(folded) != len(rows.names) or "" in folded:
            raise Misuse(f"{self.directory}: column names {', '.join(rows.names)} are empty or differ only in case.")
        with contextlib.suppress(FileExistsError, delta_errors.CommitFailedError):
            self._declare(rows, "ignore")
        delta = self.refresh()
        assert delta is not None
        self._seal(f"{0:020}.json")
        return delta

    def _declare(self, rows: Columns, mode: Literal["ignore", "overwrite"]) -> None:
        fields = [deltalake.Field(n, PrimitiveType(_TYPES[c.dtype]), nullable=True) for n, c in rows.by_name.items()]
        with named(self.directory):
            deltalake.DeltaTable.create(
                str(self.directory),
                deltalake.Schema(fields),
                mode=mode,
                description=_FORMAT,
                configuration=_CONFIGURATION,
            )

    def begin_again(self, rows: Columns) -> None:
        """Give an empty table the columns of `rows`, if `rows` lack one of its columns or have it with another type.

        The stored positions of the table's writers are kept. # D34
        """
        delta = self.refresh()
        if delta is None or self.active(delta) or not _contradict(self.dtypes(delta), rows):
            return
        with self.locked(fcntl.LOCK_EX):
            delta = self.refresh()
            assert delta is not None
            if not self.active(delta):
                before = delta.version()
                self._declare(rows, "overwrite")
                delta.update_incremental()
                self._sealed(delta, before)

    def widened(self, delta: deltalake.DeltaTable, rows: Columns) -> deltalake.DeltaTable:
        """Add the columns of `rows` that the table does not have.

        If `rows` do not fit the table for another reason, do nothing: `check_columns` will raise the error.
        """
        for _ in range(COMMIT_ATTEMPTS):
            there = self.dtypes(delta)
            found = {name: column.dtype for name, column in rows.by_name.items()}
            new = {name: dtype for name, dtype in found.items() if name not in there}
            alike = {name.casefold() for name in new} & {name.casefold() for name in there}
            if not new or {**new, **there} != found or alike:
                return delta
            fields = [deltalake.Field(name, PrimitiveType(_TYPES[dtype]), nullable=True) for name, dtype in new.items()]
            before = delta.version()
            try:
                with named(self.directory):
                    delta.alter.add_columns(
                        fields, post_commithook_properties=deltalake.PostCommitHookProperties(create_checkpoint=False)
                    )
                    delta.update_incremental()
            except delta_errors.CommitFailedError:  # another process committed first, so read the table again
                delta = self.refresh() or delta
                continue
            self._sealed(delta, before)
            return delta
        return delta

    def commit(
        self,
        delta: deltalake.DeltaTable,
        actions: Sequence[AddAction | RemoveAction],
        moves: Sequence[deltalake.Transaction],
    ) -> None:
        """Make a commit, sync it and store its hash. Afterwards `delta` shows the new version."""
        before = delta.version()
        with named(self.directory):
            delta.create_write_transaction(
                list(actions),
                "append",
                delta.schema(),
                commit_properties=deltalake.CommitProperties(app_transactions=list(moves)),
                post_commithook_properties=deltalake.PostCommitHookProperties(create_checkpoint=False),
            )
            delta.update_incremental()
        self._sealed(delta, before)

    def _sealed(self, delta: deltalake.DeltaTable, before: int) -> None:
        """Sync the commits after version `before`, and store their hashes."""
        for version in range(before + 1, delta.version() + 1):  # one of these is this process's own commit
            path = self.directory / "_delta_log" / f"{version:020}.json"
            with path.open("rb") as file:
                os.fsync(file.fileno())
            self._seal(path.name)
        sync_directory(self.directory / "_delta_log")
        if delta.version() // _CHECKPOINT_EVERY > before // _CHECKPOINT_EVERY:
            self.checkpoint(delta)

    def checkpoint(self, delta: deltalake.DeltaTable) -> None:
        with named(self.directory):
            delta.create_checkpoint()
        for path in (self.directory / "_delta_log").glob(f"{delta.version():020}.checkpoint*.parquet"):
            self._seal(path.name)

    def _seal(self, name: str) -> None:
        """Store the hash of a log file. (If the process is killed before this, there is no hash to check.)"""
        checks = self.directory / "_checks"
        make_folder(checks)
        log = self.directory / "_delta_log" / name
        narrow(log.parent)
        narrow(log)
        if not (checks / name).exists():
            temporary = checks / f"_{os.getpid()}.{threading.get_ident()}.new"
            temporary.write_text(bytes_hash(log.read_bytes()))
            narrow(temporary)
            temporary.replace(checks / name)

    def _check_log(self) -> None:
        """Compare the log files since the newest checkpoint with their stored hashes."""
        checks = self.directory / "_checks"
        names = sorted(name for name in os.listdir(checks) if name[:20].isdigit()) if checks.is_dir() else []
        newest = max((name[:20] for name in names if ".checkpoint" in name), default="")
        for name in names:
            if name[:20] >= newest:
                self._check_sealed(name)

    def _check_sealed(self, name: str) -> None:
        path = self.directory / "_delta_log" / name
        try:
            expected = (self.directory / "_checks" / name).read_text("ascii", "replace")
        except FileNotFoundError:
            return  # the writer was killed before it stored the hash
        try:
            sound = bytes_hash(path.read_bytes()) == expected
        except FileNotFoundError:
            sound = False
        if not sound:
            raise Corrupt(f"{path}: damaged or gone (wrong checksum). Restore it from a copy.")

    def at(self, version: int) -> deltalake.DeltaTable:
        newest = -1 if self._delta is None else self._delta.version()
        if not 0 <= version <= newest:
            raise NotFound(f"{self.directory}: no version {version}; the newest is {newest}.")
        with named(self.directory):
            return deltalake.DeltaTable(str(self.directory), version=version)

    def active(self, delta: deltalake.DeltaTable) -> list[str]:
        with named(self.directory):
            return sorted(uri.rpartition("/")[2] for uri in delta.file_uris())

    def position(self, delta: deltalake.DeltaTable, writer: str) -> int:
        version = delta.version()
        if self._positions.get(writer, (-1, 0))[0] != version:
            with named(self.directory):
                found, check = delta.transaction_version(writer), delta.transaction_version(f"{writer}#crc")
            if (found is None) != (check is None) or (found is not None and check != _position_crc(writer, found)):
                raise Corrupt(f"{self.directory}/_delta_log: the position of writer {writer!r} is damaged. Restore it.")
            self._positions[writer] = (version, int(found or 0))
        return self._positions[writer][1]

    def check_columns(self, delta: deltalake.DeltaTable, rows: Columns) -> None:
        needed = self.dtypes(delta)
        found = {name: column.dtype for name, column in rows.by_name.items()}
        if found != needed:
            differing = [name for name in {**found, **needed} if needed.get(name) != found.get(name)]
            differences = [f"{n!r}: found {found.get(n, 'none')}, needed {needed.get(n, 'none')}" for n in differing]
            more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
            raise Misuse(
                f"table {self.directory}: these columns differ from the table's: {'; '.join(differences[:5])}{more}. "
                "Give rows with the columns of the table; a column whose type changed needs a new name."
            )

    @contextlib.contextmanager
    def locked(self, how: int) -> Iterator[None]:
        """Lock the table inside the block.

        Appends and reads share the lock. Code that replaces files takes it exclusively, so that no file disappears
        while it is used.
        """
        path = self.directory / "_lock"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, file_mode(self.directory))
        except OSError as error:
            raise _not_now(self.directory, error) from error
        try:
            fcntl.flock(fd, how)
            yield
        except OSError as error:
            raise _not_now(self.directory, error) from error
        finally:
            os.close(fd)


@contextlib.contextmanager
def named(directory: Path) -> Iterator[None]:
    """Convert Delta's errors in the block to trimtab's, except those about a failed commit or a missing table."""
    try:
        yield
    except (delta_errors.CommitFailedError, delta_errors.TableNotFoundError):
        raise
    except TrimtabError:
        raise
    except OSError as error:
        raise _not_now(directory, error) from error
    except (delta_errors.DeltaError, ValueError, KeyError) as error:
        if DISK_FULL.search(str(error)):
            raise _not_now(directory, error) from error
        raise Corrupt(f"{directory}/_delta_log: cannot be read ({_plain(error)}). Restore it from a copy.") from error


def _not_now(directory: Path, error: Exception) -> Unavailable:
    """Return the error to raise after the system or Delta's library has reported a full disk or a disk error."""
    other = isinstance(error, PermissionError | FileNotFoundError) or not directory.is_dir()
    if DISK_FULL.search(str(error)) or (not other and shutil.disk_usage(directory).free < _ROOM_BYTES):
        return Unavailable(f"{directory}: the disk is full. Nothing was lost; free some space and do this again.")
    return Unavailable(f"{directory}: {_plain(error)}. Check free space and access, and try again.")


def _plain(error: Exception) -> str:
    """Return the message of an error in one line, without terminal colours."""
    return " ".join(_COLOUR.sub("", str(error)).split())


def _contradict(there: Mapping[str, Dtype], rows: Columns) -> bool:
    """Return whether `rows` lack a column of the table, or have it with another type."""
    found = {name: column.dtype for name, column in rows.by_name.items()}
    return any(found.get(name) != dtype for name, dtype in there.items())


def _position_crc(writer: str, position: int) -> int:
    return zlib.crc32(f"{writer}\0{position}".encode())


def refuse_fork(directory: Path) -> None:
    """Refuse to use a table in a forked child if its parent has used any table."""
    global _used_by
    if _used_by not in (0, os.getpid()):
        raise forked(directory)
    _used_by = os.getpid()


_used_by = 0  # the process that started the threads of Delta's library, which do not survive a fork
