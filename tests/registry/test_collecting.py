"""Garbage collection: what is reachable stays, whoever comes meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import forked
from trimtab.core.clock import SystemClock, VirtualClock
from trimtab.core.errors import Conflict, Misuse, NotFound
from trimtab.core.hashing import bytes_hash
from trimtab.core.time import DAY_US
from trimtab.registry import Registry, Version
from trimtab.registry.collecting.collector import Collection, Collector, Keep, Reason
from trimtab.registry.removed import LEASE, VERSION, Fate, Removed, finish, removed
from trimtab.store.file_blob import FileBlob
from trimtab.store.ports import Put
from trimtab.store.sql_catalog import SqlCatalog
from trimtab.training import Fitted, fit, save_training_set
from trimtab.training.fitting.artifact import encode_artifact

NOW_US = 1_361_000_000_000_000
LATER_US = NOW_US + 30 * DAY_US


class Shop:
    """A registry whose versions differ in one word, and a collector of it."""

    def __init__(self, folder: Path, world: Any, fitted: Fitted) -> None:
        self.folder, self.world = folder, world
        self.clock = VirtualClock(NOW_US)
        self.blob = FileBlob(folder / "blobs")
        self.catalog = SqlCatalog.sqlite(folder / "catalog.db")
        self.registry = Registry(self.catalog, self.blob, clock=self.clock, actor="tester")
        self.training_set = save_training_set(world.training_set(), self.blob)
        self.fitted = fitted

    def fit(self, kind: str) -> Fitted:
        artifact = msgspec.structs.replace(self.fitted.artifact, kind=kind)
        data = encode_artifact(artifact)
        return msgspec.structs.replace(self.fitted, artifact=artifact, data=data, digest=bytes_hash(data))

    def version(self, kind: str, **given: Any) -> Version:
        version = self.registry.register(self.fit(kind), training_set=self.training_set, **given)
        self.age()
        return version

    def age(self) -> None:
        """Every blob was put when the registry's clock says."""
        for path in (self.folder / "blobs").glob("*"):
            os.utime(path, (NOW_US / 1e6, NOW_US / 1e6))

    def collector(self, **given: Any) -> Collector:
        return Collector(self.catalog, self.blob, clock=self.clock, actor="cleaner", **given)

    def gate(self, candidate: Version, champion: Version | None) -> None:
        self.registry.put_gate(self.world.passed_gate(candidate, champion, judged_at_us=NOW_US))


@pytest.fixture(scope="module")
def fitted(world: Any) -> Fitted:
    return fit(world.model, world.training_set())


@pytest.fixture
def shop(tmp_path: Path, world: Any, fitted: Fitted) -> Iterator[Shop]:
    made = Shop(tmp_path, world, fitted)
    yield made
    made.catalog.close()


def names(found: Collection) -> tuple[list[str], list[str]]:
    return [one.name.partition("@")[2] for one in found.kept], [one.name.partition("@")[2] for one in found.going]


def test_what_nothing_reaches_goes_and_its_record_answers(shop: Shop) -> None:
    kept, gone = shop.version("kept"), shop.version("gone")
    shop.registry.move("late_flight", "champion", kept, why="the first one of all", first=True)
    shop.clock.advance_to(LATER_US)
    found = shop.collector().look()
    assert names(found) == (["1"], ["2"])
    assert [blob.digest for blob in found.going[0].blobs] == [gone.artifact]  # the training set is the other's as well
    assert found.size_bytes == len(shop.fit("gone").data)
    assert found.kept[0].why == ("alias champion points to it",)
    assert shop.blob.exists(gone.artifact)  # looking removes nothing
    shop.collector().collect(why="disk")
    assert not shop.blob.exists(gone.artifact)
    assert shop.blob.exists(kept.artifact)
    assert shop.registry.get("late_flight@2") == gone  # the audit still knows it
    with pytest.raises(NotFound, match=r"late_flight@2 .*was removed by cleaner on 2013-.*\(disk\)"):
        shop.registry.load("late_flight@2")
    with pytest.raises(NotFound, match="was removed by cleaner"):
        shop.registry.move("late_flight", "champion", gone, why="back")
    assert names(shop.collector().look()) == (["1"], [])
    assert shop.registry.load("late_flight@1").version == kept


