"""A project whose history and labels come from files: what is normal is the rhythm of the loads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import shop

from trimtab.app.project import Project, open_project
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Unavailable
from trimtab.core.time import DAY_US, HOUR_US, parse_time_us
from trimtab.monitoring.inputs.red_windows import KIND, RedWindow
from trimtab.monitoring.quality.quality_days import stored_days
from trimtab.store.ports import Put

FIRST_US = parse_time_us("2024-01-08T00:00:00Z")
BEFORE, WAIT, A_DAY = 120, 30, 44  # days of the first file, days until a label is known, requests of a day
PROJECT = f"""
import trimtab as tt

join = tt.request("join", key="id", time="at", columns={{"id": str, "at": tt.Time, "member": str, "x": float}})
ends = tt.source("ends", key="id", time="at", delay="{WAIT}d", only_final=True,
    columns={{"id": str, "at": tt.Time, "member": str, "ended": bool}})
past = tt.view("past", source=ends, by="member", features={{"rows": tt.count()}})


def estimator():
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression()


model = tt.model("ends", request=join, features=[past, {{"x": tt.col("x")}}],
    label=tt.label(ends, key="id", value="ended", wait="{WAIT}d"), estimator=estimator, metric="log_loss")
tt.deployment(model, retrain=tt.every("30d"), gate=tt.beats_champion(window="14d", margin=-0.5, calibration=0.5))
"""


class World:
    """Requests of each day, dated at its midnight, whose label is in the first file that is loaded after the wait."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "project.py").write_text(PROJECT)
        (folder / "trimtab.toml").write_text("")
        self.chance = np.random.default_rng(5)
        self.rows: list[tuple[str, int, float, bool]] = []
        self.told: set[str] = set()
        self.excluded: set[str] = set()
        self.loaded = 0
        self.watch = ""
        for day in range(-BEFORE, 0):
            self.add(day)
        self.project: Project = open_project(folder, clock=VirtualClock(FIRST_US + 6 * HOUR_US), environment={})

    def add(self, day: int) -> None:
        for x in self.chance.normal(size=A_DAY).tolist():
            ended = bool(self.chance.random() < 1 / (1 + np.exp(1 - 2 * x)))
            self.rows.append((f"v{len(self.rows):05d}", FIRST_US + day * DAY_US, x, ended))

    def load(self) -> None:
        """Load a new export of the newest days, with the labels that are known."""
        final_us = self.project.clock.now_us() - WAIT * DAY_US
        final = sum(at_us <= final_us for _, at_us, _, _ in self.rows)
        first = max(0, final - 20 * A_DAY) if self.loaded else 0
        for source, end in (("join", len(self.rows)), ("ends", final)):
            ids, at_us, x, ended = zip(*self.rows[first:end], strict=True)
            columns = {"id": ("str", list(ids)), "at": ("time", list(at_us)), "member": ("str", list(ids))}
            more = {"x": ("float", list(x))} if source == "join" else {"ended": ("bool", list(ended))}
            self.project.ingestor.load(source, Columns.of(columns | more))  # type: ignore[arg-type]  # literal dtypes
        self.loaded += 1

    def live(self, day: int) -> None:
        """Ask about the requests of a day at 18:00, tick at 23:30, and note what is red or excluded."""
        self.add(day)
        clock = self.project.clock
        assert isinstance(clock, VirtualClock)
        clock.advance_to(FIRST_US + day * DAY_US + 18 * HOUR_US)
        new = [{"id": one, "at": at_us, "member": one, "x": x} for one, at_us, x, _ in self.rows[-A_DAY:]]
        self.project.predict("ends", new)
        clock.advance_to(FIRST_US + day * DAY_US + 23 * HOUR_US + HOUR_US // 2)
        self.project.tick()
        status = self.project.status()
        self.told |= {f"{day}: {line}" for line in status.red if "checked for skew" not in line}
        self.watch = status.deployments[0].watch
        self.excluded |= {f"{day}: {one.kind} of {one.subject}" for one in self.project.exclusions("ends")}
        clock.advance_to(FIRST_US + (day + 1) * DAY_US + 6 * HOUR_US)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "ends")
    with made.project:
        made.load()
        assert made.project.train("ends")[-1].act == "promote"
        yield made


