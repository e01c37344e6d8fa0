"""What is decided at the boundaries, one sentence each; every question is answered on all paths alike."""

from __future__ import annotations

import math
from typing import Any

import pytest
from paths import KEYED, PLAIN, World

from trimtab import features as f
from trimtab.core.expressions.nodes import col, when
from trimtab.core.time import parse_time_us
from trimtab.features.aggregates import Aggregate

pytestmark = pytest.mark.fast
DAY = "2013-03-01T"


# -- which records count ------------------------------------------------------------------------------------------


def test_an_event_at_the_very_instant_does_not_count_and_a_microsecond_later_it_does() -> None:
    world = World(f.count())
    world.push(DAY + "10:00", {"at": DAY + "10:00"})
    assert world.ask(DAY + "10:00") == (0, "not_yet")
    assert world.ask(parse_time_us(DAY + "10:00") + 1) == (1, "found")


def test_with_an_inclusive_boundary_an_event_counts_at_its_very_instant() -> None:
    world = World(f.count(), boundary="inclusive")
    world.push(DAY + "09:00", {"at": DAY + "10:00"})
    assert world.ask(parse_time_us(DAY + "10:00") - 1) == (0, "not_yet")
    assert world.ask(DAY + "10:00") == (1, "found")


def test_an_event_is_known_when_it_came_even_if_it_claims_to_have_been_known_before() -> None:
    world = World(f.count())
    world.push(DAY + "10:00", {"at": DAY + "08:00", "_known_at": DAY + "08:30"})
    assert world.ask(DAY + "09:59:59.999999") == (0, "no_entity")
    assert world.ask(DAY + "10:00") == (1, "found")


def test_an_embargoed_event_counts_from_the_instant_that_it_declares() -> None:
    world = World(f.count())
    world.push(DAY + "10:00", {"at": DAY + "08:00", "_known_at": DAY + "12:00"})
    assert world.ask(DAY + "11:59:59.999999") == (0, "no_entity")
    assert world.ask(DAY + "12:00") == (1, "found")


def test_loaded_history_was_known_a_delay_after_it_happened() -> None:
    world = World(f.count())
    world.load(DAY + "20:00", {"at": DAY + "08:00"})
    assert world.ask(DAY + "08:59:59.999999") == (0, "no_entity")
    assert world.ask(DAY + "09:00") == (1, "found")


def test_events_of_one_instant_come_before_the_request_of_that_instant() -> None:
    world = World(f.count())
    world.push(DAY + "10:00", {"at": DAY + "09:00"})
    assert world.ask(DAY + "10:00") == (1, "found")


def test_a_future_dated_event_makes_its_entity_not_yet_until_it_happens() -> None:
    world = World(f.latest("x"))
    world.push(DAY + "10:00", {"at": DAY + "12:00", "x": 1.0})
    assert world.ask(DAY + "11:00") == (None, "not_yet")
    assert world.ask(DAY + "12:00:00.000001") == (1.0, "found")


# -- order --------------------------------------------------------------------------------------------------------


def test_the_later_event_wins_however_late_it_came() -> None:
    world = World(f.latest("x"))
    world.push(DAY + "10:00", {"id": "new", "at": DAY + "09:00", "x": 2.0})
    world.push(DAY + "11:00", {"id": "old", "at": DAY + "08:00", "x": 1.0})
    assert world.ask(DAY + "12:00") == (2.0, "found")


def test_of_simultaneous_events_the_one_that_was_known_last_wins() -> None:
    world = World(f.latest("x"))
    world.push(DAY + "10:00", {"id": "a", "at": DAY + "09:00", "x": 1.0, "_known_at": DAY + "11:00"})
    world.push(DAY + "10:30", {"id": "b", "at": DAY + "09:00", "x": 2.0})
    assert world.ask(DAY + "10:45") == (2.0, "found")
    assert world.ask(DAY + "11:00") == (1.0, "found")


def test_of_events_that_agree_in_both_times_the_later_in_the_log_wins() -> None:
    world = World(f.latest("x"))
    world.push(DAY + "10:00", {"id": "a", "at": DAY + "09:00", "x": 1.0}, {"id": "b", "at": DAY + "09:00", "x": 2.0})
    assert world.ask(DAY + "10:00") == (2.0, "found")


# -- latest -------------------------------------------------------------------------------------------------------


