"""Files that a person names: whole files, not what would be waited for without an end."""

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
    """What a path names that is no regular file, in words; None: it names one, or nothing."""
    try:
        return _KINDS.get(stat.S_IFMT(path.stat().st_mode))
    except OSError:
        return None


def regular_file(path: Path, what: str = "file") -> Path:
    """The path itself, once it names a regular file.

    Args:
        path: As it was given.
        what: What the file is, in errors.

    Raises:
        NotFound: There is nothing.
        Misuse: It is something else, such as a named pipe, which may never end.
    """
    kind = other_kind(path)
    if kind is not None:
        raise Misuse(f"{what} {path}: is a {kind}, needed is a file. Give the path of one file.")
    if not path.is_file():
        raise NotFound(f"{what} {path}: there is none. Give the path of one file.")
    return path
