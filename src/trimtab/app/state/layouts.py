"""Store in the catalogue the order in which stored events have the columns of each source.  # D34"""

from __future__ import annotations

import msgspec

from trimtab.app.state.state import State
from trimtab.core.errors import Conflict, Misuse
from trimtab.events.definitions import Source
from trimtab.events.layouts import KIND, Layout, continues, decode_layout, laid_out, layout_with
from trimtab.store.ports import Put


class Layouts:
    """The layouts of a project's sources: the position of each column in the list of values of a stored event.

    A new column gets its position when `place` first sees it. Before an event with this column is recorded, `note`
    stores the position. So the catalogue knows the type of every column that was ever recorded, even after its events
    were removed. # D34
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._kept = self._read()
        self._now = {name: layout for name, (layout, _) in self._kept.items()}

    def kept(self, source: str) -> Layout | None:
        """Return the stored layout of a source; None before its first event."""
        return self._kept[source][0] if source in self._kept else None

    def place(self, source: Source) -> Source:
        """Return a source with its columns in the order of stored events; see `laid_out`.

        As long as no event was recorded, a column may change its type.

        Raises:
            Misuse: A column is declared with another type than it has in recorded events.
        """
        try:
            self._now[source.name] = layout_with(self._now.get(source.name), source)
        except Misuse:
            if self.has_events(source.name):
                raise
            self._now[source.name] = layout_with(None, source)
        return laid_out(source, self._now[source.name])

    def note(self, source: str) -> None:
        """Store the layout of a source. This must happen before the first event with this layout.

        Raises:
            Conflict: Another process has stored other columns meanwhile.
        """
        self._now[source] = msgspec.structs.replace(self._now[source], recorded=True)
        self._write([source])

    def keep(self) -> None:
        """Store the positions of new columns of sources that already have a stored layout.

        Raises:
            Conflict: Another process has stored other columns meanwhile.
        """
        self._write(list(self._kept))

    def has_events(self, source: str) -> bool:
        """Return whether any event of a source was ever recorded."""
        layout = self.kept(source)
        return layout is not None and layout.recorded

    def _read(self) -> dict[str, tuple[Layout, int]]:
        found = self._state.catalog.find(KIND)
        return {record.key: (decode_layout(record.body, record.key), record.revision) for record in found}

    def _write(self, sources: list[str]) -> None:
        new = {name: self._now[name] for name in sources if self.kept(name) != self._now[name]}
        if not new:
            return
        revisions = {name: self._kept[name][1] if name in self._kept else 0 for name in new}
        puts = [Put(KIND, name, msgspec.json.encode(one), expected=revisions[name]) for name, one in new.items()]
        try:
            self._state.catalog.write(puts)
        except Conflict as error:
            found = self._read()
            for name, layout in new.items():
                there = found[name][0] if name in found else layout
                if name not in found or not continues(there, layout) or there.recorded is not layout.recorded:
                    raise Conflict(
                        f"source {name!r}: another process has recorded columns that this one does not know. Open the "
                        "project again."
                    ) from error
            self._kept |= {name: found[name] for name in new}
        else:
            self._kept |= {name: (layout, revisions[name] + 1) for name, layout in new.items()}