def test_a_value_of_exactly_the_maximal_age_is_found_and_one_older_has_expired() -> None:
    world = World(f.latest("x", max_age="3h"))
    world.push(DAY + "09:00", {"at": DAY + "09:00", "x": 1.0})
    assert world.ask(DAY + "12:00") == (1.0, "found")
    assert world.ask(parse_time_us(DAY + "12:00") + 1) == (None, "expired")


def test_a_newer_null_replaces_an_older_value() -> None:
    world = World(f.latest("x"))
    world.push(DAY + "09:00", {"id": "a", "at": DAY + "08:00", "x": 1.0}, {"id": "b", "at": DAY + "08:30", "x": None})
    assert world.ask(DAY + "10:00") == (None, "null")


# -- windows ------------------------------------------------------------------------------------------------------


def test_the_head_of_a_window_is_exact_and_its_tail_is_rounded_down_to_the_hop() -> None:
    world = World(f.count(over="3h", hop="1h"))
    world.push(DAY + "09:00", {"id": "a", "at": DAY + "08:59"}, {"id": "b", "at": DAY + "08:00"})
    assert world.ask(DAY + "11:30") == (2, "found")  # [08:00, 11:30)
    assert world.ask(DAY + "11:59:59.999999") == (2, "found")
    assert world.ask(DAY + "12:00") == (0, "outside_window")


def test_a_hop_of_zero_makes_the_tail_exact() -> None:
    world = World(f.count(over="3h", hop=0))
    world.push(DAY + "09:00", {"at": DAY + "08:30"})
    assert world.ask(DAY + "11:30") == (1, "found")
    assert world.ask(parse_time_us(DAY + "11:30") + 1) == (0, "outside_window")


def test_a_window_rounds_toward_minus_infinity_before_1970() -> None:
    world = World(f.count(over="1h", hop="30min"))
    world.load("1970-01-02T00:00", {"at": "1969-12-31T22:30"})
    assert world.ask("1969-12-31T23:59") == (1, "found")
    assert world.ask("1970-01-01T00:00") == (0, "outside_window")


def test_counting_rows_counts_nulls_and_counting_a_column_does_not() -> None:
    rows = [{"id": "a", "at": DAY + "08:00", "x": None}, {"id": "b", "at": DAY + "08:30", "x": 1.0}]
    for aggregate, expected in ((f.count(over="1d"), 2), (f.count("x", over="1d"), 1)):
        world = World(aggregate)
        world.push(DAY + "09:00", *rows)
        assert world.ask(DAY + "10:00") == (expected, "found")


@pytest.mark.parametrize(
    ("aggregate", "empty"),
    [
        (f.count(over="1h"), 0), (f.sum("x", over="1h"), 0.0), (f.sum("n", over="1h"), 0),
        (f.mean("x", over="1h"), None), (f.min("x", over="1h"), None), (f.max("n", over="1h"), None),
    ],
)  # fmt: skip
def test_an_empty_window_is_zero_for_counts_and_sums_and_null_for_the_others(aggregate: Any, empty: Any) -> None:
    world = World(aggregate)
    world.push(DAY + "09:00", {"at": DAY + "08:59", "x": 1.0, "n": 1})
    assert world.ask(DAY + "09:30")[1] == "found"
    assert world.ask(DAY + "12:00") == (empty, "outside_window")
    assert world.ask(DAY + "12:00", "unknown") == (empty, "no_entity")
    assert world.ask(DAY + "12:00", None) == (empty, "no_entity")


def test_a_condition_that_is_null_is_false() -> None:
    world = World(f.count(where=col("ok")))
    world.push(
        DAY + "09:00", {"id": "a", "at": DAY + "08:00", "ok": None}, {"id": "b", "at": DAY + "08:00", "ok": True}
    )
    assert world.ask(DAY + "10:00") == (1, "found")


def test_a_sum_is_rounded_once() -> None:
    world = World(f.sum("x"))
    world.push(DAY + "09:00", *({"id": str(i), "at": DAY + "08:00", "x": x} for i, x in enumerate([1e16, 1.0, -1e16])))
    assert world.ask(DAY + "10:00") == (1.0, "found")


def test_an_integer_sum_beyond_64_bits_fails_alone() -> None:
    world = World(f.sum("n"))
    world.push(DAY + "09:00", *({"id": str(i), "at": DAY + "08:00", "n": 2**62} for i in range(2)))
    assert world.ask(DAY + "10:00") == (None, "failed")
    assert world.ask_online(parse_time_us(DAY + "10:00"), "none", "a").values == [[0], [None]]


