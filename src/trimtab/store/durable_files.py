"""Files that are there as a whole after a crash, or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def write_durably(path: Path, data: bytes) -> None:
    """Put the whole content under its name, synced; after a crash the name holds the old content or the new."""
    fd, temporary = tempfile.mkstemp(prefix=".", suffix=".new", dir=path.parent)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(path.parent)


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


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
