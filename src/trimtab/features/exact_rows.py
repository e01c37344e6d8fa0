"""Exact sums of floats as integers over a power of two, rounded once when a sum is read.

A float is `numerator / 2**exponent`. Sums of numerators over one exponent are integers, so they do not depend on the
order of the rows, and a row can be subtracted again. Python's division of integers rounds correctly, so a sum equals
that of `math.fsum` when it is read.
"""

from __future__ import annotations

from trimtab.core.expressions.primitives import INT_MAX, INT_MIN

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


def fits(total: int) -> bool:
    """Return whether an integer sum fits 64 bits. A sum that does not fit has failed.

    >>> fits(2**63 - 1), fits(2**63)
    (True, False)
    """
    return INT_MIN <= total <= INT_MAX
