"""Sketches: what tiles keep in addition to sums, for first and last values, distinct counts and frequent values.

A tile covers one hop (one step of a window), or the whole time for an unlimited window. A sketch is what a tile keeps
of one series. When a window is read, the sketches of its tiles are merged. For each `SketchPlan` of a view, a state has
two lists of equal length: when each tile begins, and the sketch of each tile, which depends on the aggregate:

- `first`: the first row as an entry. `last`: the last `keep` rows as entries. If the source has no key, all rows with
  the same event time as the oldest kept row are kept as well, because a repetition of an event can give it an earlier
  known-at time, which changes the order of these rows.
- `count_distinct`: the `keep` smallest hashes, eight bytes each, in order.
- `top`: the count of each value, for the 1,024 values with the smallest hashes. If there are 1,024 values, also the
  largest of these hashes.
- `min`, `max`: the extreme, for windows that end before the time of the request.

To remove a row, the sketch of its tile is made again from the other rows. If rows are never removed (the source has no
key) and all windows end at the time of the request, `prune` drops from older tiles what newer tiles make unnecessary. A
state then has about `keep` last rows, or at most about 8 * `keep` hashes; otherwise, each tile has up to `keep`. # D14
"""

from __future__ import annotations

import heapq
import struct
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import msgspec

from trimtab.features.aggregates import Aggregate, AggregateKind
from trimtab.features.formulas import RANKED, estimated, hash_of
from trimtab.features.online.packed.keys import EVENT_AT, GIVES, ID, KNOWN_AT, POSITION, Row, floor

Tiles: TypeAlias = list[list[Any]]  # when each tile begins (ascending), and what it keeps
# event time, known at, partition, position, id (None: partition and position identify the row), and the value
Entry: TypeAlias = list[Any]
STARTS, KEPT = range(2)
_ENTRY_ID, _VALUE = 4, 5
_HASH_BYTES = 8
_NO_HASH = 2**64  # larger than every hash
_ROOM = 8  # the tiles of `count_distinct` are pruned when they together have 8 * `keep` hashes


class SketchPlan:
    """The sketch that tiles keep of one series."""

    def __init__(self, index: int, kind: AggregateKind, series: int, hop_us: int, keep: int, keyed: bool) -> None:
        self.index = index
        self.like = kind, series, hop_us, keep
        self.kind = kind
        self.sketch = SKETCHES[kind]
        self.series = series
        self.hop_us = hop_us  # 0: there is only one tile, for the whole time
        self.keyed = keyed
        self.over_us = 0  # the length of the longest window
        self.keep = 1
        self.prunes = not keyed and hop_us > 0 and self.sketch.prune is not None

    def include(self, aggregate: Aggregate) -> None:
        """Raise `keep` (how much a tile keeps) and `over_us` (for how long) to what one more aggregate needs."""
        self.keep = max(self.keep, aggregate.place, aggregate.keep)
        self.over_us = max(self.over_us, aggregate.over_us or 0)
        self.prunes &= not aggregate.until_us

    def start_of(self, at_us: int) -> int:
        """Return the beginning of the tile that contains a time."""
        return at_us - at_us % self.hop_us if self.hop_us else 0


class Sketch(msgspec.Struct, frozen=True):
    """The functions for one kind of sketch."""

    # (plan, what the tile keeps or None, row, value) -> what the tile keeps now
    add: Callable[[SketchPlan, Any, Row, Any], Any]
    # (plan, what each tile keeps, oldest first) -> the value; for `last` and `top`, the values of places 1, 2, ...
    read: Callable[[SketchPlan, list[Any]], list[Any]]
    prune: Callable[[SketchPlan, Tiles], None] | None = None  # drops what newer tiles make unnecessary
    has_entries: bool = False  # whether tiles keep entries, which a repetition of an event can change


def empty() -> Tiles:
    """Return the state of a sketch without tiles."""
    return [[], []]


def put(plan: SketchPlan, tiles: Tiles, row: Row) -> None:
    """Add a sealed row (see `state.py`) to the tile of its event time."""
    value = row[GIVES][plan.series]
    if value is None:
        return
    starts, kept = tiles
    start = plan.start_of(row[EVENT_AT])
    at = bisect_left(starts, start)
    if at == len(starts) or starts[at] != start:
        starts.insert(at, start)
        kept.insert(at, None)
        if plan.prunes:
            assert plan.sketch.prune is not None  # follows from `prunes`
            plan.sketch.prune(plan, tiles)
            starts, kept = tiles
            at = bisect_left(starts, start)
            # pruning has dropped the new tile again, because newer tiles have enough rows
            if at == len(starts) or starts[at] != start:
                return
    kept[at] = plan.sketch.add(plan, kept[at], row, value)


