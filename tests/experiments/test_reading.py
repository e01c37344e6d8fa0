"""The reading of an experiment shows what its days say, and nothing that its rule does not allow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from generated_days import START_US, changed, days_of, experiment, metric, normal_days, state_of, sums

from trimtab.core.time import DAY_US, SECOND_US
from trimtab.events.definitions import source
from trimtab.experiments.assignment import first_buckets
from trimtab.experiments.definitions import Metric
from trimtab.experiments.reading.document import _series, experiment_document
from trimtab.experiments.reading.effects import looks_of
from trimtab.experiments.reading.looks import percent, shown_effect, shown_values, verdict
from trimtab.experiments.reading.reading import read_experiment
from trimtab.experiments.reading.results import Reading
from trimtab.experiments.records import ArmSums, ExperimentDay, VariantDay
from trimtab.report import html_page, terminal_text
from trimtab.stats.ab.quantiles import bins_of

V = ("blue", "green")
ORDERS = source("orders", time="at", columns={"customer": str, "amount": float})


def one(reading: Reading, name: str = "revenue"):
    return next(found for found in reading.metrics if found.metric == name)


def test_an_effect_is_found_and_its_interval_holds_the_truth() -> None:
    definition = experiment()
    days = days_of(normal_days(np.random.default_rng(1), days=30, effect=0.05))
    reading = read_experiment(definition, state_of(definition), days)
    found = one(reading)
    assert len(found.looks) == 30
    assert found.verdict == "better"
    look = found.now
    assert look is not None
    assert look.relative_low is not None
    assert look.relative_high is not None
    assert look.relative_low < 0.05 < look.relative_high
    assert reading.decision.act == "ship"
    assert reading.decision.text.startswith("ship green: revenue +")
    assert found.probability_better is not None
    assert found.probability_better > 0.99
    assert [len(one.looks) for one in reading.metrics] == [30]


def test_intervals_shrink_and_contain_their_estimates() -> None:
    definition = experiment()
    found = one(
        read_experiment(definition, state_of(definition), days_of(normal_days(np.random.default_rng(2), days=20)))
    )
    known = [(look.low, look.difference, look.high) for look in found.looks if look.low is not None]
    assert all(low <= difference <= high for low, difference, high in known if high is not None)
    widths = [high - low for low, _, high in known if high is not None]
    assert widths[-1] < 0.6 * widths[0]


def test_a_day_of_more_units_in_one_variant_is_blocked_and_the_slice_is_named() -> None:
    """51 to 49 on 100,000 units: the surplus is in one country."""
    rng = np.random.default_rng(3)
    definition = experiment(slices=("country",))
    values, parts = {}, {"country=DE": {}, "country=FR": {}}
    for name, units in (("blue", {"DE": 1_250, "FR": 1_250}), ("green", {"DE": 1_350, "FR": 1_250})):
        by_country = {where: [rng.normal(10.0, 4.0, n) for _ in range(20)] for where, n in units.items()}
        values[name] = {"revenue": [np.concatenate(pair) for pair in zip(*by_country.values(), strict=True)]}
        for where, some in by_country.items():
            parts[f"country={where}"][name] = {"revenue": some}
    reading = read_experiment(definition, state_of(definition), days_of(values, slices=parts))
    assert sum(one.units for one in reading.variants) == 102_000
    assert not reading.ratio.holds
    assert reading.metrics == []
    assert reading.slices == []
    assert reading.decision.act == "blocked"
    assert [text.partition(" ")[0] for text in reading.ratio.slices] == ["country=DE"]
    assert "country=DE" in reading.decision.text


def split_days(rng: np.random.Generator, lost: dict[str, dict[str, float]], *, days: int = 10) -> list[ExperimentDay]:
    """Days of 100 units a variant and country, of which shares are lost; each country has units from another day on."""
    found = []
    for day in range(days):
        variants = {}
        for name in V:
            units = {
                f"country={where}": int(rng.binomial(rng.poisson(100), 1.0 - of.get(name, 0.0)))
                for number, (where, of) in enumerate(lost.items())
                if day >= number // 4
            }
            variants[name] = VariantDay(units=sum(units.values()), slice_units=units)
        found.append(
            ExperimentDay(experiment="checkout", generation=1, day_us=START_US + day * DAY_US, variants=variants)
        )
    return found


def test_units_lost_in_slices_block_even_if_the_whole_is_balanced() -> None:
    definition = experiment(slices=("country",))
    lost = {"DE": {}, "FR": {"blue": 0.3}, "US": {"green": 0.3}}
    ratio = read_experiment(definition, state_of(definition), split_days(np.random.default_rng(1), lost)).ratio
    assert ratio.p == 1.0
    assert not ratio.holds
    assert sorted(text.partition(" ")[0] for text in ratio.slices) == ["country=FR", "country=US"]
    assert "country=FR" in ratio.text


def test_a_sound_split_of_many_slices_is_not_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an error of 10 % instead of .1 %, few of 40 sound experiments with 24 slices each are blocked."""
    monkeypatch.setattr("trimtab.experiments.reading.checks._RATIO_ERROR", 0.1)
    definition, lost = experiment(slices=("country",)), {f"{number:02}": {} for number in range(24)}
    held = [
        read_experiment(definition, state_of(definition), split_days(np.random.default_rng(seed), lost)).ratio.holds
        for seed in range(40)
    ]
    assert held.count(False) <= 6


