"""What people read has its unit, and what a terminal shows has the novelty of a change."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from generated_days import days_of, experiment, metric, normal_days, state_of, sums

from trimtab.core.time import DAY_US
from trimtab.experiments.reading.document import experiment_document
from trimtab.experiments.reading.looks import in_units, shown_effect
from trimtab.experiments.reading.planted_runs import PastUnits, planted_runs
from trimtab.experiments.reading.reading import read_experiment
from trimtab.experiments.unit_values import UnitValues
from trimtab.report import terminal_text


def test_times_and_shares_are_shown_with_their_units() -> None:
    definition = experiment(metric("until", kind="time_to_event", better="lower"))
    days = days_of(normal_days(np.random.default_rng(1), days=10, mean=3_600.0, sd=900.0, effect=-0.1, name="until"))
    text = terminal_text(experiment_document(read_experiment(definition, state_of(definition), days)))
    row = next(line for line in text.splitlines() if line.startswith("green") and "until" in line)
    assert row.count(" min ") == 2
    assert "2.38 d" in in_units(205_500.0, "time_to_event")
    rng = np.random.default_rng(4)
    definition = experiment(metric(), metric("crash", kind="proportion", role="guardrail", margin=0.1, better="lower"))
    values = {
        v: {**of, "crash": [(rng.random(500) < 0.08 * (v == "green")) * 1.0 for _ in range(10)]}
        for v, of in normal_days(rng, days=10).items()
    }
    reading = read_experiment(definition, state_of(definition), days_of(values))
    lines = terminal_text(experiment_document(reading)).splitlines()
    row = next(line for line in lines if line.startswith("green") and " crash " in line)
    assert " 0 %  " in row  # the control
    assert row.count("%-points") == 5  # the effect, its interval, and the distance from the margin


def test_what_is_not_known_is_not_shown_as_nan() -> None:
    """A ratio of nothing has no value."""
    definition = experiment(metric(), metric("errors", kind="ratio", role="guardrail", margin=0.1, better="lower"))
    values = normal_days(np.random.default_rng(4), days=10)
    for of in values.values():
        of["errors"] = [np.zeros(300)] * 10
    text = terminal_text(experiment_document(read_experiment(definition, state_of(definition), days_of(values))))
    assert "nan" not in text.split("Effects")[1]
    assert "variant  metric   verdict  effect (interval)" in text  # a page shows the first columns without scrolling


def test_a_time_without_an_effect_has_no_interval() -> None:
    definition = experiment(metric("until", kind="time_to_event", better="lower"))
    never = days_of({v: {"until": [np.full(300, 0.0)] * 6} for v in ("blue", "green")})
    (one,) = read_experiment(definition, state_of(definition), never).metrics
    assert shown_effect(one) == "until +0 s (no interval)"


def test_a_terminal_shows_the_effect_by_days_and_weeks() -> None:
    rng = np.random.default_rng(2)
    definition = experiment(metric(by=("customer",), within_us=2 * DAY_US))
    days = days_of(normal_days(rng, days=10, effect=0.1))
    days = [
        msgspec.structs.replace(day, variants={
            name: msgspec.structs.replace(one, ages={"revenue": [sums(rng.normal(5.0, 1.0, 500)) for _ in range(2)]})
            for name, one in day.variants.items()
        }) for day in days
    ]  # fmt: skip
    text = terminal_text(experiment_document(read_experiment(definition, state_of(definition), days)))
    assert "Novelty: by days since the first exposure" in text
    assert "day 2" in text
    assert "Novelty: by week" in text
    assert "until 2024-03-08" in text


def test_the_cost_of_a_planted_effect_on_a_ratio_is_that_of_its_numerator() -> None:
    rng, n = np.random.default_rng(3), 4_000
    past = PastUnits(
        origin="visits", rows=[{"customer": str(k)} for k in range(n)], at_us=np.sort(rng.integers(0, 8 * DAY_US, n)),
        values={"basket": UnitValues(rng.normal(20.0, 4.0, n), d=rng.integers(1, 4, n) + 0.0)},
    )  # fmt: skip
    found = planted_runs(experiment(metric("basket", kind="ratio")), past, effect=0.2, runs=2)
    assert found.cost_in == {"basket": "of its numerator"}
    assert list(found.lines())[-1].endswith("(of its numerator)")
    assert found.cost["basket"] == np.float64(0.2) * past.values["basket"].y.mean() * found.worse_units
