"""The state folder: what is kept where, and in which format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from trimtab import store
from trimtab.core.clock import Clock
from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.urls import store_url
from trimtab.events.definitions import Source
from trimtab.store.ports import Blob, Catalog, KeyValue, Log, Put, Table

if TYPE_CHECKING:
    from trimtab.events.tables import Moved

FORMAT = 1
KEPT = "retention"  # the kind of the catalogue's records of what was removed
_SOURCE = "source/"
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
        self._tables: dict[str, Table] = {}
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

    def tables(self, sources: Sequence[Source], *, make: bool) -> dict[str, Table]:
        """The sources' tables of record: those that exist, or (`make`) all."""
        for source in sources:
            folder = self.folder / "tables" / source.name
            if source.name not in self._tables and (make or folder.exists()):
                self._tables[source.name] = self._kept(store.open(store_url("delta", folder), "table"))
        return {source.name: self._tables[source.name] for source in sources if source.name in self._tables}

    def moved(self, sources: Sequence[Source]) -> Moved:
        """What of the event log is in tables of record: what a history of these sources begins with.

        Raises:
            Corrupt: A table lacks rows that the log does not have any more.
        """
        from trimtab.events.tables import Moved

        tables, truncated = self.tables(sources, make=False), truncation(self.catalog)
        for source in sources:
            for partition, needed in truncated.sources.get(source.name, {}).items():
                found = tables[source.name].position(partition) if source.name in tables else 0
                if found < needed:
                    raise Corrupt(
                        f"{self.folder}/tables/{source.name}: the event log was truncated up to {needed} of "
                        f"{partition}, and this table reaches {found}. Restore the state from a backup."
                    )
        if not truncated.through:
            return Moved(tables, {})
        return Moved(tables, truncated.through, truncated.newest_us)

    def close(self) -> None:
        """Close whatever was opened."""
        self._tables.clear()
        while self._opened:
            self._opened.pop().close()

    def _log(self, name: str, mode: str) -> Log:
        return self._kept(
            store.open(f"{store_url('sqlite', self.folder / 'log' / name)}?mode={mode}", "log", clock=self._clock)
        )

    def _kept(self, opened: Part) -> Part:
        self._opened.append(opened)
        return opened


class Truncation(msgspec.Struct, frozen=True):
    """Up to where the event log has been truncated, or is just being: written down before it is."""

    through: dict[str, int] = {}  # by partition: up to here every record is in its source's table
    sources: dict[str, dict[str, int]] = {}  # by source and partition: up to here its table has to reach
    newest_us: int = 0  # the greatest append time that the log had then


def truncation(catalog: Catalog) -> Truncation:
    """Up to where the event log is in tables of record alone."""
    record = catalog.get(KEPT, "log")
    return Truncation() if record is None else msgspec.json.decode(record.body, type=Truncation)


def kept_from(catalog: Catalog) -> dict[str, int]:
    """By source, the moment before which its events have been removed, or are just being: the settings said so."""
    found = catalog.find(KEPT, _SOURCE)
    return {record.key.removeprefix(_SOURCE): msgspec.json.decode(record.body, type=int) for record in found}


def note_truncated(
    catalog: Catalog, tables: Mapping[str, Mapping[str, int]], through: Mapping[str, int], newest_us: int
) -> None:
    """Write down up to where the log is about to be truncated, and whose tables have what goes.

    Args:
        catalog: Where.
        tables: By source and partition, the position that its table has: no more is asked of it later.
        through: By partition, up to where the log goes.
        newest_us: The greatest append time that the log has.
    """
    before = truncation(catalog)
    higher = {name: max(position, before.through.get(name, 0)) for name, position in through.items()}
    moved = before.through | higher
    needed = dict(before.sources)
    for source, positions in tables.items():
        asked = {name: min(position, positions.get(name, 0)) for name, position in moved.items()}
        already = needed.get(source, {})
        needed[source] = {name: max(position, already.get(name, 0)) for name, position in asked.items()}
    noted = Truncation(moved, needed, newest_us)
    catalog.write([Put(KEPT, "log", msgspec.json.encode(noted))])


def note_kept_from(catalog: Catalog, source: str, before_us: int) -> None:
    """Write down from when on events of a source are kept."""
    catalog.write([Put(KEPT, _SOURCE + source, msgspec.json.encode(before_us))])


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
