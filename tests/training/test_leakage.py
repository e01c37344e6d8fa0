from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from trimtab.core.columns.data import Column, Columns, column
from trimtab.core.errors import Misuse
from trimtab.core.expressions.nodes import col
from trimtab.events.definitions import Time
from trimtab.features.aggregates import mean
from trimtab.features.definitions import label, request, view
from trimtab.stats.association import auc_interval, r_squared_interval, share_interval
from trimtab.training import Evaluation, Model, TrainingSet, evaluate, fit, model, time_split
from trimtab.training.data.leakage import columns_read, find_leaks
from trimtab.training.data.predictive_power import predictive_power
from trimtab.training.data.retroactive_changes import RetroactiveChange, retroactive_changes


def look(made: Model, training_set: TrainingSet) -> list[tuple[str, str, str]]:
    found = find_leaks(made, training_set, np.flatnonzero(training_set.usable))
    return [(leak.check, leak.name, leak.severity) for leak in found]


def with_feature(training_set: TrainingSet, name: str, column: Column) -> TrainingSet:
    values = Columns({**training_set.features.values.by_name, name: column})
    return msgspec.structs.replace(training_set, features=msgspec.structs.replace(training_set.features, values=values))


def with_hindsight(training_set: TrainingSet, **seen: RetroactiveChange) -> TrainingSet:
    manifest = msgspec.structs.replace(training_set.manifest, hindsight=seen)
    return msgspec.structs.replace(training_set, manifest=manifest)


def seen(**figures: int) -> RetroactiveChange:
    none = {"twice": 0, "changed": 0, "filled": 0, "asked": 0, "asked_filled": 0, "history": 900, "history_filled": 900}
    return RetroactiveChange(**{**none, **figures})


@pytest.mark.fast
def test_an_honest_set_has_no_leak(world: Any, training_set: TrainingSet) -> None:
    assert look(world.model, training_set) == []


@pytest.mark.parametrize("kind", ["the label", "its opposite", "null where 0", "far from a middle", "a code", "a NUL"])
def test_a_planted_future_column_is_refused_by_name(world: Any, training_set: TrainingSet, kind: str) -> None:
    truth = np.nan_to_num(training_set.target)
    noise = np.random.default_rng(1).random(truth.size)
    if kind in ("a code", "a NUL"):
        made = msgspec.structs.replace(world.model)
        late, fine = ("late{}", "fine{}") if kind == "a code" else ("{}\0", "{}")
        texts = np.array(
            [(late if one else fine).format(int(9 * n)) for one, n in zip(truth, noise, strict=True)], object
        )
        planted, name = with_feature(training_set, "name", Column("str", texts)), "name"
    else:
        values = {
            "the label": truth + 0.9 * noise,
            "its opposite": -truth - 0.9 * noise,
            "null where 0": noise,
            "far from a middle": (1 + truth + 0.9 * noise) * np.where(noise > 0.5, 1.0, -1.0),
        }[kind]
        valid = truth == 1 if kind == "null where 0" else None
        made, planted, name = world.model, with_feature(training_set, "km", Column("float", values, valid)), "km"
    assert look(made, planted) == [("foretells", name, "error")]
    with pytest.raises(Misuse, match=rf"'{name}' alone predicts.*allow_leakage=\[\"{name}\"\]"):
        fit(made, planted)
    allowed = msgspec.structs.replace(made, allow_leakage=(name,))
    assert fit(allowed, planted).rows == training_set.usable.sum()
    (leak,) = find_leaks(allowed, planted, np.flatnonzero(planted.usable))
    assert leak.allowed
    assert allowed.hash != made.hash  # it is recorded with the version


def test_a_leak_is_seen_where_one_class_is_rare(make: Callable[..., Any]) -> None:
    world = make(days=40, per_day=400, late=lambda chance, risk: np.where(chance.random(risk.size) < 0.008, 45.0, 3.0))
    training_set = world.training_set()
    assert 90 < (training_set.target[training_set.usable] == 1).sum() < 150
    planted = with_feature(training_set, "km", Column("float", np.nan_to_num(training_set.target)))
    assert look(world.model, planted) == [("foretells", "km", "error")]
    assert look(world.model, training_set) == []


@pytest.mark.fast
def test_a_feature_that_has_no_value_in_any_row_learnt_from_is_noted(world: Any, training_set: TrainingSet) -> None:
    values: list[float | None] = [None] * training_set.rows
    values[int(np.flatnonzero(~training_set.usable)[0])] = 1.0  # of a row that is not learnt from
    empty = with_feature(training_set, "km", column("float", values))
    assert look(world.model, empty) == [("no_values", "km", "warning")]
    values[int(np.flatnonzero(training_set.usable)[0])] = 1.0
    assert look(world.model, with_feature(training_set, "km", column("float", values))) == []


