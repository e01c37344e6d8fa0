"""Faults of inputs and labels are red within a day, by name, and end; a healthy project stays quiet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from input_faults import BY_NAME, GROUPS, Fault, _keep
from input_world import Shop, World

from trimtab.core.records import DayQuality, Signal
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.feedback.blocks import BlockSums
from trimtab.monitoring.inputs.checks.labels import label_findings, lacking_days
from trimtab.monitoring.inputs.monitor import by_day
from trimtab.monitoring.inputs.red_windows import red_windows
from trimtab.monitoring.profiles.profile_records import LabelDays
from trimtab.monitoring.signals import standing_signals

BEGIN_US, FAULTY_US, AFTER_US = 3 * DAY_US + 9 * HOUR_US, 2 * DAY_US, 4 * DAY_US


def with_faults(names: Sequence[str], seed: int, folder: Path, *, every_h: int = 1) -> tuple[Shop, list[Signal], int]:
    world = World(seed, days=(BEGIN_US + FAULTY_US + AFTER_US) // DAY_US, before=28, per_day=1_200)
    since_us = world.cut_us + BEGIN_US
    for name in names:
        BY_NAME[name].do(world, since_us, since_us + FAULTY_US)
    shop = Shop(world, folder)
    return shop, shop.run(every_h=every_h), since_us


def missed(fault: Fault, signals: Sequence[Signal], since_us: int) -> str | None:
    """What a fault's signals lack; None when they came in time, named it, and ended in time."""
    end_us = since_us + FAULTY_US
    mine = [
        one for one in signals if one.severity == "red" and one.kind in fault.kinds and one.subject == fault.subject
    ]
    mine = [one for one in mine if since_us <= one.raised_at_us]
    if not mine:
        others = sorted({f"{one.severity} {one.kind} {one.subject}" for one in signals})
        return f"{fault.name}: never red; there was {others}"
    first_us = min(one.raised_at_us for one in mine) - since_us
    if first_us > fault.after_us:
        return f"{fault.name}: red only after {first_us / HOUR_US:.0f} h"
    late = [one for one in mine if one.ended_at_us is None or one.ended_at_us > end_us + fault.after_us]
    return f"{fault.name}: {late[0].kind} did not end" if late else None


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.soak)])
@pytest.mark.parametrize("names", GROUPS, ids="+".join)
def test_a_fault_is_red_within_a_day_by_name_and_ends(names: tuple[str, ...], seed: int, tmp_path: Path) -> None:
    shop, signals, since_us = with_faults(names, seed, tmp_path, every_h=3)  # as the soak form does each hour
    assert [said for name in names if (said := missed(BY_NAME[name], signals, since_us))] == []
    assert [one for one in signals if one.severity == "red" and one.raised_at_us < since_us] == []
    windows = {(one.kind, one.subject) for one in red_windows(shop.catalog, "shop")}
    assert windows >= {(one.kind, one.subject) for one in signals if one.severity == "red"} - {
        ("traffic_stopped", "traffic"),
        ("traffic_doubled", "traffic"),
        ("feed_stopped", "source sales"),  # the labels may still come
        ("new_values", "column channel"),  # the model does not read it
    }


