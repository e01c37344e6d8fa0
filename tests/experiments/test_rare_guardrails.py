"""Guardrails whose event never happens: they neither block for ever nor pass unseen."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from generated_days import START_US, days_of, experiment, metric, normal_days, state_of, sums

from trimtab.core.time import DAY_US
from trimtab.events.definitions import source
from trimtab.experiments.definitions import Experiment, MetricKind
from trimtab.experiments.reading.effects import looks_of
from trimtab.experiments.reading.looks import verdict
from trimtab.experiments.reading.reading import read_experiment
from trimtab.experiments.reading.results import Reading
from trimtab.experiments.records import ArmSums, ExperimentDay, VariantDay
from trimtab.stats.ab.quantiles import bins_of

CRASHES = source("crashes", time="at", columns={"customer": str, "seconds": float})


def guarded(rule: str = "sequence", looks: int = 1, duration_us: int | None = None, **given: object) -> Experiment:
    of = {"kind": "proportion", "role": "guardrail", "margin": 0.1, "source": CRASHES, "by": ("customer",)}
    crashes = metric("crashes", **{"better": "lower", **of, **given})
    return experiment(metric(), crashes, rule=rule, looks=looks, duration_us=duration_us)


def read(
    definition: Experiment,
    units: int,
    days: int,
    crashed: Sequence[int] = (),
    effect: float = 0.05,
    left_out: Sequence[int] = (),
) -> Reading:
    """An experiment in which a unit of green crashes on the days in `crashed`, and no other."""
    values = normal_days(np.random.default_rng(5), days=days, units=units, effect=effect)
    none = {name: [np.zeros(units) for _ in range(days)] for name in values}
    for day in crashed:
        none["green"][day][0] = 1.0
    found = days_of({name: {**of, "crashes": none[name]} for name, of in values.items()})
    red = [msgspec.structs.replace(day, excluded="red window") if n in left_out else day for n, day in enumerate(found)]
    return read_experiment(definition, state_of(definition), red)


def of_crashes(reading: Reading) -> str:
    return next(one.verdict for one in reading.metrics if one.metric == "crashes")


@pytest.mark.parametrize("kind", ["proportion", "mean"])
def test_a_guardrail_without_events_is_within_its_margin_once_they_are_surely_rare(kind: MetricKind) -> None:
    definition = guarded(kind=kind)
    early, late = (read(definition, 500, days) for days in (7, 8))  # 3,688 units prove one of 1,000
    assert (of_crashes(early), early.decision.act) == ("open", "keep running")
    assert (
        "about 1 more day to decide about crashes: no event in either variant (at most 0.11 % of the units have one)"
        in early.decision.text
    )
    assert (of_crashes(late), late.decision.act) == ("within margin", "ship")
    assert late.decision.text.endswith(
        "crashes within its margin; crashes: no event in either variant (at most 0.092 % of the units have one)"
    )
    assert any("no unit has any event of crashes: is customer of 'crashes' the id" in note for note in late.notes)
    assert "without any event it holds if at most 0.001 of the units can have one" in late.decided_before["guardrail"]


def test_the_first_event_opens_it_again_and_too_little_traffic_is_said() -> None:
    assert of_crashes(read(guarded(), 500, 12)) == "within margin"
    assert of_crashes(read(guarded(), 500, 12, crashed=[11])) == "open"
    assert of_crashes(read(guarded(negligible=0.01), 130, 3)) == "within margin"  # 390 units
    assert of_crashes(read(guarded(negligible=0.01), 400, 2)) == "open"  # two days are too few
    text = read(guarded(), 40, 20, effect=0.2).decision.text
    assert text.startswith("cannot be seen with this traffic: crashes: no event in either variant (at most 0.46 %")
    assert "60 days without an event would show that at most 0.15 %" in text


def test_an_event_on_a_day_that_is_left_out_forbids_to_ship() -> None:
    """Such a day proves nothing about the margin, but an event of it did happen. ("ship" after 192 crashes.)"""
    never, once = read(guarded(), 500, 12, left_out=[5]), read(guarded(), 500, 12, crashed=[5], left_out=[5])
    assert (of_crashes(never), never.decision.act) == ("within margin", "ship")
    assert "crashes: no event in either variant" in never.decision.text
    assert (of_crashes(once), once.decision.act) == ("open", "wait")
    assert (day := next(iter(once.excluded))) == "2024-03-06"
    text = once.decision.text
    assert text.startswith(
        f"keep running: crashes: no event on the days that count, but units of {day}, which is left out, have events. "
        "So this event does happen. Look at these events: if green caused them, do not choose it; "
        "otherwise conclude the experiment with this reason, or start it again."
    )
    assert "is proven better, but guardrail crashes is not proven within its margin" in text
    assert "in either variant" not in text
    assert not any("no unit" in note for note in once.notes)
    several = read(guarded(), 500, 14, crashed=[3, 4, 5, 6, 7], left_out=[3, 4, 5, 6, 7]).decision.text
    assert "and 2 more days, which are left out" in several
    crash = next(one for one in once.metrics if one.metric == "crashes")
    assert [look.at_most == 1.0 for look in crash.looks] == [True] * 2 + [False] * 3 + [True] * 6
    over = read(guarded(duration_us=12 * DAY_US), 500, 12, crashed=[5], left_out=[5]).decision
    assert (over.act, "if green caused them, do not choose it" in over.text) == ("no difference shown", True)
    planned = {"rule": "obrien_fleming", "looks": 3, "duration_us": 12 * DAY_US}
    assert read(guarded(**planned), 500, 12, left_out=[11]).decision.act == "ship"  # the newest look is on this day
    assert read(guarded(**planned), 500, 12, crashed=[11], left_out=[11]).decision.act == "no difference shown"


def test_a_time_to_an_event_that_never_comes_is_judged_alike() -> None:
    """Without an event the time is the whole window, so its sums are not 0."""
    within_s = 86_400.0
    timed = guarded(kind="time_to_event", within_us=DAY_US, better="higher")

    def times(days: int, *, fast: Sequence[int] = (), left_out: Sequence[int] = ()) -> Reading:
        values = normal_days(np.random.default_rng(5), days=days, units=500, effect=0.05)
        none = {name: [np.full(500, within_s) for _ in range(days)] for name in values}
        for day in fast:
            none["green"][day][0] = within_s - 1e-6
        found = days_of({name: {**of, "crashes": none[name]} for name, of in values.items()})
        red = [
            msgspec.structs.replace(day, excluded="red window") if n in left_out else day for n, day in enumerate(found)
        ]
        return read_experiment(timed, state_of(timed), red)

    assert (of_crashes(times(7)), of_crashes(times(8))) == ("open", "within margin")
    assert times(8).decision.text.endswith("no event in either variant (at most 0.092 % of the units have one)")
    assert any("no unit has any event of crashes" in note for note in times(8).notes)
    assert of_crashes(times(9, fast=[8])) == "open"
    assert of_crashes(times(9, fast=[4], left_out=[4])) == "open"
    assert of_crashes(times(9, left_out=[4])) == "within margin"


@pytest.mark.parametrize(("kind", "better"), [("proportion", "higher"), ("time_to_event", "lower")])
def test_orders_that_nobody_has_do_not_let_a_variant_ship(kind: MetricKind, better: str) -> None:
    """For crashes none is good. For orders none means that the metric reads other ids, or a feed that is down."""
    definition = guarded(kind=kind, better=better, within_us=DAY_US)
    values = normal_days(np.random.default_rng(5), days=12, units=500, effect=0.05)
    none = [np.full(500, 86_400.0 if kind == "time_to_event" else 0.0)] * 12
    days = days_of({name: {**of, "crashes": none} for name, of in values.items()})
    reading = read_experiment(definition, state_of(definition), days)
    assert (of_crashes(reading), reading.decision.act) == ("open", "wait")
    said = "keep running: crashes: no event in either variant. Such events are good, so having none proves nothing"
    assert reading.decision.text.startswith(said)
    assert any(note.endswith("is customer of 'crashes' the id of the units?") for note in reading.notes)


def test_a_quantile_of_nothing_cannot_be_judged_and_the_report_says_so() -> None:
    definition = guarded(kind="quantile")
    days = days_of(normal_days(np.random.default_rng(6), days=10, units=500, effect=0.05))
    zeros = ArmSums(units=500, histogram={int(bins_of(np.zeros(1))[0]): 500})
    for one in (of for day in days for of in day.variants.values()):
        one.metrics["crashes"] = zeros
    decision = read_experiment(definition, state_of(definition), days).decision
    assert decision.act == "wait"
    assert decision.text.startswith(
        "keep running: crashes: no event in either variant. The quantile is 0 in both variants, and a share of 0 is no "
        'margin. Start the experiment again with the share of the units with an event (kind="proportion") instead'
    )


def test_events_that_all_came_late_are_no_question_of_ids() -> None:
    definition = guarded()
    values = normal_days(np.random.default_rng(5), days=10, units=500, effect=0.05)
    came = {name: [(np.arange(500) < 20) * 1.0] * 10 for name in values}
    days = days_of({name: {**of, "crashes": [np.zeros(500)] * 10} for name, of in values.items()})
    after = days_of({name: {**of, "crashes": came[name]} for name, of in values.items()})
    late = [
        msgspec.structs.replace(day, with_late=one.variants, late={"crashes": {"blue": 20, "green": 20}})
        for day, one in zip(days, after, strict=True)
    ]
    reading = read_experiment(definition, state_of(definition), late)
    assert of_crashes(reading) == "open"  # without the late ones it is within its margin
    assert (
        "contradict what the closed days say. green: crashes: no event in either variant in time"
        in reading.decision.text
    )
    assert not any("is customer of" in note for note in reading.notes)
    assert any("events of crashes came after their day was closed" in note for note in reading.notes)


def test_labels_that_no_prediction_has_are_judged_alike() -> None:
    definition = guarded(kind="mean", source=None, by=(), prediction="label")
    assert of_crashes(read(definition, 500, 7)) == "open"
    assert of_crashes(read(definition, 500, 8)) == "within margin"
    definition = guarded(kind="mean", source=None, by=(), prediction="score")
    assert of_crashes(read(definition, 500, 8)) == "open"


def test_a_guardrail_whose_units_have_no_value_at_all_does_not_vanish() -> None:
    """A mean of nothing is null, so no unit is in its sums."""
    definition = guarded(kind="mean")
    days = days_of(normal_days(np.random.default_rng(6), days=8, units=500, effect=0.05))
    for name in ("blue", "green"):
        for day in days:
            day.variants[name].metrics["crashes"] = ArmSums()
    reading = read_experiment(definition, state_of(definition), days)
    assert (of_crashes(reading), reading.decision.act) == ("within margin", "ship")
    assert any("no unit has any event of crashes" in note for note in reading.notes)


def test_the_first_unit_with_a_value_opens_it_again() -> None:
    """Of a mean of nothing one unit has a value: too few to compare, but not none."""
    definition = guarded(kind="mean")
    days = days_of(normal_days(np.random.default_rng(6), days=10, units=500, effect=0.05))
    for name in ("blue", "green"):
        for day in days:
            day.variants[name].metrics["crashes"] = ArmSums()
    days[9].variants["green"].metrics["crashes"] = ArmSums(units=1, y=(3.0,), yy=(9.0,))
    reading = read_experiment(definition, state_of(definition), days)
    assert of_crashes(reading) == "open"
    assert reading.decision.text.startswith("keep running: too few days or events to say anything about crashes")
    assert "no event in either variant" not in "".join(reading.lines())


@pytest.mark.parametrize("duration_us", [None, 10 * DAY_US])
def test_a_guardrail_of_losses_without_labels_is_named(duration_us: int | None) -> None:
    definition = guarded(kind="mean", source=None, by=(), prediction="loss", duration_us=duration_us)
    days = days_of(normal_days(np.random.default_rng(6), days=10, units=500, effect=0.05))
    for name in ("blue", "green"):
        for day in days:
            day.variants[name].metrics["crashes"] = ArmSums()
    text = read_experiment(definition, state_of(definition), days).decision.text
    assert "is proven better, but guardrail crashes is not proven within its margin" in text
    if duration_us is None:
        assert "fewer than two units of green or of the control have a value of crashes after 10 closed days" in text


def test_it_is_wrongly_passed_at_any_look_as_rarely_as_stated() -> None:
    """Where one unit of 1,000 of green has the event, and none of blue, 2.5 % of experiments may ever pass."""
    rng, passed, runs = np.random.default_rng(8), 0, 2_000
    definition = msgspec.structs.replace(guarded(), metrics=guarded().metrics[1:])
    for _ in range(runs):
        counts = rng.binomial(250, (0.0, 0.001), (20, 2))
        days = [
            ExperimentDay(experiment="checkout", generation=1, day_us=START_US + n * DAY_US, variants={
                name: VariantDay(units=250, metrics={"crashes": ArmSums(yy=(float(count),) if count else ())})
                for name, count in zip(("blue", "green"), of.tolist(), strict=True)
            }) for n, of in enumerate(counts)
        ]  # fmt: skip
        until = next((n for n, of in enumerate(counts) if of.any()), 20)
        for end in {until, *((15, 16) if until > 15 else ())}:  # the bound only falls while there is no event
            looks = looks_of(definition, definition.metrics[0], state_of(definition), days[:end], "green")
            if looks and verdict(definition.metrics[0], looks[-1]) == "within margin":
                passed += 1
                break
    assert 0.012 <= passed / runs <= 0.036  # .999^3750 is .0235


def test_a_quantile_of_0_is_0_although_its_linear_form_is_rounded() -> None:
    waits, rng = metric("wait", kind="quantile", role="guardrail", better="lower", margin=0.1), np.random.default_rng(3)
    definition, days = experiment(metric(), waits), []
    for number in range(10):
        variants = {}
        for name in ("blue", "green"):
            y = np.where(rng.random(300) < 0.45, rng.lognormal(3.0, 1.0, 300), 0.0)
            bins, counts = np.unique(bins_of(y), return_counts=True)
            histogram = dict(zip(bins.tolist(), counts.tolist(), strict=True))
            of = {
                "wait": msgspec.structs.replace(sums(y), histogram=histogram),
                "revenue": sums(rng.normal(10, 4, 300)),
            }
            variants[name] = VariantDay(units=300, metrics=of)
        day_us = START_US + number * DAY_US
        days.append(ExperimentDay(experiment="checkout", generation=1, day_us=day_us, variants=variants))
    reading = read_experiment(definition, state_of(definition), days)
    look = reading.metrics[-1].looks[-1]
    assert (look.control, look.variant, look.difference, look.relative) == (0.0, 0.0, 0.0, None)
    assert "The quantile is 0 in both variants" in reading.decision.text
