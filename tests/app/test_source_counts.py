"""The counts of events in a status: those of the history, and never by reading a whole log."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
import shop
from test_retention import SITES, opened, row, write

from trimtab.app.features import source_counts
from trimtab.app.features.source_counts import KIND, read_counts, store_counts
from trimtab.app.inspect.status_text import SourceStatus
from trimtab.app.project import Project
from trimtab.core.time import DAY_US, HOUR_US, format_time
from trimtab.events.columns.history import History
from trimtab.events.records import ERASED, Event, decode, encode
from trimtab.store.opening import open as open_store

PLAIN = 'plain = tt.source("plain", time="at", columns={"x": float})\nvisit = tt'
DEFINITIONS = SITES.replace("visit = tt", PLAIN, 1)
SMALL_MEMORY = "[features]\nmemory_bytes = 268_435_456\n"  # takes 134,217 events


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every log of more than six records as too large for a status to read it."""
    monkeypatch.setattr(source_counts, "_FEW", 6)
    monkeypatch.setattr(source_counts, "_BATCH", 4)


def sources(project: Project) -> dict[str, SourceStatus]:
    return {one.name: one for one in project.status().sources}


def reading(key: str, at_us: int, level: float | None, op: str = "upsert") -> bytes:
    values = (key, None if op == "delete" else "north", level, at_us)
    return encode(Event("readings", key, at_us, 0, op, False, values))  # type: ignore[arg-type]  # a literal


def readings(first: int, count: int) -> list[bytes]:
    return [reading(f"r{n}", shop.NOW_US - DAY_US + n, 1.0) for n in range(first, first + count)]


def plain(key: str, at_us: int, x: float) -> bytes:
    return encode(Event("plain", key, at_us, 0, "upsert", False, (x, at_us)))


def some(rng: random.Random) -> list[bytes]:
    """Events of few ids and times, so that many are repeated, corrected, deleted or in conflict."""
    found = []
    for _ in range(rng.randrange(1, 8)):
        key, at_us = rng.choice("abc"), shop.NOW_US - DAY_US + rng.randrange(3)
        if rng.random() < 0.6:
            found.append(reading(key, at_us, rng.choice([1.0, 2.0]), rng.choice(["upsert", "upsert", "delete"])))
        else:
            found.append(plain(key, at_us, rng.choice([1.0, 2.0])))
    return found


def of_history(project: Project) -> dict[str, Any]:
    history = History(project.state.events, project.sources, tables=lambda: project.state.moved(project.sources))
    history.refresh()
    frames = {source.name: history.frame(source.name) for source in project.sources}
    return {
        name: (
            frame.rows,
            format_time(int(frame.event_at_us.max())) if frame.rows else None,
            history.duplicates[name],
            history.id_conflicts[name],
        )
        for name, frame in frames.items()
    }


def shown(project: Project) -> dict[str, Any]:
    return {n: (one.events, one.newest, one.duplicates, one.id_conflicts) for n, one in sources(project).items()}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.usefixtures("large")
