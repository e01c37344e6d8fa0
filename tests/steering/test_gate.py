import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from trimtab.core.errors import Misuse
from trimtab.core.records import GateCheck, GateRecord
from trimtab.core.time import DAY_US
from trimtab.steering.definitions import BeatsChampion, beats_champion
from trimtab.steering.gate.gate import judge
from trimtab.steering.gate.slices import Part
from trimtab.steering.gate.window import Window

RULE = BeatsChampion(margin=0.002)


def window(seed: int = 1, rows: int = 5_600) -> tuple[Window, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.clip(rng.beta(2, 6, rows), 0.01, 0.99)
    labels = (rng.random(rows) < truth).astype(float)
    at_us = np.sort(rng.integers(0, 14 * DAY_US, rows))
    return Window(0, 14 * DAY_US, at_us, labels), truth


def record(  # type: ignore[no-untyped-def]
    candidate: np.ndarray, champion: np.ndarray | None, judged: Window, *, loads: bool = True, rule=RULE, **more: Any
):
    return judge(
        rule,
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
        **more,
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


@pytest.mark.fast
def test_a_refresh_that_is_better_within_the_noise_passes_and_says_why() -> None:
    judged, truth = window(rows=140)
    worse = np.clip(truth + np.random.default_rng(3).normal(0, 0.05, len(truth)), 0.01, 0.99)
    gate = record(truth, worse, judged, refreshes=True, comparisons=3.0)
    assert gate.passed, gate.reason
    assert gate.checks["not_provably_worse"]
    assert "provably_better" not in gate.checks
    assert "A scheduled refit of the same model definition, or a version with more classes, must not be" in gate.reason
    assert "Earlier comparisons" not in gate.reason  # it proves nothing, so it shares no error
    assert not record(worse, truth, judged, refreshes=True).passed  # a declared margin counts
    assert record(worse, truth, judged, refreshes=True, rule=BeatsChampion()).passed
    assert not record(truth, worse, judged).passed


@pytest.mark.fast
def test_an_earlier_comparison_of_half_of_the_days_is_not_counted_as_half_a_comparison() -> None:
    judged, truth = window(rows=140)
    (found,) = [one for one in record(truth, truth, judged, comparisons=1.5).findings if one.name == "tries"]
    assert found.reason == (
        "Earlier comparisons used these days, too. Each counts by the share of the days that it used: with this one, "
        "1.5 in all, so the proof needs 95.6% confidence."
    )


def test_a_refresh_that_is_provably_worse_is_refused_also_within_an_allowed_margin() -> None:
    judged, truth = window()
    worse = np.clip(truth * 0.8 + 0.05, 0.01, 0.99)
    refused = record(worse, truth, judged, refreshes=True, rule=BeatsChampion(calibration=0.2))
    assert not refused.checks["not_provably_worse"]
    low = next(one.figure for one in refused.findings if one.name == "not_provably_worse")
    assert low > 0.0
    assert f"Refused, provably worse: mean loss minus the champion's is {refused.difference:+.4f}, " in refused.reason
    assert f", at least {low:+.4f} with 90% confidence; margin 0" in refused.reason
    allowed = msgspec.structs.replace(RULE, margin=-0.2, calibration=0.2)
    gate = record(worse, truth, judged, refreshes=True, rule=allowed)
    assert gate.checks["not_provably_worse"]
    assert gate.passed, gate.reason


def test_a_refresh_that_is_much_worse_is_refused_although_days_differ_too_much_to_prove_it() -> None:
    judged, truth = window()
    # the candidate is much worse on the first five days, and a little better on the nine others
    first = judged.at_us < 5 * DAY_US
    candidate = np.where(first, np.clip(1.0 - truth, 0.01, 0.99), truth)
    champion = np.where(first, truth, np.clip(truth + 0.1, 0.01, 0.99))
    gate = record(candidate, champion, judged, refreshes=True, rule=BeatsChampion(calibration=1.0))
    assert gate.difference is not None
    assert (gate.checks["not_provably_worse"], gate.checks["not_much_worse"]) == (True, False)
    assert gate.reason.startswith("Refused, much worse: mean loss minus the champion's is +0.304")


@pytest.mark.parametrize("seed", range(3))
def test_of_refreshes_that_are_as_good_most_pass_and_of_worse_ones_few(seed: int) -> None:
    rng = np.random.default_rng(seed)
    passed = {0.0: 0, 0.4: 0}
    rule = BeatsChampion()
    for number in range(60):
        judged, truth = window(1_000 * seed + number, rows=2_000)
        logit = np.log(truth / (1 - truth))
        champion = 1 / (1 + np.exp(-logit - rng.normal(0, 0.1, len(truth))))
        for extra in passed:
            noise = rng.normal(0, math.hypot(0.1, extra), len(truth))
            candidate = 1 / (1 + np.exp(-logit - noise))
            passed[extra] += record(candidate, champion, judged, refreshes=True, rule=rule).passed
    assert passed[0.0] >= 46
    assert passed[0.4] <= 6


def test_only_a_provably_miscalibrated_candidate_is_refused() -> None:
    """On windows whose days rise and fall together, true probabilities miss the mean label by more than allowed."""
    outcomes = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        at_us = np.repeat(np.arange(14), 500) * DAY_US
        of_day = np.repeat(rng.normal(0, 0.6, 14), 500)
        logit = rng.normal(-1, 1, at_us.size)
        labels = (rng.random(at_us.size) < 1 / (1 + np.exp(-logit - of_day))).astype(float)
        judged, truth = Window(0, 14 * DAY_US, at_us, labels), 1 / (1 + np.exp(-logit))
        champion = np.full(at_us.size, labels.mean())
        low = np.clip(0.4 * truth, 0.01, 0.99)
        found = [record(truth, None, judged)]
        found += [record(scores, champion, judged, refreshes=how) for scores in (truth, low) for how in (False, True)]
        outcomes.append([one.checks["calibrated"] for one in found])
    first, repair, refresh, *miscalibrated = np.array(outcomes).sum(axis=0)
    assert min(first, repair, refresh) >= 55
    assert max(miscalibrated) <= 6


def test_a_miscalibrated_candidate_does_not_pass_even_when_it_ranks_well() -> None:
    judged, truth = window()
    gate = record(np.clip(truth * 0.7, 0.01, 0.99), np.full(len(truth), truth.mean()), judged)
    assert not gate.checks["calibrated"]
    assert not gate.passed


def test_a_refusal_for_calibration_names_the_gap_what_is_allowed_and_what_to_do() -> None:
    judged, truth = window()
    low, lower = np.clip(truth * 0.7, 0.01, 0.99), np.clip(truth * 0.6, 0.01, 0.99)
    gaps = [abs(float((scores - judged.labels).mean())) for scores in (low, lower)]
    loss = float(-np.where(judged.labels > 0, np.log(low), np.log1p(-low)).mean())
    todo = "Change the features or the estimator, or declare tt.beats_champion(..., calibration=...) to allow a larger"
    todo += " gap."
    first = record(low, None, judged)
    assert first.reason.startswith(
        f"Refused, not calibrated: mean loss {loss:.4f}. Calibration gap {gaps[0]:.4f}, at least 0.0"
    )
    assert first.reason.endswith(
        f" with 95% confidence; allowed: 0.03. Without a champion, more than 0.06 is refused, proven or not. {todo}"
    )
    second = record(lower, low, judged)
    assert f"Calibration gap {gaps[1]:.4f}, at least " in second.reason
    assert f" with 95% confidence; allowed: {gaps[0]:.4g} (the champion's own gap). {todo}" in second.reason
    refresh = record(lower, low, judged, refreshes=True)
    assert f"Calibration gap {gaps[1]:.4f}, at least 0." in refresh.reason
    passed = record(truth, None, judged)
    assert passed.reason.startswith("Passed: calibration gap 0.0")
    assert not any("tt.beats_champion" in one.reason for one in passed.findings)


@pytest.mark.parametrize(("gap", "passes"), [(0.02, True), (0.05, True), (0.07, False)])
def test_a_first_version_with_few_labels_is_refused_only_above_twice_the_limit(gap: float, passes: bool) -> None:
    judged, truth = window(3, rows=120)
    scores = np.clip(truth + (judged.labels - truth).mean() + gap, 0.0, 1.0)
    gate = record(scores, None, judged)
    assert gate.checks["calibrated"] == passes
    one_day = msgspec.structs.replace(judged, at_us=judged.at_us // 14)
    assert record(scores, None, one_day).checks["calibrated"] == (gap < 0.03)


@pytest.mark.soak
def test_honest_first_versions_with_few_labels_are_rarely_refused(soak_report: Callable[..., None]) -> None:
    """Scores are the true probabilities, or .1 above them; the days differ with a standard deviation of .03."""
    rng = np.random.default_rng(20_261_203)
    for labels in (10, 20, 50, 140):
        before, refused, biased = 0, 0, 0
        for _ in range(1_000):
            day = np.repeat(np.arange(14), labels)
            scores = np.clip(rng.beta(2, 5, len(day)), 0.01, 0.89)
            truth = np.clip(scores + rng.normal(0, 0.03, 14)[day], 0.001, 0.999)
            judged = Window(0, 14 * DAY_US, day * DAY_US, (rng.random(len(day)) < truth).astype(float))
            before += abs(float((scores - judged.labels).mean())) > 0.03
            refused += not record(scores, None, judged).passed
            biased += not record(scores + 0.1, None, judged).passed
        soak_report(
            "first_versions", labels_a_day=labels, before=before, refused=refused, biased=biased, runs=1_000, failures=0
        )
        assert refused < 120
        assert biased > 750


def test_without_a_champion_only_the_checks_without_a_rival_apply() -> None:
    judged, truth = window()
    gate = record(truth, None, judged)
    assert gate.passed
    assert gate.difference is None


def test_a_candidate_that_does_not_load_never_passes() -> None:
    judged, truth = window()
    assert not record(truth, None, judged, loads=False).passed
    assert "Refused, not loadable" in record(truth, None, judged, loads=False).reason


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


# --- more checks


def judged_by(rule: BeatsChampion, judged: Window, candidate: np.ndarray, champion: np.ndarray | None, **more: Any):  # type: ignore[no-untyped-def]
    return judge(
        rule,
        judged,
        gate_id="g",
        model="m",
        metric="log_loss",
        candidate="c" * 64,
        candidate_scores=candidate,
        champion=None if champion is None else "d" * 64,
        champion_scores=champion,
        judged_at_us=1,
        loads=True,
        **more,
    )


def test_a_candidate_that_is_better_on_the_whole_and_worse_on_a_slice_is_refused() -> None:
    judged, truth = window(rows=8_000)
    south = np.arange(len(truth)) % 4 == 0
    parts = [Part("region=south", south), Part("region=north", ~south)]
    champion, candidate = np.where(south, truth, 0.5), np.where(south, truth.mean(), truth)
    rule = beats_champion(slices=["region"])
    refused = judged_by(rule, judged, candidate, champion, parts=parts)
    assert refused.checks["provably_better"]
    assert not refused.checks["every_slice"]
    assert "Provably worse on these slices: region=south" in refused.reason
    passed = judged_by(rule, judged, truth, champion, parts=parts)
    assert passed.passed
    assert [one.name for one in passed.findings][-3:] == ["slice region=south", "slice region=north", "every_slice"]


def test_slices_without_a_champion_are_no_evidence_and_refuse_nothing() -> None:
    judged, truth = window()
    gate = judged_by(beats_champion(slices=["region"]), judged, truth, None)
    assert gate.passed
    assert {one.name: one.verdict for one in gate.findings}["every_slice"] == "no evidence"


def test_a_planted_miscalibration_is_refused_and_no_sound_candidate_is() -> None:
    rule = beats_champion(calibration_error=0.03, calibration=0.05)
    judged, truth = window(rows=8_000)
    stretched = np.clip(truth.mean() + 1.8 * (truth - truth.mean()), 0.01, 0.99)
    refused = judged_by(rule, judged, stretched, None)
    assert refused.checks["calibrated"]
    assert not refused.checks["calibration_error"]
    assert "Calibration error 0." in refused.reason
    sound = [window(seed, rows=2_000) for seed in range(40)]
    assert all(judged_by(rule, one, truth, None).passed for one, truth in sound)


def test_what_was_not_measured_is_listed_and_refuses_nothing_but_what_failed_does() -> None:
    judged, truth = window()
    trials = [
        GateCheck(name="loads", figure=0.0, bound=0.0, verdict="held", reason="Repeated."),
        GateCheck(name="fresh_process", figure=None, bound=None, verdict="not measured", reason="Virtual time."),
        GateCheck(name="latency", figure=9.0, bound=5.0, verdict="failed", reason="p99 9 ms; allowed p99 5 ms."),
    ]
    gate = judged_by(RULE, judged, truth, None, own_checks=trials)
    assert not gate.passed
    assert list(gate.checks) == ["loads", "finite", "calibrated", "latency"]
    assert gate.reason.endswith("p99 9 ms; allowed p99 5 ms.")
    assert "fresh_process  not measured  Virtual time." in gate.lines()
    assert judged_by(RULE, judged, truth, None, own_checks=trials[:2]).passed


def test_a_margin_below_zero_asks_for_proof_that_nothing_was_lost() -> None:
    judged, truth = window()
    worse = np.clip(truth + 0.15, 0.01, 0.99)
    lenient = beats_champion(margin=-0.01, calibration=0.5)
    assert judged_by(lenient, judged, truth, truth).passed
    assert not judged_by(lenient, judged, worse, truth).passed


def test_a_champion_that_nobody_could_ask_is_told_in_record_and_reason() -> None:
    judged, truth = window()
    gate = judged_by(RULE, judged, truth, truth, champion_note="m@1 was asked with its own features.")
    assert gate.findings[2].name == "rival"
    assert "rival" not in gate.checks
    record = judge(
        RULE, judged, gate_id="g", model="m", metric="log_loss", candidate="c", candidate_scores=truth, champion="d",
        champion_scores=None, judged_at_us=1, loads=True, champion_note="Nothing was compared with m@1: no column 'x'.",
    )  # fmt: skip
    assert (record.passed, record.champion, record.difference) == (True, "d", None)
    assert record.reason.endswith("Nothing was compared with m@1: no column 'x'.")
    assert ("rival", "no evidence") in [(one.name, one.verdict) for one in record.findings]


def test_a_record_comes_back_from_its_bytes() -> None:
    judged, truth = window()
    gate = judged_by(beats_champion(calibration_error=0.05), judged, truth, np.full(len(truth), 0.3))
    assert msgspec.json.decode(msgspec.json.encode(gate), type=GateRecord) == gate


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"slices": "carrier"}, "Give a list of names"),
        ({"slices": {"far": "distance > 1000"}}, r"slices\['far'\] is 'distance > 1000'"),
        ({"slice_margin": -1.0}, "slice_margin=-1.0"),
        ({"calibration_error": 3.0}, "between 0 and 1"),
        ({"latency": "0ms"}, "would refuse every version"),
        ({"latency": "fast"}, "duration"),
        ({"margin": float("nan")}, "margin=nan. Give a finite number"),
    ],
)
def test_rules_that_make_no_sense_are_refused_where_they_are_declared(given: dict[str, Any], said: str) -> None:
    with pytest.raises(Misuse, match=said):
        beats_champion(**given)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_window_whose_labels_are_all_alike_refuses_by_name_also_the_first_version(label: float) -> None:
    judged, truth = window()
    alike = msgspec.structs.replace(judged, labels=np.full(len(truth), label))
    for champion in (None, np.full(len(truth), 0.5)):
        gate = record(np.full(len(truth), np.clip(label, 0.01, 0.99)), champion, alike)
        assert not gate.passed
        assert gate.checks["labels"] is False
        assert f"All 5,600 labels are {label:g}, so they cannot tell a good model from a constant" in gate.reason
