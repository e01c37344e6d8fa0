"""Judgements of the same days share one error, so that trying again does not wear the gate down."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.stats.inference.paired import paired_mean_bound
from trimtab.steering.definitions import beats_champion
from trimtab.steering.gate.repeated_comparisons import Judgement, number_of, stricter

DAYS = st.integers(0, 20)
WINDOWS = st.tuples(st.sampled_from("ab"), DAYS, st.integers(1, 15)).map(lambda w: Judgement(w[0], w[1], w[1] + w[2]))


@given(asked=WINDOWS, made=st.lists(st.tuples(st.integers(0, 9), WINDOWS), max_size=8))
def test_the_number_is_the_days_that_were_looked_at_counted_one_by_one(
    asked: Judgement, made: list[tuple[int, Judgement]]
) -> None:
    own = min((at for at, one in made if one == asked), default=10)
    others = {one for at, one in made if one != asked and min(t for t, o in made if o == one) < own}
    looked = sum(one.start_us <= day < one.end_us for one in others for day in range(asked.start_us, asked.end_us))
    assert number_of(asked, made) == pytest.approx(1 + looked / (asked.end_us - asked.start_us))


def false_promotions(every: int, *, growing: bool, shared: bool, runs: int = 400, days: int = 28) -> float:
    """The share of streams of equal models in which one of many retries passes: days correlate by .4."""
    rng, passed = np.random.default_rng(3), 0
    for _ in range(runs):
        effect = rng.normal(size=days)
        for day in range(1, days):
            effect[day] = 0.4 * effect[day - 1] + math.sqrt(1 - 0.16) * effect[day]
        rows, of_day = effect.repeat(20) * 0.5 + rng.normal(size=days * 20), np.arange(days).repeat(20)
        made: list[tuple[int, Judgement]] = []
        for end in range(7 if growing else 14, days + 1, every):
            asked = Judgement("recipe", 0 if growing else end - 14, end)
            level = stricter(beats_champion(), number_of(asked, made) if shared else 1.0).level
            made.append((end, asked))
            here = (of_day >= asked.start_us) & (of_day < asked.end_us)
            if paired_mean_bound(rows[here], of_day[here], level=level, side="upper").high < 0:
                passed += 1
                break
    return passed / runs


@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.parametrize("every", [1, 7])
def test_retries_on_overlapping_windows_share_one_error(every: int, growing: bool) -> None:
    """One judgement of such days passes .12 (stated .1), so one of two windows that share no day .22."""
    alone = false_promotions(every, growing=growing, shared=False)
    together = false_promotions(every, growing=growing, shared=True)
    assert together < 0.24
    assert alone - together > 0.04
