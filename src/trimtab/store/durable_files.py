"""Files that are whole after a crash or not there at all, and the check that files can be made."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from trimtab.core.errors import Misuse, Unavailable
from trimtab.store.regular_file import other_kind

TEMPORARY = (".", ".new")  # how the name of a file begins and ends that is being written, or was when its writer died
_ROOM_BYTES = 1 << 18  # less is a full disk: the files that a database makes when it is opened take half of it


def write_durably(path: Path, data: bytes) -> None:
    """Put the whole content under its name, synced; after a crash the name holds the old content or the new.

    Raises:
        Misuse: The name is that of a device or a pipe, which a file would take the place of.
    """
    kind = other_kind(path)
    if kind not in (None, "folder"):  # a folder is the system's own error
        raise Misuse(f"file {path}: is a {kind}, needed is a name for a new file. Give another one.")
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
    """Put content under a name that says what it must be (its hash), and sync it with that name.

    Killed, this leaves all or nothing; a power cut before it returned may leave a damaged file under the name. The
    name is given before the first sync, which brings both to the disk: the second one finds little left to do. # D83
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
    """Make a folder, and those above it that are missing, each open to no one more than the one above it.

    So all that lies in a private folder is private, and a group that a folder is opened to has what is made there.
    """
    if not folder.is_dir():
        make_folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=folder.parent.stat().st_mode & 0o777)


def file_mode(folder: Path) -> int:
    """The mode of a new file in a folder: for its owner, and to be read by those whom the folder is open to."""
    return 0o600 | folder.stat().st_mode & 0o044


def narrow(path: Path) -> None:
    """Close what something else has made to those whom the folder around it is not open to."""
    with contextlib.suppress(PermissionError):  # another user's, who shares the folder
        path.chmod(path.stat().st_mode & (0o700 | path.parent.stat().st_mode & 0o077))


def publish(made: Path, path: Path) -> None:
    """Give a synced file its name, unless another process gave that name to its own first; `made` is gone then."""
    try:
        os.link(made, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links: there, two first processes at once are up to their locks
        os.replace(made, path)
    made.unlink(missing_ok=True)
    sync_directory(path.parent)


def check_writable(folder: Path) -> None:
    """Refuse a folder in which no file can be made now, before any is half made there. # D43

    On a full disk LMDB would end the process with SIGBUS, and SQLite would leave empty files behind.

    Raises:
        Unavailable: It is read-only for this user, or its disk is full.
    """
    there = existing(folder)
    if not os.access(there, os.W_OK):  # also where the file system is mounted read-only
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
    """`folder`, or the nearest one above it that is there."""
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