@pytest.mark.slow
def test_a_project_that_is_loaded_every_fortnight_is_never_red_and_trains_on_schedule(world: World) -> None:
    for day in range(75):
        if day and day % 14 == 0:
            world.load()
        world.live(day)
    assert (sorted(world.told), sorted(world.excluded)) == ([], [])
    trained = [one.at_us for one in world.project.ledger() if one.act == "trigger"]
    assert [(at_us - FIRST_US) // DAY_US for at_us in trained] == [30, 60]
    assert world.watch == "quality watched, no day closed yet; the first closes on 2024-04-08 at the earliest"
    days = stored_days(world.project.state.catalog, "ends")
    assert {(day.whole.predictions, day.whole.labelled) for day in days} == {(A_DAY, A_DAY)}


@pytest.mark.slow
def test_loads_that_stop_are_red_after_twice_their_rhythm_and_exclude_no_day_whose_labels_come(world: World) -> None:
    for day in range(103):
        if day in (14, 28, 42, 100):
            world.load()
        world.live(day)
        if day == 42 + 28:
            assert (world.told, world.excluded) == (set(), set())
        if day == 42 + 30:
            told = sorted({line.partition(": ")[2] for line in world.told})
            assert [one.partition(" has come ")[0] for one in told[:-1]] == ["ends: No label"]
            assert told[-1].startswith(
                "ends: Source ends: the last file with new events was loaded 30 days ago, on 2024-02-19; usually there "
                "is one every 14 days. Load the next one, or check what loads them."
            )
        if day == 99:  # days were closed without labels
            assert any("labels_missing" in one for one in world.excluded)
    assert [one.kind for one in world.project.exclusions("ends")] == []


def test_a_training_that_waits_because_days_are_excluded_says_so(trained: Path) -> None:
    with shop.opened(trained, shop.NOW_US + 12 * DAY_US) as project:
        shop.load(project, end_us=shop.NOW_US + 12 * DAY_US)
        start_us = shop.NOW_US - 4 * DAY_US
        window = RedWindow(
            id="nulls/1", model="buyer", kind="nulls", subject="column x", start_us=start_us, end_us=None
        )
        project.state.catalog.write([Put(KIND, "buyer/nulls/1", msgspec.json.encode(window))])
        said = (
            "4 of the 4 days with labels since 2024-04-06 are excluded from training, because inputs or labels were "
            "red. To list them: trimtab quality exclusions buyer (to use their rows again, add --release ID"
        )
        with pytest.raises(Unavailable, match=re.escape(said)):
            project.train("buyer")
        freed = msgspec.structs.replace(window, released_why="the nulls were meant")
        project.state.catalog.write([Put(KIND, "buyer/nulls/1", msgspec.json.encode(freed))])
        with pytest.raises(Unavailable) as waits:
            project.train("buyer")
        assert "excluded" not in str(waits.value)


def test_a_gate_says_which_days_it_could_not_be_judged_on(tmp_path: Path) -> None:
    with shop.opened(shop.write_project(tmp_path / "project")) as project:
        shop.load(project)
        window = RedWindow(
            id="nulls/1", model="buyer", kind="nulls", subject="x", start_us=shop.NOW_US - 9 * DAY_US, end_us=None
        )
        project.state.catalog.write([Put(KIND, "buyer/nulls/1", msgspec.json.encode(window))])
        (gate,) = (one for one in project.train("buyer") if one.act == "gate")
        assert " 7 of the 7 days with labels since 2024-04-01 are excluded from training" in gate.cause