def test_every_reason_keeps_a_version(shop: Shop) -> None:
    one, two, three, four, five, six, seven = (shop.version(str(n)) for n in range(7))
    move = shop.registry.move
    for version in (one, two, three):
        move("late_flight", "own", version, why="try it")
    shop.gate(four, five)
    refit = shop.version("refit", refit_of=six.id)
    shop.clock.advance_to(LATER_US)
    answers = Reason("12 logged predictions are its answers", "trimtab storage prune")
    also = {refit.id: [Reason("ledger row 7", "", evidence_us=3 * DAY_US)], seven.id: [answers]}
    found = shop.collector(also=also).look()
    assert names(found) == ([str(n) for n in range(1, 9)], [])
    said = {kept.name: " ".join(kept.why) for kept in found.kept}
    for name, why in [
        ("late_flight@1", "can go back to it in 2 steps"),
        ("late_flight@2", "can go back to it in 1 step"),
        ("late_flight@3", "alias own points to it"),
        ("late_flight@4", "gate record gate_4_5 judged it"),
        ("late_flight@5", "gate record gate_4_5 compared a candidate with it"),
        ("late_flight@6", "late_flight@8 refits it"),
        ("late_flight@7", "12 logged predictions"),
        ("late_flight@8", "ledger row 7"),
    ]:
        assert why in said[name]
    frees = {kept.name.partition("@")[2]: kept.frees for kept in found.kept}
    assert frees == {
        "1": ("--rollbacks 1",),
        "2": ("moving alias own to another version",),
        "3": ("moving alias own to another version",),
        "4": ("--evidence 29d",),
        "5": ("--evidence 29d",),
        "6": ("removing late_flight@8",),
        "7": ("trimtab storage prune",),
        "8": ("--evidence 2d",),
    }
    short = shop.collector(keep=Keep(rollbacks=1, evidence_us=DAY_US)).look()
    assert names(short) == (["2", "3"], ["1", "4", "5", "6", "7", "8"])


def test_what_is_new_stays(shop: Shop) -> None:
    version = shop.version("new")
    shop.clock.advance_to(NOW_US + DAY_US)
    assert "within the grace of 7d" in shop.collector().look().kept[0].why[0]
    shop.clock.advance_to(LATER_US)
    os.utime(next((shop.folder / "blobs").rglob(version.artifact)), (LATER_US / 1e6, LATER_US / 1e6))  # put again
    found = shop.collector().look()
    assert version.artifact not in [blob.digest for blob in found.going[0].blobs]


def test_an_equal_retrain_brings_a_removed_version_back(shop: Shop, world: Any) -> None:
    version = shop.version("again")
    shop.clock.advance_to(LATER_US)
    shop.collector().collect(why="disk")
    assert not shop.blob.exists(shop.training_set)
    save_training_set(world.training_set(), shop.blob)
    again = shop.version("again", alias="own")
    assert again == version
    assert shop.registry.load("late_flight@own").version == version
    assert removed(shop.catalog, version.id) is None
    assert names(shop.collector().look()) == (["1"], [])