def test_an_equal_split_is_not_blocked() -> None:
    rng = np.random.default_rng(4)
    definition = experiment()
    for _ in range(50):
        values = {name: {"revenue": [rng.normal(10, 1, rng.binomial(200, 0.5)) for _ in range(10)]} for name in "ab"}
        days = days_of({"blue": values["a"], "green": values["b"]})
        assert read_experiment(definition, state_of(definition), days).ratio.holds


def test_changed_weights_are_compared_day_by_day() -> None:
    """Days with 90 : 10 and days with 50 : 50 are each as declared; the day of the change is left out."""
    rng = np.random.default_rng(5)
    definition = experiment()
    state = state_of(definition)
    first = msgspec.structs.replace(state.allocations[0], weights={"blue": 0.9, "green": 0.1})
    second = msgspec.structs.replace(state.allocations[0], from_us=START_US + 5 * DAY_US + 1)
    state = msgspec.structs.replace(state, allocations=[first, second])
    units = {"blue": [900] * 5 + [650] + [500] * 6, "green": [100] * 5 + [350] + [500] * 6}
    values = {name: {"revenue": [rng.normal(10, 4, n) for n in some]} for name, some in units.items()}
    reading = read_experiment(definition, state, days_of(values))
    assert reading.ratio.holds, reading.ratio.text


def ramped(kind: str, rng: np.random.Generator, *, days: int = 20) -> list[ExperimentDay]:
    """Days without an effect: values rise from day to day, while green gets 5 % of the units, and 50 % at the end."""
    found = []
    for day in range(days):
        part, variants = day / days, {}
        more = rng.binomial(400, 0.05 + 0.45 * day / (days - 1))
        for name, units in (("blue", 400 - more), ("green", more)):
            d = rng.poisson(3.0 + 5.0 * part, units) + 1.0
            y = {
                "mean": rng.normal(10.0 + 20.0 * part, 4.0, units),
                "proportion": (rng.random(units) < 0.1 + 0.3 * part) * 1.0,
                "ratio": rng.binomial(d.astype(int), 0.1 + 0.3 * part) * 1.0,
                "quantile": rng.lognormal(1.0 + 2.0 * part, 0.8, units),
            }[kind]
            one = sums(y)
            if kind == "ratio":
                one = msgspec.structs.replace(one, d=(d.sum(),), dd=((d * d).sum(),), yd=((y * d).sum(),))
            if kind == "quantile":
                places, counts = np.unique(bins_of(y), return_counts=True)
                one = ArmSums(units=units, histogram=dict(zip(places.tolist(), counts.tolist(), strict=True)))
            variants[name] = VariantDay(units=units, metrics={"revenue": one})
        found.append(
            ExperimentDay(experiment="checkout", generation=1, day_us=START_US + day * DAY_US, variants=variants)
        )
    return found


def test_a_feed_that_was_down_and_ids_that_never_match_are_named() -> None:
    rng = np.random.default_rng(29)
    bought = metric("bought", kind="proportion", source=ORDERS, by=("customer",))
    definition = experiment(bought)

    def noted(rates: list[float], units: int) -> list[str]:
        values = {v: {"bought": [(rng.random(units) < rate) * 1.0 for rate in rates]} for v in V}
        return read_experiment(definition, state_of(definition), days_of(values)).notes

    assert noted([0.1] * 20, 200) == []
    (down,) = noted([0.1] * 10 + [0.0] * 7, 200)
    assert down.startswith(
        "no unit of 2024-03-11, 2024-03-12, 2024-03-13, 2024-03-14, 2024-03-15 and 2 more days has any"
    )
    for kind, none, some in (("quantile", 0.0, 5.0), ("time_to_event", 3600.0, 60.0), ("mean", 0.0, 5.0)):
        one = metric("spent", kind=kind, source=ORDERS, by=("customer",), within_us=3600 * SECOND_US, better="lower")
        definition = experiment(metric(), msgspec.structs.replace(one, role="secondary"))
        values = normal_days(rng, days=9, units=200)
        for name in V:
            came = [rng.random(200) < (0.0 if name == V[1] and day > 6 else 0.2) for day in range(9)]
            values[name]["spent"] = [np.where(here, some, none) for here in came]
        (note,) = read_experiment(definition, state_of(definition), days_of(values)).notes
        what = f"no unit of {V[1]} on 2024-03-08, 2024-03-09 has any event of spent: "
        assert note == f"{what}if its feed was down, these units count as if they had none"
    definition = experiment(bought)
    assert noted([0.1] * 10 + [0.0] * 2, 40) == []  # 8 events are expected on a day, so none is no proof
    (never,) = noted([0.0] * 10, 60)
    assert never == "no unit has any event of bought: is customer of 'orders' the id of the units?"
    assert noted([0.0] * 10, 30) == []
    errors = metric("errors", role="guardrail", margin=0.2, source=ORDERS, by=("customer",), better="lower")
    definition = experiment(metric(), errors)
    values = normal_days(rng, days=10, units=100)
    days = days_of({v: {**values[v], "errors": [np.zeros(100)] * 10} for v in V})
    (note,) = read_experiment(definition, state_of(definition), days).notes
    assert note.startswith("no unit has any event of errors")
    assert "If so, the guardrail holds once at most 0.1 % of them can have one (negligible=)" in note


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("mean", "sequence"),
        ("proportion", "sequence"),
        ("ratio", "sequence"),
        ("mean", "fixed"),
        ("quantile", "fixed"),
        ("quantile", "sequence"),
    ],
)
def test_a_ramp_of_weights_fakes_no_effect(kind: str, rule: str) -> None:
    """Compared as a whole, green is far above blue, because most of its units came on the later, better days."""
    definition = experiment(metric(kind=kind, quantile=0.9), rule=rule, duration_us=20 * DAY_US)
    rng, wrong, differences, runs = np.random.default_rng(25), 0, [], 60 if kind == "quantile" else 200
    for _ in range(runs):
        looks = looks_of(definition, definition.metrics[0], state_of(definition), ramped(kind, rng), "green")
        differences.append(looks[-1].difference)
        wrong += any((one.low or -1.0) > 0.0 or (one.high or 1.0) < 0.0 for one in looks)
    assert wrong <= (15 if runs == 200 else 7)  # with a true rate of 5 %, more have a probability of 4 % and 1 %
    assert abs(np.mean(differences)) < 3.3 * np.std(differences) / np.sqrt(runs)  # by chance 1 of 1,000


