"""Evidence about shares is what it says, and holds at all looks together."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.errors import Misuse
from trimtab.stats.inference.share_evidence import log_above, log_below, log_higher

UP, DOWN = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4), (0.0, -0.25, -1.0, -4.0)


def plainly(k: int, n: int, p: float, tilts: tuple[float, ...]) -> float:
    """The mixture, trial by trial."""
    worth = []
    for tilt in tilts:
        gained = [math.exp(tilt) if trial < k else 1.0 for trial in range(n)]
        worth.append(math.prod(one / (1.0 - p + p * math.exp(tilt)) for one in gained))
    return sum(worth) / len(worth)


@given(st.integers(0, 60), st.integers(0, 60), st.floats(0.0, 1.0))
@settings(max_examples=80, deadline=None)
def test_the_evidence_is_the_mean_over_bets(k: int, more: int, p: float) -> None:
    for log, tilts in ((log_above, UP), (log_below, DOWN)):
        assert float(log(k, k + more, p)) == pytest.approx(math.log(plainly(k, k + more, p, tilts)), abs=1e-9)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8), st.sampled_from(UP + DOWN))
@settings(max_examples=80, deadline=None)
def test_a_bet_is_worth_at_most_one_whatever_the_chances(chances: list[float], tilt: float) -> None:
    """The mean chance in the place of each: over all outcomes the expected worth is exact."""
    mean, worth = sum(chances) / len(chances), 0.0
    for outcome in range(2 ** len(chances)):
        hits = [bool(outcome >> n & 1) for n in range(len(chances))]
        chance = math.prod(c if hit else 1.0 - c for c, hit in zip(chances, hits, strict=True))
        worth += chance * math.exp(tilt * sum(hits)) / (1.0 - mean + mean * math.exp(tilt)) ** len(chances)
    assert worth <= 1.0 + 1e-9


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.floats(0.0, 0.3))
@settings(max_examples=60, deadline=None)
def test_two_shares_are_compared_at_the_worst_of_all_that_the_lower_one_may_be(
    k: int, more: int, their: int, others: int, allowed: float
) -> None:
    found = log_higher((k, k + more), (their, their + others), lambda share: share + allowed)
    shares = np.linspace(0.0, 1.0, 1_001)
    most = np.minimum(shares + allowed, 1.0)
    worst = float((log_above(k, k + more, most) + log_below(their, their + others, shares)).min())
    assert found <= worst + 1e-9  # the cells are on the safe side
    above = log_above(k, k + more, np.minimum(np.minimum(shares + 0.006, 1.0) + allowed, 1.0))
    assert found >= float((above + log_below(their, their + others, np.maximum(shares - 0.006, 0.0))).min()) - 1e-9


@pytest.mark.slow
def test_equal_shares_ring_seldom_at_all_looks_together() -> None:
    rng, rung, runs = np.random.default_rng(5), 0, 400
    for _ in range(runs):
        chances = np.where(rng.random(200) < 0.1, 0.4, 0.02)  # outages, of both
        ours = rng.binomial(20, chances).cumsum()
        theirs = rng.binomial(60, chances).cumsum()
        counts = zip(ours.tolist(), theirs.tolist(), range(1, 201), strict=True)
        rung += any(log_higher((k, 20 * n), (m, 60 * n)) >= math.log(20) for k, m, n in counts if n % 4 == 0)
    assert rung / runs <= 0.05


def test_more_successes_than_trials_are_refused() -> None:
    with pytest.raises(Misuse, match="3 successes in 2 trials"):
        log_higher((3, 2), (0, 0))
