"""Losses that are estimated before labels come: right under changed inputs, silent where nothing is known."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from input_world import Shop, World
from sklearn.tree import DecisionTreeRegressor

from trimtab.core.records import DayQuality, Signal
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.monitoring.inputs.input_state import WatchStore
from trimtab.monitoring.inputs.red_windows import RedWindow
from trimtab.monitoring.quality.loss_estimates import (
    LEAST_OF_EACH,
    LEAST_ROWS,
    SIGNAL,
    EstimatedDays,
    EstimatedSums,
    LossEstimate,
    added,
    begin,
    estimated_signals,
    has_estimate,
    learn_loss_estimate,
    loss_estimate,
    onset_of,
    storing,
    sums_by_hour,
    with_hours,
)
from trimtab.monitoring.signals import every_signal, listed_signals
from trimtab.stats.metrics.losses import row_losses
from trimtab.store import Put

DAYS = 30


def learnt(estimate: LossEstimate | None) -> LossEstimate:
    assert estimate is not None
    return estimate


def overconfident(rng: np.random.Generator, rows: int, centre: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a model that is too sure of itself, and labels."""
    logit = rng.normal(centre, 1.0, rows)
    labels = (rng.random(rows) < 1.0 / (1.0 + np.exp(-logit))).astype(float)
    return 1.0 / (1.0 + np.exp(-2.0 * logit)), labels


def of_scores(seed: int, rows: int = 30_000) -> LossEstimate:
    rng = np.random.default_rng(seed)
    scores, labels = overconfident(rng, rows, 1.5)
    at_us = np.sort(rng.integers(0, DAYS * DAY_US, rows))
    return learnt(learn_loss_estimate("log_loss", at_us, scores, labels, None))


