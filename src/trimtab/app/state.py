"""The state folder: what is kept where, and in which format."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from trimtab import store
from trimtab.core.clock import Clock
from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.urls import store_url
from trimtab.events.definitions import Source
from trimtab.store.ports import Blob, Catalog, KeyValue, Log, Table

FORMAT = 1
_FILE = "format.json"


class StateFormat(msgspec.Struct, frozen=True):
    """What `format.json` says."""

    format: int


class Closeable(Protocol):
    """Whatever is to be closed."""

    def close(self) -> None: ...


Part = TypeVar("Part", bound=Closeable)


class State:
    """One project's state, each part opened on first use.

    Args:
        folder: Made when it is not there.
        clock: Stamps what is appended.
        prediction_mode: Whether an appended prediction waits for a sync.

    Raises:
        Misuse: The folder was written by a newer trimtab.
        Corrupt: `format.json` cannot be read.
    """

    def __init__(self, folder: Path, *, clock: Clock, prediction_mode: str = "durable") -> None:
        self.folder = folder
        self._clock = clock
        self._prediction_mode = prediction_mode
        self._opened: list[Closeable] = []
        check_format(folder)
        if not (folder / _FILE).exists():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _FILE).write_bytes(msgspec.json.encode(StateFormat(FORMAT)))

    @cached_property
    def events(self) -> Log:
        return self._log("events", "durable")

    @cached_property
    def predictions(self) -> Log:
        return self._log("predictions", self._prediction_mode)

    @cached_property
    def quarantine(self) -> Log:
        return self._log("quarantine", "durable")

    @cached_property
    def catalog(self) -> Catalog:
        return self._kept(store.open(store_url("sqlite", self.folder / "catalog.db"), "catalog", clock=self._clock))

    @cached_property
    def blob(self) -> Blob:
        return self._kept(store.open(store_url("file", self.folder / "blob"), "blob"))

    @cached_property
    def online(self) -> KeyValue:
        """Online feature state."""
        return self._kept(store.open(store_url("lmdb", self.folder / "online"), "kv"))

    @cached_property
    def answers(self) -> KeyValue:
        """Precomputed answers."""
        return self._kept(store.open(store_url("lmdb", self.folder / "answers"), "kv"))

    @cached_property
    def learners(self) -> KeyValue:
        """What online learners know."""
        return self._kept(store.open(store_url("lmdb", self.folder / "learners"), "kv"))

    def tables(self, sources: Sequence[Source], *, make: bool) -> dict[str, Table] | None:
        """The sources' tables of record; None where not all of them exist and none is to be made."""
        folders = {source.name: self.folder / "tables" / source.name for source in sources}
        if not make and not all(folder.exists() for folder in folders.values()):
            return None
        return {name: self._kept(store.open(store_url("delta", folder), "table")) for name, folder in folders.items()}

    def close(self) -> None:
        """Close whatever was opened."""
        while self._opened:
            self._opened.pop().close()

    def _log(self, name: str, mode: str) -> Log:
        return self._kept(
            store.open(f"{store_url('sqlite', self.folder / 'log' / name)}?mode={mode}", "log", clock=self._clock)
        )

    def _kept(self, opened: Part) -> Part:
        self._opened.append(opened)
        return opened


def check_format(folder: Path) -> None:
    """Refuse a state folder that this version does not read; a folder without `format.json` is new.

    Raises:
        Misuse: It was written by a newer trimtab.
        Corrupt: `format.json` cannot be read.
    """
    file = folder / _FILE
    if not file.exists():
        return
    try:
        found = msgspec.json.decode(file.read_bytes(), type=StateFormat).format
    except (msgspec.MsgspecError, OSError) as error:
        raise Corrupt(f"{file}: cannot be read ({error}). Restore it; this trimtab writes format {FORMAT}.") from error
    if found > FORMAT:
        raise Misuse(f"{file}: state of format {found}, this trimtab reads up to {FORMAT}. Install a newer trimtab.")
