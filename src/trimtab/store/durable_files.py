"""Write files so that they are complete or absent after a crash, and check that files can be made in a folder."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from trimtab.core.errors import Misuse, Unavailable
from trimtab.store.regular_file import other_kind

# An unfinished file has a name with this prefix and suffix. If its writer dies, it is left under this name.
TEMPORARY = (".", ".new")
# With less free space than this, the disk counts as full. Opening a database makes files of half this size.
_ROOM_BYTES = 1 << 18


def write_durably(path: Path, data: bytes) -> None:
    """Write a whole file and sync it. After a crash, the file has either the old or the new content.

    Raises:
        Misuse: The path names a device or a pipe.
    """
    kind = other_kind(path)
    if kind not in (None, "folder"):  # for a folder, the system raises an error itself
        raise Misuse(f"file {path}: found a {kind}, needed the name of a new file. Give another one.")
    fd, temporary = tempfile.mkstemp(prefix=TEMPORARY[0], suffix=TEMPORARY[1], dir=path.parent)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, file_mode(path.parent))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(path.parent)


def write_content(path: Path, data: bytes) -> None:
    """Write content to a file that is named by the content's hash, and sync the file and its name.

    If the process is killed, the file is either complete or absent. A power cut before the function returns may leave a
    damaged file. The file gets its name before the first sync, which writes both content and name, so the second sync
    has little to do. # D83
    """
    fd, temporary = tempfile.mkstemp(prefix=TEMPORARY[0], suffix=TEMPORARY[1], dir=path.parent)
    with open(fd, "wb", buffering=0) as file:
        try:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
            os.fchmod(fd, file_mode(path.parent))
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        os.fsync(fd)
    sync_directory(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents. Each gets the permissions of the folder above it.

    So everything in a private folder is private, and a group that may read a folder may read everything that is made in
    it.
    """
    if not folder.is_dir():
        make_folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=folder.parent.stat().st_mode & 0o777)


def file_mode(folder: Path) -> int:
    """Return the permissions for a new file in a folder.

    The owner may write the file, and everyone who may read the folder may read it.
    """
    return 0o600 | folder.stat().st_mode & 0o044


def narrow(path: Path) -> None:
    """Remove from a file each permission that the group or others do not have for its folder."""
    with contextlib.suppress(PermissionError):  # the file belongs to another user of the folder
        path.chmod(path.stat().st_mode & (0o700 | path.parent.stat().st_mode & 0o077))


def publish(made: Path, path: Path) -> None:
    """Give a finished, synced file its final name, unless another process has already made a file of that name.

    In either case, the name `made` does not exist afterwards.
    """
    try:
        os.link(made, path)
    except FileExistsError:
        pass
    # Without hard links, this may replace a file that another process has made, unless the caller holds a lock.
    except OSError:
        os.replace(made, path)
    made.unlink(missing_ok=True)
    sync_directory(path.parent)


def check_writable(folder: Path) -> None:
    """Check that files can be made in a folder, before a store is made there, which could be left half made. # D43

    Without this check, a full disk would make LMDB end the process with SIGBUS, and SQLite would leave empty files
    behind.

    Raises:
        Unavailable: The folder is read-only for this user, or its disk is full.
    """
    there = existing(folder)
    if not os.access(there, os.W_OK):  # also if the file system is mounted read-only
        raise Unavailable(
            f"{folder}: cannot be written: {there} is read-only for this user. Give this user write access, or copy "
            "the project to a folder that can be written."
        )
    disk = os.statvfs(there)
    free = disk.f_bavail * disk.f_frsize
    if free < _ROOM_BYTES or (disk.f_files > 0 and disk.f_favail == 0):
        raise Unavailable(
            f"{folder}: cannot be written: its disk is full ({free >> 10} KiB free, needed {_ROOM_BYTES >> 10}). "
            "Free some space and try again."
        )


def existing(folder: Path) -> Path:
    """Return `folder` if it exists, or otherwise its nearest parent that exists."""
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def sync_directory(path: Path) -> None:
    """Sync a directory, so that the names of its files survive a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
