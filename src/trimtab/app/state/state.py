"""The state folder of a project: opens its stores and checks its format."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from trimtab import store
from trimtab.app.state.state_use import FILE, use
from trimtab.core.clock import CheckedClock, Clock, SystemClock
from trimtab.core.errors import Corrupt, Misuse, TrimtabError, Unavailable
from trimtab.core.urls import in_utf8, store_url
from trimtab.events.definitions import Source
from trimtab.serving.log.prediction_ids import PredictionIds
from trimtab.store.durable_files import write_durably
from trimtab.store.embedded_files import embedded_urls
from trimtab.store.ports import Blob, Catalog, KeyValue, Log, Place, Put, Table, read_record

if TYPE_CHECKING:
    from trimtab.events.tables import Moved

FORMAT = 1
INDEX = "index"  # the folder of files that are made of the event log alone, and can be made again
KEPT = "retention"  # the kind of the catalogue records about removed data
REBUILD = "Repair it: trimtab storage rebuild --all"  # the remedy for damaged online features
RESTORE = "Repair it: trimtab storage restore BACKUP --force"  # the remedy for any other damage
_SOURCE = "source/"


class StateFormat(msgspec.Struct, frozen=True):
    """The content of `format.json`: the number of the format in which the folder was written."""

    format: int


class StateMark(msgspec.Struct, frozen=True):
    """Values that change when something is written."""

    events: Hashable  # changes with the event log
    other: Hashable  # changes with the catalogue, and when the online store is replaced


class Closeable(Protocol):
    """Any object with a method `close`."""

    def close(self) -> None: ...


Part = TypeVar("Part", bound=Closeable)


class State:
    """The stores of one project. Each store is opened when it is first used.

    As long as this object is open, no backup can be restored to its folder.

    Args:
        folder: The state folder, which is made if it does not exist.
        clock: Stamps the records that are appended.
        prediction_mode: "durable": appending a prediction waits until it is synced to the disk. "relaxed": it is only
            buffered.
        urls: The URLs of stores on a server, by the name of the store, such as `online`.

    Raises:
        Misuse: The folder was written by a newer trimtab, or a URL is not that of a server.
        Corrupt: `format.json` cannot be read.
        Conflict: A backup is being restored to the folder, or a restoration was killed.
        Unavailable: The folder cannot be created.
    """

    def __init__(
        self, folder: Path, *, clock: Clock, prediction_mode: str = "durable", urls: Mapping[str, str] = {}
    ) -> None:
        for url in urls.values():
            store.check_server(url)
        self.folder = in_utf8(folder)
        self._clock = clock
        self._checked = CheckedClock(clock) if isinstance(clock, SystemClock) else None
        self.prediction_ids = PredictionIds(self._checked or clock)  # assigns ids to this process's predictions
        self._prediction_mode = prediction_mode
        self._urls = {**embedded_urls(self.folder), **urls}
        self._opened: list[Closeable] = []
        self._tables: dict[str, Table] = {}
        self._hold = use(folder)
        try:
            self._see_format()
        except TrimtabError:
            self.close()
            raise

    @cached_property
    def events(self) -> Log:
        return self._log("events", "durable")

    @cached_property
    def predictions(self) -> Log:
        """The prediction log. It is a `BufferedLog` if appending does not wait until predictions are on the disk."""
        if self._prediction_mode != "relaxed":
            return self.written_predictions
        from trimtab.serving.log.buffered_log import BufferedLog

        return self._kept(BufferedLog(self.written_predictions, self.spools))

    @cached_property
    def written_predictions(self) -> Log:
        """The prediction log without the answers that are still in buffers."""
        return self._log("predictions", self._prediction_mode, self.prediction_ids)  # D170

    def clock_jump(self) -> str | None:
        """Return a message if the machine's clock jumped ahead, so that nothing can be recorded; otherwise None."""
        return None if self._checked is None else self._checked.jump()

    def check_clock(self) -> None:
        """Raise Unavailable if nothing can be recorded because the machine's clock jumped ahead."""
        if (jump := self.clock_jump()) is not None:
            raise Unavailable(jump)

    @property
    def spools(self) -> Path:
        """The folder with the buffers of answers."""
        return self.folder / "spool"

    @cached_property
    def quarantine(self) -> Log:
        return self._log("quarantine", "durable")

    @cached_property
    def exposures(self) -> Log:
        """The log of exposures: which unit was exposed to which variant of an experiment, and when."""
        return self._log("exposures", "durable")

    @cached_property
    def catalog(self) -> Catalog:
        return self._kept(store.open(self._urls["catalog"], "catalog", clock=self._clock))

    @cached_property
    def blob(self) -> Blob:
        return self._kept(store.open(self._urls["blob"], "blob"))

    @cached_property
    def online(self) -> KeyValue:
        """The store of online features."""
        # relaxed: if a power cut undoes the application of some records, they are applied again from the log  # D216
        return self._key_values("online", REBUILD, mode="relaxed")

    @cached_property
    def online_place(self) -> Place:
        """The object that `place` returns for the store of online features."""
        return self.place("online")

    def place(self, name: str) -> Place:
        """Return an object that can detect or replace the store `online`, `answers` or `learners` without opening it.

        A store that does not exist is not created.
        """
        return store.place(self._urls[name])

    @cached_property
    def answers(self) -> KeyValue:
        """The store of precomputed answers."""
        return self._key_values("answers", RESTORE)

    @cached_property
    def learners(self) -> KeyValue:
        """The store of online learners."""
        return self._key_values("learners", RESTORE)

    def damaged_stores(self) -> list[str]:
        """Return a line of text for each key-value store that exists but cannot be opened, with the remedy.

        Online features are not checked here, because they can be rebuilt from the log: see `damage` of `stored_views`.
        """
        found: list[str] = []
        for name in ("answers", "learners"):
            if self.place(name).mark() is not None:  # opening a store that does not exist would create it
                try:
                    getattr(self, name)
                except Corrupt as error:
                    found.append(str(error))
        return found

    def tables(self, sources: Sequence[Source], *, make: bool) -> dict[str, Table]:
        """Return the tables of record (the long-term store of events) of these sources, by source.

        With `make`, missing tables are created. Otherwise, they are left out.
        """
        found = {source.name: self.table(source.name, make=make) for source in sources}
        return {name: table for name, table in found.items() if table is not None}

    def table(self, source: str, *, make: bool) -> Table | None:
        """Return the table of record of a source.

        If there is none, it is created with `make`; otherwise the result is None.
        """
        folder = self.folder / "tables" / source
        if source not in self._tables and (make or folder.exists()):
            self._tables[source] = self._kept(store.open(store_url("delta", folder), "table"))
        return self._tables.get(source)

    def moved(self, sources: Sequence[Source]) -> Moved:
        """Return the tables of record, and up to which position of each partition the event log was truncated.

        Events up to these positions must be read from the tables, because the log no longer has them.

        Raises:
            Corrupt: A table lacks rows that the log no longer has.
        """
        from trimtab.events.tables import Moved

        tables, truncated = self.tables(sources, make=False), truncation(self.catalog)
        for source in sources:
            for partition, needed in truncated.sources.get(source.name, {}).items():
                found = tables[source.name].position(partition) if source.name in tables else 0
                if found < needed:
                    raise Corrupt(
                        f"{self.folder}/tables/{source.name}: records up to position {needed} of partition "
                        f"{partition} were removed from the event log, but this table only has them up to position "
                        f"{found}. Restore the state from a backup."
                    )
        if not truncated.through:
            return Moved(tables, {})
        return Moved(tables, truncated.through, truncated.newest_us)

    def mark(self) -> StateMark | None:
        """Return a value that changes when the catalogue or event log is written, or the online store is replaced.

        None: no such value can be read quickly.
        """
        catalog, events = self.catalog.mark(), self.events.mark()
        return None if catalog is None or events is None else StateMark(events, (catalog, self.online_place.mark()))

    def close(self) -> None:
        """Close every store."""
        self._tables.clear()
        try:
            while self._opened:
                self._opened.pop().close()
        finally:
            if self._hold is not None:
                self._hold.release()

    def _see_format(self) -> None:
        check_format(self.folder)
        if not (self.folder / FILE).exists():
            try:
                write_durably(self.folder / FILE, msgspec.json.encode(StateFormat(FORMAT)))
            except OSError as error:
                raise Unavailable(f"{self.folder}: cannot be made ({error}). Check free space and access.") from error

    def _log(self, name: str, mode: str, clock: Clock | None = None) -> Log:
        url = f"{self._urls[name]}?mode={mode}"
        return self._kept(store.open(url, "log", clock=clock or self._checked or self._clock))

    def _key_values(self, name: str, repair: str, *, mode: str = "durable") -> KeyValue:
        return self._kept(store.open(f"{self._urls[name]}?mode={mode}", "kv", repair=repair))

    def _kept(self, opened: Part) -> Part:
        self._opened.append(opened)
        return opened


