"""Values and reasons of one view's features at a moment, from the packed state of an entity."""

from __future__ import annotations

from collections.abc import Sequence
from operator import add
from typing import Any, TypeAlias

from trimtab.features.exact_rows import UNITS, fits, rounded, split
from trimtab.features.formulas import deviation, variance
from trimtab.features.frames import REASONS
from trimtab.features.online.packed import sketches as online_folds
from trimtab.features.online.packed.plan import (
    COUNT,
    EVENT_AT,
    EXTREME,
    FAILS,
    GIVES,
    KNOWN_AT,
    MEAN,
    SPREAD,
    SUM,
    UNTIL,
    WHOLE_MEAN,
    WHOLE_SUM,
    Feature,
    FeatureRead,
    Group,
    Row,
    ViewPlan,
    Window,
    floor,
)
from trimtab.features.online.packed.state import decode, fitting
from trimtab.features.online.packed.tiles import STACKS, Tiles, fields_between, less_expired, tiles_between

ReadTile: TypeAlias = tuple[int, list[int], list[int]]  # start, fields, exponents of their sums

FOUND, NO_ENTITY, NOT_YET, OUTSIDE, EXPIRED, NULL, _, FAILED = range(len(REASONS))
_NEVER_US = 2**62  # behind all events
_UNITS = len(UNITS)
_NO_FOLDS: list[online_folds.Fold] = []


def read_state(plan: ViewPlan, packed: bytes | None, t_us: int, values: list[Any], reasons: list[int], at: int) -> None:
    """Write the features of one entity as of `t_us` into `values` and `reasons`, from place `at` on.

    `t_us` is at least the append time that the state was written at; `reasons` holds "found" so far.
    """
    if packed is None:
        unknown(plan, NO_ENTITY, values, reasons, at)
        return
    read_decoded(plan, fitting(plan, decode(packed)), t_us, values, reasons, at)


def read_decoded(plan: ViewPlan, state: list[Any], t_us: int, values: list[Any], reasons: list[int], at: int) -> None:
    """The same of a state that is unpacked, its sums beyond 64 bits integers."""
    folds = state.pop() if plan.folds else _NO_FOLDS
    _, _, _, s_us, known, opens, winners, exponents, groups, life = state
    visible: list[Row] = []
    if opens:
        some, dated = False, False
        last = t_us if plan.inclusive else t_us - 1
        for row in opens:
            if row[KNOWN_AT] <= t_us:
                some = True
                if row[EVENT_AT] <= last:
                    dated = True
                    if t_us < row[UNTIL] and row[GIVES] is not None:
                        visible.append(row)
        if not known and not dated:
            unknown(plan, NOT_YET if some else NO_ENTITY, values, reasons, at)
            return
    elif not known:  # its only record turned out to repeat a deletion
        unknown(plan, NO_ENTITY, values, reasons, at)
        return
    if plan.latest:
        _read_latest(plan, winners, visible, t_us, values, reasons, at)
    if not plan.windowed:
        return
    opened = _Opened(plan, visible, exponents) if visible else None
    begin_us, end_us, windows = plan.windows_at
    if not begin_us <= t_us < end_us:
        windows = plan.begin_windows(t_us)
    for group, of, tiles in zip(plan.groups, windows, groups):  # noqa: B905  # as many: of this plan; it is quicker
        newest, current, totals, past, _, stacks = tiles
        for place, over_us, low, is_plain, reads, window in of:
            fields: list[int] | None = None
            if newest is not None and newest >= low:
                fields = current
                if past:
                    total = totals[place]
                    since = s_us - over_us
                    if since < low:
                        total = less_expired(group, tiles, total, since, low)
                    fields = list(map(add, total, current))
            if opened is not None or not is_plain:
                more = _Reading(plan, group, tiles, folds, exponents, opened)
                more.finish(window, fields, low, t_us, values, reasons, at)
            elif fields is None:
                _outside(window.features, values, reasons, at)
            else:
                _finish(reads, fields, exponents, stacks, low, folds, values, reasons, at)
    if plan.life is not None:
        fields, scale = life[0], exponents
        if opened is not None:
            fields, scale = opened.added(plan.life, fields, opened.rows), opened.finer
        extremes = [[] if value is None else [0, value] for value in life[1]]
        reads = plan.life.windows[0].reads
        _finish(reads, fields, scale, extremes, 0, folds, values, reasons, at, visible=visible)


def unknown(plan: ViewPlan, reason: int, values: list[Any], reasons: list[int], at: int) -> None:
    """Write what an entity without a record has."""
    for i, feature in enumerate(plan.features, at):
        values[i] = feature.empty
        reasons[i] = reason


