"""The main job's project on its real data: what is loaded, features by brute force, both paths, the loop."""

from __future__ import annotations

import gc
import resource
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from nycflights import Raw

from trimtab import store
from trimtab.app.state.definitions import Definitions, load_definitions
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.time import DAY_US, parse_time_us
from trimtab.events import EventFrame, History, Quarantine, read_file
from trimtab.features.frames import REASONS
from trimtab.features.offline.evaluation import evaluate
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.simulation.feed import Feed
from trimtab.simulation.replay import Recording, Replay, ReplaySettings
from trimtab.simulation.results import ReplayResult
from trimtab.simulation.scenarios.scenario import Scenario
from trimtab.steering.causes import Triggers

pytestmark = pytest.mark.slow
FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"
START_US, YEAR_US = parse_time_us("2013-03-01T05:00:00Z"), parse_time_us("2014-01-01T05:00:00Z")
TEN_DAYS_US = parse_time_us("2013-03-10T05:00:00Z")


@pytest.fixture(scope="module")
def project() -> Definitions:
    return load_definitions(FLIGHTS / "project.py")


@pytest.fixture(scope="module")
def raw(package: Path) -> Raw:
    return Raw(package)


@pytest.fixture(scope="module")
def tables(project: Definitions, files: dict[str, Path]) -> dict[str, Columns]:
    found = {name: read_file(files[name], source) for name, source in project.sources.items()}
    assert all(not one.bad for one in found.values())
    return {name: one.columns for name, one in found.items()}


def lines(project: Definitions) -> list[Scenario]:
    deployment = project.deployments["late_flight"]
    never = msgspec.structs.replace(deployment, retrain=Triggers())
    return [Scenario(name="policy", deployment=deployment, main=True), Scenario(name="never", deployment=never)]


def replayed(
    project: Definitions, tables: dict[str, Columns], folder: Path, *, until_us: int, seed: int, sampled_rows: int
) -> ReplayResult:
    with Replay(
        lines(project),
        Recording(tables, list(project.sources.values())),
        folder,
        ReplaySettings(start_us=START_US, until_us=until_us, seed=seed, sampled_rows=sampled_rows),
    ) as replay:
        return replay.run()


@pytest.fixture(scope="module")
def ten_days(
    project: Definitions, tables: dict[str, Columns], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ReplayResult]:
    """March 1 to 10 after two months of history, two lines, 200 questions read through LMDB."""
    folder = tmp_path_factory.mktemp("ten_days")
    return folder, replayed(project, tables, folder, until_us=TEN_DAYS_US, seed=1, sampled_rows=200)


@pytest.fixture(scope="module")
def frames(
    project: Definitions, tables: dict[str, Columns], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, EventFrame]:
    """The events of the year as a replay enters them, each at its moment."""
    folder = tmp_path_factory.mktemp("year")
    names = ("weather", "landings", "planes")
    clock = VirtualClock(START_US)
    logs = {name: store.open(f"sqlite://{folder}/events?mode=relaxed", "log", clock=clock) for name in names}
    refused = store.open(f"sqlite://{folder}/quarantine?mode=relaxed", "log", clock=clock)
    sources = [project.sources[name] for name in names]
    try:
        feed = Feed({n: tables[n] for n in names}, sources, [], logs, clock=clock, quarantine=Quarantine(refused))
        feed.load_history(START_US)
        feed.advance(YEAR_US + DAY_US)
        history = History(logs["weather"], sources)
        history.refresh()
        return {name: history.frame(name) for name in names}
    finally:
        for log in (*logs.values(), refused):
            log.close()


# --- what is loaded


def test_the_project_file_is_short_and_declares_what_the_demo_uses(project: Definitions) -> None:
    assert len((FLIGHTS / "project.py").read_text().splitlines()) <= 40
    assert set(project.sources) == {"flight", "landings", "weather", "planes"}
    assert set(project.deployments) == {"late_flight", "late_flight_online"}
    assert set(project.models) == {"late_flight", "late_flight_plain", "late_flight_online"}


