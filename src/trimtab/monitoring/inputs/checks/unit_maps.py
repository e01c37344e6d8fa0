"""Maps between units that a column of numbers may have gone through, and the marks they leave on whole numbers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.monitoring.profiles.profile_records import BINS, ColumnProfile, Floats

_FRACTIONS = 0.3  # share of values that are not whole any more, where all were
_MARKED = 0.95  # share of values that are multiples, up to rounding
_SCALES = 5.0  # a factor without a name is one from here on; less may be drift
_MOST = 2.0**53  # beyond which not every whole number is a float
_CHUNK_ROWS = 30  # rows of one median
_NEAR = 0.15  # share of the distance between the old values and the mapped ones
_BETWEEN = 1  # chunks that may lie further from both: the one in which the unit changed


class UnitMap(msgspec.Struct, frozen=True):
    """The map from x to a x + b."""

    said: str
    a: float
    b: float = 0.0

    def back(self, values: Floats) -> Floats:
        """The values before the map."""
        return (values - self.b) / self.a


_NAMED = (
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
    *(UnitMap(f"{factor:g} x", float(factor)) for factor in (10, 12, 24, 60, 100, 1000, 3600, 1e6)),
    *(UnitMap(f"x / {factor:g}", 1.0 / factor) for factor in (10, 12, 24, 60, 100, 1000, 3600, 1e6)),
)


def unit_maps(column: ColumnProfile, usual: Floats, values: Floats, course: Sequence[Floats] | None) -> list[UnitMap]:
    """The maps that a column of numbers may have gone through: those with a name, and a large factor without one.

    A change of sign is possible only for a column of one sign, 1 - x only for shares. On whole numbers a map must have
    left a mark: counts rise and fall with what they count, by any factor and in about the same shape.

    Args:
        column: Its profile.
        usual: The quantiles of its values before, `BINS` + 1 of them.
        values: Its values now.
        course: Its values by the hour since a day before it changed, oldest first; None: no mark is looked for.
    """
    assert column.lowest is not None  # a column of numbers
    assert column.highest is not None
    signed = column.lowest >= 0.0 or column.highest <= 0.0
    share = column.lowest >= 0.0 and column.highest <= 1.0
    named = [one for one in _NAMED if one.a >= 0.0 or (share if one.b else signed)]
    known = np.frombuffer(column.quantiles, "<f8")
    counts = column.lowest >= 0.0 and bool((known == np.rint(known)).all())  # as far as quantiles say
    if course is None or not counts or float((values != np.rint(values)).mean()) >= _FRACTIONS:
        return [*named, *_factor(usual, values)]
    step, before = _common_step(values), _common_step(known)
    multiple = [UnitMap(f"{step // before} x", step / before)] if step >= _SCALES * before else []
    turned = [one for one in named if one.a < 0.0]
    marked = [one for one in named if _left_mark(one, values) and not _left_mark(one, known)]
    stepped = [one for one in named if 0.0 < one.a <= 1.0 and _stepped(one, float(usual[BINS // 2]), course)]
    return [*multiple, *turned, *marked, *stepped]


def _common_step(values: Floats) -> int:
    """The greatest number of which whole numbers are multiples, 1 at least."""
    return max(1, int(np.gcd.reduce(np.rint(np.clip(values, -_MOST, _MOST)).astype(np.int64))))


def _left_mark(one: UnitMap, values: Floats) -> bool:
    """Return whether whole numbers can only come from others by a map, as it leaves gaps between them.

    Three metres in feet, rounded, are 10, and four are 13: never 11.
    """
    if one.a <= 1.0:
        return False
    exact = one.a * np.rint(one.back(values)) + one.b
    return any(float((rounded(exact) == values).mean()) >= _MARKED for rounded in (np.rint, np.floor))


def _stepped(one: UnitMap, middle: float, course: Sequence[Floats]) -> bool:
    """Return whether whole numbers moved by a map from one hour to the next, and stayed there.

    A count that really falls passes through the values between, as a count over a day does for a day.
    """
    medians, held = [], []
    for values in course:
        held.append(values)
        if sum(map(len, held)) >= _CHUNK_ROWS:
            medians.append(float(np.median(np.concatenate(held))))
            held = []
    parts = [_position(one, middle, median) for median in medians]
    moved = [place for place, part in enumerate(parts) if part > _NEAR]
    if not moved or moved[0] == 0:  # the old values were never seen
        return False
    after = parts[moved[0] :]
    return sum(part < 1.0 - _NEAR for part in after) <= _BETWEEN and max(after) < 1.0 + _NEAR


def _position(one: UnitMap, middle: float, median: float) -> float:
    """The position of a median between the old one (0) and the mapped one (1); for a factor on a log scale."""
    if one.b:
        return (median - middle) / (one.a * middle + one.b - middle)
    return float(np.log(median / middle) / np.log(one.a)) if min(median, middle, one.a) > 0.0 else np.inf


def _factor(usual: Floats, values: Floats) -> list[UnitMap]:
    """A large factor between the quantiles, of columns of one sign."""
    now = np.quantile(values, (0.25, 0.5, 0.75))
    then: NDArray[np.float64] = usual[[BINS // 4, BINS // 2, 3 * BINS // 4]]
    if (then <= 0).any() or (now <= 0).any():
        return []
    factor = float(np.exp(np.mean(np.log(now / then))))
    if 1 / _SCALES < factor < _SCALES:
        return []
    return [UnitMap(f"{factor:.4g} x" if factor > 1 else f"x / {1 / factor:.4g}", factor)]