def drop(plan: SketchPlan, tiles: Tiles, s_us: int) -> None:
    """Drop the tiles that are in no window at `s_us` or later."""
    starts = tiles[STARTS]
    if plan.hop_us and starts:
        low = floor(s_us - plan.over_us, plan.hop_us)
        if starts[0] < low:
            gone = bisect_left(starts, low)
            del starts[:gone], tiles[KEPT][:gone]


def holds(plan: SketchPlan, tiles: Tiles, row: Row) -> int | None:
    """Return the beginning of the tile that must be made again if a row is removed; None: no tile has the row."""
    start = plan.start_of(row[EVENT_AT])
    at = bisect_left(tiles[STARTS], start)
    there = row[GIVES][plan.series] is not None and at < len(tiles[STARTS]) and tiles[STARTS][at] == start
    return start if there else None


def remake(plan: SketchPlan, tiles: Tiles, start: int, rows: Iterable[Row]) -> int:
    """Make a tile again from all of its rows, which come newest first. Return how many rows were read."""
    starts, kept = tiles
    at = bisect_left(starts, start)
    if at < len(starts) and starts[at] == start:
        del starts[at], kept[at]
    read = 0
    for row in rows:
        read += 1
        put(plan, tiles, row)
        # the last `keep` rows and all of the same event time were read, so older rows do not matter
        if plan.kind == "last" and at < len(kept) and starts[at] == start:
            entries = kept[at]
            if len(entries) >= plan.keep and row[EVENT_AT] < entries[-plan.keep][EVENT_AT]:
                break
    return read


def repeat(plan: SketchPlan, tiles: Tiles, row: Row) -> bool:
    """Apply a record that repeats an event. If its known-at time and position are earlier, the entry takes them.

    Return False if the event has no entry.
    """
    if not plan.sketch.has_entries:
        return False
    starts, kept = tiles
    start = plan.start_of(row[EVENT_AT])
    at = bisect_left(starts, start)
    if at == len(starts) or starts[at] != start:
        return False
    for entry in kept[at]:
        if entry[EVENT_AT] == row[EVENT_AT] and entry[_ENTRY_ID] == row[ID]:
            if row[KNOWN_AT : POSITION + 1] < entry[KNOWN_AT : POSITION + 1]:
                entry[KNOWN_AT : POSITION + 1] = row[KNOWN_AT : POSITION + 1]
                kept[at].sort()
            return True
    return False


def read(plan: SketchPlan, tiles: Tiles, low: int, high: int) -> list[Any]:
    """Return the value for a window from `low` until before `high`; for `last` and `top`, one for each place."""
    starts, kept = tiles
    return plan.sketch.read(plan, kept[bisect_left(starts, low) : bisect_left(starts, high)])


def _entry(plan: SketchPlan, row: Row, value: Any) -> Entry:
    return [*row[: POSITION + 1], None if plan.keyed else row[ID], value]


def _add_first(plan: SketchPlan, entries: list[Entry] | None, row: Row, value: Any) -> list[Entry]:
    if entries is None or row[EVENT_AT] < entries[0][EVENT_AT]:
        return [_entry(plan, row, value)]
    if row[EVENT_AT] == entries[0][EVENT_AT]:
        insort(entries, _entry(plan, row, value))
        if plan.keyed:
            del entries[1:]
    return entries


def _add_last(plan: SketchPlan, entries: list[Entry] | None, row: Row, value: Any) -> list[Entry]:
    if entries is None:
        return [_entry(plan, row, value)]
    keep = plan.keep
    if len(entries) < keep or row[EVENT_AT] >= entries[-keep][EVENT_AT]:
        insort(entries, _entry(plan, row, value))
        if plan.keyed:
            del entries[:-keep]
        elif len(entries) > keep:
            cut_us = entries[-keep][EVENT_AT]
            while entries[0][EVENT_AT] < cut_us:
                del entries[0]
    return entries


def _add_distinct(plan: SketchPlan, hashes: bytes | None, row: Row, value: Any) -> bytes:
    new = hash_of(value).to_bytes(_HASH_BYTES, "big")
    if not hashes:
        return new
    low, high = 0, len(hashes) // _HASH_BYTES
    full = high == plan.keep
    if full and new >= hashes[-_HASH_BYTES:]:
        return hashes
    while low < high:
        middle = (low + high) // 2
        if hashes[middle * _HASH_BYTES : (middle + 1) * _HASH_BYTES] < new:
            low = middle + 1
        else:
            high = middle
    at = low * _HASH_BYTES
    if hashes[at : at + _HASH_BYTES] == new:
        return hashes
    return hashes[:at] + new + (hashes[at:-_HASH_BYTES] if full else hashes[at:])


