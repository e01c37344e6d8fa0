"""The packed state of one entity in one view: what is sealed, and the rows that are still open.

A row is sealed by the first write of its entity at which the log's append time has passed its event time and its known
at: from then on it counts at every moment that can be asked about. An open row is kept whole, and reads look at both
of its clocks. A version that is known to end later stays open until it has ended.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from operator import add, sub
from typing import Any, TypeAlias

import msgspec

from trimtab.core.errors import Corrupt
from trimtab.events.frames import NEVER_US
from trimtab.features.online_plan import Contribution, Group, ViewPlan, floor

FORMAT = 1
Row: TypeAlias = list[Any]  # by the places below
EVENT_AT, KNOWN_AT, PARTITION, POSITION, UNTIL, ID, GIVES = range(7)  # GIVES: one a series; None in a tombstone
Tiles: TypeAlias = list[Any]  # by the places below
TILE, CURRENT, TOTALS, PAST, WORDS, STACKS = range(6)
_BEGIN_US = -(2**62)  # before all events
_WORD = 2**63
_FEW = 6  # tiles taken off one by one

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list).decode


class EntityState:
    """One entity of one view, unpacked for writing.

    The packed value is a list: format, tag of the definition, whether sums beyond 64 bits lie in it as bytes, S,
    whether a record was ever sealed, open rows, the greatest sealed rows (several only when they share the event
    time), exponents of the float sums, for each group of windows its tiles, and the fields and extremes of windows
    that never end. Tiles are: start and fields of the newest tile, the older tiles packed, their totals in each
    window at S, the words that a sum takes there, and a stack for each extreme.
    """

    def __init__(self, plan: ViewPlan, packed: bytes | None = None) -> None:
        self.plan = plan
        self.dirty: list[tuple[int, int, int, int]] = []  # tiles of a group's stack to read again: from, to
        self.winner_lost = False
        self.lowest_lost: set[int] = set()  # lifetime extremes to find again
        if packed is None:
            self.wide, self.s_us, self.known = False, _BEGIN_US, False
            self.opens: list[Row] = []
            self.winners: list[Row] = []
            self.exponents = [0] * len(plan.real_sums)
            self.tiles: list[Tiles] = [_empty(group) for group in plan.groups]
            self.life: list[Any] = (
                [] if plan.life is None else [[0] * plan.life.width, [None] * len(plan.life.extremes)]
            )
        else:
            state = unpack(plan, packed)
            _, _, self.wide, self.s_us, self.known, self.opens, self.winners, self.exponents, self.tiles, self.life = (
                state
            )

    def pack(self) -> bytes:
        """The bytes to store."""
        state = [FORMAT, self.plan.tag, self.wide, self.s_us, self.known, self.opens, self.winners, self.exponents]
        if not self.wide:
            try:
                return _encode([*state, self.tiles, self.life])
            except OverflowError:
                self.wide = state[2] = True
        tiles = [[t[TILE], _wide_out(t[CURRENT]), [*map(_wide_out, t[TOTALS])], *t[PAST:]] for t in self.tiles]
        return _encode([*state, tiles, [_wide_out(self.life[0]), self.life[1]] if self.life else []])

    def find_open(self, partition: str, position: int) -> Row | None:
        """The open row that came from a record."""
        return next((r for r in self.opens if r[POSITION] == position and r[PARTITION] == partition), None)

    def repeat(self, row: Row) -> bool:
        """Take a repetition of an event that has only one content: the first record of it counts.

        False when no such event is open or among the greatest; then nothing depends on which record counts.
        """
        for rows in (self.opens, self.winners):
            for other in rows:
                if other[ID] == row[ID] and other[EVENT_AT] == row[EVENT_AT]:
                    if row[KNOWN_AT : POSITION + 1] < other[KNOWN_AT : POSITION + 1]:
                        other[KNOWN_AT : POSITION + 1] = row[KNOWN_AT : POSITION + 1]
                        self.winners.sort(key=_order)
                    return True
        return False

    def seal(self, s_us: int) -> None:
        """Move the append time on, and seal all that it has passed."""
        still: list[Row] = []
        live: list[Row] = []
        last = s_us if self.plan.inclusive else s_us - 1
        for row in self.opens:
            if row[EVENT_AT] > last or row[KNOWN_AT] > s_us:
                still.append(row)
            elif row[UNTIL] == NEVER_US:
                if row[GIVES] is not None:
                    live.append(row)
            elif row[UNTIL] > s_us:
                still.append(row)
        if len(still) < len(self.opens):
            self.known = True
        self.opens = still
        if live:
            self._fold(live)
        if self.tiles:
            self._advance(s_us)
        self.s_us = s_us

    def unseal(self, row: Row) -> None:
        """Take a sealed row out again; what it alone held up must then be restored from the raw rows."""
        plan = self.plan
        (numbers,) = self._numbers([row])
        for index, (group, tiles) in enumerate(zip(plan.groups, self.tiles, strict=True)):
            start = floor(row[EVENT_AT], group.hop_us)
            if start >= floor(self.s_us - group.over_us, group.hop_us):
                self._take_out(group, tiles, _delta(group, start, numbers, -1))
                for place, (series, _) in enumerate(group.extremes):
                    self._lose(index, tiles[STACKS][place], place, start, row[GIVES][series])
        if plan.life is not None:
            fields, extremes = self.life
            fields[:] = map(add, fields, _delta(plan.life, 0, numbers, -1)[1:])
            for place, (series, _) in enumerate(plan.life.extremes):
                if extremes[place] is not None and extremes[place] == row[GIVES][series]:
                    extremes[place] = None
                    self.lowest_lost.add(place)
        if plan.latest:
            place_of = [r[PARTITION : POSITION + 1] for r in self.winners]
            if row[PARTITION : POSITION + 1] in place_of:
                del self.winners[place_of.index(row[PARTITION : POSITION + 1])]
                self.winner_lost |= not self.winners

    def restore(self, rows: Callable[[int, int], Iterable[Row]]) -> int:
        """Find again what unsealed rows held up; how many raw rows were read.

        Args:
            rows: The sealed rows of the entity with event time from the first to the second, the newest first.
        """
        read = 0
        newest = self.s_us if self.plan.inclusive else self.s_us - 1
        for index, place, low, high in self.dirty:
            group, stack = self.plan.groups[index], self.tiles[index][STACKS][place]
            series, kind = group.extremes[place]
            low = max(low, floor(self.s_us - group.over_us, group.hop_us))
            for row in rows(low, min(high + group.hop_us - 1, newest)):
                read += 1
                if row[GIVES][series] is not None:
                    push(stack, floor(row[EVENT_AT], group.hop_us), row[GIVES][series], kind)
        if self.lowest_lost and self.plan.life is not None:
            for row in rows(_BEGIN_US, newest):
                read += 1
                self._live_extremes(row[GIVES], self.lowest_lost)
        if self.winner_lost:
            self.winners = []
            for row in rows(_BEGIN_US, newest):
                read += 1
                if self.winners and row[EVENT_AT] < self.winners[-1][EVENT_AT]:
                    break
                self._contend(row)
        self.dirty, self.lowest_lost, self.winner_lost = [], set(), False
        return read

    def _fold(self, rows: list[Row]) -> None:
        plan = self.plan
        if plan.windowed:
            numbers_of = self._numbers(rows)
            for group, tiles in zip(plan.groups, self.tiles, strict=True):
                self._fold_tiles(group, tiles, rows, numbers_of)
            if plan.life is not None:
                fields = self.life[0]
                for row, numbers in zip(rows, numbers_of, strict=True):
                    _count(fields, plan.life.adds, numbers)
                    self._live_extremes(row[GIVES], range(len(plan.life.extremes)))
        if plan.latest:
            for row in rows:
                self._contend(row)

    def _fold_tiles(self, group: Group, tiles: Tiles, rows: list[Row], numbers_of: list[list[Any]]) -> None:
        hop_us, adds, extremes = group.hop_us, group.adds, group.extremes
        low = floor(self.s_us - group.over_us, hop_us)
        newest, current = tiles[TILE], tiles[CURRENT]
        for row, numbers in zip(rows, numbers_of, strict=True):
            start = row[EVENT_AT]
            start -= start % hop_us
            if start < low:
                continue
            if newest is not None and start < newest:
                self._add_late(group, tiles, _delta(group, start, numbers, 1))
            else:
                if start != newest:
                    if newest is None:
                        tiles[TOTALS] = [[0] * group.width for _ in group.windows]
                    else:
                        self._close(group, tiles)
                    newest = tiles[TILE] = start
                    current = tiles[CURRENT] = [0] * group.width
                _count(current, adds, numbers)
            if extremes:
                gives = row[GIVES]
                for stack, (series, kind) in zip(tiles[STACKS], extremes, strict=True):
                    if gives[series] is not None:
                        push(stack, start, gives[series], kind)

    def _numbers(self, rows: list[Row]) -> list[list[Any]]:
        """What each row adds to the sum of each series, over the state's exponents, which are made fine enough."""
        real_sums = self.plan.real_sums
        if not real_sums:
            return [row[GIVES] for row in rows]
        numbers_of: list[list[Any]] = []
        exponents = self.exponents
        for row in rows:
            numbers = row[GIVES][:]
            for i, series in enumerate(real_sums):
                value = numbers[series]
                if value is not None:
                    numerator, denominator = value.as_integer_ratio()
                    exponent = denominator.bit_length() - 1
                    shift = exponents[i] - exponent
                    if shift < 0:
                        self._rescale(i, exponent)
                        for before in numbers_of:
                            if before[series] is not None:
                                before[series] <<= -shift
                        shift = 0
                    numbers[series] = numerator << shift
            numbers_of.append(numbers)
        return numbers_of

    def _rescale(self, i: int, exponent: int) -> None:
        """Give the sums of a series a finer unit."""
        shift = exponent - self.exponents[i]
        self.exponents[i] = exponent
        series = self.plan.real_sums[i]
        for group, tiles in zip(self.plan.groups, self.tiles, strict=True):
            places = [p for p, field in enumerate(group.fields, 1) if field == (series, True)]
            if places and tiles[TILE] is not None:
                place = places[0]
                tiles[CURRENT][place] <<= shift
                for total in tiles[TOTALS]:
                    total[place] <<= shift
                if tiles[PAST]:
                    past = past_tiles(group, tiles)
                    for tile in past:
                        tile[1 + place] <<= shift
                    _pack_past(group, tiles, past)
        if self.plan.life is not None and (series, True) in self.plan.life.fields:
            self.life[0][1 + self.plan.life.fields.index((series, True))] <<= shift

    def _close(self, group: Group, tiles: Tiles) -> None:
        """Put the newest tile to the older ones."""
        newest, current = tiles[TILE], tiles[CURRENT]
        try:
            tiles[PAST] += _packed(group, tiles[WORDS], [newest, *current])
        except (OverflowError, struct.error):
            rows = past_tiles(group, tiles)
            tiles[WORDS] = _words(group, tiles[WORDS], [newest, *current])
            _pack_past(group, tiles, [*rows, [newest, *current]])
        self._add_to_totals(group, tiles, newest, current)

    def _add_to_totals(self, group: Group, tiles: Tiles, start: int, fields: list[int]) -> None:
        """Add to the totals of the windows that cover the tile at `start`; the longest one does."""
        totals = tiles[TOTALS]
        totals[0] = list(map(add, totals[0], fields))
        for place in range(1, len(totals)):
            if start >= floor(self.s_us - group.windows[place].over_us, group.hop_us):
                totals[place] = list(map(add, totals[place], fields))

    def _add_late(self, group: Group, tiles: Tiles, delta: list[int]) -> None:
        """Add to an older tile, or put a new one between."""
        packing = group.packing(tiles[WORDS])
        size, past = packing.size, tiles[PAST]
        at = first_at(past, size, delta[0]) * size
        tile, after = delta, at
        if at < len(past):
            found = packing.unpack_from(past, at)
            if found[0] == delta[0]:
                old = found[1:] if tiles[WORDS] == 1 else _narrow(found)
                tile, after = [delta[0], *map(add, old, delta[1:])], at + size
        try:
            middle = _packed(group, tiles[WORDS], tile) if tile[1] else b""  # a tile without rows is none
        except (OverflowError, struct.error):
            rows = past_tiles(group, tiles)
            tiles[WORDS] = _words(group, tiles[WORDS], tile)
            _pack_past(group, tiles, rows)
            self._add_late(group, tiles, delta)
            return
        tiles[PAST] = past[:at] + middle + past[after:]
        self._add_to_totals(group, tiles, delta[0], delta[1:])

    def _take_out(self, group: Group, tiles: Tiles, delta: list[int]) -> None:
        """Add what is negative."""
        if delta[0] != tiles[TILE]:
            self._add_late(group, tiles, delta)
            return
        tiles[CURRENT] = list(map(add, tiles[CURRENT], delta[1:]))
        if tiles[CURRENT][0] == 0:  # the newest tile has lost its last row
            past = past_tiles(group, tiles)
            if past:
                tiles[TILE], *tiles[CURRENT] = past.pop()
                _pack_past(group, tiles, past)
                self._add_to_totals(group, tiles, tiles[TILE], [-value for value in tiles[CURRENT]])
            else:
                tiles[:] = _empty(group)

    def _lose(self, index: int, stack: list[Any], place: int, start: int, value: Contribution) -> None:
        if value is None:
            return
        for i in range(0, len(stack), 2):
            if stack[i] == start:
                if stack[i + 1] == value:
                    low = stack[i - 2] + self.plan.groups[index].hop_us if i else _BEGIN_US
                    del stack[i : i + 2]
                    self.dirty.append((index, place, low, start))
                return

    def _advance(self, s_us: int) -> None:
        """Take from the totals the tiles that have left, and drop those that no window needs."""
        for group, tiles in zip(self.plan.groups, self.tiles, strict=True):
            newest = tiles[TILE]
            if newest is None:
                continue
            hop_us = group.hop_us
            low, before = s_us - group.over_us, self.s_us - group.over_us
            low -= low % hop_us
            if before >= low and len(group.windows) == 1:
                continue  # no tile has left
            if newest < low:
                tiles[:] = _empty(group)
                continue
            past = tiles[PAST]
            if past:
                totals = tiles[TOTALS]
                for place, window in enumerate(group.windows):
                    since, until = self.s_us - window.over_us, s_us - window.over_us
                    since, until = since - since % hop_us, until - until % hop_us
                    totals[place] = less_expired(group, tiles, totals[place], since, until)
                if start_of(past) < low:
                    size = group.packing(tiles[WORDS]).size
                    tiles[PAST] = past[first_at(past, size, low) * size :]
            for stack in tiles[STACKS]:
                while stack and stack[0] < low:
                    del stack[:2]

    def _live_extremes(self, gives: list[Contribution], places: Iterable[int]) -> None:
        assert self.plan.life is not None
        extremes = self.life[1]
        for place in places:
            series, kind = self.plan.life.extremes[place]
            value, best = gives[series], extremes[place]
            if value is not None and (best is None or (value < best if kind == "min" else value > best)):
                extremes[place] = value

    def _contend(self, row: Row) -> None:
        winners = self.winners
        if not winners or row[EVENT_AT] > winners[-1][EVENT_AT]:
            self.winners = [row]
        elif row[EVENT_AT] == winners[-1][EVENT_AT]:
            winners.append(row)
            winners.sort(key=_order)


