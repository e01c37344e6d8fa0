"""Values and reasons of one view's features at a moment, from the packed state of an entity."""

from __future__ import annotations

from collections.abc import Sequence
from operator import add
from typing import Any

from trimtab.features import online_folds
from trimtab.features.exact_rows import checked, split
from trimtab.features.figures import deviation, variance
from trimtab.features.frames import REASONS
from trimtab.features.online_plan import EVENT_AT, GIVES, KNOWN_AT, UNTIL, Feature, Group, Row, ViewPlan, Window, floor
from trimtab.features.online_state import FOLDS, unpack
from trimtab.features.online_tiles import Tiles, fields_between, less_expired, tiles_between

FOUND, NO_ENTITY, NOT_YET, OUTSIDE, EXPIRED, NULL = range(len(REASONS))
_NEVER_US = 2**62  # behind all events


def read_state(plan: ViewPlan, packed: bytes | None, t_us: int, values: list[Any], reasons: list[int], at: int) -> None:
    """Write the features of one entity as of `t_us` into `values` and `reasons`, from place `at` on.

    `t_us` is at least the append time that the state was written at; `reasons` holds "found" so far.
    """
    if packed is None:
        unknown(plan, NO_ENTITY, values, reasons, at)
        return
    state = unpack(plan, packed)
    _, _, _, s_us, known, opens, winners, exponents, groups, life = state[:FOLDS]
    folds = state[FOLDS] if plan.folds else []
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
    finer, numbers = _over_finer(plan, exponents, visible) if visible else (exponents, [])
    for group, tiles in zip(plan.groups, groups, strict=True):
        hop_us = group.hop_us
        newest, current, totals, past, _, stacks = tiles
        for place, window in enumerate(group.windows):
            low = t_us - window.over_us
            low -= low % hop_us
            fields: list[int] | None = None
            if newest is not None and newest >= low:
                fields = current
                if past:
                    total = totals[place]
                    since = s_us - window.over_us
                    since -= since % hop_us
                    if since < low:
                        total = less_expired(group, tiles, total, since, low)
                    fields = list(map(add, total, current))
            high = _NEVER_US
            if window.until_us:
                high = t_us - window.until_us
                high -= high % hop_us
                if fields is not None:
                    fields = fields_between(group, tiles, fields, low, high)
            scale, inside, given = exponents, visible, numbers
            if visible:
                given = [n for row, n in zip(visible, numbers, strict=True) if low <= row[EVENT_AT] < high]
                inside = [row for row in visible if low <= row[EVENT_AT] < high]
                if inside:
                    fields, scale = _with_open(plan, group, fields, exponents, finer, inside, given), finer
            _finish(window, fields, stacks, folds, low, high, inside, scale, values, reasons, at)
            if window.decayed:
                opened = list(zip(inside, given, strict=True))
                weighed = _tiles_as_read(plan, group, tiles, low, high, opened, exponents, finer)
                _finish_decayed(window, fields, weighed, t_us // hop_us, hop_us, values, reasons, at)
    if plan.life is not None:
        fields = life[0]
        if visible:
            fields = _with_open(plan, plan.life, fields, exponents, finer, visible, numbers)
        extremes = [[] if value is None else [0, value] for value in life[1]]
        _finish(plan.life.windows[0], fields, extremes, folds, 0, _NEVER_US, visible, finer, values, reasons, at)


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
                reasons[place] = NULL
        values[place] = value


def _finish(
    window: Window,
    fields: list[int] | None,
    stacks: list[list[Any]],
    folds: list[online_folds.Fold],
    low: int,
    high: int,
    visible: Sequence[Row],
    exponents: list[int],
    values: list[Any],
    reasons: list[int],
    at: int,
) -> None:
    """Write the features of one window that holds these fields; None: it holds no row."""
    if fields is None:
        for feature in window.features:
            values[at + feature.index] = feature.empty
            reasons[at + feature.index] = OUTSIDE
        return
    merged: dict[int, list[Any]] = {}  # the figures of folds, which several features may share
    for feature in window.features:
        place = at + feature.index
        count = fields[feature.count_at]
        if not count:
            values[place] = feature.empty
            reasons[place] = NULL if fields[0] else OUTSIDE
        elif feature.sum_at:
            total: Any = fields[feature.sum_at]
            if feature.kind == "sum" or feature.kind == "mean":
                total = total / (1 << exponents[feature.sum_place]) if feature.real else checked(total, feature.name)
                values[place] = total if feature.kind == "sum" else float(total) / count + 0.0
            elif count > 1:
                squares = fields[feature.square_at] / (1 << exponents[feature.square_place])
                spread = variance if feature.kind == "var" else deviation
                values[place] = spread(count, total / (1 << exponents[feature.sum_place]), squares)
            else:
                values[place] = None
                reasons[place] = NULL
        elif feature.kind == "count":
            values[place] = count
        elif feature.fold is None:
            values[place] = _extreme(feature, stacks[feature.stack], low, visible)
        else:
            index = feature.fold.index
            if index not in merged:
                merged[index] = online_folds.read(feature.fold, folds[index], low, high, visible)
            figures = merged[index]
            if feature.place <= len(figures):
                values[place] = figures[feature.place - 1]
            else:
                values[place] = None
                reasons[place] = NULL


def _tiles_as_read(
    plan: ViewPlan,
    group: Group,
    tiles: Tiles,
    low: int,
    high: int,
    opened: list[tuple[Row, list[Any]]],
    exponents: list[int],
    finer: list[int],
) -> list[tuple[int, list[int], list[int]]]:
    """Start, fields and exponents of each tile of a window, the oldest first; open rows are added to their tiles."""
    sealed = [(start, fields, exponents) for start, *fields in tiles_between(group, tiles, low, high)]
    if not opened:
        return sealed
    found = {start: (fields, scale) for start, fields, scale in sealed}
    by_tile: dict[int, list[tuple[Row, list[Any]]]] = {}
    for row, given in opened:
        by_tile.setdefault(floor(row[EVENT_AT], group.hop_us), []).append((row, given))
    for start, some in by_tile.items():
        fields = found[start][0] if start in found else None
        rows, numbers = [row for row, _ in some], [given for _, given in some]
        found[start] = _with_open(plan, group, fields, exponents, finer, rows, numbers), finer
    return [(start, fields, scale) for start, (fields, scale) in sorted(found.items())]


def _finish_decayed(
    window: Window,
    fields: list[int] | None,
    tiles: list[tuple[int, list[int], list[int]]],
    now: int,
    hop_us: int,
    values: list[Any],
    reasons: list[int],
    at: int,
) -> None:
    """Write the features of a window whose tiles weigh less with every hop, the last of them being `now`. # D15"""
    for feature in window.decayed:
        place = at + feature.index
        if fields is None or not fields[feature.count_at]:
            values[place] = feature.empty
            reasons[place] = NULL if fields and fields[0] else OUTSIDE
            continue
        weighted = weight = 0.0
        weights, count_at, sum_at, sum_place = feature.weights, feature.count_at, feature.sum_at, feature.sum_place
        for start, of_tile, scale in tiles:
            w = weights[now - start // hop_us]
            weighted += w * (of_tile[sum_at] / (1 << scale[sum_place]))
            weight += w * of_tile[count_at]
        values[place] = (weighted if feature.kind == "decayed_sum" else weighted / weight) + 0.0


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


def _with_open(
    plan: ViewPlan,
    group: Group,
    fields: list[int] | None,
    exponents: list[int],
    finer: list[int],
    rows: list[Row],
    numbers: list[list[Any]],
) -> list[int]:
    """The fields of a window with open rows added, sums over the finer exponents."""
    out = [0] * group.width if fields is None else list(fields)
    if finer is not exponents:
        for i, (series, is_sum) in enumerate(group.fields, 1):
            if is_sum and plan.series[series].real:
                place = plan.series[series].sum_place
                out[i] <<= finer[place] - exponents[place]
    out[0] += len(rows)
    for row, given in zip(rows, numbers, strict=True):
        for i, (series, is_sum) in enumerate(group.fields, 1):
            if row[GIVES][series] is not None:
                out[i] += given[series] if is_sum else 1
    return out


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
