from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from lightgbm import LGBMClassifier

from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound
from trimtab.core.records import GateRecord
from trimtab.registry import Registry, Version
from trimtab.store.file_blob import FileBlob
from trimtab.store.ports import Put
from trimtab.store.sql_catalog import SqlCatalog
from trimtab.testing.builders import a_gate_record
from trimtab.training import Fitted, evaluate, fit, save_evaluation, save_training_set, time_split

NOW_US = 1_361_000_000_000_000


class Shop:
    """A registry with its stores, and fitted models of three recipes."""

    def __init__(self, folder: Path, world: Any, fits: list[Fitted]) -> None:
        self.folder = folder
        self.clock = VirtualClock(NOW_US)
        self.blob = FileBlob(folder / "blobs")
        self.catalog = SqlCatalog.sqlite(folder / "catalog.db")
        self.registry = Registry(self.catalog, self.blob, clock=self.clock, actor="tester")
        self.training_set = save_training_set(world.training_set(), self.blob)
        self.fits = fits

    def version(self, number: int = 0, **given: Any) -> Version:
        return self.registry.register(self.fits[number], training_set=self.training_set, **given)

    def gate(self, candidate: Version, champion: Version | None, *, passed: bool = True, **given: Any) -> GateRecord:
        fields = {
            "id": f"gate_{candidate.id[:6]}_{(champion.id if champion else 'none')[:6]}_{passed}",
            "model": candidate.model,
            "candidate": candidate.id,
            "champion": champion.id if champion else None,
            "champion_metric": 0.5 if champion else None,
            "judged_at_us": self.clock.now_us(),
            "rows": 100,
            "passed": passed,
            "reason": "Better by 0.1." if passed else "Worse by 0.1.",
        }
        record = a_gate_record(**fields | given)
        self.registry.put_gate(record)
        return record


@pytest.fixture(scope="session")
def fits(world: Any) -> list[Fitted]:
    training_set = world.training_set()
    trees = msgspec.structs.replace(world.model, estimator=lambda: LGBMClassifier(n_estimators=20))
    half = np.arange(training_set.rows) < 600
    return [fit(world.model, training_set), fit(trees, training_set), fit(trees, training_set, rows=half)]


@pytest.fixture
def shop(tmp_path: Path, world: Any, fits: list[Fitted]) -> Iterator[Shop]:
    made = Shop(tmp_path, world, fits)
    yield made
    made.catalog.close()


def test_an_equal_retrain_is_the_same_version_and_numbers_count_distinct_ones(shop: Shop, world: Any) -> None:
    first, second = shop.version(0), shop.version(1)
    shop.clock.advance_to(NOW_US + 10)
    again = shop.registry.register(fit(world.model, world.training_set()), training_set=shop.training_set)
    assert again == first
    assert (first.name, second.name) == ("late_flight@1", "late_flight@2")
    assert shop.registry.versions("late_flight") == [first, second]


def test_the_environment_and_the_time_are_recorded_but_not_part_of_the_address(shop: Shop, tmp_path: Path) -> None:
    first = shop.version(0)
    other_environment = msgspec.structs.replace(first.environment, cpu="other", python="4.0")
    clock = VirtualClock(NOW_US + 99)
    with SqlCatalog.sqlite(tmp_path / "other.db") as catalog:
        elsewhere = Registry(catalog, shop.blob, clock=clock, actor="else", environment=other_environment)
        second = elsewhere.register(shop.fits[0], training_set=shop.training_set)
    assert second.id == first.id
    assert second.environment.cpu == "other"
    assert second.made_at_us != first.made_at_us


def test_a_version_is_found_by_number_alias_and_beginning_of_its_address(shop: Shop) -> None:
    first, second = shop.version(0), shop.version(1)
    shop.registry.move("late_flight", "shadow", second, why="try")
    get = shop.registry.get
    assert get("late_flight@1") == get(first.id) == get(first.id[:8]) == get(f"late_flight@{first.id[:8]}") == first
    assert get("late_flight@shadow") == second
    shop.registry.move("late_flight", "facade", second, why="a name of hexadecimal digits")
    assert get("late_flight@facade") == second
    for wrong in ("late_flight@3", "late_flight@champion", "other@1", "000000", "late_flight", "abc"):
        with pytest.raises(NotFound):
            get(wrong)
    with pytest.raises(NotFound, match=r"@1 to @2; aliases: @facade, @shadow"):
        get("late_flight@9")
    with pytest.raises(NotFound, match="there are versions of late_flight"):
        get("other@1")