def _add_top(plan: SketchPlan, kept: list[Any] | None, row: Row, value: Any) -> list[Any]:
    counts: dict[Any, int] = {} if kept is None else kept[0]
    greatest: int = 0 if kept is None else kept[1]
    if value in counts:
        counts[value] += 1
    elif len(counts) < RANKED or hash_of(value) < greatest:
        counts[value] = 1
        if len(counts) > RANKED:
            del counts[max(counts, key=hash_of)]
        greatest = hash_of(max(counts, key=hash_of)) if len(counts) == RANKED else 0
    return [counts, greatest]


def _add_min(plan: SketchPlan, least: Any, row: Row, value: Any) -> Any:
    return value if least is None or value < least else least


def _add_max(plan: SketchPlan, greatest: Any, row: Row, value: Any) -> Any:
    return value if greatest is None or value > greatest else greatest


def _prune_last(plan: SketchPlan, tiles: Tiles) -> None:
    """Drop all tiles that are older than the last `keep` rows."""
    starts, kept = tiles
    enough = 0
    for at in range(len(starts) - 1, -1, -1):
        if enough >= plan.keep:
            del starts[: at + 1], kept[: at + 1]
            return
        enough += len(kept[at] or ())


def _prune_distinct(plan: SketchPlan, tiles: Tiles) -> None:
    """Drop each hash that a newer tile also has, or for which newer tiles have `keep` smaller hashes."""
    kept = tiles[KEPT]
    if sum([len(packed) for packed in kept if packed]) < _ROOM * plan.keep * _HASH_BYTES:
        return
    newer: set[int] = set()
    least: list[int] = []  # the smallest hashes, sorted
    for at in range(len(kept) - 1, -1, -1):
        packed = kept[at]
        if packed:
            hashes = struct.unpack(f">{len(packed) // _HASH_BYTES}Q", packed)
            greatest = least[-1] if len(least) == plan.keep else _NO_HASH
            still = [h for h in hashes if h < greatest and h not in newer]
            if len(still) < len(hashes):
                kept[at] = struct.pack(f">{len(still)}Q", *still)
            newer.update(still)
            for h in still:
                insort(least, h)
            del least[plan.keep :]
    left = [at for at, packed in enumerate(kept) if packed != b""]  # None: `put` has just inserted the tile
    tiles[:] = [[tiles[STARTS][at] for at in left], [kept[at] for at in left]]


def _read_first(plan: SketchPlan, tiles: list[list[Entry]]) -> list[Any]:
    return [tiles[0][0][_VALUE]] if tiles else []


def _read_last(plan: SketchPlan, tiles: list[list[Entry]]) -> list[Any]:
    found: list[Entry] = []
    for entries in reversed(tiles):
        found += reversed(entries)
        if len(found) >= plan.keep:
            break
    return [entry[_VALUE] for entry in found[: plan.keep]]


def _read_distinct(plan: SketchPlan, tiles: list[bytes]) -> list[Any]:
    hashes: set[int] = set()
    for packed in tiles:
        hashes.update(struct.unpack(f">{len(packed) // _HASH_BYTES}Q", packed))
    if len(hashes) < plan.keep:
        return [len(hashes)]
    return [estimated(heapq.nsmallest(plan.keep, hashes)[-1], plan.keep)]


def _read_top(plan: SketchPlan, tiles: list[list[Any]]) -> list[Any]:
    counts: dict[Any, int] = {}
    for more, _ in tiles:
        if counts:
            for value, count in more.items():
                counts[value] = counts.get(value, 0) + count
        else:
            counts = dict(more)
    if len(counts) > RANKED:
        counts = {value: counts[value] for value in heapq.nsmallest(RANKED, counts, key=hash_of)}
    ranked = heapq.nsmallest(plan.keep, [(-count, value) for value, count in counts.items()])
    return [value for _, value in ranked]


def _read_min(plan: SketchPlan, tiles: list[Any]) -> list[Any]:
    return [min(tiles)] if tiles else []


def _read_max(plan: SketchPlan, tiles: list[Any]) -> list[Any]:
    return [max(tiles)] if tiles else []


SKETCHES: dict[AggregateKind, Sketch] = {
    "first": Sketch(_add_first, _read_first, has_entries=True),
    "last": Sketch(_add_last, _read_last, _prune_last, has_entries=True),
    "count_distinct": Sketch(_add_distinct, _read_distinct, _prune_distinct),
    "top": Sketch(_add_top, _read_top),
    "min": Sketch(_add_min, _read_min),
    "max": Sketch(_add_max, _read_max),
}
