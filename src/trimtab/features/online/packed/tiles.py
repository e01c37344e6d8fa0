"""Tiles: exact sums and extremes of past rows, one tile for each hop (step) of a group of windows.

A row is added to the tile of its event time. The newest tile is kept as a list. Older tiles are encoded one after
another, all with the same width. For each window, the totals of its older tiles are kept as of S, the append time up to
which rows are sealed. A later read only has to subtract the tiles that have left the window since S, and to add the
newest tile. Extremes are kept in stacks of suffix extremes (see `push`).
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby
from operator import add, sub
from typing import Any, TypeAlias

from trimtab.features.online.packed.groups import FEW, Group
from trimtab.features.online.packed.keys import EVENT_AT, GIVES, Row, floor
from trimtab.features.online.packed.plan import ViewPlan
from trimtab.features.online.packed.series import Contribution

Tiles: TypeAlias = list[Any]  # the tiles of one group: a list with the indexes below (see `EntityState`)
TILE, CURRENT, TOTALS, PAST, WORDS, STACKS = range(6)
BEGIN_US = -(2**62)  # before all events
first_start = struct.Struct("<q").unpack_from  # returns a tuple with the beginning of the first encoded tile


def empty(group: Group) -> Tiles:
    """Return the list of a group that has no tiles yet."""
    return [None, [], [], b"", 1, [[] for _ in group.extremes]]


def numbers_of(plan: ViewPlan, gives: Sequence[Any], addends: Sequence[Any]) -> list[Any]:
    """Return the numbers of one row: 1, and for each series the number of its values, then for each series its sum.

    Args:
        gives: The row's value for each series.
        addends: The number that it adds to the sum of each series; None: the row gives no value.
    """
    if None not in gives:
        return [1, *plan.series.ones, *addends]
    return [1, *[value is not None for value in gives], *[value or 0 for value in addends]]


class Block:
    """Several rows, with running totals, so that the fields of consecutive rows of one tile are differences.

    Args:
        times: The event time of each row.
        gives: For each row, its value for each series.
        addends: For each row, the number that it adds to the sum of each series; None: the row gives no value.
    """

    def __init__(self, plan: ViewPlan, times: list[int], gives: list[Any], addends: list[Any]) -> None:
        self._times = times
        self._values = list(zip(*gives, strict=True))  # for each series
        rows = range(len(times) + 1)
        # as `numbers_of`, but each is a list for the first 0, 1, 2, ... rows
        self._running: list[Sequence[int]] = [rows]
        for values in self._values:
            there = [value is not None for value in values] if None in values else None
            self._running.append(rows if there is None else list(accumulate(there, initial=0)))
        for column, summed in zip(zip(*addends, strict=True), plan.series.summed, strict=True):
            sums = accumulate([value or 0 for value in column], initial=0) if summed else rows
            self._running.append(list(sums))

    def fields(self, group: Group) -> list[int]:
        """Return the fields of a tile that has all of the rows."""
        return [column[-1] for column in group.fields_of(self._running)]

    def extremes(self, group: Group, first: int = 0, end: int | None = None) -> tuple[dict[int, Any], dict[int, Any]]:
        """Return by series the smallest values, and the largest, of the rows from index `first` until before `end`."""
        lows: dict[int, Any] = {}
        highs: dict[int, Any] = {}
        for series, kind in group.extremes:
            values: Sequence[Any] = self._values[series][first:end]
            if None in values:
                values = [value for value in values if value is not None]
            if kind == "min":
                lows[series] = min(values, default=None)
            else:
                highs[series] = max(values, default=None)
        return lows, highs

    def add_to(self, group: Group, tiles: Tiles, s_us: int) -> None:
        """Add the rows, which must be sealed, to the tiles of a group. The totals are as of `s_us`."""
        hop_us, first = group.hop_us, 0
        columns = group.fields_of(self._running)
        for start, run in groupby([at_us - at_us % hop_us for at_us in self._times]):
            last = first + len(list(run))
            late = tiles[TILE] is not None and start < tiles[TILE]
            # Rows of an older tile are added one by one, unless all rows are in it: encoded tiles keep the width of the
            # largest sum so far, even of one in between, so adding rows at once could give other bytes.
            step = 1 if late and last - first < len(self._times) else last - first
            for at in range(first, last, step):
                fields = [column[at + step] - column[at] for column in columns]
                add_fields(group, tiles, s_us, start, fields, *self.extremes(group, at, at + step))
            first = last


def add_fields(group: Group, tiles: Tiles, s_us: int, start: int, fields: Sequence[int], lows: Any, highs: Any) -> None:
    """Add the fields of sealed rows to the tile that begins at `start`. The totals are as of `s_us`.

    `lows` and `highs` are by the index of a series: the smallest and the largest value of the rows.
    """
    low = s_us - group.over_us
    if start < low - low % group.hop_us:
        return
    newest = tiles[TILE]
    if start == newest:
        tiles[CURRENT] = list(map(add, tiles[CURRENT], fields))
    else:
        if newest is not None and start < newest:
            _add_late(group, tiles, s_us, [start, *fields])
        else:
            if newest is None:
                tiles[TOTALS] = [group.zeros[:] for _ in group.windows]
            else:
                _close(group, tiles, s_us)
            tiles[TILE], tiles[CURRENT] = start, list(map(add, group.zeros, fields))
    if group.extremes:
        for stack, (series, kind) in zip(tiles[STACKS], group.extremes, strict=True):
            value = lows[series] if kind == "min" else highs[series]
            if value is None:
                continue
            if stack and stack[-2] == start and not (value < stack[-1] if kind == "min" else value > stack[-1]):
                continue  # most often, the newest tile already has a more extreme value
            push(stack, start, value, kind)


def take_out(group: Group, tiles: Tiles, s_us: int, row: Row, numbers: list[Any]) -> list[tuple[int, int, int]]:
    """Remove a row. `numbers` is what `numbers_of` returns for it.

    Returns:
        For each stack that lost an entry: its index, and the first and the last event time of the rows to push again.
    """
    start = floor(row[EVENT_AT], group.hop_us)
    if start < floor(s_us - group.over_us, group.hop_us):
        return []
    fields = group.fields_of(numbers)
    if start != tiles[TILE]:
        _add_late(group, tiles, s_us, [start, *(-value for value in fields)])
    else:
        tiles[CURRENT] = list(map(sub, tiles[CURRENT], fields))
        if tiles[CURRENT][0] == 0:  # the newest tile has no rows any more
            past = past_tiles(group, tiles)
            if not past:
                tiles[:] = empty(group)
                return []
            tiles[TILE], *tiles[CURRENT] = past.pop()
            _pack_past(group, tiles, past)
            _add_to_totals(group, tiles, s_us, tiles[TILE], [-value for value in tiles[CURRENT]])
    lost = []
    for place, (series, _) in enumerate(group.extremes):
        first = _remove_entry(group, tiles[STACKS][place], start, row[GIVES][series])
        if first is not None:
            lost.append((place, first, start + group.hop_us - 1))
    return lost


def advance(group: Group, tiles: Tiles, since_us: int, s_us: int) -> None:
    """Update the totals from one S to a later one, and drop tiles that are in no window any more."""
    newest, hop_us = tiles[TILE], group.hop_us
    low = s_us - group.over_us
    low -= low % hop_us
    if newest is None or (since_us - group.over_us >= low and len(group.windows) == 1):
        return  # no tile has left a window
    if newest < low:
        tiles[:] = empty(group)
        return
    past = tiles[PAST]
    if past:
        totals = tiles[TOTALS]
        for place, window in enumerate(group.windows):
            until = s_us - window.over_us
            until -= until % hop_us
            totals[place] = less_expired(group, tiles, totals[place], since_us - window.over_us, until)
        if start_of(past) < low:
            size = group.packing(tiles[WORDS]).size
            tiles[PAST] = past[first_at(past, size, low) * size :]
    for stack in tiles[STACKS]:
        while stack and stack[0] < low:
            del stack[:2]


def rescale(group: Group, tiles: Tiles, place: int, shift: int) -> None:
    """Multiply the numerators of one sum by 2**shift, because its exponent was raised. There is at least one tile."""
    tiles[CURRENT][place] <<= shift
    for total in tiles[TOTALS]:
        total[place] <<= shift
    if tiles[PAST]:
        past = past_tiles(group, tiles)
        for tile in past:
            tile[1 + place] <<= shift
        _pack_past(group, tiles, past)


def push(stack: list[Any], start: int, value: Any, kind: str) -> None:
    """Add a value of the tile at `start` to a stack of suffix extremes: start, value, start, value, ...

    The entry of a tile is the extreme of this tile and all later tiles. A tile has no entry if a later tile has a value
    that is at least as extreme. So the extreme of a window is the first entry in the window.
    """
    place = len(stack)
    while place and stack[place - 2] >= start:
        place -= 2
    if place < len(stack):
        following = stack[place + 1]
        if not (value < following if kind == "min" else value > following):
            return
        if stack[place] == start:
            del stack[place : place + 2]
    keep = place
    while keep and not (stack[keep - 1] < value if kind == "min" else stack[keep - 1] > value):
        keep -= 2
    stack[keep:place] = [start, value]


def first_at(past: bytes, size: int, start: int) -> int:
    """Return how many encoded tiles begin before `start`."""
    low, high = 0, len(past) // size
    while low < high:
        middle = (low + high) // 2
        at = middle * size
        if int.from_bytes(past[at : at + 8], "little", signed=True) < start:
            low = middle + 1
        else:
            high = middle
    return low


def start_of(past: bytes, at: int = 0) -> int:
    """Return the beginning of the encoded tile at byte `at`."""
    return int.from_bytes(past[at : at + 8], "little", signed=True)


def less_expired(group: Group, tiles: Tiles, total: list[int], since: int, low: int) -> list[int]:
    """Return the total of the encoded (older) tiles that begin at `low` or later.

    `total` is that of the encoded tiles in a window which begins at `since`.
    """
    past = tiles[PAST]
    (first,) = first_start(past)
    if first >= low or since >= low:
        return total
    words = tiles[WORDS]
    begins_before = first + group.hop_us <= since  # the first tiles are only in longer windows, so not in `total`
    if words == 1 and not begins_before and len(past) >= group.few.size:
        few, stride = group.few.unpack_from(past), group.width + 1
        gone = bisect_left(few[::stride], low)
        if gone < FEW:
            return [value - sum(few[at : gone * stride : stride]) for at, value in enumerate(total, 1)]
    packing = group.packing(words)
    size = packing.size
    begin, end = first_at(past, size, since - group.hop_us + 1) if begins_before else 0, first_at(past, size, low)
    if begin == end:
        return total
    if end - begin <= len(past) // size - end:
        return list(map(sub, total, _sum(packing.iter_unpack(past[begin * size : end * size]), words)))
    rest = list(packing.iter_unpack(past[end * size :]))
    return _sum(rest, words) if rest else [0] * group.width


def tiles_between(group: Group, tiles: Tiles, low: int, high: int) -> list[list[int]]:
    """Return the tiles that begin at `low` or later and before `high`, oldest first.

    A tile is a list of its beginning and its fields (see `groups.py`).
    """
    words, past = tiles[WORDS], tiles[PAST]
    size = group.packing(words).size
    found: list[list[int]] = []
    if past:
        begin, end = first_at(past, size, low), first_at(past, size, high)
        some = group.packing(words).iter_unpack(past[begin * size : end * size])
        found = [list(t) if words == 1 else [t[0], *_fields_of(t)] for t in some]
    if tiles[TILE] is not None and low <= tiles[TILE] < high:
        found.append([tiles[TILE], *tiles[CURRENT]])
    return found


def fields_between(group: Group, tiles: Tiles, fields: list[int], low: int, high: int) -> list[int]:
    """Return the fields of a window from `low` until before `high`.

    `fields` are those of a window from `low` until now. If fewer tiles are in the window than after it, they are added
    up. Otherwise the later tiles are subtracted from `fields`.
    """
    past, words = tiles[PAST], tiles[WORDS]
    size = group.packing(words).size
    begin, end, count = first_at(past, size, low), first_at(past, size, high), len(past) // size
    newest = [] if tiles[TILE] is None else [(tiles[TILE], tiles[CURRENT])]
    if end - begin <= count - end:
        out = [0] * group.width
        inside = [fields for start, fields in newest if low <= start < high]
        some, op = past[begin * size : end * size], add
    else:
        out, inside = fields, [fields for start, fields in newest if start >= high]
        some, op = past[end * size :], sub
    if some:
        out = list(map(op, out, _sum(group.packing(words).iter_unpack(some), words)))
    for current in inside:
        out = list(map(op, out, current))
    return out


def past_tiles(group: Group, tiles: Tiles) -> list[list[int]]:
    """Return the older tiles decoded: lists of the beginning and the fields."""
    words = tiles[WORDS]
    found = group.packing(words).iter_unpack(tiles[PAST])
    return [list(t) if words == 1 else [t[0], *_fields_of(t)] for t in found]


def _close(group: Group, tiles: Tiles, s_us: int) -> None:
    """Encode the newest tile, and add it to the older ones."""
    newest, current = tiles[TILE], tiles[CURRENT]
    try:
        tiles[PAST] += _packed(group, tiles[WORDS], [newest, *current])
    except (OverflowError, struct.error):
        rows = past_tiles(group, tiles)
        tiles[WORDS] = _words(group, tiles[WORDS], [newest, *current])
        _pack_past(group, tiles, [*rows, [newest, *current]])
    _add_to_totals(group, tiles, s_us, newest, current)


def _add_to_totals(group: Group, tiles: Tiles, s_us: int, start: int, fields: list[int]) -> None:
    """Add fields to the totals of the windows that contain the tile at `start`. The longest always contains it."""
    totals = tiles[TOTALS]
    totals[0] = list(map(add, totals[0], fields))
    for place in range(1, len(totals)):
        if start >= floor(s_us - group.windows[place].over_us, group.hop_us):
            totals[place] = list(map(add, totals[place], fields))


def _add_late(group: Group, tiles: Tiles, s_us: int, delta: list[int]) -> None:
    """Add `delta` (a tile) to the older tile with the same beginning, or insert it among the older tiles."""
    packing = group.packing(tiles[WORDS])
    size, past = packing.size, tiles[PAST]
    at = first_at(past, size, delta[0]) * size
    tile, after = delta, at
    if at < len(past):
        found = packing.unpack_from(past, at)
        if found[0] == delta[0]:
            old = found[1:] if tiles[WORDS] == 1 else _fields_of(found)
            tile, after = [delta[0], *map(add, old, delta[1:])], at + size
    try:
        middle = _packed(group, tiles[WORDS], tile) if tile[1] else b""  # a tile without rows is dropped
    except (OverflowError, struct.error):
        rows = past_tiles(group, tiles)
        tiles[WORDS] = _words(group, tiles[WORDS], tile)
        _pack_past(group, tiles, rows)
        _add_late(group, tiles, s_us, delta)
        return
    tiles[PAST] = past[:at] + middle + past[after:]
    _add_to_totals(group, tiles, s_us, delta[0], delta[1:])


def _remove_entry(group: Group, stack: list[Any], start: int, value: Contribution) -> int | None:
    """Remove the entry of the tile at `start` from a stack of extremes, if it has this value.

    Return the end of the previous entry's tile: rows from there on may now give an entry. None: nothing was removed.
    """
    if value is not None:
        for i in range(0, len(stack), 2):
            if stack[i] == start and stack[i + 1] == value:
                first: int = stack[i - 2] + group.hop_us if i else BEGIN_US
                del stack[i : i + 2]
                return first
    return None


def _sum(tiles: Iterable[tuple[Any, ...]], words: int) -> list[int]:
    """Return the sum of the fields of encoded tiles."""
    if words == 1:
        _, *fields = map(sum, zip(*tiles, strict=True))
    else:
        fields = [*map(sum, zip(*map(_fields_of, tiles), strict=True))]
    return fields


def _pack_past(group: Group, tiles: Tiles, rows: list[list[int]]) -> None:
    tiles[WORDS] = max([_words(group, tiles[WORDS], row) for row in rows], default=tiles[WORDS])
    tiles[PAST] = b"".join([_packed(group, tiles[WORDS], row) for row in rows])


def _packed(group: Group, words: int, tile: list[int]) -> bytes:
    if words == 1:
        return group.packing(1).pack(*tile)
    fields = [
        value.to_bytes(8 * words, "little", signed=True) if is_sum else value
        for value, (_, is_sum) in zip(tile[2:], group.fields, strict=True)
    ]
    return group.packing(words).pack(*tile[:2], *fields)


def _words(group: Group, words: int, tile: list[int]) -> int:
    """Return how many words of 8 bytes each sum of a tile needs, but at least `words`."""
    sums = [v for v, (_, is_sum) in zip(tile[2:], group.fields, strict=True) if is_sum]
    return max([words, *(value.bit_length() // 64 + 1 for value in sums)])


def _fields_of(tile: tuple[Any, ...]) -> list[int]:
    """Return the fields of an encoded tile whose sums take several words each."""
    return [int.from_bytes(v, "little", signed=True) if type(v) is bytes else v for v in tile[1:]]