def test_a_loaded_version_scores_like_the_fitted_one(shop: Shop, world: Any) -> None:
    values = world.training_set().features.values
    for number in range(3):
        version = shop.version(number)
        loaded = shop.registry.load(version, features=world.model.features)
        assert loaded.predict(loaded.encoding.matrix(values)).tobytes() == shop.fits[number].predict(values).tobytes()
        row = loaded.encoding.matrix(values)[7].tolist()
        assert loaded.predict_row(row) == pytest.approx(shop.fits[number].predict(values)[7], abs=1e-12)
        assert loaded.inputs == world.model.features.names


def test_other_feature_definitions_or_another_order_are_refused_at_load(shop: Shop, world: Any) -> None:
    features = world.model.features
    other = msgspec.structs.replace(features, transforms={"name": features.transforms["name"]})
    with pytest.raises(Misuse, match=f"the project now declares {other.hash[:12]}"):
        shop.registry.load(shop.version(0), features=other)
    with pytest.raises(Misuse, match="the project now declares 0000"):
        shop.registry.load(shop.version(0), features="0" * 64)
    turned = msgspec.structs.replace(features, dtypes=dict(reversed(features.dtypes.items())))
    with pytest.raises(Misuse, match=r"order carrier.late_rate_7d, name, km|now declares"):
        shop.registry.load(shop.version(0), features=turned)


def test_registering_with_an_alias_is_one_transaction(shop: Shop) -> None:
    version = shop.version(0, alias="challenger")
    assert shop.registry.alias("late_flight", "challenger") == version
    second = shop.version(1, alias="challenger")
    assert shop.version(0, alias="challenger") == version
    history = shop.registry.history("late_flight", "challenger")
    assert [row.version for row in history] == [version.id, second.id, version.id]
    with pytest.raises(Misuse, match="a champion needs evidence"):
        shop.version(2, alias="champion")
    with pytest.raises(Misuse, match="begins with a letter"):
        shop.version(2, alias="7")
    assert len(shop.registry.versions("late_flight")) == 2


def test_a_changed_blob_is_refused_and_named(shop: Shop) -> None:
    version = shop.version(1)
    path = next(p for p in (shop.folder / "blobs").rglob(version.artifact) if p.is_file())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(data))
    with pytest.raises(Corrupt, match=version.artifact):
        shop.registry.load(version)
    path.unlink()
    with pytest.raises(Corrupt, match=version.artifact):
        shop.registry.load(version)


def test_a_record_that_was_changed_after_it_was_made_is_refused(shop: Shop) -> None:
    first, second = shop.version(0), shop.version(1)
    forged = msgspec.structs.replace(first, artifact=second.artifact)
    shop.catalog.write([Put("version", first.id, msgspec.json.encode(forged))])
    fresh = Registry(shop.catalog, shop.blob, clock=shop.clock, actor="b")  # one that has not read it before
    with pytest.raises(Corrupt, match="record was changed"):
        fresh.load(first.id)


def test_golden_predictions_that_are_not_repeated_stop_a_version(shop: Shop) -> None:
    fitted = shop.fits[1]
    scores = (np.frombuffer(fitted.artifact.golden.scores) + 1e-6).tobytes()
    golden = msgspec.structs.replace(fitted.artifact.golden, scores=scores)
    artifact = msgspec.structs.replace(fitted.artifact, golden=golden)
    broken = msgspec.structs.replace(fitted, artifact=artifact, data=msgspec.msgpack.encode(artifact))
    broken = msgspec.structs.replace(broken, digest=shop.blob.put(broken.data))
    version = shop.registry.register(broken, training_set=shop.training_set)
    with pytest.raises(Misuse, match="golden predictions differ by 1e-06"):
        shop.registry.load(version)


