"""Red windows outlive their signals, and a person may give one free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
from input_world import make_model

from trimtab import store
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import DAY_US, HOUR_US, duration_us
from trimtab.feedback.blocks import BlockSums, DayBlocks
from trimtab.monitoring.inputs.checks.findings import KINDS, Finding
from trimtab.monitoring.inputs.checks.traffic import TrafficHour
from trimtab.monitoring.inputs.input_state import InputWatch, WatchStore
from trimtab.monitoring.inputs.red_windows import (
    Reach,
    days_with_missing_labels,
    left_out,
    not_used_yet_us,
    red_windows,
    released,
    released_since,
    window_changes,
    with_late_labels,
)
from trimtab.monitoring.quality.quality_days import store_days
from trimtab.monitoring.signals import settle_signals
from trimtab.store import Catalog


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with store.open(f"sqlite://{tmp_path}/catalog.db", "catalog") as opened:
        yield opened


REACH = Reach(label_wait_us=2 * DAY_US, label_source="sales", sources={"weather": 6 * HOUR_US})


def look(catalog: Catalog, now_us: int, *found: Finding, reach: Reach = REACH) -> None:
    signals = [one.signal("m", "v1", now_us) for one in found]
    settled, told = settle_signals(catalog, "m", KINDS, signals, now_us=now_us)
    windows = window_changes(catalog, settled.begun, settled.ended, reach=reach)
    catalog.write([*told, *windows])


def nulls(onset_us: int, *, severity: str = "red", kind: str = "nulls", subject: str = "column x") -> Finding:
    return Finding(
        kind=kind,  # type: ignore[arg-type]
        subject=subject,
        severity=severity,  # type: ignore[arg-type]
        onset_us=onset_us,
        evidence={"share": 1.0},
        message="x is null.",
    )


def test_a_window_opens_with_a_red_signal_and_stays_when_it_has_ended(catalog: Catalog) -> None:
    look(catalog, 35 * HOUR_US, nulls(33 * HOUR_US))
    (window,) = red_windows(catalog, "m")
    assert (window.start_us, window.end_us, window.kind, window.subject) == (11 * HOUR_US, None, "nulls", "column x")
    assert window.covers(39 * HOUR_US)
    look(catalog, 38 * HOUR_US)
    (window,) = red_windows(catalog, "m")
    assert window.end_us == 38 * HOUR_US
    assert not window.covers(38 * HOUR_US)
    look(catalog, 40 * DAY_US)
    assert red_windows(catalog, "m") == [window]
    assert red_windows(catalog, "other") == []


@pytest.mark.parametrize(("evidence_h", "back_h"), [(2, 24), (11, 24), (20, 40), (72, 144)])
def test_a_window_reaches_back_a_day_before_the_signal_or_twice_as_far_as_its_evidence(
    evidence_h: int, back_h: int, catalog: Catalog
) -> None:
    now_us = 500 * HOUR_US
    look(catalog, now_us + 7, nulls(now_us - evidence_h * HOUR_US + 7))
    (window,) = red_windows(catalog, "m")
    assert window.start_us == now_us - back_h * HOUR_US


@pytest.mark.parametrize(
    ("kind", "subject", "after_h"),
    [
        ("feed_stopped", "source weather", 6),
        ("nulls", "source weather", 6),
        ("range", "column weather.wind", 6),
        ("range", "column sky.wind", 0),
        ("nulls", "column x", 0),
    ],
)
def test_a_window_of_a_source_lasts_as_long_as_features_look_back_at_its_events(
    kind: str, subject: str, after_h: int, catalog: Catalog
) -> None:
    look(catalog, 90 * HOUR_US, nulls(88 * HOUR_US, kind=kind, subject=subject))
    look(catalog, 95 * HOUR_US)
    (window,) = red_windows(catalog, "m")
    begun_h = 88 if kind == "feed_stopped" else 66  # the last event of what stopped says when; else a day before
    assert (window.start_us, window.end_us) == (begun_h * HOUR_US, (95 + after_h) * HOUR_US)


@pytest.mark.parametrize("kind", ["feed_stopped", "feed_late"])
def test_a_source_of_labels_that_is_silent_excludes_nothing_because_labels_may_still_come(
    kind: str, catalog: Catalog
) -> None:
    look(catalog, 9 * DAY_US, nulls(9 * DAY_US - 3 * HOUR_US, kind=kind, subject="source sales"))
    assert red_windows(catalog, "m") == []


@pytest.mark.parametrize("kind", ["feed_stopped", "feed_late"])
def test_a_silent_source_whose_events_features_read_too_excludes_the_time_of_its_silence(
    kind: str, catalog: Catalog
) -> None:
    reach = msgspec.structs.replace(REACH, sources={"sales": 6 * HOUR_US})
    look(catalog, 9 * DAY_US, nulls(9 * DAY_US - 3 * HOUR_US, kind=kind, subject="source sales"), reach=reach)
    (window,) = red_windows(catalog, "m")
    assert window.start_us == (9 * DAY_US - 3 * HOUR_US if kind == "feed_stopped" else 8 * DAY_US)


def test_lists_whose_labels_were_still_to_come_when_their_source_stopped_are_left_out(catalog: Catalog) -> None:
    reach = msgspec.structs.replace(REACH, complete=False)  # days of lists are not checked for missing labels
    look(catalog, 9 * DAY_US, nulls(9 * DAY_US - 3 * HOUR_US, kind="feed_stopped", subject="source sales"), reach=reach)
    (window,) = red_windows(catalog, "m")
    assert window.start_us == 7 * DAY_US - 3 * HOUR_US


def test_labels_dated_by_the_wrong_clock_may_be_of_requests_a_wait_earlier(catalog: Catalog) -> None:
    look(catalog, 9 * DAY_US, nulls(9 * DAY_US - 3 * HOUR_US, kind="feed_clock", subject="source sales"))
    (window,) = red_windows(catalog, "m")
    assert window.start_us == 7 * DAY_US - 3 * HOUR_US


def test_what_only_informs_or_left_no_faulty_rows_opens_no_window(catalog: Catalog) -> None:
    look(catalog, HOUR_US, nulls(0, severity="info"), nulls(0, kind="traffic_stopped"))
    assert red_windows(catalog, "m") == []


def test_a_column_that_no_fit_uses_excludes_no_rows(catalog: Catalog) -> None:
    """A new shop, whose name the model does not read, must not keep repairs waiting for a person."""
    reach = Reach.of(make_model(0))
    assert reach.unread == {"channel"}
    for name in ("channel", "site", "price"):
        look(catalog, 35 * HOUR_US, nulls(33 * HOUR_US, kind="new_values", subject=f"column {name}"), reach=reach)
    assert {one.subject for one in red_windows(catalog, "m")} == {"column site", "column price"}


def test_an_information_that_turned_red_opens_one(catalog: Catalog) -> None:
    look(catalog, HOUR_US, nulls(0, severity="info"))
    look(catalog, 2 * HOUR_US, nulls(0))
    assert len(red_windows(catalog, "m")) == 1


def test_a_window_of_labels_is_of_the_requests_whose_labels_came_then(catalog: Catalog) -> None:
    look(catalog, 8 * DAY_US, nulls(5 * DAY_US, kind="labels_missing"))
    look(catalog, 12 * DAY_US)
    (window,) = red_windows(catalog, "m")
    assert (window.start_us, window.end_us) == (3 * DAY_US, 10 * DAY_US)


def test_a_window_of_labels_that_all_come_at_once_begins_a_day_before_the_first_day_without(catalog: Catalog) -> None:
    reach = msgspec.structs.replace(REACH, label_wait_us=60 * DAY_US, label_span_us=0)
    look(catalog, 165 * DAY_US, nulls(100 * DAY_US, kind="labels_missing"), reach=reach)
    look(catalog, 170 * DAY_US, reach=reach)
    (window,) = red_windows(catalog, "m")
    assert (window.start_us, window.end_us) == (99 * DAY_US, 110 * DAY_US)


@pytest.mark.parametrize(
    ("lacking", "span"),
    [([], None), ([6], (4, 7)), ([5, 6, 7], (3, 8)), ([9], (7, 10))],
)
def test_days_of_missing_labels_count_again_when_their_labels_have_come(
    lacking: list[int], span: tuple[int, int] | None, catalog: Catalog
) -> None:
    look(catalog, 8 * DAY_US, nulls(5 * DAY_US, kind="labels_missing"))
    whole = BlockSums(predictions=50, missing=50)
    days = [
        DayBlocks(model="m", version="v1", arm="champion", day_us=day * DAY_US, cap=1.0, whole=whole, amended=now)
        for day in range(3, 10)
        for now in [None if day in lacking else BlockSums(predictions=50, labelled=49, missing=1, late=49)]
    ]
    catalog.write(list(store_days(days)))

    def incomplete(kind: str, found: Mapping[int, BlockSums]) -> list[int]:
        return [day_us for day_us, one in found.items() if one.missing > 0.2 * one.predictions]

    assert with_late_labels(catalog, "m", incomplete, lambda *_: False, reach=REACH) == []  # the signal stands
    assert days_with_missing_labels(catalog, "m", since_us=0, until_us=6 * DAY_US) == [
        3 * DAY_US,
        4 * DAY_US,
        5 * DAY_US,
    ]
    look(catalog, 12 * DAY_US)
    assert days_with_missing_labels(catalog, "m", since_us=8 * DAY_US, until_us=99 * DAY_US) == [8 * DAY_US, 9 * DAY_US]
    catalog.write(with_late_labels(catalog, "m", incomplete, lambda *_: False, reach=REACH))
    found = [(one.start_us // DAY_US, one.end_us // DAY_US) for one in red_windows(catalog, "m") if one.end_us]
    assert found == ([] if span is None else [span])
    assert with_late_labels(catalog, "m", incomplete, lambda *_: False, reach=REACH) == []


def test_doubled_traffic_has_a_window(catalog: Catalog) -> None:
    look(catalog, 8 * DAY_US, nulls(7 * DAY_US + 12 * HOUR_US, kind="traffic_doubled", subject="traffic"))
    (window,) = red_windows(catalog, "m")
    assert window.start_us == 7 * DAY_US


def test_a_person_gives_a_window_free_with_a_reason(catalog: Catalog) -> None:
    look(catalog, 5 * HOUR_US, nulls(3 * HOUR_US))
    (window,) = red_windows(catalog, "m")
    with pytest.raises(Misuse, match="needed a reason"):
        released(catalog, "m", window.id, why=" ", actor="ann", now_us=DAY_US)
    with pytest.raises(NotFound, match=window.id):
        released(catalog, "m", "other", why="fine", actor="ann", now_us=DAY_US)
    freed, changes = released(catalog, "m", window.id, why="The nulls were meant.", actor="ann", now_us=DAY_US)
    catalog.write(changes)
    assert (freed.released_why, freed.released_by, freed.released_at_us) == ("The nulls were meant.", "ann", DAY_US)
    assert red_windows(catalog, "m") == []
    assert released_since(catalog, "m", DAY_US)
    assert not released_since(catalog, "m", DAY_US + 1)
    with pytest.raises(Misuse, match=r"ann released it already: The nulls were meant\."):
        released(catalog, "m", window.id, why="again", actor="bob", now_us=2 * DAY_US)
    look(catalog, 8 * HOUR_US)  # its end is noted all the same
    (kept,) = red_windows(catalog, "m", released=True)
    assert (kept.end_us, kept.released_by) == (8 * HOUR_US, "ann")


@pytest.mark.parametrize(
    ("wait", "cut_h", "begins_h"),
    [
        ("1d", 20 * 24, 18 * 24),  # the labels of the 19th day may have come on the 20th, which is not closed
        ("1d", 20 * 24 + 23, 18 * 24),
        ("3d", 20 * 24 + 5, 16 * 24),
        ("1h", 20 * 24 + 5, 19 * 24 + 5),  # the inputs were watched for a day
        ("1h", 20 * 24, 18 * 24 + 23),
    ],
)
def test_the_newest_requests_in_service_are_too_new_to_be_judged(
    wait: str, cut_h: int, begins_h: int, catalog: Catalog
) -> None:
    shop = make_model(0)
    model = msgspec.structs.replace(shop, label=msgspec.structs.replace(shop.label, wait_us=duration_us(wait)))
    assert left_out(catalog, model, cut_h * HOUR_US) == []  # nothing is watched
    assert not_used_yet_us(catalog, model) == 0
    for first_h in (3, begins_h + 2):
        store_of = WatchStore(catalog, "shop")
        watch = InputWatch(traffic={first_h: TrafficHour(5, 5), cut_h: TrafficHour(5, 5)})
        catalog.write([store_of.put(watch, store_of.watch()[1])])
        (early,) = left_out(catalog, model, cut_h * HOUR_US)
        assert (early.start_us, early.end_us) == (max(begins_h, first_h) * HOUR_US, None)
        assert early.why == "too new to be judged"
    # so a whole day more must be closed before a wanted number of days is used
    assert not_used_yet_us(catalog, model) == (DAY_US if wait != "1h" else 0)
