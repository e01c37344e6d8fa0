"""Sums of floats as integers: exact, in any order, and with rows taken out again."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from strategies import KEYLESS, floats

from trimtab.events.columns.frames import NEVER_US
from trimtab.features import aggregates as d
from trimtab.features.definitions import view
from trimtab.features.exact_rows import rounded, split
from trimtab.features.online.packed.keys import GIVES
from trimtab.features.online.packed.plan import ViewPlan
from trimtab.features.online.packed.state import EntityState

finite = st.floats(-1e150, 1e150)


def total(parts: list[tuple[int, int]]) -> tuple[int, int]:
    finest = max([exponent for _, exponent in parts], default=0)
    return sum(numerator << (finest - exponent) for numerator, exponent in parts), finest


@given(st.lists(finite))
def test_a_sum_is_that_of_fsum(values: list[float]) -> None:
    assert rounded(*total([split(v) for v in values])).hex() == (math.fsum(values) + 0.0).hex()


@given(st.lists(finite, min_size=1), st.lists(finite))
def test_rows_that_are_taken_out_change_no_sum(stay: list[float], gone: list[float]) -> None:
    parts = [split(v) for v in [*stay, *gone]] + [(-n, e) for n, e in map(split, gone)]
    assert rounded(*total(parts)).hex() == (math.fsum(stay) + 0.0).hex()


@given(finite)
def test_a_float_comes_back(value: float) -> None:
    assert rounded(*split(value)) == value


@given(st.lists(st.lists(st.one_of(floats, finite), min_size=1, max_size=3), min_size=1, max_size=4))
def test_what_rows_add_to_sums_is_exact_however_fine_the_unit_gets(batches: list[list[float | None]]) -> None:
    plan = ViewPlan(view("v", source=KEYLESS, by="key", features={"s": d.sum("x", over="1h"), "v": d.var("x")}))
    state = EntityState(plan)
    assert len(plan.series.real_sums) == 2  # of values and of their squares, which go up to 1e300
    for values in batches:
        given_of = plan.values.of_many([("i", "a", 5, value, 1, True, "u") for value in values])[0]
        rows = [[5, 5, "p0", 1, NEVER_US, "i", gives] for gives in given_of]
        for row, numbers in zip(rows, state._addends(rows), strict=True):
            for place, series in enumerate(plan.series.real_sums):
                value = row[GIVES][series]
                exact = None if value is None else Fraction(value) * 2 ** state.exponents[place]
                assert numbers[series] == exact
