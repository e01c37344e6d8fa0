"""Rules of alerts: one for each beginning, worsening and end; flapping, mutes and the budget lose nothing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab import store
from trimtab.core.alert_settings import AlertsSettings, FileReceiver
from trimtab.core.records import Signal
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.monitoring.alerts.alert_records import Message, alert_of, lines, title_of, wants
from trimtab.monitoring.alerts.alerts import AlertState, Plan, Rules, plan_alerts, read_signals, take_in
from trimtab.monitoring.alerts.mutes import Mute
from trimtab.monitoring.alerts.runbook import OTHERWISE, RUNBOOK, link, todo
from trimtab.monitoring.signals import JOURNAL, settle_signals, standing_signals
from trimtab.store import Append, Catalog
from trimtab.testing import builders

KINDS = ("null_values", "no_labels")


def a_signal(
    hour: float,
    subject: str = "column x",
    *,
    severity: Literal["info", "red"] = "red",
    model: str = "m",
    kind: str = "null_values",
    version: str = "v1",
) -> Signal:
    at_us = round(hour * HOUR_US)
    return builders.a_signal(
        at_us,
        id=f"{kind}/{model}/{subject}/{version}/{hour}",
        kind=kind,
        model=model,
        version=version,
        severity=severity,
        subject=subject,
    )


class Desk:
    """Looks at the signals of a catalogue, as a project does, without receivers."""

    def __init__(self, catalog: Catalog, **settings: Any) -> None:
        self.catalog = catalog
        self.settings = AlertsSettings(**{"flapping": "6h", **settings})
        self.receiver = FileReceiver(path="x", severity="info")
        self.state: AlertState | None = None
        self.mutes: list[Mute] = []
        self.plan = Plan(state=AlertState())

    def find(self, hour: float, *found: Signal, model: str = "m") -> None:
        """A monitor looks."""
        _, changes = settle_signals(self.catalog, model, KINDS, found, now_us=round(hour * HOUR_US))
        self.catalog.write(changes)

    def look(self, hour: float) -> list[str]:
        """What is told: kind of change and subject, those of a digest with "digest" before."""
        now_us = round(hour * HOUR_US)
        rules = Rules(
            settings=self.settings,
            wanted=lambda what, signal: wants(self.receiver, what, signal),
            muted=lambda signal: any(now_us < one.until_us and one.covers(signal) for one in self.mutes),
            stands={one.id for one in standing_signals(self.catalog)},
        )
        state, entries = read_signals(self.catalog, self.state)
        self.plan = plan_alerts(take_in(state, entries, rules.flapping_us), rules, now_us)
        self.state = self.plan.state
        told = [f"{one.what} {one.incident.signal.subject}" for one in self.plan.alerts]
        return told + [f"digest {one.what} {one.incident.signal.subject}" for one in self.plan.digest]

    def found(self, hour: float, *found: Signal, model: str = "m") -> list[str]:
        self.find(hour, *found, model=model)
        return self.look(hour)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with store.open(f"sqlite://{tmp_path}/catalog.db", "catalog") as opened:
        yield opened


@pytest.fixture
def desk(catalog: Catalog) -> Desk:
    made = Desk(catalog)
    assert made.look(0) == []
    return made


def test_a_beginning_and_an_end_are_told_once(desk: Desk) -> None:
    first = a_signal(1)
    assert desk.found(1, first) == ["begun column x"]
    assert desk.found(2, first) == []
    assert desk.found(10) == []
    assert desk.look(15.9) == []
    assert desk.look(16) == ["ended column x"]
    assert desk.look(17) == []
    assert desk.state == msgspec.structs.replace(AlertState(), cursor=2, pages=desk.state.pages)  # type: ignore[union-attr]


def test_what_gets_graver_is_told_again(desk: Desk) -> None:
    assert desk.found(1, a_signal(1, severity="info")) == ["begun column x"]
    assert desk.found(2, a_signal(2)) == ["graver column x"]
    assert desk.found(3, a_signal(3)) == []


def test_what_begins_in_one_look_is_one_page(desk: Desk) -> None:
    assert desk.found(1, a_signal(1), a_signal(1, "column y")) == ["begun column x", "begun column y"]
    assert len(desk.plan.state.pages) == 1


def test_a_signal_that_returns_soon_is_counted_and_not_told(desk: Desk) -> None:
    desk.found(1, a_signal(1))
    desk.found(2)
    assert desk.found(7, a_signal(7)) == []
    desk.found(8)
    assert desk.found(9, a_signal(9)) == []
    [incident] = desk.plan.state.incidents.values()
    assert incident.returned == 2
    desk.found(20)
    assert desk.look(26) == ["ended column x"]
    [told] = desk.plan.alerts
    assert told.incident.returned == 2


def test_a_signal_that_returns_late_is_told_again_behind_its_end(desk: Desk) -> None:
    desk.found(1, a_signal(1))
    desk.find(2)
    desk.find(9, a_signal(9))
    assert sorted(desk.look(9)) == ["begun column x", "ended column x"]


def test_a_graver_return_is_told(desk: Desk) -> None:
    desk.found(1, a_signal(1, severity="info"))
    desk.found(2)
    assert desk.found(3, a_signal(3)) == ["graver column x"]


def test_the_same_trouble_of_a_new_version_is_no_news(desk: Desk) -> None:
    desk.found(1, a_signal(1))
    assert desk.found(2, a_signal(2, version="v2")) == []
    assert desk.plan.state.incidents["m/null_values/column x"].signal.version == "v2"


def test_without_flapping_an_end_is_told_at_once(catalog: Catalog) -> None:
    desk = Desk(catalog, flapping="0s")
    desk.look(0)
    desk.found(1, a_signal(1))
    assert desk.found(2) == ["ended column x"]
    assert desk.found(3, a_signal(3)) == ["begun column x"]


def test_what_began_and_ended_between_two_looks_is_told_once(desk: Desk) -> None:
    desk.find(1, a_signal(1))
    desk.find(2)
    assert desk.look(30) == ["begun column x"]
    assert desk.plan.alerts[0].incident.signal.ended_at_us == 2 * HOUR_US
    assert desk.look(31) == []


def test_the_first_look_tells_what_stands_and_nothing_of_what_is_over(catalog: Catalog) -> None:
    desk = Desk(catalog)
    desk.find(1, a_signal(1), a_signal(1, "column y"))
    desk.find(2, a_signal(2))
    assert desk.look(100) == ["begun column x"]
    assert desk.look(101) == []


def test_a_monitor_that_never_ends_its_signals_is_told_of_once_and_again_when_it_finds_more(desk: Desk) -> None:
    def append(hour: float) -> None:
        body = msgspec.json.encode(a_signal(hour))
        desk.catalog.write([Append(JOURNAL, round(hour * HOUR_US), body)])

    append(1)
    assert desk.look(1) == ["begun column x"]
    append(2)
    assert desk.look(2) == []
    assert desk.look(9) == []
    assert desk.plan.state.incidents == {}
    append(200)
    assert desk.look(200) == ["begun column x"]


# --- mutes


def a_mute(what: str, until_hour: float) -> Mute:
    return Mute(what=what, until_us=round(until_hour * HOUR_US), why="w", by="b", at_us=0)


def test_what_is_muted_is_told_when_the_mute_is_over_if_it_stands_then(desk: Desk) -> None:
    desk.mutes = [a_mute("m/null_values", 10)]
    assert desk.found(1, a_signal(1), a_signal(1, kind="no_labels", subject="")) == ["begun "]
    assert desk.look(9.9) == []
    assert desk.look(10) == ["begun column x"]


def test_what_began_and_ended_while_muted_is_not_told(desk: Desk) -> None:
    desk.mutes = [a_mute("column x", 50)]
    desk.found(1, a_signal(1))
    desk.found(2)
    assert desk.look(20) == []
    assert desk.look(51) == []
    assert desk.plan.state.incidents == {}


def test_the_end_of_what_was_told_waits_for_the_mute(desk: Desk) -> None:
    desk.found(1, a_signal(1))
    desk.mutes = [a_mute("m", 50)]
    desk.found(2)
    assert desk.look(20) == []
    assert desk.look(50) == ["ended column x"]


@pytest.mark.parametrize(
    ("what", "covers"),
    [
        ("m", True),
        ("null_values", True),
        ("column x", True),
        ("*", True),
        ("m/null_values", True),
        ("*/null_values", True),
        ("m/*/column x", True),
        ("m/null_values/column x", True),
        ("m/null_values/column y", False),
        ("n", False),
        ("n/null_values", False),
        ("m/no_labels", False),
        ("column", False),
        ("", False),
    ],
)
def test_a_mute_names_a_model_a_kind_or_a_subject(what: str, covers: bool) -> None:
    assert a_mute(what, 1).covers(a_signal(1)) is covers


def test_a_mute_of_nothing_does_not_cover_signals_without_a_subject() -> None:
    assert not a_mute("", 1).covers(a_signal(1, ""))


# --- the budget


def test_beyond_the_budget_alerts_wait_for_one_digest_and_none_is_lost(catalog: Catalog) -> None:
    desk = Desk(catalog, pages_per_week=2)
    desk.look(0)
    columns = [a_signal(hour, f"column {hour}") for hour in range(1, 7)]
    told = [desk.found(hour, *columns[:hour]) for hour in range(1, 7)]
    assert told == [["begun column 1"], ["begun column 2"], [], [], [], []]
    assert desk.look(26.9) == []
    assert desk.look(27) == [f"digest begun column {hour}" for hour in range(3, 7)]
    assert desk.look(60) == []
    assert len(desk.plan.state.pages) == 2


def test_the_look_that_uses_up_the_budget_says_so(catalog: Catalog) -> None:
    desk = Desk(catalog, pages_per_week=2)
    desk.look(0)
    desk.found(1, a_signal(1, "a"))
    assert desk.plan.exhausted == []
    desk.found(2, a_signal(1, "a"), a_signal(2, "b"))
    assert desk.plan.exhausted == [("m", "red")]


def test_each_model_and_severity_has_a_budget_of_its_own(catalog: Catalog) -> None:
    desk = Desk(catalog, pages_per_week=1)
    desk.look(0)
    info = a_signal(1, "a", severity="info")
    assert desk.found(1, info) == ["begun a"]
    assert desk.found(2, info, a_signal(2, "b")) == ["begun b"]
    assert desk.found(3, a_signal(3, "c", model="n"), model="n") == ["begun c"]
    assert desk.found(4, info, a_signal(2, "b"), a_signal(4, "d")) == []


def test_a_week_later_there_are_pages_again(catalog: Catalog) -> None:
    desk = Desk(catalog, pages_per_week=1)
    desk.look(0)
    desk.found(1, a_signal(1, "a"))
    assert desk.found(7 * 24, a_signal(1, "a"), a_signal(168, "b")) == []
    assert desk.found(7 * 24 + 2, a_signal(1, "a"), a_signal(168, "b"), a_signal(170, "c")) == ["begun c"]


def test_with_a_budget_of_nothing_there_are_digests_alone(catalog: Catalog) -> None:
    desk = Desk(catalog, pages_per_week=0, digest="1d")
    desk.look(0)
    assert desk.found(1, a_signal(1)) == []
    assert desk.look(25) == ["digest begun column x"]


def test_what_ended_while_it_was_held_is_in_the_digest_and_not_told_again(catalog: Catalog) -> None:
    desk = Desk(catalog, pages_per_week=0)
    desk.look(0)
    desk.found(1, a_signal(1))
    desk.found(2)
    assert desk.look(25) == ["digest begun column x"]
    assert desk.plan.digest[0].incident.signal.ended_at_us == 2 * HOUR_US
    assert desk.look(60) == []


def test_what_was_held_as_info_does_not_wait_for_the_digest_once_it_is_red(catalog: Catalog) -> None:
    desk = Desk(catalog, pages_per_week=1)
    desk.look(0)
    first = a_signal(1, "a", severity="info")
    desk.found(1, first)
    assert desk.found(2, first, a_signal(2, "b", severity="info")) == []
    assert desk.found(3, first, a_signal(3, "b")) == ["begun b"]
    assert desk.look(60) == []


def test_what_becomes_red_beyond_the_budget_of_red_keeps_its_place_in_the_digest(catalog: Catalog) -> None:
    desk = Desk(catalog, pages_per_week=0)
    desk.look(0)
    desk.found(1, a_signal(1, "a", severity="info"))
    desk.found(20, a_signal(20, "a"))
    assert desk.look(25) == ["digest begun a"]


def test_the_end_of_what_another_one_has_followed_waits_for_the_mute(desk: Desk) -> None:
    desk.found(1, a_signal(1))
    desk.mutes = [a_mute("m", 20)]
    desk.find(2)
    desk.find(9, a_signal(9))
    assert desk.look(9) == []
    assert desk.look(20) == ["ended column x", "begun column x"]


def test_what_nobody_wants_to_hear_costs_no_page(catalog: Catalog) -> None:
    desk = Desk(catalog, pages_per_week=1)
    desk.receiver = FileReceiver(path="x")
    desk.look(0)
    desk.found(1, a_signal(1, "a", severity="info"))
    assert desk.plan.state.pages == []
    assert desk.found(2, a_signal(1, "a", severity="info"), a_signal(2, "b")) == ["begun b"]


LOOKS = st.lists(st.tuples(st.integers(1, 30), st.sets(st.sampled_from("abc"))), min_size=1, max_size=12)


def intervals(looks: list[tuple[int, set[str]]], subject: str) -> list[list[float]]:
    """When a subject stood, naively: begin and end, a shorter pause than six hours being none."""
    found: list[list[float]] = []
    hour, stood = 0.0, False
    for pause, standing in looks:
        hour += pause
        if subject in standing and not stood:
            if found and hour - found[-1][1] < 6:
                found[-1][1] = float("inf")
            else:
                found.append([hour, float("inf")])
        if subject not in standing and stood:
            found[-1][1] = hour
        stood = subject in standing
    return found


def played(desk: Desk, looks: list[tuple[int, set[str]]]) -> list[str]:
    """All that was told, also in the three days behind the last find."""
    desk.look(0)
    hour, told = 0.0, []
    began: dict[str, Signal] = {}
    for pause, standing in looks:
        hour += pause
        began = {one: began.get(one) or a_signal(hour, one) for one in sorted(standing)}
        told += desk.found(hour, *began.values())
    for later in range(1, 73, 4):
        told += desk.look(hour + later)
    return told


@settings(max_examples=12)
@given(LOOKS)
def test_whatever_comes_each_interval_has_one_beginning_and_one_end(looks: list[tuple[int, set[str]]]) -> None:
    with TemporaryDirectory() as folder, store.open(f"sqlite://{folder}/catalog.db", "catalog") as catalog:
        told = played(Desk(catalog, pages_per_week=1_000), looks)
    for subject in "abc":
        wanted = []
        for _, end in intervals(looks, subject):
            wanted += [f"begun {subject}"] + ([f"ended {subject}"] if end < float("inf") else [])
        assert [one for one in told if one.endswith(subject)] == wanted


@settings(max_examples=12)
@given(LOOKS)
def test_whatever_the_budget_each_beginning_is_told_once(looks: list[tuple[int, set[str]]]) -> None:
    with TemporaryDirectory() as folder, store.open(f"sqlite://{folder}/catalog.db", "catalog") as catalog:
        desk = Desk(catalog, pages_per_week=1)
        told = played(desk, looks)
    heard = [one.removeprefix("digest ") for one in told]
    for subject in "abc":
        assert heard.count(f"begun {subject}") == len(intervals(looks, subject)), told
    pages = [one.at_us for one in desk.plan.state.pages]
    assert all(later - earlier >= 7 * DAY_US for earlier, later in pairwise(pages))


# --- what is told


def test_an_alert_says_who_what_since_when_why_and_what_to_do() -> None:
    signal = msgspec.structs.replace(a_signal(1, kind="no_labels"), cause="source sales is silent", ended_at_us=None)
    alert = alert_of(signal, "begun", version="m@3", owner="team a", returned=2)
    assert title_of([alert], "p") == "RED m@3: no_labels, column x"
    message = Message(key="k", kind="alerts", project="p", at="", title="", notes=["a note"], alerts=[alert])
    shown = lines(message)
    assert shown == [
        "a note",
        "",
        "RED m@3: Half of x is null.",
        "  what: no_labels, column x, since 1970-01-01T01:00",
        "  flapping: it ended and came back 2 times",
        "  owner: team a",
        "  cause: source sales is silent",
        "  evidence: share 0.5",
        f"  to do: {RUNBOOK['no_labels']} (docs/alerts.md#no_labels)",
        "  look: trimtab status; trimtab quality show m",
    ]


def test_the_owner_of_the_signal_goes_before_that_of_the_deployment() -> None:
    signal = msgspec.structs.replace(a_signal(1), owner="team weather")
    assert alert_of(signal, "begun", version="", owner="team a", returned=0).owner == "team weather"


def test_alerts_of_the_same_signal_differ_by_what_they_tell_and_by_when_it_was_raised() -> None:
    first, again = a_signal(1), msgspec.structs.replace(a_signal(1), raised_at_us=DAY_US)
    ids = {
        alert_of(one, what, version="", owner=None, returned=0).id
        for one in (first, again)
        for what in ("begun", "ended")
    }  # type: ignore[arg-type]
    assert len(ids) == 4


def test_a_kind_without_a_line_of_its_own_has_the_general_one() -> None:
    assert (todo("null_values"), link("null_values")) == (OTHERWISE, "docs/alerts.md#what-to-do")