@pytest.mark.parametrize(
    "aggregate", [f.sum(col("n") * 4, where=col("n") < 100), f.sum(when(col("n") < 100, col("n") * 4, 0))]
)
def test_a_guard_guards_on_every_path(aggregate: Aggregate) -> None:
    world = World(aggregate)
    world.push(DAY + "09:00", *({"id": str(n), "at": DAY + "08:00", "n": n} for n in (2**62, 3)))
    assert world.ask(DAY + "10:00") == (12, "found")


@pytest.mark.parametrize("over", [None, "4h"])
def test_the_mean_of_integers_is_found_however_large_their_sum_is(over: str | None) -> None:
    world = World(f.mean("n", over=over))
    numbers = [2**62 + 1, 2**63 - 1, 2**62 + 12345, -7, 2**61 + 3]
    world.push(DAY + "09:00", *({"id": str(i), "at": DAY + "08:00", "n": n} for i, n in enumerate(numbers)))
    assert world.ask(DAY + "10:00") == (float(sum(numbers)) / len(numbers), "found")


def test_an_offset_window_has_both_ends_on_hops() -> None:
    world = World(f.count(over="4h", until="1h", hop="1h"))
    for at in ("06:00", "06:59", "08:30", "09:00"):
        world.push(DAY + "09:00", {"id": at, "at": DAY + at})
    assert world.ask(DAY + "10:30") == (3, "found")  # [06:00, 09:00)
    assert world.ask(DAY + "11:00") == (2, "found")  # [07:00, 10:00)
    assert world.ask(DAY + "10:59:59.999999") == (3, "found")


def test_a_spread_needs_two_values() -> None:
    for aggregate, expected in ((f.var("x", over="1d"), 2.0), (f.std("x", over="1d"), 2.0**0.5)):
        world = World(aggregate)
        world.push(DAY + "09:00", {"id": "a", "at": DAY + "08:00", "x": 1.0})
        assert world.ask(DAY + "09:30") == (None, "null")
        world.push(DAY + "10:00", {"id": "b", "at": DAY + "09:00", "x": 3.0})
        assert world.ask(DAY + "10:30") == (expected, "found")


def test_first_and_last_skip_nulls() -> None:
    rows = [("a", "06:00", None), ("b", "07:00", 1.0), ("c", "08:00", 2.0), ("d", "08:30", None)]
    for aggregate, expected in ((f.first("x", over="1d"), 1.0), (f.last("x", over="1d"), 2.0)):
        world = World(aggregate)
        world.push(DAY + "09:00", *({"id": i, "at": DAY + at, "x": x} for i, at, x in rows))
        assert world.ask(DAY + "10:00") == (expected, "found")


def test_distinct_values_are_counted_exactly_below_the_bound_and_estimated_above_it() -> None:
    world = World(f.count_distinct("n", k=16))
    world.push(DAY + "09:00", *({"id": str(i), "at": DAY + "08:00", "n": i % 15} for i in range(60)))
    assert world.ask(DAY + "10:00") == (15, "found")
    world.push(DAY + "11:00", *({"id": f"more{i}", "at": DAY + "10:00", "n": i} for i in range(400)))
    estimate, reason = world.ask(DAY + "12:00")
    assert reason == "found"
    assert 150 < estimate < 1_000  # 400, give or take a standard error of 27 %


def test_decayed_values_lose_half_their_weight_in_a_half_life() -> None:
    world = World(f.decayed_sum("x", half_life="1d", hop="1h"))
    world.push(DAY + "09:30", {"at": DAY + "09:00", "x": 8.0})
    assert world.ask(DAY + "09:59") == (8.0, "found")
    assert world.ask("2013-03-02T09:00") == (4.0, "found")
    assert world.ask("2013-03-03T09:30") == (2.0, "found")
    assert world.ask("2014-03-03T09:30") == (0.0, "outside_window")


# -- values -------------------------------------------------------------------------------------------------------


def test_nan_is_null_and_minus_zero_is_zero() -> None:
    world = World(f.latest("x"))
    world.push(DAY + "09:00", {"at": DAY + "08:00", "x": math.nan})
    assert world.ask(DAY + "09:00") == (None, "null")
    world.push(DAY + "10:00", {"at": DAY + "09:00", "x": -0.0})
    assert math.copysign(1.0, world.ask(DAY + "11:00")[0]) == 1.0


