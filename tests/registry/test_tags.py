"""Tags, notes, search, and aliases that need more than a wish."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from lightgbm import LGBMClassifier

from trimtab.core.clock import SystemClock, VirtualClock
from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound, Unavailable
from trimtab.core.hashing import bytes_hash
from trimtab.core.records import GateRecord
from trimtab.registry import Registry, Version
from trimtab.registry.searching import Search
from trimtab.store.file_blob import FileBlob
from trimtab.store.sql_catalog import SqlCatalog
from trimtab.training import Fitted, evaluate, fit, save_evaluation, save_training_set, time_split
from trimtab.training.environment import current_environment, what_matters
from trimtab.training.fitting.artifact import encode_artifact

NOW_US = 1_361_000_000_000_000


class Desk:
    def __init__(self, folder: Path, world: Any, fits: list[Fitted]) -> None:
        self.folder, self.world, self.fits = folder, world, fits
        self.blob = FileBlob(folder / "blobs")
        self.catalog = SqlCatalog.sqlite(folder / "catalog.db")
        self.registry = Registry(self.catalog, self.blob, clock=VirtualClock(NOW_US), actor="tester")
        self.training_set = save_training_set(world.training_set(), self.blob)

    def version(self, number: int = 0, **given: Any) -> Version:
        return self.registry.register(self.fits[number], training_set=self.training_set, **given)

    def gate(self, candidate: Version, champion: Version | None) -> GateRecord:
        record = self.world.passed_gate(candidate, champion, judged_at_us=NOW_US)
        self.registry.put_gate(record)
        return record


@pytest.fixture(scope="module")
def fits(world: Any) -> list[Fitted]:
    training_set = world.training_set()
    trees = msgspec.structs.replace(world.model, estimator=lambda: LGBMClassifier(n_estimators=5))
    return [fit(world.model, training_set), fit(trees, training_set)]


@pytest.fixture
def desk(tmp_path: Path, world: Any, fits: list[Fitted]) -> Iterator[Desk]:
    made = Desk(tmp_path, world, fits)
    yield made
    made.catalog.close()


def test_tags_are_a_set_with_author_and_time_outside_the_id(desk: Desk) -> None:
    version = desk.version()
    first = desk.registry.tag(version, "approved", "region:eu", note="Looked at by hand.")
    assert [(tag.tag, tag.actor, tag.at_us) for tag in first] == [
        ("approved", "tester", NOW_US),
        ("region:eu", "tester", NOW_US),
    ]
    other = Registry(desk.catalog, desk.blob, clock=VirtualClock(NOW_US + 9), actor="else")
    assert [tag.tag for tag in other.tag("late_flight@1", "approved", "new")] == ["new"]
    assert {tag.tag: tag.actor for tag in desk.registry.tags(version)} == {
        "approved": "tester",
        "region:eu": "tester",
        "new": "else",
    }
    assert [note.text for note in desk.registry.notes(version)] == ["Looked at by hand."]
    assert desk.registry.get("late_flight@1").id == version.id
    for wrong in ("", "Approved", "two words", "x" * 101):
        with pytest.raises(Misuse, match="begin with a letter or digit"):
            desk.registry.tag(version, "fine", wrong)
    assert "fine" not in {tag.tag for tag in desk.registry.tags(version)}
    with pytest.raises(Misuse, match="0 letters; give 1"):
        desk.registry.tag(version, "fine", note="")
    assert "fine" not in {tag.tag for tag in desk.registry.tags(version)}  # it was added before the note was refused


def test_versions_are_found_by_tags_notes_and_definitions(desk: Desk, fits: list[Fitted]) -> None:
    training_set = desk.world.training_set()
    split = time_split(training_set)
    judged = evaluate(desk.world.model, fits[0], training_set, rows=split.holdout, train=split.train)
    one = desk.version(0, evaluation=save_evaluation(judged, desk.blob))
    two = desk.version(1, alias="challenger")
    desk.registry.tag(two, "fast", note="Half the trees of before.")

    def numbers(**given: Any) -> list[int]:
        return [found.version.number for found in desk.registry.search(Search(**given))]

    assert numbers() == [1, 2]
    assert numbers(tag="fast") == [2]
    assert numbers(text="half THE trees") == numbers(text="challenger") == numbers(text="lightgbm") == [2]
    assert numbers(text=one.id[:10]) == [1]
    assert numbers(feature="carrier") == numbers(feature="carrier.late_rate_7d") == numbers(feature="km") == [1, 2]
    assert numbers(source="landings") == numbers(source="flight") == [1, 2]
    for unknown, there in (
        ({"feature": "nothing"}, "feature or view 'nothing'. There are: .*carrier.late_rate_7d"),
        ({"source": "km"}, "source 'km'. There are: .*landings"),
        ({"metric": "auk>0.5"}, "metric 'auk'. There are: auc, .*log_loss"),
    ):
        with pytest.raises(NotFound, match=there):
            numbers(**unknown)
    assert judged.auc is not None
    assert numbers(metric="auc") == numbers(metric=f"auc>{judged.auc - 0.001}") == [1]
    assert numbers(metric=f"auc>{judged.auc + 0.001}") == []
    assert [(f.metric, f.value) for f in desk.registry.search(Search(metric="auc"))] == [("auc", judged.auc)]
    assert numbers(metric="log_loss") == [1, 2]
    assert numbers(metric=f"log_loss<={judged.value + 0.001}") == [1]  # the other was not evaluated
    assert numbers(metric=f"log_loss < {judged.value}") == []
    (found,) = desk.registry.search(Search(tag="fast"), model="late_flight")
    assert (found.tags, found.aliases, found.value, found.removed) == (("fast",), ("challenger",), None, False)
    assert desk.registry.search(model="other") == []
    for wrong in ("log_loss=3", "log_loss<x", "<3", ""):
        with pytest.raises(Misuse, match="write"):
            Search(metric=wrong)


def test_a_protected_alias_needs_what_was_declared(desk: Desk) -> None:
    one, two = desk.version(0), desk.version(1)
    registry = desk.registry
    registry.protect("late_flight", "canary", "gate", why="five percent of all users see it")
    with pytest.raises(Misuse, match="to 'canary': no gate record"):
        registry.move("late_flight", "canary", one, why="a long enough reason")
    with pytest.raises(Misuse, match="a canary needs evidence"):
        desk.version(0, alias="canary")
    registry.protect("late_flight", "live", "gate", why="a few users ask for it")
    with pytest.raises(Misuse, match="'live' is protected"):
        desk.version(0, alias="live")
    registry.protect("late_flight", "live", "nothing", why="nobody reads it any more")
    registry.move("late_flight", "canary", one, why="the first one", first=True)
    with pytest.raises(Conflict, match="compared the version with no version, but canary is now"):
        registry.move("late_flight", "canary", two, why="better", gate=desk.gate(two, None))
    registry.move("late_flight", "canary", two, why="better", gate=desk.gate(two, one))
    with pytest.raises(Misuse, match=f"canary back to {one.name}: the version has no passed gate record"):
        registry.roll_back("late_flight", "canary", why="breach")
    assert registry.roll_back("late_flight", "canary", why="a breach of limits").version == one.id
    registry.protect("late_flight", "canary", "reason", why="only inside from now on")
    with pytest.raises(Misuse, match=r"which is protected: why='because' is too short. Give a reason of 10 letters"):
        registry.move("late_flight", "canary", two, why="because")
    registry.move("late_flight", "canary", two, why="the weekly refresh")
    registry.protect("late_flight", "canary", "nothing", why="nobody reads it any more")
    with pytest.raises(Misuse, match=f"canary to {one.name}: the version has no passed gate record"):
        registry.move("late_flight", "canary", one, why="x")
    registry.move("late_flight", "canary", one, why="to look at it again")
    assert registry.needs("late_flight") | {"canary": "nothing", "live": "nothing"} == registry.needs("late_flight")
    assert [row.version for row in registry.history("late_flight", "canary")] == [
        one.id,
        two.id,
        one.id,
        two.id,
        one.id,
    ]
    with pytest.raises(Misuse, match=r"live: why='x' is too short. Give a reason of 10 letters"):
        registry.protect("late_flight", "live", "gate", why="x")
    with pytest.raises(Misuse, match="always needs a passed gate record"):
        registry.protect("late_flight", "champion", "nothing", why="in a hurry today")


def test_a_protected_alias_takes_a_record_against_the_champion_in_service_too(desk: Desk) -> None:
    one, two = desk.version(0), desk.version(1)
    registry = desk.registry
    registry.move("late_flight", "champion", one, why="the first one", gate=desk.gate(one, None))
    registry.protect("late_flight", "canary", "gate", why="five percent of all users see it")
    said = r"no gate record.*Give a version that passed its gate \(trimtab versions card late_flight@2.*--needs reason"
    with pytest.raises(Misuse, match=said):
        registry.move("late_flight", "canary", two, why="better")
    row = registry.move("late_flight", "canary", two, why="better", gate=desk.gate(two, one))
    assert row.version == two.id
    other = msgspec.structs.replace(
        desk.world.passed_gate(one, two, judged_at_us=NOW_US), id="gate_other", champion="f"
    )
    registry.put_gate(other)
    with pytest.raises(Conflict, match="compared the version with f, but canary is now"):
        registry.move("late_flight", "canary", one, why="another one", gate=other)


def test_a_protection_stops_a_running_move(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    version, registry = desk.version(), desk.registry
    needs = registry._protections.needs

    def then_protect(model: str, alias: str) -> Any:
        found = needs(model, alias)
        Registry(desk.catalog, desk.blob, clock=VirtualClock(NOW_US), actor="else").protect(
            model, alias, "gate", why="from this moment on"
        )
        return found

    monkeypatch.setattr(registry._protections, "needs", then_protect)
    with pytest.raises(Conflict, match="it was moved or protected meanwhile"):
        registry.move("late_flight", "canary", version, why="before anybody looks")
    assert registry.alias("late_flight", "canary") is None


def promote(folder: Path, candidate: str, gate: str, start: Any, said: Any) -> None:
    with SqlCatalog.sqlite(folder / "catalog.db") as catalog:
        registry = Registry(catalog, FileBlob(folder / "blobs"), clock=SystemClock(), actor=f"p{candidate[:4]}")
        start.wait(20)
        try:
            registry.move("late_flight", "champion", candidate, why="promote it", gate=gate)
            said.put(("won", candidate, ""))
        except Conflict as error:
            said.put(("lost", candidate, str(error)))


def test_of_two_promotions_in_two_processes_one_wins_and_the_other_names_it(desk: Desk) -> None:
    first, one = desk.version(0), desk.version(1)
    two = desk.version(0, refit_of=one.id)
    desk.registry.move("late_flight", "champion", first, why="the first one of all", first=True)
    gates = {version.id: desk.gate(version, first).id for version in (one, two)}
    desk.catalog.close()
    fork = multiprocessing.get_context("fork")
    start, said = fork.Barrier(2), fork.Queue()
    workers = [fork.Process(target=promote, args=(desk.folder, *pair, start, said)) for pair in gates.items()]
    for worker in workers:
        worker.start()
    results = sorted(said.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    (lost, _, message), (won, winner, _) = results
    assert (lost, won) == ("lost", "won")
    assert winner[:12] in message
    with SqlCatalog.sqlite(desk.folder / "catalog.db") as catalog:
        registry = Registry(catalog, desk.blob, clock=SystemClock(), actor="tester")
        now = registry.alias("late_flight", "champion")
        assert now is not None
        assert now.id == winner
        assert len(registry.history("late_flight", "champion")) == 2


@pytest.mark.parametrize("number", [0, 1])
def test_tampered_bytes_reach_no_parser_and_the_file_is_named(
    desk: Desk, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = desk.version(number)
    path = next((desk.folder / "blobs").rglob(version.artifact))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))

    def parser(artifact: object) -> object:
        raise AssertionError("changed bytes reached a parser")

    monkeypatch.setattr("trimtab.registry.loading.scorer_for", parser)
    monkeypatch.setattr("trimtab.registry.loading.decode_artifact", parser)
    with pytest.raises(Corrupt, match=str(path)):
        desk.registry.load(version)


@contextlib.contextmanager
def no_file_may_grow_beyond(size_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_is_full_leaves_nothing_half_registered(desk: Desk) -> None:
    artifact = msgspec.structs.replace(desk.fits[1].artifact, kind="k" * 5_000_000)
    data = encode_artifact(artifact)
    large = msgspec.structs.replace(desk.fits[1], artifact=artifact, data=data, digest=bytes_hash(data))
    with no_file_may_grow_beyond(4_000_000), pytest.raises(Unavailable, match=r"Check free space .*; nothing was lost"):
        desk.registry.register(large, training_set=desk.training_set)
    assert desk.registry.search() == []
    assert not desk.blob.exists(large.digest)
    assert not list((desk.folder / "blobs").rglob("*.new"))
    version = desk.registry.register(large, training_set=desk.training_set)
    assert version.number == 1


def test_a_machine_of_another_kind_is_warned_of_or_refused(
    desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = current_environment()
    there = msgspec.structs.replace(here, architecture="aarch64", packages={**here.packages, "lightgbm": "2.9.1"})
    elsewhere = Registry(desk.catalog, desk.blob, clock=VirtualClock(NOW_US), actor="a", environment=there)
    version = elsewhere.register(desk.fits[1], training_set=desk.training_set)
    desk.registry.load(version)
    assert "it was made in another environment: lightgbm 2.9.1 -> " in caplog.text
    assert f"architecture aarch64 -> {here.architecture}" in caplog.text

    def refuses(artifact: object) -> object:
        raise Corrupt("lightgbm: these letters are not a booster: unknown version")

    monkeypatch.setattr("trimtab.registry.loading.scorer_for", refuses)
    with pytest.raises(Misuse, match=r"lightgbm cannot load it here: .*architecture aarch64 -> .*retrain it here"):
        desk.registry.load(version)
    with pytest.raises(Corrupt, match="not a booster"):
        desk.registry.load(desk.version(0))


def test_only_what_matters_to_a_runtime_is_listed() -> None:
    here = current_environment()
    assert here.architecture
    assert here.system
    old = msgspec.structs.replace(here, python="2.7.1", packages={**here.packages, "numpy": "1.0", "xgboost": "0.1"})
    assert what_matters(old, here, "lightgbm") == []
    assert [one.split()[0] for one in what_matters(old, here, "pickle")] == ["numpy", "Python"]
    before_it_was_recorded = msgspec.structs.replace(here, architecture="", system="")
    assert what_matters(before_it_was_recorded, here, "lightgbm") == []


def test_settings_protect_as_well_and_the_stricter_requirement_counts(desk: Desk) -> None:
    declared: Any = {"late_flight": {"canary": "gate", "live": "reason"}, "new": {}}
    registry = Registry(desk.catalog, desk.blob, clock=VirtualClock(NOW_US), actor="x", declared=declared)
    version = desk.version(1)
    with pytest.raises(Misuse, match="no gate record"):
        registry.move("late_flight", "canary", version, why="five percent of all users")
    with pytest.raises(Misuse, match="too short"):
        registry.move("late_flight", "live", version, why="because")
    registry.protect("late_flight", "live", "gate", why="it grew important")
    with pytest.raises(
        Misuse,
        match=r"settings require a gate for a move, and 'nothing' is less.*\[registry.protected.late_flight\]",
    ):
        registry.protect("late_flight", "canary", "nothing", why="in a hurry today")
    assert registry.needs("late_flight") == {"canary": "gate", "champion": "gate", "live": "gate"}
    registry.protect("new", "live", "reason", why="before its first version")
    with pytest.raises(NotFound, match=r"no model 'late_fligth'. There are: late_flight, new"):
        registry.protect("late_fligth", "live", "gate", why="a slip of the pen")