def test_another_processor_may_differ_in_the_last_digits_and_says_so(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    fitted = shop.fits[1]
    scores = (np.frombuffer(fitted.artifact.golden.scores) + 1e-13).tobytes()
    artifact = msgspec.structs.replace(
        fitted.artifact, golden=msgspec.structs.replace(fitted.artifact.golden, scores=scores)
    )
    data = msgspec.msgpack.encode(artifact)
    moved = msgspec.structs.replace(fitted, artifact=artifact, data=data, digest=shop.blob.put(data))
    environment = msgspec.structs.replace(shop.version(0).environment, cpu="sse2")
    elsewhere = Registry(shop.catalog, shop.blob, clock=shop.clock, actor="a", environment=environment)
    version = elsewhere.register(moved, training_set=shop.training_set)
    assert shop.registry.load(version).version == version
    assert "processor sse2 -> " in caplog.text


def test_what_a_version_refers_to_must_be_stored(shop: Shop) -> None:
    with pytest.raises(Misuse, match=r"its training set 0000.* is not stored"):
        shop.registry.register(shop.fits[0], training_set="0" * 64)
    with pytest.raises(Misuse, match="its evaluation"):
        shop.version(0, evaluation="1" * 64)
    with pytest.raises(NotFound):
        shop.version(0, refit_of="2" * 64)
    assert shop.registry.versions("late_flight") == []


def test_a_champion_needs_a_passed_gate_record_of_its_own(shop: Shop) -> None:
    first, second, third = shop.version(0), shop.version(1), shop.version(2)
    move = shop.registry.move
    with pytest.raises(Misuse, match=r"no gate record.*first=True"):
        move("late_flight", "champion", first, why="try")
    move("late_flight", "champion", first, why="the first one of all", first=True)
    with pytest.raises(Misuse, match="no gate record"):
        move("late_flight", "champion", second, why="try")
    with pytest.raises(Misuse, match=r"given as the first .* is champion already. Judge it .* \(trimtab promote"):
        move("late_flight", "champion", second, why="once more the first", first=True)
    with pytest.raises(NotFound, match="no such record"):
        move("late_flight", "champion", second, why="try", gate="gate_x")
    with pytest.raises(Misuse, match=r"did not pass: provably_better failed: Worse by 0\.1"):
        move("late_flight", "champion", second, why="try", gate=shop.gate(second, first, passed=False))
    with pytest.raises(Misuse, match=f"judged {third.id[:12]}"):
        move("late_flight", "champion", second, why="try", gate=shop.gate(third, first))
    with pytest.raises(Conflict, match="compared the version with no version"):
        move("late_flight", "champion", second, why="try", gate=shop.gate(second, None))
    unkept = msgspec.structs.replace(shop.gate(second, first, id="gate_kept"), candidate_metric=0.0)
    with pytest.raises(Misuse, match="differs from the stored one"):
        move("late_flight", "champion", second, why="try", gate=unkept)
    assert shop.registry.alias("late_flight", "champion") == first
    row = move("late_flight", "champion", second, why="better", gate=shop.gate(second, first))
    assert (row.previous, row.act, row.gate) == (first.id, "move", shop.gate(second, first).id)
    assert shop.registry.alias("late_flight", "champion") == second


def test_a_refit_is_promoted_by_the_record_of_the_version_it_refits(shop: Shop) -> None:
    first, judged = shop.version(0), shop.version(2)
    refit = shop.version(1, refit_of=judged.id)
    shop.registry.move("late_flight", "champion", first, why="the first one of all", first=True)
    shop.registry.move("late_flight", "champion", refit, why="gated", gate=shop.gate(judged, first))
    assert shop.registry.alias("late_flight", "champion") == refit
    assert shop.version(1) != refit
    assert [g.candidate for g in shop.registry.gates_of(refit)] == [judged.id]


def test_history_says_what_ran_when_and_roll_back_goes_one_step_further_each_time(shop: Shop) -> None:
    registry = shop.registry
    versions = [shop.version(n) for n in range(3)]
    for number, version in enumerate(versions):
        shop.clock.advance_to(NOW_US + 100 * (number + 1))
        registry.move("late_flight", "own", version, why=f"move {number}")
    shop.clock.advance_to(NOW_US + 1_000)
    assert registry.roll_back("late_flight", "own", why="breach").version == versions[1].id
    assert registry.roll_back("late_flight", "own", why="breach").version == versions[0].id
    with pytest.raises(NotFound, match="no earlier version"):
        registry.roll_back("late_flight", "own", why="breach")
    registry.move("late_flight", "own", versions[2], why="again")
    assert registry.roll_back("late_flight", "own", why="breach").version == versions[0].id
    history = registry.history("late_flight", "own")
    assert [row.sequence for row in history] == list(range(1, 8))
    assert all(row.previous == before.version for before, row in itertools.pairwise(history))
    assert [row.act for row in history] == ["first", "move", "move", "roll_back", "roll_back", "move", "roll_back"]


def test_a_move_to_where_it_is_already_changes_nothing(shop: Shop) -> None:
    version = shop.version(0)
    row = shop.registry.move("late_flight", "own", version, why="once")
    assert shop.registry.move("late_flight", "own", version, why="twice") == row
    assert len(shop.registry.history("late_flight", "own")) == 1


def test_a_move_that_expected_another_version_is_a_conflict(shop: Shop) -> None:
    first, second = shop.version(0), shop.version(1)
    shop.registry.move("late_flight", "own", first, why="start", expected_previous=None)
    with pytest.raises(Conflict, match=r"expected no version, found late_flight@1\. Read"):
        shop.registry.move("late_flight", "own", second, why="late", expected_previous=None)
    shop.registry.move("late_flight", "own", second, why="next", expected_previous=first.id)
    with pytest.raises(Conflict, match=r"expected late_flight@1, found late_flight@2\. Read"):
        shop.registry.roll_back("late_flight", "own", why="late", expected_previous=first.id)
    assert shop.registry.roll_back("late_flight", "own", why="back", expected_previous=second.id).version == first.id


def test_of_moves_at_once_the_history_holds_exactly_those_that_happened(shop: Shop) -> None:
    start, *others = (shop.version(n) for n in range(3))
    shop.registry.move("late_flight", "own", start, why="start")
    for _ in range(5):
        before = shop.registry.alias("late_flight", "own")
        assert before is not None
        results: list[str] = []
        barrier = threading.Barrier(2)
        targets = [v for v in (start, *others) if v != before]

        def act(version: Version, before: Version = before, barrier: Any = barrier, results: Any = results) -> None:
            barrier.wait()
            try:
                shop.registry.move("late_flight", "own", version, why="race", expected_previous=before.id)
                results.append("moved")
            except Conflict:
                results.append("conflict")

        threads = [threading.Thread(target=act, args=(version,)) for version in targets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == ["conflict", "moved"]
    history = shop.registry.history("late_flight", "own")
    assert len(history) == 6
    now = shop.registry.alias("late_flight", "own")
    assert now is not None
    assert history[-1].version == now.id


def test_a_clock_that_goes_back_does_not_disorder_the_history(shop: Shop) -> None:
    first, second = shop.version(0), shop.version(1)
    shop.registry.move("late_flight", "own", first, why="start")
    behind = Registry(shop.catalog, shop.blob, clock=VirtualClock(NOW_US - 5_000), actor="b")
    assert behind.move("late_flight", "own", second, why="next").at_us == NOW_US
    assert [row.version for row in shop.registry.history("late_flight", "own")] == [first.id, second.id]


@pytest.mark.parametrize(
    ("model", "alias", "why"), [("other", "own", "x"), ("late_flight", "7", "x"), ("late_flight", "own", " ")]
)
def test_a_move_that_makes_no_sense_is_refused(shop: Shop, model: str, alias: str, why: str) -> None:
    with pytest.raises(Misuse, match="Give"):
        shop.registry.move(model, alias, shop.version(0), why=why)


def test_a_gate_record_is_kept_once(shop: Shop) -> None:
    version = shop.version(0)
    record = shop.gate(version, None)
    shop.registry.put_gate(record)
    assert shop.registry.get_gate(record.id) == record
    assert shop.registry.gates_of(version) == [record]
    with pytest.raises(Conflict, match="another record has this id"):
        shop.registry.put_gate(msgspec.structs.replace(record, rows=7))


def test_a_card_shows_everything_from_records(shop: Shop, world: Any) -> None:
    training_set = world.training_set()
    split = time_split(training_set)
    found = evaluate(world.model, shop.fits[0], training_set, rows=split.holdout, train=split.train)
    version = shop.version(0, evaluation=save_evaluation(found, shop.blob))
    shop.registry.move("late_flight", "champion", version, why="a | first start", first=True)
    shop.gate(version, None, passed=False)
    card = shop.registry.card("late_flight@champion")
    for said in (
        "# late_flight@1",
        version.id,
        "LogisticRegression",
        "carrier.late_rate_7d",
        "2013-02",
    ):
        assert said in card
    for said in ("| linear |", "a \\| first start", "Worse by 0.1.", "labelled", version.environment.cpu):
        assert said in card
    assert shop.registry.card(version) == card


def test_a_copied_project_has_the_same_versions(shop: Shop, tmp_path: Path) -> None:
    version = shop.version(1)
    shop.registry.move("late_flight", "own", version, why="x")
    shop.catalog.close()
    copy: Callable[..., Any] = shutil.copytree
    copy(shop.folder, tmp_path.parent / f"{tmp_path.name}_copy")
    folder = tmp_path.parent / f"{tmp_path.name}_copy"
    with SqlCatalog.sqlite(folder / "catalog.db") as catalog:
        other = Registry(catalog, FileBlob(folder / "blobs"), clock=shop.clock, actor="b")
        assert other.load("late_flight@own").version == version
