"""Where the columns of a project's sources lie in its events, kept in the catalogue. # D34"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from trimtab.core.errors import Conflict, Misuse
from trimtab.events.definitions import Source
from trimtab.events.layouts import KIND, Layout, decode_layout, laid_out, layout_with
from trimtab.events.records import decode
from trimtab.store.ports import Catalog, Log, Put


class Layouts:
    """The layouts of a project's sources.

    Reading them writes nothing: a column that is new has a place from then on, and keeps it once something is about to
    be recorded in it (`keep`).

    Args:
        catalog: Where they are kept.
        events: The log, to see whether a source has events at all.
    """

    def __init__(self, catalog: Catalog, events: Log) -> None:
        self._catalog = catalog
        self._events = events
        self._kept: dict[str, tuple[Layout, int]] = {}
        for record in catalog.find(KIND):
            self._kept[record.key] = decode_layout(record.body, record.key), record.revision
        self._now = {name: layout for name, (layout, _) in self._kept.items()}

    def kept(self, source: str) -> Layout | None:
        """The places that a source's columns have for good; None before it was ever recorded."""
        return self._kept[source][0] if source in self._kept else None

    def place(self, source: Source) -> Source:
        """A source with its columns in their places.

        Raises:
            Misuse: A column is declared as another type than recorded events hold it.
        """
        try:
            self._now[source.name] = layout_with(self._now.get(source.name), source)
        except Misuse:
            if self.has_events(source.name):
                raise
            self._now[source.name] = layout_with(None, source)
        return laid_out(source, self._now[source.name])

    def keep(self, sources: Iterable[str]) -> None:
        """Write down what places the columns of some sources have, before something is recorded.

        Raises:
            Conflict: Another process has given places to other columns since.
        """
        new = {name: self._now[name] for name in sources if self.kept(name) != self._now[name]}
        if not new:
            return
        revisions = {name: self._kept[name][1] if name in self._kept else 0 for name in new}
        puts = [Put(KIND, name, msgspec.json.encode(one), expected=revisions[name]) for name, one in new.items()]
        try:
            self._catalog.write(puts)
        except Conflict as error:
            found = {record.key: decode_layout(record.body, record.key) for record in self._catalog.find(KIND)}
            if any(found.get(name) != layout for name, layout in new.items()):
                raise Conflict(
                    f"source {min(new)!r}: another process has recorded columns that this one does not know. Open the "
                    "project again."
                ) from error
        self._kept |= {name: (layout, revisions[name] + 1) for name, layout in new.items()}

    def has_events(self, source: str) -> bool:
        """Whether the log holds anything of a source, or may have held it before it was truncated."""
        for partition, last in self._events.positions().items():
            position = 0
            while position < last and (records := self._events.read(partition, position)):
                if records[0].position != position + 1 or any(decode(r.payload).source == source for r in records):
                    return True
                position = records[-1].position
        return False
