"""What days are taken apart by: what the gate names, as far as a logged request has it."""

from __future__ import annotations

from sklearn.linear_model import LogisticRegression

from trimtab.core.expressions.nodes import Expression, col
from trimtab.events.definitions import Time, source
from trimtab.features.aggregates import mean
from trimtab.features.definitions import label, request, view
from trimtab.steering.candidates.references import request_slices
from trimtab.steering.definitions import BeatsChampion, beats_champion, deployment
from trimtab.training import model

TRIP = request(
    "trip", key="id", time="at", columns={"id": str, "at": Time, "city": str, "night": bool, "distance": float}
)
FARES = source("fares", key="id", time="paid_at", columns={"id": str, "paid_at": Time, "city": str, "tip": float})
TIPS = view("tips", source=FARES, by="city", features={"mean": mean("tip", over="1d")})
MODEL = model(
    "tip",
    request=TRIP,
    features=[{"distance": col("distance")}, TIPS],
    label=label(FARES, key="id", value=col("tip") > 0, wait="1d"),
    estimator=LogisticRegression,
    metric="log_loss",
)


def names(gate: BeatsChampion) -> list[str]:
    return [one if isinstance(one, str) else one.name for one in request_slices(deployment(MODEL, gate=gate))]


def test_expressions_over_the_request_join_its_columns() -> None:
    far: dict[str, Expression] = {"far": col("distance") > 1000, "generous": col("tips.mean") > 2}
    assert names(beats_champion()) == ["city", "night"]
    assert names(beats_champion(slices=far)) == ["city", "night", "far"]  # a logged request has no features
    assert names(beats_champion(slices=["night"])) == ["night"]
    assert names(beats_champion(slices={"city": col("city").fill_null("none")})) == ["night", "city"]