def unpack(plan: ViewPlan, packed: bytes) -> list[Any]:
    """The stored list.

    Raises:
        Corrupt: The bytes are of another format or definition.
    """
    state = _decode(packed)
    if state[0] != FORMAT or state[1] != plan.tag:
        raise Corrupt(
            f"view {plan.name!r}: a state of format {state[0]} and definition {state[1]:08x}; needed {FORMAT} and "
            f"{plan.tag:08x}. Rebuild the view from the log."
        )
    if state[2]:
        for group, tiles in zip(plan.groups, state[8], strict=True):
            if group.sum_places and tiles[CURRENT]:
                _wide_in(tiles[CURRENT], group)
                for total in tiles[TOTALS]:
                    _wide_in(total, group)
        if plan.life is not None:
            _wide_in(state[9][0], plan.life)
    return state


def push(stack: list[Any], start: int, value: Any, kind: str) -> None:
    """Let a value of the tile at `start` into a stack of suffix extremes: start, value, start, value, ...

    Each entry is the extreme of its own tile and all later ones, so entries get more extreme toward the front, and
    the extreme of a window is the first entry in it.
    """
    place = len(stack)
    while place and stack[place - 2] >= start:
        place -= 2
    if place < len(stack):
        beside = stack[place + 1]
        if not (value < beside if kind == "min" else value > beside):
            return
        if stack[place] == start:
            del stack[place : place + 2]
    keep = place
    while keep and not (stack[keep - 1] < value if kind == "min" else stack[keep - 1] > value):
        keep -= 2
    stack[keep:place] = [start, value]


