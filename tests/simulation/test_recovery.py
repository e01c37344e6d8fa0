"""After a sudden change: the alarm's repair learns from the new world, is proved on it, and is in service in days."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import worlds
from numpy.typing import NDArray

import trimtab as tt
from trimtab.core.columns.data import Columns
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US
from trimtab.simulation.policies import ungated
from trimtab.simulation.replay import Recording, Replay, ReplaySettings
from trimtab.simulation.scenarios.scenario import Scenario

HISTORY = 45  # days before day 0
SITES = [f"s{n}" for n in range(6)]
BEFORE, AFTER = np.array([1.2, 0.8, -0.5, 0.8]), np.array([-0.4, 0.8, -0.5, 0.8])

outcomes = tt.source("outcomes", time="closed_at", key="visit_id", columns={"visit_id": str, "bought": bool})
visit = tt.request(
    "visit", key="visit_id", time="at", columns={"visit_id": str, "at": tt.Time} | dict.fromkeys("abcd", float)
)


def day_us(day: float) -> int:
    """The first microsecond of a day; day 0 is the first day after the history."""
    return worlds.ORIGIN_US + round((HISTORY + day) * DAY_US)


def logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=10)


def line(name: str, retrain: Any) -> Scenario:
    """A policy with the default gate, but for a bound that a fortnight of day effects exceeds in one seed of fifty."""
    gate = tt.beats_champion(margin=0.002, calibration=0.05)
    model = tt.model(
        "buyer",
        request=visit,
        features=[{name: tt.col(name) for name in "abcd"}],
        label=tt.label(outcomes, key="visit_id", value="bought", wait="48h"),
        estimator=logistic,
        metric="log_loss",
    )
    return Scenario(name=name, deployment=tt.deployment(model, retrain=retrain, gate=gate))


class Truth(msgspec.Struct, frozen=True):
    """What the generator knows: the best answer to each request of the replayed days."""

    best: NDArray[np.float64]
    day: NDArray[np.int64]

    def above_best(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """By day: the expected log loss of scores over that of the best answers, less 1."""
        q, p = self.best, np.clip(scores, 1e-12, 1 - 1e-12)
        losses = [np.bincount(self.day, -(q * np.log(s) + (1 - q) * np.log1p(-s))) for s in (p, q)]
        return np.asarray(losses[0] / losses[1] - 1.0)


def make(
    seed: int, *, days: int, per_day: int, drift_day: int, after: NDArray[np.float64], wander: float = 0.0
) -> tuple[dict[str, Columns], Truth]:
    """Visits with day effects (sd .15 logit, correlation .4 from day to day) whose first column turns on a day.

    With `wander`, each coefficient also makes a step of this standard deviation each day.
    """
    rng = np.random.default_rng(seed)
    spans = HISTORY + days
    minute = np.sort(rng.integers(0, spans * 24 * 60, spans * per_day))
    at_us, day = worlds.ORIGIN_US + minute * MINUTE_US, minute // 1440
    effect = rng.normal(size=spans + 40)
    for n in range(1, spans + 40):
        effect[n] = 0.4 * effect[n - 1] + math.sqrt(1 - 0.16) * effect[n]
    x = rng.normal(size=(minute.size, 4))
    weights = np.where((day - HISTORY >= drift_day)[:, None], after, BEFORE)
    if wander:
        weights = weights + np.cumsum(wander * np.random.default_rng(seed + 1_000).normal(size=(spans, 4)), axis=0)[day]
    signal = -1.0 + (weights * x).sum(axis=1)
    bought = rng.random(minute.size) < 1 / (1 + np.exp(-(signal + 0.15 * effect[40:][day])))
    ids = [f"v{n:08d}" for n in range(minute.size)]
    closed_us = at_us + 36 * HOUR_US + rng.integers(0, 11 * 60, minute.size) * MINUTE_US
    columns = {name: ("float", x[:, place].tolist()) for place, name in enumerate("abcd")}
    tables = {
        "outcomes": Columns.of(
            {"visit_id": ("str", ids), "bought": ("bool", bought.tolist()), "closed_at": ("time", closed_us.tolist())}
        ),
        "visit": Columns.of({"visit_id": ("str", ids), "at": ("time", at_us.tolist()), **columns}),  # type: ignore[arg-type]
    }
    asked = day >= HISTORY
    return tables, Truth((1 / (1 + np.exp(-signal)))[asked], day[asked] - HISTORY)


class Recovery(msgspec.Struct, frozen=True):
    """What a line did after the change."""

    days: int | None  # from the change until every later mean of three days is within `within` of the best
    above: float  # mean share above the best from the change on
    at_end: float  # the same over the last ten days
    refused: int
    promoted: int


def recovered(
    folder: Path, lines: list[Scenario], seed: int, *, days: int, drift_day: int, within: float, **world: Any
) -> dict[str, Recovery]:
    tables, truth = make(seed, days=days, drift_day=drift_day, **world)
    with Replay(
        [msgspec.structs.replace(line, main=place == 0) for place, line in enumerate(lines)],
        Recording(tables, [outcomes, visit.source]),
        folder,
        ReplaySettings(start_us=day_us(0), until_us=day_us(days), seed=seed, look_every_us=DAY_US),
    ) as running:
        result = running.run()
    found = {}
    for name, done in result.lines.items():
        above = truth.above_best(done.scores)
        smooth = np.convolve(above, np.ones(3) / 3, "valid")
        well = [day for day in range(drift_day, len(smooth)) if (smooth[day:] <= within).all()]
        acts = [d.act for d in done.decisions if d.at_us > day_us(drift_day)]
        found[name] = Recovery(
            well[0] - drift_day if well else None,
            float(above[drift_day:].mean()),
            float(above[-10:].mean()),
            acts.count("refuse"),
            acts.count("promote"),
        )
    return found


@pytest.mark.slow
def test_a_sudden_change_is_repaired_within_a_fortnight(tmp_path: Path) -> None:
    lines = [line("alarm", tt.on_quality_drop()), line("never", None)]
    found = recovered(tmp_path, lines, 3, days=42, drift_day=18, within=0.10, per_day=800, after=AFTER)
    assert found["never"].days is None
    assert found["alarm"].days is not None
    assert found["alarm"].days <= 15
    assert found["alarm"].at_end < 0.05


@pytest.mark.slow
def test_the_repair_and_its_follow_up_say_in_the_ledger_what_they_learnt_from(tmp_path: Path) -> None:
    tables, _ = make(3, days=30, per_day=800, drift_day=12, after=AFTER)
    lines = [msgspec.structs.replace(line("alarm", tt.on_quality_drop()), main=True)]
    with Replay(
        lines,
        Recording(tables, [outcomes, visit.source]),
        tmp_path,
        ReplaySettings(start_us=day_us(0), until_us=day_us(30), seed=1, look_every_us=DAY_US),
    ) as r:
        decisions = r.run().lines["alarm"].decisions
    trigger = next(d for d in decisions if d.act == "trigger" and d.at_us > day_us(0))
    onset_us = trigger.evidence["onset_us"]
    assert isinstance(onset_us, int)
    assert abs(onset_us - day_us(12)) <= 6 * DAY_US
    passed = next(d for d in decisions if d.act == "gate" and d.at_us > day_us(12) and d.evidence["provably_better"])
    assert passed.at_us <= day_us(12 + 15)


def test_new_labels_of_closed_days_start_a_repair_once_there_are_enough(tmp_path: Path) -> None:
    tables, _ = make(3, days=20, per_day=200, drift_day=99, after=AFTER)
    lines = [msgspec.structs.replace(line("labels", tt.on_new_labels(2_000) & tt.every("7d")), main=True)]
    with Replay(
        lines,
        Recording(tables, [outcomes, visit.source]),
        tmp_path,
        ReplaySettings(start_us=day_us(0), until_us=day_us(20), seed=1, look_every_us=DAY_US),
    ) as r:
        decisions = r.run().lines["labels"].decisions
    trigger = next(d for d in decisions if d.act == "trigger" and d.at_us > day_us(0))
    assert trigger.cause.endswith(
        "(2,000 are enough for a training). Schedule: the version in service was trained at least 7d ago."
    )
    assert 10 <= (trigger.at_us - day_us(0)) / DAY_US <= 15  # 200 a day, known and closed two to three days later


def followed(folder: Path, seed: int, days: int) -> tuple[Recovery, Recovery]:
    """A schedule with the gate, and one that fits on all history without it, in a world that wanders."""
    plain = msgspec.structs.replace(line("plain", None), decide=ungated("30d").decide)
    lines = [line("schedule", tt.every("30d")), plain]
    start = days // 3
    found = recovered(
        folder, lines, seed, days=days, drift_day=start, within=0.1, per_day=150, after=BEFORE, wander=0.05
    )
    return found["schedule"], found["plain"]


@pytest.mark.slow
def test_a_slow_change_is_followed_by_fits_in_which_old_rows_count_less(tmp_path: Path) -> None:
    schedule, plain = followed(tmp_path, 1, 150)
    assert schedule.above < 0.8 * plain.above


@pytest.mark.soak
def test_slow_changes(soak_report: Any, tmp_path: Path) -> None:
    """`pytest -m soak -s -k slow_changes tests/simulation/test_recovery.py`: ten worlds that wander for a year."""
    seeds: list[int] = np.random.SeedSequence().generate_state(10).tolist()
    found = [followed(tmp_path / str(seed), seed, 365) for seed in seeds]
    for seed, (schedule, plain) in zip(seeds, found, strict=True):
        print(seed, schedule, plain, flush=True)
    gated, plain = (float(np.mean([pair[place].above for pair in found])) for place in (0, 1))
    lost = sum(schedule.above > plain.above for schedule, plain in found)
    soak_report("slow_changes", runs=10, failures=lost, above_best=gated, above_best_ungated=plain)
    assert gated < 0.5 * plain
    assert lost == 0