@given(st.integers(0, 10_000), st.integers(LEAST_ROWS, 4_000), st.integers(1, 4), st.booleans())
@settings(max_examples=30)
def test_a_tree_gives_what_scikit_learn_gives_and_survives_its_storage(
    seed: int, rows: int, columns: int, of_nulls: bool
) -> None:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(rows, columns))
    inputs[rng.random(inputs.shape) < 0.1] = np.nan
    scores = rng.normal(size=rows)
    noisy = np.isnan(inputs[:, 0]) if of_nulls else np.nan_to_num(inputs[:, 0]) > 0.0
    labels = scores + rng.normal(size=rows) * (1.0 + 2.0 * noisy)
    estimate = learnt(learn_loss_estimate("squared_error", rng.integers(0, 9 * DAY_US, rows), scores, labels, inputs))
    found = msgspec.json.decode(storing("v1", estimate).body, type=LossEstimate)
    assert found == estimate
    tree = DecisionTreeRegressor(max_leaf_nodes=64, min_samples_leaf=max(200, rows // 100), random_state=0)
    columns_of_tree = np.column_stack([scores, inputs])
    tree.fit(columns_of_tree, row_losses("squared_error", labels, scores))
    new = np.column_stack([rng.normal(size=500) * 3, rng.normal(size=(500, columns)) * 3])
    new[rng.random(new.shape) < 0.1] = np.nan
    assert found.losses(new[:, 0], new[:, 1:]).tolist() == tree.predict(new).tolist()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("centre", [-0.5, 0.0, 0.7])
def test_the_loss_of_changed_inputs_is_known_before_labels_although_scores_are_too_sure(
    seed: int, centre: float
) -> None:
    estimate, rng = of_scores(seed), np.random.default_rng(900 + seed)
    scores, labels = overconfident(rng, 30_000, centre)
    true = float(row_losses("log_loss", labels, scores).mean())
    said = float(estimate.losses(scores, None).mean())
    if_scores_were_right = float((-scores * np.log(scores) - (1 - scores) * np.log1p(-scores)).mean())
    assert abs(said - true) < 0.08 * true
    assert abs(if_scores_were_right - true) > 0.15 * true


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_of_a_number_follows_its_inputs_and_not_only_its_score(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def world(share_loud: float, rows: int = 20_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        loud = (rng.random(rows) < share_loud).astype(float)
        scores = rng.normal(size=rows)
        return scores, scores + rng.normal(size=rows) * np.where(loud, 3.0, 1.0), loud[:, None]

    scores, labels, inputs = world(0.1)
    at_us = np.sort(rng.integers(0, DAYS * DAY_US, len(scores)))
    estimate = learnt(learn_loss_estimate("squared_error", at_us, scores, labels, inputs))
    scores, labels, inputs = world(0.6)
    true = float(((labels - scores) ** 2).mean())
    assert abs(float(estimate.losses(scores, inputs).mean()) - true) < 0.08 * true
    assert true > 2.5 * estimate.mean


def test_several_classes_are_estimated_by_their_likeliest_class() -> None:
    rng = np.random.default_rng(3)
    raw = np.exp(2.0 * rng.normal(size=(20_000, 3)))
    scores = raw / raw.sum(axis=1, keepdims=True)
    labels = (scores.cumsum(axis=1) < rng.random(20_000)[:, None]).sum(axis=1).astype(float)
    at_us = np.sort(rng.integers(0, DAYS * DAY_US, 20_000))
    estimate = learnt(learn_loss_estimate("multi_log_loss", at_us, scores, labels, None))
    unsure = scores.max(axis=1) < 0.6
    true = float(row_losses("multi_log_loss", labels[unsure], scores[unsure]).mean())
    said = float(estimate.losses(scores[unsure].max(axis=1), None).mean())
    assert abs(said - true) < 0.03 * true


def test_nothing_is_estimated_from_few_labels_or_for_lists() -> None:
    rng = np.random.default_rng(1)
    scores, labels = overconfident(rng, LEAST_ROWS, 0.0)
    at_us = np.arange(LEAST_ROWS) * HOUR_US
    assert learn_loss_estimate("log_loss", at_us, scores, labels, None) is not None
    labels[0] = np.nan
    assert learn_loss_estimate("log_loss", at_us, scores, labels, None) is None
    assert learn_loss_estimate("ndcg_loss(5)", at_us, scores, labels, None) is None
    labels = np.tile(labels, 5)
    rare = np.zeros(200_000)
    rare[[1, 11, 21]] = 1.0  # three failures, none of which is among the rows that are read
    at_us = np.arange(200_000) * 10_000_000
    assert learn_loss_estimate("log_loss", at_us, rng.random(200_000), rare, None) is None
    for positives in (LEAST_OF_EACH - 1, LEAST_OF_EACH):
        few = (np.arange(20_000) < positives).astype(float)
        found = learn_loss_estimate("log_loss", at_us[:20_000], rng.random(20_000), few, None)
        assert (found is None) == (positives < LEAST_OF_EACH)
    at_us = np.arange(LEAST_ROWS) * HOUR_US
    short = learnt(learn_loss_estimate("log_loss", np.tile(at_us % (5 * DAY_US), 5), np.tile(scores, 5), labels, None))
    assert short.figure is None  # five days are no reference, so nothing can be called a rise


# --- days


def hours(by_day: list[list[tuple[int, int, float]]]) -> list[tuple[int, EstimatedSums]]:
    """Hours from, for each day, the rows, the rows with an estimate, and the mean estimate of each hour."""
    return [
        (24 * (DAYS + day) + hour, EstimatedSums(rows, estimated, estimated * mean))
        for day, of_day in enumerate(by_day)
        for hour, (rows, estimated, mean) in enumerate(of_day)
    ]


def begun(seed: int = 1) -> EstimatedDays:
    return begin("shop", "v1", of_scores(seed), DAYS * DAY_US)


def told(days: EstimatedDays) -> list[tuple[int, int, int, float]]:
    return [(one.day_us, one.predictions, one.labelled, round(one.capped_loss_sum, 9)) for one in days.days]


@given(data=st.data())
@settings(max_examples=30)
def test_days_are_the_sums_of_their_hours_however_these_come(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1_000)))
    given_hours = hours([[(int(rng.integers(1, 9)), 1, float(rng.random())) for _ in range(24)] for _ in range(6)])
    until_us = (DAYS + 6) * DAY_US
    whole = with_hours(begun(), given_hours, until_us)
    parts = begun()
    left = given_hours
    while left:
        count = data.draw(st.integers(1, len(left)))
        parts = with_hours(parts, left[:count], (left[count - 1][0] + 1) * HOUR_US)
        left = left[count:]
    assert told(parts) == told(whole)
    assert parts.watch == whole.watch
    assert [one.predictions for one in whole.days] == [
        sum(sums.rows for hour, sums in given_hours if hour // 24 == DAYS + day) for day in range(6)
    ]


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.floats(0, 10)), max_size=50))
def test_rows_are_summed_by_hour_and_parts_of_an_hour_add_up(rows: list[tuple[int, bool, float]]) -> None:
    at, out, loss = (np.array([row[n] for row in rows]) for n in range(3))
    found = sums_by_hour(at.astype(np.int64), loss.astype(float), out.astype(bool))
    for hour, sums in found.items():
        mine = [row for row in rows if row[0] == hour]
        assert sums.rows == len(mine)
        assert sums.estimated == sum(not row[1] for row in mine)
        assert sums.loss == pytest.approx(sum(row[2] for row in mine if not row[1]))
    once = EstimatedSums(2, 1, 0.5)
    assert added(once, once) == EstimatedSums(4, 2, 1.0)


