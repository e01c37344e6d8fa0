import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from trimtab.core.errors import Misuse
from trimtab.stats import Interval, paired_mean_bound

floats = st.floats(-10, 10).map(lambda v: round(v, 3))


@given(st.lists(floats, min_size=2, max_size=30))
def test_one_row_a_block_without_correlation_is_students_interval(values):
    found = paired_mean_bound(values, np.arange(len(values)), level=0.9, correlated=False)
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    reach = stats.t.ppf(0.95, len(values) - 1) * error
    expected = (np.mean(values), np.mean(values) - reach, np.mean(values) + reach)
    assert (found.estimate, found.low, found.high) == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 6), floats), min_size=2, max_size=40), st.randoms())
def test_neither_the_order_of_rows_nor_the_names_of_blocks_matter(rows, chance):
    blocks = np.array([b for b, _ in rows])
    if len(set(blocks.tolist())) < 2:
        return
    values = np.array([v for _, v in rows])
    order = list(range(len(rows)))
    chance.shuffle(order)
    one = paired_mean_bound(values, blocks)
    two = paired_mean_bound(values[order], blocks[order] * 7 - 100)
    assert (one.low, one.high) == pytest.approx((two.low, two.high), abs=1e-9)


def correlated_days(rng, days, correlation):
    noise = rng.standard_normal(days + 20)
    for i in range(1, noise.size):
        noise[i] = correlation * noise[i - 1] + np.sqrt(1 - correlation**2) * noise[i]
    rows = rng.integers(5, 15, days)
    return np.repeat(noise[20:], rows) + rng.standard_normal(rows.sum()), np.repeat(np.arange(days), rows)


@pytest.mark.fast
@pytest.mark.parametrize(("correlated", "least", "most"), [(True, 0.03, 0.10), (False, 0.10, 0.18)])
def test_wrong_passes_of_fourteen_correlated_days_stay_near_the_level_only_when_correlation_is_allowed_for(
    correlated, least, most
):
    rng = np.random.default_rng(0)
    passes = sum(
        paired_mean_bound(*correlated_days(rng, 14, 0.4), side="upper", correlated=correlated).below(0.0)
        for _ in range(800)
    )
    assert least <= passes / 800 <= most


def test_the_open_side_is_infinite_and_the_one_sided_bound_is_nearer():
    values, blocks = [1.0, 2.0, 4.0, 3.0], [0, 1, 2, 3]
    both, upper, lower = (paired_mean_bound(values, blocks, side=side) for side in ("both", "upper", "lower"))
    assert (upper.low, lower.high) == (-np.inf, np.inf)
    assert both.low < lower.low < both.estimate < upper.high < both.high


@pytest.mark.parametrize(
    ("values", "blocks", "words"),
    [
        ([1.0, 2.0], [0, 0], "at least 2 blocks, found 1"),
        ([1.0, np.inf], [0, 1], "1 differences are not finite"),
        ([1.0, 2.0], [0], "one block for each row"),
    ],
)
def test_unfit_differences_are_named(values, blocks, words):
    with pytest.raises(Misuse, match=words):
        paired_mean_bound(values, blocks)


def test_a_level_in_percent_is_refused():
    with pytest.raises(Misuse, match="share between 0 and 1"):
        Interval(estimate=0.0, low=0.0, high=0.0, level=95.0)
