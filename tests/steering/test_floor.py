"""The absolute floor: whatever the champion does, a candidate is refused that is not better than the best baseline."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import numpy as np
import pytest

from trimtab.core.errors import Misuse
from trimtab.core.records import GateRecord
from trimtab.core.time import DAY_US
from trimtab.steering.definitions import beats_champion
from trimtab.steering.gate.gate import judge
from trimtab.steering.gate.slices import Part
from trimtab.steering.gate.window import Window

Floats = np.ndarray


def window(seed: int = 1, rows: int = 5_600) -> tuple[Window, Floats]:
    rng = np.random.default_rng(seed)
    truth = np.clip(rng.beta(2, 6, rows), 0.01, 0.99)
    labels = (rng.random(rows) < truth).astype(float)
    return Window(0, 14 * DAY_US, np.sort(rng.integers(0, 14 * DAY_US, rows)), labels), truth


def held(judged: Window, candidate: Floats, champion: Floats | None = None, **more: Any) -> GateRecord:
    rule = more.pop("rule", beats_champion(calibration=0.5))
    return judge(
        rule, judged, gate_id="g", model="m", metric="log_loss", candidate="c" * 64, candidate_scores=candidate,
        champion=None if champion is None else "d" * 64, champion_scores=champion, judged_at_us=1, loads=True, **more,
    )  # fmt: skip


@pytest.mark.fast
@pytest.mark.parametrize("name", ["constant", "last_value", "seasonal_naive"])
@pytest.mark.parametrize("against_a_wreck", [False, True])
def test_a_candidate_that_is_no_better_than_a_baseline_is_refused_even_where_the_champion_is_a_wreck(
    name: str, against_a_wreck: bool
) -> None:
    judged, truth = window()
    constant = np.full(len(truth), truth.mean())
    weak = np.clip(constant + 0.02 * np.sign(constant - truth), 0.01, 0.99)
    champion = np.full(len(truth), 0.9) if against_a_wreck else None
    refused = held(judged, weak, champion, baselines={name: constant})
    assert refused.checks["floor"] is False
    assert not refused.passed
    losses = (-np.where(judged.labels > 0, np.log(p), np.log1p(-p)).mean() for p in (constant, weak))
    assert "The best baseline, {}, has a mean loss of {:.4g}; the candidate has {:.4g}.".format(name, *losses) in (
        refused.reason
    )
    assert "baselines=False" in refused.reason
    if against_a_wreck:
        assert refused.checks["provably_better"]
    assert held(judged, truth, champion, baselines={name: constant}).passed


def test_a_scheduled_refit_that_is_better_than_an_earlier_one_below_the_floor_is_let_through_and_says_so() -> None:
    judged, truth = window()
    constant = np.full(len(truth), truth.mean())
    weak, weaker = (np.clip(constant + by * np.sign(constant - truth), 0.01, 0.99) for by in (0.02, 0.04))
    found = held(judged, weak, weaker, baselines={"constant": constant}, refreshes=True)
    assert found.passed
    assert "floor" not in found.checks
    assert "The best baseline, constant, has a mean loss of" in found.reason
    assert "an earlier fit of the same definition, is worse, so this does not refuse the newer fit." in found.reason
    assert held(judged, weaker, weak, baselines={"constant": constant}, refreshes=True).checks["floor"] is False
    assert held(judged, weak, weaker, baselines={"constant": constant}).checks["floor"] is False  # a repair
    better = held(judged, truth, weaker, baselines={"constant": constant}, refreshes=True)
    assert better.checks["floor"]
    assert "let through" not in better.reason


def test_every_baseline_has_a_finding_and_only_the_floor_is_a_check() -> None:
    judged, truth = window()
    constant = np.full(len(truth), truth.mean())
    gate = held(judged, truth, baselines={"constant": constant, "last_value": constant[::-1] + 0.01})
    names = [one.name for one in gate.findings if one.name.startswith(("baseline", "floor"))]
    assert names == ["baseline constant", "baseline last_value", "floor"]
    assert [name for name in gate.checks if name.startswith(("baseline", "floor"))] == ["floor"]
    assert not any(one.name == "floor" for one in held(judged, truth).findings)  # there was nothing to compare with


def test_a_linear_model_is_not_refused_for_being_no_better_than_itself() -> None:
    for seed in range(20):
        judged, truth = window(seed)
        noise = np.random.default_rng(seed).normal(0, 0.002, len(truth))
        baselines = {"constant": np.full(len(truth), truth.mean()), "linear": truth}
        assert held(judged, np.clip(truth + noise, 0.01, 0.99), baselines=baselines).checks["floor"]


def test_a_model_that_a_linear_one_provably_beats_is_refused() -> None:
    judged, truth = window()
    baselines = {"constant": np.full(len(truth), truth.mean()), "linear": truth}
    half = truth.mean() + 0.3 * (truth - truth.mean())
    refused = held(judged, half, baselines=baselines)
    assert not refused.passed
    of_linear = next(one.reason for one in refused.findings if one.name == "baseline linear")
    proof = of_linear[of_linear.index("It is higher by at least 0.0") :]
    assert re.search(r"best baseline, linear, has a mean loss of \S+; the candidate has \S+\. It is h", refused.reason)
    assert f" {proof} Change the features" in refused.reason
    near = held(judged, np.clip(truth + 0.01, 0.01, 0.99), baselines=baselines)
    (floor,) = (one for one in near.findings if one.name == "floor")
    assert near.checks["floor"]
    assert re.search(r"\. It is higher by at least \S+ \(95% confidence\); up to \S+ is allowed\.$", floor.reason)


def test_a_slice_that_a_baseline_provably_answers_better_refuses_beyond_its_margin() -> None:
    judged, truth = window(rows=8_000)
    south = np.arange(len(truth)) % 8 == 0
    parts = [Part("region=south", south), Part("region=north", ~south)]
    constant = np.full(len(truth), truth.mean())
    broken = np.where(south, np.clip(truth.mean() - 1.2 * (truth - truth.mean()), 0.01, 0.99), truth)
    strict = beats_champion(slices=["region"], calibration=0.5)
    refused = held(judged, broken, rule=strict, parts=parts, baselines={"constant": constant})
    assert refused.checks["floor"]
    assert refused.checks["floor_of_slices"] is False
    said = "Compared with the baseline constant: Provably worse on these slices: region=south (by at least 0."
    assert said in refused.reason
    lenient = beats_champion(slices=["region"], slice_margin=0.5, calibration=0.5)
    assert held(judged, broken, rule=lenient, parts=parts, baselines={"constant": constant}).passed


def test_which_baselines_count_is_declared_and_one_constant_always_does() -> None:
    assert all(beats_champion().compares(name) for name in ("constant", "linear", "as_shown"))
    rule = beats_champion(baselines=["last_value"])
    assert [rule.compares(name) for name in ("constant", "random", "last_value", "linear")] == [True, True, True, False]
    assert beats_champion(baselines=[]).compares("constant")
    for wrong in ("linear", ["season"], 3):
        with pytest.raises(Misuse, match="Give a list of: last_value"):
            beats_champion(baselines=wrong)


def test_a_gate_without_baselines_lets_a_candidate_pass_that_beats_none() -> None:
    judged, truth = window()
    constant = np.full(len(truth), truth.mean())
    weak = np.clip(constant + 0.02 * np.sign(constant - truth), 0.01, 0.99)
    rule = beats_champion(baselines=False, calibration=0.5)
    assert not any(rule.compares(name) for name in ("constant", "random", "last_value", "linear"))
    passed = held(judged, weak, rule=rule, baselines={"constant": constant})
    assert passed.passed
    assert "floor" not in passed.checks
    assert [one.verdict for one in passed.findings if one.name == "floor"] == ["not measured"]
    assert msgspec.json.decode(msgspec.json.encode(rule), type=type(rule)) == rule
    assert beats_champion(baselines=True) == beats_champion()


def test_how_far_a_refit_may_go_is_declared() -> None:
    assert beats_champion().share_of_change == 0.5
    assert beats_champion(refit_share=0.8).share_of_change == 0.8
    for name in ("refit_distance", "refit_share"):
        with pytest.raises(Misuse, match=f"{name}=0"):
            beats_champion(**{name: 0.0})  # type: ignore[arg-type]


def test_what_is_not_declared_changes_no_address_of_a_deployment() -> None:
    assert b"baselines" not in msgspec.json.encode(beats_champion(slices=["x"]))
    assert b"refit" not in msgspec.json.encode(beats_champion(slices=["x"]))
