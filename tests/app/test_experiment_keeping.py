"""Exposures and exposed units in backups, disk usage, retention, garbage collections and erasures."""

from __future__ import annotations

import os
import random
from pathlib import Path

import msgspec
import pytest
from experiment_world import BEGIN_US, PROJECT, World, definition_of, opened, started

import trimtab as tt
from trimtab.app.experiments.closing import close_due
from trimtab.app.keep.backup import restore
from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.experiments.days import stored_days, unit_blobs
from trimtab.experiments.exposures import log_exposures
from trimtab.experiments.records import ExperimentDay, Exposure
from trimtab.testing.builders import a_prediction


def days_of(project: tt.Project) -> list[ExperimentDay]:
    close_due(project)
    return stored_days(project.state.catalog, "prices", 1)


def exposed(project: tt.Project, unit: str, at_us: int, **attributes: object) -> None:
    packed = msgspec.msgpack.encode(attributes) if attributes else b""
    one = Exposure(experiment="prices", generation=1, unit=unit, variant="old", at_us=at_us, attributes=packed)
    log_exposures(project.state.exposures, [one])


def kept(project: tt.Project) -> int:
    log = project.state.exposures
    return sum(len(log.read(partition, 0)) for partition in log.positions())


def test_a_restored_backup_closes_the_same_days(tmp_path: Path) -> None:
    clock = VirtualClock(BEGIN_US - 3 * DAY_US)
    with opened(tmp_path / "p", clock) as project:
        started(project, definition_of(project), BEGIN_US)
        World(project, clock, random.Random(3), users=60, days=3).run(lambda: None, DAY_US)
        first = days_of(project)
        made = project.backup(tmp_path / "copy")
        assert sum(made.positions.logs["exposures"].values()) == kept(project) > 20
        clock.advance_to(clock.now_us() + 9 * DAY_US)
        whole = days_of(project)
        assert len(whole) > len(first) > 0
    (tmp_path / "q").mkdir()
    for name in ("project.py", "trimtab.toml"):
        (tmp_path / "q" / name).write_text((tmp_path / "p" / name).read_text())
    restore(tmp_path / "copy", tmp_path / "q" / ".trimtab")
    with opened(tmp_path / "q", VirtualClock(clock.now_us())) as project:
        assert days_of(project) == whole


def test_disk_usage_names_the_exposure_log(tmp_path: Path) -> None:
    with opened(tmp_path / "p", VirtualClock(BEGIN_US)) as project:
        exposed(project, "ann", BEGIN_US)
        (part,) = [one for one in project.disk().parts if one.name == "exposure log"]
        assert part.of["p0001"] > 0


def test_exposures_and_predictions_stay_until_their_day_is_closed(tmp_path: Path) -> None:
    clock = VirtualClock(BEGIN_US)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "trimtab.toml").write_text('[retention]\npredictions = "5d"\n')
    (tmp_path / "p" / "project.py").write_text(PROJECT)
    with opened(tmp_path / "p", clock) as project:
        started(project, definition_of(project), BEGIN_US)
        for day in range(12):
            clock.advance_to(BEGIN_US + day * DAY_US)
            exposed(project, f"u{day}", clock.now_us())
            project.predictions.append([a_prediction(made_at_us=clock.now_us(), at_us=clock.now_us())])
        assert project.retain(dry_run=True).predictions == 0  # no day is closed yet
        assert project.retain().predictions == 0
        assert kept(project) == 12
        assert len(days_of(project)) == 8
        planned = project.retain(dry_run=True)
        assert (planned.predictions, kept(project)) == (6, 12)
        assert "would remove 6 exposures of experiments, whose days are closed" in planned.notes
        done = project.retain()  # those of more than 5 days ago go, less an hour in which clocks may differ
        assert done.predictions == 6
        assert "removed 6 exposures of experiments, whose days are closed" in done.notes
        assert kept(project) == 6
        clock.advance_to(clock.now_us() + 9 * DAY_US)
        assert [sum(one.units for one in day.variants.values()) for day in days_of(project)[:13]] == [1] * 12 + [0]


def test_settings_that_remove_what_an_experiment_reads_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "project.py").write_text(
        PROJECT
        + """
tt.experiment("prices", unit="user", variants={"old": 1, "new": 2}, metrics=[
    tt.metric("spent", source=orders, by="user", value=tt.sum("amount"), within="14d", before="28d", role="primary")])
"""
    )
    for setting, kept_for in (("events", "43d"), ("predictions", "15d")):
        (tmp_path / "p" / "trimtab.toml").write_text(f'[retention]\n{setting} = "{kept_for}"\n')
        with (
            pytest.raises(Misuse, match=r"too short.*experiment 'prices' reads \w+ when it closes a day"),
            opened(tmp_path / "p", VirtualClock(BEGIN_US)) as project,
        ):
            project.retain()


