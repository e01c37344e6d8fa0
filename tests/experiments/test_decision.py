"""The recommendation says in plain words what to do, how long it takes, and what cannot be seen."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from generated_days import START_US, changed, days_of, experiment, metric, normal_days, state_of, sums

from trimtab.core.time import DAY_US
from trimtab.events.definitions import source
from trimtab.experiments.definitions import Switchback
from trimtab.experiments.reading.decision import days_needed, smallest_effect
from trimtab.experiments.reading.effects import looks_of
from trimtab.experiments.reading.looks import Look
from trimtab.experiments.reading.reading import read_experiment
from trimtab.experiments.reading.results import Recommendation
from trimtab.experiments.records import ExperimentDay, VariantDay


def look(difference: float, reach: float, control: float = 10.0) -> Look:
    low, high = difference - reach, difference + reach
    return Look(
        until_us=0,
        units=(100, 100),
        control=control,
        variant=control + difference,
        difference=difference,
        low=low,
        high=high,
        relative=difference / control,
        relative_low=low / control,
        relative_high=high / control,
        p=None,
        method="test",
    )


def read(seed: int, *, days: int, **given: object) -> Recommendation:
    definition = experiment()
    values = normal_days(np.random.default_rng(seed), days=days, **given)
    return read_experiment(definition, state_of(definition), days_of(values)).decision


def test_an_interval_of_half_the_width_takes_four_times_the_days() -> None:
    assert days_needed(look(0.5, 1.0), 10, 0.5) == pytest.approx(40)
    assert smallest_effect(experiment(rule="fixed"), look(0.5, 1.0), 10, 40) == pytest.approx(0.05 * 1.42)


def test_too_few_days_say_so() -> None:
    found = read(1, days=2, effect=0.02)
    assert found.act == "keep running"
    assert "too early" in found.text


def test_why_nothing_is_compared_yet_is_said() -> None:
    definition = experiment()
    days = days_of(normal_days(np.random.default_rng(1), days=4, units=1))

    def said(some: list[ExperimentDay], **given: object) -> str:
        of = experiment(**given) if given else definition
        return read_experiment(of, state_of(of), some).decision.text

    assert said([]) == "keep running: no day is closed yet. The first one closes on 2024-03-02 at the earliest."
    red = [msgspec.structs.replace(one, excluded="red window: x was null") for one in days]
    assert said(red) == "keep running: 4 closed days, and none counts (red window: x was null)."
    few = "fewer than two units of the control, or of every other variant, have a value of revenue"
    few += " after 1 closed day that"
    assert said([*red[:3], *days[:1]]) == f"keep running: {few} counts."
    assert said(days[:1], duration_us=DAY_US) == f"no difference shown: {few} counts."
    planned = {"rule": "obrien_fleming", "looks": 2, "duration_us": 10 * DAY_US}
    assert said(days, **planned) == "keep running: no look is due after 4 closed days."


def test_bounds_that_say_nothing_are_not_shown() -> None:
    """Switchbacks with blocks of a day had an interval of -46831450924913.6 % to 46831450924946.7 %."""
    rng, days = np.random.default_rng(0), []
    definition = experiment(rule="msprt", switchback=Switchback(every_us=DAY_US))
    for number, one in enumerate(normal_days(rng, days=14, units=200)["blue"]["revenue"]):
        name = "blue" if rng.random() < 0.5 else "green"
        there = VariantDay(units=200, metrics={"revenue": sums(one + rng.normal(0.0, 2.0))})
        variants = {"blue": VariantDay(), "green": VariantDay(), name: there}
        day_us = START_US + number * DAY_US
        days.append(ExperimentDay(experiment="checkout", generation=1, day_us=day_us, variants=variants))
    reading = read_experiment(definition, state_of(definition), days)
    look = reading.metrics[0].looks[-1]
    assert (look.relative_low, look.beyond_low) == (None, None)
    assert " e+" not in reading.decision.text
    assert "(no interval)" in "".join(reading.lines())


def test_the_wait_until_a_variant_is_proven_worse_is_called_that() -> None:
    found = read(1, days=8, effect=-0.02)
    assert "more days until green is proven worse: revenue -" in found.text
    assert "more days to decide about revenue +" in read(1, days=8, effect=0.02).text


def test_the_remaining_days_are_about_right() -> None:
    """After two weeks, an effect that takes 25 days is rarely given up, and the said days are near those it takes."""
    definition = experiment()
    acts, errors = [], []
    for seed in range(30):
        days = days_of(normal_days(np.random.default_rng(seed), days=90, effect=0.02))
        found = read_experiment(definition, state_of(definition), days[:14]).decision
        acts.append(found.act)
        looks = looks_of(definition, definition.metrics[0], state_of(definition), days, "green")
        took = next((number for number, one in enumerate(looks, 1) if one.low is not None and one.low > 0), 90)
        if found.days_more is not None:
            errors.append((took - 14) / found.days_more)
    assert acts.count("cannot be seen") <= 3
    assert acts.count("stop") == 0
    assert len(errors) >= 15
    assert 0.4 < float(np.median(errors)) < 2.5


def test_new_units_that_become_fewer_are_not_forecast_as_before() -> None:
    """Of 6,000 customers, a tenth visits each day: after a month there are nearly no new ones."""

    def fewer(days: int, effect: float) -> Recommendation:
        values = normal_days(np.random.default_rng(1), days=days, units=300, effect=effect)
        left = {
            name: {"revenue": [y[: int(300 * 0.9**day)] for day, y in enumerate(of["revenue"])]}
            for name, of in values.items()
        }
        return read_experiment(experiment(), state_of(experiment()), days_of(left)).decision

    early, late = fewer(8, 0.04), [fewer(days, 0.01) for days in (14, 28, 40)]
    assert "(600 on the first day, 286 on the newest), and if this goes on, later days add less than" in early.text
    for one in late:
        assert one.days_more is None
        assert "new units become fewer (600 on the first day, " in one.text
        assert "so more days add little" in one.text
    assert late[-1].act == "cannot be seen"
    sizes = [one.smallest for one in late if one.smallest is not None]
    assert len(sizes) == 3
    assert max(sizes) < 1.4 * min(sizes)  # what 60 days can show is known after 14
    assert "become fewer" not in read(1, days=14, effect=0.02).text


def test_a_small_effect_cannot_be_seen_with_little_traffic() -> None:
    found = read(3, days=20, units=50, effect=0.0)
    assert found.act == "cannot be seen"
    assert "the smallest effect that 60 days can show is about" in found.text
    assert found.smallest is not None
    assert 0.01 < found.smallest < 0.3


def test_a_worse_variant_is_stopped() -> None:
    found = read(4, days=30, effect=-0.05)
    assert found.act == "stop"
    assert found.text.startswith("stop green: it is worse: revenue -")
    assert found.variant == "green"


def test_the_end_without_a_difference_says_what_would_have_been_seen() -> None:
    definition = experiment(rule="fixed", duration_us=14 * DAY_US)
    days = days_of(normal_days(np.random.default_rng(5), days=14))
    found = read_experiment(definition, state_of(definition), days).decision
    assert found.act == "no difference shown"
    assert "would probably have been seen" in found.text


def test_a_better_variant_whose_guardrail_is_open_is_said_to_be_better() -> None:
    definition = experiment(metric(), metric("waits", role="guardrail", better="lower", margin=0.001))
    revenue = normal_days(np.random.default_rng(12), days=20, effect=0.1)
    waits = normal_days(np.random.default_rng(13), days=20, name="waits")
    days = days_of({variant: revenue[variant] | waits[variant] for variant in revenue})
    found = read_experiment(definition, state_of(definition), days).decision
    assert found.act != "ship"
    assert "is proven better, but guardrail waits (distance from its margin: -0.398 to +0.259, and" in found.text


def test_the_best_of_several_variants_is_shipped_and_a_worse_one_is_named() -> None:
    definition = experiment(metric(), variants={"blue": 1, "green": 2, "red": 3, "grey": 4})
    rng = np.random.default_rng(6)
    values = normal_days(rng, days=30, effect=0.05)
    values["red"] = normal_days(rng, days=30, effect=0.12)["green"]
    values["grey"] = normal_days(rng, days=30, effect=-0.1)["green"]
    found = read_experiment(definition, state_of(definition), days_of(values)).decision
    assert (found.act, found.variant) == ("ship", "red")
    without = {name: values[name] if name != "red" else normal_days(rng, days=30)["green"] for name in values}
    without["green"] = normal_days(rng, days=30)["green"]
    found = read_experiment(definition, state_of(definition), days_of(without)).decision
    assert found.act in ("keep running", "cannot be seen")
    assert "Stop grey" in found.text
    assert f"{found.variant}: revenue " in found.text
    few = {name: {"revenue": one["revenue"][:4]} for name, one in without.items()}
    zero = {name: {"revenue": [day * 0.0 for day in one["revenue"]]} for name, one in few.items()}
    found = read_experiment(definition, state_of(definition), days_of(zero)).decision
    assert f"say anything about revenue of {found.variant} after 4 closed days" in found.text


def test_an_experiment_that_ended_before_its_first_look_says_so() -> None:
    definition = experiment(rule="obrien_fleming", duration_us=20 * DAY_US, looks=2)
    days = days_of(normal_days(np.random.default_rng(8), days=5, effect=0.5))
    running = read_experiment(definition, state_of(definition), days).decision
    assert running.act == "wait"
    stopped = state_of(definition, phase="stopped", ended_at_us=START_US + 5 * DAY_US)
    ended = read_experiment(definition, stopped, days).decision
    assert ended.text == "no difference shown: it ended before its first look."


def test_without_an_interval_more_days_are_needed_and_nothing_is_given_up() -> None:
    values = normal_days(np.random.default_rng(9), days=12, mean=0.0, sd=0.0, day_sd=0.0)
    definition = experiment()
    found = read_experiment(definition, state_of(definition), days_of(values)).decision
    assert found.act == "keep running"
    assert found.text == "keep running: too few days or events to say anything about revenue after 12 closed days."
    assert days_needed(look(math.inf, math.inf), 3, math.inf) == math.inf


def test_days_without_units_do_not_change_the_forecast() -> None:
    definition = experiment()
    days = days_of(normal_days(np.random.default_rng(0), days=14, effect=0.02))
    empty = [changed(days[0], day_us=START_US + day * DAY_US, variants={}) for day in range(14, 34)]
    plain, paused = (read_experiment(definition, state_of(definition), some).decision for some in (days, days + empty))
    assert plain.days_more is not None or plain.smallest is not None
    assert (paused.days_more, paused.smallest) == (plain.days_more, plain.smallest)


def test_an_early_planned_look_gives_nothing_up() -> None:
    definition = experiment(rule="obrien_fleming", duration_us=20 * DAY_US, looks=4)
    days = days_of(normal_days(np.random.default_rng(10), days=5, units=100, effect=0.03))
    found = read_experiment(definition, state_of(definition), days).decision
    assert (found.act, found.days_more) == ("keep running", None)
    assert "at look 1 of 4" in found.text


def test_harm_in_a_one_sided_experiment_is_not_forecast_to_be_decided() -> None:
    definition = experiment(two_sided=False)
    days = days_of(normal_days(np.random.default_rng(14), days=20, effect=-0.2))
    found = read_experiment(definition, state_of(definition), days).decision
    assert found.days_more is None
    assert "at this rate" not in found.text


def test_a_secondary_metric_is_better_only_after_the_correction() -> None:
    names = [f"m{number}" for number in range(12)]
    definition = experiment(metric(), *(metric(name, role="secondary") for name in names))
    values = normal_days(np.random.default_rng(15), days=20)
    for number, name in enumerate(names):
        more = normal_days(np.random.default_rng(100 + number), days=20, name=name, effect=0.02 * (number == 0))
        values = {variant: values[variant] | more[variant] for variant in values}
    found = read_experiment(definition, state_of(definition), days_of(values)).metrics
    for one in found[1:]:
        assert one.adjusted_p is not None
        assert (one.verdict == "open") == (one.adjusted_p > 0.05)


def test_without_a_metric_nothing_is_compared() -> None:
    definition = experiment()
    definition = msgspec.structs.replace(definition, metrics=())
    found = read_experiment(definition, state_of(definition), days_of(normal_days(np.random.default_rng(1), days=3)))
    assert "no metric is declared" in found.decision.text


@pytest.mark.parametrize("rule", ["sequence", "msprt", "fixed"])
def test_a_harmful_guardrail_stops_a_one_sided_experiment(rule: str) -> None:
    crash = metric("crash", role="guardrail", better="lower", margin=0.3)
    definition = experiment(metric(), crash, rule=rule, two_sided=False, duration_us=20 * DAY_US)
    rng, values = np.random.default_rng(5), {"blue": {}, "green": {}}
    for name, effect in (("revenue", 0.0), ("crash", 1.0)):
        for variant, found in normal_days(rng, days=20, effect=effect, name=name).items():
            values[variant] |= found
    reading = read_experiment(definition, state_of(definition), days_of(values))
    assert reading.decision.text.startswith("stop green: guardrail crash is worse by more than its margin of 30 %")
    assert "those of guardrails have both bounds" in reading.guarantee


def test_a_one_sided_experiment_says_that_it_never_proves_harm() -> None:
    definition = experiment(rule="fixed", two_sided=False, duration_us=20 * DAY_US)
    days = days_of(normal_days(np.random.default_rng(5), days=20, effect=-0.3))
    text = read_experiment(definition, state_of(definition), days).decision.text
    assert "improvements above" in text
    assert "it looks worse, which an experiment with two_sided=False cannot prove" in text


def test_a_stop_by_a_guardrail_shows_the_bound_that_decided() -> None:
    """The interval of the effect may contain the margin, because the control's value is uncertain as well."""
    crash = metric("crash", kind="proportion", role="guardrail", better="lower", margin=0.5)
    definition, rng = experiment(metric(), crash, rule="fixed", duration_us=14 * DAY_US), np.random.default_rng(3)
    for _ in range(100):
        values = normal_days(rng, days=14)
        for name, share in (("blue", 0.02), ("green", 0.045)):
            values[name]["crash"] = [(rng.random(80) < share) * 1.0 for _ in range(14)]
        reading = read_experiment(definition, state_of(definition), days_of(values))
        found = reading.metrics[-1]
        low = found.looks[-1].relative_low
        if found.verdict == "worse" and low is not None and low < 0.5:
            break
    assert found.verdict == "worse"
    least = f"{100.0 * found.looks[-1].beyond_low:.3g}"
    text = reading.decision.text
    assert text.endswith(f"which is at least {least} %-points more than the margin allows")
    assert " to " not in text


