"""Every kind of model in a replay: numbers, counts, quantiles, several classes, rankings, by their own metrics."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import worlds

import trimtab as tt
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US
from trimtab.simulation.measures import Judged, measures
from trimtab.simulation.replay import Recording, Replay, ReplaySettings
from trimtab.simulation.results import ReplayResult, ScenarioResult
from trimtab.simulation.scenarios.scenario import Scenario
from trimtab.stats import list_ndcg

HISTORY, DAYS, PER_DAY = 30, 16, 60
CLASSES = ("none", "some", "lots")
visit = tt.request(
    "visit",
    key="visit_id",
    time="at",
    columns={"visit_id": str, "search_id": str, "at": tt.Time, "x": float, "z": float},
)
outcomes = tt.source(
    "outcomes",
    time="closed_at",
    key="visit_id",
    columns={"visit_id": str, "amount": float, "count": float, "ending": str, "degree": float},
)


def ridge() -> Any:
    from sklearn.linear_model import Ridge

    return Ridge()


def poisson() -> Any:
    from sklearn.linear_model import PoissonRegressor

    return PoissonRegressor(alpha=1e-3)


def upper() -> Any:
    from sklearn.linear_model import QuantileRegressor

    return QuantileRegressor(quantile=0.9, alpha=0.0)


def logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression()


def ranker() -> Any:
    from lightgbm import LGBMRanker

    return LGBMRanker(n_estimators=20, num_leaves=6, min_child_samples=20, verbose=-1)


def stream() -> Any:
    from sklearn.linear_model import SGDRegressor

    return SGDRegressor(learning_rate="constant", eta0=0.01)


def lines(kind: str) -> list[Scenario]:
    """A schedule, and none."""
    metrics = {
        "number": ("squared_error", "amount", ridge),
        "count": ("poisson_deviance", "count", poisson),
        "quantile": (tt.pinball(0.9), "amount", upper),
        "classes": ("multi_log_loss", "ending", logistic),
        "ranking": (tt.ndcg_loss(3), "degree", ranker),
        "learner": ("squared_error", "amount", stream),
    }
    metric, value, estimator = metrics[kind]
    classes = {"classes": list(CLASSES)} if kind == "classes" else {}
    model = tt.model(
        "guess",
        request=visit,
        features=[{"x": tt.col("x"), "z": tt.col("z")}],
        label=tt.label(outcomes, key="visit_id", value=value, wait="1d", **classes),
        estimator=estimator,
        metric=metric,
        group="search_id" if kind == "ranking" else None,
    )
    learn: Any = "online" if kind == "learner" else "batch"
    gate = tt.beats_champion(window="7d", margin=-1.0, calibration=0.5)
    return [
        Scenario(name=name, deployment=tt.deployment(model, retrain=retrain, gate=gate, learn=learn))
        for name, retrain in (("every week", None if kind == "learner" else tt.every("8d")), ("never", None))
    ]


def make(seed: int = 1) -> dict[str, Columns]:
    """Searches of three visits; what `x` does to all outcomes turns round in the middle of the replay."""
    rng = np.random.default_rng(seed)
    searches = (HISTORY + DAYS) * PER_DAY // 3
    at_us = worlds.ORIGIN_US + np.sort(rng.integers(0, (HISTORY + DAYS) * 24 * 60, searches)) * MINUTE_US
    at_us, rows = np.repeat(at_us, 3), searches * 3
    x, z = rng.normal(size=rows), rng.normal(size=rows)
    pull = np.where(at_us < day_us(DAYS / 2), x, -x) + 0.3 * z
    amount = 10 + 3 * pull + rng.normal(size=rows)
    odds = np.exp(np.stack([np.zeros(rows), 1.5 * pull, -1.5 * pull], axis=1))
    ending = (rng.random(rows)[:, None] > (odds / odds.sum(axis=1, keepdims=True)).cumsum(axis=1)).sum(axis=1)
    ids = [f"v{n:06d}" for n in range(rows)]
    closed_us = at_us + rng.integers(1, 20, rows) * HOUR_US
    degree = np.clip(np.round(1 + pull + 0.5 * rng.normal(size=rows)), 0, 3)
    return {
        "visit": Columns.of(
            {
                "visit_id": ("str", ids),
                "search_id": ("str", [f"s{n // 3:06d}" for n in range(rows)]),
                "at": ("time", at_us.tolist()),
                "x": ("float", x.tolist()),
                "z": ("float", z.tolist()),
            }
        ),
        "outcomes": Columns.of(
            {
                "visit_id": ("str", ids),
                "amount": ("float", amount.tolist()),
                "count": ("float", rng.poisson(np.exp(0.5 + 0.5 * pull)).astype(float).tolist()),
                "ending": ("str", [CLASSES[n] for n in ending]),
                "degree": ("float", degree.tolist()),
                "closed_at": ("time", closed_us.tolist()),
            }
        ),
    }


def day_us(day: float) -> int:
    return worlds.ORIGIN_US + round((HISTORY + day) * DAY_US)


def replayed(folder: Path, kind: str) -> ReplayResult:
    with Replay(
        [msgspec.structs.replace(one, main=n == 0) for n, one in enumerate(lines(kind))],
        Recording(make(), [outcomes, visit.source]),
        folder,
        ReplaySettings(start_us=day_us(0), until_us=day_us(DAYS), seed=1, look_every_us=DAY_US),
    ) as running:
        return running.run()


def naive(kind: str, line: ScenarioResult) -> float:
    """The metric of a line over all labelled rows, row by row."""
    told = [(y, p) for y, p in zip(line.labels.tolist(), line.scores.tolist(), strict=True) if not math.isnan(y)]
    match kind:
        case "number" | "learner":
            losses = [(y - p) ** 2 for y, p in told]
        case "count":
            losses = [2 * ((y * math.log(y / p) if y else 0.0) - y + p) for y, p in told]
        case "quantile":
            losses = [0.9 * (y - p) if y > p else 0.1 * (p - y) for y, p in told]
        case "classes":
            losses = [-math.log(p[int(y)]) for y, p in told]
        case _:
            assert line.lists is not None
            held = [number for number in np.unique(line.lists) if not np.isnan(line.labels[line.lists == number]).any()]
            rows = np.isin(line.lists, held)
            found = list_ndcg(line.labels[rows], line.scores[rows], line.lists[rows], top=3)
            losses = (1.0 - found[~np.isnan(found)]).tolist()
    return sum(losses) / len(losses)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["number", "count", "quantile", "classes", "ranking", "learner"])
def test_every_kind_of_model_is_replayed_and_reported_by_its_own_metric(tmp_path: Path, kind: str) -> None:
    result = replayed(tmp_path, kind)
    asked = int((make()["visit"]["at"].values >= day_us(0)).sum())
    for line in result.lines.values():
        everything = line.months()[-1]
        own = lines(kind)[0].deployment.model.metric
        assert line.metric == own == next(iter(everything.metrics))
        assert everything.metrics[own] == pytest.approx(naive(kind, line))
        assert everything.predictions == len(line.scores) == asked
        assert all(value is not None for value in everything.metrics.values())
    found = result.compare("every week", "never")
    assert list(found.metrics) == list(result.lines["never"].months()[-1].metrics)
    if kind != "learner":
        acts = [d.act for d in result.lines["every week"].decisions if d.at_us > day_us(0)]
        assert acts.count("promote") >= 1
        again = result.compare("every week", "every week")
        assert all((i.low, i.high) == (0.0, 0.0) for i in again.metrics.values())


def test_logged_answers_of_several_classes_have_a_probability_of_each(tmp_path: Path) -> None:
    result = replayed(tmp_path, "classes")
    logged = worlds.predictions(tmp_path)
    scores = result.lines["every week"].scores
    assert [list((p.scores or {}).values()) for p in logged] == scores.tolist()
    assert [p.score for p in logged] == scores.max(axis=1).tolist()
    assert {tuple(p.scores or ()) for p in logged} == {CLASSES}


def test_lines_of_other_labels_are_not_compared(tmp_path: Path) -> None:
    number, count = lines("number")[1], lines("count")[1]
    both = [msgspec.structs.replace(number, main=True), msgspec.structs.replace(count, name="count")]
    with Replay(
        both,
        Recording(make(), [outcomes, visit.source]),
        tmp_path,
        ReplaySettings(start_us=day_us(0), until_us=day_us(9), seed=1),
    ) as running:
        result = running.run()
    assert not np.array_equal(result.lines["never"].labels, result.lines["count"].labels)
    with pytest.raises(Misuse, match=r"judged by squared_error\) and 'count' \(by poisson_deviance\)"):
        result.compare("never", "count")


@pytest.mark.fast
def test_differences_of_roots_are_those_of_drawn_weeks() -> None:
    rng = np.random.default_rng(0)
    labels, weeks = rng.normal(size=300), np.repeat(np.arange(6), 50)
    one, other = Judged(labels, labels + rng.normal(size=300)), Judged(labels, labels + 2 * rng.normal(size=300))
    root = next(m for m in measures("squared_error") if m.name == "root_mean_squared_error")
    found = root.difference(one, other, weeks, seed=4, repeats=300)
    assert found is not None
    drawn = []
    for counts in np.random.default_rng(4).multinomial(6, np.full(6, 1 / 6), size=300):
        rows = np.concatenate([np.flatnonzero(weeks == week) for week in np.repeat(np.arange(6), counts)])
        roots = [math.sqrt(np.mean((m.labels[rows] - m.scores[rows]) ** 2)) for m in (one, other)]
        drawn.append(roots[0] - roots[1])
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))
    assert found.above(0.0) is False
    assert found.below(0.0)
