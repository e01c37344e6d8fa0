"""Traffic that doubled or repeats itself is red until it is usual again, however long that lasts."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from trimtab.core.time import DAY_US, HOUR_US
from trimtab.monitoring.inputs.checks.traffic import TrafficHour, _Hours, traffic_findings
from trimtab.monitoring.inputs.red_windows import RedWindow

DAYS = 28
WINDOW = RedWindow(id="d", model="m", kind="duplicates", subject="traffic", start_us=0, end_us=None)


def traffic(seed: int, days: int, per_hour: int = 60) -> dict[int, TrafficHour]:
    """About so many requests an hour, each asked once."""
    counts = np.random.default_rng(seed).poisson(per_hour, 24 * days)
    return {hour: TrafficHour(int(count), int(count)) for hour, count in enumerate(counts)}


def lived(hours: dict[int, TrafficHour]) -> dict[int, set[str]]:
    """What was found after each hour of the last days, by the hour."""
    found: dict[int, set[str]] = {}
    windows: list[RedWindow] = []
    kinds: set[str] = set()

    def covered() -> Callable[[int], bool]:
        return lambda at_us: any(window.covers(at_us) for window in windows)

    for now in range(24 * (DAYS - 1), max(hours) + 2):
        known = {hour: one for hour, one in hours.items() if hour < now}
        now_us = now * HOUR_US
        stand = {"doubled": "traffic_doubled" in kinds, "repeated": "duplicates" in kinds}
        findings = traffic_findings(known, now_us, now_us - 1, None, **stand, is_repeating=covered)
        kinds = {one.kind for one in findings}
        stands = bool(windows) and windows[-1].end_us is None
        if "duplicates" in kinds and not stands:
            windows.append(msgspec.structs.replace(WINDOW, start_us=now_us - DAY_US))
        elif "duplicates" not in kinds and stands:
            windows[-1] = msgspec.structs.replace(windows[-1], end_us=now_us)
        found[now] = kinds
    return found


def test_a_repetition_ends_if_hardly_any_request_is_left() -> None:
    hours, now_us = {0: TrafficHour(1, 1), 60: TrafficHour(1, 1)}, 62 * HOUR_US
    assert traffic_findings(hours, now_us, now_us - 1, None, repeated=True) == []


@pytest.mark.parametrize("seed", range(3))
def test_requests_that_repeat_are_red_for_as_long_as_they_do(seed: int) -> None:
    hours = traffic(seed, DAYS + 12)
    spans = [(24 * DAYS, 24 * (DAYS + 5)), (24 * (DAYS + 8), 24 * (DAYS + 9))]
    for begin, end in spans:
        for hour in range(begin, end):
            hours[hour] = TrafficHour(2 * hours[hour].rows, hours[hour].rows)
    red = {now for now, kinds in lived(hours).items() if "duplicates" in kinds}
    assert red >= {now for begin, end in spans for now in range(begin + 3, end + 1)}
    assert red <= {now for begin, end in spans for now in range(begin + 1, end + 2)}


@pytest.mark.parametrize("seed", range(3))
def test_doubled_traffic_is_red_until_it_is_usual_again(seed: int) -> None:
    hours = traffic(seed, DAYS + 5)
    begin, end = 24 * DAYS, 24 * (DAYS + 3)
    for hour in range(begin, end):
        share = 1.6 if begin + 36 <= hour < begin + 42 else 2.0  # for one window it lies below what it began with
        count = round(share * hours[hour].rows)
        hours[hour] = TrafficHour(count, count)
    found = lived(hours)
    assert {now for now, kinds in found.items() if "traffic_doubled" in kinds} >= set(range(begin + 18, end + 1))
    assert not any(kinds for now, kinds in found.items() if now <= begin or now > end + 12)


@pytest.mark.parametrize("seed", range(3))
def test_hours_of_few_requests_are_put_together(seed: int) -> None:
    hours = traffic(seed, DAYS + 4, per_hour=8)
    begin, end = 24 * DAYS, 24 * (DAYS + 2)
    for hour in range(begin, end):
        hours[hour] = TrafficHour(2 * hours[hour].rows, hours[hour].rows)
    red = {now for now, kinds in lived(hours).items() if "duplicates" in kinds}
    assert red >= set(range(begin + 12, end + 1))
    assert red <= set(range(begin + 1, end + 12))


def asked(questions: list[np.ndarray]) -> dict[int, TrafficHour]:
    """Hours of requests of which each has an id of its own, by what they ask."""
    counts = [np.unique(one, return_counts=True)[1] for one in questions]
    return {h: TrafficHour(int(n.sum()), int(n.sum()), n.size, int((n > 1).sum())) for h, n in enumerate(counts)}


def drawn(seed: int, days: int, of: int, per_hour: int = 60) -> list[np.ndarray]:
    """By hour what is asked: by chance one of so many questions, all alike."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, of, rng.poisson(per_hour)) for _ in range(24 * days)]