def test_numbers_may_be_predicted_well_but_not_copied(make: Callable[..., Any]) -> None:
    world = make(
        metric="squared_error", value=col("delay"), late=lambda chance, risk: chance.exponential(30, risk.size)
    )
    training_set, chance = world.training_set(), np.random.default_rng(0)
    truth = np.nan_to_num(training_set.target)
    for noise, expected in ((0.0, "error"), (2.0, "warning"), (30.0, None)):
        values = truth + noise * chance.normal(size=truth.size)
        planted = with_feature(training_set, "km", Column("float", values))
        assert look(world.model, planted) == ([("foretells", "km", expected)] if expected else [])
    assert look(world.model, with_feature(training_set, "km", Column("float", np.log1p(truth)))) == [
        ("foretells", "km", "error")
    ]


def test_a_handful_of_rows_proves_nothing(world: Any, training_set: TrainingSet) -> None:
    planted = with_feature(training_set, "km", Column("float", np.nan_to_num(training_set.target)))
    few = np.flatnonzero(planted.usable)[:40]
    assert all(one.interval.low < 0.98 for one in predictive_power(world.model, planted, few))
    assert predictive_power(world.model, planted, few[:10]) == ()


def test_a_column_that_requests_get_only_later_is_refused(world: Any, training_set: TrainingSet) -> None:
    filled = with_hindsight(training_set, distance=seen(twice=50, changed=20, filled=20))
    with pytest.raises(Misuse, match=r"'distance' was null in 20 of 50 requests .*900 training rows .* read it: km\."):
        fit(world.model, filled)
    assert look(world.model, with_hindsight(training_set, distance=seen(twice=50, changed=20))) == [
        ("known_later", "distance", "warning")
    ]
    unread = with_hindsight(training_set, scheduled_at=seen(twice=50, changed=20, filled=20))
    assert look(world.model, unread) == []
    as_asked = with_hindsight(training_set, distance=seen(twice=50, changed=20, filled=20, history_filled=0))
    assert look(world.model, as_asked) == []
    for rare in (seen(twice=1000, changed=6, filled=6), seen(twice=4, changed=4, filled=4)):
        assert look(world.model, with_hindsight(training_set, distance=rare)) == []


def test_a_column_that_only_history_has_is_refused(world: Any, training_set: TrainingSet) -> None:
    never = with_hindsight(training_set, distance=seen(asked=30))
    with pytest.raises(Misuse, match="'distance' has a value in 900 of 900 rows from history, and in none of 30"):
        fit(world.model, never)
    for fine in (seen(asked=29), seen(asked=500, asked_filled=1), seen(asked=500, history_filled=449)):
        assert look(world.model, with_hindsight(training_set, distance=fine)) == []


def test_the_labels_source_may_not_include_the_requests_own_time(world: Any, training_set: TrainingSet) -> None:
    landings = world.model.label.source
    late = {"late_rate_7d": mean(col("delay") >= 30, over="7d")}
    own = view("carrier", source=landings, by="carrier", features=late, boundary="inclusive")
    made = model(
        "late_flight",
        request=world.model.request,
        features=[own, {"km": col("distance")}],
        label=world.model.label,
        estimator=LogisticRegression,
        metric="log_loss",
    )
    assert look(made, training_set) == [("own_label", "carrier", "error")]


def test_a_label_that_is_a_column_of_its_own_request_is_refused_as_a_feature(training_set: TrainingSet) -> None:
    trip = request("trip", key="id", time="at", columns={"id": str, "at": Time, "tip": float})
    made = model(
        "tips",
        request=trip,
        features=[{"more": col("tip") * 2}],
        label=label(trip.source, key="id", value="tip", wait="1d"),
        estimator=LogisticRegression,
        metric="squared_error",
    )
    assert ("label_column", "more", "error") in look(
        made, with_feature(training_set, "more", Column("float", training_set.at_us * 1.0))
    )


def test_labels_that_are_known_at_request_time_are_refused(world: Any, training_set: TrainingSet) -> None:
    early = msgspec.structs.replace(training_set.labels, known_at_us=training_set.at_us)
    planted = msgspec.structs.replace(training_set, labels=early)
    with pytest.raises(Misuse, match="labels were known at the time of their request: 'landings'"):
        fit(world.model, planted)


def judged(made: Model, training_set: TrainingSet) -> Evaluation:
    split = time_split(training_set)
    fitted = fit(made, training_set, rows=split.train)
    return evaluate(made, fitted, training_set, rows=split.holdout, train=split.train)


