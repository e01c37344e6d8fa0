"""The online features of a project: apply the event log to them, read them, and rebuild them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING

from trimtab.app.online.applier_error import forget_standing, note_standing, standing_recorded
from trimtab.app.online.progress_log import ProgressLog
from trimtab.app.online.rebuilding import Rebuilds
from trimtab.app.online.stored_views import damage, missing
from trimtab.app.online.view_histories import ViewHistories
from trimtab.app.online.view_work import ViewWork
from trimtab.app.state.lease import Lease
from trimtab.app.state.state import State
from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, Corrupt, NotFound, Unavailable
from trimtab.events.columns.frames import EventFrame
from trimtab.features.definitions import View
from trimtab.features.feature_set import FeatureSet
from trimtab.features.online.compaction import Compacted, Compaction
from trimtab.features.online.generations import id_of
from trimtab.features.online.packed.keys import cursor_name
from trimtab.features.online.store import Cursor, OnlineStore, read_cursors
from trimtab.serving.applier import Applier
from trimtab.store.log_order import Gap, in_order, intervals
from trimtab.store.ports import Log, LogRecord

if TYPE_CHECKING:
    from trimtab.app.online.history import SharedHistory

_logger = logging.getLogger(__name__)
LEASE = "views"
_BATCH = 5_000
_FEW = 1_000  # up to this many records are applied without logging progress
_TURN_S = 1.0  # how long to wait for another thread of this process, which has usually caught up by then
_PATIENCE_S = 3.0  # how long to wait for another process, which has usually caught up by then


class Views:
    """The online features that deployed versions need, kept up to date with the event log.

    Threads may share this object. When a version is promoted or new definitions are applied while a project is open,
    their views are filled in addition to the present ones. `drop` removes views that nothing needs.

    Args:
        needed: Returns the views that are needed now, each definition once.
        history: Returns the event log as columns. Each process decodes the log only once.
        clock: Gives the time against which the age of unapplied records is measured.
    """

    def __init__(
        self, state: State, needed: Callable[[], Sequence[View]], *, history: Callable[[], SharedHistory], clock: Clock
    ) -> None:
        self._state = state
        self._shared = history
        self._clock = clock
        self._needed = needed
        self._following: Lease | None = None
        self._conflict: str | None = None
        self._new: tuple[View, ...] = ()  # views that the applier must add
        self._file: Hashable | None = None  # identifies the file of online features that this process reads
        self._dropping = False
        self._turn = threading.Lock()  # held by the thread that catches up
        self._turn_lease = self._lease()  # used by that thread
        self._have(needed())

    def _have(self, views: Sequence[View]) -> None:
        self.views: list[View] = list(views)
        self._sources = list({v.source.name: v.source for v in self.views}.values())
        self._histories = ViewHistories(self._state, self._sources, self._shared)

    @property
    def blocked(self) -> str | None:
        """Why records cannot be applied or a new view cannot be filled; None if both work."""
        return self._conflict or (self._work.failure if "_work" in self.__dict__ else None)

    @cached_property
    def store(self) -> OnlineStore:
        """The store of the views' features."""
        return OnlineStore(self._state.online, self.views)

    @cached_property
    def _work(self) -> ViewWork:
        return ViewWork(self._state, self.store, self._sources, clock=self._clock)

    def holds(self, features: FeatureSet) -> bool:
        """Find out which views are needed now, and return whether the views of these features can be read."""
        self.look()
        return self.filled(features.views)

    def filled(self, views: Sequence[View]) -> bool:
        """Return whether these views can be read: all are filled and as current as any other, or the log is empty."""
        return _filled(self._state, views)

    def look(self) -> bool:
        """Find out which views are needed now, and return whether any of them is new, so that it must be filled."""
        held = {view.hash for view in self.views}
        self._new = tuple(view for view in self._needed() if view.hash not in held)
        return bool(self._new)

    @property
    def follows(self) -> bool:
        """Whether this object applies the event log."""
        return self._following is not None

    def unneeded(self, needed: Iterable[str] | None = None) -> list[str]:
        """Return the stored views that nothing needs, each as a prefix of its hash.

        Args:
            needed: The hashes of needed views; by default, of those needed now.
        """
        addresses = [view.hash for view in self._needed()] if needed is None else needed
        kept = {cursor_name(address) for address in addresses}
        cursors = read_cursors(self._state.online)
        return sorted({id_of(name) for name in cursors} - kept)

    def drop(self) -> bool:
        """Delete online features that nothing needs. Return False if another process applies the log.

        In a serving process, the thread that applies the log deletes them soon afterwards.
        """
        if self._following is not None:
            self._dropping = True
            return True
        lease = self._lease()
        if not self._taken(lease):
            return False
        with self._released(lease):
            self._take_up(self._needed())
            self.store.drop_others()
        return True

    def _take_up(self, views: Sequence[View]) -> None:
        """Set the stored views to exactly these views. Only the process that applies the log may call this."""
        known = {view.hash: view for view in self.views}
        views = [known.get(view.hash, view) for view in views]
        self._new = ()
        if {view.hash for view in views} != known.keys():
            self._have(views)
            self.store.take_up(views)
            self.__dict__.pop("_work", None)

    def catch_up(self, *, look: bool = True) -> bool:
        """Apply the records of the log that the views lack. Return True if the views are now up to date.

        Return False, and do nothing, if there are no views, or if another process or a thread of this process applies
        the log. Records that are appended during the call are left to the next call, so that the call ends. New views
        are filled from history. If the call takes more than half a second, it logs its progress.

        While another process replaces the file of online features, the old file is read.

        Args:
            look: Whether to find out first which views are needed now, which takes most of the time of a short call.
        """
        if self._following is not None or not self._turn.acquire(timeout=_TURN_S):
            return False
        try:
            return self._catch_up(look)
        finally:
            self._turn.release()

    def _catch_up(self, look: bool) -> bool:
        new = self.look() if look else bool(self._new)
        if not self.views and not new:
            return False
        lease = self._turn_lease
        if not self._reopen_if_replaced(lease):
            return False
        ends = self._state.events.positions()
        if not new and not self._state.online_place.is_aside() and not _lags(self.store, ends):
            return True
        if not self._taken(lease, turn=True):
            return False
        recorded = standing_recorded(self._state.catalog, self._clock, forget=look)
        with self._released(lease), recorded, ProgressLog("online features: reading the log") as log_progress:
            if self._new:
                self._take_up([*self.views, *self._new])
            for filled in self._work.fill():
                view = self.store.plans[filled.view].name
                log_progress(f"online features: filling view {view!r} from history", filled.rows, filled.of)
            try:
                _apply_log(self._state.events, self.store, ends, log_progress, gaps=False)
            except Gap:  # records were removed from the log, and are in tables of record
                self._work.read_tables()
                _apply_log(self._state.events, self.store, ends, log_progress, gaps=True)
        return True

    def follow(self) -> Applier:
        """Return a thread, not yet started, that applies the log.

        No other process may apply the log until `release` is called.

        Raises:
            Conflict: Another process applies the log.
        """
        lease = self._lease()
        if not self._taken(lease, patience_s=_PATIENCE_S):
            raise Conflict(
                f"{self._state.folder}: another process applies events to this project's features (a running "
                "`trimtab serve`?). Stop it first, or push to it over HTTP."
            )
        self._following = lease
        try:
            self.look()
            self.store.take_up([*self.views, *self._new])
            self._take_up([*self.views, *self._new])
            work = self._work
            work.read_tables()
            forget_standing(self._state.catalog)
            return Applier(
                self._state.events,
                self._applying(self.store, lease),
                self._reached,
                reading=work.reading,
                between=self._between,
                stopped=partial(note_standing, self._state.catalog, self._clock),
            )
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Allow other processes to apply the log. Call this after closing the thread that `follow` returned."""
        lease, self._following = self._following, None
        if lease is not None:
            self._give_back(lease)

    def rebuild(self, view: str, *, progress: Callable[[int, int], object] | None = None) -> int:
        """Rebuild the stored features of a view from history, for all definitions of the view that are in use.

        Until the rebuild is done, the old features are read. If another process applies the log, that process does the
        work and this call waits.

        Returns:
            The number of records that the rebuilt view has taken from its source; of several definitions, the largest.

        Raises:
            NotFound: No deployed model uses a view of this name.
            Misuse: Needed records were truncated from the log, and no table of record (their long-term store) has them.
            Unavailable: The process that applies the log ended or failed before the view was rebuilt.
        """
        names = [name for name, plan in self.store.plans.items() if plan.name == view]
        if not names:
            known = ", ".join(dict.fromkeys(plan.name for plan in self.store.plans.values())) or "none"
            raise NotFound(f"view {view!r}: no deployed model uses a view of this name. Views in use: {known}.")
        lease = self._lease()
        if self._following is not None or not self._taken(lease):
            Rebuilds(self._state.catalog).wait(view, self.followed, progress)
        else:
            with self._released(lease):
                for filled in self._work.fill(names):
                    if progress is not None:
                        progress(filled.rows, filled.of)
        return max(self.store.counts()[name].applied for name in names)

    def damage(self) -> str | None:
        """Return why online features cannot be read, and how to repair them; None if they can be read.

        Damage to the features of a single entity is only found when that entity is read.
        """
        return damage(self._state)

    def missing(self, positions: Mapping[str, int]) -> int:
        """Return how many log records up to `positions` have not been applied to the stored views.

        Raises:
            Corrupt: The stored features are damaged. The message has the command that repairs them.
        """
        return missing(self._state, [view.hash for view in self.views], positions)

    def rebuild_all(self, *, progress: Callable[[int, int], object] | None = None) -> int:
        """Rebuild all online features from history, even if the stored features are damaged.

        If another process applies the log, it rebuilds view after view, and this call waits. Otherwise, the rebuild
        begins with an empty store, and if it fails, the old store is put back.

        Returns:
            The total number of records that the views have taken.

        Raises:
            Conflict: The stored features are damaged, and another process applies the log. Nothing was done.
            Misuse: Needed records were truncated from the log, and no table of record has them.
        """
        lease = self._lease()
        if self._following is not None or not lease.take():
            if (damage := self.damage()) is not None:
                raise Conflict(f"a service applies events. Stop it, then run this again: {damage}")
            views = dict.fromkeys(plan.name for plan in self.store.plans.values())
            return sum(self.rebuild(view, progress=progress) for view in views)
        try:
            with self._state.online_place.fresh(lambda: self._state.online):
                self.__dict__.pop("_work", None)
                self.look()
                self._take_up([*self.views, *self._new])
                for filled in self._work.fill():
                    if progress is not None:
                        progress(filled.rows, filled.of)
                forget_standing(self._state.catalog)
                return sum(counts.applied for counts in self.store.counts().values())
        finally:
            with suppress(Corrupt):  # the old store may be damaged
                self._give_back(lease)

    def compact(self) -> Compacted:
        """Free the disk space of stored values that no answer needs any more.

        Raises:
            Conflict: Another process applies the log. That process compacts by itself.
        """
        lease = self._lease()
        if self._following is not None or not self._taken(lease):
            raise Conflict(
                f"{self._state.folder}: another process applies events to this project's features, and compacts them "
                "by itself every hour. There is nothing to do."
            )
        with self._released(lease):
            return sum(Compaction(self.store).whole(), Compacted())

    def followed(self) -> bool:
        """Return whether any process applies the log now."""
        return self._following is not None or not self._lease().free()

    def lag_records(self) -> int:
        """Return the number of log records that have not been applied to the views."""
        return sum(last - applied for applied, last in self._lags().values())

    def behind_us(self) -> int:
        """Return the age of the oldest log record that has not been applied; 0 if all have been applied."""
        waiting = [
            record.appended_at_us
            for name, (applied, _) in self._lags().items()
            for record in self._state.events.read(name, applied, limit=1)
        ]
        return max(0, self._clock.now_us() - min(waiting)) if waiting else 0

    def _lags(self) -> dict[str, tuple[int, int]]:
        return _lags(self.store, self._state.events.positions()) if self.views else {}

    def snapshot(self, upto: Mapping[str, int] | None) -> tuple[Mapping[str, EventFrame], Mapping[str, int]]:
        """Return the events of every source, and the log positions up to which they were read.

        All sources are read up to the same positions: those in `upto`, or the end of the log.
        """
        return self._histories.frames(upto)

    def _reopen_if_replaced(self, lease: Lease) -> bool:
        """Switch to the current file of online features. Return False while another process is building it."""
        online, file = self._state.online, self._state.online_place.mark()
        if file != self._file:
            if (file is None or self._state.online_place.is_aside()) and not lease.free():
                return False
            if file is not None:
                self._reload(online.reopen_if_replaced())
            self._file = file
        return True

    def _taken(self, lease: Lease, *, patience_s: float = 0.0, turn: bool = False) -> bool:
        """Take the lease to apply the log (with `turn`, for a short time), and open the current file for writing.

        Return False if another process has the lease. Leftovers of a killed process are removed.
        """
        if not (lease.take_turn() if turn else lease.take(patience_s=patience_s)):
            return False
        try:
            if self._state.online_place.is_aside():
                self._state.online_place.drop_aside()
            self._reload(self._state.online.reopen_if_replaced(make=True))
            self._file = self._state.online_place.mark()
        except BaseException:
            lease.release()
            raise
        return True

    @contextmanager
    def _released(self, lease: Lease) -> Iterator[None]:
        try:
            yield
        finally:
            self._give_back(lease)

    def _give_back(self, lease: Lease) -> None:
        try:
            self._state.online.release_writer()
        finally:
            lease.release()

    def _reload(self, replaced: bool) -> None:
        if replaced:
            self.__dict__.pop("_work", None)  # an unfinished fill would go on with the old file

    def _lease(self) -> Lease:
        return Lease(self._state.catalog, LEASE, self._state.folder)

    def _applying(self, store: OnlineStore, lease: Lease) -> Callable[[Sequence[LogRecord]], object]:
        """Return a function that applies records.

        While another process writes, it raises an error, and the calling thread tries again.
        """

        def apply(records: Sequence[LogRecord]) -> object:
            if not lease.held:
                self._conflict = "the lease of the views was lost to another process"
                raise Unavailable(f"{self._state.folder}: {self._conflict}.")
            try:
                self._work.mark()
                applied = store.apply(records)
            except Conflict as error:
                self._conflict = str(error)
                raise Unavailable(self._conflict) from error
            self._conflict = None
            return applied

        return apply

    def _between(self, busy: bool) -> bool:
        """Do what is due between two reads of the log, and return whether more is waiting; see `ViewWork.piece`."""
        lease = self._following
        if lease is None or not lease.held:
            return False
        if self._state.online.reopen_if_replaced(make=True):
            _logger.warning("online features: the stored ones are gone; they are rebuilt from the log")
            self.__dict__.pop("_work", None)  # an unfinished fill would go on with the old file
            self._work.mark()
        if self._dropping:
            self._dropping = False
            self._take_up(self._needed())
            self.store.drop_others()
        elif self._new:
            self._take_up([*self.views, *self._new])
        return self._work.piece(busy)

    def _reached(self) -> dict[str, int]:
        return self.store.positions() if self.views else self._state.events.positions()


def _reach(cursor: Cursor) -> tuple[int, int]:
    return sum(cursor.positions.values()), cursor.s_us


def _filled(state: State, views: Sequence[View]) -> bool:
    if not any(state.events.positions().values()):
        return True
    cursors = read_cursors(state.online)
    found = [cursors.get(cursor_name(view.hash)) for view in views]
    # the cursors of states that are being filled or deleted do not count; their names are not alphanumeric, see
    # `generations.py`
    front = max((c for name, c in cursors.items() if name.isalnum()), key=_reach, default=None)
    return all(cursor is not None and front is not None and cursor.place == front.place for cursor in found)


def _lags(store: OnlineStore, ends: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Return for each partition with unapplied records: the last applied position, and the last one in the log."""
    applied = store.positions()
    lags = {name: (applied.get(name, 0), last) for name, last in ends.items()}
    return {name: lag for name, lag in lags.items() if lag[0] < lag[1]}


def _apply_log(log: Log, store: OnlineStore, ends: Mapping[str, int], log_progress: ProgressLog, *, gaps: bool) -> None:
    """Apply the records up to `ends` that the views lack."""
    positions = store.positions()
    last, done = sum(ends.values()), sum(positions.values())
    for parts in intervals(log, positions, ends, batch=_BATCH, gaps=gaps):
        if last - done > _FEW:
            log_progress("online features: reading the log", done, last)
        store.apply(in_order(parts))
        done += sum(map(len, parts))
