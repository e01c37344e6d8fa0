"""The check of the split: it may be repeated after every block."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.core.errors import Misuse
from trimtab.stats.ab.sample_ratio import sample_ratio


def test_a_planted_51_to_49_split_of_100_000_units_is_found() -> None:
    exact = sample_ratio([[980, 1_020]] * 50, [0.5, 0.5])
    assert not exact.holds
    assert exact.p < 1e-6
    # units that are assigned at random with 51:49 are now and then split 50.6:49.4, which 100,000 units cannot tell
    rng = np.random.default_rng(1)
    treated = rng.binomial(2_000, 0.51, (300, 50))
    found = [sample_ratio(np.column_stack([2_000 - row, row]), [0.5, 0.5]).holds for row in treated]
    assert sum(found) <= 15


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.9, 0.1), (0.2, 0.3, 0.5)])
def test_a_true_split_is_hardly_ever_called_wrong_at_any_of_50_looks(weights: tuple[float, ...]) -> None:
    rng = np.random.default_rng(2)
    fails = {0.05: 0, 0.001: 0}
    for _ in range(400):
        units = rng.multinomial(400, weights, 50)
        for error in fails:
            fails[error] += not sample_ratio(units, weights, error=error).holds
    assert fails[0.05] <= 29  # with a true rate of 5 %, more than 29 of 400 have a probability of 2 %
    assert fails[0.001] <= 3


def test_a_split_that_was_wrong_once_stays_wrong() -> None:
    units = [[500, 500], [700, 300], [300, 700]]
    found = sample_ratio(units, [0.5, 0.5])
    assert (found.holds, found.failed, found.units) == (False, 1, (1500, 1500))


def test_weights_may_change_and_only_the_split_within_each_weight_counts() -> None:
    rng = np.random.default_rng(3)
    weights = np.array([[0.9, 0.1]] * 10 + [[0.5, 0.5]] * 10)
    units = np.array([rng.multinomial(3_000, row) for row in weights])
    found = sample_ratio(units, weights)
    assert found.holds
    assert found.expected == pytest.approx((42_000.0, 18_000.0))
    assert not sample_ratio(units, [0.7, 0.3]).holds
    # three variants, of which one came later
    assert sample_ratio([[100, 100, 0], [50, 50, 50]], [[0.5, 0.5, 0.0], [1, 1, 1]]).holds


def test_units_of_a_variant_without_weight_are_refused() -> None:
    with pytest.raises(Misuse, match="a variant with units has the weight 0"):
        sample_ratio([[10, 10]], [1.0, 0.0])
    with pytest.raises(Misuse, match="needs a weight for each variant"):
        sample_ratio([[10, 10]], [0.5, 0.3, 0.2])


def test_a_block_without_weights_and_units_does_not_switch_the_check_off() -> None:
    found = sample_ratio([[100, 100], [0, 0], [4_000, 8_000]], [[0.5, 0.5], [0.0, 0.0], [0.5, 0.5]])
    assert (found.holds, found.failed) == (False, 2)
