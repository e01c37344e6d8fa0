import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from trimtab.core.errors import Misuse
from trimtab.stats import psi
from trimtab.stats.drift import js_distances

pairs = st.integers(1, 12).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 50), min_size=n, max_size=n).filter(any)] * 2)
)


def js_distance(a, b):
    return float(js_distances([a], [b])[0])


@given(pairs)
def test_distances_match_their_plain_formulas(histograms):
    a, b = histograms
    p, q = [[count / sum(h) for count in h] for h in (a, b)]
    floored = [(max(x, 1e-4), max(y, 1e-4)) for x, y in zip(p, q, strict=True)]
    assert psi(a, b) == pytest.approx(sum((y - x) * math.log(y / x) for x, y in floored), abs=1e-12)
    assert js_distance(a, b) ** 2 == pytest.approx(np.nan_to_num(jensenshannon(p, q, 2)) ** 2, abs=1e-9)


@given(pairs)
def test_distances_are_symmetric_and_zero_only_for_the_same_shape(histograms):
    a, b = histograms
    for distance in (psi, js_distance):
        assert distance(a, b) == pytest.approx(distance(b, a), abs=1e-9)
        assert distance(a, [3 * count for count in a]) == pytest.approx(0.0, abs=1e-7)


@given(pairs)
def test_many_pairs_at_once_are_as_each_by_itself_whatever_bins_lie_behind(histograms):
    a, b = histograms
    padded = [[*one, *[0] * (12 - len(one))] for one in (a, b)]
    found = js_distances([padded[0], padded[1]], [padded[1], padded[1]])
    assert found == pytest.approx([js_distance(a, b), 0.0], abs=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [([1, 2], [1], "has 2 bins, the other 1"), ([0, 0], [1, 1], "no counts"), ([1, -1], [1, 1], "not negative")],
)
def test_unfit_histograms_are_named(a, b, words):
    with pytest.raises(Misuse, match=words):
        psi(a, b)
