"""The place of an LMDB key-value store: a folder that can be set aside while the store is built again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trimtab.core.errors import TrimtabError, Unavailable
from trimtab.store.ports import KeyValue

ASIDE = ".before"  # suffix of the folder that is set aside


def pairs_file(folder: Path) -> Path:
    """Return the path of the data file of a store. After `LmdbPlace.fresh`, another file has this path."""
    return folder / "data.mdb"


class LmdbPlace:
    """A `Place` that is a folder.

    Args:
        folder: The folder of the store. It need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = str(pairs_file(folder))
        self._aside = folder.with_name(f"{folder.name}{ASIDE}")

    def mark(self) -> tuple[int, int] | None:
        """Return the device and inode of the data file, or None if the file does not exist."""
        try:
            found = os.stat(self._file)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def is_aside(self) -> bool:
        """Return whether the old store is set aside, because `fresh` is running or was killed."""
        return self._aside.exists()

    def drop_aside(self) -> None:
        """Delete what a killed `fresh` has set aside."""
        shutil.rmtree(self._aside, ignore_errors=True)

    @contextmanager
    def fresh(self, opened: Callable[[], KeyValue]) -> Iterator[None]:
        """Start with an empty store. The old one is set aside during the block, and restored if the block raises.

        Args:
            opened: Returns the open store. `fresh` makes it use the new, empty folder.

        Raises:
            Unavailable: The folder cannot be moved.
        """
        try:
            if self._folder.exists():
                self.drop_aside()
                os.rename(self._folder, self._aside)
        except OSError as error:
            raise Unavailable(f"{self._folder}: cannot be moved ({error}). Check access.") from error
        try:
            opened().reopen_if_replaced(make=True)
            yield
        except BaseException:
            if self._aside.exists():
                shutil.rmtree(self._folder, ignore_errors=True)
                os.rename(self._aside, self._folder)
                with suppress(TrimtabError):  # the restored store may be damaged as before
                    opened().reopen_if_replaced(make=True)
            raise
        self.drop_aside()