@pytest.mark.parametrize("of", [100, 600, 10**6])  # at 60 an hour about 29, 5 and 0 of 100 questions are asked again
@pytest.mark.parametrize("sent", ["all twice", "half of them twice", "on a holiday", "a recording in a loop"])
def test_what_is_asked_twice_under_other_ids_is_red_while_it_is(sent: str, of: int) -> None:
    questions = drawn(3, DAYS + 4, of)
    begin, end = 24 * DAYS, 24 * (DAYS + 2)
    for hour in range(begin, end):
        usual = questions[hour][:24] if sent == "on a holiday" else questions[hour]
        more = questions[begin - 2000 : begin][0][:40].repeat(2) if "loop" in sent else usual
        questions[hour] = np.concatenate([usual, more[: len(usual) // 2] if "half" in sent else more])
    red = {now for now, kinds in lived(asked(questions)).items() if "duplicates" in kinds}
    assert red <= set(range(begin + 1, end + 2))
    if of == 10**6 or sent == "on a holiday" or (of == 600 and "twice" in sent):  # else chance repeats nearly as much
        assert red >= set(range(begin + 3, end + 1))


@pytest.mark.parametrize("few", ["lost", "too few to prove it"])
def test_hours_that_cannot_show_a_repetition_do_not_end_it(few: str) -> None:
    """Few requests come in the last hours of the fault, as at night, after many by day."""
    questions = drawn(3, DAYS + 3, 10**6 if few == "lost" else 80)
    begin, end = 24 * DAYS, 24 * (DAYS + 1)
    for hour in range(begin, end):
        night = 4 if few == "lost" else 15
        questions[hour] = np.arange(night if hour >= end - 6 else 60).repeat(2)
    hours = asked(questions)
    if few == "lost":
        hours |= {hour: TrafficHour(8, 8) for hour in (end - 3, end - 1)}
    red = {now for now, kinds in lived(hours).items() if "duplicates" in kinds}
    assert set(range(begin + 3, end + 1)) <= red <= set(range(begin + 1, end + 2))


def test_a_repetition_is_over_after_a_day_in_which_no_hour_can_show_it() -> None:
    questions = drawn(3, DAYS + 4, 10**6)
    begin, end = 24 * DAYS, 24 * (DAYS + 1)
    for hour in range(begin, end):
        questions[hour] = questions[hour].repeat(2)
    hours = asked(questions)
    hours |= {hour: TrafficHour(60, 60) for hour in hours if hour >= end}
    red = {now for now, kinds in lived(hours).items() if "duplicates" in kinds}
    assert set(range(begin + 3, end + 12)) <= red <= set(range(begin + 1, end + 25))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("of", [20, 300, 3_000, 10**6])
def test_twice_as_many_new_askers_repeat_nothing(of: int, seed: int) -> None:
    """Whoever else comes asks by chance: more is asked twice then, and that is no fault."""
    questions = drawn(seed, DAYS + 3, of)
    others = drawn(seed + 100, DAYS + 3, of)
    for hour in range(24 * DAYS, 24 * (DAYS + 2)):
        questions[hour] = np.concatenate([questions[hour], others[hour]])
    assert not any("duplicates" in kinds for kinds in lived(asked(questions)).values())


def test_one_question_that_everybody_asks_repeats_no_other() -> None:
    questions = drawn(1, DAYS + 3, 10**6)
    for hour in range(24 * DAYS, 24 * (DAYS + 2)):
        questions[hour] = np.concatenate([questions[hour], np.full(500, 7), np.full(200, 8)])
    assert not any("duplicates" in kinds for kinds in lived(asked(questions)).values())


def test_hours_of_which_nobody_knows_what_was_asked_say_nothing() -> None:
    """Few requests an hour, in every second of them one column is lost: hours are put together with those."""
    hours = asked([np.repeat(np.arange(4), 2) for _ in range(24 * (DAYS + 2))])
    hours |= {hour: TrafficHour(8, 8) for hour in hours if hour % 2}
    hours |= {hour: TrafficHour(8, 8, 8, 0) for hour in hours if hour < 24 * DAYS}
    assert not any("duplicates" in kinds for kinds in lived(hours).values())


@pytest.mark.parametrize("seed", range(5))
def test_usual_traffic_is_the_median_of_the_hours_before(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = {int(hour): TrafficHour(int(n), 1) for hour, n in enumerate(rng.integers(1, 90, 24 * 40)) if n % 7}
    hours = _Hours(counts)
    rows = [counts[hour].rows if hour in counts else 0 for hour in range(hours.first, hours.last + 1)]
    found = hours.usual(30)
    assert len(found) == len(rows) + 30
    for place in range(len(found)):
        days = [rows[place - 24 * n] for n in range(1, 8) if 0 <= place - 24 * n < len(rows)]
        weeks = [rows[place - 168 * n] for n in range(1, 5) if 0 <= place - 168 * n < len(rows)]
        expected = np.median(weeks) if len(weeks) >= 3 else np.median(days) if len(days) >= 2 else np.nan
        assert np.array_equal(found[place], expected, equal_nan=True), place


@pytest.mark.parametrize("share", [2.0, 3.0])
def test_more_requests_in_the_quiet_hours_alone_are_not_doubled_traffic(share: float) -> None:
    """After a change to summer time, or on a holiday, requests begin an hour earlier."""
    counts = np.random.default_rng(1).poisson([*[10] * 12, *[100] * 12], (DAYS + 5, 24))
    counts[DAYS, :12] = share * counts[DAYS, :12]
    hours = {hour: TrafficHour(int(count), int(count)) for hour, count in enumerate(counts.ravel())}
    assert not any("traffic_doubled" in kinds for kinds in lived(hours).values())
    counts[DAYS + 3] *= 2
    hours = {hour: TrafficHour(int(count), int(count)) for hour, count in enumerate(counts.ravel())}
    assert any("traffic_doubled" in kinds for now, kinds in lived(hours).items() if now <= 24 * (DAYS + 4))
