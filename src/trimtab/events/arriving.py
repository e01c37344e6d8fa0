"""Statistics of the events that arrive from each source: how many, how late, and how recently.

All numbers are computed from the records of the log, so they are right even after a crash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.time import DAY_US
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.columns.history import History
from trimtab.events.definitions import Source
from trimtab.events.quarantine import Quarantine


class Arrivals(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of one source at one time. Durations are in microseconds. Times and ages are None without events."""

    source: str
    accepted: int  # all records in the log; this is the sum of the next five fields
    events: int  # distinct events, including deleted ones
    corrections: int  # later versions of events that exist (an event that is sent again with other content)
    deletions: int  # deletions of events that exist; the deletion of an unknown event is counted in `events`
    duplicates: int  # records that repeat an event without any change
    id_conflicts: int  # records without effect: they have an existing id but other content, in a source without a key
    live: int  # events that exist now: those whose newest version is not a deletion
    quarantined: dict[str, int]  # rows in quarantine, by reason
    recent: int  # versions, without deletions, that became known in the last `recent_us` (see `arrivals`)
    late_p50_us: int | None  # the median lateness (the time from an event until it became known) of these versions
    late_p95_us: int | None  # the 95 % quantile of their lateness
    late_max_us: int | None  # their largest lateness
    newest_event_us: int | None  # the latest event time that is not in the future
    newest_arrival_us: int | None  # the latest time at which an event became known; repetitions do not count
    event_age_us: int | None
    arrival_age_us: int | None

    @property
    def future(self) -> int:
        """The number of rows that are in quarantine because their time is too far in the future."""
        return self.quarantined.get("future", 0)


def arrivals(
    history: History,
    sources: Sequence[Source],
    quarantine: Quarantine | None = None,
    *,
    now_us: int,
    recent_us: int = 7 * DAY_US,
) -> list[Arrivals]:
    """Return the statistics of each source, in the order of the sources.

    They cover the log up to the history's last `refresh`. Events that were loaded as history, and do not say when they
    became known, have the `delay` of their source as lateness. Repetitions are no longer counted after they were copied
    to tables of record (permanent copies) and removed from the log. A million records take 25 to 110 ms.

    Args:
        history: The event log as columns. Call its `refresh` first.
        sources: Sources that the history contains.
        quarantine: The refused rows. If it is None, no refused rows are counted.
        now_us: The time at which ages are measured. Events that became known later are left out.
        recent_us: How far back from `now_us` lateness is measured.

    Raises:
        NotFound: The history does not contain one of the sources.
    """
    refused = quarantine.counts() if quarantine is not None else {}
    duplicates, conflicts = history.duplicates, history.id_conflicts
    return [
        _of_source(
            source,
            history.frame(source.name),
            {"duplicates": duplicates[source.name], "id_conflicts": conflicts[source.name]},
            refused.get(source.name, {}),
            (now_us - recent_us, now_us),
        )
        for source in sources
    ]


def _of_source(
    source: Source,
    frame: EventFrame,
    repeated: Mapping[str, int],
    quarantined: dict[str, int],
    window_us: tuple[int, int],
) -> Arrivals:
    since_us, now_us = window_us
    replaced = frame.superseded_at_us != NEVER_US
    versions = int(replaced.sum())
    deletions = _following_deletions(source, frame, replaced) if frame.deleted.any() else 0
    known = frame.known_at_us <= now_us
    newest_arrival = _greatest(frame.known_at_us[known])
    newest_event = _greatest(frame.event_at_us[known & (frame.event_at_us <= now_us) & ~frame.deleted])
    recent = known & (frame.known_at_us > since_us) & ~frame.deleted
    late = np.sort(frame.known_at_us[recent] - frame.event_at_us[recent])
    return Arrivals(
        source=source.name,
        accepted=frame.rows + repeated["duplicates"] + repeated["id_conflicts"],
        events=frame.rows - versions,
        corrections=versions - deletions,
        deletions=deletions,
        duplicates=repeated["duplicates"],
        id_conflicts=repeated["id_conflicts"],
        live=int((~replaced & ~frame.deleted).sum()),
        quarantined=quarantined,
        recent=len(late),
        late_p50_us=_share(late, 50),
        late_p95_us=_share(late, 95),
        late_max_us=_share(late, 100),
        newest_event_us=newest_event,
        newest_arrival_us=newest_arrival,
        event_age_us=None if newest_event is None else now_us - newest_event,
        arrival_age_us=None if newest_arrival is None else now_us - newest_arrival,
    )


def _following_deletions(source: Source, frame: EventFrame, replaced: NDArray[Any]) -> int:
    """Count the deletions that replaced a version: a version of the same key ended when the deletion became known."""
    if source.key is None:
        return 0
    gone, at = frame.deleted, frame.known_at_us
    at_once = gone & (frame.superseded_at_us == at)  # deletions that another version replaced at the same time
    maybe = np.flatnonzero(replaced & ~at_once)
    maybe = maybe[np.isin(frame.superseded_at_us[maybe], np.unique(at[gone]))]
    keys = frame.columns[source.key].values
    tombstones = Counter(zip(keys[gone].tolist(), at[gone].tolist(), strict=True))
    found = Counter(zip(keys[maybe].tolist(), frame.superseded_at_us[maybe].tolist(), strict=True))
    return sum(min(count, found[which]) for which, count in tombstones.items())


def _greatest(times: NDArray[Any]) -> int | None:
    return int(times.max()) if len(times) else None


def _share(ordered: NDArray[Any], percent: int) -> int | None:
    """Return a percentile of sorted values: the smallest value such that `percent` % of the values are not above it."""
    return int(ordered[max(0, -(-len(ordered) * percent // 100) - 1)]) if len(ordered) else None