def test_garbage_collections_keep_the_units_that_were_exposed(tmp_path: Path) -> None:
    clock = VirtualClock(BEGIN_US)
    with opened(tmp_path / "p", clock) as project:
        started(project, definition_of(project), BEGIN_US)
        exposed(project, "ann", BEGIN_US)
        lost = project.state.blob.put(b"named by no record")
        clock.advance_to(BEGIN_US + 5 * DAY_US)
        days_of(project)
        (needed,) = unit_blobs(project.state.catalog)
        for digest in (needed, lost):  # the file store takes the age of a blob from its file
            (file,) = (tmp_path / "p" / ".trimtab" / "blob").rglob(digest)
            os.utime(file, (BEGIN_US / 1e6, BEGIN_US / 1e6))
        project.collect(why="disk", grace="1d")
        assert not project.state.blob.exists(lost)
        assert project.state.blob.exists(needed)
        exposed(project, "ann", clock.now_us())  # on a later day: ann is known
        clock.advance_to(clock.now_us() + 5 * DAY_US)
        assert sum(one.units for day in days_of(project) for one in day.variants.values()) == 1


def test_who_is_forgotten_is_in_no_exposure(tmp_path: Path) -> None:
    clock = VirtualClock(BEGIN_US)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "trimtab.toml").write_text("")
    (tmp_path / "p" / "project.py").write_text(
        PROJECT.replace('"user": str, "shop"', '"user": str, "seller": str, "shop"')
        + """
tt.view("buyer", source=orders, by="user", features={"n": tt.count()})
made = {"variants": {"old": 1, "new": 2}}
def metric(by):
    return [tt.metric("n", source=orders, by=by, value=tt.count(), within="1d", role="primary")]
prices = tt.experiment("prices", unit="visitor", metrics=metric("user"), attributes={"friend": str}, **made)
sellers = tt.experiment("sellers", unit="seller", metrics=metric("seller"), **made)
pairs = tt.experiment("pairs", unit=["seller", "user"], **made)
"""
    )
    with opened(tmp_path / "p", clock) as project:
        project.push("orders", [{"id": "o", "at": BEGIN_US, "user": "zacharias", "amount": 1.0}])
        for experiment, unit in (
            ("prices", "zacharias"), ("prices", "ann"), ("sellers", "zacharias"), ("pairs", '["ann","zacharias"]'),
            ("pairs", '["zacharias","ann"]'), ("undeclared", '["zacharias","x"]'), ("undeclared", "ann"),
        ):  # fmt: skip
            one = Exposure(experiment=experiment, generation=1, unit=unit, variant="old", at_us=BEGIN_US)
            log_exposures(project.state.exposures, [one])
        assert project.forget("user", "zacharias", dry_run=True).counts["exposures"] == 3
        done = project.forget("user", "zacharias", why="asked to")
        assert done.counts["exposures"] == 3
        assert kept(project) == 7  # positions stay
        clock.advance_to(BEGIN_US + HOUR_US)
        with pytest.raises(tt.NotFound, match="no data of"):
            project.forget("user", "zacharias", dry_run=True)


def test_an_exposure_log_that_was_lost_is_red_and_goes_on_after_a_recovery(tmp_path: Path) -> None:
    clock = VirtualClock(BEGIN_US)
    with opened(tmp_path / "p", clock) as project:
        started(project, definition_of(project), BEGIN_US)
        for unit in ("ann", "bob"):
            exposed(project, unit, BEGIN_US)
        project.tick()
    log = tmp_path / "p" / ".trimtab" / "log" / "exposures"
    for file in log.iterdir():
        file.unlink()
    with opened(tmp_path / "p", clock) as project:
        (red,) = [line for line in project.status().red if "log/exposures" in line]
        assert "2 records after that were read before" in red
        (lost,) = project.recover().lost
        assert (lost.log, lost.first, lost.last) == ("exposures", 1, 2)
        assert [line for line in project.status().red if "log/exposures" in line] == []
        exposed(project, "cid", BEGIN_US)
        assert max(project.state.exposures.positions().values()) == 3
        clock.advance_to(BEGIN_US + 5 * DAY_US)
        assert days_of(project)[0].variants["old"].units == 1
