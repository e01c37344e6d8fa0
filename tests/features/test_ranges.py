from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.features.offline.kernels.ranges import over_covers, over_ranges


@pytest.mark.fast
@given(st.integers(0, 700), st.integers(0, 2**32 - 1), st.sampled_from([np.minimum, np.maximum]))
def test_over_ranges_is_the_extreme_of_each_slice(size: int, seed: int, op: np.ufunc) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(-50, 50, size)
    low, high = rng.integers(0, size + 1, 40), rng.integers(0, size + 1, 40)
    low, high = np.append(low, [0, size]), np.append(high, [size, size])
    expected = [int(op.reduce(values[a:b], initial=99)) if a < b else 99 for a, b in zip(low, high, strict=True)]
    if op is np.maximum:
        expected = [int(values[a:b].max()) if a < b else 99 for a, b in zip(low, high, strict=True)]
    assert over_ranges(op, values, low, high, 99).tolist() == expected


@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_over_covers_is_the_extreme_of_what_covers_each_place(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    start = rng.integers(0, size, 30)
    stop = np.minimum(size, start + rng.integers(0, size + 1, 30))
    values = rng.integers(-50, 50, 30)
    covers = [values[(start <= place) & (place < stop)] for place in range(size)]
    expected = [int(c.max()) if len(c) else -99 for c in covers]
    assert over_covers(np.maximum, start, stop, values, size, np.int64(-99)).tolist() == expected
