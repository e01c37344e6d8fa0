import math
import struct
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.features.offline.kernels.exact_columns import ExactSums

usual = st.floats(-1e3, 1e3)
wide = st.floats(-1e150, 1e150)
edges = st.sampled_from([5e-324, -5e-324, 1e150, -1e150, 1e16, 1.0, -1e16, 0.1, 2.0**-1022, 2.0**53, 0.0, 1e-300])
whole = st.integers(-(2**60), 2**60).map(float)


def bits(values: list[float]) -> list[bytes]:
    return [struct.pack("<d", v) for v in values]


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["usual", "wide", "edges", "whole", "mixed"])
@settings(deadline=None)
@given(data=st.data())
def test_the_sum_of_every_range_is_that_of_fsum(kind: str, data: st.DataObject) -> None:
    floats = {"usual": usual, "wide": wide, "edges": edges, "whole": whole, "mixed": st.one_of(usual, edges)}[kind]
    values = [v + 0.0 for v in data.draw(st.lists(floats, max_size=20))]
    sums = ExactSums(np.array(values, np.float64), "float")
    prefix = sums.prefix(slice(None))
    ranges = [(a, b) for a in range(len(values) + 1) for b in range(a, len(values) + 1)]
    low, high = np.array(ranges).T
    found = sums.rounded([p[high] - p[low] for p in prefix]).tolist()
    assert bits(found) == bits([math.fsum(values[a:b]) + 0.0 for a, b in ranges])


def test_long_columns_are_exact_too() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(0, 1, 30_000) * 10.0 ** rng.integers(-9, 9, 30_000)
    sums = ExactSums(values, "float")
    prefix = sums.prefix(slice(None))
    low = rng.integers(0, 30_000, 60)
    high = np.minimum(30_000, low + rng.integers(0, 5_000, 60))
    expected = [math.fsum(values[a:b]) + 0.0 for a, b in zip(low, high, strict=True)]
    assert sums.rounded([p[high] - p[low] for p in prefix]).tolist() == expected


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=8))
def test_an_integer_sum_is_exact_or_marked(values: list[int]) -> None:
    sums = ExactSums(np.array(values, np.int64), "int")
    prefix = sums.prefix(slice(None))
    total = [p[[-1]] - p[[0]] for p in prefix]
    wrong = sums.overflows(total)
    assert (wrong is not None and wrong.tolist() == [True]) != (-(2**63) <= sum(values) < 2**63)
    if wrong is None:
        assert sums.rounded(total).tolist() == [sum(values)]


@pytest.mark.parametrize("size", [8, 300])
@given(data=st.data())
def test_the_float_of_an_integer_sum_is_rounded_once(size: int, data: st.DataObject) -> None:
    edges = st.sampled_from([2**63 - 1, -(2**63), 2**53 + 1, 2**32 - 1, -(2**32), 1, -1, 0, 2**62 + 2**9])
    one = st.one_of(edges, st.integers(-(2**63), 2**63 - 1))
    drawn = data.draw(st.lists(one, min_size=1, max_size=8))
    values = (drawn * (size // len(drawn) + 1))[: data.draw(st.integers(1, size))]
    sums = ExactSums(np.array(values, np.int64), "int")
    prefix = sums.prefix(slice(None))
    found = sums.floats([p[1:] - p[:1] for p in prefix]).tolist()
    assert bits(found) == bits([float(total) for total in accumulate(values)])


def test_many_integers_are_rounded_once_too() -> None:
    values = np.random.default_rng(5).integers(2**62, 2**63 - 1, 3_000_000)
    sums = ExactSums(values, "int")
    totals = [limb.sum(keepdims=True) for limb in sums.limbs(slice(None))]
    exact = sum(int(limb[0]) << 32 * n for n, limb in enumerate(totals))
    assert exact > 2**83  # more than two floats hold
    assert sums.floats([totals[0], totals[1]]).tolist() == [float(exact)]
    assert sums.floats([-totals[0], -totals[1]]).tolist() == [-float(exact)]


def test_truth_values_are_counted() -> None:
    sums = ExactSums(np.array([True, False, True]), "bool")
    assert [p.tolist() for p in sums.prefix(slice(None))] == [[0, 1, 1, 2]]
