"""Formulas that online and offline share: the same bits, and as exact as stated."""

from __future__ import annotations

import math
import random
import statistics
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.columns.data import Dtype, column
from trimtab.features.formulas import deviation, estimated, hash_of, steps_of, variance, weights
from trimtab.features.offline.kernels.formula_columns import hashes, variances

numbers = st.floats(-1e150, 1e150)


@given(st.lists(st.tuples(st.integers(2, 2**40), numbers, st.floats(0, 1e300)), min_size=1, max_size=40))
def test_a_variance_has_the_same_bits_in_columns_and_in_rows(rows: list[tuple[int, float, float]]) -> None:
    n, s1, s2 = (np.array(values) for values in zip(*rows, strict=True))
    found = variances(n, s1, s2)
    expected = [variance(*row) for row in rows]
    assert found.tobytes() == np.array(expected).tobytes()
    assert np.sqrt(found).tobytes() == np.array([deviation(*row) for row in rows]).tobytes()


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 9, 31, 64, 1_000])
def test_the_bits_of_a_column_do_not_depend_on_its_length(length: int) -> None:
    """Where a multiplication and a subtraction were fused, vectors and their ends would differ."""
    rng = random.Random(length)
    rows = [(rng.randint(2, 9), rng.gauss(1e8, 1), rng.gauss(1e16, 1)) for _ in range(length)]
    n, s1, s2 = (np.array(values) for values in zip(*rows, strict=True))
    assert variances(n, s1, s2).tobytes() == np.array([variance(*row) for row in rows]).tobytes()


@pytest.mark.parametrize("mean", [0.0, 1.0, 1e3, 1e6])
def test_the_error_of_a_variance_is_what_is_stated(mean: float) -> None:
    rng = random.Random(5)
    for n in (2, 10, 1_000):
        values = [rng.gauss(mean, 1.0) for _ in range(n)]
        found = variance(n, math.fsum(values), math.fsum(v * v for v in values))
        exact = statistics.variance(map(Decimal, values))
        assert abs(found / float(exact) - 1) < 1e-15 * (1 + statistics.fmean(values) ** 2 / float(exact))


@pytest.mark.parametrize(("hop", "half_life"), [(1, 1), (1, 3), (3_600, 86_400), (7, 1_000_003), (86_400, 31_536_000)])
def test_weights_are_powers_of_two_rounded_once(hop: int, half_life: int) -> None:
    with localcontext() as context:
        context.prec = 80
        steps = min(900 * half_life // hop, 2_000)
        for step, weight in enumerate(weights(hop, half_life, steps)):
            assert weight == float(Decimal(2) ** (Decimal(-step * hop) / Decimal(half_life)))
    assert steps_of(100, 7) == 15


@given(
    st.one_of(
        st.tuples(st.just("float"), st.lists(numbers.map(lambda x: x + 0.0), min_size=1)),
        st.tuples(st.just("int"), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1)),
        st.tuples(st.just("bool"), st.lists(st.booleans(), min_size=1)),
        st.tuples(st.just("str"), st.lists(st.text(), min_size=1)),
    )
)
def test_a_hash_is_the_same_in_columns_and_in_rows(given: tuple[Dtype, list[float | str]]) -> None:
    dtype, values = given
    assert hashes(column(dtype, values)).tolist() == [hash_of(value) for value in values]


def test_hashes_are_the_same_in_every_release() -> None:
    assert [hash_of(value) for value in (0, 1, -1, True, 0.5, "", "UA")] == [
        0xE220A8397B1DCDAF, 0x910A2DEC89025CC1, 0xE4D971771B652C20, 0x910A2DEC89025CC1, 0xF456984DD1D8CE6D,
        0xB4B2797457A0A6E4, 0xBA988D3C7E00BDDB,
    ]  # fmt: skip


@pytest.mark.parametrize("k", [64, 256])
def test_the_estimate_has_the_stated_error(k: int) -> None:
    errors = []
    for stream in range(60):
        hashed = sorted(hash_of(f"{stream} {i}") for i in range(5_000))
        errors.append(estimated(hashed[k - 1], k) / 5_000 - 1)
    assert abs(statistics.fmean(errors)) < 4 / math.sqrt(60 * (k - 2))
    assert 0.7 < statistics.pstdev(errors) * math.sqrt(k - 2) < 1.3