def level(days: EstimatedDays, share: float, count: int, *, known: float = 1.0) -> EstimatedDays:
    """`count` more days whose mean estimate is `share` times that of the reference, with a little noise."""
    first = len(days.days)
    rng, usual = np.random.default_rng(first), days.watch.reference_loss or 0.0
    for day in range(first, first + count):
        mean = usual * (share + 0.01 * float(rng.normal()))
        sums = EstimatedSums(1_000, int(1_000 * known), int(1_000 * known) * mean)
        days = with_hours(days, [(24 * (DAYS + day), sums)], (DAYS + day + 1) * DAY_US)
    return days


def rung(days: EstimatedDays) -> bool:
    return bool(estimated_signals(days, 0, red=False))


def test_a_rise_by_more_than_a_tenth_rings_with_its_onset_and_ends_when_it_is_over() -> None:
    quiet = level(begun(), 1.0, 20)
    assert not rung(quiet)
    assert not rung(level(quiet, 1.09, 60))
    assert rung(level(quiet, 1.2, 9))
    higher = level(quiet, 1.3, 10)
    found = estimated_signals(higher, 77, red=True)
    assert [(one.kind, one.severity, one.raised_at_us) for one in found] == [(SIGNAL, "red", 77)]
    assert abs(found[0].onset_us - (DAYS + 20) * DAY_US) <= DAY_US
    onset = onset_of(found[0])
    assert onset.earliest_us <= (DAYS + 20) * DAY_US <= onset.latest_us
    assert found[0].evidence["estimated_loss"] == pytest.approx(1.3 * (quiet.watch.reference_loss or 0.0), rel=0.02)
    assert rung(level(higher, 1.07, 9))
    assert not rung(level(higher, 1.03, 9))


def test_a_further_rise_has_a_signal_of_its_own() -> None:
    higher = level(level(begun(), 1.0, 20), 1.3, 20)
    assert [one.subject for one in estimated_signals(higher, 0, red=True)] == [""]
    first, further = estimated_signals(level(higher, 2.0, 8), 0, red=True)
    assert (first.subject, further.subject) == ("", "rise 1")
    assert first.id != further.id
    assert abs(first.onset_us - (DAYS + 20) * DAY_US) <= DAY_US
    assert abs(further.onset_us - (DAYS + 40) * DAY_US) <= DAY_US


def replaced(days: EstimatedDays, learnt_until_day: int) -> EstimatedDays:
    """The days after another version was put in service, which has learnt until this day."""
    now_us = (DAYS + len(days.days)) * DAY_US
    return begin("shop", "v2", of_scores(2), now_us, before=days, learnt_until_us=(DAYS + learnt_until_day) * DAY_US)