def test_a_day_of_changed_weights_is_left_out_and_said() -> None:
    definition = experiment()
    state = state_of(definition)
    begin = state.allocations[0]
    changes = [(0.0, 0.5), (3.5, 0.5), (6.5, 0.3)]  # days after the start, weight of blue; the first only resumes
    weights = [(START_US + int(day * DAY_US), {"blue": share, "green": 1.0 - share}) for day, share in changes]
    allocations = [msgspec.structs.replace(begin, from_us=from_us, weights=of) for from_us, of in weights]
    state = msgspec.structs.replace(state, allocations=allocations)
    days = days_of(normal_days(np.random.default_rng(26), days=10))
    reading = read_experiment(definition, state, days)
    assert reading.excluded == {"2024-03-07": "the weights changed on this day"}
    assert reading.days == 9
    (note,) = reading.notes
    excluding = msgspec.structs.replace(definition, crossovers="exclude")
    (other,) = read_experiment(excluding, state, days).notes
    assert "and came back, do not count if their day was not closed yet. If" in other
    assert note.startswith(
        "the weights changed on 2024-03-07: units that got another variant then, and came back, count"
    )


def test_labels_are_compared_day_by_day() -> None:
    """On later days fewer labels come, and green has more units; on no day do the variants differ."""
    definition = experiment(metric("refunds", prediction="label"))
    rng, found = np.random.default_rng(27), []
    for day, blue in zip(days_of(normal_days(rng, days=10, name="refunds")), range(900, 400, -50), strict=True):
        rate = 0.55 + 0.0005 * blue
        labels = {"blue": (round(blue * rate), blue - round(blue * rate))}
        labels["green"] = (round((1_000 - blue) * rate), 1_000 - blue - round((1_000 - blue) * rate))
        found.append(changed(day, variants={
            name: msgspec.structs.replace(one, labelled=labels[name][0], missing=labels[name][1])
            for name, one in day.variants.items()
        }))  # fmt: skip
    reading = read_experiment(definition, state_of(definition), found)
    blue, green = reading.completeness
    total = green.labelled / (green.labelled + green.missing)
    assert abs(total - blue.labelled / (blue.labelled + blue.missing)) > 0.03
    text = terminal_text(experiment_document(reading))
    rows = [
        line.split()
        for line in text[text.index("labels of") :].splitlines()
        if line.split()[:1] in (["blue"], ["green"])
    ]
    assert [rows[0][-1], rows[1][-1]] == [f"{of.labelled / (of.labelled + of.missing):.2%}" for of in (blue, green)]
    assert abs(green.share - green.control_share) < 0.002
    assert not green.differs


def test_the_rule_fixed_shows_nothing_before_its_end() -> None:
    definition = experiment(rule="fixed", duration_us=14 * DAY_US)
    days = days_of(normal_days(np.random.default_rng(6), days=14, effect=0.3))
    for count in range(14):
        reading = read_experiment(definition, state_of(definition), days[:count])
        assert reading.metrics == []
        assert reading.slices == []
        assert reading.withheld is not None
        assert f"{count} of 14 days" in reading.decision.text
        assert [one.units for one in reading.variants] == [500 * count] * 2
    reading = read_experiment(definition, state_of(definition), days)
    assert reading.withheld is None
    assert len(one(reading).looks) == 1
    assert reading.decision.act == "ship"


