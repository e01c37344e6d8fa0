"""Labels of one class that stop are found while the others come; their rows are left out until the labels come."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from test_red_windows import REACH, catalog, look, nulls  # noqa: F401
from test_source_checks import NO_ORDERS, frame, shop

from trimtab.core.columns.data import Columns
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.events.columns.frames import EventFrame
from trimtab.features.labels import outcome_column, positives
from trimtab.monitoring.inputs.checks.feeds import Arrivals, feed_findings
from trimtab.monitoring.inputs.checks.findings import Finding
from trimtab.monitoring.inputs.checks.outcomes import Outcomes, stopped_outcomes
from trimtab.monitoring.inputs.red_windows import Reach, red_windows, with_late_labels
from trimtab.monitoring.inputs.source_checks import SourceChecks
from trimtab.store import Catalog

BEGIN_US = 1_000 * DAY_US  # the hour 0 would mean that there was no load
PAID = "source paid, positive labels"


def labels(positive_us: NDArray[np.int64], negative_us: NDArray[np.int64], loaded_us: int = 0) -> EventFrame:
    known_us = np.concatenate([positive_us, negative_us])
    order = np.argsort(known_us, kind="stable")
    paid = np.repeat([True, False], [positive_us.size, negative_us.size])[order]
    made = frame("paid", Columns.of({"paid": ("bool", paid.tolist())}), known_us[order], known_us[order])
    return msgspec.structs.replace(made, loaded_h=np.full(known_us.size, loaded_us // HOUR_US, np.int32))


def cards(
    seed: int, days: int, gone: Sequence[tuple[float, float]] = (), *, per_day: float = 30.0, weekend: float = 1.0
) -> EventFrame:
    """Positive labels at any time, none in some times (in days); a job that writes 300 negative ones at 03:00."""
    rng = np.random.default_rng(seed)
    hours = np.arange(days * 24)
    counts = rng.poisson(per_day / 24 * np.where(hours // 24 % 7 >= 5, weekend, 1.0))
    positive = np.sort(np.repeat(hours, counts) * HOUR_US + rng.integers(0, HOUR_US, counts.sum()))
    for since, until in gone:
        positive = positive[(positive < since * DAY_US) | (positive >= until * DAY_US)]
    negative = np.repeat(np.arange(days), 300) * DAY_US + 3 * HOUR_US
    return labels(positive + BEGIN_US, negative + BEGIN_US)


def known(made: EventFrame, now_us: int) -> EventFrame:
    return made.take(made.known_at_us <= now_us)


def found(made: EventFrame, day: float) -> list[Finding]:
    now_us = BEGIN_US + int(day * DAY_US)
    return stopped_outcomes(Outcomes(shop().label, Arrivals(known(made, now_us))), now_us)


def test_positive_labels_that_stop_are_found_although_the_source_goes_on() -> None:
    made = cards(1, 50, [(30.0, 40.0)])
    red = [hour for hour in range(24 * 28, 24 * 50) if found(made, hour / 24)]
    paid_us = made.known_at_us[made.columns["paid"].values] - BEGIN_US
    back_us = int(paid_us[paid_us >= 40 * DAY_US][0])
    assert red == list(range(red[0], -(-back_us // HOUR_US)))  # without a break
    assert 24 * 32 < red[0] <= 24 * 34
    now_us = BEGIN_US + 34 * DAY_US
    (one,) = found(made, 34.0)
    assert feed_findings(Arrivals(known(made, now_us)), now_us) == []
    assert (one.kind, one.subject, one.severity) == ("feed_stopped", PAID, "red")
    last_us = int(made.known_at_us[made.columns["paid"].values & (made.known_at_us < BEGIN_US + 30 * DAY_US)][-1])
    assert one.onset_us == last_us
    assert one.message.startswith("Source paid: no positive label for ")
    assert one.message.endswith("Negative labels go on coming, the newest at 1972-10-30T03:00. Check what sends them.")


def test_the_negative_labels_of_a_job_that_stopped_are_found_too() -> None:
    made = cards(2, 40)
    stops = made.take(made.columns["paid"].values | (made.known_at_us < BEGIN_US + 30 * DAY_US))
    assert found(stops, 33.0) == []
    assert [one.subject for one in found(stops, 34.0)] == ["source paid, negative labels"]


@pytest.mark.parametrize("seed", range(5))
def test_a_source_that_stops_as_a_whole_is_not_said_to_lack_a_class(seed: int) -> None:
    made = cards(seed, 30)
    for hour in range(24 * 30, 24 * 40):
        assert found(made, hour / 24) == []
    now_us = BEGIN_US + 35 * DAY_US
    assert [one.subject for one in feed_findings(Arrivals(made), now_us)] == ["source paid"]


def test_files_and_labels_of_a_history_are_not_compared() -> None:
    made = cards(3, 40, [(30.0, 40.0)])
    now_us = BEGIN_US + 39 * DAY_US
    loaded = msgspec.structs.replace(made, loaded_h=np.full(made.rows, now_us // HOUR_US, np.int32))
    assert stopped_outcomes(Outcomes(shop().label, Arrivals(loaded)), now_us) == []
    # a history in which both classes come all the time, and then a service with a job each night
    history = np.arange(0, 20 * 24 * 4) * (HOUR_US // 4) + BEGIN_US
    live = cards(4, 25)
    live = live.take(live.known_at_us >= BEGIN_US + 20 * DAY_US)
    known_us = np.concatenate([history, live.known_at_us])
    paid = np.concatenate([np.arange(history.size) % 2 == 0, live.columns["paid"].values])
    both = frame("paid", Columns.of({"paid": ("bool", paid.tolist())}), known_us, known_us)
    hours = np.repeat([20 * 24 + BEGIN_US // HOUR_US, 0], [history.size, live.rows]).astype(np.int32)
    both = msgspec.structs.replace(both, loaded_h=hours)
    assert not any(found(both, hour / 24) for hour in range(24 * 20, 24 * 25))


def healthy(seeds: range) -> dict[int, list[float]]:
    """For each seed the days at which something is found in 60 healthy days, with 5 to 200 positive labels a day."""
    red = {}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        made = cards(seed, 60, per_day=float(np.exp(rng.uniform(1.6, 5.3))), weekend=float(rng.choice([0.0, 0.5, 1.0])))
        red[seed] = [hour / 24 for hour in range(24 * 14, 24 * 60, 3) if found(made, hour / 24)]
    return red


def test_healthy_streams_are_quiet() -> None:
    assert sum(map(bool, healthy(range(8)).values())) <= 1


@pytest.mark.soak
def test_false_alarms_of_healthy_streams() -> None:
    """`pytest -m soak -s tests/monitoring/test_outcomes.py`."""
    red = healthy(range(1_000, 1_200))
    false = [seed for seed, days in red.items() if days]
    print(f"{len(false)} of {len(red)} streams of 60 days had a false alarm: {false}")
    assert len(false) <= 10


def test_the_column_of_outcomes_that_is_kept_stands_for_the_label() -> None:
    label = shop().label
    table = Columns.of({"paid": ("bool", [True, None, False])})
    assert positives(label, table).to_list() == [True, None, False]
    kept = Columns.of({outcome_column(label): ("bool", [False, True, None])})
    assert positives(label, kept).to_list() == [False, True, None]


def test_no_class_is_watched_after_the_requests_have_stopped() -> None:
    made = cards(1, 34, [(30.0, 40.0)])
    now_us, frames = BEGIN_US + 34 * DAY_US, {"paid": made, "orders": NO_ORDERS}
    checks = SourceChecks(shop(), frames.__getitem__, None)
    for stopped, subjects in ((False, {PAID}), (True, set())):
        some = checks.findings(now_us, now_us - HOUR_US, stopped=stopped, windows=())
        assert {one.subject for one in some if one.kind == "feed_stopped"} == subjects


@pytest.mark.parametrize("sources", [{}, {"sales": 6 * HOUR_US}])
def test_requests_whose_positive_labels_may_be_lost_are_left_out(catalog: Catalog, sources: dict[str, int]) -> None:  # noqa: F811
    reach = msgspec.structs.replace(REACH, sources=sources)
    stop = nulls(30 * DAY_US, kind="feed_stopped", subject="source sales, positive labels")
    look(catalog, 31 * DAY_US, stop, reach=reach)
    (window,) = red_windows(catalog, "m")
    assert (window.start_us, window.end_us) == (28 * DAY_US, None)  # the wait for labels before the stop
    look(catalog, 40 * DAY_US, reach=reach)
    (window,) = red_windows(catalog, "m")
    assert (window.start_us, window.end_us) == (28 * DAY_US, 40 * DAY_US + sources.get("sales", 0))
    asked = []

    def caught_up(name: str, since_us: int, until_us: int) -> bool:
        asked.append((name, since_us, until_us))
        return len(asked) > 1

    for left in (1, 0):
        catalog.write(with_late_labels(catalog, "m", lambda *_: [], caught_up, reach=reach))
        assert len(red_windows(catalog, "m")) == left
    assert asked == [("positive", 30 * DAY_US, 40 * DAY_US)] * 2


def test_labels_have_caught_up_when_as_many_came_as_usual() -> None:
    made = cards(5, 60, [(30.0, 40.0)], per_day=100.0)
    lost = cards(5, 60, [(0.0, 30.0), (40.0, 60.0)], per_day=100.0)
    late = int(lost.columns["paid"].values.sum())
    since_us, until_us = BEGIN_US + 30 * DAY_US, BEGIN_US + 40 * DAY_US

    def caught(share: float, day: float) -> bool:
        more = np.full(int(share * late), BEGIN_US + 41 * DAY_US)
        paid = made.columns["paid"].values
        every = labels(np.sort(np.concatenate([made.known_at_us[paid], more])), made.known_at_us[~paid])
        now_us = BEGIN_US + int(day * DAY_US)
        return Outcomes(shop().label, Arrivals(known(every, now_us))).caught_up("positive", since_us, until_us, now_us)

    assert [caught(1.0, day) for day in (40.5, 41.5, 48.0, 50.5)] == [False, True, True, False]
    assert not any(caught(share, day) for share in (0.0, 0.5) for day in (40.5, 41.5, 45.0, 49.9))


def test_the_reach_of_another_source_is_as_before() -> None:
    signal = nulls(30 * DAY_US, kind="feed_stopped", subject="source sales").signal("m", "v", 31 * DAY_US)
    assert not REACH.excludes(signal)
    assert Reach(label_wait_us=DAY_US, label_source="other", sources={}).excludes(signal)