def test_a_version_that_learnt_from_no_day_since_the_rise_goes_on_with_its_evidence() -> None:
    quiet = level(begun(), 1.0, 20)
    higher = level(quiet, 1.3, 10)
    (before,) = estimated_signals(higher, 0, red=True)
    (after,) = estimated_signals(replaced(higher, 10), 0, red=True)
    assert (after.version, after.onset_us) == ("v2", before.onset_us)
    assert not rung(level(replaced(higher, 10), 1.0, 12))  # it ends as any alarm does
    assert not rung(replaced(higher, 25))
    one_day = level(quiet, 1.2, 3)  # too few days to ring, but they count
    assert not rung(one_day)
    assert rung(level(replaced(one_day, 10), 1.2, 6))
    assert not rung(level(replaced(one_day, 22), 1.2, 4))


def test_a_version_that_learnt_from_the_rise_begins_anew_and_keeps_the_days_that_are_shown() -> None:
    higher = level(level(begun(), 1.0, 20), 1.3, 10)
    after = level(replaced(higher, 25), 1.0, 3)
    assert [one.day_us for one in after.days] == [(DAYS + day) * DAY_US for day in range(33)]
    assert [one.version for one in after.days] == ["v1"] * 30 + ["v2"] * 3
    assert after.watch.first_day_us == (DAYS + 30) * DAY_US
    assert next(iter(after.watch.figures.values())).state.days == 3
    harder = level(after, 1.3, 10)
    assert abs(estimated_signals(harder, 0, red=True)[0].onset_us - (DAYS + 33) * DAY_US) <= DAY_US
    short = begin("shop", "v2", msgspec.structs.replace(of_scores(2), figure=None), 0, before=higher)
    assert not level(short, 1.5, 13).watch.figures  # thirteen days of its own are no reference
    assert level(short, 1.5, 14).watch.figures


def test_days_with_many_rows_unlike_those_learnt_from_have_no_estimate() -> None:
    quiet = level(begun(), 1.0, 20)
    strange = level(quiet, 1.5, 20, known=0.79)
    assert not has_estimate(strange.days[-1])
    assert not rung(strange)
    assert has_estimate(level(quiet, 1.5, 1, known=0.8).days[-1])
    assert rung(level(quiet, 1.5, 20, known=0.8))


def test_a_version_without_a_reference_is_compared_with_its_first_two_weeks_in_service() -> None:
    days = begin("shop", "v1", msgspec.structs.replace(of_scores(1), figure=None), DAYS * DAY_US)
    days = level(days, 1.5, 13)
    assert not days.watch.figures
    days = level(days, 1.5, 10)
    assert days.watch.reference_loss == pytest.approx(1.5 * of_scores(1).mean, rel=0.02)
    assert not rung(days)
    higher = level(days, 1.5, 9)  # half as much again
    assert rung(higher)
    assert abs(estimated_signals(higher, 0, red=False)[0].onset_us - (DAYS + 23) * DAY_US) <= 2 * DAY_US


# --- in the monitor of inputs


def estimated(shop: Shop) -> list[DayQuality]:
    watch, _ = WatchStore(shop.catalog, "shop").watch()
    assert watch.estimated is not None
    return list(watch.estimated.days)


