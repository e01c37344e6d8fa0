"""A small generated world: flights of four carriers, landings that say which were late, and a model of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from sklearn.linear_model import LogisticRegression

from trimtab.core.columns.data import Columns, column
from trimtab.core.expressions.nodes import col
from trimtab.core.records import GateRecord
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.definitions import Time, source
from trimtab.features.aggregates import mean
from trimtab.features.definitions import label, request, view
from trimtab.registry import Version
from trimtab.testing.builders import a_gate_record
from trimtab.training import Model, TrainingSet, build_training_set, model

START_US = 1_356_998_400_000_000  # 2013-01-01


class World(msgspec.Struct, frozen=True):
    """Histories, and the model that is trained on them."""

    model: Model
    requests: Columns
    frames: dict[str, EventFrame]
    cut_us: int

    def training_set(self, *, cut_us: int | None = None, model: Model | None = None) -> TrainingSet:
        cut_us = self.cut_us if cut_us is None else cut_us
        return build_training_set(model or self.model, self.requests, self.frames, cut_us=cut_us, positions={"p0": 9})

    def passed_gate(self, candidate: Version, champion: Version | None, *, judged_at_us: int) -> GateRecord:
        """Return the gate record of a candidate that passed."""
        return a_gate_record(
            id=f"gate_{candidate.number}_{champion.number if champion else 0}",
            model=candidate.model,
            candidate=candidate.id,
            champion=champion.id if champion else None,
            judged_at_us=judged_at_us,
        )


def make_world(
    *,
    days: int = 40,
    per_day: int = 30,
    seed: int = 0,
    estimator: Callable[[], Any] = LogisticRegression,
    metric: Any = "log_loss",
    value: Any = None,
    late: Callable[[np.random.Generator, Any], Any] | None = None,
) -> World:
    generator = np.random.default_rng(seed)
    rows = days * per_day
    at_us = START_US + np.sort(generator.integers(0, days * DAY_US, rows))
    carriers = generator.integers(0, 4, rows)
    distance = generator.uniform(100, 3000, rows)
    keys = [f"f{i}" for i in range(rows)]
    names = [f"c{c}" for c in carriers]
    risk = 1 / (1 + np.exp(2.0 - carriers + (distance - 1500) / 1000))
    delay = np.where(generator.random(rows) < risk, 45.0, 3.0) if late is None else late(generator, risk)
    landed_us = at_us + 2 * HOUR_US + generator.integers(0, HOUR_US, rows)
    flight = request(
        "flight",
        key="flight_id",
        time="scheduled_at",
        columns={"flight_id": str, "carrier": str, "scheduled_at": Time, "distance": float},
    )
    landings = source(
        "landings",
        time="landed_at",
        key="flight_id",
        columns={"flight_id": str, "carrier": str, "landed_at": Time, "delay": float},
    )
    is_late = col("delay") >= 30
    made = model(
        "late_flight",
        request=flight,
        features=[
            view("carrier", source=landings, by="carrier", features={"late_rate_7d": mean(is_late, over="7d")}),
            {"name": col("carrier").category(), "km": col("distance")},
        ],
        label=label(landings, key="flight_id", value=is_late if value is None else value, wait="1d"),
        estimator=estimator,
        metric=metric,
    )
    landed = np.flatnonzero(generator.random(rows) < 0.97)
    frame = EventFrame(
        "landings",
        Columns.of(
            {
                "flight_id": ("str", [keys[i] for i in landed]),
                "carrier": ("str", [names[i] for i in landed]),
                "landed_at": ("time", landed_us[landed].tolist()),
                "delay": ("float", delay[landed].tolist()),
            }
        ),
        landed_us[landed],
        landed_us[landed],
        np.full(landed.size, NEVER_US),
        np.zeros(landed.size, bool),
        np.zeros(landed.size, np.int16),
        np.arange(1, landed.size + 1),
        ("p0",),
    )
    requests = Columns(
        {
            "flight_id": column("str", keys),
            "carrier": column("str", names),
            "scheduled_at": column("time", at_us.tolist()),
            "distance": column("float", distance.tolist()),
        }
    )
    return World(made, requests, {"landings": frame}, START_US + days * DAY_US)
