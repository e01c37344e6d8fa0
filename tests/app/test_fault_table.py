"""Faults that are injected over HTTP into a service: what rings, how fast, in which words; nothing is learnt from them.

The world and the faults are those of `tests/monitoring`; here every event, request and label goes through the service.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import forked

sys.path.insert(0, str(Path(__file__).parents[1] / "monitoring"))

import fault_service
from input_faults import BY_NAME as INPUT_FAULTS
from input_faults import GROUPS, Fault
from input_world import World

import trimtab as tt
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.records import Signal
from trimtab.core.time import DAY_US, HOUR_US, format_time
from trimtab.features.offline.evaluation import evaluate
from trimtab.monitoring.inputs.checks.findings import KINDS
from trimtab.monitoring.inputs.red_windows import red_windows
from trimtab.monitoring.signals import every_signal
from trimtab.training.data.sets import load_manifest

Days = tuple[int, int, int]  # in service before the faults, with them, and after them
LIFE: Days = (3, 2, 3)
# Events from the future are refused at the service's door: to the monitors their source has stopped.
BY_NAME = {
    **INPUT_FAULTS,
    "feed_ahead": msgspec.structs.replace(INPUT_FAULTS["feed_ahead"], kinds=("feed_clock", "feed_stopped")),
}
PROJECT = """
import trimtab as tt

visit = tt.request("visit", key="visit_id", time="at", columns={
    "visit_id": str, "at": tt.Time, "site": str, "channel": str, "price": float, "distance": float, "age": float,
    "code": int, "items": int})
weather = tt.source("weather", time="read_at", delay="15m",
    columns={"site": str, "read_at": tt.Time, "temp": float, "wind": float})
sales = tt.source("sales", time="sold_at", key="visit_id",
    columns={"visit_id": str, "sold_at": tt.Time, "bought": float})
sky = tt.view("sky", source=weather, by="site", features={
    "temp": tt.latest("temp", max_age="3h"), "wind_6h": tt.mean("wind", over="6h")})


def linear():
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=500)


model = tt.model("shop", request=visit, metric="log_loss", estimator=linear,
    features=[sky, {"site": tt.col("site").category(), "hour": tt.col("at").hour(),
        **{name: tt.col(name) for name in ("price", "distance", "age", "code", "items")}}],
    label=tt.label(sales, key="visit_id", value=tt.col("bought"), wait="1d"))
tt.deployment(model, gate=tt.beats_champion(calibration=0.5), cooldown="1d",
    retrain=tt.on_quality_drop() | tt.every("4d"))
"""


def rows_of(table: dict[str, Any], names: Sequence[str], here: np.ndarray) -> list[dict[str, Any]]:
    """Rows as JSON takes them: NaN is null."""
    lists = [[None if value != value else value for value in table[name][here].tolist()] for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]


VISIT = ("visit_id", "at", "site", "channel", "price", "distance", "age", "code", "items")
WEATHER, SALES = ("site", "read_at", "temp", "wind"), ("visit_id", "sold_at", "bought")


def trained(folder: Path, world: World) -> Path:
    """A project with the world's history and a first version."""
    folder.mkdir()
    (folder / "trimtab.toml").write_text("")
    (folder / "project.py").write_text(PROJECT)
    clock = VirtualClock(world.cut_us)
    with tt.open(folder, clock=clock, environment={"TRIMTAB_TRAINING_EXECUTOR": "thread"}) as project:
        tables = {"visit": (world.visits, VISIT), "weather": (world.weather, WEATHER), "sales": (world.sales, SALES)}
        for name, (table, names) in tables.items():
            known = table["at"] if name == "visit" else table["known_us"]
            found = rows_of(table, names, known < world.cut_us)
            source = project.definitions.sources[name]
            columns = {key: (source.columns[key], [row[key] for row in found]) for key in names}
            project.ingestor.load(name, Columns.of(columns), history=True)
        project.tick()
        assert project.registry.alias("shop", "champion") is not None, project.ledger()[-1].cause
    return folder