def first_at(past: bytes, size: int, start: int) -> int:
    """How many of the packed tiles begin before `start`."""
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
    """Where the packed tile at a byte begins."""
    return int.from_bytes(past[at : at + 8], "little", signed=True)


def less_expired(group: Group, tiles: Tiles, total: list[int], since: int, low: int) -> list[int]:
    """The total of the older tiles of a window that began at `since` when it begins at `low`."""
    past, words = tiles[PAST], tiles[WORDS]
    first = start_of(past)
    if first >= low or since >= low:
        return total
    packing = group.packing(words)
    size = packing.size
    if first >= since and (len(past) <= _FEW * size or start_of(past, _FEW * size) >= low):
        gone = [tile for tile in packing.iter_unpack(past[: _FEW * size]) if tile[0] < low]
        return list(map(sub, total, _sum(gone, words)))
    begin, end = 0 if first >= since else first_at(past, size, since), first_at(past, size, low)
    if begin == end:
        return total
    if end - begin <= len(past) // size - end:
        return list(map(sub, total, _sum(packing.iter_unpack(past[begin * size : end * size]), words)))
    rest = list(packing.iter_unpack(past[end * size :]))
    return _sum(rest, words) if rest else [0] * group.width


def _sum(tiles: Iterable[tuple[Any, ...]], words: int) -> list[int]:
    """The fields of some packed tiles, added up."""
    if words == 1:
        _, *fields = map(sum, zip(*tiles, strict=True))
    else:
        fields = [*map(sum, zip(*map(_narrow, tiles), strict=True))]
    return fields


