"""The history of one source in columns: every version of every event, with event time and known at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.columns.data import Columns
from trimtab.events.records import NEVER_US as NEVER_US  # re-exported for the many users of this module

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trimtab.events.columns.frame_index import FrameIndex


class EventFrame(msgspec.Struct, frozen=True, eq=False):
    """The events of one source in log order, without duplicates and with resolved versions.

    All arrays have one element for each version of an event. A version counts from its `known_at_us` until
    `superseded_at_us`, when a later version of the same id became known. `NEVER_US` means that it is the newest
    version. Versions of one id are ordered by (known at, partition, position), see D4. A tombstone (`deleted`)
    supersedes other versions, and contributes nothing itself.
    """

    source: str
    columns: Columns  # the source's declared columns
    event_at_us: NDArray[Any]  # int64
    known_at_us: NDArray[Any]  # int64
    superseded_at_us: NDArray[Any]  # int64
    deleted: NDArray[Any]  # bool
    partition: NDArray[Any]  # int16: index into `partitions`, which are sorted by name
    position: NDArray[Any]  # int64
    partitions: tuple[str, ...]
    index: FrameIndex | None = None  # index of the frame's history, shared by all its frames

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
        )
