"""Closed days of rankings: lists whose rows are all labelled, against plain Python."""

from __future__ import annotations

import math
from math import log2
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.columns.data import Column
from trimtab.core.records import DayQuality, Prediction
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.events.columns.frames import NEVER_US
from trimtab.feedback.blocks import day_qualities
from trimtab.feedback.days import day_quality
from trimtab.feedback.open_days import OpenDays
from trimtab.feedback.outcomes import KnownLabels, ListColumn, OutcomeJoin
from trimtab.testing.builders import a_prediction


def row(n: int, name: str | None, at_us: int, score: float, *, key: str = "", version: str = "v") -> Prediction:
    return a_prediction(
        id=f"p_{n}",
        request_id=key or f"r{n}",
        version=version,
        made_at_us=at_us,
        at_us=at_us,
        score=score,
        request=msgspec.msgpack.encode([key or f"r{n}", name, 3.5]),
    )


def days_of(rows: list[Prediction], labels: dict[str, float]) -> list[DayQuality]:
    def read(keys: Column, at_us: Any, cut_us: Any) -> KnownLabels:
        values = [labels.get(str(key), math.nan) for key in keys.values]
        known = [NEVER_US if math.isnan(value) else 0 for value in values]
        return KnownLabels(np.array(values), np.array(known, np.int64))

    join = OutcomeJoin(read, wait_us=HOUR_US, key_dtype="str", lists=ListColumn(1, 3))
    days = OpenDays("m", "ndcg_loss(2)", join, cap=lambda version: 1.0)
    days.add(rows)
    return day_qualities(days.close(10 * DAY_US))


def naive_loss(pairs: list[tuple[float, float]]) -> float:
    """Of lists without equal scores."""

    def gain(values: list[float]) -> float:
        return sum(value / log2(place + 2) for place, value in enumerate(values[:2]))

    by_score = [label for _, label in sorted(pairs, reverse=True)]
    return 1 - gain(by_score) / gain(sorted((label for _, label in pairs), reverse=True))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(0, 1), st.sampled_from([0.0, 1.0, 2.0, None])),
        min_size=1,
        max_size=16,
    )
)
def test_a_day_is_the_sum_over_its_whole_lists_and_counts_the_others(rows: list[tuple[str | None, int, float | None]]):
    asked = [row(n, name, day * DAY_US + n, float(n * 7 % 16)) for n, (name, day, _) in enumerate(rows)]
    labels = {f"r{n}": label for n, (_, _, label) in enumerate(rows) if label is not None}
    found = {day.day_us: day for day in days_of(asked, labels)}
    for day in {day for _, day, _ in rows}:
        lists: dict[str, list[tuple[float, float | None]]] = {}
        for n, (name, at, label) in enumerate(rows):
            if at == day:
                lists.setdefault(f"alone {n}" if name is None else name, []).append((float(n * 7 % 16), label))
        lacking = [n for n, pairs in lists.items() if n.startswith("alone") or any(label is None for _, label in pairs)]
        whole = [[(s, x) for s, x in pairs if x is not None] for n, pairs in lists.items() if n not in lacking]
        losses = [naive_loss(pairs) for pairs in whole if len({x for _, x in pairs}) > 1]
        here = found[day * DAY_US]
        assert (here.predictions, here.labelled, here.missing) == (len(lists), len(losses), len(lacking))
        assert here.loss_sum == pytest.approx(sum(losses))
        assert here.capped_loss_sum == pytest.approx(sum(losses))
        assert here.score_sum == here.label_sum == 0.0


@pytest.mark.fast
def test_a_row_that_is_asked_again_counts_as_answered_last_and_each_version_has_lists_of_its_own():
    asked = [row(0, "a", 0, 5.0, key="x"), row(1, "a", 1, 4.0, key="y"), row(2, "a", 2, 3.0, key="x")]
    (day,) = days_of(asked, {"x": 0.0, "y": 1.0})
    assert (day.predictions, day.labelled, day.loss_sum) == (1, 1, 0.0)  # y is above what x was answered last
    other = [*asked, row(3, "a", 3, 9.0, key="x", version="w"), row(4, "a", 4, 1.0, key="y", version="w")]
    one, two = days_of(other, {"x": 0.0, "y": 1.0})
    assert [(day.version, day.labelled) for day in (one, two)] == [("v", 1), ("w", 1)]
    assert two.loss_sum > one.loss_sum == 0.0


@pytest.mark.fast
def test_a_request_of_other_columns_belongs_to_no_list():
    known = ListColumn(1, 3)
    assert known.of(row(0, "a", 0, 1.0)) == "a"
    assert known.of(row(0, None, 0, 1.0)) is None
    other = msgspec.structs.replace(row(0, "a", 0, 1.0), request=msgspec.msgpack.encode(["r0", "a"]))
    assert known.of(other) is None
    (day,) = days_of([other, row(1, "a", 1, 1.0)], {"r0": 1.0, "r1": 0.0})
    assert (day.predictions, day.labelled, day.missing) == (2, 0, 1)


@pytest.mark.fast
def test_without_lists_days_count_rows_as_ever():
    at_us = np.array([0, 1, DAY_US])
    one, two = day_quality("m", "squared_error", "v", at_us, np.array([1.0, 2.0, 3.0]), np.array([1.0, np.nan, 1.0]))
    assert (one.predictions, one.labelled, one.missing, one.loss_sum) == (2, 1, 1, 0.0)
    assert (two.predictions, two.labelled, two.loss_sum) == (1, 1, 4.0)


def test_lists_whose_names_differ_by_a_nul_at_the_end_are_two() -> None:
    from trimtab.feedback.open_days import _numbered

    names = Column("str", np.array(["a", "a\0", "", "a", None], object), np.array([True, True, True, True, False]))
    found = _numbered(names).tolist()
    assert found[0] == found[3]
    assert len({*found[:3]}) == 3
    assert found[4] == -1
