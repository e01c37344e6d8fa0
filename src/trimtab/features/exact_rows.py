"""Exact sums of single rows, which can be subtracted again: integers over a power of two, rounded when they are read.

A float is `numerator / 2**exponent`. Numerators of the same exponent are added as integers, so their sum does not
depend on the order of rows, and a row can be subtracted again. Python rounds the quotient of integers correctly, so a
sum that is read equals `math.fsum`.
"""

from __future__ import annotations

from trimtab.core.expressions.primitives import INT_MAX, INT_MIN

UNITS = [2.0**-exponent for exponent in range(400)]
# `numerator * UNITS[exponent]` is equal to `rounded(numerator, exponent)`, in half the time: the numerator is rounded
# once, when it becomes a float, and a power of two only changes its exponent. This holds for sums of values up to
# 1e150. With larger exponents, or for squares, numerators may be too large for a float.

SCALES = [2.0**exponent for exponent in range(400)]
# if a value times SCALES[exponent] is a whole number, the product is the value's numerator for that exponent


def split(value: float) -> tuple[int, int]:
    """Return the numerator and the smallest possible exponent (0 or more) of a finite float.

    >>> split(0.75)
    (3, 2)
    """
    numerator, denominator = value.as_integer_ratio()
    return numerator, denominator.bit_length() - 1


def rounded(numerator: int, exponent: int) -> float:
    """Return the float that is nearest to `numerator / 2**exponent`.

    >>> rounded(3, 2)
    0.75
    """
    return numerator / (1 << exponent)


def fits(total: int) -> bool:
    """Return whether an integer sum fits in 64 bits. If not, the feature fails.

    >>> fits(2**63 - 1), fits(2**63)
    (True, False)
    """
    return INT_MIN <= total <= INT_MAX