def test_every_row_of_the_package_is_loaded_once(tables: dict[str, Columns], raw: Raw) -> None:
    rows = {name: table.rows for name, table in tables.items()}
    assert rows == {"flight": 336_776, "landings": 327_346, "weather": 26_115, "planes": 3_322}
    for name, key in (("flight", "flight_id"), ("landings", "flight_id"), ("planes", "tailnum")):
        assert len(set(tables[name][key].to_list())) == rows[name]
    assert sorted(tables["flight"]["flight_id"].to_list()) == sorted(f.id for f in raw.flights)


def test_every_departure_and_landing_is_where_the_standard_library_puts_it(
    tables: dict[str, Columns], raw: Raw
) -> None:
    wanted = {f.id: f for f in raw.flights}
    flights, landings = tables["flight"], tables["landings"]
    times = zip(flights["flight_id"].to_list(), flights["scheduled_at"].to_list(), strict=True)
    assert all(wanted[key].scheduled == at for key, at in times)
    landed = zip(landings["flight_id"].to_list(), landings["landed_at"].to_list(), strict=True)
    assert all(wanted[key].landed == at for key, at in landed)
    assert raw.without_zone == 7_537
    assert int((~landings["landed_at"].present()).sum()) == 7_537


def test_landings_without_a_time_are_quarantined_and_counted(ten_days: tuple[Path, ReplayResult]) -> None:
    folder, result = ten_days
    assert result.quarantined == 7_537
    log = store.open(f"sqlite://{folder}/log/quarantine", "log")
    try:
        refused = Quarantine(log).read()
    finally:
        log.close()
    assert Counter((row.source, row.field) for row in refused) == {("landings", "landed_at"): 7_537}


# --- features


def test_features_are_those_of_a_brute_force_over_the_csv_files(
    project: Definitions, tables: dict[str, Columns], raw: Raw, frames: dict[str, EventFrame]
) -> None:
    """All features of 150 flights from March to December, values and reasons, to the bit."""
    model = project.models["late_flight"]
    asked = tables["flight"]["scheduled_at"].values
    possible = np.flatnonzero((asked >= START_US) & (asked < YEAR_US))
    rows = np.sort(np.random.default_rng(2013).choice(possible, 150, replace=False))
    requests = tables["flight"].take(rows)
    frame = evaluate(model.features, requests, asked[rows], frames)
    by_id = {f.id: f for f in raw.flights}
    flights = [by_id[key] for key in requests["flight_id"].to_list()]
    wrong, reasons = [], Counter[str | None]()
    for name in model.features.names:
        codes = frame.reasons.get(name)
        for place, (flight, column) in enumerate(zip(flights, frame.values[name].to_list(), strict=True)):
            value, reason = raw.answer(flight, name)
            found = None if codes is None else REASONS[codes[place]]
            reasons[reason] += 1
            if (type(column), column, found) != (type(value), value, reason):
                wrong.append((flight.id, name, column, found, value, reason))
    assert wrong == []
    assert reasons.total() == 150 * 29
    assert {"found", "no_entity", "null", "expired", None} <= reasons.keys()
    assert sum(flight.scheduled in raw.times["carrier", flight.carrier] for flight in flights) > 5  # the boundary


def test_weather_is_not_seen_before_its_hour_of_delay_is_over(
    project: Definitions, tables: dict[str, Columns], raw: Raw, frames: dict[str, EventFrame]
) -> None:
    """Weather stamped 12:00 is known from 13:00 on, that moment included."""
    features = project.models["late_flight"].features
    noon_us = parse_time_us("2013-07-01T12:00:00Z")
    moments = np.array([noon_us + 3_600_000_000 - 1, noon_us + 3_600_000_000])
    one = tables["flight"].take(slice(200_000, 200_001))
    frame = evaluate(features, Columns.concat([one, one]), moments, frames)
    by_time = {at: float(row["temp"]) for at, row in raw.weather[one["origin"].to_list()[0]]}
    assert frame.values["sky.temp"].to_list() == [by_time[noon_us - 3_600_000_000], by_time[noon_us]]


