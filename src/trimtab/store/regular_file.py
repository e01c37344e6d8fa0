"""Checks that a path given by a user names a regular file, and not a folder, a pipe or a device."""

from __future__ import annotations

import stat
from pathlib import Path

from trimtab.core.errors import Misuse, NotFound

_KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


def other_kind(path: Path) -> str | None:
    """Return the kind of what a path names, for example "folder".

    Return None if the path names a regular file, or nothing.
    """
    try:
        return _KINDS.get(stat.S_IFMT(path.stat().st_mode))
    except OSError:
        return None


def regular_file(path: Path, what: str = "file") -> Path:
    """Return the path if it names a regular file.

    Args:
        path: The path as the user gave it.
        what: What the file is for, used in messages.

    Raises:
        NotFound: Nothing exists at the path.
        Misuse: The path names something other than a regular file, such as a named pipe.
    """
    kind = other_kind(path)
    if kind is not None:
        raise Misuse(f"{what} {path}: found a {kind}, needed a file. Give the path of one file.")
    if not path.is_file():
        raise NotFound(f"{what} {path}: not found. Give the path of one file.")
    return path