def _read_latest(
    plan: ViewPlan, winners: list[Row], visible: list[Row], t_us: int, values: list[Any], reasons: list[int], at: int
) -> None:
    winner = winners[-1] if winners else None
    for row in visible:
        if winner is None or row[:4] > winner[:4]:
            winner = row
    age_us = 0 if winner is None else t_us - winner[EVENT_AT]
    for feature in plan.latest:
        place = at + feature.index
        value = None
        if winner is None or (feature.max_age_us is not None and age_us > feature.max_age_us):
            reasons[place] = EXPIRED
        else:
            value = winner[GIVES][feature.series]
            if value is None:
                reasons[place] = null_of(winner, feature.series)
        values[place] = value


def null_of(row: Row, series: int) -> int:
    """The reason code of a row that has no value of a series."""
    return FAILED if len(row) > FAILS and series in row[FAILS] else NULL


def _outside(features: Sequence[Feature], values: list[Any], reasons: list[int], at: int) -> None:
    """Write the features of a window that holds no row."""
    for feature in features:
        values[at + feature.index] = feature.empty
        reasons[at + feature.index] = OUTSIDE


def _finish(
    reads: Sequence[FeatureRead],
    fields: list[int],
    exponents: list[int],
    stacks: list[list[Any]],
    low: int,
    folds: list[online_folds.Fold],
    values: list[Any],
    reasons: list[int],
    at: int,
    high: int = _NEVER_US,
    visible: Sequence[Row] = (),
) -> None:
    """Write the features of one window that holds these fields."""
    merged: dict[int, list[Any]] | None = None  # the figures of folds, which several features may share
    for index, how, count_at, sum_at, sum_place, feature in reads:
        place = at + index
        count = fields[count_at]
        if not count:
            values[place] = feature.empty
            reasons[place] = NULL if fields[0] else OUTSIDE
        elif how == COUNT:
            values[place] = count
        elif how == MEAN:
            exponent = exponents[sum_place]
            total = fields[sum_at] * UNITS[exponent] if exponent < _UNITS else rounded(fields[sum_at], exponent)
            values[place] = total / count + 0.0
        elif how == SUM:
            exponent = exponents[sum_place]
            values[place] = fields[sum_at] * UNITS[exponent] if exponent < _UNITS else rounded(fields[sum_at], exponent)
        elif how == EXTREME:
            values[place] = _extreme(feature, stacks[feature.stack], low, visible)
        elif how == WHOLE_MEAN:
            values[place] = float(fields[sum_at]) / count + 0.0  # rounded once, however large the sum is
        elif how == WHOLE_SUM:
            if fits(fields[sum_at]):
                values[place] = fields[sum_at]
            else:
                values[place], reasons[place] = None, FAILED
        elif how == SPREAD:
            value = spread(feature, count, fields[sum_at], fields[feature.square_at], exponents)
            values[place] = value
            if value is None:
                reasons[place] = NULL
        else:
            assert feature.fold is not None  # `how` says so
            merged = {} if merged is None else merged
            of = feature.fold.index
            if of not in merged:
                merged[of] = online_folds.read(feature.fold, folds[of], low, high, visible)
            there = feature.place <= len(merged[of])
            values[place] = merged[of][feature.place - 1] if there else None
            if not there:
                reasons[place] = NULL


def spread(feature: Feature, count: int, total: int, squares: int, exponents: list[int]) -> float | None:
    """A variance or deviation, from the exact sums of values and of their squares; null below two values."""
    if count < 2:
        return None
    sums = rounded(total, exponents[feature.sum_place]), rounded(squares, exponents[feature.square_place])
    return (variance if feature.kind == "var" else deviation)(count, *sums)


def _extreme(feature: Feature, stack: list[Any], low: int, visible: Sequence[Row]) -> Any:
    best = None
    for i in range(0, len(stack), 2):
        if stack[i] >= low:
            best = stack[i + 1]
            break
    if not visible:
        return best
    series, smallest = feature.series, feature.kind == "min"
    for row in visible:
        value = row[GIVES][series]
        if value is not None and (best is None or (value < best if smallest else value > best)):
            best = value
    return best


class _Opened:
    """The open rows that a read sees, and exponents fine enough for them too."""

    def __init__(self, plan: ViewPlan, rows: list[Row], exponents: list[int]) -> None:
        self._plan = plan
        self._exponents = exponents
        self.finer, numbers = _over_finer(plan, exponents, rows)
        self.rows = list(zip(rows, numbers, strict=True))  # each with what it adds to the sums over them

    def added(self, group: Group, fields: list[int] | None, rows: Sequence[tuple[Row, list[Any]]]) -> list[int]:
        """Fields with some of the rows added, sums over the finer exponents."""
        series_of = self._plan.series
        out = [0] * group.width if fields is None else list(fields)
        if self.finer is not self._exponents:
            for i, (series, is_sum) in enumerate(group.fields, 1):
                if is_sum and series_of[series].real:
                    place = series_of[series].sum_place
                    out[i] <<= self.finer[place] - self._exponents[place]
        out[0] += len(rows)
        for row, given in rows:
            for i, (series, is_sum) in enumerate(group.fields, 1):
                if row[GIVES][series] is not None:
                    out[i] += given[series] if is_sum else 1
        return out


