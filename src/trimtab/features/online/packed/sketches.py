"""What an entity's tiles keep beside their sums: first and last values, hashes of different values, counts by value.

A fold is what one tile (or a lifetime) keeps of one series. Folds of several tiles are merged when they are read. The
state of a fold is two lists, the starts of its tiles and what each keeps:

- `first`: the first row, `last`: the last `keep` rows, as entries; where events have no key, all that share the event
  time of the row at the cut are kept, because a repetition can lower an event's known at and so its place among them;
- `count_distinct`: the `keep` least hashes, eight bytes each, in order;
- `top`: counts by value, of the 1,024 values of least hash, and the greatest of these hashes when it is full;
- `min`, `max`: the extreme, for windows that end before the moment asked about.

So a state is bounded by the number of tiles times what one keeps. A row is taken out by making its tile's fold again
from the others. Where no row can be taken out and all windows end at the moment asked about, older tiles are freed of
what newer ones make superfluous: then a state holds about `keep` last rows, and `keep` hashes times a logarithm. # D14
"""

from __future__ import annotations

import heapq
import struct
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from trimtab.features.formulas import RANKED, estimated, hash_of
from trimtab.features.online.packed.plan import EVENT_AT, GIVES, ID, KNOWN_AT, POSITION, FoldPlan, Row, floor

Fold: TypeAlias = list[list[Any]]  # starts of tiles, rising; what each keeps
Entry: TypeAlias = list[Any]  # the first four places of a row, id (None: the row can be found by its place), value
STARTS, KEPT = range(2)
_ENTRY_ID, _VALUE = 4, 5
_HASH_BYTES = 8
_NO_HASH = 2**64  # above all
_ROOM = 8  # times as many hashes as are kept of one tile: then superfluous ones are looked for


def nothing() -> Fold:
    """No tile at all."""
    return [[], []]


def put(plan: FoldPlan, fold: Fold, row: Row) -> None:
    """Add a sealed row to the tile of its event time."""
    value = row[GIVES][plan.series]
    if value is None:
        return
    starts, kept = fold
    start = plan.start_of(row[EVENT_AT])
    at = bisect_left(starts, start)
    if at == len(starts) or starts[at] != start:
        starts.insert(at, start)
        kept.insert(at, None)
        if plan.prunes:
            _PRUNE[plan.kind](plan, fold)
            starts, kept = fold
            at = bisect_left(starts, start)
            if at == len(starts) or starts[at] != start:  # it lies before all that matters
                return
    kept[at] = _ADD[plan.kind](plan, kept[at], row, value)


def drop(plan: FoldPlan, fold: Fold, s_us: int) -> None:
    """Drop the tiles that no window sees at `s_us` or later."""
    starts = fold[STARTS]
    if plan.hop_us and starts:
        low = floor(s_us - plan.over_us, plan.hop_us)
        if starts[0] < low:
            gone = bisect_left(starts, low)
            del starts[:gone], fold[KEPT][:gone]


def holds(plan: FoldPlan, fold: Fold, row: Row) -> int | None:
    """The start of the tile that must be made again when a row is taken out."""
    start = plan.start_of(row[EVENT_AT])
    at = bisect_left(fold[STARTS], start)
    there = row[GIVES][plan.series] is not None and at < len(fold[STARTS]) and fold[STARTS][at] == start
    return start if there else None


def remake(plan: FoldPlan, fold: Fold, start: int, rows: Iterable[Row]) -> int:
    """Make a tile's fold again from all its rows, the newest first; how many were read."""
    starts, kept = fold
    at = bisect_left(starts, start)
    if at < len(starts) and starts[at] == start:
        del starts[at], kept[at]
    read = 0
    for row in rows:
        read += 1
        put(plan, fold, row)
        if plan.kind == "last" and at < len(kept) and starts[at] == start:
            entries = kept[at]
            if len(entries) >= plan.keep and row[EVENT_AT] < entries[-plan.keep][EVENT_AT]:
                break
    return read


def repeat(plan: FoldPlan, fold: Fold, row: Row) -> bool:
    """Take a repetition of an event: the first record of it counts. False when no entry depends on it."""
    if plan.kind not in ("first", "last"):
        return False
    starts, kept = fold
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


def read(plan: FoldPlan, fold: Fold, low: int, high: int, visible: Sequence[Row]) -> list[Any]:
    """The figures of a window that begins at `low` and ends before `high`, the one at place 1 first.

    `visible` are the open rows in it.
    """
    starts, kept = fold
    begin, end = bisect_left(starts, low), bisect_left(starts, high)
    rows = [row for row in visible if row[GIVES][plan.series] is not None]
    return _READ[plan.kind](plan, kept[begin:end], rows)  # type: ignore[no-any-return]  # each gives a list


def _entry(plan: FoldPlan, row: Row, value: Any) -> Entry:
    return [*row[: POSITION + 1], None if plan.keyed else row[ID], value]


