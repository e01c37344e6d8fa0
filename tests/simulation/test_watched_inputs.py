"""Inputs are watched in a replay as in a service: the same summaries, the same signals, and red rows are left out."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import worlds
from worlds import day_us

import trimtab as tt
from trimtab import store
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Column, Columns
from trimtab.core.errors import Misuse
from trimtab.core.records import Signal
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.events.columns.history import History
from trimtab.monitoring.inputs.monitor import InputMonitor
from trimtab.monitoring.inputs.red_windows import red_windows
from trimtab.monitoring.profiles.profile_store import Profiles
from trimtab.registry import Registry
from trimtab.simulation.replay import Recording, Replay, ReplaySettings
from trimtab.simulation.results import ReplayResult
from trimtab.simulation.scenarios.scenario import Scenario

DAYS, FROM, UNTIL = 12, 3.0, 5.0  # the fault lasts from day 3 to day 5


def faulty(tables: dict[str, Columns]) -> dict[str, Columns]:
    """The visits without `x` on two days."""
    visits = tables["visit"]
    at_us, x = visits["at"].values, visits["x"]
    off = (at_us >= day_us(FROM)) & (at_us < day_us(UNTIL))
    given = [None if gone else value for gone, value in zip(off.tolist(), x.to_list(), strict=True)]
    return tables | {"visit": visits.replace({"x": Columns.of({"x": ("float", given)})["x"]})}


def replayed(
    folder: Path, line: Scenario, *, look_every_us: int, tables: dict[str, Columns] | None = None, days: int = DAYS
) -> ReplayResult:
    with Replay(
        [msgspec.structs.replace(line, main=True)],
        Recording(tables or faulty(worlds.make(4, days=DAYS, per_day=400)), worlds.SOURCES),
        folder,
        ReplaySettings(start_us=day_us(0), until_us=day_us(days), seed=1, look_every_us=look_every_us),
    ) as running:
        return running.run()


@pytest.fixture(scope="module")
def hourly(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReplayResult]:
    folder = tmp_path_factory.mktemp("hourly")
    line = Scenario(
        name="weekly", deployment=worlds.deployed(retrain=tt.every("8d"), gate=tt.beats_champion(margin=-1.0))
    )
    return folder, replayed(folder, line, look_every_us=HOUR_US)


def test_a_column_of_nulls_rings_within_hours_and_ends(hourly: tuple[Path, ReplayResult]) -> None:
    folder, result = hourly
    found = [s for s in result.lines["weekly"].input_signals if s.severity == "red"]
    assert [(s.kind, s.subject) for s in found] == [("nulls", "column x")]
    assert day_us(FROM) < found[0].raised_at_us <= day_us(FROM) + 6 * HOUR_US
    with store.open(f"sqlite://{folder}/catalog.db", "catalog") as catalog:
        windows = red_windows(catalog, "buyer")
    assert len(windows) == 1
    assert windows[0].end_us is not None
    assert day_us(FROM) - DAY_US <= windows[0].start_us <= day_us(FROM)  # back to where it cannot have been yet
    assert day_us(UNTIL) <= windows[0].end_us <= day_us(UNTIL) + 6 * HOUR_US


def test_rows_of_the_red_window_are_in_no_fit(hourly: tuple[Path, ReplayResult], tmp_path: Path) -> None:
    folder, _ = hourly
    line = Scenario(name="weekly", deployment=worlds.deployed())
    newest = worlds.manifests(folder, line)[-1]
    assert newest.cut_us > day_us(UNTIL)
    assert newest.left_out
    assert newest.left_out[0].why == "nulls of column x"
    asked = worlds.make(4, days=DAYS, per_day=400)["visit"]["at"].values
    inside = int(((asked >= newest.left_out[0].start_us) & (asked < (newest.left_out[0].end_us or 0))).sum())
    assert 0.9 * 2 * 400 < newest.left_out[0].rows <= inside  # those whose labels had their time
    blind = Scenario(
        name="weekly", deployment=worlds.deployed(retrain=tt.every("8d"), gate=tt.beats_champion(margin=-1.0))
    )
    result = replayed(tmp_path, blind, look_every_us=0)
    assert result.lines["weekly"].input_signals == []
    assert not any(manifest.left_out for manifest in worlds.manifests(tmp_path, line))


@pytest.mark.parametrize("kind", ["labels_missing", "one_class"])
def test_days_whose_labels_came_late_are_learnt_from(kind: str, tmp_path: Path) -> None:
    tables = worlds.make(4, days=DAYS, per_day=200)
    closed_us, line = tables["sales"]["closed_at"].values, Scenario(name="weekly", deployment=worlds.deployed())
    stops = (closed_us >= day_us(0)) & (closed_us < day_us(4))
    if kind == "one_class":  # only the labels of what was not sold stop
        stops &= ~tables["sales"]["bought"].values
    known_us = np.where(stops, day_us(6), closed_us)
    late = tables | {"sales": Columns({**tables["sales"].by_name, "_known_at": Column("time", known_us)})}
    kinds, lost = [], []
    for days in (6, DAYS):
        folder = tmp_path / str(days)
        result = replayed(folder, line, look_every_us=DAY_US, tables=late, days=days)
        kinds.append([one.kind for one in result.lines["weekly"].input_signals])
        with store.open(f"sqlite://{folder}/catalog.db", "catalog") as catalog:
            lost.append({one.kind for one in red_windows(catalog, "buyer")} & {"labels_missing", "one_class"})
    assert kind in kinds[0]
    assert kind in lost[0]
    assert lost[1] == set()


@pytest.mark.slow
def test_the_signals_are_those_of_a_monitor_that_reads_the_log(
    hourly: tuple[Path, ReplayResult], tmp_path: Path
) -> None:
    folder, result = hourly
    predictions = worlds.predictions(folder)
    moves = _promotions(result)
    clock = VirtualClock(day_us(0))
    with (
        store.open(f"sqlite://{folder}/catalog.db", "catalog") as old,
        store.open(f"sqlite://{tmp_path}/catalog.db", "catalog", clock=clock) as catalog,
        store.open(f"file://{folder}/blob", "blob") as blob,
        store.open(f"sqlite://{folder}/log/events", "log") as log,
    ):
        history = History(log, worlds.SOURCES)
        history.refresh()
        registry = _Champion(Registry(old, blob, clock=clock, actor="test"), moves, clock)
        monitor = InputMonitor(
            catalog,
            worlds.deployed().model,
            profiles=Profiles(old, blob, clock),
            registry=registry,  # type: ignore[arg-type]
            frame_of=history.frame,
            now_us=day_us(0),
        )
        begun: list[Signal] = []
        for at_us in range(day_us(0), day_us(DAYS) + 1, HOUR_US):
            monitor.add([p for p in predictions if at_us - HOUR_US <= p.made_at_us < at_us])
            begun += monitor.look(at_us).begun
            clock.advance_to(at_us)
            if at_us % DAY_US == 0:
                monitor.follow()
    mine = [(s.id, s.kind, s.onset_us, s.evidence) for s in begun if s.kind not in _OF_LABELS]
    theirs = [
        (s.id, s.kind, s.onset_us, s.evidence) for s in result.lines["weekly"].input_signals if s.kind not in _OF_LABELS
    ]
    assert mine == theirs
    assert mine


_OF_LABELS = frozenset(("labels_missing", "one_class", "label_shift"))  # of closed days, which are not given here


def _promotions(result: ReplayResult) -> list[tuple[int, str]]:
    return [(d.at_us, d.version or "") for d in result.lines["weekly"].decisions if d.act == "promote"]


class _Champion:
    """A registry as it stood at the clock's time."""

    def __init__(self, registry: Registry, moves: list[tuple[int, str]], clock: VirtualClock) -> None:
        self._registry, self._moves, self._clock = registry, moves, clock

    def alias(self, model: str, alias: str) -> object:
        stood = [version for at_us, version in self._moves if at_us <= self._clock.now_us()]
        return self._registry.get(stood[-1]) if stood else None


def test_looks_are_whole_hours_apart(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="is no whole number of hours"):
        replayed(tmp_path, worlds.never(), look_every_us=HOUR_US // 2)


@pytest.mark.slow
def test_a_line_finds_the_same_alone_and_among_others(hourly: tuple[Path, ReplayResult], tmp_path: Path) -> None:
    _, alone = hourly
    gate = tt.beats_champion(margin=-1.0)
    both = [
        Scenario(name="weekly", deployment=worlds.deployed(retrain=tt.every("8d"), gate=gate)),
        Scenario(name="often", deployment=worlds.deployed(retrain=tt.every("3d"), gate=gate)),
        worlds.never(),
    ]
    with Replay(
        both,
        Recording(faulty(worlds.make(4, days=DAYS, per_day=400)), worlds.SOURCES),
        tmp_path,
        ReplaySettings(start_us=day_us(0), until_us=day_us(DAYS), seed=1, look_every_us=HOUR_US),
    ) as running:
        result = running.run()
    assert result.lines["weekly"].input_signals == alone.lines["weekly"].input_signals
    for line in result.lines.values():
        assert ("nulls", "column x") in [(s.kind, s.subject) for s in line.input_signals]