@pytest.mark.parametrize("x", [math.inf, -math.inf, 1e151, 1e300])
def test_infinities_and_magnitudes_above_1e150_are_quarantined(x: float) -> None:
    world = World(f.count())
    pushed = world.push(DAY + "09:00", {"at": DAY + "08:00", "x": x})
    assert (pushed.accepted, pushed.quarantined) == (0, 1)
    assert world.ask(DAY + "10:00") == (0, "no_entity")


def test_events_dated_beyond_the_tolerance_are_quarantined_and_advance_nothing() -> None:
    world = World(f.count())
    pushed = world.push(DAY + "09:00", {"at": "2013-03-12T09:00"})
    assert (pushed.accepted, pushed.quarantined) == (0, 1)
    assert world.ask("2013-04-01T00:00") == (0, "no_entity")


# -- late, again, corrected, deleted --------------------------------------------------------------------------------


def test_a_late_event_counts_in_the_window_of_its_own_time() -> None:
    world = World(f.count(over="2h", hop="1h"))
    world.push(DAY + "12:00", {"id": "a", "at": DAY + "11:59"})
    world.push(DAY + "12:30", {"id": "late", "at": DAY + "10:15"})
    assert world.ask(DAY + "12:40") == (2, "found")
    assert world.ask(DAY + "13:00") == (1, "found")


def test_an_event_that_no_window_can_see_any_more_still_makes_its_entity_known() -> None:
    world = World(f.count(over="1h"))
    world.push(DAY + "12:00", {"at": DAY + "06:00"})
    assert world.ask(DAY + "12:30") == (0, "outside_window")


def test_a_lifetime_is_never_too_late() -> None:
    world = World(f.count())
    world.push(DAY + "12:00", {"at": "2001-01-01T00:00"})
    assert world.ask(DAY + "12:30") == (1, "found")


@pytest.mark.parametrize("of", [KEYED, PLAIN], ids=["keyed", "plain"])
def test_the_same_event_again_is_ignored(of: Any) -> None:
    world = World(f.sum("x"), of)
    for now in ("10:00", "11:00"):
        world.push(DAY + now, {"id": "a", "at": DAY + "09:00", "x": 1.0})
    assert world.ask(DAY + "12:00") == (1.0, "found")


def test_another_content_under_the_same_key_replaces_the_event_from_when_it_is_known() -> None:
    world = World(f.sum("x"))
    world.push(DAY + "10:00", {"id": "a", "at": DAY + "09:00", "x": 1.0})
    world.push(DAY + "11:00", {"id": "a", "at": DAY + "09:00", "x": 5.0})
    assert world.ask(DAY + "10:59:59.999999") == (1.0, "found")
    assert world.ask(DAY + "11:00") == (5.0, "found")


def test_a_correction_can_move_an_event_to_another_entity() -> None:
    world = World(f.count())
    world.push(DAY + "10:00", {"id": "a", "at": DAY + "09:00"})
    world.push(DAY + "11:00", {"id": "a", "at": DAY + "09:00", "who": "b"})
    assert world.ask(DAY + "12:00", "b") == (1, "found")
    assert world.ask(DAY + "12:00", "a") == (0, "outside_window")


def test_a_deletion_takes_the_event_away_and_its_entity_stays_known() -> None:
    world = World(f.max("x"))
    world.push(DAY + "10:00", {"id": "a", "at": DAY + "09:00", "x": 9.0}, {"id": "b", "at": DAY + "09:30", "x": 1.0})
    world.push(DAY + "11:00", {"id": "a", "at": DAY + "09:00", "_op": "delete"})
    assert world.ask(DAY + "12:00") == (1.0, "found")
    world.push(DAY + "12:00", {"id": "b", "at": DAY + "09:30", "_op": "delete"})
    assert world.ask(DAY + "13:00") == (None, "outside_window")


def test_without_a_key_a_deletion_is_quarantined() -> None:
    world = World(f.count(), PLAIN)
    pushed = world.push(DAY + "10:00", {"id": "a", "at": DAY + "09:00", "_op": "delete"})
    assert (pushed.accepted, pushed.quarantined) == (0, 1)


def test_a_correction_that_is_known_before_the_first_version_is_no_correction() -> None:
    world = World(f.sum("x"))
    world.push(DAY + "10:00", {"id": "a", "at": DAY + "09:00", "x": 1.0, "_known_at": DAY + "14:00"})
    world.push(DAY + "11:00", {"id": "a", "at": DAY + "09:00", "x": 5.0})
    assert world.ask(DAY + "12:00") == (5.0, "found")
    assert world.ask(DAY + "14:00") == (1.0, "found")