def test_counts_are_those_of_the_history_or_of_all_records(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    write(tmp_path, definitions=DEFINITIONS)
    with opened(tmp_path) as project:
        project.layouts.keep()
    with open_store(f"sqlite://{tmp_path / '.trimtab' / 'log' / 'events'}", "log") as other:
        appended: Counter[str] = Counter()
        newest: dict[str, int] = {}
        for _ in range(6):
            with opened(tmp_path) as project:
                for log in (project.state.events, other):
                    payloads = some(rng)
                    log.append(payloads)
                    for event in map(decode, payloads):
                        appended[event.source] += 1
                        newest[event.source] = max(newest.get(event.source, 0), event.event_at_us)
                if rng.random() < 0.3:
                    project.materialise()
                if rng.random() < 0.5:
                    store_counts(project)
                    assert read_counts(project).behind == 0
            with opened(tmp_path) as project:
                while (counts := read_counts(project)).behind:
                    assert counts.sources != {}
                assert counts == read_counts(project)
                for name, one in counts.sources.items():
                    assert one.events + one.duplicates + one.id_conflicts == appended[name]
                assert "_history" not in project.__dict__ or sum(appended.values()) <= 6
                found, expected = shown(project), of_history(project)
                assert found["readings"] == expected["readings"]
                # an event that is found to be in conflict may stay the newest
                assert (found["plain"][0], *found["plain"][2:]) == (expected["plain"][0], *expected["plain"][2:])
                assert (found["plain"][1] or "") >= (expected["plain"][1] or "")
                assert all(one.exact for one in sources(project).values())


@pytest.mark.usefixtures("large")
def test_a_status_tells_new_events_from_repeated_ones(trained: Path) -> None:
    with shop.opened(trained) as project:
        project.tick()
        expected = shown(project)
    later_us = shop.NOW_US + HOUR_US
    with shop.opened(trained, later_us) as project:
        assert shown(project) == expected == of_history(project)
        sale = {"visit_id": "new", "site": "north", "bought": True, "closed_at": later_us}
        project.push("sales", [sale, sale])
        found = sources(project)["sales"]
        assert (found.events, found.exact) == (expected["sales"][0] + 1, True)
        assert found.duplicates == expected["sales"][2] + 1
        assert "_history" not in project.__dict__
        assert shown(project) == of_history(project)


def test_a_small_project_counts_repetitions_at_once(tmp_path: Path) -> None:
    (tmp_path / "more.csv").write_text("id,site,level,read_at\na,north,1.5,2024-04-01\nb,south,2.5,2024-04-02\n")
    with opened(write(tmp_path)) as project:
        for _ in range(2):
            project.ingest("readings", tmp_path / "more.csv")
        found = sources(project)["readings"]
        assert (found.events, found.duplicates, found.exact) == (2, 2, True)
        assert project.state.catalog.find(KIND) == []


@pytest.mark.usefixtures("large")
def test_an_ingest_counts_what_it_loads(tmp_path: Path) -> None:
    lines = [f"r{n},north,1.5,2024-04-01" for n in range(9)]
    (tmp_path / "more.csv").write_text("\n".join(["id,site,level,read_at", *lines]) + "\n")
    with opened(write(tmp_path)) as project:
        for _ in range(2):
            project.ingest("readings", tmp_path / "more.csv")
    with opened(tmp_path) as project:
        found = sources(project)["readings"]
        assert (found.events, found.duplicates, found.exact, found.uncounted) == (9, 9, True, 0)
        assert "_history" not in project.__dict__


@pytest.mark.usefixtures("large")
def test_a_status_counts_a_part_of_a_large_log_and_says_so(tmp_path: Path) -> None:
    with opened(write(tmp_path)) as project:
        project.layouts.keep()
        project.state.events.append(readings(0, 20))
    for counted in (6, 12, 18):
        with opened(tmp_path) as project:
            status = project.status()
            (found, _) = status.sources
            assert (found.events, found.uncounted, found.exact) == (counted, 20 - counted, False)
            assert f"readings  at least {counted} records" in "\n".join(status.lines())
    with opened(tmp_path) as project:
        assert project.status().sources[0].uncounted == 0
        assert "readings  20 events" in "\n".join(project.status().lines())


@pytest.mark.usefixtures("large")
def test_no_source_is_called_empty_before_all_records_are_counted(tmp_path: Path) -> None:
    empty = "readings: no event was ever loaded or pushed"
    with opened(write(tmp_path, definitions=DEFINITIONS)) as project:
        project.layouts.keep()
        project.state.events.append([plain(f"p{n}", shop.NOW_US - DAY_US, 1.0) for n in range(9)])
        assert empty not in project.status().red
        assert empty in project.status().red


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("stored", [False, True])
def test_records_that_were_truncated_are_counted(tmp_path: Path, stored: bool) -> None:
    with opened(write(tmp_path, definitions=DEFINITIONS)) as project:
        project.layouts.keep()
        project.state.events.append([*readings(0, 9), plain("p", shop.NOW_US - HOUR_US, 1.0)])
        if stored:
            store_counts(project)
        project.state.events.append(readings(9, 5))
        project.retain()
        assert project.state.events.read(project.state.events.partition, 0) == []
        if not stored:  # as in a project that was truncated before its events were counted
            source_counts.discard_counts(project)
    with opened(tmp_path) as project:
        if not stored:
            assert sources(project)["readings"].uncounted == 15  # a status does not read tables of record
            store_counts(project)
        found = shown(project)
        assert found["readings"] == (14, format_time(shop.NOW_US - DAY_US + 13), 0, 0)
        assert found["plain"] == (1, format_time(shop.NOW_US - HOUR_US), 0, 0)
        assert {name: found[name] for name in ("readings", "plain")}.items() <= of_history(project).items()


@pytest.mark.usefixtures("large")
def test_removed_and_erased_events_are_counted_no_more(tmp_path: Path) -> None:
    with opened(write(tmp_path, '[retention]\nevents = "30d"\n')) as project:
        days = [90, 80, 70, 60, 50, 8, 7, 6, 5, 4]
        rows = [row(f"r{n}", shop.NOW_US - n * DAY_US, 1.0, f"s{n % 2}") for n in days]
        project.ingestor.push("readings", rows, history=True)
        project.history.refresh()
        store_counts(project)
        assert project.retain().expired == {"readings": 3}  # of both sites, one is kept
        after = shown(project)
    with opened(tmp_path) as project:
        assert shown(project) == after == of_history(project)
        assert after["readings"][0] == 7
        project.forget("site", "s0", why="asked")
    with opened(tmp_path) as project:
        assert shown(project) == of_history(project)
        assert shown(project)["readings"][0] < 7


@pytest.mark.usefixtures("large")
def test_counts_of_a_newer_log_are_not_used_with_an_older_one(tmp_path: Path) -> None:
    with opened(write(tmp_path)) as project:
        project.layouts.keep()
        project.state.events.append(readings(0, 9))
        store_counts(project)
        stored, revision = source_counts._stored(project)
        beyond = msgspec.structs.replace(stored, positions=dict.fromkeys(stored.positions, 99))
        source_counts._store(project, stored, revision, beyond)
        store_counts(project)
        assert read_counts(project) == stored


@pytest.mark.usefixtures("large")
def test_counts_that_were_read_before_others_were_discarded_are_not_stored(tmp_path: Path) -> None:
    with opened(write(tmp_path)) as project:
        project.layouts.keep()
        project.state.events.append(readings(0, 9))
        store_counts(project)
        stored, revision = source_counts._stored(project)
        source_counts.discard_counts(project)
        source_counts._store(project, source_counts.SourceCounts(), revision, stored)
        assert project.state.catalog.find(KIND) == []


@pytest.mark.usefixtures("large")
def test_a_source_that_is_declared_again_has_its_events(tmp_path: Path) -> None:
    with opened(write(tmp_path, definitions=DEFINITIONS)) as project:
        project.layouts.keep()
        project.state.events.append([*readings(0, 5), *(plain(f"p{n}", shop.NOW_US - DAY_US, 1.0) for n in range(4))])
    with opened(write(tmp_path)) as project:
        store_counts(project)
        assert [one.name for one in project.status().sources] == ["readings", "visit"]
    with opened(write(tmp_path, definitions=DEFINITIONS)) as project:
        store_counts(project)
        assert sources(project)["plain"].events == 4


@pytest.mark.slow
def test_beyond_memory_no_history_is_read(tmp_path: Path) -> None:
    with opened(write(tmp_path, SMALL_MEMORY)) as project:
        project.layouts.keep()
        project.state.events.append(readings(0, 140_000))
        assert not project.in_memory()
        store_counts(project)
        project.state.events.append(readings(0, 10))
    with opened(tmp_path) as project:
        found = sources(project)["readings"]
        assert (found.events, found.duplicates, found.exact, found.uncounted) == (140_000, 10, True, 0)
        assert found.newest == format_time(shop.NOW_US - DAY_US + 139_999)
        assert "_history" not in project.__dict__
        assert "_asked_history" not in project.__dict__


@pytest.mark.usefixtures("large")
def test_a_record_that_was_erased_counts_for_no_source(tmp_path: Path) -> None:
    with opened(write(tmp_path)) as project:
        project.layouts.keep()
        log = project.state.events
        log.append(readings(0, 9))
        log.erase(log.partition, {3: encode(Event(ERASED, "", 0, 0, "delete", False, ("readings",)))})
        store_counts(project)
        assert read_counts(project).sources.keys() == {"readings"}
        assert read_counts(project).of("readings").events == 8
