from __future__ import annotations

import math
import time
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Record, frame_of, newest
from strategies import KEYED, histories, request_keys, request_times

from trimtab.core.columns.data import Columns, column
from trimtab.core.errors import Misuse
from trimtab.core.expressions.nodes import col
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.definitions import Time, source
from trimtab.features.definitions import Label, label
from trimtab.features.labels import LABEL_STATES, LabelIndex, find_labels

LABEL = label(KEYED, key="key", value=col("x") > 0, wait=50)


def naive(records: list[Record], what: Label, key: Any, t: int, cut: int) -> tuple[float | None, str, int]:
    visible = newest([r for r in records if r.known_at_us <= cut], what.source)
    mine = [r for r in visible if not r.deleted and r.row[what.key] == key and key is not None]
    known_before = [r for r in records if r.row[what.key] == key and r.event_at_us < t and r.known_at_us <= t]
    by_request = what.dated_by_request and not known_before
    mine = [r for r in mine if r.event_at_us >= t or (by_request and r.known_at_us > t)]
    best = max(mine, key=lambda r: (r.event_at_us, r.known_at_us, r.partition, r.position), default=None)
    if best is None or best.row["x"] is None:
        return None, "pending" if cut < t + what.wait_us else "missing", NEVER_US
    state = "labelled" if best.known_at_us <= t + what.wait_us else "late"
    return float(best.row["x"] > 0), state, best.known_at_us


BY_REQUEST = msgspec.structs.replace(label(KEYED, key="id", value=col("x") > 0, wait=50), dated_by_request=True)
ids = st.sampled_from(["r0", "r1", "r2", "r3", None])


@settings(deadline=None)
@given(
    what=st.sampled_from([LABEL, BY_REQUEST]),
    records=histories(),
    wanted=st.lists(st.tuples(request_keys, ids, request_times()), min_size=1, max_size=8),
    cut=request_times(),
    steps=st.lists(st.integers(0, 16), max_size=3),
)
def test_the_label_is_the_greatest_that_was_known_at_the_cut(
    what: Label, records: list[Record], wanted: list[tuple[Any, Any, int]], cut: int, steps: list[int]
) -> None:
    index = LabelIndex(what)
    asked = [(one if what is BY_REQUEST else key, t) for key, one, t in wanted]
    for step in [*sorted(steps), len(records)]:
        index.update(frame_of(records[:step], KEYED))
    keys, at_us = [k for k, _ in asked], np.array([t for _, t in asked])
    expected = [naive(records, what, key, t, cut) for key, t in asked]
    frame = frame_of(records, KEYED)
    for found in (index.join(keys, at_us, cut), find_labels(what, frame, column("str", keys), at_us, cut)):
        answers = [
            (None if math.isnan(v) else v, LABEL_STATES[s], k)
            for v, s, k in zip(found.values.tolist(), found.state.tolist(), found.known_at_us.tolist(), strict=True)
        ]
        assert answers == expected


def one(event_at_us: int, known_at_us: int) -> list[Record]:
    row = {"id": "r", "key": "a", "at": event_at_us, "x": 1.0, "n": None, "ok": None, "kind": None}
    return [Record(id="r", row=row, event_at_us=event_at_us, known_at_us=known_at_us, position=1)]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("known_at", "state"),
    [(40, "missing"), (100, "missing"), (101, "labelled"), (150, "labelled"), (151, "late")],
)
def test_an_event_with_the_time_of_its_request_is_a_label_if_it_was_not_known_before(known_at: int, state: str) -> None:
    """The answer was given at 100; the event has the request's date, which is earlier."""
    index = LabelIndex(BY_REQUEST)
    index.update(frame_of(one(40, known_at), KEYED))
    assert LABEL_STATES[index.join(["r"], np.array([100]), 200).state[0]] == state


@pytest.mark.fast
@pytest.mark.parametrize(
    ("event_at", "known_at", "cut", "state"),
    [
        (100, 100, 100, "labelled"),  # an event at the request's own instant is its label
        (99, 100, 200, "missing"),  # one before it is not
        (120, 150, 150, "labelled"),  # known just in time
        (120, 151, 151, "late"),
        (120, 151, 150, "missing"),  # not known at the cut, and the wait is over
        (120, 151, 149, "pending"),
    ],
)
def test_a_label_is_in_time_until_the_wait_is_over(event_at: int, known_at: int, cut: int, state: str) -> None:
    index = LabelIndex(LABEL)
    index.update(frame_of(one(event_at, known_at), KEYED))
    found = index.join(["a"], np.array([100]), cut)
    assert LABEL_STATES[found.state[0]] == state


def test_without_events_every_label_is_pending_or_missing() -> None:
    found = LabelIndex(LABEL).join(np.array(["a", None], object), np.array([100, 200]), 150)
    assert [LABEL_STATES[s] for s in found.state] == ["missing", "pending"]


def test_a_history_of_another_source_is_refused() -> None:
    frame = msgspec.structs.replace(frame_of([], KEYED), source="other")
    with pytest.raises(Misuse, match="needs the events of 'readings'; these are of 'other'"):
        LabelIndex(LABEL).update(frame)


def big_frame(rows: int) -> EventFrame:
    at = np.arange(rows, dtype=np.int64) * 1_000
    table = Columns.of({"id": ("str", [f"flight-{i}" for i in range(rows)]), "x": ("float", np.ones(rows))})
    return EventFrame(
        "landings", table, at, at + 5, np.full(rows, NEVER_US), np.zeros(rows, bool), np.zeros(rows, np.int16),
        np.arange(1, rows + 1), ("p0",),
    )  # fmt: skip


def test_three_hundred_thousand_labels_join_without_looking_at_each_for_each() -> None:
    landings = source("landings", time="at", key="id", columns={"id": str, "x": float, "at": Time})
    index = LabelIndex(label(landings, key="id", value="x", wait="2d"))
    frame = big_frame(300_000)
    index.update(frame.take(slice(0, 299_000)))
    index.update(frame)
    keys = frame.columns["id"].values[::-1].copy()
    start = time.perf_counter()
    found = index.join(keys, frame.event_at_us[::-1], 10**15)
    assert time.perf_counter() - start < 30  # 0.1 s on an idle core; each for each would take hours
    assert (found.state == 0).all()
