"""An LMDB environment (LMDB's word for an open database), shared in this process and enlarged when it is full."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Set
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from trimtab.core.errors import Conflict, Corrupt, Misuse, TrimtabError, Unavailable
from trimtab.store.durable_files import check_writable, file_mode, make_folder, publish, sync_directory
from trimtab.store.file_lock import FileLock
from trimtab.store.forks import check_inherited
from trimtab.store.lmdb.length import is_cut
from trimtab.store.regular_file import other_kind

FORMAT = 1
FORMAT_KEY = b"\x00trimtab/format"
RESTORE = "Restore it from a backup."
_MAX_READERS = 1_024
READERS_S = 30.0  # the time between two searches for killed readers
_COPIED = 10_000  # how many pairs one transaction copies
_A = TypeVar("_A")
_T = TypeVar("_T")

_NOT_NOW = (  # errors that are no sign of damage, and may go away
    lmdb.DiskError,
    lmdb.LockError,
    lmdb.MemoryError,
    lmdb.PanicError,
    lmdb.ReadersFullError,
    lmdb.ReadonlyError,
    lmdb.TlsFullError,
    lmdb.TxnFullError,
)
_DAMAGED = (lmdb.BadChecksumError, lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError)


class LmdbEnvironment:
    """The LMDB environment at a path, which all objects of this process that use the path share.

    LMDB forbids opening a path twice in one process. Its memory map must not be replaced while a thread reads.
    Therefore a reading thread first sets `busy`, and waits if `paused` is set. A thread that replaces the map first
    sets `paused`, and waits until no thread is busy. The interpreter lock keeps these assignments in order.
    """

    def __init__(self, path: Path, map_bytes: int, repair: str, *, relaxed: bool) -> None:
        self.path = path
        self.repair = repair  # advice on repairing damage, for messages
        self.users = 1
        self.paused = False
        self._map_bytes = map_bytes
        self._relaxed = relaxed  # whether commits skip the sync of the meta page: a power cut may undo the last commit
        self._mutex = threading.RLock()  # held while writing and while replacing the memory map
        self._local = threading.local()
        self._threads: weakref.WeakSet[_Thread] = weakref.WeakSet()
        self._threads_mutex = threading.Lock()
        self._writer: FileLock | None = None
        self._check_s = 0.0  # the time (`monotonic`) of the next search for killed readers
        self._closed = False
        self._file: tuple[int, int] | None = None  # the device and inode number of the open file
        self._begin: Any = None
        self._open()

    def read(self, what: Callable[[Any, _A], _T], argument: _A) -> _T:
        """Run `what(transaction, argument)` in a read transaction."""
        try:
            thread = self._local.thread
        except AttributeError:
            thread = self._local.thread = _Thread()
            with self._threads_mutex:
                self._threads.add(thread)
        while True:
            thread.busy = True
            try:
                if not self.paused:
                    with self._begin() as transaction:
                        return what(transaction, argument)
                failure = None
            except lmdb.Error as error:
                failure = error
            finally:
                thread.busy = False
            if failure is None:
                with self._mutex:  # wait until the map is replaced
                    self._refuse_closed()
            else:
                self._recover(failure)

    def write(self, what: Callable[[Any], None]) -> None:
        """Run `what(transaction)` in a synced write transaction, and again if the memory map must be enlarged.

        Raises:
            Conflict: Another process writes to this store.
            Unavailable: The disk is full or read-only. Nothing was written.
        """
        with self._mutex:
            self._refuse_closed()
            if self._writer is None:
                self._writer = self._take_writer()
            if time.monotonic() >= self._check_s:
                self._check_readers()
            while not self._written(what):
                with self._alone():
                    self._environment.set_mapsize(2 * self._environment.info()["map_size"])

    def copy(self, directory: Path) -> None:
        """Write a consistent copy, without free pages, to a new directory. Others may write meanwhile."""
        try:
            make_folder(directory)
            self.read(lambda transaction, to: self._environment.copy(str(to), compact=True), directory)
        except lmdb.Error as error:
            raise named(error, directory) from error
        except OSError as error:
            raise Unavailable(f"{directory}: cannot be made ({error}). Check free space and access.") from error

    def release_writer(self) -> None:
        """Release the writer's lock of this process. The next write takes it again."""
        with self._mutex:
            if self._writer is not None:
                self._writer.release()
                self._writer = None

    def reopen_if_replaced(self, *, make: bool) -> bool:
        """If another file is at the path now, open the path again; see `LmdbKeyValue.reopen_if_replaced`."""
        found = _file_at(self.path)
        if found == self._file:
            return False
        if found is None and not make:
            raise Unavailable(
                f"{self.path}/data.mdb: the file was removed while this process reads it. Try again once it is back. "
                f"If it does not come back: {self.repair}"
            )
        with self._mutex, self._alone():
            self._refuse_closed()
            self._environment.close()
            if self._writer is not None:  # the lock file may have been removed with the folder
                self._writer.release()
                self._writer = None
            try:
                self._open()
            except TrimtabError as error:
                self._file = None
                self._begin = partial(_refuse, error)
                raise
        return True

    def rewrite(self, gone: Iterable[bytes]) -> None:
        """Replace the file by a new one that does not have the keys in `gone`.

        Free pages of the old file may hold deleted values; the new file has no free pages. The errors are those of
        `LmdbKeyValue.erase`.
        """
        with self._mutex:
            self._refuse_closed()
            if self._writer is None:
                self._writer = self._take_writer()
            for leftover in self.path.glob(".new-*"):  # a killed process left these folders behind
                shutil.rmtree(leftover, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=".new-", dir=self.path) as directory:
                self._copy(Path(directory), frozenset(gone))
                with self._alone():
                    self._environment.close()
                    try:
                        self._replace_file(Path(directory) / "data.mdb")
                    finally:
                        self._open()

    def _copy(self, directory: Path, gone: Set[bytes]) -> None:
        """Write all pairs, except those in `gone`, to a new, synced store."""
        size = self._environment.info()["map_size"]
        try:
            with lmdb.open(str(directory), map_size=size, sync=False) as new, self._begin() as transaction:
                pairs = ((key, value) for key, value in transaction.cursor() if key not in gone)
                while some := list(islice(pairs, _COPIED)):
                    with new.begin(write=True) as writing:
                        writing.cursor().putmulti(some, append=True)
                new.sync(True)
        except lmdb.Error as error:
            raise named(error, self.path, self.repair) from error

    def _replace_file(self, made: Path) -> None:
        """Replace the data file, which this process has closed, by a new one if no other process has it open."""
        fd = os.open(self.path / "lock.mdb", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, file_mode(self.path))
        try:
            # every process that has the environment open holds a shared lock on the first byte of this file
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
            made.chmod(file_mode(self.path))
            os.replace(made, self.path / "data.mdb")
            sync_directory(self.path)
        except (BlockingIOError, PermissionError) as error:
            raise Conflict(
                f"{self.path}: another process has it open (a notebook, a service?). Close the project there, "
                "and try again."
            ) from error
        except OSError as error:
            raise Unavailable(f"{self.path}: {error}. Check free space and access, and try again.") from error
        finally:
            os.close(fd)

    def _written(self, what: Callable[[Any], None]) -> bool:
        """Try once to write. Return False if the memory map is full."""
        while True:
            try:
                transaction = self._begin(write=True)
                break
            except lmdb.Error as error:
                self._recover(error)
        try:
            what(transaction)
            transaction.commit()
        except lmdb.MapFullError:
            self._abort(transaction)
            return False
        except lmdb.Error as error:
            self._abort(transaction)
            self._recover(error)
            raise AssertionError("unreachable") from error
        except BaseException:
            self._abort(transaction)
            raise
        return True

    def _abort(self, transaction: Any) -> None:
        # an abort waits for readers; without `_alone`, busy readers could delay it for ever
        with self._alone():
            transaction.abort()

    def close(self) -> None:
        with self._mutex, self._alone():
            self._closed = True
            self._environment.close()
            if self._writer is not None:
                self._writer.release()

    def _open(self) -> None:
        data = self.path / "data.mdb"
        if (kind := other_kind(data)) is not None:
            raise Corrupt(f"{data}: found a {kind}, needed a file. {self.repair}")
        check_writable(self.path)
        try:
            if data.exists() and data.stat().st_size == 0:
                raise Corrupt(f"{data}: the file is empty, so its content was lost. {self.repair}")
            if not data.exists():
                make_folder(self.path)
                _create(self.path)
        except OSError as error:
            raise Unavailable(f"{self.path}: cannot be made ({error}). Check free space and access.") from error
        self._file = _file_at(self.path)
        try:
            self._environment: Any = lmdb.open(
                str(self.path),
                map_size=max(self._map_bytes, _file_bytes(self.path)),
                max_readers=_MAX_READERS,
                readahead=False,
                metasync=not self._relaxed,
                mode=file_mode(self.path),
            )
        except lmdb.Error as error:
            raise named(error, self.path, self.repair) from error
        self._begin = self._environment.begin
        self._check_readers()
        try:
            self._check_whole()
            self._check_format()
        except BaseException:
            self._environment.close()
            raise

    def _check_readers(self) -> None:
        """Free the reader slots of killed processes, so that pages which they read can be used again."""
        self._environment.reader_check()
        self._check_s = time.monotonic() + READERS_S

    def _check_whole(self) -> None:
        """Refuse a file that was cut short: a read of a missing page would end the process."""
        try:
            with self._begin(), (self.path / "data.mdb").open("rb") as file:
                cut = is_cut(file)
        except lmdb.Error as error:
            raise named(error, self.path, self.repair) from error
        if cut:
            raise Corrupt(f"{self.path}/data.mdb: cut short, its end is missing. {self.repair}")

    def _check_format(self) -> None:
        try:
            with self._begin() as transaction:
                found = transaction.get(FORMAT_KEY)
        except lmdb.Error as error:
            raise named(error, self.path, self.repair) from error
        if found is None:
            raise Corrupt(
                f"{self.path}: not an LMDB environment of trimtab, because it has no format record. {self.repair}"
            )
        if found != str(FORMAT).encode():
            version = found.decode("ascii", "replace")
            raise Misuse(
                f"{self.path}: key-value format {version}, but this trimtab reads {FORMAT}. Use the trimtab that wrote "
                "it."
            )

    def _recover(self, error: lmdb.Error) -> None:
        """Remove the cause of an error and return, so that the caller tries again; or raise trimtab's error."""
        if isinstance(error, lmdb.MapResizedError):
            with self._mutex, self._alone():
                self._refuse_closed()
                self._environment.set_mapsize(0)  # another process has enlarged the map
            return
        if isinstance(error, lmdb.PanicError):  # after a failed sync, LMDB must be opened again
            with self._mutex, self._alone():
                self._refuse_closed()
                self._environment.close()
                self._open()
        self._refuse_closed()
        raise named(error, self.path, self.repair) from error

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no read run during the block: wait for running reads, and delay new ones. The caller holds the mutex."""
        self.paused = True
        try:
            while self._is_read():
                time.sleep(0.000_05)
            yield
        finally:
            self.paused = False

    def _is_read(self) -> bool:
        with self._threads_mutex:
            return any(thread.busy for thread in self._threads)

    def _take_writer(self) -> FileLock:
        path = self.path / "writer.lock"
        try:
            lock = FileLock.take(path)
        except OSError as error:
            raise Unavailable(f"{path}: cannot be made ({error}). Check free space and access.") from error
        if lock is None:
            raise Conflict(
                f"{self.path}: process {FileLock.holder(path)} is writing here, and only one process may. Stop that "
                "process, or only read."
            )
        return lock

    def _refuse_closed(self) -> None:
        if self._closed:
            raise Misuse(f"{self.path}: this key-value store is closed. Open it again with store.open.")


class _Thread:
    """The state of one reading thread: `busy` says whether it is reading now."""

    __slots__ = ("__weakref__", "busy")

    def __init__(self) -> None:
        self.busy = False


def named(error: lmdb.Error, path: Path, repair: str = RESTORE) -> TrimtabError:
    """Return trimtab's error for LMDB's `error`. `repair` is the advice if the store is damaged."""
    if isinstance(error, lmdb.BadValsizeError):
        return Misuse(f"{path}: a key is empty or too long ({error}). Keys have 1 to 511 bytes.")
    if isinstance(error, lmdb.VersionMismatchError):
        return Misuse(f"{path}: another LMDB format ({error}). Use the trimtab that wrote it.")
    if isinstance(error, _DAMAGED):
        return Corrupt(f"{path}/data.mdb: damaged ({error}). {repair}")
    if isinstance(error, _NOT_NOW) or type(error) is lmdb.Error:
        return Unavailable(f"{path}: {error}. Check free space, limits and access, and try again; nothing was lost.")
    return Corrupt(f"{path}: {type(error).__name__}: {error}. {repair}")


def share(path: Path, map_bytes: int, repair: str, *, relaxed: bool) -> LmdbEnvironment:
    """Return the environment at `path`, which all callers in this process share."""
    key = os.path.realpath(path)
    check_inherited(path)
    with _registry:
        environment = _environments.get(key)
        if environment is None:
            environment = _environments[key] = LmdbEnvironment(path, map_bytes, repair, relaxed=relaxed)
        else:
            environment.users += 1
        return environment


def unshare(environment: LmdbEnvironment) -> None:
    """Give back an environment that `share` returned. The last call closes it."""
    with _registry:
        environment.users -= 1
        if environment.users == 0:
            _environments.pop(os.path.realpath(environment.path), None)
            environment.close()


def _create(path: Path) -> None:
    """Create a synced data file with only the format. The file is complete before it gets its name."""
    with tempfile.TemporaryDirectory(prefix=".new-", dir=path) as directory:
        try:
            with lmdb.open(directory, map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
                transaction.put(FORMAT_KEY, str(FORMAT).encode())
        except lmdb.Error as error:
            raise named(error, path) from error
        Path(directory, "data.mdb").chmod(file_mode(path))
        publish(Path(directory) / "data.mdb", path / "data.mdb")


def _refuse(error: TrimtabError, **_: object) -> Any:
    """Raise `error`. If the store could not be opened again, this is called instead of beginning a transaction."""
    raise error


def _file_at(path: Path) -> tuple[int, int] | None:
    """Return the device and inode number of the data file in a folder."""
    try:
        found = os.stat(path / "data.mdb")
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _file_bytes(path: Path) -> int:
    try:
        return (path / "data.mdb").stat().st_size
    except OSError:
        return 0


_registry = threading.Lock()
_environments: dict[str, LmdbEnvironment] = {}