def past_tiles(group: Group, tiles: Tiles) -> list[list[int]]:
    """The older tiles, unpacked: start, count of rows, fields."""
    words = tiles[WORDS]
    found = group.packing(words).iter_unpack(tiles[PAST])
    return [list(t) if words == 1 else [t[0], *_narrow(t)] for t in found]


def _order(row: Row) -> Any:
    return row[: POSITION + 1]


def _empty(group: Group) -> Tiles:
    return [None, [], [], b"", 1, [[] for _ in group.extremes]]


def _count(fields: list[int], adds: tuple[tuple[int, int, int], ...], numbers: list[Any]) -> None:
    """Add one row to a tile's fields."""
    fields[0] += 1
    for series, count_at, sum_at in adds:
        number = numbers[series]
        if number is not None:
            if count_at:
                fields[count_at] += 1
            if sum_at:
                fields[sum_at] += number


def _delta(group: Group, start: int, numbers: list[Any], sign: int) -> list[int]:
    """One row as a tile, or the opposite of it."""
    fields = [0] * group.width
    _count(fields, group.adds, numbers)
    return [start, *(sign * value for value in fields)]


def _pack_past(group: Group, tiles: Tiles, rows: list[list[int]]) -> None:
    """Pack all older tiles."""
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
    """The 8-byte words that the sums of a tile need, not below `words`."""
    sums = [v for v, (_, is_sum) in zip(tile[2:], group.fields, strict=True) if is_sum]
    return max([words, *(value.bit_length() // 64 + 1 for value in sums)])


def _narrow(tile: tuple[Any, ...]) -> list[int]:
    """The count of rows and the fields of a tile whose sums take several words."""
    return [int.from_bytes(v, "little", signed=True) if type(v) is bytes else v for v in tile[1:]]


def _wide_out(fields: list[int]) -> list[Any]:
    """Fields, those beyond 64 bits as bytes."""
    return [v if -_WORD <= v < _WORD else v.to_bytes(v.bit_length() // 8 + 1, "little", signed=True) for v in fields]


def _wide_in(fields: list[Any], group: Group) -> None:
    for place in group.sum_places:
        if type(fields[place]) is bytes:
            fields[place] = int.from_bytes(fields[place], "little", signed=True)
