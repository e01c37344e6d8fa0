"""Outcomes: what became of a prediction, judged against a naive reading of the label log."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexed_labels import IndexedLabels
from trimtab.core.columns.data import Column, Columns
from trimtab.core.errors import Misuse
from trimtab.core.records import DayQuality, Prediction
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.definitions import source
from trimtab.features.definitions import label
from trimtab.features.labels import LABEL_STATES, UNLISTED, LabelIndex
from trimtab.feedback.blocks import day_qualities
from trimtab.feedback.open_days import InMemory, OpenDays, judged_table
from trimtab.feedback.outcomes import KnownLabels, OutcomeFrame, OutcomeJoin
from trimtab.testing.builders import a_prediction

WAIT_US = 6 * HOUR_US


class Label(msgspec.Struct, frozen=True):
    """One version of a label event."""

    key: str
    event_at_us: int
    known_at_us: int
    value: float


def newest(labels: Sequence[Label], key: str, at_us: int, cut_us: int) -> Label | None:
    """The naive oracle: of the key's versions known by the cut and dated at or after the request, the greatest."""
    visible = [b for b in labels if b.key == key and b.event_at_us >= at_us and b.known_at_us <= cut_us]
    return max(visible, key=lambda b: (b.event_at_us, b.known_at_us), default=None)


def reader(labels: Sequence[Label]) -> Any:
    def read(keys: Column, at_us: Any, cut_us: Any) -> KnownLabels:
        asked = zip(keys.values, at_us.tolist(), cut_us.tolist(), strict=True)
        found = [newest(labels, str(key), at, cut) for key, at, cut in asked]
        return KnownLabels(
            np.array([math.nan if b is None else b.value for b in found], np.float64),
            np.array([NEVER_US if b is None else b.known_at_us for b in found], np.int64),
        )

    return read


def prediction(n: int, key: str, at_us: int, *, score: float = 0.5, version: str = "a", model: str = "m") -> Prediction:
    return a_prediction(
        id=f"p_{n}", request_id=key, model=model, version=version, made_at_us=at_us, at_us=at_us, score=score
    )


hours = st.integers(0, 72).map(lambda h: h * HOUR_US)
keys = st.sampled_from("abcd")
label_logs = st.lists(
    st.builds(Label, keys, hours, hours, st.sampled_from([0.0, 1.0])),
    max_size=25,
    unique_by=lambda b: (b.key, b.known_at_us),
)
asked = st.lists(st.tuples(keys, hours, st.floats(0.01, 0.99), st.sampled_from("ab")), max_size=20)


class Outcome(NamedTuple):
    prediction_id: str
    state: str
    label: float | None
    label_known_at_us: int | None


def outcomes_of(frame: OutcomeFrame) -> list[Outcome]:
    ids, known = frame.predictions["id"].values.tolist(), (frame.known_at_us != NEVER_US).tolist()
    columns = (ids, frame.states.tolist(), frame.labels.tolist(), frame.known_at_us.tolist(), known)
    return [
        Outcome(one, LABEL_STATES[state], label if there and state != UNLISTED else None, at_us if there else None)
        for one, state, label, at_us, there in zip(*columns, strict=True)
    ]


def made(rows: list[tuple[str, int, float, str]]) -> list[Prediction]:
    return [prediction(n, k, at, score=s, version=v) for n, (k, at, s, v) in enumerate(rows)]


@pytest.mark.fast
@given(asked, label_logs, hours)
def test_a_prediction_is_labelled_late_pending_or_missing(rows: list[Any], labels: list[Label], cut_us: int) -> None:
    predictions = made(rows)
    frame = OutcomeJoin(reader(labels), wait_us=WAIT_US, key_dtype="str").join(predictions, cut_us)
    for one, outcome in zip(predictions, outcomes_of(frame), strict=True):
        label = newest(labels, one.request_id, one.at_us, cut_us)
        due_us = one.at_us + WAIT_US
        if label is None:
            expected = "pending" if cut_us < due_us else "missing"
        else:
            expected = "labelled" if label.known_at_us <= due_us else "late"
        assert (outcome.prediction_id, outcome.state) == (one.id, expected)
        assert outcome.label == (None if label is None else label.value)
        assert outcome.label_known_at_us == (None if label is None else label.known_at_us)