@pytest.mark.parametrize(
    ("kind", "cap", "said"),
    [
        ("mean", None, ": cap= would cut their values"),
        ("mean", 1e6, "a smaller cap= cuts more"),
        ("ratio", 1e6, "or of its denominator, which cap= does not cut: keep such units out, by where="),
    ],
)
def test_a_few_huge_units_are_explained_by_what_cap_cuts(kind: str, cap: float | None, said: str) -> None:
    definition, rng = experiment(metric(kind=kind, cap=cap)), np.random.default_rng(1)
    days = days_of({name: {"revenue": [rng.random(400) for _ in range(5)]} for name in ("blue", "green")})
    huge = sums(np.array([1e6, *rng.random(399)]))
    for day in days:
        for one in day.variants.values():
            own = huge if day is days[0] else one.metrics["revenue"]
            with_d = msgspec.structs.replace(own, d=own.y, dd=own.yy, yd=own.yy)
            one.metrics["revenue"] = with_d if kind == "ratio" else own
    assert said in read_experiment(definition, state_of(definition), days).decision.text


def test_what_is_true_of_several_metrics_of_a_source_is_noted_once_in_their_order() -> None:
    orders = source("orders", time="at", columns={"customer": str})
    names = ("spent", "bought", "basket")
    several = [metric(name, source=orders, by=("customer",)) for name in names]
    definition, rng = experiment(*several), np.random.default_rng(5)
    came = {v: [(rng.random(200) < (0.3 if day < 7 else 0.0)) * 1.0 for day in range(9)] for v in ("blue", "green")}
    days = days_of({v: dict.fromkeys(names, some) for v, some in came.items()})
    late = {"basket": {"green": 3}, "bought": {"green": 5, "blue": 1}, "spent": {"blue": 1, "green": 5}}
    days[2] = changed(days[2], late=late)
    down, same, other = read_experiment(definition, state_of(definition), days).notes
    assert down.startswith("no unit of 2024-03-08, 2024-03-09 has any event of spent, bought, basket: if its feed")
    assert same.startswith("events of spent, bought came after their day was closed and do not count: 1 of blue, 5 of")
    assert other.startswith("events of basket came after their day was closed and do not count: 3 of green.")


