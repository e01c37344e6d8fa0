"""The loss watch bets on the loss in excess of what the scores expect: harmless changes are quiet, wrong models not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trimtab import store
from trimtab.core.records import LOSS_CAP, DayQuality
from trimtab.core.time import DAY_US
from trimtab.feedback.days import day_quality
from trimtab.monitoring.quality.quality import CALIBRATION, LOSS, QualityMonitor
from trimtab.stats import expected_losses
from trimtab.stats.metrics.loss_names import CLASS_LOSSES, PROBABILITY_LOSSES
from trimtab.stats.metrics.losses import bounded_losses, row_losses

REFERENCE = 28  # days


@given(
    metric=st.sampled_from(PROBABILITY_LOSSES),
    weights=st.lists(st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3), min_size=1, max_size=5),
    cap=st.floats(0.5, 5.0),
)
def test_the_expected_loss_is_the_mean_over_all_labels_by_their_probability(metric, weights, cap):
    p = np.array(weights) + 1e-3
    p /= p.sum(axis=1, keepdims=True)
    scores = p if metric in CLASS_LOSSES else p[:, 1]
    expected = expected_losses(metric, scores, cap)
    assert expected is not None
    for row, found in zip(scores, expected.tolist(), strict=True):
        chances = row.tolist() if metric in CLASS_LOSSES else [1.0 - row, row]
        by_hand = math.fsum(
            chance * float(bounded_losses(row_losses(metric, [label], row[None]), cap)[0])
            for label, chance in enumerate(chances)
        )
        assert found == pytest.approx(by_hand, abs=1e-12)


def test_a_number_expects_no_loss_of_its_own():
    at_us, zeros = np.zeros(3, np.int64), np.zeros(3)
    assert expected_losses("squared_error", zeros, 1.0) is None
    assert day_quality("m", "squared_error", "v", at_us, zeros, zeros)[0].expected_loss_sum is None


def sigmoid(z: NDArray[Any]) -> NDArray[Any]:
    return 1.0 / (1.0 + np.exp(-z))


def stream(
    seed: int,
    days: int,
    *,
    rows: int = 400,
    lag: float = 0.4,
    season: float = 0.0,
    covariate_from: int | None = None,
    drift_from: int | None = None,
) -> list[DayQuality]:
    """Days of a model that is right but for day effects; the season is known to it, a drift is not.

    Args:
        seed: Of everything drawn.
        days: That many.
        rows: Per day.
        lag: The correlation of neighbouring days' effects (sd .15 logit).
        season: Amplitude in logits over 365 days, at a random phase.
        covariate_from: The day from which the column's mean is higher by 1.
        drift_from: The day from which the column says .6 logit less per unit.
    """
    rng = np.random.default_rng(seed)
    effect = rng.normal(size=days + 30)
    for n in range(1, days + 30):
        effect[n] = lag * effect[n - 1] + math.sqrt(1.0 - lag * lag) * effect[n]
    day = np.repeat(np.arange(days), rows)
    x = rng.normal(size=day.size) + (0.0 if covariate_from is None else day >= covariate_from)
    known = -1.0 + 1.2 * x + season * np.sin(2.0 * np.pi * (day / 365.0 + rng.random()))
    true = known + 0.15 * effect[30:][day] - (0.0 if drift_from is None else 0.6 * (day >= drift_from)) * x
    labels = (rng.random(day.size) < sigmoid(true)).astype(np.float64)
    return day_quality("m", "log_loss", "v", day * DAY_US, sigmoid(known), labels)


def rings(folder: Path, seed: int, days: list[DayQuality]) -> tuple[int | None, int | None]:
    """The day after the reference on which the loss alarm rang, and that on which either did."""
    with store.open(f"sqlite://{folder}/{seed}.db", "catalog") as catalog:
        monitor = QualityMonitor(catalog, "m", run_length_days=1000)
        _, puts = monitor.anchor("v", days[:REFERENCE], at_us=0)
        catalog.write(puts)
        monitor.reload()
        begun = [one for one in monitor.observe(days[REFERENCE:], now_us=1) if one.kind in (LOSS, CALIBRATION)]
    rung = [(one.kind, int(one.id.rpartition("/")[2]) // DAY_US - REFERENCE + 1) for one in begun]
    return min((day for kind, day in rung if kind == LOSS), default=None), min((day for _, day in rung), default=None)


def test_a_season_that_the_model_knows_is_quiet(tmp_path):
    rung = [rings(tmp_path, seed, stream(seed, REFERENCE + 100, season=0.3)) for seed in range(40)]
    assert sum(loss is not None for loss, _ in rung) <= 5  # .42 of them when the raw loss was watched


def test_requests_that_are_harder_to_answer_are_quiet(tmp_path):
    moved = REFERENCE + 20
    rung = [rings(tmp_path, seed, stream(seed, moved + 60, covariate_from=moved)) for seed in range(20)]
    assert sum(loss is not None for loss, _ in rung) <= 1  # all of them when the raw loss was watched


def test_a_model_that_became_wrong_rings_within_weeks(tmp_path):
    moved = REFERENCE + 20
    rung = [rings(tmp_path, seed, stream(seed, moved + 40, drift_from=moved))[1] for seed in range(20)]
    assert sum(day is not None and 20 < day <= 20 + 21 for day in rung) >= 18


def test_a_day_without_an_expected_loss_is_no_evidence_for_a_watch_on_the_excess(tmp_path):
    days = stream(1, REFERENCE + 40, drift_from=REFERENCE)
    unknown = [msgspec.structs.replace(day, expected_loss_sum=None) for day in days[REFERENCE:]]
    assert rings(tmp_path, 1, days)[0] is not None
    assert rings(tmp_path, 2, [*days[:REFERENCE], *unknown])[0] is None


def test_a_reference_of_an_earlier_trimtab_goes_on_with_the_loss_itself(tmp_path):
    days = stream(1, REFERENCE + 40, covariate_from=REFERENCE)
    before = [msgspec.structs.replace(day, expected_loss_sum=None) for day in days[:REFERENCE]]
    assert rings(tmp_path, 1, days)[0] is None
    assert rings(tmp_path, 2, [*before, *days[REFERENCE:]])[0] is not None  # harder requests, as it was


@pytest.mark.soak
def test_false_alarms_and_delays_over_many_streams(soak_report, tmp_path):
    """`pytest -m soak -s tests/monitoring/test_excess_loss.py`: the figures of D0003."""
    seeds = np.random.SeedSequence().generate_state(300).tolist()
    after = REFERENCE + 20
    worlds: dict[str, dict[str, Any]] = {
        "lag_0": {"lag": 0.0},
        "lag_4": {},
        "lag_6": {"lag": 0.6},
        "season": {"season": 0.3},
        "covariate": {"covariate_from": after},
    }
    shares: dict[str, float] = {}
    for name, world in worlds.items():
        rung = [rings(tmp_path, seed, stream(seed, REFERENCE + 100, **world)) for seed in seeds]
        shares[f"{name}_loss"] = float(np.mean([loss is not None for loss, _ in rung]))
        shares[f"{name}_either"] = float(np.mean([either is not None for _, either in rung]))
        for old in tmp_path.iterdir():
            old.unlink()
    wrong = [rings(tmp_path, seed, stream(seed, after + 60, drift_from=after))[1] or math.inf for seed in seeds]
    shares["drift_median_days"] = float(np.median(wrong)) - 20
    print(f"excess loss, {len(seeds)} streams a world, {REFERENCE} reference days, cap {LOSS_CAP:.2f}: {shares}")
    failures = sum(share > 0.10 for name, share in shares.items() if name.endswith("_loss"))
    soak_report("excess_loss", runs=len(seeds) * len(worlds), failures=failures, **shares)
    assert failures == 0
