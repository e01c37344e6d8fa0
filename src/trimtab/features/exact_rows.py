"""Exact sums of floats: integers over a power of two, rounded once when they are read.

A float is `numerator / 2**exponent`. Sums of numerators over one exponent are integers, so they do not depend on the
order of the rows and a row can be taken out again; Python's division of integers rounds correctly, so a sum read back
is that of `math.fsum`.
"""

from __future__ import annotations

from collections.abc import Mapping

from trimtab.core.errors import Misuse

_INT_MAX = 2**63 - 1
UNITS = [2.0**-exponent for exponent in range(400)]
# What the numerator of a sum of values (of magnitudes up to 1e150) times its unit gives is `rounded` too, in half the
# time: it is rounded on becoming a float, and a power of two only moves its exponent. Numerators over finer units, or
# of squares, may lie beyond the floats.

SCALES = [2.0**exponent for exponent in range(400)]
# The same the other way: a value times the scale is its numerator over that exponent, if it is a whole number at all.


def split(value: float) -> tuple[int, int]:
    """The numerator and the least exponent (0 or more) of a finite float.

    >>> split(0.75)
    (3, 2)
    """
    numerator, denominator = value.as_integer_ratio()
    return numerator, denominator.bit_length() - 1


def rounded(numerator: int, exponent: int) -> float:
    """The float nearest to `numerator / 2**exponent`.

    >>> rounded(3, 2)
    0.75
    """
    return numerator / (1 << exponent)


class SumOverflow(Misuse):
    """An integer sum that does not fit 64 bits: whoever defined the feature must change it, not who asks for it.

    `what` names the sum, and `row` is its place among those that were computed together.
    """

    def __init__(self, total: int, what: str, row: int = 0) -> None:
        super().__init__(f"{what}: the sum {total} does not fit 64 bits. Sum a float: multiply the column by 1.0.")
        self.total = total
        self.what = what
        self.row = row

    def __reduce__(self) -> tuple[type[SumOverflow], tuple[int, str, int]]:
        return SumOverflow, (self.total, self.what, self.row)

    def of(self, view: str, entity: Mapping[str, object]) -> SumOverflow:
        """The same, of a view's entity."""
        named = ", ".join(f"{column} {value!r}" for column, value in entity.items())
        return SumOverflow(self.total, f"view {view!r}, {self.what}, {named}", self.row)


def checked(total: int, what: str, row: int = 0) -> int:
    """An integer sum, as long as it fits 64 bits.

    Raises:
        SumOverflow: It does not.
    """
    if -_INT_MAX - 1 <= total <= _INT_MAX:
        return total
    raise SumOverflow(total, what, row)
