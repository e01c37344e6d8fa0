"""What stands in for a catalogue that was never made, where none can be: nothing is in it. # D43"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from trimtab.core.errors import Unavailable
from trimtab.store.ports import Append, Entry, Put, Record, Remove


class AbsentCatalog:
    """A `Catalog` without records, which refuses every change.

    >>> AbsentCatalog(Path("/cdrom/catalog.db")).find("alias")
    []
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, kind: str, key: str) -> Record | None:
        return None

    def find(self, kind: str, prefix: str = "") -> list[Record]:
        return []

    def journal(self, name: str, *, after: int = 0, limit: int = 10_000) -> list[Entry]:
        return []

    def write(self, changes: Sequence[Put | Remove | Append]) -> None:
        self._refuse()

    def acquire(self, lease: str, holder: str, ttl_s: float) -> bool:
        self._refuse()

    def mark(self) -> None:
        """Somebody may make it at any time."""

    def release(self, lease: str, holder: str) -> None:
        self._refuse()

    def close(self) -> None:
        """Nothing is open."""

    def _refuse(self) -> NoReturn:
        raise Unavailable(
            f"{self._path}: it is not there and could not be made: the place is read-only for this user, or its disk "
            "is full. Check free space and access, and open the project again."
        )
