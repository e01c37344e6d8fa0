"""The encoded state of one entity in one view: aggregates of its sealed rows, and its unsealed rows.

S is the latest append time of the log records that were applied. No read is as of a time before S. So once S has passed
both the event time and the known-at time of a row, the row counts in every read. When its entity is next written, the
row is sealed (added to the aggregates). Until then it is unsealed: it is kept as a whole, with both times. A version of
an event whose next version is already stored is never sealed: it stays unsealed until S reaches the known-at time of
the next version, and is then dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import add, sub
from typing import Any

import msgspec

from trimtab.core.errors import Corrupt
from trimtab.events.columns.frames import NEVER_US
from trimtab.features.exact_rows import SCALES
from trimtab.features.online.packed import sketches
from trimtab.features.online.packed.keys import EVENT_AT, GIVES, ID, KNOWN_AT, PARTITION, POSITION, UNTIL, Row, floor
from trimtab.features.online.packed.plan import ViewPlan
from trimtab.features.online.packed.tiles import (
    BEGIN_US,
    CURRENT,
    PAST,
    STACKS,
    TILE,
    TOTALS,
    Block,
    Tiles,
    add_fields,
    advance,
    empty,
    numbers_of,
    push,
    rescale,
    take_out,
)

FORMAT = 1
_WORD = 2**63
_TIED = 16  # for a source with a key: how many of the latest rows with the same event time are kept
_MANY = 5  # from this number on, the rows of an entity are added together; fewer are added one by one
_SCALES = len(SCALES)
_from_bytes = int.from_bytes

_encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(list).decode


class EntityState:
    """The state of one entity in one view, decoded for writing.

    Encoded, it is a list of: the format; the tag of the definition; whether some sums are stored as bytes because they
    exceed 64 bits; the append time S; `known`, how many records count or have counted (a filled state may say fewer,
    but 0 only if there were none); the unsealed rows; the latest sealed rows (several only if they have the same event
    time); the exponents of float sums; the tiles of each group of windows; and the fields (see `groups.py`) and the
    extremes of unlimited windows. If a feature needs more than these, its sketches come last (see `sketches.py`).

    A tile holds the sums over one hop. For a group of windows, there is a list of: the beginning of the newest tile;
    its fields; for each window, the totals of the older tiles in it at S; the encoded older tiles; how many words an
    encoded sum takes; and a stack for each extreme.

    Args:
        packed: The encoded bytes, or the list that `unpack` returned; None: the entity has no state yet.
    """

    def __init__(self, plan: ViewPlan, packed: bytes | list[Any] | None = None) -> None:
        self.plan = plan
        # These four hold what `unseal` cannot subtract (such as a minimum), so `restore` computes it from stored rows.
        # (group, stack, first event time, last event time): the rows between these times are pushed to the stack again
        self.lost_extremes: list[tuple[int, int, int, int]] = []
        self.lost_life: set[int] = set()  # the indexes of extremes of unlimited windows
        self.lost_tiles: dict[tuple[int, int], None] = {}  # (sketch, beginning of the tile)
        self.lost_latest = False
        if packed is None:
            self.wide, self.s_us, self.known = False, BEGIN_US, 0
            self.unsealed: list[Row] = []
            self.latest_rows: list[Row] = []
            self.exponents = [0] * len(plan.series.real_sums)
            self.tiles: list[Tiles] = [empty(group) for group in plan.groups]
            self.life: list[Any] = (
                [] if plan.life is None else [[0] * plan.life.width, [None] * len(plan.life.extremes)]
            )
            self.sketches = [sketches.empty() for _ in plan.sketches]
        else:
            state = unpack(plan, packed) if isinstance(packed, bytes) else packed
            _, _, self.wide, self.s_us, self.known, self.unsealed, self.latest_rows, self.exponents, *rest = state
            self.tiles, self.life, *others = rest
            self.sketches = others[0] if others else []

    def pack(self) -> bytes:
        """Return the bytes to store."""
        state = [
            FORMAT,
            self.plan.tag,
            self.wide,
            self.s_us,
            self.known,
            self.unsealed,
            self.latest_rows,
            self.exponents,
        ]
        others = [self.sketches] if self.plan.sketches else []
        if not self.wide:
            try:
                return _encode([*state, self.tiles, self.life, *others])
            except OverflowError:
                self.wide = state[2] = True
        tiles = [
            [t[TILE], _wide_as_bytes(t[CURRENT]), [*map(_wide_as_bytes, t[TOTALS])], *t[PAST:]] for t in self.tiles
        ]
        return _encode([*state, tiles, [_wide_as_bytes(self.life[0]), self.life[1]] if self.life else [], *others])

    def find_open(self, partition: str, position: int) -> Row | None:
        """Return the unsealed row that came from the record at a position; None: there is none."""
        return next((r for r in self.unsealed if r[POSITION] == position and r[PARTITION] == partition), None)

    def repeat(self, row: Row) -> bool:
        """Apply a record that repeats an event. If its known-at time and position are earlier, the event takes them.

        Return False if the event is neither an unsealed row, nor a latest row, nor in a sketch. Then its known-at time
        and position do not matter any more.
        """
        found = False
        for rows in (self.unsealed, self.latest_rows):
            for other in rows:
                if other[ID] == row[ID] and other[EVENT_AT] == row[EVENT_AT]:
                    if row[KNOWN_AT : POSITION + 1] < other[KNOWN_AT : POSITION + 1]:
                        other[KNOWN_AT : POSITION + 1] = row[KNOWN_AT : POSITION + 1]
                        self.latest_rows.sort(key=_order)
                    found = True
        for sketch, kept in zip(self.plan.sketches, self.sketches, strict=True):
            found |= sketches.repeat(sketch, kept, row)
        return found

    def seal(self, s_us: int) -> None:
        """Set S to `s_us`, and seal all rows whose event time and known-at time it has passed."""
        still: list[Row] = []
        live: list[Row] = []
        # the row with the earliest event time, among rows that were replaced before S passed both of their times
        dead: Row | None = None
        last = s_us if self.plan.inclusive else s_us - 1
        for row in self.unsealed:
            if row[EVENT_AT] > last or row[KNOWN_AT] > s_us:
                if row[UNTIL] > s_us:
                    still.append(row)
                elif dead is None or row[EVENT_AT] < dead[EVENT_AT]:
                    dead = row
            elif row[UNTIL] == NEVER_US:
                self.known += 1
                if row[GIVES] is not None:
                    live.append(row)
            elif row[UNTIL] > s_us:
                still.append(row)
            else:  # the next version is known by now, so the row is dropped
                self.known += 1
        if dead is not None:  # its values never count, but from its event time on, the entity is known
            still.append(dead)
        self.unsealed = still
        self._advance(s_us, live)

    def as_of(self, t_us: int) -> bool:
        """Prepare the state for a read at `t_us`: add all rows that count at that time to the aggregates.

        This includes versions that will be replaced after `t_us`, so afterwards the state may only be read. Return
        False if no event of the entity counts or has counted.
        """
        last = t_us if self.plan.inclusive else t_us - 1
        begun = [row for row in self.unsealed if row[EVENT_AT] <= last and row[KNOWN_AT] <= t_us]
        if not self.known and not begun:
            return False
        self._advance(t_us, [row for row in begun if t_us < row[UNTIL] and row[GIVES] is not None])
        return True

    def _advance(self, s_us: int, live: list[Row]) -> None:
        """Set S to `s_us`, drop what has left all windows, and add rows to the aggregates."""
        for group, tiles in zip(self.plan.groups, self.tiles, strict=True):
            advance(group, tiles, self.s_us, s_us)
        self.s_us = s_us
        if live:
            self._add(live)
        for sketch, kept in zip(self.plan.sketches, self.sketches, strict=True):
            sketches.drop(sketch, kept, s_us)

    def unseal(self, row: Row) -> None:
        """Subtract a sealed row from the sums, and record which extremes, sketches and latest values may come from it.

        After the last removed row, call `restore`, which computes these from the stored rows.
        """
        plan = self.plan
        numbers = numbers_of(plan, row[GIVES], self._addends([row])[0])
        for index, (group, tiles) in enumerate(zip(plan.groups, self.tiles, strict=True)):
            self.lost_extremes += [(index, *lost) for lost in take_out(group, tiles, self.s_us, row, numbers)]
        if plan.life is not None:
            fields, extremes = self.life
            fields[:] = map(sub, fields, plan.life.fields_of(numbers))
            for place, (series, _) in enumerate(plan.life.extremes):
                if extremes[place] is not None and extremes[place] == row[GIVES][series]:
                    extremes[place] = None
                    self.lost_life.add(place)
        for sketch, kept in zip(plan.sketches, self.sketches, strict=True):
            start = sketches.holds(sketch, kept, row)
            if start is not None:
                self.lost_tiles[sketch.index, start] = None
        if plan.latest:
            place_of = [r[PARTITION : POSITION + 1] for r in self.latest_rows]
            if row[PARTITION : POSITION + 1] in place_of:
                del self.latest_rows[place_of.index(row[PARTITION : POSITION + 1])]
                self.lost_latest |= not self.latest_rows

    def restore(self, rows: Callable[[int, int], Iterable[Row]]) -> int:
        """Compute again what `unseal` has recorded. Return how many stored rows were read.

        Args:
            rows: Returns the sealed rows of the entity between two event times (both included), newest first.
        """
        read = 0
        newest = self.s_us if self.plan.inclusive else self.s_us - 1
        for index, place, low, high in self.lost_extremes:
            group, stack = self.plan.groups[index], self.tiles[index][STACKS][place]
            series, kind = group.extremes[place]
            low = max(low, floor(self.s_us - group.over_us, group.hop_us))
            for row in rows(low, min(high, newest)):
                read += 1
                if row[GIVES][series] is not None:
                    push(stack, floor(row[EVENT_AT], group.hop_us), row[GIVES][series], kind)
        if self.lost_life and self.plan.life is not None:
            for row in rows(BEGIN_US, newest):
                read += 1
                self._add_life_extremes(row[GIVES], row[GIVES], self.lost_life)
        if self.lost_latest:
            tied: list[Row] = []
            for row in rows(BEGIN_US, newest):
                read += 1
                if tied and row[EVENT_AT] < tied[0][EVENT_AT]:
                    break
                tied.append(row)
            self.latest_rows = []
            self._add_latest(tied)
        for index, start in self.lost_tiles:
            of = self.plan.sketches[index]
            if not of.hop_us:
                read += sketches.remake(of, self.sketches[index], start, rows(BEGIN_US, newest))
            elif start >= floor(self.s_us - of.over_us, of.hop_us):
                last = min(start + of.hop_us - 1, newest)
                read += sketches.remake(of, self.sketches[index], start, rows(start, last))
        self.lost_extremes, self.lost_tiles, self.lost_life, self.lost_latest = [], {}, set(), False
        return read

    def _add(self, rows: list[Row]) -> None:
        plan = self.plan
        if plan.windowed:
            addends = self._addends(rows)
            if len(rows) == 1 or (len(rows) < _MANY and not self._any_late(rows)):
                for row, of_row in zip(rows, addends, strict=True):
                    numbers, gives, at_us = numbers_of(plan, row[GIVES], of_row), row[GIVES], row[EVENT_AT]
                    for group, tiles in zip(plan.groups, self.tiles, strict=True):
                        start, fields = at_us - at_us % group.hop_us, group.fields_of(numbers)
                        add_fields(group, tiles, self.s_us, start, fields, gives, gives)
                    if plan.life is not None:
                        self._add_life(plan.life.fields_of(numbers), gives, gives)
            else:
                block = Block(plan, [row[EVENT_AT] for row in rows], [row[GIVES] for row in rows], addends)
                for group, tiles in zip(plan.groups, self.tiles, strict=True):
                    block.add_to(group, tiles, self.s_us)
                if plan.life is not None:
                    self._add_life(block.fields(plan.life), *block.extremes(plan.life))
        for sketch, kept in zip(plan.sketches, self.sketches, strict=True):
            for row in rows:
                sketches.put(sketch, kept, row)
        if plan.latest:
            self._add_latest(rows)

    def _any_late(self, rows: list[Row]) -> bool:
        """Return whether any of the rows is before the newest tile of a group."""
        newest_us: int = max([tiles[TILE] for tiles in self.tiles if tiles[TILE] is not None], default=BEGIN_US)
        return any(row[EVENT_AT] < newest_us for row in rows)

    def _addends(self, rows: list[Row]) -> list[list[Any]]:
        """Return for each row what it adds to the sum of each series.

        For a sum of floats, this is the numerator of `value = numerator / 2**exponent`. If a value needs a larger
        exponent than its series has, the exponent of the series is raised.
        """
        real_sums = self.plan.series.real_sums
        if not real_sums:
            return [row[GIVES] for row in rows]
        numbers_of: list[list[Any]] = []
        exponents = self.exponents
        for row in rows:
            numbers = list(row[GIVES])
            for i, series in enumerate(real_sums):
                value = numbers[series]
                if value is None:
                    continue
                exponent = exponents[i]
                scaled = value * SCALES[exponent] if exponent < _SCALES else 0.5  # 0.5: take the slow path
                # the usual case, three times as fast; it is exact, because scaling by a power of two never rounds
                if scaled.is_integer():
                    numbers[series] = int(scaled)
                else:
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
        """Raise the exponent of float sum `i` to `exponent`, and scale its numerators in all groups accordingly."""
        shift = exponent - self.exponents[i]
        self.exponents[i] = exponent
        series = self.plan.series.real_sums[i]
        for at, place in self.plan.sums_in(series):
            if self.tiles[at][TILE] is not None:
                rescale(self.plan.groups[at], self.tiles[at], place, shift)
        if self.plan.life is not None and (series, True) in self.plan.life.fields:
            self.life[0][1 + self.plan.life.fields.index((series, True))] <<= shift

    def _add_life(self, fields: Sequence[int], lows: Any, highs: Any) -> None:
        assert self.plan.life is not None
        self.life[0] = list(map(add, self.life[0], fields))
        self._add_life_extremes(lows, highs, range(len(self.plan.life.extremes)))

    def _add_life_extremes(self, lows: Any, highs: Any, places: Iterable[int]) -> None:
        assert self.plan.life is not None
        extremes = self.life[1]
        for place in places:
            series, kind = self.plan.life.extremes[place]
            value, best = (lows if kind == "min" else highs)[series], extremes[place]
            if value is not None and (best is None or (value < best if kind == "min" else value > best)):
                extremes[place] = value

    def _add_latest(self, rows: list[Row]) -> None:
        """Add newly sealed rows to the latest rows: those with the newest event time.

        For a source with a key, only the last 16 (`_TIED`) are kept, and a row that comes before the first kept row is
        not added, because rows in between may be missing. If no kept row is left, `restore` reads the stored rows. For
        other sources, all rows with the newest event time are kept (see `ties.py`).
        """
        newest_us = max((row[EVENT_AT] for row in rows), default=BEGIN_US)
        before = self.latest_rows if self.latest_rows and self.latest_rows[-1][EVENT_AT] >= newest_us else []
        if before and before[-1][EVENT_AT] > newest_us:
            return
        tied = [row for row in rows if row[EVENT_AT] == newest_us]
        if self.plan.keyed and before:
            tied = [row for row in tied if _order(row) > _order(before[0])]
        tied = sorted(before + tied, key=_order)
        self.latest_rows = tied[-_TIED:] if self.plan.keyed else tied


def unpack(plan: ViewPlan, packed: bytes) -> list[Any]:
    """Return the list in an encoded state.

    Raises:
        Corrupt: The bytes have another format or belong to another definition.
    """
    state: list[Any] = decode(packed)
    return fitting(plan, state)


def fitting(plan: ViewPlan, state: list[Any]) -> list[Any]:
    """Check the list of a state, and return it, with the sums that are stored as bytes converted to integers.

    Raises:
        Corrupt: The list has another format or belongs to another definition.
    """
    if state[0] != FORMAT or state[1] != plan.tag:
        raise Corrupt(
            f"view {plan.name!r}: a stored state has the format {state[0]} and the definition {state[1]:08x}; needed "
            f"{FORMAT} and {plan.tag:08x}. Rebuild the view from the log."
        )
    if state[2]:
        # both have the same length, because the groups are those of the plan; zip() is faster without `strict`
        for group, tiles in zip(plan.groups, state[8]):  # noqa: B905
            current = tiles[CURRENT]
            if current and group.sum_places:
                totals = tiles[TOTALS]
                for place in group.sum_places:
                    if type(current[place]) is bytes:
                        current[place] = _from_bytes(current[place], "little", signed=True)
                    for fields in totals:
                        if type(fields[place]) is bytes:
                            fields[place] = _from_bytes(fields[place], "little", signed=True)
        if plan.life is not None:
            fields = state[9][0]
            for place in plan.life.sum_places:
                if type(fields[place]) is bytes:
                    fields[place] = _from_bytes(fields[place], "little", signed=True)
    return state


def _order(row: Row) -> Any:
    return row[: POSITION + 1]


def _wide_as_bytes(fields: list[int]) -> list[Any]:
    """Return fields; those that exceed 64 bits become bytes."""
    return [v if -_WORD <= v < _WORD else v.to_bytes(v.bit_length() // 8 + 1, "little", signed=True) for v in fields]
