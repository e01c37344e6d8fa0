"""Sums of floats as integers: exact, in any order, and with rows taken out again."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import Misuse
from trimtab.features.exact_rows import checked, rounded, split

finite = st.floats(-1e150, 1e150)


def total(parts: list[tuple[int, int]]) -> tuple[int, int]:
    finest = max([exponent for _, exponent in parts], default=0)
    return sum(numerator << (finest - exponent) for numerator, exponent in parts), finest


@given(st.lists(finite))
def test_a_sum_is_that_of_fsum(values: list[float]) -> None:
    assert rounded(*total([split(v) for v in values])).hex() == (math.fsum(values) + 0.0).hex()


@given(st.lists(finite, min_size=1), st.lists(finite))
def test_rows_that_are_taken_out_leave_nothing_behind(stay: list[float], leave: list[float]) -> None:
    parts = [split(v) for v in [*stay, *leave]] + [(-n, e) for n, e in map(split, leave)]
    assert rounded(*total(parts)).hex() == (math.fsum(stay) + 0.0).hex()


@given(finite)
def test_a_float_comes_back(value: float) -> None:
    assert rounded(*split(value)) == value


def test_an_integer_sum_beyond_64_bits_is_refused_by_name() -> None:
    assert checked(2**63 - 1, "v.n") == 2**63 - 1
    with pytest.raises(Misuse, match=r"v\.n: the sum 9223372036854775808 does not fit"):
        checked(2**63, "v.n")
