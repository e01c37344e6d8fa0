"""The embedded table of record: Delta Lake on disk, read and written with DuckDB."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import deltalake
import deltalake.exceptions as delta_errors
from deltalake.schema import PrimitiveType
from deltalake.transaction import AddAction, RemoveAction

from trimtab.core.columns.data import Columns, Dtype
from trimtab.core.errors import Corrupt, Misuse, NotFound, TrimtabError, Unavailable
from trimtab.core.hashing import bytes_hash
from trimtab.store.delta.files import DISK_FULL, ParquetFiles, order_of, quoted, runs, same_as_one_of
from trimtab.store.durable_files import file_mode, make_folder, narrow, sync_directory
from trimtab.store.forks import forked, guard, unguard

_CHECKPOINT_EVERY = 50  # commits
_COMMIT_TRIES = 10
_COMPACT_TO_BYTES = 128 << 20
_TYPES: dict[Dtype, str] = {"float": "double", "int": "long", "bool": "boolean", "str": "string", "time": "timestamp"}
_DTYPES: dict[str, Dtype] = {name: dtype for dtype, name in _TYPES.items()}
_ESCAPE = re.compile("%[0-9A-Fa-f]{2}")
_ROOM_BYTES = 64 << 10  # less is no room for a commit; Delta's library does not always say that this was why
_COLOUR = re.compile(r"\x1b\[[0-9;]*m|[\u2190-\u257f]")  # with the lines that Delta's library draws
_CONFIGURATION = {
    "delta.checkpointInterval": "1000000000",  # we make them ourselves, to keep their checksums
    "delta.enableExpiredLogCleanup": "false",  # any version may be pinned by a training set
}
_FORMAT = "trimtab table, format 1"  # kept as the Delta table's description


class DeltaTable:
    """A `Table` in a directory, readable by everything that reads Delta Lake.

    A commit carries its writer's log position as an application transaction, with a second one as its checksum. Data
    files are named by their hash and checked once in each process; the commits have their checksums beside them in
    `_checks`. Safe for many threads and processes, but not in a child forked after a table was used.

    >>> import tempfile
    >>> table = DeltaTable(Path(tempfile.mkdtemp()) / "landings")
    >>> rows = Columns.of({"carrier": ("str", ["AA", None])})
    >>> table.append(rows, writer="ingest/p0001", position=2), table.append(rows, writer="ingest/p0001", position=2)
    (True, False)
    >>> table.scan()["carrier"].to_list()
    ['AA', None]
    """

    def __init__(self, directory: Path) -> None:
        _refuse_fork(Path(directory))
        self.directory = Path(directory)
        try:
            make_folder(self.directory)
        except OSError as error:
            raise Unavailable(
                f"{directory}: cannot be made ({error}). Give a directory this user may write."
            ) from error
        if _ESCAPE.search(str(self.directory)):
            raise Misuse(f"table: {directory}: Delta Lake decodes %20 and its like in a path. Give one without.")
        self._files = ParquetFiles(self.directory)
        self._mutex = threading.RLock()
        self._delta: deltalake.DeltaTable | None = None
        self._checked_through = -1  # the last commit whose checksum was compared
        self._closed = False
        try:
            self._refresh()
        except BaseException:
            self._files.close()
            raise
        guard(self, self.directory)

    def append(self, rows: Columns, *, writer: str, position: int) -> bool:
        """Add rows in one commit that also stores `position` for `writer`; False when that is in already.

        Columns that the table does not have yet become columns of it: null in all rows that are there. Of several
        processes that append for one writer at once, one takes a position: the commit of another, begun before, is
        refused by Delta, looked at again, and skipped when the writer's position has reached its own.

        A table that has no rows takes the columns as they are.

        Raises:
            Misuse: A column of the table is missing, or of another type.
            Unavailable: The disk is full. Append again: what was committed all the same is skipped.
        """
        if not writer or position < 1:
            raise Misuse(f"table: writer {writer!r} at position {position}. Give a name and a position above zero.")
        with self._mutex:
            self._begin_again(rows)
        with self._mutex, self._locked(fcntl.LOCK_SH):
            delta = self._widened(self._refresh() or self._create(rows), rows)
            self._check_columns(delta, rows)
            moves = [
                deltalake.Transaction(writer, position),
                deltalake.Transaction(f"{writer}#crc", _position_crc(writer, position)),
            ]
            for _ in range(_COMMIT_TRIES):
                if self._position(delta, writer) >= position:
                    return False
                name = self._files.write(rows, delta.version() + 1) if rows.rows else None
                try:
                    self._commit(delta, [] if name is None else [self._add(name, rows.rows)], moves)
                    return True
                except delta_errors.CommitFailedError as error:  # another process moved this writer: look again
                    failure = error
                    self._refresh()
                    if name is not None and name not in self._active(delta):
                        self._files.remove(name)
            raise Unavailable(f"{self.directory}: {_COMMIT_TRIES} commits failed ({failure}). Try again.") from failure

    def position(self, writer: str) -> int:
        """The last position committed for `writer`; 0 when there is none."""
        with self._mutex:
            delta = self._refresh()
            return 0 if delta is None else self._position(delta, writer)

    def scan(self, names: Sequence[str] | None = None, *, version: int | None = None) -> Columns:
        """The rows, in the order in which they were appended; no columns at all before the first append.

        Raises:
            NotFound: There is no such version, or a delete has removed files that it needs.
            Corrupt: A file is damaged; the message names it.
        """
        with contextlib.ExitStack() as reading:
            with self._mutex:
                delta = self._refresh()
                if delta is None and version is None:
                    return Columns({})
                reading.enter_context(self._locked(fcntl.LOCK_SH))  # no file goes away before it is read
                delta = self._refresh() if version is None else self._at(version)
                assert delta is not None
                dtypes = _dtypes(delta, self.directory)
                files = self._active(delta)
            for name in names or ():
                if name not in dtypes:
                    raise NotFound(f"{self.directory}: no column {name!r}; there are: {', '.join(dtypes)}.")
            for name in files if version is not None else ():
                if not (self.directory / name).exists():
                    raise NotFound(f"{self.directory}: version {version} needs {name}, which a delete removed.")
            return self._files.read(files, dtypes if names is None else {name: dtypes[name] for name in names})

    def files(self) -> list[Path]:
        """The Parquet files of the newest version, in the order of their rows, each checked: for tables beyond memory.

        Raises:
            Corrupt: A file is damaged; the message names it.
        """
        with self._mutex:
            delta = self._refresh()
            names = [] if delta is None else self._active(delta)
        for name in names:
            self._files.check(name)
        return [self.directory / name for name in names]

    def delete(self, column: str, value: str) -> int:
        """Remove every row whose text `column` equals `value`, also from the files of older versions; how many.

        Versions that needed such a file cannot be scanned any more.
        """
        with self._mutex, self._locked(fcntl.LOCK_EX):
            delta = self._refresh()
            if delta is None:
                return 0
            if _dtypes(delta, self.directory).get(column) != "str":
                raise Misuse(f"{self.directory}: {column!r} is no text column. Delete by one of the text columns.")
            return self._replace(delta, f"{quoted(column)} = ?", [value], None)

    def erase(self, rows: Columns, instead: Columns | None = None) -> int:
        """Remove every row that equals one of `rows` in all of its columns, and add `instead`, in one commit; how many.

        Files of older versions that hold such a row are removed too: versions that needed them cannot be scanned any
        more. The columns of `rows` are of text or whole numbers.

        Raises:
            NotFound: The table has no such column.
            Misuse: A column is of another type, or `instead` has not the table's columns.
        """
        with self._mutex, self._locked(fcntl.LOCK_EX):
            delta = self._refresh()
            if delta is None or not rows.rows:
                return 0
            dtypes = _dtypes(delta, self.directory)
            for name, column in rows.by_name.items():
                if name not in dtypes:
                    raise NotFound(f"{self.directory}: no column {name!r}; there are: {', '.join(dtypes)}.")
                if column.dtype != dtypes[name] or column.dtype not in ("str", "int"):
                    raise Misuse(f"{self.directory}: {name!r} is {dtypes[name]}. Erase by its texts or whole numbers.")
            if instead is not None:
                delta = self._widened(delta, instead)
                self._check_columns(delta, instead)
            return self._replace(delta, *same_as_one_of(rows), instead)

    def compact(self) -> None:
        """Merge neighbouring small files; the rows, their order and the older versions stay the same."""
        with self._mutex, self._locked(fcntl.LOCK_EX):
            delta = self._refresh()
            if delta is None:
                return
            names = self._active(delta)
            sizes = {name: (self.directory / name).stat().st_size for name in names}
            actions: list[AddAction | RemoveAction] = []
            for run in runs(names, sizes, _COMPACT_TO_BYTES):
                if len(run) > 1:
                    merged = self._files.rewrite(run, order_of(run[0]))
                    actions += [self._remove(name, data_change=False) for name in run]
                    actions.append(self._add(merged, self._files.count(merged), data_change=False))
            if actions:
                self._commit(delta, actions, [])
                self._checkpoint(delta)

    def prune(self, condition: str) -> int:
        """Remove the rows that fulfil an SQL condition, in which `rows` is the table; how many.

        Older versions stay readable until `vacuum` removes their files.
        """
        with self._mutex, self._locked(fcntl.LOCK_EX):
            delta = self._refresh()
            if delta is None:
                return 0
            removed = 0
            actions: list[AddAction | RemoveAction] = []
            for name, gone, new, left in self._files.without(self._active(delta), condition):
                removed += gone
                actions.append(self._remove(name, data_change=True))
                if left:
                    actions.append(self._add(new, left))
            if actions:
                self._commit(delta, actions, [])
            return removed

    def count(self, condition: str = "true") -> int:
        """How many rows fulfil an SQL condition, in which `rows` is the table."""
        with self._mutex, self._locked(fcntl.LOCK_SH):
            delta = self._refresh()
            return 0 if delta is None else self._files.matching(self._active(delta), condition)

    def vacuum(self, older_h: int) -> int:
        """Remove files that no version has needed for so many hours; how many bytes. Older versions go with them.

        A version is never taken from whoever scans it here; other tools that read the table have `older_h` for that.
        """
        with self._mutex, self._locked(fcntl.LOCK_EX):
            delta = self._refresh()
            if delta is None:
                return 0
            with _named(self.directory):
                gone = set(delta.vacuum(0, dry_run=True, enforce_retention_duration=False))
                old = set(delta.vacuum(older_h, dry_run=True, enforce_retention_duration=False))
            return self._files.sweep(old, gone | set(self._active(delta)), time.time() - 3600 * older_h)

    def copy_to(self, directory: Path) -> None:
        """Write the newest version to a new directory, with its log but without what only older versions need."""
        with self._mutex, self._locked(fcntl.LOCK_SH):  # no file goes away before it is copied
            delta = self._refresh()
            files = [] if delta is None else self._active(delta)
            logs = [] if delta is None else _logs_upto(self.directory / "_delta_log", delta.version())
            try:
                make_folder(directory)
                for name in (*files, *logs, *(f"_checks/{Path(log).name}" for log in logs)):
                    if not name.startswith("_checks") or (self.directory / name).exists():
                        make_folder((directory / name).parent)
                        shutil.copyfile(self.directory / name, directory / name)
            except OSError as error:
                what = f"copying {self.directory} to {directory}"
                raise Unavailable(f"{what}: {error}. Check free space and access, and try again.") from error

    def version(self) -> int:
        """The newest version, -1 before the first append."""
        with self._mutex:
            delta = self._refresh()
            return -1 if delta is None else delta.version()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            unguard(self)
            self._files.close()

    def after_fork(self) -> None:
        """In a forked child: refuse every later call."""
        self._closed = True
        self._mutex = threading.RLock()  # another thread of the parent may hold the old one

    def __enter__(self) -> DeltaTable:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _refresh(self) -> deltalake.DeltaTable | None:
        """The newest state, its new commits checked; None before the first append."""
        _refuse_fork(self.directory)
        if self._closed:
            raise Misuse(f"{self.directory}: this table is closed. Open it again with store.open.")
        if self._delta is None:
            if not (self.directory / "_delta_log").is_dir():
                return None
            self._check_log()
            with _named(self.directory):
                try:
                    delta = deltalake.DeltaTable(str(self.directory))
                except delta_errors.TableNotFoundError:
                    if any((self.directory / "_checks").glob("*")):
                        raise Corrupt(f"{self.directory}/_delta_log: its commits are gone. Restore them.") from None
                    return None
            found = delta.metadata().description
            if found != _FORMAT:
                raise Misuse(f"{self.directory}: this is {found!r}, needed was {_FORMAT!r}. Use what wrote it.")
            self._delta, self._checked_through = delta, delta.version()
            return delta
        with _named(self.directory):
            self._delta.update_incremental()
        for version in range(self._checked_through + 1, self._delta.version() + 1):
            self._check_sealed(f"{version:020}.json")
        self._checked_through = self._delta.version()
        return self._delta

    def _create(self, rows: Columns) -> deltalake.DeltaTable:
        if not rows.by_name:
            raise Misuse(f"{self.directory}: the first append has no columns. Give the columns, even without rows.")
        folded = {name.casefold() for name in rows.names}
        if len(folded) != len(rows.names) or "" in folded:
            raise Misuse(f"{self.directory}: column names {', '.join(rows.names)} are empty or differ only in case.")
        with contextlib.suppress(FileExistsError, delta_errors.CommitFailedError):
            self._declare(rows, "ignore")
        delta = self._refresh()
        assert delta is not None
        self._seal(f"{0:020}.json")
        return delta

    def _declare(self, rows: Columns, mode: Literal["ignore", "overwrite"]) -> None:
        fields = [deltalake.Field(n, PrimitiveType(_TYPES[c.dtype]), nullable=True) for n, c in rows.by_name.items()]
        with _named(self.directory):
            deltalake.DeltaTable.create(
                str(self.directory),
                deltalake.Schema(fields),
                mode=mode,
                description=_FORMAT,
                configuration=_CONFIGURATION,
            )

    def _begin_again(self, rows: Columns) -> None:
        """Give a table without rows the columns of the first ones, its positions kept. # D163"""
        delta = self._refresh()
        if delta is None or self._active(delta) or not _contradict(_dtypes(delta, self.directory), rows):
            return
        with self._locked(fcntl.LOCK_EX):
            delta = self._refresh()
            assert delta is not None
            if not self._active(delta):
                before = delta.version()
                self._declare(rows, "overwrite")
                delta.update_incremental()
                self._sealed(delta, before)

    def _widened(self, delta: deltalake.DeltaTable, rows: Columns) -> deltalake.DeltaTable:
        """The table with all columns of `rows`, when they have all of the table's; else as it is."""
        for _ in range(_COMMIT_TRIES):
            there = _dtypes(delta, self.directory)
            found = {name: column.dtype for name, column in rows.by_name.items()}
            new = {name: dtype for name, dtype in found.items() if name not in there}
            alike = {name.casefold() for name in new} & {name.casefold() for name in there}
            if not new or {**new, **there} != found or alike:
                return delta
            fields = [deltalake.Field(name, PrimitiveType(_TYPES[dtype]), nullable=True) for name, dtype in new.items()]
            before = delta.version()
            try:
                with _named(self.directory):
                    delta.alter.add_columns(
                        fields,
                        post_commithook_properties=deltalake.PostCommitHookProperties(create_checkpoint=False),
                    )
                    delta.update_incremental()
            except delta_errors.CommitFailedError:  # another process was first: look again
                delta = self._refresh() or delta
                continue
            self._sealed(delta, before)
            return delta
        return delta

    def _commit(
        self,
        delta: deltalake.DeltaTable,
        actions: Sequence[AddAction | RemoveAction],
        moves: Sequence[deltalake.Transaction],
    ) -> None:
        """Commit, sync and seal; `delta` shows the new version afterwards."""
        before = delta.version()
        with _named(self.directory):
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
        """Sync and seal the commits after version `before`."""
        for version in range(before + 1, delta.version() + 1):  # ours is one of them
            path = self.directory / "_delta_log" / f"{version:020}.json"
            with path.open("rb") as file:
                os.fsync(file.fileno())
            self._seal(path.name)
        sync_directory(self.directory / "_delta_log")
        if delta.version() // _CHECKPOINT_EVERY > before // _CHECKPOINT_EVERY:
            self._checkpoint(delta)

    def _checkpoint(self, delta: deltalake.DeltaTable) -> None:
        with _named(self.directory):
            delta.create_checkpoint()
        for path in (self.directory / "_delta_log").glob(f"{delta.version():020}.checkpoint*.parquet"):
            self._seal(path.name)

    def _seal(self, name: str) -> None:
        """Write down a log file's hash; a crash before this leaves that file unchecked, not wrong."""
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
        """Compare the sealed log files from the newest checkpoint on."""
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
            return  # its writer was killed before it could seal it
        try:
            sound = bytes_hash(path.read_bytes()) == expected
        except FileNotFoundError:
            sound = False
        if not sound:
            raise Corrupt(f"{path}: damaged or gone (wrong checksum). Restore it from a copy.")

    def _at(self, version: int) -> deltalake.DeltaTable:
        newest = -1 if self._delta is None else self._delta.version()
        if not 0 <= version <= newest:
            raise NotFound(f"{self.directory}: no version {version}; the newest is {newest}.")
        with _named(self.directory):
            return deltalake.DeltaTable(str(self.directory), version=version)

    def _active(self, delta: deltalake.DeltaTable) -> list[str]:
        with _named(self.directory):
            return sorted(uri.rpartition("/")[2] for uri in delta.file_uris())

    def _position(self, delta: deltalake.DeltaTable, writer: str) -> int:
        with _named(self.directory):
            found, check = delta.transaction_version(writer), delta.transaction_version(f"{writer}#crc")
        if found is None and check is None:
            return 0
        if found is None or check != _position_crc(writer, found):
            raise Corrupt(f"{self.directory}/_delta_log: the position of writer {writer!r} is damaged. Restore it.")
        return int(found)

    def _check_columns(self, delta: deltalake.DeltaTable, rows: Columns) -> None:
        needed = _dtypes(delta, self.directory)
        found = {name: column.dtype for name, column in rows.by_name.items()}
        if found != needed:
            differing = [name for name in {**found, **needed} if needed.get(name) != found.get(name)]
            said = [f"{n!r}: found {found.get(n, 'none')}, needed {needed.get(n, 'none')}" for n in differing]
            more = f"; and {len(said) - 5} more" if len(said) > 5 else ""
            raise Misuse(
                f"table {self.directory}: these columns are not the table's: {'; '.join(said[:5])}{more}. Give rows of "
                "its columns; a column whose type changed needs a new name."
            )

    def _add(self, name: str, rows: int, *, data_change: bool = True) -> AddAction:
        size = (self.directory / name).stat().st_size
        return AddAction(name, size, {}, time.time_ns() // 1_000_000, data_change, json.dumps({"numRecords": rows}))

    def _remove(self, name: str, *, data_change: bool) -> RemoveAction:
        size = (self.directory / name).stat().st_size
        return RemoveAction(name, data_change, time.time_ns() // 1_000_000, size, {})

    def _replace(
        self, delta: deltalake.DeltaTable, condition: str, values: Sequence[Any], instead: Columns | None
    ) -> int:
        """Remove the rows that fulfil a condition, of older versions too, and add others; how many went."""
        removed = 0
        actions: list[AddAction | RemoveAction] = []
        for name in self._active(delta):
            found = self._files.count(name, condition, values)
            if found:
                removed += found
                left = self._files.count(name) - found
                actions.append(self._remove(name, data_change=True))
                if left:
                    new = self._files.rewrite([name], order_of(name), f"({condition}) IS NOT TRUE", values)
                    actions.append(self._add(new, left))
        if instead is not None and instead.rows:
            new = self._files.write(instead, delta.version() + 1)
            actions.append(self._add(new, instead.rows))
        if actions:
            self._commit(delta, actions, [])
        self._erase(set(self._active(delta)), condition, values)
        return removed

    def _erase(self, active: set[str], condition: str, values: Sequence[Any]) -> None:
        """Remove files that no current version needs and that hold such a row, or can no longer say so."""
        for leftover in self.directory.glob("_*.new"):  # of a process that was killed: nobody writes now
            leftover.unlink(missing_ok=True)
        for name in self._files.on_disk():
            if name not in active:
                try:
                    holds = self._files.count(name, condition, values) > 0
                except Corrupt:
                    holds = True
                if holds:
                    self._files.remove(name)
        sync_directory(self.directory)

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Shared while appending, alone while files are replaced: so no file vanishes before its commit."""
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
def _named(directory: Path) -> Iterator[None]:
    """Delta's errors by our names; a lost race for a commit passes through."""
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
    """What to do about an error of the disk, of which the system or Delta's library tells."""
    other = isinstance(error, PermissionError | FileNotFoundError) or not directory.is_dir()
    if DISK_FULL.search(str(error)) or (not other and shutil.disk_usage(directory).free < _ROOM_BYTES):
        return Unavailable(f"{directory}: the disk is full. Nothing was lost; free some space and do this again.")
    return Unavailable(f"{directory}: {_plain(error)}. Check free space and access, and try again.")


def _plain(error: Exception) -> str:
    """What an error says, in one line and without the colours of a terminal."""
    return " ".join(_COLOUR.sub("", str(error)).split())


def _logs_upto(directory: Path, version: int) -> list[str]:
    """The files of a Delta log that a version needs, relative to the table."""
    names = [name for name in sorted(os.listdir(directory)) if name[:20].isdigit() and int(name[:20]) <= version]
    with contextlib.suppress(FileNotFoundError):
        if json.loads((directory / "_last_checkpoint").read_bytes())["version"] <= version:
            names.append("_last_checkpoint")
    return [f"{directory.name}/{name}" for name in names]


def _contradict(there: Mapping[str, Dtype], rows: Columns) -> bool:
    """Whether columns are missing or of another type."""
    found = {name: column.dtype for name, column in rows.by_name.items()}
    return any(found.get(name) != dtype for name, dtype in there.items())


def _dtypes(delta: deltalake.DeltaTable, directory: Path) -> dict[str, Dtype]:
    found: dict[str, Dtype] = {}
    for field in delta.schema().fields:
        name = field.type.type if isinstance(field.type, PrimitiveType) else str(field.type)
        if name not in _DTYPES:
            raise Misuse(f"{directory}: column {field.name!r} is a {name}, which trimtab does not write. Use another.")
        found[field.name] = _DTYPES[name]
    return found


def _position_crc(writer: str, position: int) -> int:
    return zlib.crc32(f"{writer}\0{position}".encode())


def _refuse_fork(directory: Path) -> None:
    global _used_by
    if _used_by not in (0, os.getpid()):
        raise forked(directory)
    _used_by = os.getpid()


_used_by = 0  # the process that started Delta's runtime, which does not survive a fork
