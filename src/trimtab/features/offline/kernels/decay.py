"""Decayed sums: each request adds up the tiles in its window, with smaller weights for older tiles.

A tile holds the events of an entity within one hop (one step of the window).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.events.columns.frames import NEVER_US
from trimtab.features.formulas import steps_of, weights
from trimtab.features.offline.kernels.windows import Series, Span
from trimtab.features.offline.timeline import Timeline, starts_us

Array = NDArray[Any]


def decayed(series: Series, events: Timeline, event_at_us: Array, span: Span, half_life_us: int) -> tuple[Array, Array]:
    """Return the weighted sum of the values in each request's window, and the sum of the weights. # D14

    Args:
        half_life_us: The age at which a value has half its weight.
    """
    over_us, hop_us, until_us = span
    assert over_us is not None  # `decayed_sum()` always sets a window
    requests = events.requests
    weighted, weight = np.zeros(len(requests.rows)), np.zeros(len(requests.rows))
    given = np.arange(len(events.rows)) if series.gives is None else np.flatnonzero(series.gives)
    if len(given) == 0:
        return weighted, weight
    tiles = _Tiles(series, events, given, event_at_us, hop_us)
    ends_us = requests.at_us + 1 if not until_us else starts_us(requests.at_us, until_us, hop_us)
    first, behind = tiles.between(starts_us(requests.at_us, over_us, hop_us), ends_us)
    order = np.argsort(first - behind, kind="stable")  # the requests with the most tiles come first
    first, length = first[order], (behind - first)[order]
    now, table = requests.at_us[order] // hop_us, np.array(weights(hop_us, half_life_us, steps_of(over_us, hop_us)))
    sums, counts = np.zeros(len(order)), np.zeros(len(order))
    for step in range(int(length.max(initial=0))):
        some = int(np.searchsorted(-length, -step))  # how many requests have more than `step` tiles
        tile = first[:some] + step
        total, count = tiles.at(tile, order[:some])
        w = table[now[:some] - tiles.hop[tile]]
        sums[:some] += w * total
        counts[:some] += w * count
    weighted[order], weight[order] = sums + 0.0, counts
    return weighted, weight


class _Tiles:
    """The sums of each tile. They change from request to request, as events become known, are corrected, or are
    deleted."""

    def __init__(self, series: Series, events: Timeline, given: Array, event_at_us: Array, hop_us: int) -> None:
        self._events = events
        self._place = events.row_place[given]
        hop = event_at_us[given] // hop_us
        entity = self._place // events.places.span
        new = np.concatenate([[True], (hop[1:] != hop[:-1]) | (entity[1:] != entity[:-1])])
        # the index of each value's tile, followed by the number of tiles
        self._of_given = np.append(np.cumsum(new) - 1, np.count_nonzero(new))
        self.hop = hop[new]  # the beginning of each tile, in hops since 1970
        self._width = len(events.requests.rows) + 1
        enters, leaves = (times[given] for times in _request_ranges(events))
        self._changes(series, given, enters, leaves)

    def between(self, start_us: Array, end_us: Array) -> tuple[Array, Array]:
        """Return for each request the first tile in a time range, and the one after the last."""
        places, entity = self._events.places, self._events.requests.entity
        low, high = (np.searchsorted(self._place, places.of_times(entity, at)) for at in (start_us, end_us))
        first = self._of_given[low]
        return first, np.where(high > low, self._of_given[high - 1] + 1, first)

    def at(self, tile: Array, request: Array) -> tuple[Array, Array]:
        """Return the sum and the number of values of tile[i] at the time of request[i], for each i."""
        change = self._last[tile]
        late = np.flatnonzero(self._changed_at[change] > request)
        if len(late):
            key = tile[late] * self._width + request[late]
            change[late] = np.searchsorted(self._key, key, "right") - 1
            nothing = late[change[late] < self._first[tile[late]]]
            change[nothing] = len(self._sums) - 1
        return self._sums[change], self._counts[change]

    def _changes(self, series: Series, given: Array, enters: Array, leaves: Array) -> None:
        """Store the sum and the count of each tile after each change (a value that enters or leaves the tile)."""
        stays = np.flatnonzero(leaves > enters)
        gone = stays[leaves[stays] < self._width - 1]
        place = np.concatenate([stays, gone])
        changed_at = np.concatenate([enters[stays], leaves[gone]])
        sign = np.concatenate([np.ones(len(stays), np.int64), np.full(len(gone), -1)])
        tile = self._of_given[place]
        key = tile * self._width + changed_at
        order = np.argsort(key, kind="stable")
        place, sign, tile = place[order], sign[order], tile[order]
        self._key, changed_at = key[order], changed_at[order]
        tiles = len(self.hop)
        # for each tile, the indexes of its first and of its last change
        self._first = np.searchsorted(tile, np.arange(tiles))
        last = np.searchsorted(tile, np.arange(tiles), "right") - 1
        before = self._first[tile]
        sums = series.float_sums
        totals = []
        for limb in sums.limbs(given[place]):
            prefix = np.concatenate([[0], np.cumsum(limb * sign)])
            totals.append(prefix[1:] - prefix[before])
        counts = np.concatenate([[0], np.cumsum(sign)])
        nothing = len(order)  # the index that stands for an empty tile
        self._last = np.where(last >= self._first, last, nothing)
        self._sums = np.append(sums.rounded(totals), 0.0)
        self._counts = np.append((counts[1:] - counts[before]).astype(np.float64), 0.0)
        self._changed_at = np.append(changed_at, -1)


def _request_ranges(events: Timeline) -> tuple[Array, Array]:
    """Return for each event the first request that counts it, and the first later request that no longer does."""
    requests = len(events.requests.rows)
    enters = np.empty(len(events.rows), np.int64)
    leaves = np.full(len(events.rows), requests)
    count = len(events.event_place)
    enters[events.orderly] = np.cumsum(np.bincount(events.entered, minlength=count + 1))[:count]
    enters[events.other] = events.other_from
    leaves[events.other] = events.until(NEVER_US)
    return enters, leaves
