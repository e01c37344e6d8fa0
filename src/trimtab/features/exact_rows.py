"""Exact sums of floats: integers over a power of two, rounded once when they are read.

A float is `numerator / 2**exponent`. Sums of numerators over one exponent are integers, so they do not depend on the
order of the rows and a row can be taken out again; Python's division of integers rounds correctly, so a sum read back
is that of `math.fsum`.
"""

from __future__ import annotations

from trimtab.core.errors import Misuse

_INT_MAX = 2**63 - 1


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


def checked(total: int, what: str) -> int:
    """An integer sum, as long as it fits 64 bits.

    Raises:
        Misuse: It does not.
    """
    if -_INT_MAX - 1 <= total <= _INT_MAX:
        return total
    raise Misuse(f"{what}: the sum {total} does not fit 64 bits. Sum a float: multiply the column by 1.0.")
