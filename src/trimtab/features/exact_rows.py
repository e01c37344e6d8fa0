"""Exact sums of floats as integers over a power of two, rounded once when a sum is read.

A float is `numerator / 2**exponent`. Sums of numerators over one exponent are integers, so they do not depend on the
order of the rows, and a row can be subtracted again. Python's division of integers rounds correctly, so a sum equals
that of `math.fsum` when it is read.
"""

from __future__ import annotations

from trimtab.core.expressions.primitives import INT_MAX, INT_MIN

UNITS = [2.0**-exponent for exponent in range(400)]
# For sums of values of magnitudes up to 1e150, the numerator times UNITS[exponent] equals `rounded`, in half the time.
# The numerator is rounded when it becomes a float, and a power of two only changes its exponent. Numerators over finer
# units, or of squares, may be too large for a float.

SCALES = [2.0**exponent for exponent in range(400)]
# A value times SCALES[exponent] is its numerator over this exponent, provided that the product is a whole number.


def split(value: float) -> tuple[int, int]:
    """Return the numerator and the least exponent (0 or more) of a finite float.

    >>> split(0.75)
    (3, 2)
    """
    numerator, denominator = value.as_integer_ratio()
    return numerator, denominator.bit_length() - 1


def rounded(numerator: int, exponent: int) -> float:
    """Return the float nearest to `numerator / 2**exponent`.

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