def test_obrien_fleming_shows_only_planned_looks() -> None:
    definition = experiment(rule="obrien_fleming", duration_us=20 * DAY_US, looks=4)
    rng = np.random.default_rng(7)
    where = {"country=DE": normal_days(rng, days=20, units=100, effect=0.01)}
    days = days_of(normal_days(rng, days=20, effect=0.01), slices=where)
    counts = []
    for count in range(1, 21):
        reading = read_experiment(definition, state_of(definition), days[:count])
        counts.append(max((len(found.looks) for found in reading.metrics), default=0))
        of_slices = [found.look.until_us for found in reading.slices]
        assert of_slices == [START_US + count // 5 * 5 * DAY_US] * (count >= 5)
        assert all(week.until_us <= START_US + count // 5 * 5 * DAY_US for m in reading.metrics for week in m.by_week)
    assert counts == [count // 5 for count in range(1, 21)]
    assert [look.until_us for look in one(reading).looks] == [START_US + n * DAY_US for n in (5, 10, 15, 20)]


def test_a_guardrail_worse_than_its_margin_stops_the_variant() -> None:
    guardrail = metric("latency", role="guardrail", better="lower", margin=0.02)
    definition = experiment(metric(), guardrail)
    rng = np.random.default_rng(8)
    revenue, latency = (normal_days(rng, days=30, effect=0.05, name=name) for name in ("revenue", "latency"))
    days = days_of({name: {**revenue[name], **latency[name]} for name in revenue})
    reading = read_experiment(definition, state_of(definition), days)
    assert one(reading).verdict == "better"
    assert one(reading, "latency").verdict == "worse"
    assert reading.decision.act == "stop"
    assert reading.decision.text.startswith("stop green: guardrail latency is worse by more than its margin of 2 %")


def test_the_page_shows_the_distance_from_a_margin_and_one_sided_bounds() -> None:
    latency = metric("latency", role="guardrail", better="lower", margin=0.05)
    rng = np.random.default_rng(28)
    revenue, waits = normal_days(rng, days=20, effect=0.05), normal_days(rng, days=20, name="latency")
    days = days_of({name: {**revenue[name], **waits[name]} for name in revenue})
    for two_sided in (True, False):
        definition = experiment(metric(), latency, two_sided=two_sided)
        reading = read_experiment(definition, state_of(definition), days)
        page = html_page(experiment_document(reading))
        look = one(reading, "latency").now
        assert look.beyond_high < 0.0
        assert f"{look.beyond_low:+.3g} to {look.beyond_high:+.3g}" in page  # a guardrail always has both bounds
        assert ("at least +" in page) == (not two_sided)  # the primary metric
        assert "distance from the margin" in page
    plain = experiment()
    page = html_page(experiment_document(read_experiment(plain, state_of(plain), days)))
    assert "from the margin" not in page


def test_a_variant_ships_only_when_its_guardrails_are_proven() -> None:
    guardrail = metric("latency", role="guardrail", better="lower", margin=0.03)
    definition = experiment(metric(), guardrail)
    rng = np.random.default_rng(9)
    revenue, latency = normal_days(rng, days=40, effect=0.1), normal_days(rng, days=40, name="latency")
    days = days_of({name: {**revenue[name], **latency[name]} for name in revenue})
    acts = [read_experiment(definition, state_of(definition), days[:n]).decision for n in (5, 40)]
    assert [act.act for act in acts] == ["keep running", "ship"]
    assert "more days to decide about latency" in acts[0].text
    assert acts[1].text.endswith("latency within its margin")


def test_a_variant_at_the_margin_is_within_it_no_more_often_than_stated() -> None:
    """The control has few units, so its error times 1 + margin is most of what is unknown."""
    refunds = metric("refunds", role="guardrail", margin=0.9, better="lower")
    definition = experiment(metric(), refunds, rule="fixed", duration_us=14 * DAY_US, weights=(0.15, 0.85))
    rng, within, runs = np.random.default_rng(21), 0, 300
    for _ in range(runs):
        blue, green = rng.normal(1.0, 1.0, (14, 12)), rng.normal(1.9, 1.0, (14, 68))
        days = days_of({"blue": {"refunds": list(blue)}, "green": {"refunds": list(green)}})
        looks = looks_of(definition, refunds, state_of(definition), days, "green")
        within += verdict(refunds, looks[-1]) == "within margin"
    assert within <= 15  # 2.5 % of 300 are 7.5


def test_a_few_failures_of_a_share_near_one_say_nothing_about_its_margin() -> None:
    served = metric("served", kind="proportion", role="guardrail", margin=0.01)
    definition = experiment(metric(), served)
    rng = np.random.default_rng(22)
    values = {name: {"served": [(rng.random(200) > 0.002) * 1.0 for _ in range(14)]} for name in ("blue", "green")}
    last = looks_of(definition, served, state_of(definition), days_of(values), "green")[-1]
    assert (last.low, last.beyond_low, verdict(served, last)) == (None, None, "open")


def test_missing_labels_of_one_variant_widen_its_interval() -> None:
    definition = experiment(metric("refunds", prediction="label", better="lower"))
    rng = np.random.default_rng(10)
    values = {
        name: {"refunds": [(rng.random(500) < rate).astype(float) for _ in range(20)]}
        for name, rate in (("blue", 0.2), ("green", 0.15))
    }
    complete = days_of(values, labels={"blue": (990, 10), "green": (990, 10)})
    fewer = days_of(values, labels={"blue": (990, 10), "green": (900, 100)})
    reading = read_experiment(definition, state_of(definition), complete)
    assert one(reading, "refunds").verdict == "better"
    assert one(reading, "refunds").bounded is None
    reading = read_experiment(definition, state_of(definition), fewer)
    assert [(found.variant, found.differs) for found in reading.completeness] == [("blue", False), ("green", True)]
    found = one(reading, "refunds")
    look = found.now
    assert look is not None
    assert found.bounded is not None
    assert found.bounded[0] < look.low < look.high < found.bounded[1]
    assert found.verdict == "open"


def test_novelty_shows_by_week() -> None:
    rng = np.random.default_rng(11)
    early, late = normal_days(rng, days=7, units=2_000, effect=0.1), normal_days(rng, days=14, units=2_000)
    values = {name: {"revenue": early[name]["revenue"] + late[name]["revenue"]} for name in early}
    definition = experiment()
    found = one(read_experiment(definition, state_of(definition), days_of(values)))
    assert [look.until_us for look in found.by_week] == [START_US + n * DAY_US for n in (7, 14, 21)]
    low, high = zip(*[(look.relative_low, look.relative_high) for look in found.by_week], strict=True)
    assert low[0] > 0.05
    assert low[1] < 0 < high[1]
    assert low[2] < 0 < high[2]


def test_novelty_shows_by_days_since_the_exposure() -> None:
    """Green has a large effect on the first day of each unit, and none later; every week has the same effect."""
    rng = np.random.default_rng(24)
    parts = [normal_days(rng, days=21, effect=one) for one in (0.3, 0.0, 0.0)]
    whole = {v: {"revenue": [sum(day) for day in zip(*(one[v]["revenue"] for one in parts), strict=True)]} for v in V}
    days = [
        changed(day, variants={
            v: msgspec.structs.replace(of, ages={"revenue": [sums(one[v]["revenue"][number]) for one in parts]})
            for v, of in day.variants.items()
        })
        for number, day in enumerate(days_of(whole))
    ]  # fmt: skip
    definition = experiment(metric(source=ORDERS, by=("customer",), within_us=3 * DAY_US))
    found = one(read_experiment(definition, state_of(definition), days))
    assert found.verdict == "better"
    assert list(found.by_age) == ["day 1", "day 2", "day 3"]
    low, high = zip(*[(look.relative_low, look.relative_high) for look in found.by_age.values()], strict=True)
    assert low[0] > 0.25
    assert low[1] < 0 < high[1]
    assert low[2] < 0 < high[2]
    assert all(look.relative_low > 0.05 for look in found.by_week)
    page = html_page(experiment_document(read_experiment(definition, state_of(definition), days)))
    assert "by days since the first exposure" in page
    assert "day 3" in page
    older = read_experiment(definition, state_of(definition), days_of(whole))  # closed before there were such sums
    assert one(older).by_age == {}


def test_excluded_days_do_not_count_and_marks_are_listed() -> None:
    definition = experiment()
    rng = np.random.default_rng(12)
    good, bad = normal_days(rng, days=20), normal_days(rng, days=5, effect=2.0)
    values = {name: {"revenue": good[name]["revenue"] + bad[name]["revenue"]} for name in good}
    days = days_of(values)
    left_out = [changed(day, excluded="red window: column temp was null") for day in days[20:]]
    marked = [changed(days[0], marks=("retraining",)), *days[1:20], *left_out]
    reading = read_experiment(definition, state_of(definition), marked)
    assert reading.days == 20
    assert list(reading.excluded) == [f"2024-03-{day}" for day in range(21, 26)]
    assert next(reading.lines()) == f"{reading.experiment}: running, 20 of 25 closed days count"
    assert reading.marks == {"2024-03-01": ["retraining"]}
    assert one(reading).looks == one(read_experiment(definition, state_of(definition), days[:20])).looks


def test_days_of_an_earlier_generation_do_not_count() -> None:
    definition = experiment()
    days = days_of(normal_days(np.random.default_rng(13), days=10))
    reading = read_experiment(definition, state_of(definition, generation=2), days)
    assert reading.days == 0
    assert reading.until_us is None
    assert reading.decision.act == "wait"


def test_secondary_metrics_and_slices_are_corrected() -> None:
    rng = np.random.default_rng(14)
    names = [f"m{number}" for number in range(10)]
    definition = experiment(metric(), *(metric(name, role="secondary") for name in names))
    parts = [normal_days(rng, days=15, name=name) for name in ["revenue", *names]]
    values = {v: {k: by_day for part in parts for k, by_day in part[v].items()} for v in ("blue", "green")}
    where = {f"country={code}": normal_days(rng, days=15, units=100) for code in "ABCDEFGH"}
    reading = read_experiment(definition, state_of(definition), days_of(values, slices=where))
    for found in reading.metrics:
        assert found.adjusted_p is not None
        assert found.role == "secondary" or found.adjusted_p == found.looks[-1].p  # one primary metric
        assert found.adjusted_p is None or found.adjusted_p >= found.looks[-1].p
    assert len(reading.slices) == 8
    assert all(found.adjusted_p >= found.look.p for found in reading.slices)


def test_primary_metrics_and_variants_share_the_error() -> None:
    rng = np.random.default_rng(15)
    three = {"blue": 1, "green": 2, "red": 3}
    values = normal_days(rng, days=15)
    values["red"] = normal_days(rng, days=15)["green"]
    alone = experiment(metric())
    shared = experiment(metric(), variants=three)
    width = []
    for definition in (alone, shared):
        some = {name: values[name] for name in definition.variants}
        look = one(read_experiment(definition, state_of(definition), days_of(some))).now
        width.append(look.high - look.low)
    assert width[1] > width[0]
    assert "divided evenly among 2 variants" in read_experiment(shared, state_of(shared), []).guarantee


@pytest.mark.parametrize("rule", ["sequence", "msprt", "obrien_fleming", "fixed"])
def test_p_interval_and_verdict_of_primary_metrics_are_corrected_alike(rule: str) -> None:
    """An uncorrected p of .027 stood next to "open"."""
    three, rng, between = {"blue": 1, "green": 2, "red": 3}, np.random.default_rng(41), 0
    definition = experiment(
        metric(),
        metric("visits"),
        variants=three,
        rule=rule,
        duration_us=12 * DAY_US,
        looks=1 if rule != "obrien_fleming" else 4,
    )
    for effect in np.linspace(0.0, 0.04, 12):
        values = normal_days(rng, days=12, effect=effect)
        values["red"] = normal_days(rng, days=12, effect=-effect)["green"]
        values = {name: {**of, "visits": of["revenue"]} for name, of in values.items()}
        for found in read_experiment(definition, state_of(definition), days_of(values)).metrics:
            p, look = found.looks[-1].p, found.looks[-1]
            assert found.adjusted_p == min(1.0, 4.0 * p)
            assert (found.adjusted_p <= 0.05) == (look.low > 0.0 or look.high < 0.0) == (found.verdict != "open")
            between += p <= 0.05 < found.adjusted_p
    assert between


@pytest.mark.parametrize("rule", ["sequence", "msprt", "obrien_fleming", "fixed"])
def test_one_sided_lower_is_better_mirrors_higher_is_better(rule: str) -> None:
    how = {"rule": rule, "two_sided": False, "duration_us": 12 * DAY_US, "looks": 3}
    higher, lower = experiment(**how), experiment(metric(better="lower"), **how)
    values = normal_days(np.random.default_rng(16), days=12, effect=0.05)
    swapped = {name: {"revenue": [20.0 - day for day in some["revenue"]]} for name, some in values.items()}
    up = one(read_experiment(higher, state_of(higher), days_of(values)))
    down = one(read_experiment(lower, state_of(lower), days_of(swapped)))
    assert up.verdict == down.verdict == "better"
    for a, b in zip(up.looks, down.looks, strict=True):
        assert b.difference == pytest.approx(-a.difference)
        assert (a.high, b.low) == (None, None)
        if a.low is not None:
            assert b.high == pytest.approx(-a.low)


def late_days(effect: float, with_late: float, *, days: int = 30, **given: Any) -> Reading:
    """A reading of days whose events that came late change the effect of green; blue has no late events."""
    definition = experiment(metric("revenue", source=ORDERS), **given)
    early, late = (normal_days(np.random.default_rng(23), days=days, effect=one) for one in (effect, with_late))
    changes = [day.variants for day in days_of(late)]
    closed = [
        changed(day, with_late={**day.variants, "green": variants["green"]}, late={"revenue": {"green": 20}})
        for day, variants in zip(days_of(early), changes, strict=True)
    ]
    return read_experiment(definition, state_of(definition), closed)


def test_events_that_came_late_are_named_and_can_take_a_decision_back() -> None:
    reading = late_days(0.05, 0.0)
    found = one(reading)
    assert (found.at_close, found.verdict) == ("better", "open")
    assert reading.late == {"revenue": {"green": 600}}
    assert reading.notes == [
        "events of revenue came after their day was closed and do not count: 600 of green; with them, green has "
        f"{shown_effect(found, found.with_late)}. To count such events, declare a longer delay of 'orders' and start "
        "the experiment again"
    ]
    assert reading.decision.act == "wait"
    assert reading.decision.text.startswith(
        "no decision: outcomes that came late, or were corrected, contradict what the closed days say. green: "
        + shown_effect(found)
    )
    assert "running on decides nothing: declare a longer delay" in reading.decision.text
    over = late_days(0.05, 0.0, duration_us=30 * DAY_US).decision
    assert (over.act, over.text.partition(":")[0]) == ("no difference shown", "no difference shown")


def test_corrections_after_a_day_was_closed_are_said() -> None:
    definition = experiment(metric("revenue", source=ORDERS))
    days = days_of(normal_days(np.random.default_rng(2), days=8))
    days[2] = changed(days[2], with_late=days[3].variants, late={"revenue": {"blue": 3, "green": 0}})
    (note,) = read_experiment(definition, state_of(definition), days).notes
    assert note.startswith(
        "events of revenue came, or were corrected or deleted, after their day was closed and do not count: 3 of blue, "
        "corrections of green; with them, green has revenue "
    )


def test_events_that_came_late_cannot_make_a_decision() -> None:
    """A person who waits for late events gets no second chance to find an effect."""
    reading = late_days(0.0, 0.1)
    found = one(reading)
    assert found.with_late is not None
    assert found.with_late.low > 0.0
    assert (found.at_close, found.verdict) == ("open", "open")
    assert reading.decision.act not in ("ship", "stop")


def test_a_decision_stands_if_late_events_say_the_same() -> None:
    reading = late_days(0.05, 0.06)
    assert one(reading).verdict == "better"
    assert reading.decision.act == "ship"
    assert len(reading.notes) == 1


def test_a_reading_is_json() -> None:
    definition = experiment()
    reading = read_experiment(definition, state_of(definition), days_of(normal_days(np.random.default_rng(17), days=3)))
    assert msgspec.json.decode(msgspec.json.encode(reading), type=Reading) == reading


def test_a_quantile_is_read_by_every_rule() -> None:
    """The 90 % quantile of green is 20 % lower."""
    rng = np.random.default_rng(18)
    waits = {v: [rng.lognormal(1.0, 0.8, 600) * f for _ in range(16)] for v, f in (("blue", 1.0), ("green", 0.8))}

    def counted(values: np.ndarray) -> ArmSums:
        places, counts = np.unique(bins_of(values), return_counts=True)
        return ArmSums(units=values.size, histogram=dict(zip(places.tolist(), counts.tolist(), strict=True)))

    plain = days_of({name: {"wait": days} for name, days in waits.items()})
    days = [
        changed(day, variants={
            name: msgspec.structs.replace(one, metrics={"wait": counted(waits[name][number])})
            for name, one in day.variants.items()
        })
        for number, day in enumerate(plain)
    ]  # fmt: skip
    truth = np.quantile(np.concatenate(waits["blue"]), 0.9)
    for rule, looks in (("sequence", 16), ("msprt", 16), ("obrien_fleming", 4), ("fixed", 1)):
        how = {"rule": rule, "duration_us": 16 * DAY_US, "looks": 4}
        definition = experiment(metric("wait", kind="quantile", quantile=0.9, better="lower"), **how)
        found = one(read_experiment(definition, state_of(definition), days), "wait")
        assert len(found.looks) == looks
        assert found.looks[-1].control == pytest.approx(truth, rel=0.02)
        assert found.verdict == "better"
        assert found.looks[-1].relative == pytest.approx(-0.2, abs=0.06)


def test_strata_narrow_the_interval_and_leave_the_estimate_unbiased() -> None:
    """Countries differ by far more than units do, and green by accident got more of the better one on some days."""
    rng = np.random.default_rng(19)
    plain, split = experiment(slices=("country",)), experiment(slices=("country",), strata="country")
    differences, widths = {"": [], "country": []}, {"": [], "country": []}
    for _ in range(20):
        values, parts = {}, {f"country={code}": {} for code in "AB"}
        for name, shift in (("blue", 0.0), ("green", 0.5)):
            counts = rng.binomial(300, 0.5, 12)
            by_country = {
                "A": [rng.normal(5.0 + shift, 1.0, n) for n in counts],
                "B": [rng.normal(15.0 + shift, 1.0, 300 - n) for n in counts],
            }
            unknown = [rng.normal(10.0 + shift, 1.0, 20) for _ in range(12)]  # in no slice
            values[name] = {"revenue": [np.concatenate(day) for day in zip(*by_country.values(), unknown, strict=True)]}
            for code, some in by_country.items():
                parts[f"country={code}"][name] = {"revenue": some}
        for definition in (plain, split):
            look = one(read_experiment(definition, state_of(definition), days_of(values, slices=parts))).now
            differences[definition.strata].append(look.difference)
            widths[definition.strata].append(look.high - look.low)
    assert np.mean(widths["country"]) < 0.4 * np.mean(widths[""])
    assert np.std(differences["country"]) < 0.4 * np.std(differences[""])
    assert np.mean(differences["country"]) == pytest.approx(0.5, abs=0.03)


def test_strata_that_are_taken_together_are_counted() -> None:
    definition, values = experiment(slices=("country",), strata="country"), {name: {} for name in V}
    rng, parts = np.random.default_rng(31), {}
    for where, units in (("DE", 200), ("FR", 1), ("US", 1)):
        parts[f"country={where}"] = {name: {"revenue": [rng.normal(10.0, 4.0, units) for _ in range(9)]} for name in V}
    for name in V:
        values[name] = {
            "revenue": [
                np.concatenate(some) for some in zip(*(p[name]["revenue"] for p in parts.values()), strict=True)
            ]
        }
    notes = read_experiment(definition, state_of(definition), days_of(values, slices=parts)).notes
    assert any(note.startswith("2 of 3 values of country have fewer than 20 units of a variant") for note in notes)


def test_skewed_values_of_a_small_variant_are_warned_of() -> None:
    orders = metric(source=ORDERS, by=("customer",))
    rng = np.random.default_rng(32)

    def warned(of: Metric, sigma: float, small: int) -> bool:
        units = {"blue": 540, "green": small}
        values = {name: {"revenue": [rng.lognormal(2.0, sigma, n) for _ in range(14)]} for name, n in units.items()}
        definition = experiment(of, weights=(540 / (540 + small), small / (540 + small)))
        notes = read_experiment(definition, state_of(definition), days_of(values)).notes
        return any("units of green have most of it" in note and "declare cap=" in note for note in notes)

    assert warned(orders, 2.5, 60)
    assert not warned(orders, 2.5, 540)
    assert not warned(orders, 0.5, 60)
    assert not warned(metric(source=ORDERS, by=("customer",), cap=100.0), 2.5, 60)


@pytest.mark.parametrize(("green", "differs"), [(0.3, False), (0.4, True)])
def test_a_mean_over_units_with_an_event_says_that_other_units_may_have_one(green: float, differs: bool) -> None:
    rng, orders = np.random.default_rng(4), source("orders", time="at", columns={"customer": str, "amount": float})
    definition = experiment(metric("basket", source=orders, by=("customer",)))
    bought = {name: [rng.normal(40, 9, rng.binomial(500, share)) for _ in range(9)] for name, share in
              (("blue", 0.3), ("green", green))}  # fmt: skip
    days = days_of({name: {"basket": values} for name, values in bought.items()})
    days = [changed(day, variants={name: msgspec.structs.replace(one, units=500)
                                   for name, one in day.variants.items()}) for day in days]  # fmt: skip
    reading = read_experiment(definition, state_of(definition), days)
    blue, more = (sum(map(len, bought[name])) for name in ("blue", "green"))
    notes = [one for one in reading.notes if one.startswith("basket compares different units")]
    assert len(notes) == differs
    assert all(f"{blue / 4500:.2%} of blue and {more / 4500:.2%} of green" in one for one in notes)
    shown = terminal_text(experiment_document(reading))
    assert f"basket: only {blue:,} of 4,500 units of blue and {more:,} of 4,500 units of green have a value" in shown


def test_the_plot_has_the_bounds_of_the_text() -> None:
    """Bounds in % allow for the error of the control's value, also in the plot."""
    definition = experiment()
    days = days_of(normal_days(np.random.default_rng(3), days=12, units=40, effect=0.6, sd=9.0))
    found = one(read_experiment(definition, state_of(definition), days))
    series = _series(found, relative=True)
    _, low, high = shown_values(found.looks[-1], "mean")
    assert series.low is not None
    assert series.high is not None
    assert (low, high) == (percent((series.low[-1] or 0) / 100), percent((series.high[-1] or 0) / 100))


def test_another_variant_that_could_be_shipped_is_named() -> None:
    values = normal_days(np.random.default_rng(8), days=20, units=800, effect=0.2)
    values |= {"red": normal_days(np.random.default_rng(8), days=20, units=800, effect=0.3)["green"]}
    definition = experiment(variants={"blue": 1, "green": 2, "red": 3})
    decision = read_experiment(definition, state_of(definition), days_of(values)).decision
    assert (decision.act, decision.variant) == ("ship", "red")
    assert ". green could be shipped, too: revenue +" in decision.text
    assert decision.text.endswith("it was not compared with red, only with the control")


def test_the_sample_ratio_check_expects_the_shares_of_the_buckets() -> None:
    """A weight of .00015 gets one bucket of 10,000."""
    weights = {"blue": 0.99985, "green": 0.00015}
    definition = experiment(weights=tuple(weights.values()))
    days = days_of({name: {"revenue": [np.zeros(n)] * 20} for name, n in (("blue", 9_999 * 4), ("green", 4))})
    allocation = msgspec.structs.replace(state_of(definition).allocations[0], buckets=first_buckets(weights))
    text = read_experiment(definition, state_of(definition, allocations=[allocation]), days).ratio.text
    assert text == "units are split blue 99.99%, green 0.01%; declared: 99.99%, 0.01% (p = 1)"


def test_of_many_reasons_the_most_frequent_are_shown() -> None:
    definition = experiment()
    days = days_of(normal_days(np.random.default_rng(8), days=2))
    reasons = {f"timeout {n}": 9 - n for n in range(8)}
    days[0] = changed(days[0], variants={n: msgspec.structs.replace(one, not_shown=reasons)
                                         for n, one in days[0].variants.items()})  # fmt: skip
    shown = terminal_text(experiment_document(read_experiment(definition, state_of(definition), days)))
    assert "timeout 4: 5, 3 other reasons: 9" in " ".join(shown.split())
