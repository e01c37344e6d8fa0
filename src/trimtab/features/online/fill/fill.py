"""Fill a view: compute its states from history while the old ones are still read, then switch to the new ones. # D31"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from trimtab.core.errors import NotFound
from trimtab.features.online.failures import Counts
from trimtab.features.online.fill.history import SourceRows, log_batches
from trimtab.features.online.fill.load import MOST_ROWS, History, load
from trimtab.features.online.generations import FILLING, LEFT, id_of, left_name, next_generation, place
from trimtab.features.online.packed.keys import KeySpace
from trimtab.features.online.packed.plan import ViewPlan
from trimtab.features.online.store import BEGIN, Cursor, OnlineStore, write_cursors
from trimtab.store.ports import Log

if TYPE_CHECKING:
    from trimtab.events.tables import Moved

_TAIL = 6_000  # at the end, a step applies up to this many new records (if more arrive per step, filling never ends)
_SWEPT = 5_000  # how many keys one transaction deletes


class Filled(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of filling a view."""

    view: str  # the name of the view in the store
    rows: int  # how many records were read up to now
    of: int  # about how many records there are in total
    done: bool  # whether the view can be read now


class Filling:
    """Fills one view, while other views and the view's previous states are still read and kept up to date.

    `steps` does the work. The store may apply records between two steps. The first step with `done` makes all new
    states readable in one transaction; before that, none of them is read. If the process dies, the view stays marked as
    being filled. The next filling begins again with new states, and deletes the incomplete ones at its end.

    Args:
        store: The store of all views. The same process, with the same store object, must apply records and fill views.
        name: The name of the view in the store.
        moved: The records that are in tables of record (permanent copies), if they may have been removed from the log.
        most_rows: How many records may be in memory at once. A longer history is read several times.

    Raises:
        NotFound: The store has no such view.
    """

    def __init__(
        self, store: OnlineStore, name: str, log: Log, *, moved: Moved | None = None, most_rows: int = MOST_ROWS
    ) -> None:
        if name not in store.plans:
            raise NotFound(f"online store: no view {name!r} among {', '.join(store.plans)}.")
        self.store = store
        self.name = name
        self.view = store.plans[name].view
        self._log = log
        self._moved = moved
        self._most_rows = most_rows

    def begin(self) -> Cursor:
        """Mark the view as being filled. Return a cursor: up to which positions to fill it, and the new generation."""
        store = self.store
        cursors = store.cursors()
        mark = FILLING + self._id
        before = cursors.pop(mark, None)
        if before is not None:
            cursors[left_name(self._id, before.generation)] = before
        target = self._front(cursors)
        generation = next_generation(c.generation for c in cursors.values())
        cursors[mark] = Cursor(target.s_us, target.positions, generation)
        write_cursors(store.kv, cursors)
        return cursors[mark]

    def steps(self) -> Iterator[Filled]:
        """Fill the view in small steps. From the step with `done` on, the view can be read.

        Raises:
            Misuse: Needed records were removed from the log, and there is no table of record.
        """
        target = self.begin()
        rows = SourceRows(self._log, self.view.source, target.positions, moved=self._moved)
        yield from load_steps(self.store, self.name, rows, target, most_rows=self._most_rows)
        aside = OnlineStore(self.store.kv, [self.view], filling=True)
        while True:
            cursors = self.store.cursors()
            at = cursors[FILLING + self._id]
            front = self._live_front(cursors) or target
            new = next(log_batches(self._log, at.positions, front.positions, batch=_TAIL), None)
            if new is None:
                break
            aside.apply(new)
            yield self._filled(sum(at.positions.values()) + len(new), sum(front.positions.values()))
        self._switch(front)
        yield self._filled(sum(front.positions.values()), sum(front.positions.values()), done=True)
        while sweep(self.store, _SWEPT):
            yield self._filled(sum(front.positions.values()), sum(front.positions.values()), done=True)

    @property
    def _id(self) -> str:
        return self.store.plans[self.name].cursor_name

    def _front(self, cursors: Mapping[str, Cursor]) -> Cursor:
        """Return the furthest position of the readable views. If no view is readable, return the end of the log."""
        return self._live_front(cursors) or log_end(self._log, self._moved)

    def _live_front(self, cursors: Mapping[str, Cursor]) -> Cursor | None:
        live = [cursors[p.cursor_name] for p in self.store.plans.values() if p.cursor_name in cursors]
        return max(live, key=_reach, default=None)

    def _switch(self, front: Cursor) -> None:
        """Let reads use the new states from now on, in one transaction."""
        cursors = self.store.cursors()
        before = cursors.get(self._id)
        filled = cursors.pop(FILLING + self._id)
        if before is not None:
            cursors[left_name(self._id, before.generation)] = before
        s_us = max(filled.s_us, front.s_us)
        cursors[self._id] = msgspec.structs.replace(filled, s_us=s_us)
        write_cursors(self.store.kv, cursors)

    def _filled(self, rows: int, of: int, *, done: bool = False) -> Filled:
        return Filled(view=self.name, rows=rows, of=of, done=done)


