"""Red windows outlive their signals, and a person may give one free."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab import store
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.monitoring.findings import KINDS, Finding
from trimtab.monitoring.red_windows import red_windows, released, window_changes
from trimtab.monitoring.signals import settle_signals
from trimtab.store import Catalog


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with store.open(f"sqlite://{tmp_path}/catalog.db", "catalog") as opened:
        yield opened


def look(catalog: Catalog, now_us: int, *found: Finding) -> None:
    signals = [one.signal("m", "v1", now_us) for one in found]
    settled, told = settle_signals(catalog, "m", KINDS, signals, now_us=now_us)
    windows = window_changes(catalog, settled.begun, settled.ended, label_wait_us=DAY_US)
    catalog.write([*told, *windows])


def nulls(onset_us: int, *, severity: str = "red", kind: str = "nulls") -> Finding:
    return Finding(
        kind=kind,  # type: ignore[arg-type]
        subject="column x",
        severity=severity,  # type: ignore[arg-type]
        onset_us=onset_us,
        evidence={"share": 1.0},
        message="x is null.",
    )


def test_a_window_opens_with_a_red_signal_and_stays_when_it_has_ended(catalog: Catalog) -> None:
    look(catalog, 5 * HOUR_US, nulls(3 * HOUR_US))
    (window,) = red_windows(catalog, "m")
    assert (window.start_us, window.end_us, window.kind, window.subject) == (3 * HOUR_US, None, "nulls", "column x")
    assert window.covers(9 * HOUR_US)
    look(catalog, 8 * HOUR_US)
    (window,) = red_windows(catalog, "m")
    assert window.end_us == 8 * HOUR_US
    assert not window.covers(8 * HOUR_US)
    look(catalog, 40 * DAY_US)
    assert red_windows(catalog, "m") == [window]
    assert red_windows(catalog, "other") == []


def test_what_only_informs_or_left_no_faulty_rows_opens_no_window(catalog: Catalog) -> None:
    look(catalog, HOUR_US, nulls(0, severity="info"), nulls(0, kind="traffic_stopped"))
    assert red_windows(catalog, "m") == []


def test_an_information_that_turned_red_opens_one(catalog: Catalog) -> None:
    look(catalog, HOUR_US, nulls(0, severity="info"))
    look(catalog, 2 * HOUR_US, nulls(0))
    assert len(red_windows(catalog, "m")) == 1


def test_a_window_of_labels_ends_with_the_requests_whose_labels_are_well_again(catalog: Catalog) -> None:
    look(catalog, 3 * DAY_US, nulls(DAY_US, kind="labels_missing"))
    look(catalog, 5 * DAY_US)
    (window,) = red_windows(catalog, "m")
    assert (window.start_us, window.end_us) == (DAY_US, 4 * DAY_US)


def test_a_person_gives_a_window_free_with_a_reason(catalog: Catalog) -> None:
    look(catalog, 5 * HOUR_US, nulls(3 * HOUR_US))
    (window,) = red_windows(catalog, "m")
    with pytest.raises(Misuse, match="no reason"):
        released(catalog, "m", window.id, why=" ", actor="ann", now_us=DAY_US)
    with pytest.raises(NotFound, match=window.id):
        released(catalog, "m", "other", why="fine", actor="ann", now_us=DAY_US)
    freed, changes = released(catalog, "m", window.id, why="The nulls were meant.", actor="ann", now_us=DAY_US)
    catalog.write(changes)
    assert (freed.released_why, freed.released_by, freed.released_at_us) == ("The nulls were meant.", "ann", DAY_US)
    assert red_windows(catalog, "m") == []
    look(catalog, 8 * HOUR_US)  # its end is noted all the same
    (kept,) = red_windows(catalog, "m", released=True)
    assert (kept.end_us, kept.released_by) == (8 * HOUR_US, "ann")
