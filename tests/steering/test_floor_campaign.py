"""A campaign on generated streams: useful models stay above the floor, and useless ones do not pass it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from lightgbm import LGBMClassifier
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from trimtab.core.columns.data import Columns
from trimtab.core.expressions.nodes import col
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.events import Time, source
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.features.definitions import label, request
from trimtab.stats.metrics.losses import row_losses
from trimtab.steering.gate.floor import floor_checks
from trimtab.training import Model, build_training_set, fit, model
from trimtab.training.judge.baselines import baseline_scores

DAYS, WINDOW, NAMES = 60, 14, "abcd"

sales = source("sales", time="at", key="id", columns={"id": str, "bought": bool})
visit = request("visit", key="id", time="at", columns={"id": str, "at": Time} | dict.fromkeys(NAMES, float))


def trees() -> Any:
    return LGBMClassifier(n_estimators=60, num_leaves=15, learning_rate=0.08)


def logistic() -> Any:
    return LogisticRegression(C=10)


def buyer(estimator: Callable[[], Any]) -> Model:
    wanted = label(sales, key="id", value="bought", wait="2d")
    features = [{name: col(name) for name in NAMES}]
    return model("buyer", request=visit, features=features, label=wanted, estimator=estimator, metric="log_loss")


class Stream(msgspec.Struct, frozen=True, eq=False):
    """A healthy stream: days have effects of their own (sd .15 logit, correlation .4), hours of the week as well."""

    requests: Columns
    frame: EventFrame
    best: NDArray[np.float64]  # the true probability of each request, in the order of the requests

    @classmethod
    def drawn(cls, seed: int, *, per_day: int, strength: float, bent: bool) -> Stream:
        rng = np.random.default_rng(seed)
        rows = DAYS * per_day
        at_us = np.sort(rng.integers(0, DAYS * DAY_US, rows))
        effect = rng.normal(size=DAYS)
        for day in range(1, DAYS):
            effect[day] = 0.4 * effect[day - 1] + math.sqrt(1 - 0.16) * effect[day]
        x = rng.normal(size=(rows, len(NAMES)))
        line = x @ np.array([1.0, 0.6, -0.4, 0.0])
        wave = 0.2 * np.sin(2 * np.pi * (at_us // HOUR_US % 168) / 24)
        signal = -1.0 + strength * (line + (x[:, 0] * x[:, 1] if bent else 0.0)) + wave + 0.15 * effect[at_us // DAY_US]
        best = 1 / (1 + np.exp(-signal))
        bought = rng.random(rows) < best
        ids = [f"v{n}" for n in range(rows)]
        known_us = at_us + rng.integers(HOUR_US, 40 * HOUR_US, rows)
        columns = {name: ("float", x[:, place].tolist()) for place, name in enumerate(NAMES)}
        return cls(
            Columns.of({"id": ("str", ids), "at": ("time", at_us.tolist()), **columns}),  # type: ignore[arg-type]
            EventFrame(
                "sales",
                Columns.of(
                    {"id": ("str", ids), "bought": ("bool", bought.tolist()), "at": ("time", known_us.tolist())}
                ),
                known_us,
                known_us,
                np.full(rows, NEVER_US),
                np.zeros(rows, bool),
                np.zeros(rows, np.int16),
                np.arange(1, rows + 1),
                ("p0",),
            ),
            best,
        )

    def refusals(self, wanted: Model) -> tuple[list[str], bool]:
        """The baselines for which a candidate is refused that was fitted before the newest fortnight.

        And whether it is useful: above the floor if each label were replaced by its true probability.
        """
        made = build_training_set(wanted, self.requests, {"sales": self.frame}, cut_us=DAYS * DAY_US, positions={})
        end_us = (DAYS - 2) * DAY_US
        start_us = end_us - WINDOW * DAY_US
        learnt = made.usable & (made.at_us + 2 * DAY_US <= start_us)
        judged = np.flatnonzero(made.usable & (made.at_us >= start_us) & (made.at_us < end_us))
        fitted = fit(wanted, made, rows=learnt, seed=1)
        answers = {"": fitted.predict(made.features.values.take(judged))}
        baselines = baseline_scores(wanted, made, judged, learnt, seed=0)
        answers |= {name: one.scores for name, one in baselines.items() if one is not None}
        losses = {name: row_losses("log_loss", made.target[judged], scores) for name, scores in answers.items()}
        found = floor_checks(losses.pop(""), losses, made.at_us[judged])
        refused = [one.name.removeprefix("baseline ") for one in found if one.verdict == "failed"]
        true = {name: expected_loss(self.best[judged], scores) for name, scores in answers.items()}
        linear = true.pop("linear", math.inf)
        others = min(loss for name, loss in true.items() if name)
        useful = true[""] < others and true[""] <= linear + max(0.0, 0.2 * (others - linear))
        return [name for name in refused if name != "floor"], useful


def expected_loss(p: NDArray[np.float64], scores: NDArray[np.float64]) -> float:
    """The mean log loss of scores where a label is 1 with probability `p`."""
    return float(np.mean(-p * np.log(scores) - (1 - p) * np.log1p(-scores)))


def campaign(seeds: list[int]) -> tuple[int, int, int, int]:
    """Useful models and how many were refused, useless ones and how many were."""
    useful = refused = useless = caught = 0
    for number, seed in enumerate(seeds):
        per_day, strength = (200, 600, 2_000)[number % 3], (1.0, 0.5, 0.25)[number // 3 % 3]
        for bent in (False, True):
            stream = Stream.drawn(seed, per_day=per_day, strength=strength, bent=bent)
            for estimator in (logistic, trees):
                why, is_useful = stream.refusals(buyer(estimator))
                useful += is_useful
                refused += bool(why) and is_useful
                if why and is_useful:
                    print(f"refused: seed {seed}, {per_day} a day, x {strength}, {bent=}, {estimator.__name__}: {why}")
        noise = Stream.drawn(seed, per_day=per_day, strength=0.0, bent=False)
        for estimator in (logistic, trees):
            useless += 1
            caught += bool(noise.refusals(buyer(estimator))[0])
    return useful, refused, useless, caught


def test_useful_models_of_a_healthy_stream_are_above_the_floor_and_useless_ones_are_below() -> None:
    useful, refused, useless, caught = campaign([5])
    assert (useful, refused) == (4, 0)
    assert (useless, caught) == (2, 2)


@pytest.mark.soak
def test_the_floor_refuses_no_useful_model_of_healthy_streams(soak_report: Any) -> None:
    """`pytest -m soak -s tests/steering/test_floor_campaign.py`: 36 seeds that are drawn when it runs."""
    seeds = [int(seed) for seed in np.random.SeedSequence().generate_state(36)]
    useful, refused, useless, caught = campaign(seeds)
    print(f"{refused} of {useful} useful models refused, {caught} of {useless} useless ones")
    soak_report("floor", runs=useful, failures=refused, useless=float(useless), useless_refused=float(caught))
    assert refused <= useful // 50