def load_steps(
    store: OnlineStore, name: str, rows: History, target: Cursor, *, most_rows: int = MOST_ROWS
) -> Iterator[Filled]:
    """Write the states of a view that is marked as being filled, from the rows of its source up to `target`."""
    plan = place(ViewPlan(store.plans[name].view), target.generation)
    count = Counts()
    done = 0
    for taken in load(store.kv, plan, rows, target.s_us, count, most_rows=most_rows):
        done += taken
        yield Filled(view=name, rows=done, of=rows.most, done=False)
    cursors = store.cursors()
    cursors[FILLING + plan.cursor_name] = target.counted(count)
    write_cursors(store.kv, cursors)


def fill(
    store: OnlineStore,
    log: Log,
    *,
    views: Sequence[str] | None = None,
    moved: Moved | None = None,
    most_rows: int = MOST_ROWS,
) -> Iterator[Filled]:
    """Fill the named views, or all views that are not filled yet, while the returned iterator is consumed.

    Args:
        views: The names of views in the store. A view that is already filled is filled again, and stays readable
            meanwhile.
        moved: The records that are in tables of record, if they may have been removed from the log.
        most_rows: How many records may be in memory at once.
    """
    for name in unfilled(store) if views is None else views:
        yield from Filling(store, name, log, moved=moved, most_rows=most_rows).steps()


def unfilled(store: OnlineStore) -> list[str]:
    """Return the views that cannot be read yet, because they were never filled, by their names in the store."""
    cursors = store.cursors()
    return [name for name, plan in store.plans.items() if plan.cursor_name not in cursors]


def mark_unfilled(store: OnlineStore, log: Log, moved: Moved | None = None) -> list[str]:
    """Mark new views as being filled, so that nothing is applied to them before they are filled.

    Return the names of the views that were not marked before.
    """
    cursors = store.cursors()
    names = [name for name in unfilled(store) if FILLING + store.plans[name].cursor_name not in cursors]
    for name in names:
        Filling(store, name, log, moved=moved).begin()
    return names


def live_positions(store: OnlineStore) -> dict[str, int] | None:
    """Return the positions up to which all readable views have applied the log; None: no view is readable."""
    cursors = store.cursors()
    live = [cursors[p.cursor_name].positions for p in store.plans.values() if p.cursor_name in cursors]
    if not live:
        return None
    names = set().union(*live)
    return {name: min(positions.get(name, 0) for positions in live) for name in sorted(names)}


def log_end(log: Log, moved: Moved | None = None) -> Cursor:
    """Return the end of a log as a cursor. Its `s_us` is the latest append time in the log."""
    through = {} if moved is None else moved.through
    positions = {name: position for name, position in {**through, **log.positions()}.items() if position}
    last = [r.appended_at_us for name, position in positions.items() for r in log.read(name, position - 1, limit=1)]
    newest_us = BEGIN.s_us if moved is None else moved.newest_us  # for records that are only in tables of record
    return Cursor(max([BEGIN.s_us, newest_us, *last]), positions)


def sweep(store: OnlineStore, limit: int) -> bool:
    """Delete up to `limit` keys of states that are no longer read. Return whether there may be more."""
    cursors = store.cursors()
    names = [name for name in cursors if name.startswith(LEFT)]
    if not names:
        return False
    name = names[0]
    for prefix in KeySpace.of(bytes.fromhex(id_of(name)), cursors[name].generation).all:
        keys = [key for key, _ in store.kv.scan(prefix, limit=limit)]
        if keys:
            store.kv.write({}, keys)
            return True
    del cursors[name]
    write_cursors(store.kv, cursors)
    return len(names) > 1


def _reach(cursor: Cursor) -> tuple[int, int]:
    return sum(cursor.positions.values()), cursor.s_us