class _Reading:
    """What the windows of one group come to that see open rows, end earlier, or weigh their tiles."""

    def __init__(
        self,
        plan: ViewPlan,
        group: Group,
        tiles: Tiles,
        folds: list[online_folds.Fold],
        exponents: list[int],
        opened: _Opened | None,
    ) -> None:
        self._plan = plan
        self._group = group
        self._tiles = tiles
        self._folds = folds
        self._exponents = exponents
        self._opened = opened

    def finish(
        self,
        window: Window,
        fields: list[int] | None,
        low: int,
        t_us: int,
        values: list[Any],
        reasons: list[int],
        at: int,
    ) -> None:
        """Write the features of a window that begins at `low`, given the fields of its sealed rows up to the newest."""
        high, hop_us, scale = _NEVER_US, self._group.hop_us, self._exponents
        if window.until_us:
            high = floor(t_us - window.until_us, hop_us)
            if fields is not None:
                fields = fields_between(self._group, self._tiles, fields, low, high)
        inside: list[tuple[Row, list[Any]]] = []
        if self._opened is not None:
            inside = [pair for pair in self._opened.rows if low <= pair[0][EVENT_AT] < high]
            if inside:
                fields, scale = self._opened.added(self._group, fields, inside), self._opened.finer
        if fields is None:
            _outside(window.features, values, reasons, at)
            _outside(window.decayed, values, reasons, at)
            return
        visible = [row for row, _ in inside]
        stacks = self._tiles[STACKS]
        _finish(window.reads, fields, scale, stacks, low, self._folds, values, reasons, at, high, visible)
        if window.decayed:
            tiles = self._as_read(low, high, inside)
            for feature in window.decayed:
                place = at + feature.index
                values[place] = feature.empty
                if fields[feature.count_at]:
                    values[place] = _decayed(feature, tiles, t_us // hop_us, hop_us)
                else:
                    reasons[place] = NULL if fields[0] else OUTSIDE

    def _as_read(self, low: int, high: int, inside: list[tuple[Row, list[Any]]]) -> list[ReadTile]:
        """The tiles of a window, the oldest first; open rows are added to their tiles."""
        between = tiles_between(self._group, self._tiles, low, high)
        sealed = [(start, fields, self._exponents) for start, *fields in between]
        if not inside or self._opened is None:
            return sealed
        found = {start: (fields, scale) for start, fields, scale in sealed}
        by_tile: dict[int, list[tuple[Row, list[Any]]]] = {}
        for pair in inside:
            by_tile.setdefault(floor(pair[0][EVENT_AT], self._group.hop_us), []).append(pair)
        for start, some in by_tile.items():
            before = found[start][0] if start in found else None
            found[start] = self._opened.added(self._group, before, some), self._opened.finer
        return [(start, fields, scale) for start, (fields, scale) in sorted(found.items())]


def _decayed(feature: Feature, tiles: list[ReadTile], now: int, hop_us: int) -> float:
    """The figure of tiles that weigh less with every hop, where `now` is the number of the last one. # D15"""
    weighted = weight = 0.0
    weights, count_at, sum_at, sum_place = feature.weights, feature.count_at, feature.sum_at, feature.sum_place
    for start, fields, scale in tiles:
        w = weights[now - start // hop_us]
        weighted += w * rounded(fields[sum_at], scale[sum_place])
        weight += w * fields[count_at]
    return (weighted if feature.kind == "decayed_sum" else weighted / weight) + 0.0


def _over_finer(plan: ViewPlan, exponents: list[int], rows: list[Row]) -> tuple[list[int], list[list[Any]]]:
    """Exponents fine enough for open rows too, and what each row adds to the sums over them."""
    numbers = [list(row[GIVES]) for row in rows]
    if not plan.real_sums:
        return exponents, numbers
    finer = list(exponents)
    for place, series in enumerate(plan.real_sums):
        parts = [None if given[series] is None else split(given[series]) for given in numbers]
        finer[place] = max([exponents[place], *(part[1] for part in parts if part is not None)])
        for given, part in zip(numbers, parts, strict=True):
            if part is not None:
                given[series] = part[0] << (finer[place] - part[1])
    return finer, numbers
