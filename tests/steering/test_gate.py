import numpy as np
import pytest

from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US
from trimtab.steering import BeatsChampion, Window, beats_champion, judge

RULE = BeatsChampion(margin=0.002)


def window(seed: int = 1, rows: int = 5_600) -> tuple[Window, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.clip(rng.beta(2, 6, rows), 0.01, 0.99)
    labels = (rng.random(rows) < truth).astype(float)
    at_us = np.sort(rng.integers(0, 14 * DAY_US, rows))
    return Window(0, 14 * DAY_US, at_us, labels), truth


def record(candidate: np.ndarray, champion: np.ndarray | None, judged: Window, *, loads: bool = True):  # type: ignore[no-untyped-def]
    return judge(
        RULE,
        judged,
        gate_id="g",
        model="m",
        metric="log_loss",
        candidate="c" * 64,
        candidate_scores=candidate,
        champion=None if champion is None else "d" * 64,
        champion_scores=champion,
        judged_at_us=1,
        loads=loads,
    )


@pytest.mark.fast
def test_a_clearly_better_candidate_passes() -> None:
    judged, truth = window()
    assert record(truth, np.full(len(truth), truth.mean()), judged).passed


def test_the_same_model_again_does_not_pass() -> None:
    judged, truth = window()
    gate = record(truth, truth, judged)
    assert not gate.passed
    assert not gate.checks["better_by_margin"]


def test_an_improvement_within_the_noise_does_not_pass() -> None:
    judged, truth = window(rows=140)
    worse = np.clip(truth + np.random.default_rng(3).normal(0, 0.05, len(truth)), 0.01, 0.99)
    gate = record(truth, worse, judged)
    assert not gate.checks["provably_better"]
    assert not gate.passed


def test_a_miscalibrated_candidate_does_not_pass_even_when_it_ranks_well() -> None:
    judged, truth = window()
    gate = record(np.clip(truth * 0.7, 0.01, 0.99), np.full(len(truth), truth.mean()), judged)
    assert not gate.checks["calibrated"]
    assert not gate.passed


def test_without_a_champion_only_the_checks_without_a_rival_apply() -> None:
    judged, truth = window()
    gate = record(truth, None, judged)
    assert gate.passed
    assert gate.difference is None


def test_a_candidate_that_does_not_load_never_passes() -> None:
    judged, truth = window()
    assert not record(truth, None, judged, loads=False).passed
    assert "not loads" in record(truth, None, judged, loads=False).reason


def test_false_promotions_of_equal_models_stay_below_the_level() -> None:
    rng = np.random.default_rng(7)
    passed = 0
    for seed in range(100):
        judged, truth = window(seed, rows=1_400)
        noisy = [np.clip(truth + rng.normal(0, 0.08, len(truth)), 0.01, 0.99) for _ in range(2)]
        passed += record(noisy[0], noisy[1], judged).passed
    assert passed <= 18  # 10 % promised; 19 or more of 100 have a chance of 0.5 % at 10 %


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("bias", "passes"), [(0.02, True), (0.05, False)])
def test_the_calibration_of_numbers_counts_in_standard_deviations_of_the_labels(
    unit: float, bias: float, passes: bool
) -> None:
    rng = np.random.default_rng(4)
    truth = rng.normal(50, 1, 5_600)
    labels = truth + rng.normal(0, 0.1, 5_600)
    labels -= (labels - truth).mean()
    judged = Window(0, 14 * DAY_US, np.sort(rng.integers(0, 14 * DAY_US, 5_600)), unit * labels)
    gate = judge(
        BeatsChampion(),
        judged,
        gate_id="g",
        model="m",
        metric="squared_error",
        candidate="c" * 64,
        candidate_scores=unit * (truth + bias),
        champion="d" * 64,
        champion_scores=unit * (truth[::-1]),
        judged_at_us=1,
        loads=True,
    )
    assert gate.checks["provably_better"]
    assert gate.checks["calibrated"] == passes


def test_a_window_on_which_nothing_could_be_judged_is_refused_when_it_is_declared() -> None:
    with pytest.raises(Misuse, match=r"window='3d' is too short .* Give 7d or more"):
        beats_champion(window="3d")
    assert beats_champion(window="7d").window_us == 7 * DAY_US
