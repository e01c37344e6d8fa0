"""Locks of a state folder: shared by open projects, exclusive for a restoration.  # D25

The lock is on the folder itself. So it needs no file, no later process can miss it, and the system frees it when its
process dies.
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

FILE = "format.json"  # every state folder has it
PRIVATE = 0o700  # the mode of a new state folder, and of a backup; what is made in it follows


class FolderHold:
    """A lock on a folder, until it is released or garbage-collected."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._finalizer = weakref.finalize(self, _unlock, fd)

    @staticmethod
    def take(folder: Path, *, alone: bool) -> FolderHold | None:
        """Lock the folder, shared or alone; None while another process holds a conflicting lock.

        Raises:
            OSError: There is no such folder, or it cannot be opened.
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
            hold.release()  # replaced since it was opened

    def is_of(self, folder: Path) -> bool:
        """Whether the locked folder is still the one at this path."""
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(folder))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Release the folder; nothing happens the second time."""
        unguard(self)
        self._finalizer()

    def after_fork(self) -> None:
        """In a forked child: close the inherited copy; the parent keeps the folder."""
        if self._finalizer.detach() is not None:
            os.close(self._fd)


def behind_links(folder: str | Path) -> Path:
    """The folder itself, where a link leads to it; unlike `Path.resolve`, no error where links lead in a circle."""
    return Path(os.path.realpath(folder))


def set_aside(folder: Path) -> Path:
    """The path for the previous state while a restoration puts its own in place."""
    folder = behind_links(folder)
    return folder.with_name(f".{folder.name}.before")


def use(folder: Path) -> FolderHold | None:
    """Have a state folder together with others; it is made when it is not there.

    None: it cannot be opened.

    Raises:
        Conflict: A backup is being restored there; or a restoration was killed between its two steps.
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
        except OSError:  # the read reports more
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
    """Lock a state folder exclusively, and whether it was made for that; one set aside is put back first.

    Raises:
        Conflict: A process has it open.
        OSError: It cannot be made or opened.
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
    """Make the folder, or the target of a link; False if another process was faster."""
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
    """Refuse to start a new state where an old one is set aside."""
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
    with suppress(OSError):  # a file system that locks no folders
        fcntl.flock(fd, fcntl.LOCK_UN)  # frees it even if a child has a copy of the descriptor
    os.close(fd)
