import numpy as np
import pytest

from trimtab.core.time import DAY_US
from trimtab.steering.gate.slices import EVERY_SLICE, Part, slice_checks


def differences(seed: int, rows: int = 4_000, kinds: int = 12) -> tuple[np.ndarray, np.ndarray, list[Part]]:
    """Losses of two equal models on uneven slices: their difference, the moments, the slices."""
    rng = np.random.default_rng(seed)
    at_us = np.sort(rng.integers(0, 14 * DAY_US, rows))
    kind = rng.choice(kinds, rows, p=rng.dirichlet(np.full(kinds, 2.0)))
    days = rng.normal(0, 0.01, 14)[at_us // DAY_US]  # a day's rows stand or fall together
    noise = days + rng.exponential(0.1, rows) - rng.exponential(0.1, rows)
    return noise, at_us, [Part(f"kind={k}", kind == k) for k in range(kinds)]


def test_equal_models_are_refused_for_their_slices_about_one_time_in_twenty() -> None:
    refused = 0
    for seed in range(150):
        noise, at_us, parts = differences(seed)
        refused += slice_checks(parts, noise, at_us, 0.0)[-1].verdict == "failed"
    assert refused <= 15  # 5 % promised; 16 or more of 150 have a chance below 0.5 % at 5 %


@pytest.mark.fast
def test_a_planted_regression_of_one_slice_is_found_and_named() -> None:
    noise, at_us, parts = differences(1)
    largest = max(parts, key=lambda part: part.here.sum())
    noise[largest.here] += 0.1
    noise[~largest.here] -= 0.1
    assert noise.mean() < 0.0
    found = {one.name: one for one in slice_checks(parts, noise, at_us, 0.0)}
    assert [name for name, one in found.items() if one.verdict == "failed"] == [f"slice {largest.name}", EVERY_SLICE]
    assert largest.name in found[EVERY_SLICE].reason
    allowed = {one.name: one for one in slice_checks(parts, noise, at_us, 0.3)}
    assert allowed[EVERY_SLICE].verdict == "held"


def test_slices_with_too_few_rows_or_days_abstain_and_are_shown() -> None:
    noise, at_us, _ = differences(2)
    noise += 1.0
    few, one_day = np.zeros(len(noise), bool), at_us < DAY_US
    few[:49] = True
    found = slice_checks([Part("few", few), Part("one_day", one_day)], noise, at_us, 0.0)
    assert [(one.name, one.verdict) for one in found] == [
        ("slice few", "no evidence"),
        ("slice one_day", "no evidence"),
        (EVERY_SLICE, "failed"),  # nothing that was declared has been looked at
    ]
    assert "None of 2 slices could be judged" in found[-1].reason
    assert "slices_may_abstain=True" in found[-1].reason
    allowed = slice_checks([Part("few", few), Part("one_day", one_day)], noise, at_us, 0.0, may_abstain=True)
    assert allowed[-1].verdict == "no evidence"
    assert found[0].reason.startswith("49 rows on ")
    assert "0 of 2 slices were judged, 2 had too few rows or days" in allowed[-1].reason
