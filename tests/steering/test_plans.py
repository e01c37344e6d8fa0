"""Which rows a repair learns from, is judged on and refits on."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.records import ChangeOnset
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.steering.candidates.plans import Plan, aged_sources, newest_plan, of_window, onset_plan, plan_in_words
from trimtab.steering.candidates.windows import JudgingWindow
from trimtab.training.data.weights import age_weights

DAYS = 40


class Rows:
    """As much of a training set as a plan reads: when each row was asked, and whether it may be learnt from."""

    def __init__(self, days: np.ndarray, usable: np.ndarray) -> None:
        self.begun_us = (days * DAY_US).astype(np.int64) + DAY_US // 2
        self.usable = self.informative = usable


def stretch(rows: Rows, first: int) -> JudgingWindow:
    start_us = first * DAY_US
    before = rows.usable & (rows.begun_us < start_us - 2 * DAY_US)
    return JudgingWindow(start_us, DAYS * DAY_US, rows.usable & (rows.begun_us >= start_us), before)


def change(day: int) -> ChangeOnset:
    return ChangeOnset(at_us=day * DAY_US, earliest_us=(day - 3) * DAY_US, latest_us=(day + 2) * DAY_US)


def planned(first: int, seed: int = 0, span_us: int = 0) -> tuple[Rows, Plan]:
    rng = np.random.default_rng(seed)
    rows = Rows(np.sort(rng.integers(0, DAYS, 500)), rng.random(500) < 0.9)
    plan = onset_plan(rows, stretch(rows, first), change(first), span_us)  # type: ignore[arg-type]  # all that it reads
    return rows, plan


@given(first=st.integers(5, DAYS - 7), seed=st.integers(0, 1_000))
def test_no_fold_is_answered_by_a_fit_that_has_seen_any_of_it(first: int, seed: int) -> None:
    rows, plan = planned(first, seed)
    together = np.zeros(500, int)
    for fold in plan.folds:
        together += fold
        for source in plan.sources:
            learnt = plan.learnt(source, fold)
            assert not (learnt & fold).any()
            assert not (learnt & ~rows.usable).any()
            assert (learnt & plan.window.rows).any()  # of the days since the change half are learnt from
    assert (together == plan.window.rows).all()


@given(first=st.integers(5, DAYS - 14), seed=st.integers(0, 1_000), hours=st.integers(1, 72))
def test_labels_that_overlap_are_never_on_both_sides(first: int, seed: int, hours: int) -> None:
    rows, plan = planned(first, seed, hours * HOUR_US)
    days = rows.begun_us // DAY_US
    assert (plan.folds[0] | plan.folds[1] == plan.window.rows).all()
    assert days[plan.folds[0]].max() < days[plan.folds[1]].min()
    for fold in plan.folds:
        for source in plan.sources:
            learnt = plan.learnt(source, fold)
            apart = np.abs(rows.begun_us[learnt][:, None] - rows.begun_us[fold])
            assert apart.min() >= hours * HOUR_US
            assert (learnt & plan.window.rows).any()  # some days since the change are left to learn from
            near = np.abs(days[:, None] - np.unique(days[fold])).min(axis=1) <= plan.gap
            assert (learnt == (source.rows & ~near)).all()
    for window in plan.windows:
        assert all((window.rows & fold).any() for fold in plan.folds)
    said = plan_in_words(plan, plan.sources[0], plan.window)
    assert f"in two halves, with {plan.gap} day{'s' * (plan.gap > 1)} between" in said


@pytest.mark.parametrize(("span_days", "choices"), [(0, 4), (3, 4), (9, 3), (10, 2)])
def test_sources_without_rows_for_a_fold_are_no_choice_if_labels_overlap(span_days: int, choices: int) -> None:
    _, plan = planned(20, span_us=span_days * DAY_US)
    assert len(plan.sources) == choices
    assert all(plan.learnt(source, fold).any() for source in plan.sources for fold in plan.folds)


def test_a_newest_week_within_one_half_is_no_window_of_its_own() -> None:
    assert len(planned(20)[1].windows) == 2
    assert len(planned(20, span_us=5 * DAY_US)[1].windows) == 1


@pytest.mark.parametrize("span_us", [0, 3 * DAY_US])
def test_without_labels_since_the_change_the_folds_are_empty(span_us: int) -> None:
    rows = Rows(np.arange(20), np.full(20, True))
    plan = onset_plan(rows, stretch(rows, 30), change(30), span_us)  # type: ignore[arg-type]  # all that it reads
    assert [fold.sum() for fold in plan.folds] == [0, 0]


@given(first=st.integers(5, DAYS - 7), seed=st.integers(0, 1_000))
def test_days_stay_whole_and_alternate(first: int, seed: int) -> None:
    rows, plan = planned(first, seed)
    days = [set((rows.begun_us[fold] // DAY_US).tolist()) for fold in plan.folds]
    assert not days[0] & days[1]
    order = sorted(days[0] | days[1])
    assert [day in days[0] for day in order] == [place % 2 == 0 for place in range(len(order))]


@given(first=st.integers(5, DAYS - 7), seed=st.integers(0, 1_000))
def test_answers_of_folds_come_together_in_the_order_of_the_rows(first: int, seed: int) -> None:
    _, plan = planned(first, seed)
    truth = np.random.default_rng(seed).random(500)
    whole = plan.assembled([truth[fold] for fold in plan.folds])
    assert (whole == truth[plan.window.rows]).all()
    for window in plan.windows:
        assert (of_window(whole, plan, window) == truth[window.rows]).all()


def test_the_days_since_the_latest_likely_onset_are_a_window_of_their_own() -> None:
    long, short = planned(DAYS - 7)[1].windows
    assert (long.start_us, short.start_us) == ((DAYS - 7) * DAY_US, (DAYS - 5) * DAY_US)
    rows, _ = planned(DAYS - 7)
    dated = msgspec.structs.replace(change(DAYS - 7), latest_us=(DAYS - 7) * DAY_US)
    plan = onset_plan(rows, stretch(rows, DAYS - 7), dated)  # type: ignore[arg-type]
    assert (len(plan.windows), len(plan.sources)) == (1, 3)  # it is dated to the day


def test_the_newest_week_is_a_window_of_its_own_where_more_days_have_passed() -> None:
    rows, plan = planned(DAYS - 20)
    long, short = plan.windows
    assert (long.start_us, short.start_us) == ((DAYS - 20) * DAY_US, (DAYS - 7) * DAY_US)
    assert (short.rows == (long.rows & (rows.begun_us >= short.start_us))).all()
    assert plan.choices == 8  # four sources on either, which share the error
    assert "the best of 8 choices" in plan_in_words(plan, plan.sources[0], short)


def test_a_newest_week_with_few_labelled_days_is_no_window_of_its_own() -> None:
    days = np.repeat(np.array([*range(DAYS - 7), DAYS - 1]), 10)  # after a gap of six days one more
    rows = Rows(days, np.ones(days.size, bool))
    plan = onset_plan(rows, stretch(rows, DAYS - 20), change(DAYS - 20))  # type: ignore[arg-type]
    assert (len(plan.windows), plan.choices) == (1, 4)


def test_only_days_since_the_change_are_refitted_on_where_that_source_did_best() -> None:
    rows, plan = planned(DAYS - 20)
    everything, aged, since, after = plan.sources
    assert (after.refit == (rows.usable & (rows.begun_us >= (DAYS - 18) * DAY_US))).all()
    assert (everything.refit == rows.usable).all()
    assert aged.half_life_us == 7 * DAY_US
    assert (since.refit == (rows.usable & (rows.begun_us >= (DAYS - 20) * DAY_US))).all()


def test_after_a_repaired_change_the_usual_plan_may_also_learn_from_the_days_since() -> None:
    rows = Rows(np.arange(DAYS), np.ones(DAYS, bool))
    window = stretch(rows, DAYS - 10)
    usual = newest_plan(rows, window)  # type: ignore[arg-type]
    assert (usual.choices, len(usual.folds), plan_in_words(usual, usual.sources[0], window)) == (1, 1, "")
    since = newest_plan(rows, window, change(20))  # type: ignore[arg-type]
    assert [int(source.rows.sum()) for source in since.sources] == [28, 6]  # since its latest likely beginning
    assert newest_plan(rows, window, change(-5)).choices == 1  # type: ignore[arg-type]  # nothing is older
    few = newest_plan(rows, window, change(22))  # type: ignore[arg-type]
    assert [int(source.rows.sum()) for source in few.sources] == [28, 6]  # four days since the latest are too few
    assert newest_plan(rows, window, change(28)).choices == 1  # type: ignore[arg-type]  # nothing to learn from


def test_sources_in_which_old_rows_count_less_have_the_rows_of_all_history() -> None:
    rows = Rows(np.arange(DAYS), np.ones(DAYS, bool))
    plan = newest_plan(rows, stretch(rows, DAYS - 10), change(20))  # type: ignore[arg-type]
    found = aged_sources(plan)
    assert [one.half_life_us for one in found] == [28 * DAY_US, 14 * DAY_US, 7 * DAY_US]
    assert all(one.rows is plan.sources[0].rows for one in found)


def test_a_row_of_one_half_life_ago_counts_half() -> None:
    assert age_weights(np.array([0, 7, 14]) * DAY_US, 7 * DAY_US).tolist() == [0.25, 0.5, 1.0]
    assert age_weights(np.zeros(0, np.int64), DAY_US).tolist() == []
    assert age_weights(np.array([-5 * DAY_US]), DAY_US) == pytest.approx([1.0])
