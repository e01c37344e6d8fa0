"""The rules of time, each by one example that a reader can check by hand."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from oracle import Record, frame_of, oracle
from strategies import KEYED
from test_offline import ASK, bits, offline

from trimtab import features as tt
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse
from trimtab.core.expressions.nodes import col, lit
from trimtab.core.time import HOUR_US
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.definitions import source
from trimtab.features.aggregates import count, latest, mean
from trimtab.features.definitions import View, request, view
from trimtab.features.feature_set import feature_set
from trimtab.features.offline.evaluation import evaluate

pytestmark = pytest.mark.fast


def record(
    position: int, at: int, known: int | None = None, *, of: str | None = None, key: str = "a", x: float | None = 1.0,
    n: int | None = 1, deleted: bool = False,
) -> Record:  # fmt: skip
    name = of or f"r{position}"
    row = {"id": name, "key": key, "at": at, "x": x, "n": n, "ok": True, "kind": "u"}
    known = at if known is None else known
    return Record(id=name, row=row, event_at_us=at, known_at_us=known, position=position, deleted=deleted)


def one(aggregate: Any, **options: Any) -> View:
    return view("v", source=KEYED, by="key", features={"f": aggregate}, **options)


def answer(records: list[Record], v: View, t: int, key: str | None = "a") -> tuple[Any, str]:
    found = offline(records, v, [(key, t)])[0]
    assert bits(found) == bits(oracle(records, v, key, t))
    return found["f"]


def test_an_event_at_the_instant_of_the_request_does_not_count() -> None:
    assert answer([record(1, 100)], one(latest("x")), 100) == (None, "not_yet")
    assert answer([record(1, 100)], one(latest("x")), 101) == (1.0, "found")


def test_with_an_inclusive_boundary_it_counts() -> None:
    assert answer([record(1, 100)], one(latest("x"), boundary="inclusive"), 100) == (1.0, "found")
    assert answer([record(1, 100)], one(count(over=10, hop=0), boundary="inclusive"), 100) == (1, "found")


def test_an_event_counts_from_the_instant_it_is_known() -> None:
    records = [record(1, 100, 150)]
    assert answer(records, one(latest("x")), 149) == (None, "no_entity")
    assert answer(records, one(latest("x")), 150) == (1.0, "found")


def test_an_entity_whose_events_are_all_to_come_is_not_yet() -> None:
    assert answer([record(1, 200, 50)], one(tt.sum("n")), 100) == (0, "not_yet")


def test_an_unknown_entity_and_a_null_key_count_zero_events() -> None:
    assert answer([record(1, 100)], one(tt.sum("x")), 200, "unknown") == (0.0, "no_entity")
    assert answer([record(1, 100)], one(count()), 200, None) == (0, "no_entity")
    assert answer([record(1, 100)], one(mean("x")), 200, None) == (None, "no_entity")


def test_a_value_of_exactly_max_age_is_found_and_an_older_one_expired() -> None:
    newest = one(latest("x", max_age=10))
    assert answer([record(1, 100)], newest, 110) == (1.0, "found")
    assert answer([record(1, 100)], newest, 111) == (None, "expired")


def test_a_newer_null_replaces_an_older_value() -> None:
    assert answer([record(1, 100), record(2, 101, x=None)], one(latest("x")), 200) == (None, "null")


def test_a_late_event_does_not_beat_a_newer_one() -> None:
    records = [record(1, 100, x=1.0), record(2, 90, 150, x=2.0)]
    assert answer(records, one(latest("x")), 200) == (1.0, "found")


def test_of_simultaneous_events_the_one_known_last_wins_and_then_the_later_in_the_log() -> None:
    assert answer([record(1, 100, 120, x=1.0), record(2, 100, 110, x=2.0)], one(latest("x")), 200) == (1.0, "found")
    assert answer([record(1, 100, x=1.0), record(2, 100, x=2.0)], one(latest("x")), 200) == (2.0, "found")


def test_the_tail_of_a_window_is_rounded_down_to_its_hop() -> None:
    windowed = one(count(over=100, hop=10))
    assert answer([record(1, 40)], windowed, 149) == (1, "found")  # [floor(49, 10), 149)
    assert answer([record(1, 40)], windowed, 150) == (0, "outside_window")


def test_a_hop_before_1970_is_rounded_toward_minus_infinity() -> None:
    windowed = one(count(over=100, hop=10))
    assert answer([record(1, -60)], windowed, 49) == (1, "found")  # [floor(-51, 10), 49)
    assert answer([record(1, -61)], windowed, 49) == (0, "outside_window")


def test_a_hop_of_zero_is_exact() -> None:
    windowed = one(count(over=100, hop=0))
    assert answer([record(1, 40)], windowed, 140) == (1, "found")
    assert answer([record(1, 40)], windowed, 141) == (0, "outside_window")


def test_an_event_that_becomes_known_after_it_left_the_window_never_counts() -> None:
    records = [record(1, 100, 180), record(2, 150)]
    assert [answer(records, one(count(over=50, hop=0)), t)[0] for t in (160, 181)] == [1, 1]


def test_without_a_window_a_lifetime_counts() -> None:
    assert answer([record(1, -(10**15)), record(2, 5)], one(tt.sum("n")), 10**15) == (2, "found")


def test_counting_a_column_skips_nulls_and_counting_rows_does_not() -> None:
    records = [record(1, 100, x=None), record(2, 101)]
    assert answer(records, one(count("x")), 200) == (1, "found")
    assert answer(records, one(count()), 200) == (2, "found")


def test_rows_that_contribute_nothing_give_null_as_the_reason_and_zero_as_the_count() -> None:
    records = [record(1, 100, x=None)]
    assert answer(records, one(count("x")), 200) == (0, "null")
    assert answer(records, one(count(where=col("x") > 0)), 200) == (0, "null")
    assert answer(records, one(tt.max("x")), 200) == (None, "null")


def test_a_sum_is_rounded_once() -> None:
    records = [record(i, 100 + i, x=x) for i, x in enumerate([1e16, 1.0, 1.0, -1e16, 0.1], 1)]
    assert answer(records, one(tt.sum("x")), 200) == (math.fsum([2.0, 0.1]), "found")


def test_a_correction_acts_from_when_it_is_known_and_never_before() -> None:
    records = [record(1, 100, of="r", x=1.0), record(2, 100, 150, of="r", x=2.0)]
    assert answer(records, one(tt.sum("x")), 149) == (1.0, "found")
    assert answer(records, one(tt.sum("x")), 150) == (2.0, "found")


def test_a_correction_can_move_an_event_earlier_or_to_another_entity() -> None:
    earlier = [record(1, 100, of="r"), record(2, 50, 120, of="r", x=2.0)]
    assert answer(earlier, one(latest("x")), 130) == (2.0, "found")
    moved = [record(1, 100, of="r"), record(2, 100, 120, of="r", key="b")]
    assert answer(moved, one(count(over=60, hop=0)), 130) == (0, "outside_window")
    assert answer(moved, one(count()), 130, "b") == (1, "found")


def test_a_tombstone_contributes_nothing_but_its_entity_stays_known() -> None:
    records = [record(1, 100, of="r"), record(2, 100, 120, of="r", deleted=True)]
    assert answer(records, one(latest("x")), 119) == (1.0, "found")
    assert answer(records, one(latest("x")), 120) == (None, "expired")
    assert answer(records, one(count()), 120) == (0, "outside_window")


def test_a_constant_can_be_counted_and_averaged() -> None:
    assert answer([record(1, 100), record(2, 101)], one(mean(lit(3))), 200) == (3.0, "found")


def test_an_integer_sum_beyond_64_bits_fails_alone() -> None:
    records = [record(1, 100, n=2**62), record(2, 101, n=2**62)]
    found = offline([*records, record(3, 100, key="b", n=1)], one(tt.sum("n")), [("b", 201), ("c", 200), ("a", 200)])
    assert [answers["f"] for answers in found] == [(1, "found"), (0, "no_entity"), (None, "failed")]
    assert answer(records, one(mean("x")), 200) == (1.0, "found")


def test_what_is_missing_is_named() -> None:
    features = feature_set(ASK, [one(count())])
    frames = {"readings": frame_of([], KEYED)}
    good, at_us = Columns.of({"key": ("str", ["a"])}), np.array([5])
    with pytest.raises(Misuse, match="needs a column 'key' of str; found the columns other"):
        evaluate(features, Columns.of({"other": ("str", ["a"])}), at_us, frames)
    with pytest.raises(Misuse, match="column 'key' must be str; it is int"):
        evaluate(features, Columns.of({"key": ("int", [1])}), at_us, frames)
    with pytest.raises(Misuse, match="1 rows, but 2 times"):
        evaluate(features, good, np.array([5, 6]), frames)
    with pytest.raises(Misuse, match="needs the events of 'readings'; found the events of none"):
        evaluate(features, good, at_us, {})


def test_no_rows_give_no_rows() -> None:
    features = feature_set(ASK, [one(latest("x")), {"same": col("key") == "a"}])
    none = np.zeros(0, np.int64)
    found = evaluate(features, Columns.of({"key": ("str", [])}), none, {"readings": frame_of([record(1, 5)], KEYED)})
    assert (found.values.rows, found.values.names) == (0, ("v.f", "same"))


@pytest.mark.parametrize("tardy", [0.0, 0.05, 1.0])
def test_hundreds_of_events_of_few_entities_agree_with_the_oracle(tardy: float) -> None:
    rng = random.Random(5)
    records = []
    for position in range(1, 401):
        at = 1_000 * position + rng.randrange(-3_000, 3_000)
        known = at + (rng.randrange(0, 200_000) if rng.random() < tardy else 0)
        of = f"r{rng.randrange(1, position)}" if position > 1 and rng.random() < tardy / 5 else None
        x = rng.gauss(0, 1) if rng.random() < 0.9 else None
        records.append(record(position, at, known, of=of, key=rng.choice("ab"), x=x, n=rng.randrange(9)))
    features = {}
    for over in (None, 20_000, 300_000):
        for kind in (tt.sum, tt.mean, tt.min, tt.max):
            features[f"{kind.__name__}_{over or 0}"] = kind("x", over=over)
        features[f"n_{over or 0}"] = tt.min("n", over=over, where=col("x") > 0)
        features[f"ok_{over or 0}"] = tt.max(col("x") > 1, over=over)
        features[f"count_{over or 0}"] = count(over=over, where=col("n") > 3)
    v = view("v", source=KEYED, by="key", features={**features, "newest": latest("x")})
    wanted = [(rng.choice("abc"), rng.randrange(-10_000, 600_000)) for _ in range(60)]
    for found, (key, t) in zip(offline(records, v, wanted), wanted, strict=True):
        assert bits(found) == bits(oracle(records, v, key, t)), (key, t)


def test_integer_keys_far_apart_are_matched() -> None:
    at = np.arange(1, 5) * HOUR_US
    keys = Columns.of({"key": ("int", [5, -(2**62), 2**62, None])})
    zeros = np.zeros(4, np.int64)
    frame = EventFrame(
        "far", keys, at, at, np.full(4, NEVER_US), zeros.astype(bool), zeros.astype(np.int16), at, ("p0",)
    )

    far = source("far", time="at", columns={"key": int})
    ask = request("ask", key="id", time="at", columns={"id": str, "key": int})
    features = feature_set(ask, [view("v", source=far, by="key", features={"n": count()})])
    wanted = Columns.of({"key": ("int", [2**62, 6, -(2**62), 5, None, 2**62 + 1])})
    found = evaluate(features, wanted, np.full(6, 10 * HOUR_US), {"far": frame})
    assert found.values["v.n"].to_list() == [1, 0, 1, 1, 0, 0]