@pytest.mark.parametrize("new", ["new", "b\0", "a\0"], ids=repr)
def test_groups_on_both_sides_are_separated_from_new_ones(world: Any, training_set: TrainingSet, new: str) -> None:
    assert judged(world.model, training_set).leaks == ()
    split = time_split(training_set)
    names = np.array(["a", "b"], object)[(np.arange(training_set.rows) % 2)]
    names[split.holdout & (names == "b")] = new
    names[np.flatnonzero(split.holdout)[:4]] = names[np.flatnonzero(split.train)[:4]] = None  # of no group
    present = np.array([name is not None for name in names])
    requests = training_set.requests.replace({"carrier": Column("str", names, present)})
    found = judged(
        msgspec.structs.replace(world.model, group="carrier"), msgspec.structs.replace(training_set, requests=requests)
    )
    assert found.leaks is not None
    (leak,) = found.leaks
    assert (leak.check, leak.severity) == ("group", "warning")
    old, new = (one for one in found.slices if one.column == "carrier (group)")
    assert (old.holds, new.holds) == ("learnt from", "new")
    assert old.rows + new.rows == found.rows
    assert f"{old.rows} of {found.rows} evaluated rows belong to 1 groups" in leak.found


def test_rows_entered_twice_are_noticed(world: Any, training_set: TrainingSet) -> None:
    split = time_split(training_set)
    learnt = np.flatnonzero(split.train & training_set.usable)
    rows = np.arange(training_set.rows)
    copies = np.flatnonzero(split.holdout)[:40]
    rows[copies] = learnt[:40]
    features, labels = training_set.features, training_set.labels
    planted = msgspec.structs.replace(
        training_set,
        features=msgspec.structs.replace(features, values=features.values.take(rows)),
        labels=msgspec.structs.replace(labels, values=labels.values[rows]),
    )
    found = judged(world.model, planted)
    assert found.leaks is not None
    assert [(leak.check, leak.severity) for leak in found.leaks] == [("repeated", "warning")]
    assert found.leaks[0].found.startswith("40 of ")


def test_classes_are_counted_on_both_sides(world: Any, training_set: TrainingSet) -> None:
    found = judged(world.model, training_set)
    assert [one.label for one in found.balance] == [0.0, 1.0]
    assert sum(one.holdout for one in found.balance) == found.rows
    assert sum(one.weight for one in found.balance) == pytest.approx(1.0)


def test_columns_are_compared_with_their_nulls() -> None:
    asked = Columns.of({"x": ("float", [None, 1.0, 2.0, None])})
    later = Columns.of({"x": ("float", [5.0, 1.0, 3.0])})
    history = Columns.of({"x": ("float", [None, 1.0])})
    assert retroactive_changes(["x"], asked, np.array([0, 1, 2]), later, history)["x"] == RetroactiveChange(
        twice=3, changed=2, filled=1, asked=4, asked_filled=2, history=2, history_filled=1
    )


def test_the_columns_behind_a_feature_are_found_through_others(world: Any) -> None:
    made = model(
        "late_flight",
        request=world.model.request,
        features=[
            world.model.features.views[0],
            {"km": col("distance"), "far": col("km") > 9, "odds": col("carrier.late_rate_7d") / col("km")},
            {"distance": col("distance") * 2},
        ],
        label=world.model.label,
        estimator=LogisticRegression,
        metric="log_loss",
    )
    read = {name: columns_read(made.features, name) for name in made.features.names}
    assert read == {
        "carrier.late_rate_7d": {"carrier"},
        "km": {"distance"},
        "far": {"distance"},
        "odds": {"carrier", "distance"},
        "distance": {"distance"},
    }


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1), st.integers(1, 500), st.integers(1, 500))
def test_intervals_hold_their_estimate_and_narrow_with_rows(value: float, few: int, others: int) -> None:
    for small, large in (
        (auc_interval(value, few, others), auc_interval(value, 10 * few, 10 * others)),
        (r_squared_interval(value, few + 3), r_squared_interval(value, 10 * (few + 3))),
        (share_interval(round(value * few), few), share_interval(10 * round(value * few), 10 * few)),
    ):
        for one in (small, large):
            assert 0.0 <= one.low <= one.estimate <= one.high <= 1.0
        assert large.high - large.low <= small.high - small.low + 1e-9


def test_the_interval_of_an_area_covers_as_often_as_it_says() -> None:
    from scipy.stats import norm

    from trimtab.stats import auc

    chance, truth = np.random.default_rng(0), norm.cdf(2.0 / np.sqrt(2))
    held = 0
    for _ in range(300):
        scores = np.concatenate([chance.normal(2.0, 1, 40), chance.normal(0, 1, 80)])
        seen_area = auc([1] * 40 + [0] * 80, norm.cdf(scores))
        assert seen_area is not None
        one = auc_interval(seen_area, 40, 80)
        held += one.low <= truth <= one.high
    assert held >= 276  # 92 %
