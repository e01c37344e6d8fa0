"""The embedded table of record: Delta Lake on disk, with DuckDB."""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import deltalake.exceptions as delta_errors
from deltalake.transaction import AddAction, RemoveAction

from trimtab.core.closing import Closing
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Corrupt, Misuse, NotFound, Unavailable
from trimtab.store.delta.files import ParquetFiles, order_of, runs, same_as_one_of
from trimtab.store.delta.log import COMMIT_ATTEMPTS, DeltaLog, named
from trimtab.store.durable_files import make_folder, sync_directory
from trimtab.store.forks import guard, unguard

_COMPACT_TO_BYTES = 128 << 20
_ESCAPE = re.compile("%[0-9A-Fa-f]{2}")


class DeltaTable(Closing):
    """A `Table` in a directory, readable by every program that reads Delta Lake.

    A commit also stores the log position of its writer (as a Delta application transaction), and a checksum of this
    position. Data files are named by their hash, and each process checks a file once. The hashes of commits are in
    `_checks`. Many threads and processes can use a table, but not a forked child whose parent has used any table.

    >>> import tempfile
    >>> table = DeltaTable(Path(tempfile.mkdtemp()) / "landings")
    >>> rows = Columns.of({"carrier": ("str", ["AA", None])})
    >>> table.append(rows, writer="ingest/p0001", position=2), table.append(rows, writer="ingest/p0001", position=2)
    (True, False)
    >>> table.scan()["carrier"].to_list()
    ['AA', None]
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        self._log = DeltaLog(self.directory)
        try:
            make_folder(self.directory)
        except OSError as error:
            raise Unavailable(
                f"{directory}: cannot be made ({error}). Give a directory this user may write."
            ) from error
        if _ESCAPE.search(str(self.directory)):
            raise Misuse(
                f"table: {directory}: Delta Lake decodes escapes such as %20 in a path. Give a path without them."
            )
        self._files = ParquetFiles(self.directory)
        self._mutex = threading.RLock()
        try:
            self._log.refresh()
        except BaseException:
            self._files.close()
            raise
        guard(self, self.directory)

    def append(self, rows: Columns, *, writer: str, position: int) -> bool:
        """Add rows in one commit that also stores `position` for `writer`.

        Return False and add nothing if the writer has already reached this position. Columns that the table does not
        have are added to it, and are null in all existing rows. The columns of an empty table are replaced by those of
        `rows`.

        If several processes append for one writer at once, only one of them stores a given position: Delta refuses a
        commit if another process has stored a position for the writer since the table was read. Then the table is read
        again, and nothing is appended if the writer has already reached the position.

        Raises:
            Misuse: A column of the table is missing in `rows`, or has another type.
            Unavailable: The disk is full. Call again: rows that were committed in spite of the error are not added
                twice.
        """
        if not writer or position < 1:
            raise Misuse(f"table: writer {writer!r} at position {position}. Give a name and a position above zero.")
        with self._mutex:
            self._log.begin_again(rows)
        with self._mutex, self._log.locked(fcntl.LOCK_SH):
            delta = self._log.widened(self._log.refresh() or self._log.create(rows), rows)
            self._log.check_columns(delta, rows)
            moves = self._log.move(writer, position)
            for _ in range(COMMIT_ATTEMPTS):
                if self._log.position(delta, writer) >= position:
                    return False
                name = self._files.write(rows, delta.version() + 1) if rows.rows else None
                try:
                    self._log.commit(delta, [] if name is None else [self._add(name, rows.rows)], moves)
                    return True
                # another process has stored a position for this writer, so read the table again
                except delta_errors.CommitFailedError as error:
                    failure = error
                    self._log.refresh()
                    if name is not None and name not in self._log.active(delta):
                        self._files.remove(name)
            raise Unavailable(
                f"{self.directory}: {COMMIT_ATTEMPTS} commits failed ({failure}). Try again."
            ) from failure

    def position(self, writer: str) -> int:
        """Return the last position stored for `writer`, or 0 if there is none."""
        with self._mutex:
            delta = self._log.refresh()
            return 0 if delta is None else self._log.position(delta, writer)

    def scan(self, names: Sequence[str] | None = None, *, version: int | None = None) -> Columns:
        """Return the rows, in the order in which they were appended.

        Before the first append there are no columns.

        Raises:
            NotFound: The version does not exist, or needs files that a delete has removed.
            Corrupt: A file is damaged. The message names it.
        """
        with contextlib.ExitStack() as reading:
            with self._mutex:
                delta = self._log.refresh()
                if delta is None and version is None:
                    return Columns({})
                # while this lock is held, no file is removed
                reading.enter_context(self._log.locked(fcntl.LOCK_SH))
                delta = self._log.refresh() if version is None else self._log.at(version)
                assert delta is not None
                dtypes = self._log.dtypes(delta)
                files = self._log.active(delta)
            for name in names or ():
                if name not in dtypes:
                    raise NotFound(f"{self.directory}: no column {name!r}; there are: {', '.join(dtypes)}.")
            for name in files if version is not None else ():
                if not (self.directory / name).exists():
                    raise NotFound(f"{self.directory}: version {version} needs {name}, which a delete removed.")
            return self._files.read(files, dtypes if names is None else {name: dtypes[name] for name in names})

    def files(self) -> list[Path]:
        """Return the paths of the Parquet files of the newest version, in the order of their rows.

        The bytes of each file are checked first. This is for tables that do not fit in memory.

        Raises:
            Corrupt: A file is damaged. The message names it.
        """
        with self._mutex:
            delta = self._log.refresh()
            names = [] if delta is None else self._log.active(delta)
        for name in names:
            self._files.check(name)
        return [self.directory / name for name in names]

    def erase(self, rows: Columns, instead: Columns | None = None) -> int:
        """Remove each row that equals one of `rows` in all columns of `rows`, and return the number of removed rows.

        The rows `instead` are added in the same commit. Files of older versions that have such a row are also removed,
        so these versions can no longer be scanned. The columns of `rows` must be texts or whole numbers.

        Raises:
            NotFound: The table has no such column.
            Misuse: A column has another type, or `instead` does not have the columns of the table.
        """
        with self._mutex, self._log.locked(fcntl.LOCK_EX):
            delta = self._log.refresh()
            if delta is None or not rows.rows:
                return 0
            dtypes = self._log.dtypes(delta)
            for name, column in rows.by_name.items():
                if name not in dtypes:
                    raise NotFound(f"{self.directory}: no column {name!r}; there are: {', '.join(dtypes)}.")
                if column.dtype != dtypes[name] or column.dtype not in ("str", "int"):
                    raise Misuse(
                        f"{self.directory}: {name!r} is {dtypes[name]}. Erase by a column of texts or whole numbers."
                    )
            if instead is not None:
                delta = self._log.widened(delta, instead)
                self._log.check_columns(delta, instead)
            condition, values = same_as_one_of(rows)
            removed = 0
            actions: list[AddAction | RemoveAction] = []
            for name in self._log.active(delta):
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
                self._log.commit(delta, actions, [])
            self._erase(set(self._log.active(delta)), condition, values)
            return removed

    def compact(self) -> None:
        """Merge small neighbouring files. The rows and their order do not change, and older versions stay readable."""
        with self._mutex, self._log.locked(fcntl.LOCK_EX):
            delta = self._log.refresh()
            if delta is None:
                return
            names = self._log.active(delta)
            sizes = {name: (self.directory / name).stat().st_size for name in names}
            actions: list[AddAction | RemoveAction] = []
            for run in runs(names, sizes, _COMPACT_TO_BYTES):
                if len(run) > 1:
                    merged = self._files.rewrite(run, order_of(run[0]))
                    actions += [self._remove(name, data_change=False) for name in run]
                    actions.append(self._add(merged, self._files.count(merged), data_change=False))
            if actions:
                self._log.commit(delta, actions, [])
                self._log.checkpoint(delta)

    def prune(self, condition: str) -> int:
        """Remove the rows that fulfil an SQL condition, and return the number of removed rows.

        In the condition, the table is called `rows`. Older versions stay readable until `vacuum` removes their files.
        """
        with self._mutex, self._log.locked(fcntl.LOCK_EX):
            delta = self._log.refresh()
            if delta is None:
                return 0
            removed = 0
            actions: list[AddAction | RemoveAction] = []
            for name, gone, new, left in self._files.without(self._log.active(delta), condition):
                removed += gone
                actions.append(self._remove(name, data_change=True))
                if left:
                    actions.append(self._add(new, left))
            if actions:
                self._log.commit(delta, actions, [])
            return removed

    def count(self, condition: str = "true") -> int:
        """Return the number of rows that fulfil an SQL condition. In the condition, the table is called `rows`."""
        with self._mutex, self._log.locked(fcntl.LOCK_SH):
            delta = self._log.refresh()
            return 0 if delta is None else self._files.matching(self._log.active(delta), condition)

    def rows(self, condition: str, names: Sequence[str] | None = None) -> Columns:
        """Return the rows that fulfil an SQL condition. `names` are their columns; those the table lacks are left out.

        In the condition, the table is called `rows`.
        """
        with self._mutex, self._log.locked(fcntl.LOCK_SH):
            delta = self._log.refresh()
            if delta is None:
                return Columns({})
            dtypes = self._log.dtypes(delta)
            chosen = {name: dtype for name, dtype in dtypes.items() if names is None or name in names}
            return self._files.read(self._log.active(delta), chosen, condition)

    def vacuum(self, older_h: int) -> int:
        """Remove files that the newest version has not needed for `older_h` hours. Return the number of bytes freed.

        Without its files, an older version is unreadable. Files of a version that trimtab is reading are never removed.
        If other programs read the table, choose a longer `older_h` than they take to read.
        """
        with self._mutex, self._log.locked(fcntl.LOCK_EX):
            delta = self._log.refresh()
            if delta is None:
                return 0
            with named(self.directory):
                # `gone`: all files that only older versions need; `old`: those not needed for `older_h` hours
                gone = set(delta.vacuum(0, dry_run=True, enforce_retention_duration=False))
                old = set(delta.vacuum(older_h, dry_run=True, enforce_retention_duration=False))
            return self._files.sweep(old, gone | set(self._log.active(delta)), time.time() - 3600 * older_h)

    def copy_to(self, directory: Path) -> None:
        """Copy the newest version and its log to a new directory, without files that only older versions need."""
        with self._mutex, self._log.locked(fcntl.LOCK_SH):  # while this lock is held, no file is removed
            delta = self._log.refresh()
            files = [] if delta is None else [*self._log.active(delta), *self._log.files(delta.version())]
            try:
                make_folder(directory)
                for name in files:
                    make_folder((directory / name).parent)
                    shutil.copyfile(self.directory / name, directory / name)
            except OSError as error:
                what = f"copying {self.directory} to {directory}"
                raise Unavailable(f"{what}: {error}. Check free space and access, and try again.") from error

    def version(self) -> int:
        """Return the number of the newest version, or -1 before the first append."""
        with self._mutex:
            delta = self._log.refresh()
            return -1 if delta is None else delta.version()

    def close(self) -> None:
        if not self._log.closed:
            self._log.closed = True
            unguard(self)
            self._files.close()

    def after_fork(self) -> None:
        """Make every later call fail. This is called in a forked child."""
        self._log.closed = True
        self._mutex = threading.RLock()  # a thread that only exists in the parent may hold the old lock for ever

    def _add(self, name: str, rows: int, *, data_change: bool = True) -> AddAction:
        size = (self.directory / name).stat().st_size
        return AddAction(name, size, {}, time.time_ns() // 1_000_000, data_change, json.dumps({"numRecords": rows}))

    def _remove(self, name: str, *, data_change: bool) -> RemoveAction:
        size = (self.directory / name).stat().st_size
        return RemoveAction(name, data_change, time.time_ns() // 1_000_000, size, {})

    def _erase(self, active: set[str], condition: str, values: Sequence[Any]) -> None:
        """Of the files that only older versions need, remove those that have a row to erase or cannot be read."""
        # killed processes left these files; no process writes now, so they can be removed
        for leftover in self.directory.glob("_*.new"):
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
