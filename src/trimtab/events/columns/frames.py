"""A snapshot of one source's history as columns: all versions of all events, and when each became known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.columns.data import Columns

# exported again, because many modules import it from here
from trimtab.events.records import NEVER_US as NEVER_US

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trimtab.events.columns.frame_index import FrameIndex


class EventFrame(msgspec.Struct, frozen=True, eq=False):
    """The events of one source as columns, usually in the order of the log.

    Each element of an array is one version of an event; exact repetitions are left out. A version counts from
    `known_at_us` until `superseded_at_us`, the time at which the next version of its id became known (`NEVER_US` for
    the newest version). The versions of an id are ordered by (known at, partition, position); see D0004. A version that
    deletes the event (`deleted`) ends the previous version, but does not count itself.
    """

    source: str
    columns: Columns  # the source's declared columns
    event_at_us: NDArray[Any]  # int64
    known_at_us: NDArray[Any]  # int64
    superseded_at_us: NDArray[Any]  # int64
    deleted: NDArray[Any]  # bool
    partition: NDArray[Any]  # int16: the index of the log partition in `partitions`, which are sorted by name
    position: NDArray[Any]  # int64
    partitions: tuple[str, ...]
    # int32: the hour (since 1970) in which a version was loaded with a file of history, 0 if it was not; None: unknown
    loaded_h: NDArray[Any] | None = None
    index: FrameIndex | None = None  # an index that all frames of one history share

    @property
    def rows(self) -> int:
        return len(self.event_at_us)

    def take(self, rows: NDArray[Any] | slice) -> EventFrame:
        """Return the events at `rows` (positions, a boolean mask or a slice)."""
        return EventFrame(
            self.source,
            self.columns.take(rows),
            self.event_at_us[rows],
            self.known_at_us[rows],
            self.superseded_at_us[rows],
            self.deleted[rows],
            self.partition[rows],
            self.position[rows],
            self.partitions,
            None if self.loaded_h is None else self.loaded_h[rows],
        )
