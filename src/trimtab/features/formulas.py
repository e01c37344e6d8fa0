"""The formulas of aggregates for single rows.

`offline/kernels/formula_columns.py` has the same formulas for columns. Both give the same bits, because each formula is
a fixed sequence of operations on float64 or integers.
"""

from __future__ import annotations

import math
import struct
from decimal import Context, Decimal
from functools import lru_cache
from hashlib import blake2b

RANKED = 1_024  # the largest number of distinct values that `top_k` counts in a window
_INT_MAX = 2**63 - 1
_WORD = 2**64 - 1
_DIGITS = Context(prec=60)
_as_word = struct.Struct("<d").pack


def variance(n: int, s1: float, s2: float) -> float:
    """Return the sample variance of at least 2 values.

    `n` is the number of values, `s1` their exact sum, and `s2` that of their squares, each rounded once. # D9

    >>> variance(3, 6.0, 14.0)
    1.0
    """
    mean = s1 / n
    deviations = s2 - mean * s1
    return (deviations if deviations > 0.0 else 0.0) / (n - 1)


def deviation(n: int, s1: float, s2: float) -> float:
    """Return the square root of `variance`."""
    return math.sqrt(variance(n, s1, s2))


@lru_cache(maxsize=256)
def weights(hop_us: int, half_life_us: int, steps: int) -> tuple[float, ...]:
    """Return the weights of values that are 0, 1, ... `steps` hops old. Each half-life halves a weight. # D14

    A hop is the time by which the window moves on. The weights are correctly rounded, so equal on every machine.

    >>> weights(1, 2, 4)
    (1.0, 0.7071067811865476, 0.5, 0.3535533905932738, 0.25)
    """
    step = _DIGITS.power(Decimal(2), _DIGITS.divide(Decimal(-hop_us), Decimal(half_life_us)))
    out, weight = [], Decimal(1)
    for _ in range(steps + 1):
        out.append(float(weight))
        weight = _DIGITS.multiply(weight, step)
    return tuple(out)


def steps_of(over_us: int, hop_us: int) -> int:
    """Return the largest age that a value in a window can have, in hops. (The window moves on by one hop at a time.)"""
    return over_us // hop_us + 1


def hash_of(value: float | int | bool | str) -> int:
    """Return a 64-bit hash of a value. Equal values of the same type have equal hashes on every machine.

    >>> hash_of(0), hash_of("a") == hash_of("b")
    (16294208416658607535, False)
    """
    if isinstance(value, str):
        return int.from_bytes(blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
    z = int.from_bytes(_as_word(value), "little") if isinstance(value, float) else value
    z = (z + 0x9E3779B97F4A7C15) & _WORD  # splitmix64: Steele, Lea and Flood (2014)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
    return z ^ (z >> 31)


def estimated(kth: int, k: int) -> int:
    """Return an estimate of the number of distinct values. `kth` is the k-th smallest of their hashes.

    Source: Bar-Yossef et al. (2002). According to Beyer et al. (2007), it is unbiased, with a relative standard error
    of 1 / sqrt(k - 2).

    >>> estimated(2**63, 256)
    509
    """
    return min(max(((k - 1) << 64) // (kth + 1), k), _INT_MAX)
