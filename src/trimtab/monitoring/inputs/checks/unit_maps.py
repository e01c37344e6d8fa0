"""Maps between units that may have been applied to a column of numbers, and the marks they leave on whole numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.monitoring.profiles.profile_records import BINS, ColumnProfile, Floats

_FRACTIONS = 0.3  # if at least this share of whole numbers is no longer whole, no mark is required (see `unit_maps`)
_MARKED = 0.95  # a map has left its mark if it can have made at least this share of values from whole numbers
_SCALES = 5.0  # a factor without a name must be at least this large; a smaller one may be drift
_MOST = 2.0**53  # above this, floats cannot hold every whole number
_CHUNK_ROWS = 30  # hours are merged into chunks of at least this many rows, whose medians are compared
# The next two constants are on a scale on which the old values are at 0, and the mapped values at 1.
_NEAR = 0.15  # within this distance, values count as equal to the old ones or to the mapped ones
_HALF = 0.5  # if another unit is sent, values move at least this far at once
_WHOLE = 0.6  # for a map with a shift, such as that of temperatures: the same, from the values just before
_BETWEEN = 1  # this many chunks may lie between old and mapped values: the one in which the unit changed


class UnitMap(msgspec.Struct, frozen=True):
    """The map from x to a x + b."""

    said: str
    a: float
    b: float = 0.0

    def back(self, values: Floats) -> Floats:
        """Return the values before the map was applied."""
        return (values - self.b) / self.a


_CONVERSIONS = (
    UnitMap("1.8 x + 32 (degrees Celsius to Fahrenheit)", 1.8, 32.0),
    UnitMap("(x - 32) / 1.8 (degrees Fahrenheit to Celsius)", 1 / 1.8, -32.0 / 1.8),
    UnitMap("x + 273.15 (degrees Celsius to kelvin)", 1.0, 273.15),
    UnitMap("x - 273.15 (kelvin to degrees Celsius)", 1.0, -273.15),
    UnitMap("-x (another sign)", -1.0),
    UnitMap("1 - x (another side of a share)", -1.0, 1.0),
    UnitMap("1.609344 x (miles to kilometres)", 1.609344),
    UnitMap("x / 1.609344 (kilometres to miles)", 1 / 1.609344),
    UnitMap("1.852 x (nautical miles to kilometres)", 1.852),
    UnitMap("x / 1.852 (kilometres to nautical miles)", 1 / 1.852),
    UnitMap("3.6 x (metres a second to kilometres an hour)", 3.6),
    UnitMap("x / 3.6 (kilometres an hour to metres a second)", 1 / 3.6),
    UnitMap("2.236936 x (metres a second to miles an hour)", 2.236936),
    UnitMap("x / 2.236936 (miles an hour to metres a second)", 1 / 2.236936),
    UnitMap("3.28084 x (metres to feet)", 3.28084),
    UnitMap("x / 3.28084 (feet to metres)", 1 / 3.28084),
    UnitMap("2.54 x (inches to centimetres)", 2.54),
    UnitMap("x / 2.54 (centimetres to inches)", 1 / 2.54),
    UnitMap("2.204623 x (kilograms to pounds)", 2.204623),
    UnitMap("x / 2.204623 (pounds to kilograms)", 1 / 2.204623),
)
_NAMED = (
    *_CONVERSIONS,
    *(UnitMap(f"{factor:g} x", float(factor)) for factor in (10, 12, 24, 60, 100, 1000, 3600, 1e6)),
    *(UnitMap(f"x / {factor:g}", 1.0 / factor) for factor in (10, 12, 24, 60, 100, 1000, 3600, 1e6)),
)


def has_name(found: UnitMap) -> bool:
    """Return whether a map is a conversion between known units, and not only a factor."""
    return any(one.a == found.a and one.b == found.b for one in _CONVERSIONS)


def unit_maps(column: ColumnProfile, usual: Floats, values: Floats, course: Sequence[Floats] | None) -> list[UnitMap]:
    """Return the maps that may have been applied to a numeric column: named maps, and a large factor without a name.

    A change of sign is possible only for a column of one sign, 1 - x only for shares. Counts may really rise or fall by
    any factor, and keep about the same shape. So for counts (whole numbers of at least 0), any map but -x and
    1 - x must have left a mark: nearly all values can be results of the map (see `_left_mark`), or have a larger common
    divisor than before, or they jumped from one hour to the next.

    Args:
        usual: The `BINS` + 1 quantiles of the column's earlier values.
        values: The column's values now.
        course: The column's values by hour, from a day before the change until now, oldest first; None: no mark is
            required.
    """
    assert column.lowest is not None  # a column of numbers
    assert column.highest is not None
    signed = column.lowest >= 0.0 or column.highest <= 0.0
    share = column.lowest >= 0.0 and column.highest <= 1.0
    named = [one for one in _NAMED if one.a >= 0.0 or (share if one.b else signed)]
    known = np.frombuffer(column.quantiles, "<f8")
    counts = column.lowest >= 0.0 and bool((known == np.rint(known)).all())  # as far as quantiles can tell
    if course is None or not counts or float((values != np.rint(values)).mean()) >= _FRACTIONS:
        return [*named, *_factor(usual, values)]
    step, before = _common_step(values), _common_step(known)
    multiple = [UnitMap(f"{step / before:.4g} x", step / before)] if step >= _SCALES * before else []
    turned = [one for one in named if one.a < 0.0]
    marked = [one for one in named if _left_mark(one, values) and not _left_mark(one, known)]
    stepped = [one for one in named if 0.0 < one.a <= 1.0 and _stepped(one, float(usual[BINS // 2]), course)]
    return [*multiple, *turned, *marked, *stepped]


def _common_step(values: Floats) -> int:
    """Return the greatest common divisor of whole numbers, at least 1."""
    return max(1, int(np.gcd.reduce(np.rint(np.clip(values, -_MOST, _MOST)).astype(np.int64))))


def _left_mark(one: UnitMap, values: Floats) -> bool:
    """Return whether nearly all values are what a map makes of whole numbers (rounded, or rounded down).

    A map with a factor above 1 leaves gaps, so this is no coincidence. For example, three metres are 10 feet (rounded),
    and four metres are 13 feet, so that 11 never occurs. For other maps, False is returned.
    """
    if one.a <= 1.0:
        return False
    exact = one.a * np.rint(one.back(values)) + one.b
    return any(float((rounded(exact) == values).mean()) >= _MARKED for rounded in (np.rint, np.floor))


def _stepped(one: UnitMap, middle: float, course: Sequence[Floats]) -> bool:
    """Return whether whole numbers jumped to their mapped values from one hour to the next, and stayed there.

    A count that really falls passes through the values in between. For example, a count over a day takes a day.
    """
    parts = [_position(one, middle, median) for median in _medians(course)]
    moved = [place for place, part in enumerate(parts) if part > _NEAR]
    if not moved or moved[0] == 0:  # the old values were not seen
        return False
    after = parts[moved[0] :]
    return sum(part < 1.0 - _NEAR for part in after) <= _BETWEEN and max(after) < 1.0 + _NEAR


def is_gradual(one: UnitMap, middle: float, course: Sequence[Floats]) -> bool:
    """Return whether values moved to their mapped values step by step, as a mean over a day does.

    If another unit is sent, values move within about an hour. False if the hours before the change were not seen.
    """
    medians, mapped = np.array([*_medians(course), middle]), one.a * middle + one.b
    hours: list[float] = medians[:-1].tolist()
    if one.b and one.a > 0.0 and any(abs(value - middle) < _HALF * abs(mapped - middle) for value in hours):
        steps = [
            (later - value) / (one.a * value + one.b - value)
            for place, value in enumerate(hours)
            for later in hours[place + 1 : place + 2 + _BETWEEN]
        ]
        return max(steps, default=0.0) < _WHOLE
    if min(medians.min(), mapped) > 0.0 and not one.b:
        medians, mapped = np.log(medians), math.log(mapped)
    parts: list[float] = (
        ((medians[:-1] - medians[-1]) / (mapped - medians[-1])).tolist() if mapped != medians[-1] else []
    )
    if min(parts, default=1.0) > _HALF:
        return False
    return max(later - part for place, part in enumerate(parts) for later in parts[place : place + 3]) < _HALF


def _medians(course: Sequence[Floats]) -> list[float]:
    """Return medians of values by hour. Hours are merged until they have enough rows."""
    medians, held = [], []
    for values in course:
        held.append(values)
        if sum(map(len, held)) >= _CHUNK_ROWS:
            medians.append(float(np.median(np.concatenate(held))))
            held = []
    return medians


def _position(one: UnitMap, middle: float, median: float) -> float:
    """Return where a median lies between the old median (0) and the mapped one (1). For a factor, logs are compared."""
    if one.b:
        return (median - middle) / (one.a * middle + one.b - middle)
    return float(np.log(median / middle) / np.log(one.a)) if min(median, middle, one.a) > 0.0 else np.inf


def _factor(usual: Floats, values: Floats) -> list[UnitMap]:
    """Return the factor between the old and the new quartiles, if it is large and all quartiles are above 0."""
    now = np.quantile(values, (0.25, 0.5, 0.75))
    then: NDArray[np.float64] = usual[[BINS // 4, BINS // 2, 3 * BINS // 4]]
    if (then <= 0).any() or (now <= 0).any():
        return []
    factor = float(np.exp(np.mean(np.log(now / then))))
    if 1 / _SCALES < factor < _SCALES:
        return []
    return [UnitMap(f"{factor:.4g} x" if factor > 1 else f"x / {1 / factor:.4g}", factor)]
