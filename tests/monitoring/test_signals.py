"""Signals begin, get graver and end; each change is stored, and ended ones stay listed for a week."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from trimtab import store
from trimtab.core.records import Signal
from trimtab.core.time import DAY_US
from trimtab.monitoring.signals import every_signal, listed_signals, settle_signals, standing_signals
from trimtab.store import Catalog
from trimtab.testing import builders

KINDS = ("null_values",)


def a_signal(day: int, *, subject: str = "column x", severity: Literal["info", "red"] = "red") -> Signal:
    return builders.a_signal(
        day * DAY_US, id=f"null_values/m/{subject}/{day}", version="v1", severity=severity, subject=subject
    )


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with store.open(f"sqlite://{tmp_path}/catalog.db", "catalog") as opened:
        yield opened


def look(catalog: Catalog, day: int, *found: Signal) -> tuple[list[str], list[str]]:
    because = {"null_values": "x is back"}
    settled, changes = settle_signals(catalog, "m", KINDS, found, now_us=day * DAY_US, because=because)
    catalog.write(changes)
    return [one.id for one in settled.begun], [one.id for one in settled.ended]


def test_a_signal_begins_once_and_stays_while_it_is_found(catalog: Catalog) -> None:
    first = a_signal(1)
    assert look(catalog, 1, first) == ([first.id], [])
    assert look(catalog, 2, a_signal(2)) == ([], [])
    assert standing_signals(catalog) == [first]


def test_a_signal_ends_when_it_is_not_found_and_stays_listed_for_a_week(catalog: Catalog) -> None:
    first = a_signal(1)
    look(catalog, 1, first)
    assert look(catalog, 3) == ([], [first.id])
    assert standing_signals(catalog) == []
    [listed] = listed_signals(catalog)
    assert (listed.ended_at_us, listed.ended_because) == (3 * DAY_US, "x is back")
    look(catalog, 10)
    assert listed_signals(catalog) == [listed]
    look(catalog, 11)
    assert listed_signals(catalog) == []
    assert every_signal(catalog) == [listed]


def test_a_signal_that_returns_is_a_new_one(catalog: Catalog) -> None:
    look(catalog, 1, a_signal(1))
    look(catalog, 2)
    assert look(catalog, 3, a_signal(3)) == ([a_signal(3).id], [])
    assert [one.ended_at_us for one in every_signal(catalog)] == [2 * DAY_US, None]


def test_a_signal_that_gets_graver_is_told_again_under_its_own_name(catalog: Catalog) -> None:
    first = a_signal(1, severity="info")
    look(catalog, 1, first)
    assert look(catalog, 2, a_signal(2)) == ([first.id], [])
    [now] = standing_signals(catalog)
    assert (now.id, now.severity, now.raised_at_us) == (first.id, "red", DAY_US)


def test_signals_of_other_monitors_are_left_alone(catalog: Catalog) -> None:
    first = a_signal(1)
    look(catalog, 1, first)
    settled, changes = settle_signals(catalog, "m", ("no_labels",), (), now_us=2 * DAY_US)
    assert (settled.begun, settled.ended, changes) == ([], [], [])


def test_two_columns_are_two_signals(catalog: Catalog) -> None:
    x, y = a_signal(1), a_signal(1, subject="column y")
    assert look(catalog, 1, x, y) == ([x.id, y.id], [])
    assert look(catalog, 2, y) == ([], [x.id])


def test_a_signal_has_the_owner_and_what_stood_before_it_as_its_cause(catalog: Catalog) -> None:
    look(catalog, 1, a_signal(1))
    fallen = msgspec.structs.replace(a_signal(2, subject=""), id="q", kind="quality_loss")
    early = msgspec.structs.replace(fallen, id="e", kind="quality_slice", onset_us=-9 * DAY_US)
    settled, changes = settle_signals(
        catalog, "m", ("quality_loss", "quality_slice"), [fallen, early], now_us=2 * DAY_US, owner="team shop"
    )
    catalog.write(changes)
    assert [(one.owner, one.cause) for one in settled.begun] == [
        ("team shop", "null_values of column x"),
        ("team shop", None),  # it began long before
    ]
    stopped = msgspec.structs.replace(a_signal(3, subject=""), id="f", kind="feed_stopped")
    settled, _ = settle_signals(catalog, "m", ("feed_stopped",), [stopped], now_us=3 * DAY_US)
    assert settled.begun[0].cause == "null_values of column x"  # no loss stops a feed
    look(catalog, 3, a_signal(1))
    strange = msgspec.structs.replace(a_signal(2, subject=""), id="u", kind="unlisted_labels")
    catalog.write(settle_signals(catalog, "m", ("unlisted_labels",), [strange], now_us=3 * DAY_US)[1])
    settled, _ = settle_signals(
        catalog, "m", ("constant",), [msgspec.structs.replace(stopped, kind="constant")], now_us=3 * DAY_US
    )
    assert settled.begun[0].cause == "null_values of column x"  # nor do labels stop a column
