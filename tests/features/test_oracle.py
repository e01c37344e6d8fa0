"""The judge is judged by hand-made cases."""

from __future__ import annotations

import pytest
from hypothesis import given
from oracle import Record, oracle
from strategies import KEYED, histories, request_keys, request_times, views

from trimtab.core.expressions.nodes import col
from trimtab.features.aggregates import count, latest
from trimtab.features.definitions import View, view


def record(
    record_id: str, event_at_us: int, known_at_us: int, position: int, *, x: float | None = None, deleted: bool = False
) -> Record:
    row = {"id": record_id, "key": "a", "at": event_at_us, "x": x, "n": None, "ok": None, "kind": None}
    return Record(
        id=record_id, row=row, event_at_us=event_at_us, known_at_us=known_at_us, position=position, deleted=deleted
    )


VIEW = view("v", source=KEYED, by="key", features={"x": latest("x", max_age=10), "n": count(over=10)})


@pytest.mark.fast
def test_the_oracle_names_the_first_reason_that_matches() -> None:
    records = [record("r", 100, 105, 1, x=2.5)]
    expected = {
        99: (None, "no_entity"), 104: (None, "no_entity"), 105: (2.5, "found"), 110: (2.5, "found"),
        111: (None, "expired"),
    }  # fmt: skip
    assert {t: oracle(records, VIEW, "a", t)["x"] for t in expected} == expected
    assert oracle(records, VIEW, "a", 111)["n"] == (0, "outside_window")
    assert oracle([record("r", 100, 50, 1)], VIEW, "a", 100)["n"] == (0, "not_yet")
    assert oracle([record("r", 100, 50, 1)], VIEW, "a", 101)["x"] == (None, "null")
    assert oracle(records, VIEW, "a", 110, {"p0": 0})["n"] == (0, "no_entity")


@pytest.mark.fast
def test_the_oracle_lets_a_correction_act_from_its_known_at() -> None:
    records = [record("r", 100, 100, 1, x=1.0), record("r", 90, 106, 2, x=2.0), record("r", 90, 108, 3, deleted=True)]
    found = [oracle(records, VIEW, "a", t)["n"] for t in (101, 105, 106, 108)]
    assert found == [(1, "found"), (1, "found"), (0, "outside_window"), (0, "outside_window")]
    plain = view("v", source=KEYED, by="key", features={"x": latest(col("x"))})
    assert oracle(records, plain, "a", 106)["x"] == (2.0, "found")


@given(histories(), views(), request_keys, request_times())
def test_what_happens_after_t_changes_nothing(records: list[Record], v: View, key: str | None, t: int) -> None:
    before = [r for r in records if r.known_at_us <= t]
    assert oracle(records, v, key, t) == oracle(before, v, key, t)
