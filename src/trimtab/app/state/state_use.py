"""Lock a state folder. Open projects share the lock; a restoration needs it alone. # D25

The lock is on the folder itself, so there is no extra file, no process can overlook the lock, and the operating system
frees it when the process dies.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from contextlib import suppress
from pathlib import Path

from trimtab.core.errors import Conflict, Unavailable
from trimtab.store.durable_files import sync_directory
from trimtab.store.forks import check_inherited, guard, unguard

FILE = "format.json"  # every state folder has this file
PRIVATE = 0o700  # the access mode of new state folders, of new backups, and of the folders in them


class FolderHold:
    """A lock on a folder. It lasts until this object is released or garbage-collected."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._finalizer = weakref.finalize(self, _unlock, fd)

    @staticmethod
    def take(folder: Path, *, alone: bool) -> FolderHold | None:
        """Lock the folder, either shared or, with `alone`, exclusively. Return None if another lock forbids that.

        Raises:
            OSError: The folder does not exist or cannot be opened.
        """
        while True:
            hold = FolderHold(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            guard(hold, folder)
            try:
                fcntl.flock(hold._fd, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                hold.release()
                return None
            except OSError:  # this file system cannot lock folders, so only the locks of the stores protect them
                return hold
            if hold.is_of(folder):
                return hold
            hold.release()  # the folder was replaced after it was opened

    def is_of(self, folder: Path) -> bool:
        """Return whether the locked folder is still the one at this path."""
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(folder))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        unguard(self)
        self._finalizer()

    def after_fork(self) -> None:
        """Close the inherited copy of the lock in a forked child. The parent keeps the folder locked."""
        if self._finalizer.detach() is not None:
            os.close(self._fd)


def behind_links(folder: str | Path) -> Path:
    """Return the folder to which a link leads, or the path itself if it is no link.

    Unlike `Path.resolve`, this raises no error for links that lead in a circle.
    """
    return Path(os.path.realpath(folder))


def set_aside(folder: Path) -> Path:
    """Return the path to which a restoration moves the old state while it puts the new state in place."""
    folder = behind_links(folder)
    return folder.with_name(f".{folder.name}.before")


def use(folder: Path) -> FolderHold | None:
    """Lock a state folder so that other processes can share it. The folder is created if it does not exist.

    The result is None if the folder cannot be opened.

    Raises:
        Conflict: A backup is being restored to the folder, or a restoration was killed before the new state was in
            place.
        Unavailable: The folder cannot be created.
    """
    check_inherited(folder)
    made = False
    while True:
        try:
            hold = FolderHold.take(folder, alone=False)
        except FileNotFoundError:
            _refuse_set_aside(folder)
            made = _make(folder)
            continue
        except OSError:  # reading the folder later gives a better error
            return None
        if hold is None:
            raise _restoring(folder)
        if (folder / FILE).exists():
            return hold
        try:
            _refuse_set_aside(folder)
        except Conflict:
            hold.release()
            if made:
                with suppress(OSError):  # the folder is not empty: a restoration has just put the new state there
                    folder.rmdir()
            raise
        if hold.is_of(folder):
            return hold
        hold.release()


def have_alone(folder: Path) -> tuple[FolderHold, bool]:
    """Lock a state folder exclusively. Return the lock, and whether this call created the folder.

    If a killed restoration had moved the old state away (see `set_aside`), that state is moved back first.

    Raises:
        Conflict: A process has the folder open, or another restoration is running.
        OSError: The folder cannot be created or opened.
    """
    old = set_aside(folder)
    # if the folder is missing or empty, a restoration was killed before the new state was in place
    if old.is_dir() and not (folder.exists() and any(folder.iterdir())):
        hold = FolderHold.take(old, alone=True)
        if hold is None:
            raise _restoring(folder)
        old.rename(folder)
        sync_directory(folder.parent)
        return hold, False
    made = not folder.exists()
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=PRIVATE, exist_ok=True)
    hold = FolderHold.take(folder, alone=True)
    if hold is None:
        raise Conflict(f"{folder}: a process has a project open there. Close the project, or stop the process, first.")
    return hold, made


def _make(folder: Path) -> bool:
    """Create the folder; if it is a link, create its target. Return False if another process has just done so."""
    folder = behind_links(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=PRIVATE)
    except FileExistsError:
        return False
    except OSError as error:
        raise Unavailable(f"{folder}: cannot be made ({error}). Check free space and access.") from error
    return True


def _refuse_set_aside(folder: Path) -> None:
    """Raise an error if a restoration has moved an old state away, so that no empty state replaces it."""
    old = set_aside(folder)
    try:
        hold = FolderHold.take(old, alone=False)
    except OSError:  # there is no such state
        return
    if hold is None:
        raise _restoring(folder)
    hold.release()
    raise Conflict(
        f"{folder}: restoring a backup was interrupted there, and the previous state is in {old}. Restore the backup "
        f"again, or put the state back: mv '{old}' '{behind_links(folder)}'"
    )


def _restoring(folder: Path) -> Conflict:
    return Conflict(f"{folder}: a backup is being restored there. Try again when that is done.")


def _unlock(fd: int) -> None:
    with suppress(OSError):  # some file systems lock no folders
        fcntl.flock(fd, fcntl.LOCK_UN)  # frees the lock, even if a child has a copy of the descriptor
    os.close(fd)
