"""Plans say from past units what an experiment on such units would find."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from generated_days import START_US, experiment, metric

from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US
from trimtab.experiments.definitions import Switchback
from trimtab.experiments.reading.plan import MetricPlan, plan_experiment
from trimtab.experiments.reading.planted_runs import PastUnits, planted_runs
from trimtab.experiments.unit_values import UnitValues

DAYS, A_DAY = 28, 120


def past(seed: int = 1, *, hours_sd: float = 0.0) -> PastUnits:
    """Customers with a value, and one from before that explains 64 % of its variance; hours may differ."""
    rng = np.random.default_rng(seed)
    at_us = START_US + np.repeat(np.arange(DAYS), A_DAY) * DAY_US + rng.integers(0, DAY_US, DAYS * A_DAY)
    x = rng.normal(0.0, 1.0, at_us.size)
    hour = (at_us - START_US) // (DAY_US // 24)
    y = 20.0 + 4.0 * (0.8 * x + 0.6 * rng.normal(0.0, 1.0, at_us.size)) + rng.normal(0, hours_sd, DAYS * 24)[hour]
    count = rng.poisson(3.0, at_us.size) + 1.0
    return PastUnits(
        origin="visits",
        rows=[{"customer": f"c{number}"} for number in range(at_us.size)],
        at_us=at_us,
        values={
            "spent": UnitValues(y),
            "adjusted": UnitValues(y, x=x),
            "basket": UnitValues(y * count, d=count),
            "same": UnitValues(np.ones(at_us.size)),
        },
    )


@cache
def planned(*names: str, **given: object) -> dict[str, MetricPlan]:
    kinds = {"basket": {"kind": "ratio"}, "adjusted": {"before_us": DAY_US}}
    metrics = [metric(name, **kinds.get(name, {})) for name in names]
    found = plan_experiment(experiment(*metrics, **given), past(), effects=(0.02, 0.05))
    assert found.units_a_day == pytest.approx(A_DAY)
    return {one.metric: one for one in found.metrics}


def test_mean_noise_and_covariate_are_those_of_the_past() -> None:
    found = planned("spent")["spent"]
    assert found.mean == pytest.approx(20.0, abs=0.2)
    assert found.sd == pytest.approx(4.0, abs=0.1)
    assert found.explained is None
    assert found.day_sd < 0.3
    adjusted = planned("adjusted")["adjusted"]
    assert adjusted.explained == pytest.approx(0.64, abs=0.03)
    assert adjusted.sd == pytest.approx(4.0 * 0.6, abs=0.1)
    assert adjusted.plain_sd == pytest.approx(4.0, abs=0.1)  # what `power` takes as --sd, next to --explained
    (line,) = [
        one
        for one in plan_experiment(experiment(metric("adjusted", before_us=DAY_US)), past(), effects=[0.1]).lines()
        if one.startswith("adjusted (primary)")
    ]
    assert (
        f"standard deviation {adjusted.plain_sd:.4g}, of which the covariate explains 64% ({adjusted.sd:.4g} left)"
        in line
    )
    for plain, narrow in zip(found.rules, adjusted.rules, strict=True):
        assert narrow.smallest[28] == pytest.approx(0.6 * plain.smallest[28], rel=0.05)
    basket = planned("basket")["basket"]
    assert basket.mean == pytest.approx(20.0, abs=0.3)


def test_rules_that_may_be_read_at_any_time_need_more_days() -> None:
    rules = {one.rule: one for one in planned("spent")["spent"].rules}
    for name in ("2 %", "5 %"):
        days = {rule: one.days[name] for rule, one in rules.items()}
        assert days["fixed"] <= days["obrien_fleming"] < days["sequence"]
    assert rules["fixed"].days["2 %"] > rules["fixed"].days["5 %"]
    sizes = list(rules["sequence"].smallest.values())
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("rule", ["fixed", "sequence"])
def test_what_is_planned_is_what_runs_find(rule: str) -> None:
    """An effect that the plan finds in four of five cases is found by about four of five runs."""
    definition = experiment(metric("spent"), rule=rule, duration_us=DAYS * DAY_US)
    plan = {one.rule: one for one in plan_experiment(definition, past(), effects=[0.02]).metrics[0].rules}[rule]
    assert plan.smallest[28] is not None
    found = planted_runs(definition, past(), effect=plan.smallest[28], runs=40)
    assert 0.62 <= found.right / 40 <= 0.95


def test_switchbacks_see_what_hours_have_in_common() -> None:
    hours, hour_us = past(hours_sd=2.0), DAY_US // 24
    metrics = metric("spent")
    plain = plan_experiment(experiment(metrics), hours, effects=[0.02]).metrics[0]
    blocks = experiment(metrics, switchback=Switchback(every_us=hour_us))
    switched = plan_experiment(blocks, hours, effects=[0.02]).metrics[0]
    expected = 2.0 * np.sqrt(1 / 12 + 1 / 12)  # about twelve hours of each variant a day
    assert switched.day_sd == pytest.approx(expected, rel=0.3)
    assert plain.day_sd < 0.3 * expected


def test_a_guardrail_is_planned_for_its_margin() -> None:
    guardrail = metric("basket", kind="ratio", role="guardrail", margin=0.04)
    found = plan_experiment(experiment(metric("spent"), guardrail), past(), effects=[0.02])
    assert [list(one.rules[0].days) for one in found.metrics] == [["2 %"], ["4 %"]]
    assert any("basket (guardrail)" in line for line in found.lines())


def test_other_metrics_that_did_not_vary_are_left_out_and_said() -> None:
    definition = experiment(metric("spent"), metric("same", role="secondary"))
    found = plan_experiment(definition, past(), effects=[0.02])
    assert ([one.metric for one in found.metrics], found.constant) == (["spent"], ["same"])
    assert "Not planned (constant, 0 or without values over the past units): same." in list(found.lines())


def test_a_median_of_0_is_named() -> None:
    units = past()
    net = np.where(np.arange(len(units.rows)) % 5 < 3, 0.0, 3.0)
    units = msgspec.structs.replace(units, values={**units.values, "net": UnitValues(net)})
    with pytest.raises(Misuse, match="plan: net is 0 over the past units"):
        plan_experiment(experiment(metric("net", kind="quantile")), units, effects=[0.02])
    guardrail = metric("net", kind="quantile", role="guardrail", margin=0.1)
    assert plan_experiment(experiment(metric("spent"), guardrail), units, effects=[0.02]).constant == ["net"]


@pytest.mark.slow
def test_a_guardrail_without_events_is_planned_for_how_rare_they_must_be() -> None:
    units = past()
    units = msgspec.structs.replace(units, values={**units.values, "crashes": UnitValues(np.zeros(len(units.rows)))})
    crashes = metric("crashes", kind="proportion", role="guardrail", margin=0.1, better="lower")
    found = plan_experiment(experiment(metric("spent"), crashes), units, effects=[0.02])
    assert found.constant == ["crashes"]
    days = int(np.ceil(3_687.1 / (found.units_a_day / 2)))  # ln(.025) / ln(.999)
    assert found.without_events == {"crashes": days}
    assert (
        f"crashes: if no unit has an event, it is shown to be within its margin after about {days} days."
        in found.lines()
    )
    often = metric("crashes", kind="proportion", role="guardrail", margin=0.1, negligible=0.5, better="lower")
    found = plan_experiment(experiment(metric("spent"), often), units, effects=[0.02])
    assert found.without_events == {"crashes": 3}  # no guardrail is judged earlier
    assert next(iter(found.lines())) == "checkout: 120 new units a day (28 days of visits, 2024-03-01 to 2024-03-28)"
    three = experiment(metric("spent"), variants={"blue": 1, "green": 2, "red": 3})
    (said, *_) = plan_experiment(three, units, effects=[0.02]).lines()
    assert said == "checkout: 80 new units a day in blue and green (28 days of visits, 2024-03-01 to 2024-03-28)"
    whole = msgspec.structs.replace(
        units, values={**units.values, "crashes": UnitValues(np.full(len(units.rows), 86_400.0))}
    )
    timed = metric("crashes", kind="time_to_event", within_us=DAY_US, role="guardrail", margin=0.1)
    assert plan_experiment(experiment(metric("spent"), timed), whole, effects=[0.02]).without_events == {
        "crashes": days
    }
    # there is no rule for quantiles, and none for events that are good, such as orders
    for given in ({"kind": "quantile", "better": "lower"}, {"kind": "proportion"}):
        other = metric("crashes", role="guardrail", margin=0.1, **given)
        assert not plan_experiment(experiment(metric("spent"), other), units, effects=[0.02]).without_events


def with_days(units: list[int]) -> PastUnits:
    """A tenth of the customers buys; the days have these numbers of new customers."""
    at_us = START_US + np.repeat(np.arange(len(units)), units) * DAY_US
    bought = (np.random.default_rng(2).random(at_us.size) < 0.1) * 1.0
    rows = [{"customer": f"c{number}"} for number in range(at_us.size)]
    return PastUnits(origin="visits", rows=rows, at_us=at_us, values={"bought": UnitValues(bought)})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("units", "said"),
    [
        ([1_500 if day % 7 == 3 else 75 for day in range(28)], "Days differ: they had 75 to 1,500 new units, so 28"),
        ([int(500 * 0.9**day) for day in range(28)], "New units become fewer: 500 on the first day, 29 on day 28."),
        ([int(20 * 1.12**day) for day in range(28)], "New units become more: 20 on the first day, 426 on day 28."),
    ],
)
def test_days_of_unequal_traffic_are_planned_as_they_come(units: list[int], said: str) -> None:
    """What the plan finds in 28 days is found by about four of five runs on these days."""
    definition = experiment(metric("bought", kind="proportion"), rule="fixed", duration_us=DAYS * DAY_US)
    plan = plan_experiment(definition, with_days(units), effects=[0.2])
    (equal,) = plan_experiment(definition, with_days([sum(units) // DAYS] * DAYS), effects=[0.2]).metrics
    assert plan.notes[0].startswith(said)
    assert said in str(plan).replace("\n  ", " ")
    fixed, of_equal = plan.metrics[0].rules[3], equal.rules[3]
    assert fixed.smallest[28] > 1.02 * of_equal.smallest[28]
    if "fewer" in said:
        assert (fixed.days["20 %"], fixed.smallest[56] > 0.95 * fixed.smallest[28]) == (None, True)
    found = planted_runs(definition, with_days(units), effect=fixed.smallest[28], runs=40)
    assert 0.62 <= found.right / 40 <= 0.95


def test_with_a_ramp_customers_who_come_again_are_taken_in_later() -> None:
    fewer = with_days([int(500 * 0.9**day) for day in range(28)])
    ramp = {"share": 0.1, "ramp": ((20 * DAY_US, 1.0),)}
    plain, ramped = (
        plan_experiment(experiment(metric("bought", kind="proportion"), **given), fewer, effects=[0.2]).metrics[0]
        for given in ({}, ramp)
    )
    sizes = [one.rules[3].smallest for one in (plain, ramped)]
    assert sizes[1][14] > 2.5 * sizes[0][14]
    assert sizes[1][56] == pytest.approx(sizes[0][56], rel=0.1)  # by then, nearly all have come with either


def test_unequal_days_do_not_seem_to_differ_in_their_effect() -> None:
    units = with_days([600 if day % 7 == 3 else 30 for day in range(28)])  # only units vary
    assert plan_experiment(experiment(metric("bought", kind="proportion")), units, effects=[0.2]).metrics[0].day_sd == 0


@pytest.mark.slow
def test_a_ramp_and_the_holdout_take_units_from_the_plan() -> None:
    """What the plan finds in 28 days is found by about four of five runs with the ramp and the holdout."""
    ramp = {"share": 0.01, "ramp": ((7 * DAY_US, 0.1), (14 * DAY_US, 1.0))}
    metrics = metric("bought", kind="proportion")
    definition = experiment(metrics, rule="fixed", duration_us=DAYS * DAY_US, **ramp)
    units = msgspec.structs.replace(with_days([800] * DAYS), holdout=0.2)
    plan = plan_experiment(definition, units, effects=[0.2])
    without = plan_experiment(experiment(metrics), units, effects=[0.2])
    assert plan.units_a_day == without.units_a_day == pytest.approx(0.8 * 800, rel=0.03)
    said = "By the ramp, 1 % on day 1, 10 % on day 8, 100 % on day 15 take part"
    assert plan.notes[-1].startswith(said)
    assert not without.notes
    fixed, plain = plan.metrics[0].rules[3], without.metrics[0].rules[3]
    assert fixed.days["20 %"] >= plain.days["20 %"] + 12
    assert fixed.smallest[14] > 3.0 * plain.smallest[14]
    found = planted_runs(definition, units, effect=fixed.smallest[28], runs=40)
    assert 0.62 <= found.right / 40 <= 0.95


def test_a_small_history_is_said_and_how_far_off_its_plan_may_be() -> None:
    short = plan_experiment(experiment(metric("bought", kind="proportion")), with_days([60] * 4), effects=[0.5])
    bought = np.random.default_rng(1).binomial(240, short.metrics[0].mean, 10_000) / 240
    spread = float(np.std(np.log(1.0 / bought - 1.0)))  # of (sd / mean)^2, to which days are proportional
    assert short.metrics[0].factor == pytest.approx(np.exp(1.96 * spread), rel=0.1)
    assert short.notes == ["The history is short: 4 days show little of how days differ. Use 14 or more."]
    assert "divide and multiply each number of days by 1." in " ".join(str(short).split())
    assert "(4 days of visits, 2024-03-01 to 2024-03-04)" in str(short)
    long = plan_experiment(experiment(metric("bought", kind="proportion")), with_days([800] * 28), effects=[0.5])
    assert 1.0 < long.metrics[0].factor < 1.05
    assert "The history" not in str(long)


def test_a_printed_plan_keeps_the_rows_of_its_tables() -> None:
    plan = plan_experiment(experiment(metric("spent")), past(), effects=[0.02, 0.05, 0.1])
    rows = [line for line in repr(plan).splitlines() if line.startswith(("sequence", "msprt", "obrien", "fixed"))]
    assert len({len(row) for row in rows}) == 1
    assert len(rows) == 4


def test_what_cannot_be_planned_is_refused() -> None:
    for effects in ([0.0], [], ["x"], 0.05, "0.05"):
        with pytest.raises(Misuse, match=r"^effects=.*\. Give a list of shares above 0"):  # `power` says the same
            plan_experiment(experiment(metric("spent")), past(), effects=effects)
    with pytest.raises(Misuse, match="does not vary"):
        plan_experiment(experiment(metric("same")), past(), effects=[0.1])
    with pytest.raises(Misuse, match="Ingest more history"):
        plan_experiment(experiment(metric("spent"), duration_us=2 * DAY_US), past().first_days(DAY_US), effects=[0.1])