def test_an_imbalance_in_all_slices_of_an_attribute_is_not_blamed_on_them() -> None:
    definition, counts = experiment(slices=("site", "page")), {"blue": 700, "green": 300}
    rows = {name: {"revenue": [np.ones(count)] * 3} for name, count in counts.items()}

    def inside(blue: int, green: int) -> dict[str, dict[str, list[np.ndarray]]]:
        return {"blue": {"revenue": [np.ones(blue)] * 3}, "green": {"revenue": [np.ones(green)] * 3}}

    slices = {
        "site=a": inside(350, 150),
        "site=b": inside(350, 150),
        "page=x": inside(550, 150),
        "page=y": inside(150, 150),
    }
    ratio = read_experiment(definition, state_of(definition), days_of(rows, slices=slices)).ratio
    assert ratio.slices == ["all slices of site", "page=x (78.6% : 21.4%)"]
    assert ratio.text.endswith("The imbalance is in all slices of site, page=x (78.6% : 21.4%).")


@pytest.mark.parametrize("rule", ["sequence", "msprt", "fixed"])
def test_units_that_all_came_on_one_day_cannot_be_judged_and_the_report_says_so(rule: str) -> None:
    definition = experiment(rule=rule, duration_us=7 * DAY_US)
    days = days_of(normal_days(np.random.default_rng(5), days=7, effect=0.5))
    quiet = [days[0], *(changed(day, variants={}) for day in days[1:])]
    found = read_experiment(definition, state_of(definition), quiet).decision
    assert found.text.startswith("no decision: all 1,000 units that count came on 2024-03-01. Errors are computed from")
    if rule != "fixed":
        assert "too early to say" in read_experiment(definition, state_of(definition), quiet[:1]).decision.text
        found = read_experiment(definition, state_of(definition), quiet[:3]).decision
        assert found.act == "cannot be seen"
        assert "If no more units come, this stays so. Start the experiment again and spread the units" in found.text
        again = [*quiet[:3], *days[3:]]  # more units come
        assert "all 1,000 units" not in read_experiment(definition, state_of(definition), again).decision.text
