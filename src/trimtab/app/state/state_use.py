"""Locks of a state folder: shared by open projects, exclusive for a restoration.  # D25

The folder itself is locked. So no extra file is needed, no later process can miss the lock, and the system frees the
lock when its process dies.
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
PRIVATE = 0o700  # the mode of new state folders and backups, and of what is made in them


class FolderHold:
    """A lock on a folder that lasts until it is released or garbage-collected."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._finalizer = weakref.finalize(self, _unlock, fd)

    @staticmethod
    def take(folder: Path, *, alone: bool) -> FolderHold | None:
        """Lock the folder, shared or alone. Return None while another process holds a conflicting lock.

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
            except OSError:  # a file system without folder locks: the engines' own locks remain
                return hold
            if hold.is_of(folder):
                return hold
            hold.release()  # the folder was replaced since it was opened

    def is_of(self, folder: Path) -> bool:
        """Return whether the locked folder is still the folder at this path."""
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(folder))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Release the folder. A second call does nothing."""
        unguard(self)
        self._finalizer()

    def after_fork(self) -> None:
        """Close the inherited copy of the lock in a forked child. The parent keeps the folder locked."""
        if self._finalizer.detach() is not None:
            os.close(self._fd)


def behind_links(folder: str | Path) -> Path:
    """Return the folder itself if a link leads to it.

    Unlike `Path.resolve`, this raises no error for links that lead in a circle.
    """
    return Path(os.path.realpath(folder))


def set_aside(folder: Path) -> Path:
    """Return the path to which a restoration moves the previous state while it puts the new state in place."""
    folder = behind_links(folder)
    return folder.with_name(f".{folder.name}.before")


def use(folder: Path) -> FolderHold | None:
    """Lock a state folder for use together with other processes. The folder is made if it does not exist.

    The result is None if the folder cannot be opened.

    Raises:
        Conflict: A backup is being restored to the folder, or a restoration was killed between its two steps.
        Unavailable: The folder cannot be made.
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
        except OSError:  # reading the folder later reports the error in more detail
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
                with suppress(OSError):  # the restored state is in place
                    folder.rmdir()
            raise
        if hold.is_of(folder):
            return hold
        hold.release()


def have_alone(folder: Path) -> tuple[FolderHold, bool]:
    """Lock a state folder exclusively, and return whether the folder was made for that.

    If a state was set aside, it is put back first.

    Raises:
        Conflict: A process has the folder open.
        OSError: The folder cannot be made or opened.
    """
    old = set_aside(folder)
    if old.is_dir() and not (
        folder.exists() and any(folder.iterdir())
    ):  # a restoration was killed between its two steps
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
        raise Conflict(f"{folder}: a process uses it: a project is open there. Stop or close it first.")
    return hold, made


def _make(folder: Path) -> bool:
    """Make the folder, or the target of a link to it. Return False if another process was faster."""
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
    """Refuse to start a new state if an old state is set aside."""
    old = set_aside(folder)
    try:
        hold = FolderHold.take(old, alone=False)
    except OSError:  # there is none
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
        fcntl.flock(fd, fcntl.LOCK_UN)  # frees the lock even if a child has a copy of the descriptor
    os.close(fd)
