"""Tell other processes what a serving process cannot do now, even if the disk is full."""

from __future__ import annotations

import struct
from pathlib import Path

from trimtab.core.closing import Closing
from trimtab.core.errors import Unavailable
from trimtab.serving.log.locked_mmap import LockedMmap, lock_of
from trimtab.store.durable_files import make_folder
from trimtab.store.file_lock import FileLock

_SIZE_BYTES = 4_096
_LENGTH = struct.Struct("<H")


class SharedStatus(Closing):
    """A sentence in a memory-mapped file that is allocated at the start.

    A lock on the file shows whether its process is alive.

    Args:
        folder: The folder with the files of all processes of a service.
    """

    def __init__(self, folder: Path) -> None:
        try:
            make_folder(folder)
            self._file = LockedMmap.first_free(folder, "note", _SIZE_BYTES)
        except OSError as error:
            raise Unavailable(f"{folder}: a status file cannot be made ({error}). Check space and access.") from error
        self.publish(None)

    def publish(self, failure: str | None) -> None:
        """Publish what this process cannot do now; None: nothing fails."""
        text = (failure or "").encode()[: _SIZE_BYTES - _LENGTH.size]
        memory = self._file.memory
        memory[_LENGTH.size : _LENGTH.size + len(text)] = text
        memory[: _LENGTH.size] = _LENGTH.pack(len(text))

    def close(self) -> None:
        self.publish(None)
        self._file.close()


def shared_statuses(folder: Path) -> list[str]:
    """Return the sentences that living processes have published, without duplicates."""
    found: dict[str, None] = {}
    for path in sorted(folder.glob("note-*")):
        if path.suffix != ".lock" and FileLock.is_held(lock_of(path)):
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # the process had no space to create the file
                continue
            if len(content) < _SIZE_BYTES:  # the file is just being created
                continue
            (length,) = _LENGTH.unpack(content[: _LENGTH.size])
            if text := content[_LENGTH.size : _LENGTH.size + length].decode(errors="replace"):
                found[text] = None
    return list(found)