class Service:
    """A service with a clock of ours, spoken to over HTTP."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout
        url = self._out.readline().strip()
        if not url.startswith("http://"):
            assert process.stderr is not None
            raise AssertionError(process.stderr.read())
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)

    def close(self) -> None:
        self._connection.close()

    def say(self, line: str) -> str:
        self._in.write(f"{line}\n")
        self._in.flush()
        return self._out.readline().strip()

    def post(self, path: str, body: object) -> Any:
        self._connection.request("POST", path, json.dumps(body).encode(), {"content-type": "application/json"})
        answer = self._connection.getresponse()
        text = answer.read()
        refused = path.startswith("/v1/events/") and answer.status == 422  # events from the future are set aside
        assert answer.status == 200 or refused, (path, answer.status, text[:500])
        return json.loads(text)


@contextmanager
def service(folder: Path, now_us: int) -> Iterator[Service]:
    command = [sys.executable, fault_service.__file__, str(folder), str(now_us)]
    with forked.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            with closing(Service(process)) as served:
                yield served
        finally:
            process.terminate()


def lived(folder: Path, world: World, *, status_h: int = 1) -> dict[int, list[str]]:
    """Let the service live through the world hour by hour; the red lines of `status`, after every so many hours."""
    red: dict[int, list[str]] = {}
    with service(folder, world.cut_us) as served:
        for hour_us in range(world.cut_us, world.end_us, HOUR_US):
            end_us = hour_us + HOUR_US
            asked = rows_of(world.visits, VISIT, (world.at_us >= hour_us) & (world.at_us < end_us))
            if asked:
                served.post("/v1/models/shop/predict", {"rows": asked})
            for name, table, names in (("weather", world.weather, WEATHER), ("sales", world.sales, SALES)):
                known = (table["known_us"] >= hour_us) & (table["known_us"] < end_us)
                served.say(str(end_us + 6 * 60_000_000))
                if known.any():
                    served.post(f"/v1/events/{name}?wait=applied", rows_of(table, names, known))
            acts = json.loads(served.say("tick"))
            assert "failed" not in acts, acts
            if (end_us - world.cut_us) // HOUR_US % status_h == 0:
                red[end_us] = json.loads(served.say("status"))
    return red


class Found(msgspec.Struct, frozen=True):
    """What became of one fault."""

    fault: str
    red_after_h: float | None  # None: it was never red
    ended_after_h: float | None  # after the fault's end; None: it was still red at the end
    message: str
    rows: int = 0  # that it changed
    learnt: int = 0  # of them that a version could have been fitted on or judged by
    learnable: int = 0  # at some hour, without the windows of the other faults' signals
    others: tuple[str, ...] = ()  # further kinds and subjects that were red meanwhile


def judged(fault: Fault, signals: Sequence[Signal], since_us: int, until_us: int, faults: Sequence[Fault]) -> Found:
    reds = [one for one in signals if one.severity == "red" and one.kind in KINDS and one.raised_at_us >= since_us]
    mine = [one for one in reds if one.kind in fault.kinds and one.subject == fault.subject]
    known = {(kind, one.subject) for one in faults for kind in one.kinds}
    others = tuple(
        dict.fromkeys(f"{one.kind} of {one.subject}" for one in reds if (one.kind, one.subject) not in known)
    )
    if not mine:
        return Found(fault.name, None, None, "", others=others)
    ends = [one.ended_at_us for one in mine]
    last = None if None in ends else max(end for end in ends if end is not None)
    return Found(
        fault.name,
        (mine[0].raised_at_us - since_us) / HOUR_US,
        None if last is None else max(0.0, (last - until_us) / HOUR_US),
        mine[0].message,
        others=others,
    )


class Part(msgspec.Struct, frozen=True):
    """What a fault can have changed, as it was at one time."""

    visits: dict[str, Any]
    weather: dict[str, Any]
    sales: dict[str, Any]

    @staticmethod
    def of(world: World) -> Part:
        tables = (world.visits, world.weather, world.sales)
        return Part(*({name: values.copy() for name, values in table.items()} for table in tables))


def faulty_times(fault: Fault, world: World, before: Part, since_us: int, until_us: int) -> np.ndarray:
    """When the requests were made whose columns, features or labels a fault has changed; it was done to the world."""
    at_us = world.visits["at"]
    if fault.name in ("doubled", "repeated"):
        return at_us[world.rows(since_us, until_us)]
    if fault.name == "traffic_stops":
        return at_us[:0]
    if changed := [n for n in VISIT if n != "at" and not _same(before.visits[n], world.visits[n])]:
        differ = [np.asarray(before.visits[n] != world.visits[n]) & _is_known(before.visits[n]) for n in changed]
        return at_us[np.logical_or.reduce(differ)]
    if before.weather.keys() == world.weather.keys() and not all(
        _same(before.weather[n], world.weather[n]) for n in before.weather
    ):
        later = np.flatnonzero(at_us >= since_us)
        asked, times = world.requests().take(later), at_us[later]
        after, sent = _features(world, asked, times, world.weather, fault), before.weather
        return times[(_features(world, asked, times, sent, None) != after).any(axis=1)]
    return _with_other_labels(world, before)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return len(one) == len(other) and bool(((one == other) | ((one != one) & (other != other))).all())


def _is_known(values: np.ndarray) -> np.ndarray:
    return np.asarray(values == values)


def _features(
    world: World, asked: Columns, at_us: np.ndarray, weather: dict[str, Any], fault: Fault | None
) -> np.ndarray:
    """The features of the view of some requests, -1 for null; events from the future are set aside by the service."""
    if fault is not None:
        kept = weather["read_at"] <= weather["known_us"]
        weather = {name: values[kept] for name, values in weather.items()}
    now, world.weather = world.weather, weather
    found = evaluate(world.model.features, asked, at_us, {"weather": world.frame("weather")}).values
    world.weather = now
    return np.stack(
        [np.nan_to_num(found[n].values, nan=-1.0) * found[n].present() for n in ("sky.temp", "sky.wind_6h")], 1
    )


def _with_other_labels(world: World, before: Part) -> np.ndarray:
    """The requests with another label than before, and those of hours in which a fifth of the labels did not come."""
    asked = dict(zip(world.visits["visit_id"].tolist(), world.visits["at"].tolist(), strict=True))
    was = dict(zip(before.sales["visit_id"].tolist(), before.sales["bought"].tolist(), strict=True))
    now = dict(zip(world.sales["visit_id"].tolist(), world.sales["bought"].tolist(), strict=True))
    hours = np.array([asked[key] // HOUR_US for key in was])
    gone = np.array([key not in now for key in was])
    first = hours.min()
    share = np.bincount(hours - first, gone) / np.maximum(np.bincount(hours - first), 1)
    return np.array([
        asked[key]
        for key, hour in zip(was, hours.tolist(), strict=True)
        if key in now and (was[key] != now[key] or share[hour - first] >= 0.2)
    ], np.int64)  # fmt: skip


def learnt_from(project: tt.Project, times: np.ndarray) -> int:
    """The most rows of a fault that a version could have been fitted on or judged by."""
    found = 0
    for version in project.registry.versions("shop"):
        manifest = load_manifest(version.training_set, project.state.blob)
        rows = times <= manifest.cut_us - manifest.wait_us
        for one in manifest.left_out or ():
            rows &= ~one.covers(times)
        found = max(found, int(rows.sum()))
    return found


def learnable(project: tt.Project, fault: Fault, times: np.ndarray, since_us: int, until_us: int) -> int:
    """The most rows of a fault that a training at any hour could have learnt from, were there no other signals."""
    catalog, wait_us = project.state.catalog, DAY_US
    signals = {one.id: one for one in every_signal(catalog)}
    windows = [
        one  # labels that are missing because their source stopped are found by day, under a subject of their own
        for one in red_windows(catalog, "shop")
        if one.kind in fault.kinds and (one.subject == fault.subject or one.kind == "labels_missing")
    ]
    found = 0
    for now_us in range(since_us, until_us + 1, HOUR_US):
        rows = times < (now_us - wait_us) // DAY_US * DAY_US - DAY_US  # the newest are too new to be judged
        for one in windows:
            signal = signals[one.id]
            if signal.raised_at_us <= now_us + 6 * 60_000_000:
                ended = one.end_us is not None and (signal.ended_at_us or now_us) < now_us
                rows &= (times < one.start_us) | (times >= one.end_us if ended and one.end_us is not None else False)
        found = max(found, int(rows.sum()))
    return found


def campaign(folder: Path, seed: int, group: Sequence[str], days: Days) -> tuple[list[Found], dict[str, int]]:
    """A life of some days with faults that do not hide each other."""
    before, faulty, _ = days
    world = World(seed, days=sum(days), per_day=600)
    since_us = world.cut_us + before * DAY_US
    until_us = since_us + faulty * DAY_US
    made = trained(folder, world)
    faults = [BY_NAME[name] for name in group]
    times = {}
    for fault in faults:
        was = Part.of(world)
        fault.do(world, since_us, until_us)
        times[fault.name] = faulty_times(fault, world, was, since_us, until_us)
    lived(made, world, status_h=24)
    with tt.open(made, clock=VirtualClock(world.end_us), environment={}) as project:
        signals = every_signal(project.state.catalog)
        learnt = [learnt_from(project, times[one.name]) for one in faults]
        could = [learnable(project, one, times[one.name], since_us, world.end_us) for one in faults]
        decisions = [d for d in project.ledger() if d.at_us > world.cut_us]
        counts = {
            "red_before": sum(one.severity == "red" and one.raised_at_us < since_us for one in signals),
            "trained": sum(d.act == "train" for d in decisions),
            "learnt_rows": sum(learnt),
            "learnable_rows": sum(could),
            "promoted_meanwhile": sum(d.act == "promote" and since_us < d.at_us < until_us for d in decisions),
        }
    shutil.rmtree(made)
    found = [judged(fault, signals, since_us, until_us, faults) for fault in faults]
    return [
        msgspec.structs.replace(one, rows=len(times[one.fault]), learnt=a, learnable=b)
        for one, a, b in zip(found, learnt, could, strict=True)
    ], counts


@pytest.mark.slow
def test_faults_of_a_group_are_red_within_a_day_and_named(tmp_path: Path) -> None:
    found, counts = campaign(tmp_path / "p", 11, ("feed_stops", "half_null"), (2, 1, 2))
    for one in found:
        fault = BY_NAME[one.fault]
        assert one.red_after_h is not None, one.fault
        assert one.red_after_h <= fault.after_us / HOUR_US + 1, one
        assert one.ended_after_h is not None, one.fault
        assert one.rows > 0
        assert (one.learnt, one.learnable) == (0, 0), one
    assert counts["promoted_meanwhile"] == 0


def page(found: dict[str, list[Found]], seeds: int, totals: dict[str, int]) -> str:
    """The table as a document."""
    rows = []
    for name, some in found.items():
        fault = BY_NAME[name]
        reds = sorted(one.red_after_h for one in some if one.red_after_h is not None)
        ends = sorted(one.ended_after_h for one in some if one.ended_after_h is not None)
        said = next((one.message for one in some if one.message), "-").replace("|", "/")
        soon = f"{reds[len(reds) // 2]:.0f} h, at most {reds[-1]:.0f} h" if reds else "never"
        over = f"{ends[len(ends) // 2]:.0f} h, at most {ends[-1]:.0f} h" if ends else "never"
        what = name.replace("_", " ")
        kinds = ", ".join(f"`{kind}`" for kind in fault.kinds)
        rows.append(f"| {what} | {kinds} of {fault.subject} | {len(reds)} of {len(some)} | {soon} | {over} | {said} |")
    before, faulty, after = LIFE
    changed = sum(one.rows for some in found.values() for one in some)
    days = f"{before} healthy days, {faulty} with the faults, {after} healthy ones"
    return FAULTS_PAGE.format(rows="\n".join(rows), seeds=seeds, days=days, changed=changed, **totals)


FAULTS_PAGE = (
    "# Faults, and what rings\n\n"
    "What becomes of a fault that is injected over HTTP into a service: events, requests and labels of a made-up shop, "
    "{days}; worlds for each group: {seeds}, drawn when it ran, and in each some faults that do not hide each other. "
    "Written by `pytest -m soak tests/app/test_fault_table.py`.\n\n"
    "| fault | what has to ring | red | red after (median) | over after its end (median) | in which words, once |\n"
    "|---|---|---|---|---|---|\n{rows}\n\n"
    "Times count from the beginning of the fault and from its end; those of labels include the label's wait of a day "
    "and the close of the day. In all these lives {red_before} signals were red before a fault began, and {trained} "
    "trainings ran. Of the {changed:,} requests whose columns, features or labels a fault had changed, {learnt_rows} "
    "were in a set that a version was fitted on or judged by, and a training at any hour could have learnt from "
    "{learnable_rows}, each fault taken by itself. {promoted_meanwhile} versions were promoted while a fault lasted.\n"
)


@pytest.mark.soak
def test_the_table_of_faults(soak_report, tmp_path: Path) -> None:
    """`pytest -m soak -s tests/app/test_fault_table.py`."""
    seeds = np.random.SeedSequence().generate_state(int(os.environ.get("FAULT_SEEDS", "20"))).tolist()
    found: dict[str, list[Found]] = {}
    totals = dict.fromkeys(("red_before", "trained", "learnt_rows", "learnable_rows", "promoted_meanwhile"), 0)
    for count, seed in enumerate(seeds, 1):
        for group in GROUPS:
            some, counts = campaign(tmp_path / "p", seed, group, LIFE)
            totals = {name: totals[name] + counts[name] for name in totals}
            for one in some:
                found.setdefault(one.fault, []).append(one)
                print(seed, one, flush=True)
        print(seed, totals, flush=True)
        (Path(__file__).parents[2] / "docs" / "faults.md").write_text(page(found, count, totals))
    late = {
        name: sum(one.red_after_h is None or one.red_after_h > BY_NAME[name].after_us / HOUR_US + 1 for one in some)
        for name, some in found.items()
    }
    endless = {
        f"{name}_over": sum(
            one.ended_after_h is None or one.ended_after_h > BY_NAME[name].after_us / HOUR_US + 1 for one in some
        )
        for name, some in found.items()
    }
    failures = sum(late.values()) + sum(endless.values())
    failures += totals["learnt_rows"] + totals["learnable_rows"] + totals["promoted_meanwhile"]
    soak_report("fault_table", runs=sum(map(len, found.values())), failures=failures, **late, **endless, **totals)
    assert failures == 0


UNCHECKED = "shop: predictions have not been checked for skew"  # by the clock of the world; the service goes by its own


def healthy_twin(folder: Path, seed: int, days: int) -> tuple[list[Signal], list[str], int]:
    """A life of the same world without a fault: the red signals, red lines of `status` at midnight, trainings."""
    world = World(seed, days=days, per_day=600)
    made = trained(folder, world)
    lines = [line for red in lived(made, world, status_h=24).values() for line in red if not line.startswith(UNCHECKED)]
    with tt.open(made, clock=VirtualClock(world.end_us), environment={}) as project:
        reds = [one for one in every_signal(project.state.catalog) if one.severity == "red"]
        trainings = sum(d.act == "train" and d.at_us > world.cut_us for d in project.ledger())
    shutil.rmtree(made)
    return reds, lines, trainings


@pytest.mark.slow
def test_a_healthy_twin_of_four_days_is_quiet(tmp_path: Path) -> None:
    reds, lines, _ = healthy_twin(tmp_path / "p", 11, 4)
    assert [one.message for one in reds] == []
    assert lines == []


@pytest.mark.soak
def test_a_healthy_twin(soak_report, tmp_path: Path) -> None:
    """`TWIN_SEEDS=20 pytest -m soak -s -k healthy_twin tests/app/test_fault_table.py`: sixty days in each world."""
    seeds = np.random.SeedSequence().generate_state(int(os.environ.get("TWIN_SEEDS", "20"))).tolist()
    counts, lines, trainings = [], 0, 0
    for seed in seeds:
        reds, said, trained_times = healthy_twin(tmp_path / "p", seed, 60)
        counts.append(len(reds))
        lines, trainings = lines + len(said), trainings + trained_times
        print(seed, len(reds), f"{trained_times} trainings", flush=True)
        for one in reds:
            print("   ", format_time(one.raised_at_us), one.kind, one.subject, one.message, flush=True)
    failures = sum(count > 1 for count in counts)
    soak_report(
        "healthy_twin", runs=len(counts), failures=failures, reds=sum(counts), red_lines=lines, trainings=trainings
    )
    print(f"{len(counts)} worlds, {sum(counts)} reds, at most {max(counts)} in one, {trainings} trainings", flush=True)
    assert failures == 0