class Truncation(msgspec.Struct, frozen=True):
    """A record of how much of the event log was removed. It is written before the removal."""

    through: dict[str, int] = {}  # for each partition, the position up to which records were removed
    sources: dict[str, dict[str, int]] = {}  # for each source and partition, up to where its table must have records
    newest_us: int = -(2**62)  # the latest append time in the log before the removal; the default precedes all times


def truncation(catalog: Catalog) -> Truncation:
    """Return the stored record of how much of the event log was removed."""
    return read_record(catalog, KEPT, "log", Truncation) or Truncation()


def kept_from(catalog: Catalog) -> dict[str, int]:
    """Return for each source the time before which retention removes events.

    It is stored before the removal begins, so some older events may still exist.
    """
    found = catalog.find(KEPT, _SOURCE)
    return {record.key.removeprefix(_SOURCE): msgspec.json.decode(record.body, type=int) for record in found}


def truncation_put(
    catalog: Catalog, tables: Mapping[str, Mapping[str, int]], through: Mapping[str, int], newest_us: int
) -> Put:
    """Return the catalogue write that must precede a truncation of the log.

    Args:
        tables: For each source and partition, the last position in the table.
        through: For each partition, the last position to remove from the log.
        newest_us: The latest append time in the log.
    """
    before = truncation(catalog)
    higher = {name: max(position, before.through.get(name, 0)) for name, position in through.items()}
    moved = before.through | higher
    needed = dict(before.sources)
    for source, positions in tables.items():
        in_table = {name: min(position, positions.get(name, 0)) for name, position in moved.items()}
        already = needed.get(source, {})
        needed[source] = {name: max(position, already.get(name, 0)) for name, position in in_table.items()}
    return Put(KEPT, "log", msgspec.json.encode(Truncation(moved, needed, newest_us)))


def note_kept_from(catalog: Catalog, source: str, before_us: int) -> None:
    """Store that events of a source before `before_us` will be removed."""
    catalog.write([Put(KEPT, _SOURCE + source, msgspec.json.encode(before_us))])


def check_format(folder: Path) -> None:
    """Raise an error if this version of trimtab cannot read the state folder.

    A folder without `format.json` counts as new.

    Raises:
        Misuse: The folder was written by a newer trimtab.
        Corrupt: `format.json` cannot be read.
    """
    file = folder / FILE
    if not file.exists():
        return
    try:
        found = msgspec.json.decode(file.read_bytes(), type=StateFormat).format
    except (msgspec.MsgspecError, OSError) as error:
        raise Corrupt(f"{file}: cannot be read ({error}). Restore it; this trimtab writes format {FORMAT}.") from error
    if found > FORMAT:
        raise Misuse(
            f"{file}: state of format {found}, but this trimtab reads up to {FORMAT}. Install a newer trimtab."
        )
