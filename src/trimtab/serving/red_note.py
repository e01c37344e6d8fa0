"""What a serving process cannot do just now, told to whoever looks from outside, also when the disk is full."""

from __future__ import annotations

import mmap
import os
import struct
from itertools import count
from pathlib import Path
from types import TracebackType

from trimtab.core.errors import Unavailable
from trimtab.store.file_lock import FileLock

_SIZE_BYTES = 4_096
_LENGTH = struct.Struct("<H")


class RedNote:
    """A sentence in a file's memory. The room for it is taken beforehand, and its process holds the file's lock.

    Args:
        folder: Where the notes of all processes of a service are.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._map, self._lock = _free(folder)
        except OSError as error:
            raise Unavailable(f"{folder}: a note cannot be made ({error}). Check space and access.") from error
        self.say(None)

    def say(self, what: str | None) -> None:
        """What cannot be done; None: all is well."""
        text = (what or "").encode()[: _SIZE_BYTES - _LENGTH.size]
        self._map[_LENGTH.size : _LENGTH.size + len(text)] = text
        self._map[: _LENGTH.size] = _LENGTH.pack(len(text))

    def close(self) -> None:
        self.say(None)
        self._map.close()
        self._lock.release()

    def __enter__(self) -> RedNote:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def red_notes(folder: Path) -> list[str]:
    """What the processes that serve now cannot do; each sentence once."""
    found: dict[str, None] = {}
    for path in sorted(folder.glob("note-*")):
        if path.suffix != ".lock" and FileLock.is_held(path.with_suffix(".lock")):
            content = path.read_bytes()
            (length,) = _LENGTH.unpack(content[: _LENGTH.size])
            if text := content[_LENGTH.size : _LENGTH.size + length].decode(errors="replace"):
                found[text] = None
    return list(found)


def _free(folder: Path) -> tuple[mmap.mmap, FileLock]:
    """The first note that no other process has."""
    for number in count(1):
        path = folder / f"note-{number:04}"
        lock = FileLock.take(path.with_suffix(".lock"))
        if lock is not None:
            return _mapped(path), lock
    raise AssertionError("unreachable")


def _mapped(path: Path) -> mmap.mmap:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if os.fstat(fd).st_size != _SIZE_BYTES:
            os.ftruncate(fd, 0)
            os.posix_fallocate(fd, 0, _SIZE_BYTES)  # now, so that a full disk cannot refuse it later
        return mmap.mmap(fd, _SIZE_BYTES)
    finally:
        os.close(fd)