def test_who_comes_between_wins_and_the_collection_takes_it_back(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    version = shop.version("wanted")
    shop.clock.advance_to(LATER_US)
    collector = shop.collector()
    look = collector.look

    def look_then_move() -> Collection:
        found = look()
        shop.registry.move("late_flight", "own", version, why="needed after all")
        return found

    monkeypatch.setattr(collector, "look", look_then_move)
    assert collector.collect(why="disk").going == ()
    assert removed(shop.catalog, version.id) is None
    assert shop.registry.load("late_flight@own").version == version


@pytest.mark.parametrize("state", ["condemned", "leaving"])
def test_a_killed_collection_is_finished_by_the_next_process(shop: Shop, state: Any) -> None:
    version = shop.version("half")
    note = Removed(version=version.id, blobs=(version.artifact,), size_bytes=1, at_us=0, actor="a", why="b")
    body = msgspec.json.encode(note)
    shop.catalog.write([Put(VERSION, version.id, body), Fate(state, version.id).put(version.artifact)])
    if state == "condemned":  # nobody had looked again who needs it: it stays
        finish(shop.catalog, shop.blob)
        assert shop.registry.load(version).version == version
    assert shop.version("half") == version
    assert shop.blob.exists(version.artifact)
    assert shop.registry.load(version).version == version
    assert removed(shop.catalog, version.id) is None


def test_two_collections_at_once_are_a_conflict(shop: Shop) -> None:
    assert shop.catalog.acquire(LEASE, "other", 10.0)
    with pytest.raises(Conflict, match="another collection is running"):
        shop.collector().collect(why="disk")


def test_what_makes_no_sense_is_refused(shop: Shop) -> None:
    with pytest.raises(Misuse, match="rollbacks at least 1"):
        Keep(rollbacks=0)
    bare: Any = object()
    with pytest.raises(Misuse, match="object does not say how old"):
        Collector(shop.catalog, bare, clock=shop.clock, actor="a")


WORKER = """
import sys, pathlib, msgspec
from trimtab.core.clock import SystemClock
from trimtab.core.hashing import bytes_hash
from trimtab.registry import Registry
from trimtab.registry.collecting.collector import Collector, Keep
from trimtab.store.file_blob import FileBlob
from trimtab.store.sql_catalog import SqlCatalog
from trimtab.training.fitting.artifact import decode_artifact, encode_artifact, scorer_for
from trimtab.training.fitting.fitted import Fitted

folder, training_set = pathlib.Path(sys.argv[1]), sys.argv[2]
catalog, blob, clock = SqlCatalog.sqlite(folder / "catalog.db"), FileBlob(folder / "blobs"), SystemClock()
artifact = decode_artifact((folder / "artifact").read_bytes())
scorer = scorer_for(artifact)
registry = Registry(catalog, blob, clock=clock, actor="trainer")
for number in range(30):
    one = msgspec.structs.replace(artifact, kind=str(number % 3))
    data = encode_artifact(one)
    fitted = Fitted(model=one.model, recipe="r", features="f", artifact=one, data=data, digest=bytes_hash(data),
                    scorer=scorer, importance=None, cut_us=0, positions={}, rows=1, seed=0)
    version = registry.register(fitted, training_set=training_set, alias="own")
    registry.load(version)
print("done", flush=True)
"""


def test_a_registration_in_another_process_is_safe_from_a_collection(shop: Shop) -> None:
    (shop.folder / "artifact").write_bytes(encode_artifact(shop.fitted.artifact))
    keep = shop.version("kept")
    shop.registry.move("late_flight", "champion", keep, why="keeps the training set", first=True)
    command = [sys.executable, "-c", WORKER, str(shop.folder), shop.training_set]
    went = 0
    with forked.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        while worker.poll() is None:
            collector = Collector(
                shop.catalog, shop.blob, clock=SystemClock(), actor="cleaner", keep=Keep(grace_us=0, rollbacks=1)
            )
            went += len(collector.collect(why="race").going)
        assert worker.stdout is not None
        assert worker.stdout.read() == "done\n"
    assert worker.returncode == 0
    now = shop.registry.alias("late_flight", "own")
    assert now is not None
    assert shop.registry.load(now).version == now
    assert went > 0


def test_a_registration_that_collections_meet_again_and_again_keeps_its_artifact(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = shop.version("kept")
    shop.registry.move("late_flight", "champion", kept, why="keeps the training set", first=True)
    put, meetings = shop.blob.put, []

    def put_and_meet(data: bytes) -> str:
        digest = put(data)
        if len(meetings) < 3:
            monkeypatch.setattr(shop.blob, "put", put)  # a collection puts nothing of its own through this
            keep = Keep(grace_us=0, rollbacks=1)
            cleaner = Collector(shop.catalog, shop.blob, clock=VirtualClock(2**52), actor="cleaner", keep=keep)
            meetings.append(cleaner.collect(why="race").orphans)
            monkeypatch.setattr(shop.blob, "put", put_and_meet)
        return digest

    monkeypatch.setattr(shop.blob, "put", put_and_meet)
    version = shop.version("raced")
    assert [len(went) for went in meetings] == [1, 1, 1]
    assert shop.registry.load(version).version.id == version.id


def test_what_a_killed_save_left_goes_once_it_is_old_and_what_steps_name_stays(shop: Shop) -> None:
    version = shop.version("kept")
    shop.registry.move("late_flight", "champion", version, why="the first one of all", first=True)
    lost, part = shop.blob.put(b"of a save that was killed"), shop.blob.put(b"of a training that goes on")
    result = shop.blob.put(msgspec.json.encode({"artifact": part}))
    step = msgspec.json.encode({"name": "fit", "result": result})
    shop.catalog.write([Put("step", "fit/1", step)])
    half = shop.folder / "blobs" / ".half.new"
    half.write_bytes(b"half")
    shop.age()
    shop.clock.advance_to(NOW_US + DAY_US)
    hasty = shop.collector(keep=Keep(grace_us=0)).look()
    assert (hasty.orphans, hasty.unfinished_bytes) == ((), 0)  # somebody may be about to name it
    shop.clock.advance_to(LATER_US)
    found = shop.collector().look()
    assert [one.digest for one in found.orphans] == [lost]
    assert found.size_bytes == len(b"of a save that was killed") + 4
    assert shop.blob.exists(lost)
    assert half.exists()
    assert shop.collector().collect(why="disk") == found
    assert not shop.blob.exists(lost)
    assert not half.exists()
    assert shop.blob.exists(part)
    assert shop.blob.exists(result)
    assert shop.registry.load(version).version == version


def test_who_names_an_orphan_while_it_is_collected_keeps_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    made = shop.fit("late")
    shop.blob.put(made.data)
    shop.age()
    shop.clock.advance_to(LATER_US)
    collector = shop.collector()
    look = collector.look

    def look_then_register() -> Collection:
        found = look()
        assert made.digest in [one.digest for one in found.orphans]
        shop.registry.register(made, training_set=shop.training_set)
        return found

    monkeypatch.setattr(collector, "look", look_then_register)
    assert collector.collect(why="disk").orphans == ()
    assert shop.registry.load("late_flight@1").artifact.kind == "late"
    assert shop.catalog.find("removed_blob") == []