def test_the_monitor_estimates_each_day_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    shops = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shop = Shop(World(5, days=4, per_day=600), tmp_path / name)
        rng = np.random.default_rng(1)
        scores, labels = rng.uniform(0.2, 0.3, 20_000), (rng.random(20_000) < 0.25).astype(float)
        learnt_us = np.sort(rng.integers(0, 28 * DAY_US, 20_000))
        shop.catalog.write(
            [storing(shop.version.id, learnt(learn_loss_estimate("log_loss", learnt_us, scores, labels, None)))]
        )
        shops.append(shop)
    shops[0].run()
    asked = shops[1].predictions()
    for now_us in range(shops[1].world.cut_us + 5 * HOUR_US, shops[1].world.end_us, 5 * HOUR_US):
        monitor = shops[1].monitor()  # a new process for each look
        monitor.follow()
        shops[1].clock.advance_to(now_us)
        monitor.add([one for one in asked if monitor.read_from_us <= one.made_at_us < now_us])
        monitor.look(now_us)
    one, two = estimated(shops[0]), estimated(shops[1])
    done = [day for day in two if day.day_us + DAY_US <= shops[1].world.end_us - 5 * HOUR_US]
    same = [day for day in one if day.day_us in {day.day_us for day in done}]
    assert [(day.day_us, day.predictions, day.labelled) for day in same] == [
        (day.day_us, day.predictions, day.labelled) for day in done
    ]
    assert [day.capped_loss_sum for day in same] == pytest.approx([day.capped_loss_sum for day in done])
    assert len(done) >= 3
    made = shops[0].predictions()
    for day in one:
        mine = [p for p in made if p.made_at_us // DAY_US * DAY_US == day.day_us]
        assert day.predictions <= len(mine)
        assert day.labelled > 0.9 * day.predictions
        estimate = loss_estimate(shops[0].catalog, shops[0].version.id)
        each = learnt(estimate).losses(np.array([0.25]), None)[0]
        assert day.capped_loss_sum == pytest.approx(each * day.labelled)
    assert SIGNAL not in {one.kind for one in every_signal(shops[0].catalog)}


def test_rows_with_unknown_values_are_not_estimated(tmp_path: Path) -> None:
    world = World(6, days=3, per_day=600)
    late = world.rows(world.cut_us + DAY_US)
    world.visits["site"][np.flatnonzero(late)[::2]] = "east"
    shop = Shop(world, tmp_path)
    shop.catalog.write([storing(shop.version.id, of_scores(1))])
    shop.run()
    days = estimated(shop)
    assert has_estimate(days[0])
    assert not any(has_estimate(day) for day in days[1:])


def test_new_values_of_a_column_that_no_feature_reads_and_faulty_labels_do_not_matter(tmp_path: Path) -> None:
    world = World(7, days=3, per_day=600)
    world.visits["channel"][world.rows(world.cut_us)] = "partner99"
    shop = Shop(world, tmp_path)
    shop.catalog.write([storing(shop.version.id, of_scores(1))])
    window = RedWindow(
        id="1", model="shop", kind="labels_missing", subject="labels of sales", start_us=world.cut_us, end_us=None
    )
    shop.catalog.write([Put("red_window", "shop/1", msgspec.json.encode(window))])
    shop.run()
    days = estimated(shop)
    assert len(days) >= 2
    assert all(has_estimate(day) for day in days)


def test_estimates_survive_their_storage() -> None:
    estimate = of_scores(2)
    assert msgspec.json.decode(storing("v1", estimate).body, type=LossEstimate) == estimate


def test_the_evidence_is_kept_while_a_version_without_estimates_is_in_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(World(8, days=6, per_day=600), tmp_path)
    usual = of_scores(1)
    rng = np.random.default_rng(1)
    at_us, scores = np.sort(rng.integers(0, 28 * DAY_US, 20_000)), rng.uniform(0.04, 0.06, 20_000)
    low = learn_loss_estimate("log_loss", at_us, scores, (rng.random(20_000) < scores).astype(float), None)
    shop.catalog.write([storing(shop.version.id, msgspec.structs.replace(usual, figure=learnt(low).figure))])
    shop.run()
    monitor = shop.monitor()

    def signals(hour: int) -> tuple[list[Signal], list[Signal]]:
        """The signals that are open some hours after the end, and those that ended."""
        monitor.look(shop.world.end_us + hour * HOUR_US)
        found = [one for one in listed_signals(shop.catalog, "shop") if one.kind == SIGNAL]
        return [one for one in found if one.ended_at_us is None], [one for one in found if one.ended_at_us is not None]

    (before,), _ = signals(1)
    other = msgspec.structs.replace(shop.version, id="other", refit_of=None)
    with monkeypatch.context() as moved:
        moved.setattr(shop.registry, "alias", lambda model, alias: other)
        open_now, (ended,) = signals(2)
        assert open_now == []
        assert ended.ended_because == "another version was put in service"
        assert estimated(shop)
    (after,), _ = signals(3)
    assert (after.version, after.onset_us) == (before.version, before.onset_us)