def test_online_reads_are_the_offline_values(
    project: Definitions, tables: dict[str, Columns], ten_days: tuple[Path, ReplayResult]
) -> None:
    """The next 200 flights, asked at the end of a replay from the LMDB that it left behind and from its log."""
    folder, _ = ten_days
    features = project.models["late_flight"].features
    log = store.open(f"sqlite://{folder}/log/events", "log")
    try:
        history = History(log, [project.sources[n] for n in ("weather", "landings", "planes")])
        history.refresh()
    finally:
        log.close()
    first = int(np.searchsorted(tables["flight"]["scheduled_at"].values, TEN_DAYS_US))
    requests = tables["flight"].take(slice(first, first + 200))
    with store.open(f"lmdb://{folder}/online", "kv") as kv:
        online = RequestPlan(features, kv).read(requests.to_rows(), TEN_DAYS_US)
    assert online.at_us == TEN_DAYS_US
    assert dict(online.positions) == dict(history.positions)
    frames = {name: history.frame(name) for name in ("weather", "landings", "planes")}
    frame = evaluate(features, requests, np.full(200, TEN_DAYS_US), frames)
    offline = [frame.values[name].to_list() for name in features.names]
    assert [list(row) for row in zip(*offline, strict=True)] == online.values
    for place, name in enumerate(features.names):
        if name in frame.reasons:
            assert frame.reasons[name].tolist() == [row[place] for row in online.reasons], name


# --- the loop


def test_ten_days_are_replayed_by_two_lines_without_skew(
    tables: dict[str, Columns], ten_days: tuple[Path, ReplayResult]
) -> None:
    _, result = ten_days
    assert (result.checked_rows, result.mismatches, result.first_mismatch) == (200, 0, "")
    assert result.checked_values == 200 * 29
    asked = tables["flight"]["scheduled_at"].values
    count = int(((asked >= START_US) & (asked < TEN_DAYS_US)).sum())
    for line in result.lines.values():
        assert [d.act for d in line.decisions] == ["trigger", "train", "gate", "promote"]
        assert len(line.scores) == count
        everything = line.months()[-1]
        assert everything.metrics["auc"] is not None
        assert everything.metrics["auc"] > 0.75
    assert np.array_equal(result.lines["policy"].scores, result.lines["never"].scores)  # nothing was retrained yet


@pytest.mark.soak
def test_a_year_of_the_policy_beats_never_retraining(
    project: Definitions, tables: dict[str, Columns], tmp_path: Path, soak_report: Callable[..., None]
) -> None:
    """Three seeds; intervals of the differences from a bootstrap of whole weeks."""
    seeds = (1, 2, 3)
    figures: dict[str, float] = {}
    failures = 0
    took_s = []
    for seed in seeds:
        start = time.perf_counter()
        result = replayed(project, tables, tmp_path / str(seed), until_us=YEAR_US, seed=seed, sampled_rows=200)
        took_s.append(time.perf_counter() - start)
        gain = result.compare("policy", "never", seed=seed)
        retrains = sum(d.act == "promote" for d in result.lines["policy"].decisions)
        better = gain.metrics["auc"].low > 0 > gain.metrics["log_loss"].high
        much = gain.metrics["auc"].estimate >= 0.015 and gain.metrics["log_loss"].estimate <= -0.012
        failures += not (better and much and result.mismatches == 0)
        for name, interval in (("auc", gain.metrics["auc"]), ("log_loss", gain.metrics["log_loss"])):
            for part in ("estimate", "low", "high"):
                figures[f"seed{seed}_{name}_{part}"] = round(getattr(interval, part), 5)
        figures[f"seed{seed}_promotions"] = retrains
        figures[f"seed{seed}_mismatches"] = result.mismatches
        del result
        gc.collect()
    figures["seconds"] = round(max(took_s), 1)
    figures["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
    soak_report("flights_year", runs=len(seeds), failures=failures, **figures)
    assert failures == 0, figures
