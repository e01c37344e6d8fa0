import numpy as np
import pytest

from trimtab.core.errors import Misuse
from trimtab.stats.metrics.calibration_bound import calibration_error_bound
from trimtab.stats.scores import expected_calibration_error


def window(seed: int, off: float, rows: int = 2_800) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores that are too high by `off`, and days that go their own ways."""
    rng = np.random.default_rng(seed)
    truth = np.clip(rng.beta(2, 6, rows), 0.05, 0.9)
    days = rng.integers(0, 14, rows)
    labels = rng.random(rows) < np.clip(truth + rng.normal(0, 0.02, 14)[days], 0, 1)
    return labels, np.clip(truth + off, 0, 1), days


def test_the_chance_that_a_sound_model_seems_off_is_taken_out() -> None:
    found = [calibration_error_bound(*window(seed, 0.0)) for seed in range(40)]
    plain = np.mean([expected_calibration_error(*window(seed, 0.0)[:2]) for seed in range(40)])
    assert np.mean([one.estimate**2 for one in found]) < 0.0003
    assert plain > 0.01
    assert max(one.low for one in found) < 0.03


def test_the_bound_is_above_the_truth_at_most_one_time_in_twenty() -> None:
    above = sum(calibration_error_bound(*window(seed, 0.05)).low > 0.05 for seed in range(150))
    assert above <= 15  # 5 % stated; 16 or more of 150 have a chance below 0.5 % at 5 %


def test_scores_that_are_off_in_both_directions_are_found_where_their_mean_is_right() -> None:
    labels, scores, days = window(1, 0.0, rows=8_000)
    stretched = np.clip(scores.mean() + 2.0 * (scores - scores.mean()), 0, 1)
    assert abs(stretched.mean() - labels.mean()) < 0.03
    assert calibration_error_bound(labels, stretched, days).low > 0.05


def test_equal_scores_share_a_bin_and_too_few_blocks_are_refused() -> None:
    labels = np.tile([0, 1, 1, 1], 30)
    same = calibration_error_bound(labels, np.full(120, 0.75), np.repeat(np.arange(3), 40))
    assert same.estimate == 0.0
    with pytest.raises(Misuse, match="needs rows of at least 3 blocks, found 2"):
        calibration_error_bound(labels, np.full(120, 0.75), np.repeat([0, 1], 60))
    with pytest.raises(Misuse, match="one block for each row"):
        calibration_error_bound(labels, np.full(120, 0.75), np.zeros(3))