@pytest.mark.soak
def test_faults_are_red_within_a_day_on_twenty_seeds(tmp_path: Path, soak_report: Callable[..., None]) -> None:
    failures, hours = [], []
    for seed in range(100, 120):
        for number, names in enumerate(GROUPS):
            folder = tmp_path / f"{seed}-{number}"
            folder.mkdir()
            _, signals, since_us = with_faults(names, seed, folder)
            failures += [said for name in names if (said := missed(BY_NAME[name], signals, since_us))]
            for name in names:
                fault = BY_NAME[name]
                mine = [one for one in signals if one.severity == "red" and one.kind in fault.kinds]
                mine = [one for one in mine if one.subject == fault.subject and one.raised_at_us >= since_us]
                if mine and fault.after_us == DAY_US:
                    hours.append((min(one.raised_at_us for one in mine) - since_us) / HOUR_US)
    soak_report(
        "input_faults", runs=20 * len(BY_NAME), failures=len(failures), median_hours=sorted(hours)[len(hours) // 2]
    )
    assert failures == []


@pytest.mark.slow
def test_a_healthy_project_is_quiet_over_weekends_nights_and_a_holiday(tmp_path: Path) -> None:
    signals = Shop(World(7, days=9, before=28, per_day=1_200, extra=4), tmp_path).run()
    assert [one.message for one in signals if one.severity == "red"] == []


@pytest.mark.soak
def test_a_healthy_project_has_at_most_one_false_red_in_sixty_days(
    tmp_path: Path, soak_report: Callable[..., None]
) -> None:
    """Thirty columns, a season, weekends, nights without requests, a holiday, values that come up now and then."""
    reds = []
    for seed in range(200, 220):
        folder = tmp_path / str(seed)
        folder.mkdir()
        signals = Shop(World(seed, days=60, extra=20), folder).run()
        reds.append(sum(one.severity == "red" for one in signals))
    soak_report(
        "healthy_inputs", runs=len(reds), failures=sum(red > 1 for red in reds), false_reds=sum(reds) / len(reds)
    )
    assert max(reds) <= 1


def test_another_unit_is_red_within_a_day_although_few_rows_come(tmp_path: Path) -> None:
    world = World(4, days=9, before=42, per_day=150)
    since_us = world.cut_us + BEGIN_US
    BY_NAME["miles"].do(world, since_us, since_us + FAULTY_US)
    signals = Shop(world, tmp_path).run()
    assert missed(BY_NAME["miles"], signals, since_us) is None
    assert [one for one in signals if one.severity == "red" and one.raised_at_us < since_us] == []


@pytest.mark.parametrize("per_day", [30, 120])
def test_little_traffic_is_put_together_until_there_are_enough_rows(per_day: int, tmp_path: Path) -> None:
    world = World(4, days=9, before=42, per_day=per_day)
    since_us = world.cut_us + BEGIN_US
    BY_NAME["all_null"].do(world, since_us, world.end_us)
    signals = Shop(world, tmp_path).run()
    (found,) = [one for one in signals if one.severity == "red"]
    assert (found.kind, found.subject) == ("nulls", "column distance")
    assert found.raised_at_us <= since_us + (DAY_US if per_day > 40 else 2 * DAY_US)
    assert found.evidence["rows"] >= 20


def test_doubled_traffic_is_red_on_a_holiday_as_well(tmp_path: Path) -> None:
    """Twice 40 % of a usual day looks like a usual day; that all is asked twice does not."""
    world = World(6, days=6, before=28, per_day=1_200)
    since_us = world.cut_us + 3 * DAY_US
    holiday = world.rows(since_us, since_us + DAY_US)
    _keep(world, ~holiday | (world.rng.random(len(holiday)) < 0.4))
    BY_NAME["doubled"].do(world, since_us, since_us + DAY_US)
    red = [one for one in Shop(world, tmp_path).run() if one.severity == "red"]
    assert [(one.kind, one.subject) for one in red] == [("duplicates", "traffic")]
    assert red[0].raised_at_us <= since_us + 11 * HOUR_US  # nobody comes before six
    assert red[0].ended_at_us is not None
    assert "under different ids" in red[0].message


@pytest.mark.slow
def test_a_season_that_leaves_the_range_of_training_is_no_fault(tmp_path: Path) -> None:
    world = World(5, days=14, before=28, per_day=1_200)
    later = world.rows(world.cut_us)
    days = (world.at_us[later] - world.cut_us) / DAY_US
    world.visits["age"][later] += 2.0 * days  # 28 years in two weeks
    world.visits["price"][later] *= 1.05**days
    signals = Shop(world, tmp_path).run()
    assert [one.message for one in signals if one.severity == "red"] == []
    assert {one.subject for one in signals if one.kind == "shape"} >= {"column age"}


@pytest.mark.parametrize("lost", [np.nan, 7.5])
def test_requests_that_look_alike_because_a_column_is_lost_are_not_called_repeated(lost: float, tmp_path: Path) -> None:
    world = World(9, days=6, before=28, per_day=1_200)
    mine = world.rows(world.cut_us + 3 * DAY_US, world.cut_us + 4 * DAY_US)
    world.visits["age"] = np.full(len(mine), 40.0)
    world.visits["price"] = np.full(len(mine), 10.0)
    world.visits["distance"][mine] = lost  # nothing else tells most of them apart
    found = {(one.kind, one.subject) for one in Shop(world, tmp_path).run() if one.severity == "red"}
    assert found == {("nulls" if np.isnan(lost) else "constant", "column distance")}


@pytest.mark.parametrize("spelled", ["c", "C"])
def test_values_that_a_profile_has_no_room_for_are_not_called_new(
    spelled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 500 names that all occur in training, a profile is given room for 200."""
    monkeypatch.setattr("trimtab.monitoring.profiles.profiles.VALUE_BYTES", 200 * 8)
    world = World(7, days=4, before=28, per_day=1_200)
    names = world.rng.integers(0, 500, len(world.at_us))
    late = world.rows(world.cut_us + 2 * DAY_US)
    spellings = np.where(late, spelled, "c").tolist()
    world.visits["channel"] = np.array([f"{c}{n}" for c, n in zip(spellings, names.tolist(), strict=True)], object)
    found = {(one.kind, one.subject) for one in Shop(world, tmp_path).run() if one.severity == "red"}
    assert found == ({("new_values", "column channel")} if spelled == "C" else set())


def test_few_questions_in_a_loop_are_called_repeated_although_a_column_is_the_same_in_all(tmp_path: Path) -> None:
    world = World(6, days=6, before=28, per_day=1_200)
    begin_us = world.cut_us + 3 * DAY_US + 8 * HOUR_US
    for hour in range(12):
        rows = np.flatnonzero(world.rows(begin_us + hour * HOUR_US, begin_us + (hour + 1) * HOUR_US))
        asked = rows[world.visits["code"][rows] == 200][
            :20
        ]  # nine of ten have this code, so twenty equal ones say little
        for name in world.visits.keys() - {"visit_id", "at"}:
            world.visits[name][rows] = np.resize(world.visits[name][asked], rows.size)
    found = {(one.kind, one.subject) for one in Shop(world, tmp_path).run() if one.severity == "red"}
    assert ("duplicates", "traffic") in found


@pytest.mark.parametrize("restarts", [False, True])
def test_a_reading_that_came_while_nobody_looked_is_named_at_the_next_look(tmp_path: Path, restarts: bool) -> None:
    """A service that was down for five hours, or a replay that looks four times a day."""
    world = World(3, days=1, per_day=600)
    first_us, next_us = world.cut_us + 6 * HOUR_US, world.cut_us + 11 * HOUR_US
    known_us = world.weather["known_us"]
    wild = np.flatnonzero((known_us > first_us) & (known_us < first_us + HOUR_US))[:1]
    world.weather["wind"][wild] = 1_048.0
    shop = Shop(world, tmp_path)
    asked, monitor = shop.predictions(), shop.monitor()
    for look_us in (first_us, next_us):
        shop.clock.advance_to(look_us)
        monitor.add([p for p in asked if look_us - 5 * HOUR_US <= p.made_at_us < look_us])
        monitor.look(look_us)
        if restarts:
            monitor = shop.monitor()
    found = [(one.kind, one.subject) for one in standing_signals(shop.catalog, "shop") if one.severity == "red"]
    assert ("range", "column weather.wind") in found


def test_what_is_said_has_numbers_and_what_to_check(tmp_path: Path) -> None:
    _, signals, _ = with_faults(("half_null",), 3, tmp_path, every_h=3)
    (found,) = [one for one in signals if one.severity == "red"]
    assert 0.35 < found.evidence["share"] < 0.65
    assert found.evidence["usual_high"] < 0.05
    assert "Column price" in found.message
    assert "normal is at most" in found.message
    assert "Check" in found.message


def test_a_signal_about_a_feature_names_the_fault_of_its_source_as_its_cause(tmp_path: Path) -> None:
    _, signals, _ = with_faults(("absurd_reading",), 3, tmp_path)
    causes = {one.subject: one.cause for one in signals if one.severity == "red"}
    assert causes == {"column weather.wind": None, "column sky.wind_6h": "range of column weather.wind"}


def test_a_last_absurd_value_hours_after_the_others_is_left_out_as_they_are(tmp_path: Path) -> None:
    world = World(4, days=6, before=28, per_day=1_200)
    since_us = world.cut_us + 3 * DAY_US + 9 * HOUR_US
    BY_NAME["absurd"].do(world, since_us, since_us + 6 * HOUR_US)
    alone = int(np.flatnonzero(world.rows(since_us + 14 * HOUR_US))[0])
    world.visits["age"][alone] = 9_999.0
    shop = Shop(world, tmp_path)
    signals = [one for one in shop.run() if one.kind == "range" and one.severity == "red"]
    assert any(one.covers(int(world.at_us[alone])) for one in red_windows(shop.catalog, "shop") if one.kind == "range")
    assert len(signals) == 1
    ended_us = signals[0].ended_at_us
    assert ended_us is not None
    assert ended_us < int(world.at_us[alone]) + DAY_US


@pytest.mark.slow
def test_two_absurd_values_hours_apart_are_no_fault(tmp_path: Path) -> None:
    world = World(5, days=5, before=28, per_day=4_800)
    for hour in (9, 16):
        alone = int(np.flatnonzero(world.rows(world.cut_us + 3 * DAY_US + hour * HOUR_US))[0])
        world.visits["age"][alone] = 9_999.0
    found = [(one.kind, one.severity) for one in Shop(world, tmp_path).run() if one.kind == "range"]
    assert found
    assert set(found) == {("range", "info")}


def test_absurd_values_hours_apart_are_red_where_they_are_more_than_a_few_of_a_day(tmp_path: Path) -> None:
    world = World(6, days=6, before=28, per_day=400)
    ages = []
    for hour in (9, 12, 15, 18):  # never two of them within two hours
        alone = int(np.flatnonzero(world.rows(world.cut_us + 3 * DAY_US + hour * HOUR_US))[0])
        world.visits["age"][alone] = 9_999.0
        ages.append(int(world.at_us[alone]))
    shop = Shop(world, tmp_path)
    (red,) = [one for one in shop.run() if one.kind == "range" and one.severity == "red"]
    assert red.ended_at_us is not None
    assert red.ended_at_us < ages[-1] + DAY_US
    windows = [one for one in red_windows(shop.catalog, "shop") if one.kind == "range"]
    assert all(any(window.covers(at_us) for window in windows) for at_us in ages)


def test_another_unit_is_red_until_it_ends_also_where_it_looks_like_training(tmp_path: Path) -> None:
    world = World(2630327493, days=8, per_day=600)  # a cold spell: in Fahrenheit it lies where warm days do in Celsius
    since_us = world.cut_us + 3 * DAY_US
    until_us = since_us + 2 * DAY_US
    BY_NAME["fahrenheit"].do(world, since_us, until_us)
    (signal,) = [one for one in Shop(world, tmp_path).run() if one.kind == "units"]
    assert (signal.severity, signal.subject) == ("red", "column sky.temp")
    assert since_us < signal.raised_at_us < since_us + DAY_US
    assert signal.ended_at_us is not None
    assert until_us <= signal.ended_at_us < until_us + DAY_US


def test_the_day_after_one_without_half_of_its_labels_is_incomplete_at_half_the_margin() -> None:
    rows = np.full(28, 500, "<u4")
    labels = LabelDays(
        first_day=0, rows=rows.tobytes(), labelled=(rows * 0.94).astype("<u4").tobytes(), sums=(rows * 0.3).tobytes()
    )
    missing = (100, 24, 210, 100, 100, 24, 100)
    days = {day * DAY_US: BlockSums(predictions=400, missing=count) for day, count in enumerate(missing)}
    assert lacking_days("labels_missing", days, labels) == [2 * DAY_US, 3 * DAY_US, 4 * DAY_US]
    positives = (300.0, 30.0, 270.0, 0.0, 299.0)  # of 300 labels, of which a third is positive on training days
    days = {day * DAY_US: BlockSums(predictions=400, labelled=300, label=(n,)) for day, n in enumerate(positives)}
    assert lacking_days("one_class", days, labels) == [0, 3 * DAY_US, 4 * DAY_US]


def test_labels_of_a_day_are_summed_over_the_versions_that_answered() -> None:
    one = DayQuality(
        model="shop", version="v1", day_us=31 * DAY_US, predictions=60, labelled=50, missing=10,
        score_sum=9.0, label_sum=5.0, loss_sum=0.0, capped_loss_sum=0.0,
    )  # fmt: skip
    other = msgspec.structs.replace(one, version="v2", predictions=40, labelled=20, missing=20, label_sum=20.0)
    earlier = msgspec.structs.replace(one, day_us=30 * DAY_US)
    first, both = by_day([one, earlier, other])
    assert first == earlier
    assert (both.predictions, both.labelled, both.missing, both.label_sum, both.score_sum) == (100, 70, 30, 25.0, 18.0)


def _days_of_classes(shares: np.ndarray[Any, Any], scores: np.ndarray[Any, Any], labelled: int) -> list[DayQuality]:
    """Days with these shares of the classes a, b, c, and these mean probabilities."""
    names = "abc"
    return [
        DayQuality(
            model="shop", version="v1", day_us=(100 + n) * DAY_US, predictions=labelled, labelled=labelled, missing=0,
            score_sum=0.0, label_sum=0.0, loss_sum=0.0, capped_loss_sum=0.0,
            classes={name: (float(share), labelled * score) for name, share, score in zip(names, row, p, strict=True)},
        )
        for n, (row, p) in enumerate(zip(shares, scores, strict=True))
    ]  # fmt: skip


def _training_days_of_classes(counts: np.ndarray[Any, Any]) -> LabelDays:
    rows = counts.sum(axis=1).astype("<u4").tobytes()
    classes = {name: counts[:, n].astype("<u4").tobytes() for n, name in enumerate("abc")}
    return LabelDays(first_day=0, rows=rows, labelled=rows, sums=bytes(8 * len(counts)), classes=classes)


def test_a_class_whose_labels_are_tagged_as_another_is_red_unless_the_scores_fell_too() -> None:
    rng = np.random.default_rng(1)
    usual = (0.13, 0.27, 0.6)
    labels = _training_days_of_classes(rng.multinomial(500, usual, 40))
    counts = rng.multinomial(500, usual, 6)
    tagged = counts.copy()
    tagged[3:, 1] += tagged[3:, 0]
    tagged[3:, 0] = 0
    find = partial(label_findings, labels=labels, subject="labels of tickets", task="multiclass")
    same = np.tile(usual, (6, 1))
    for day in range(1, 4):
        assert find(_days_of_classes(counts, same, 500)[:day]) == find(_days_of_classes(tagged, same, 500)[:day]) == []
    (red,) = [one for one in find(_days_of_classes(tagged, same, 500)[:4]) if one.severity == "red"]
    assert (red.kind, red.subject, red.onset_us) == ("label_shift", "labels of tickets, class a", 103 * DAY_US)
    assert "0 % of the 500 labels of 1970-04-14 are of class 'a'; normal is 13 %" in red.message
    fallen = same.copy()
    fallen[3:] = (0.01, 0.39, 0.6)
    found = find(_days_of_classes(tagged, fallen, 500))
    assert {one.severity for one in found} == {"info"}


def test_a_class_that_becomes_more_frequent_is_information() -> None:
    rng = np.random.default_rng(2)
    usual = np.array((0.13, 0.27, 0.6))
    labels = _training_days_of_classes(rng.multinomial(500, usual, 40))
    more = rng.multinomial(500, (0.3, 0.2, 0.5), 4)
    found = label_findings(
        _days_of_classes(more, np.tile(usual, (4, 1)), 500), labels, subject="labels of tickets", task="multiclass"
    )
    (shift,) = [one for one in found if one.subject.endswith("class a")]
    assert (shift.kind, shift.severity) == ("label_shift", "info")
    assert "the mean probability that the model gave is 13 %" in shift.message


@pytest.mark.parametrize("labelled", [60, 500])
def test_healthy_days_of_several_classes_are_quiet(labelled: int) -> None:
    """Rare classes, weekends, and classes whose shares rise or fall by half within three weeks."""
    red = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        usual = rng.dirichlet((4.0, 2.0, 0.3))
        weekend = np.where(np.arange(100)[:, None] % 7 >= 5, usual * (1.3, 0.7, 1.0), usual)
        weekend /= weekend.sum(axis=1, keepdims=True)
        moved = weekend * np.interp(np.arange(100)[:, None] - 60, (0.0, 21.0), (1.0, 1.5)) ** ((1, -1, 0),)
        moved /= moved.sum(axis=1, keepdims=True)
        counts = np.array([rng.multinomial(labelled, row) for row in moved])
        labels = _training_days_of_classes(counts[:60])
        days = _days_of_classes(counts[60:], moved[60:], labelled)
        found = [
            one for n in range(40) for one in label_findings(days[: n + 1], labels, subject="x", task="multiclass")
        ]
        red += any(one.severity == "red" for one in found)
    assert red == 0


@pytest.mark.parametrize(
    ("score", "severity"),
    [(30.0, "red"), (295.0, "info"), (166.0, "info"), (164.0, "red")],  # halfway counts as the same way
)
def test_a_mean_label_that_is_far_off_is_no_fault_if_the_scores_moved_with_it(score: float, severity: str) -> None:
    rows = np.full(30, 100, "<u4").tobytes()
    sums = 100.0 * np.linspace(28.0, 32.0, 30)
    labels = LabelDays(first_day=0, rows=rows, labelled=rows, sums=sums.astype("<f8").tobytes())
    day = DayQuality(
        model="shop", version="v1", day_us=31 * DAY_US, predictions=100, labelled=100, missing=0,
        score_sum=100.0 * score, label_sum=30_000.0, loss_sum=0.0, capped_loss_sum=0.0,
    )  # fmt: skip
    (found,) = label_findings([day], labels, subject="labels of sales", task="regression")
    assert (found.kind, found.severity) == ("label_shift", severity)
    assert ("Check the unit of the label" in found.message) == (severity == "red")
    assert ("the scores changed in the same way" in found.message) == (severity == "info")
