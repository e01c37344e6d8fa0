"""Comparisons against statsmodels and GrowthBook's gbstats."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from statsmodels.api import OLS
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower, TTestIndPower
from statsmodels.stats.proportion import confint_proportions_2indep
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from trimtab.stats.ab import sequential
from trimtab.stats.ab.arms import Arm, arm_of
from trimtab.stats.ab.bayes import posterior
from trimtab.stats.ab.fixed import compare
from trimtab.stats.ab.multiple import benjamini_hochberg, holm
from trimtab.stats.ab.power import Design, days_needed, detectable_effect, power
from trimtab.stats.ab.readings import effective_days, readings
from trimtab.stats.ab.sequential import compare_any_time

near = partial(pytest.approx, rel=1e-6, abs=1e-9)
whole = partial(arm_of, count=1)


def units(seed: int, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Values of a control and a treatment of different size and variance."""
    rng = np.random.default_rng(seed)
    return rng.gamma(2.0, 3.0, count), rng.gamma(2.5, 3.0, count + 70)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("side", "better"), [("two-sided", "higher"), ("larger", "higher"), ("smaller", "lower")])
def test_means_agree_with_welch_of_statsmodels(seed: int, side: str, better: str) -> None:
    control, treatment = units(seed)
    theirs = CompareMeans(DescrStatsW(treatment), DescrStatsW(control))
    arms = [whole(values, np.zeros(values.size, int)) for values in (control, treatment)]
    found = compare(*arms, days=False, two_sided=side == "two-sided", better=better, level=0.9)
    assert (found.low, found.high) == near(theirs.tconfint_diff(0.1, alternative=side, usevar="unequal"))
    assert found.p == near(theirs.ttest_ind(alternative=side, usevar="unequal")[1])
    assert found.method == "welch"


def test_unpooled_shares_agree_with_wald_of_statsmodels() -> None:
    arms = [Arm(units=np.array([n]), y=np.array([y]), yy=np.array([y])) for n, y in ((1e4, 1000.0), (10_100.0, 1130.0))]
    found = compare(*arms, days=False)
    low, high = confint_proportions_2indep(1130, 10_100, 1000, 10_000, method="wald")
    # ours divides by n - 1 and takes Student's t, which widens the interval by less than 1 in 5,000 here
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-3)
    assert high - low < found.high - found.low < 1.0002 * (high - low)


@pytest.fixture
def rows() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    day = np.repeat(np.arange(12), rng.integers(20, 60, 12))
    treated = (rng.random(day.size) < 0.4).astype(float)
    y = (
        2.0
        + rng.standard_normal(12)[day]
        + 0.3 * treated * rng.standard_normal(12)[day]
        + rng.gamma(1.0, 1.0, day.size)
    )
    return {"day": day, "treated": treated, "y": y}


def arms_of(rows: dict[str, np.ndarray]) -> list[Arm]:
    count = int(rows["day"].max()) + 1
    return [
        arm_of(rows["y"][rows["treated"] == one], rows["day"][rows["treated"] == one], count=count) for one in (0, 1)
    ]


def test_day_blocks_agree_with_cluster_robust_least_squares(rows: dict[str, np.ndarray]) -> None:
    model = OLS(rows["y"], np.column_stack([rows["treated"], np.eye(12)[rows["day"]]]))
    fit = model.fit(cov_type="cluster", cov_kwds={"groups": rows["day"], "use_correction": False})
    found = readings(*arms_of(rows), [12], correlated=False)
    assert found.difference[0] == near(fit.params[0])
    errors = found.errors()
    n = np.stack([arm.units for arm in arms_of(rows)])
    effective, factor = effective_days(n.prod(0) / n.sum(0) / (n.prod(0) / n.sum(0)).sum())
    assert math.sqrt(errors.variance[0]) == near(fit.bse[0] * math.sqrt(factor))
    assert errors.freedom[0] == near(effective - 1.0)
    assert 10.0 < errors.freedom[0] < 11.0
    # the standard error of the units is that of least squares, if both variants had the variance of their own
    assert errors.floor[0] == pytest.approx(model.fit().bse[0] ** 2, rel=0.15)


def test_switchback_by_days_agrees_with_cluster_robust_least_squares(rows: dict[str, np.ndarray]) -> None:
    rows["treated"] = (rows["day"] % 2).astype(float)
    fit = OLS(rows["y"], np.column_stack([rows["treated"], np.ones(rows["y"].size)])).fit(
        cov_type="cluster", cov_kwds={"groups": rows["day"], "use_correction": False}
    )
    found = readings(*arms_of(rows), [12], correlated=False)
    assert found.difference[0] == near(fit.params[0])
    effective, factor = effective_days(np.stack([arm.units / arm.units.sum() for arm in arms_of(rows)]))
    assert factor.min() < found.errors().variance[0] / fit.bse[0] ** 2 < factor.max()  # each variant has its own
    assert found.errors().freedom[0] == near(effective.sum() - 2.0)