def _add_first(plan: FoldPlan, entries: list[Entry] | None, row: Row, value: Any) -> list[Entry]:
    if entries is None or row[EVENT_AT] < entries[0][EVENT_AT]:
        return [_entry(plan, row, value)]
    if row[EVENT_AT] == entries[0][EVENT_AT]:
        insort(entries, _entry(plan, row, value))
        if plan.keyed:
            del entries[1:]
    return entries


def _add_last(plan: FoldPlan, entries: list[Entry] | None, row: Row, value: Any) -> list[Entry]:
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


def _add_distinct(plan: FoldPlan, hashes: bytes | None, row: Row, value: Any) -> bytes:
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


def _add_top(plan: FoldPlan, kept: list[Any] | None, row: Row, value: Any) -> list[Any]:
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


def _add_min(plan: FoldPlan, least: Any, row: Row, value: Any) -> Any:
    return value if least is None or value < least else least


def _add_max(plan: FoldPlan, greatest: Any, row: Row, value: Any) -> Any:
    return value if greatest is None or value > greatest else greatest


def _prune_last(plan: FoldPlan, fold: Fold) -> None:
    """Let go the tiles before the last `keep` rows."""
    starts, kept = fold
    enough = 0
    for at in range(len(starts) - 1, -1, -1):
        if enough >= plan.keep:
            del starts[: at + 1], kept[: at + 1]
            return
        enough += len(kept[at] or ())


def _prune_distinct(plan: FoldPlan, fold: Fold) -> None:
    """Let go the hashes that newer tiles have too, or that are not among the least with those of newer tiles."""
    kept = fold[KEPT]
    if sum([len(packed) for packed in kept if packed]) < _ROOM * plan.keep * _HASH_BYTES:
        return
    newer: set[int] = set()
    least: list[int] = []  # of them, in order
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
    left = [at for at, packed in enumerate(kept) if packed != b""]  # None: the one that is being added
    fold[:] = [[fold[STARTS][at] for at in left], [kept[at] for at in left]]


def _read_first(plan: FoldPlan, tiles: list[list[Entry]], rows: list[Row]) -> list[Any]:
    found = [_entry(plan, row, row[GIVES][plan.series]) for row in rows]
    if tiles:
        found.append(tiles[0][0])
    return [min(found)[_VALUE]] if found else []


def _read_last(plan: FoldPlan, tiles: list[list[Entry]], rows: list[Row]) -> list[Any]:
    found = [_entry(plan, row, row[GIVES][plan.series]) for row in rows]
    wanted = len(found) + plan.keep
    for entries in reversed(tiles):
        found += entries
        if len(found) >= wanted:
            break
    found.sort(reverse=True)
    return [entry[_VALUE] for entry in found[: plan.keep]]


def _read_distinct(plan: FoldPlan, tiles: list[bytes], rows: list[Row]) -> list[Any]:
    hashes = {hash_of(row[GIVES][plan.series]) for row in rows}
    for packed in tiles:
        hashes.update(struct.unpack(f">{len(packed) // _HASH_BYTES}Q", packed))
    if len(hashes) < plan.keep:
        return [len(hashes)]
    return [estimated(heapq.nsmallest(plan.keep, hashes)[-1], plan.keep)]


def _read_top(plan: FoldPlan, tiles: list[list[Any]], rows: list[Row]) -> list[Any]:
    counts: dict[Any, int] = {}
    for more, _ in tiles:
        if counts:
            for value, count in more.items():
                counts[value] = counts.get(value, 0) + count
        else:
            counts = dict(more)
    for row in rows:
        value = row[GIVES][plan.series]
        counts[value] = counts.get(value, 0) + 1
    if len(counts) > RANKED:
        counts = {value: counts[value] for value in heapq.nsmallest(RANKED, counts, key=hash_of)}
    ranked = heapq.nsmallest(plan.keep, [(-count, value) for value, count in counts.items()])
    return [value for _, value in ranked]


def _read_min(plan: FoldPlan, tiles: list[Any], rows: list[Row]) -> list[Any]:
    found = [*tiles, *(row[GIVES][plan.series] for row in rows)]
    return [min(found)] if found else []


def _read_max(plan: FoldPlan, tiles: list[Any], rows: list[Row]) -> list[Any]:
    found = [*tiles, *(row[GIVES][plan.series] for row in rows)]
    return [max(found)] if found else []


_ADD: dict[str, Any] = {
    "first": _add_first, "last": _add_last, "count_distinct": _add_distinct, "top": _add_top, "min": _add_min,
    "max": _add_max,
}  # fmt: skip
_PRUNE: dict[str, Any] = {"last": _prune_last, "count_distinct": _prune_distinct}
_READ: dict[str, Any] = {
    "first": _read_first, "last": _read_last, "count_distinct": _read_distinct, "top": _read_top, "min": _read_min,
    "max": _read_max,
}  # fmt: skip