@given(asked, label_logs, st.lists(hours.map(lambda h: 3 * h), max_size=6))
def test_each_day_closes_once_and_as_it_stood_when_its_wait_was_over(
    rows: list[Any], labels: list[Label], looks: list[int]
) -> None:
    """However often somebody looks, the closed days are those of one look at the end."""
    predictions = made(rows)
    join = OutcomeJoin(reader(labels), wait_us=WAIT_US, key_dtype="str")
    end_us = 10 * DAY_US
    days = OpenDays("m", "log_loss", join)
    days.add(predictions)
    found = [day for look in [*sorted(looks), end_us] for day in day_qualities(days.close(look))]
    expected = sorted({(p.at_us // DAY_US * DAY_US, p.version) for p in predictions})
    assert [(day.day_us, day.version) for day in found] == expected
    for day in found:
        mine = [p for p in predictions if p.at_us // DAY_US * DAY_US == day.day_us and p.version == day.version]
        known = [(p, newest(labels, p.request_id, p.at_us, p.at_us + WAIT_US)) for p in mine]
        truths = [(p.score, label.value) for p, label in known if label is not None]
        assert (day.predictions, day.labelled, day.missing) == (len(mine), len(truths), len(mine) - len(truths))
        assert day.score_sum == pytest.approx(sum(s for s, _ in truths))
        assert day.label_sum == sum(y for _, y in truths)
        assert day.loss_sum == pytest.approx(sum(-math.log(s if y else 1 - s) for s, y in truths))


def test_a_day_stays_open_until_its_last_label_can_have_come() -> None:
    labels = [Label("a", DAY_US, DAY_US + WAIT_US - 2, 1.0)]
    days = OpenDays("m", "log_loss", OutcomeJoin(reader(labels), wait_us=WAIT_US, key_dtype="str"))
    days.add([prediction(1, "a", DAY_US - 1)])
    assert day_qualities(days.close(DAY_US + WAIT_US - 1)) == []
    (closed,) = day_qualities(days.close(DAY_US + WAIT_US))
    assert (closed.day_us, closed.labelled) == (0, 1)
    assert day_qualities(days.close(DAY_US + WAIT_US)) == []


def test_answers_that_are_no_probabilities_do_not_stop_the_closing_of_days() -> None:
    """The label was a number when version a was trained, and is now whether that number is large."""
    labels = [Label(key, 0, HOUR_US, 1.0) for key in "ab"]
    days = OpenDays("m", "log_loss", OutcomeJoin(reader(labels), wait_us=WAIT_US, key_dtype="str"))
    days.add([prediction(1, "a", 0, score=22.5), prediction(2, "b", 0, score=0.5, version="b")])
    (closed,) = day_qualities(days.close(DAY_US + WAIT_US))
    assert (closed.version, closed.labelled) == ("b", 1)


def test_a_late_or_corrected_label_does_not_change_a_closed_day() -> None:
    labels = [Label("a", 0, HOUR_US, 1.0), Label("a", 1, WAIT_US + 1, 0.0), Label("b", 0, WAIT_US + 1, 1.0)]
    join = OutcomeJoin(reader(labels), wait_us=WAIT_US, key_dtype="str")
    predictions = [prediction(1, "a", 0), prediction(2, "b", 0)]
    days = OpenDays("m", "brier", join)
    days.add(predictions)
    (closed,) = day_qualities(days.close(2 * DAY_US))
    assert (closed.labelled, closed.label_sum, closed.missing) == (1, 1.0, 1)
    corrected, late = outcomes_of(join.join(predictions, 2 * DAY_US))
    assert (corrected.state, corrected.label) == ("late", 0.0)
    assert (late.state, late.label) == ("late", 1.0)


def test_a_prediction_about_a_closed_day_is_counted_and_left_out() -> None:
    days = OpenDays("m", "log_loss", OutcomeJoin(reader([]), wait_us=WAIT_US, key_dtype="str"), closed_until_us=DAY_US)
    days.add([prediction(1, "a", 0), prediction(2, "a", DAY_US), prediction(3, "a", 0, model="other")])
    assert days.too_late == 1
    assert [day.day_us for day in day_qualities(days.close(9 * DAY_US))] == [DAY_US]


@pytest.mark.fast
def test_answers_about_the_past_are_no_part_of_a_day() -> None:
    now_us = 5 * DAY_US
    asked = prediction(0, "a", now_us)
    what_if = [
        msgspec.structs.replace(asked, id="p_1", at_us=2 * DAY_US, flags=("past",)),
        msgspec.structs.replace(asked, id="p_2", flags=("past",)),  # as of the moment of asking itself
        msgspec.structs.replace(asked, id="p_3", at_us=now_us - 1, mode="batch"),
        msgspec.structs.replace(asked, id="p_4", at_us=now_us - 2 * DAY_US, mode="precomputed"),
    ]
    counted = [
        asked,
        msgspec.structs.replace(asked, id="p_5", mode="batch"),
        msgspec.structs.replace(asked, id="p_6", at_us=now_us - 30 * HOUR_US, mode="precomputed"),
    ]
    days = OpenDays("m", "log_loss", OutcomeJoin(reader([]), wait_us=WAIT_US, key_dtype="str"))
    days.add([*what_if, *counted])
    assert [(day.day_us // DAY_US, day.predictions) for day in day_qualities(days.close(9 * DAY_US))] == [
        (3, 1),
        (5, 2),
    ]
    late = OpenDays("m", "log_loss", OutcomeJoin(reader([]), wait_us=WAIT_US, key_dtype="str"), closed_until_us=now_us)
    late.add(what_if)
    assert (late.too_late, day_qualities(late.close(9 * DAY_US))) == (0, [])


def test_days_are_the_same_after_a_restart_in_the_middle() -> None:
    labels = [Label(k, n * HOUR_US, n * HOUR_US + HOUR_US, n % 2) for n, k in enumerate("abcdabcd" * 9)]
    join = OutcomeJoin(reader(labels), wait_us=WAIT_US, key_dtype="str")
    predictions = [prediction(n, "abcd"[n % 4], n * HOUR_US) for n in range(72)]
    whole = OpenDays("m", "log_loss", join)
    whole.add(predictions)
    first = OpenDays("m", "log_loss", join)
    first.add(predictions[:40])
    found: list[DayQuality] = day_qualities(first.close(40 * HOUR_US))
    again = OpenDays("m", "log_loss", join, closed_until_us=first.closed_until_us)
    again.add([p for p in predictions if p.at_us >= first.closed_until_us])
    assert found + day_qualities(again.close(9 * DAY_US)) == day_qualities(whole.close(9 * DAY_US))


def test_rows_that_come_one_by_one_are_kept_in_few_tables() -> None:
    """A service that is asked now and then was kept in a table for each row, for as long as labels take."""
    labels = [Label("a", 10 * DAY_US, 0, 1)]
    join = OutcomeJoin(reader(labels), wait_us=WAIT_US, key_dtype="str")
    kept = InMemory(partial(judged_table, join, "m"))
    each, whole = OpenDays("m", "log_loss", join, waiting=kept), OpenDays("m", "log_loss", join)
    predictions = [prediction(n, "a", n * HOUR_US // 16) for n in range(700)]
    for one in predictions[:500]:
        each.add([one])
    each.add(predictions[500:])
    whole.add(predictions)
    assert len(kept.parts) < 12
    assert sum(part.rows for part in kept.parts) == 700
    assert kept.parts[0]["at"].values[0] == 0
    assert day_qualities(each.close(30 * DAY_US)) == day_qualities(whole.close(30 * DAY_US))


def test_integer_keys_are_joined_as_integers() -> None:
    def read(keys: Column, at_us: Any, cut_us: Any) -> KnownLabels:
        assert keys.dtype == "int"
        return KnownLabels(keys.values.astype(np.float64), cut_us)

    join = OutcomeJoin(read, wait_us=WAIT_US, key_dtype="int")
    frame = join.join([prediction(1, "7", 0), prediction(2, "-3", 0)], HOUR_US)
    assert frame.labels.tolist() == [7.0, -3.0]
    with pytest.raises(Misuse, match="integer"):
        join.join([prediction(1, "x", 0)], HOUR_US)


CLASSES = ("on_time", "late", "cancelled")


def test_days_of_several_classes_sum_the_likeliest_one_and_leave_other_answers_out() -> None:
    chance = np.random.default_rng(0)
    chances = chance.dirichlet(np.ones(3), 48)
    truth = [math.nan if n % 9 == 0 else float(n % 3) for n in range(48)]  # NaN: a label that is no class
    labels = [Label(f"k{n}", n * HOUR_US, n * HOUR_US + HOUR_US, value) for n, value in enumerate(truth) if n % 5]
    join = OutcomeJoin(reader(labels), wait_us=WAIT_US, key_dtype="str", classes=CLASSES)
    made = [
        msgspec.structs.replace(
            prediction(n, f"k{n}", n * HOUR_US, score=float(row.max())),
            scores=dict(zip(CLASSES, row.tolist(), strict=True)),
        )
        for n, row in enumerate(chances)
    ]
    frame = join.join(made, 9 * DAY_US)
    unlisted = [one for one in outcomes_of(frame) if one.state == "unlisted"]
    assert len(unlisted) == sum(n % 9 == 0 and n % 5 > 0 for n in range(48))
    assert all(one.label is None for one in unlisted)
    days = OpenDays("m", "multi_log_loss", join)
    days.add([*made, prediction(99, "k1", HOUR_US), prediction(98, "k1", HOUR_US, model="other")])
    first, second = day_qualities(days.close(9 * DAY_US))
    assert (first.predictions, second.predictions) == (24, 24)
    judged = [n for n in range(24) if n % 5 and n % 9]
    strangers = sum(n % 9 == 0 and n % 5 > 0 for n in range(24))
    assert (first.labelled, first.missing, first.unlisted) == (len(judged), 24 - len(judged) - strangers, strangers)
    assert first.score_sum == pytest.approx(sum(chances[n].max() for n in judged))
    assert first.label_sum == sum(chances[n].argmax() == n % 3 for n in judged)
    assert first.loss_sum == pytest.approx(sum(-math.log(chances[n][n % 3]) for n in judged))
    other = OutcomeJoin(reader(labels), wait_us=WAIT_US, key_dtype="str", classes=("late", "on_time", "diverted"))
    again = OpenDays("m", "multi_log_loss", other)  # the label was declared otherwise meanwhile
    again.add(made)
    renamed = day_qualities(again.close(9 * DAY_US))[0]
    assert renamed.labelled == sum(n % 3 < 2 for n in judged)  # no answer has a score of "diverted"
    assert renamed.labelled + renamed.unlisted == first.labelled + first.unlisted
    scores = other.join(made, 9 * DAY_US).scores(other.classes)
    np.testing.assert_allclose(scores[:, :2], chances[:, [1, 0]] / chances[:, :2].sum(axis=1, keepdims=True))
    assert not scores[:, 2].any()
    strange = OpenDays(
        "m", "multi_log_loss", OutcomeJoin(reader([]), wait_us=0, key_dtype="str", classes=("x", "y", "z"))
    )
    strange.add(made)
    assert day_qualities(strange.close(9 * DAY_US)) == []
    plain = OpenDays("m", "log_loss", OutcomeJoin(reader([]), wait_us=WAIT_US, key_dtype="str"))
    plain.add(made)
    assert day_qualities(plain.close(9 * DAY_US)) == []  # answers of several classes say nothing about one chance a row


def frame_of(labels: Sequence[Label]) -> EventFrame:
    """The label log in columns: every label is an event of its own id."""
    ordered = sorted(labels, key=lambda b: b.known_at_us)
    n = len(ordered)
    return EventFrame(
        source="truth",
        columns=Columns.of({"key": ("str", [b.key for b in ordered]), "value": ("float", [b.value for b in ordered])}),
        event_at_us=np.array([b.event_at_us for b in ordered], np.int64),
        known_at_us=np.array([b.known_at_us for b in ordered], np.int64),
        superseded_at_us=np.full(n, NEVER_US),
        deleted=np.zeros(n, bool),
        partition=np.zeros(n, np.int16),
        position=np.arange(1, n + 1),
        partitions=("p0001",),
    )


@given(asked, label_logs, hours)
def test_a_label_index_reads_as_the_naive_oracle(rows: list[Any], labels: list[Label], cut_us: int) -> None:
    truth = source("truth", time="at", columns={"key": str, "value": float})
    index = LabelIndex(label(truth, key="key", value="value", wait=WAIT_US))
    index.update(frame_of(labels))
    joins = [OutcomeJoin(one, wait_us=WAIT_US, key_dtype="str") for one in (IndexedLabels(index), reader(labels))]
    predictions = made(rows)
    ours, naive = (outcomes_of(one.join(predictions, cut_us)) for one in joins)
    assert ours == naive
    closed = []
    for one in joins:
        days = OpenDays("m", "log_loss", one)
        days.add(predictions)
        closed.append(day_qualities(days.close(30 * DAY_US)))
    assert closed[0] == closed[1]


def test_closing_a_day_of_a_thousand_predictions_asks_for_their_labels_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, join = [], LabelIndex.join

    def counted(self: LabelIndex, keys: Any, *given: Any, **more: Any) -> Any:
        asked.append(len(keys))
        return join(self, keys, *given, **more)

    monkeypatch.setattr(LabelIndex, "join", counted)
    truth = source("truth", time="at", columns={"key": str, "value": float})
    index = LabelIndex(label(truth, key="key", value="value", wait=WAIT_US))
    index.update(
        frame_of([Label(f"k{n}", n * 80_000_000, n * 80_000_000 + n % 9 * HOUR_US, n % 2) for n in range(1_000)])
    )
    days = OpenDays("m", "log_loss", OutcomeJoin(IndexedLabels(index), wait_us=WAIT_US, key_dtype="str"))
    days.add([prediction(n, f"k{n}", n * 80_000_000) for n in range(1_000)])
    (day,) = day_qualities(days.close(3 * DAY_US))
    assert asked == [1_000]
    assert (day.predictions, day.labelled) == (1_000, sum(n % 9 <= 6 for n in range(1_000)))