def test_a_ratio_over_clusters_agrees_with_cluster_robust_least_squares() -> None:
    rng = np.random.default_rng(9)
    size = rng.integers(1, 9, 160)
    customer = np.repeat(np.arange(160), size)
    treated = (np.arange(160) % 2)[customer].astype(float)
    y = rng.standard_normal(160)[customer] + rng.standard_normal(customer.size) + 5.0
    fit = OLS(y, np.column_stack([treated, np.ones(y.size)])).fit(
        cov_type="cluster", cov_kwds={"groups": customer, "use_correction": False}
    )
    arms = []
    for one in (0, 1):
        total = np.bincount(customer, weights=y)[np.arange(160) % 2 == one]
        d = size[np.arange(160) % 2 == one].astype(float)
        sums = {"y": total, "yy": total**2, "d": d, "dd": d**2, "yd": total * d}
        arms.append(Arm(units=np.array([80.0]), **{name: np.array([value.sum()]) for name, value in sums.items()}))
    found = readings(*arms, [1], ratio=True, days=False)
    assert found.difference[0] == near(fit.params[0])
    assert math.sqrt(found.errors().floor[0]) == near(fit.bse[0] * math.sqrt(80 / 79))


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_power_agrees_with_statsmodels(share: float, two_sided: bool) -> None:
    side = "two-sided" if two_sided else "larger"
    for per_day, days, effect in ((40, 3, 0.3), (100, 10, 0.15), (1000, 100, 0.02)):
        units = per_day * days * (1.0 - share)
        design = Design(units_per_day=per_day, sd=1.0, share=share, rule="fixed", days=False, two_sided=two_sided)
        theirs = TTestIndPower().power(effect, units, 0.05, ratio=share / (1.0 - share), alternative=side)
        # statsmodels also counts findings in the wrong direction
        wrong = TTestIndPower().power(-effect, units, 0.025, ratio=share / (1.0 - share), alternative="larger")
        assert power(design, effect, days) == pytest.approx(theirs - (wrong if two_sided else 0.0), abs=1e-6)


def test_normal_power_agrees_with_statsmodels() -> None:
    for effect, units in ((0.01, 160_000), (0.02, 60_000)):
        design = Design(units_per_day=2.0 * units, sd=1.0, rule="fixed", days=False)
        theirs = NormalIndPower().power(effect, units, 0.025, alternative="larger")
        assert power(design, effect, 1) == pytest.approx(theirs, abs=1e-6)


def test_detectable_effects_and_days_agree_with_statsmodels() -> None:
    design = Design(units_per_day=200, sd=1.0, rule="fixed", days=False)
    theirs = TTestIndPower().solve_power(None, 100 * 12, 0.05, 0.8)
    assert detectable_effect(design, 12) == pytest.approx(theirs, rel=2e-4)
    assert days_needed(design, 0.1) == math.ceil(TTestIndPower().solve_power(0.1, None, 0.05, 0.8) / 100)


def test_corrections_agree_with_statsmodels() -> None:
    p = np.random.default_rng(3).random(20) ** 3
    assert holm(p) == near(multipletests(p, method="holm")[1])
    assert benjamini_hochberg(p) == near(multipletests(p, method="fdr_bh")[1])


def one(n: float, **sums: float) -> Arm:
    return Arm(units=np.array([n]), **{name: np.array([float(value)]) for name, value in sums.items()})


# gbstats 0.8.0 computed the numbers below from the same sums.
ARMS = (
    one(4000, y=9200, yy=61_000, d=9900, dd=39_000, yd=41_500, x=8800, xx=57_500, xy=47_000),
    one(4100, y=9950, yy=68_300, d=10_300, dd=41_000, yd=45_200, x=9050, xx=59_300, xy=50_500),
)


def test_means_and_ratios_agree_with_gbstats() -> None:
    found = compare(*ARMS, days=False)
    assert (found.difference, found.low, found.high, found.p) == near(
        (0.12682926829268304, -0.013405958845375487, 0.26706449543074157, 0.07628886069364404)
    )
    relative = (0.0551431601272535, -0.007487443228511477, 0.11777376348301849)
    # bounds of the relative effect have a variance of their own, but gbstats takes the freedom of the difference
    assert (found.relative, found.relative_low, found.relative_high) == pytest.approx(relative, rel=1e-3)
    above = compare(*ARMS, days=False, two_sided=False)
    assert (above.low, above.high, above.p) == near((0.009144284098457564, math.inf, 0.03814443034682202))
    ratio = compare(*ARMS, days=False, ratio=True)
    assert (ratio.difference, ratio.low, ratio.high, ratio.p) == near(
        (0.03672648818279889, -0.0004887002796399587, 0.07394167664523774, 0.05308458180151421)
    )
    assert (ratio.relative_low, ratio.relative_high) == pytest.approx((-0.00131998, 0.08036177), abs=2e-5)


def test_cuped_agrees_with_gbstats() -> None:
    found = compare(*ARMS, days=False, cuped=True)
    # gbstats estimates the slope with the difference of the variants in it, ours within variants
    assert (found.difference, found.low, found.high) == pytest.approx(
        (0.12160583609637166, 0.019512170411165333, 0.223699501781578), rel=2e-4
    )


def test_the_sequence_of_units_agrees_with_gbstats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequential, "TUNED", 20_000)
    found = compare_any_time(*ARMS, days=False)[-1]
    assert (found.low, found.high) == pytest.approx((-0.09645490547385216, 0.35011344205921824), rel=1e-3)
    assert found.p == pytest.approx(0.6191649346170415, rel=1e-3)


def test_beliefs_agree_with_gbstats() -> None:
    arms = one(10_000, y=1000, yy=1000), one(10_100, y=1130, yy=1130)
    found = posterior(*arms, days=False, prior_sd=0.02)
    assert (found.difference, found.low, found.high) == pytest.approx(
        (0.011346810129832945, 0.0030335296907976917, 0.019660090568868197), rel=1e-3
    )
    assert found.probability_better == pytest.approx(0.9962652987503734, abs=1e-5)
    assert found.expected_loss == pytest.approx(4.875745124755613e-06, rel=5e-3)
