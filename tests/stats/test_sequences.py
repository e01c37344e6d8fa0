"""The bound on two models' difference that may be looked at every day: against SciPy, its stated rates, its power."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from trimtab.core.errors import Misuse
from trimtab.stats import paired_sequence
from trimtab.stats.inference.sequences import SIZES, critical_t, distance_seen, log_evidence

Floats = NDArray[np.float64]
LOOKS = 50
EVEN = 1e-9  # a margin at which equal models are hardly ever promoted, so that they stay to be rejected


@pytest.mark.parametrize(("t", "days"), [(5.0, 3), (3.0, 5), (-1.0, 10), (4.0, 20), (0.0, 2)])
def test_the_evidence_is_a_mean_of_ratios_of_noncentral_t(t: float, days: int) -> None:
    shifted = [stats.nct.pdf(t, days - 1, size * math.sqrt(days)) for size in SIZES]
    assert log_evidence(t, days, days - 1) == pytest.approx(
        math.log(np.mean(shifted) / stats.t.pdf(t, days - 1)), abs=1e-6
    )


@pytest.mark.parametrize("days", [3, 5, 17, 60])
def test_a_critical_t_has_the_evidence_that_the_level_asks_for(days: int) -> None:
    for freedom in (days - 1, days + 8):
        found = log_evidence(critical_t(days, freedom, 0.95), days, freedom)
        assert found == pytest.approx(math.log(20.0), abs=1e-4)
    assert critical_t(2, 1, 0.95) == math.inf  # two days prove nothing, however far they are
    assert critical_t(1, 0, 0.95) == math.inf


@pytest.mark.parametrize(("t", "days", "freedom"), [(5.0, 1, 9), (3.0, 2, 12), (-1.0, 1, 4)])
def test_the_evidence_with_earlier_days_has_their_freedom(t: float, days: int, freedom: int) -> None:
    shifted = [stats.nct.pdf(t, freedom, size * math.sqrt(days)) for size in SIZES]
    found = log_evidence(t, days, freedom)
    assert found == pytest.approx(math.log(np.mean(shifted) / stats.t.pdf(t, freedom)), abs=1e-6)


def test_earlier_days_let_the_first_day_tell_something_whatever_their_mean() -> None:
    earlier = [0.30 + 0.01 * (day % 3) for day in range(10)]
    assert paired_sequence([0.2], margin=0.01).verdict == "hold"
    assert paired_sequence([0.2], margin=0.01, earlier=earlier).verdict == "reject"
    assert paired_sequence([-0.2], margin=0.01, earlier=earlier).verdict == "promote"
    assert paired_sequence([0.005], margin=0.01, earlier=earlier).verdict == "hold"
    moved = [day - 5.0 for day in earlier]
    one, other = (paired_sequence([0.03, 0.02], margin=0.01, earlier=days) for days in (earlier, moved))
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


def test_a_distance_that_is_seen_shrinks_with_days_and_with_what_is_known_of_their_spread() -> None:
    alone = [distance_seen(days, 0.01) for days in range(1, 30)]
    known = [distance_seen(days, 0.01, known=9) for days in range(1, 30)]
    assert all(a >= b for a, b in pairwise(alone))
    assert all(b <= a for a, b in zip(alone, known, strict=True))
    assert alone[1] == math.inf
    assert known[0] < math.inf


days_of_differences = st.lists(st.floats(-1, 1).map(lambda v: round(v, 3)), min_size=0, max_size=25)


@given(days_of_differences, st.floats(0.5, 1e6))
def test_the_verdict_is_the_same_in_any_unit(days: list[float], unit: float) -> None:
    one = paired_sequence(days, margin=0.1)
    other = paired_sequence([unit * day for day in days], margin=0.1 * unit)
    if not (np.ptp(days or [0.0]) < 1e-9 or math.isclose(one.high, 0.1, rel_tol=1e-9)):  # no rounding decides it
        assert (one.verdict, one.decided) == (other.verdict, other.decided)
    assert one.low <= one.high or one.verdict == "hold"


@given(days_of_differences)
def test_looking_every_day_gives_what_one_look_at_the_end_does(days: list[float]) -> None:
    found = [paired_sequence(days[:n], margin=0.1) for n in range(len(days) + 1)]
    decided = [one for one in found if one.verdict != "hold"]
    assert all(one == decided[0] for one in decided)
    assert found[-1] == (decided[0] if decided else found[-1])
    assert all(a.low <= b.low and a.high >= b.high for a, b in pairwise(found))


def test_a_tolerated_difference_is_promoted_where_a_larger_one_is_rejected() -> None:
    nearly_equal = [0.0012, 0.0010, 0.0011, 0.0013, 0.0012]  # worse on each day, by a tenth of a percent
    assert paired_sequence(nearly_equal, margin=0.02, least=4).verdict == "reject"
    assert paired_sequence(nearly_equal, margin=0.02, tolerated=0.002, least=4).verdict == "promote"
    larger = [0.003 + day for day in nearly_equal]
    assert paired_sequence(larger, margin=0.02, tolerated=0.002, least=6).verdict == "reject"
    with pytest.raises(Misuse, match=r"a tolerated difference in \[0, margin\)"):
        paired_sequence(nearly_equal, margin=0.02, tolerated=0.02)


def test_what_cannot_be_judged_is_said() -> None:
    with pytest.raises(Misuse, match=r"needs one finite number a day, found \[0\.1, nan\]"):
        paired_sequence([0.1, math.nan], margin=0.1)
    with pytest.raises(Misuse, match="needs a margin above 0, "):
        paired_sequence([0.1], margin=0.0)
    with pytest.raises(Misuse, match=r"needs a share between 0 and 1 such as 0\.95, found 95"):
        paired_sequence([0.1, 0.2], margin=0.1, level=95)
    empty = paired_sequence([], margin=0.1)
    assert (empty.days, empty.verdict, empty.low, empty.high) == (0, "hold", -math.inf, math.inf)


def rejected(differences: Floats, margin: float, earlier: int = 0, tolerated: float = 0.0) -> Floats:
    """The day on which each run was rejected, infinity where it never was; shape (runs,).

    Args:
        differences: Shape (runs, days).
        margin, tolerated: As of `paired_sequence`.
        earlier: How many of the first days only tell how much days differ.
    """
    found = [
        paired_sequence(one[earlier:], margin=margin, tolerated=tolerated, earlier=one[:earlier] - 3.0)
        for one in differences
    ]
    return np.array([one.decided if one.verdict == "reject" and one.decided else math.inf for one in found])


def day_effects(rng: np.random.Generator, runs: int, days: int, lag: float = 0.4) -> Floats:
    """Effects of days that resemble the day before, of standard deviation 1; shape (runs, days)."""
    found = rng.normal(size=(runs, days + 30))
    for day in range(1, days + 30):
        found[:, day] = lag * found[:, day - 1] + math.sqrt(1.0 - lag * lag) * found[:, day]
    return found[:, 30:]


def pairs(rng: np.random.Generator, runs: int, days: int, worse_by: float, *, effects: bool = False) -> Floats:
    """Day means of the log loss of a successor minus its champion's, 2,000 rows a day, in units of the champion's.

    Both miss the true logits by noise; the successor's is so large that its loss is higher by `worse_by`.
    """
    logits = rng.normal(-1.0, 1.2, size=200_000)

    def loss(noise: float) -> float:
        chance, own = 1.0 / (1.0 + np.exp(-logits)), logits + noise * np.resize(rng.normal(size=100_000), logits.size)
        return float((chance * np.logaddexp(0.0, -own) + (1.0 - chance) * np.logaddexp(0.0, own)).mean())

    champion = 0.3
    level, low, high = loss(champion), champion, 2.0
    while high - low > 1e-3:
        middle = (low + high) / 2.0
        low, high = (middle, high) if loss(middle) < level * (1.0 + worse_by) else (low, middle)
    successor = low if worse_by else champion
    found = np.empty((runs, days))
    for run in range(runs):
        z = rng.normal(-1.0, 1.2, size=(days, 2_000))
        sign = np.where(rng.random(z.shape) < 1.0 / (1.0 + np.exp(-z)), -1.0, 1.0)
        one, other = (
            np.logaddexp(0.0, sign * (z + noise * rng.normal(size=z.shape))) for noise in (champion, successor)
        )
        found[run] = (other - one).mean(axis=1) / level
        if effects:
            found[run] += day_effects(rng, 1, days)[0] * (other - one).std() / math.sqrt(2_000) / level
    return found


def test_equal_models_are_seldom_rejected_and_a_worse_one_soon() -> None:
    rng = np.random.default_rng(4)
    assert np.isfinite(rejected(rng.normal(size=(200, LOOKS)), EVEN)).mean() <= 0.05
    assert np.isfinite(rejected(day_effects(rng, 200, LOOKS), EVEN)).mean() <= 0.08
    assert np.isfinite(rejected(rng.normal(size=(200, LOOKS)), EVEN, 10)).mean() <= 0.05
    assert (rejected(pairs(rng, 20, 10, 0.08), 0.02) <= 5).mean() >= 0.8


@pytest.mark.soak
def test_the_stated_rates_of_the_paired_sequence(soak_report: Callable[..., None]) -> None:
    """2,000 runs of equal models x 50 looks, and 400 of worse ones, on seeds drawn when it runs."""
    rng = np.random.default_rng()
    bare = np.isfinite(rejected(rng.normal(size=(2_000, LOOKS)), EVEN)).mean()
    alike = np.isfinite(rejected(day_effects(rng, 2_000, LOOKS), EVEN)).mean()
    both = np.isfinite(rejected(day_effects(rng, 2_000, LOOKS) + rng.normal(size=(2_000, LOOKS)), EVEN)).mean()
    known = [
        np.isfinite(rejected(some, EVEN, 10)).mean()
        for some in (rng.normal(size=(2_000, LOOKS + 10)), day_effects(rng, 2_000, LOOKS + 10))
    ]
    # what a shadow with the default margin tolerates
    soon = (rejected(pairs(rng, 400, 13, 0.08), 0.02, 10, 0.002) <= 3).mean()
    three = (rejected(pairs(rng, 400, 10, 0.03), 0.02, 0, 0.002) <= 10).mean()
    eight = (rejected(pairs(rng, 400, 5, 0.08), 0.02, 0, 0.002) <= 5).mean()
    within = (rejected(pairs(rng, 400, 10, 0.03, effects=True), 0.02, 0, 0.002) <= 10).mean()
    equal = [paired_sequence(one, margin=0.02) for one in pairs(rng, 400, 14, 0.0)]
    figures = {
        "equal_rejected": bare,
        "equal_rejected_day_effects": alike,
        "equal_rejected_both": both,
        "equal_rejected_with_earlier_days": known[0],
        "equal_rejected_day_effects_with_earlier_days": known[1],
        "worse_8_found_in_3_days_with_earlier_days": soon,
        "worse_3_found_in_10_days": three,
        "worse_3_found_in_10_days_with_day_effects": within,
        "worse_8_found_in_5_days": eight,
        "equal_promoted_in_14_days": np.mean([one.verdict == "promote" for one in equal]),
    }
    print(figures)
    failures = (max(bare, known[0]) > 0.05) + (max(alike, both, known[1]) > 0.06) + (three < 0.95) + (eight < 0.95)
    soak_report("paired_sequence", runs=12_000, failures=int(failures), **{k: float(v) for k, v in figures.items()})
    assert not failures, figures


@pytest.mark.fast
def test_days_that_contradict_an_early_proof_hold_the_promotion() -> None:
    gate = [-0.50, -0.49, -0.40, -0.39, -0.51]  # the world changed back after the first day of the shadow
    assert paired_sequence([-0.52], margin=0.02, earlier=gate).verdict == "promote"
    assert paired_sequence([-0.52, 0.5, 0.5], margin=0.02, earlier=gate, least=3).verdict == "hold"
    assert paired_sequence([-0.52, -0.5, -0.5], margin=0.02, earlier=gate, least=3).verdict == "promote"
