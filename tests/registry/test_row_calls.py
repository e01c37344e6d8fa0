from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from lightgbm import LGBMClassifier
from sklearn.ensemble import RandomForestClassifier

from trimtab.core.clock import VirtualClock
from trimtab.core.hashing import bytes_hash
from trimtab.registry import Registry, Version
from trimtab.registry.loading import LoadedModel
from trimtab.store.file_blob import FileBlob
from trimtab.store.ports import Put
from trimtab.store.sql_catalog import SqlCatalog
from trimtab.training import fit, save_training_set
from trimtab.training.environment import current_environment
from trimtab.training.fitting.artifact import encode_artifact
from trimtab.training.fitting.path_choice import RowChoice, choose_row_call
from trimtab.training.runtimes import sklearn
from trimtab.training.runtimes.scoring_paths import several_paths
from trimtab.training.runtimes.sklearn import EstimatorModel


class Forest:
    """A registry with a forest in it, which has two ways for a row."""

    def __init__(self, folder: Path, world: Any) -> None:
        self.catalog, self.blob = SqlCatalog.sqlite(folder / "catalog.db"), FileBlob(folder / "blobs")
        training_set = world.training_set()
        model = msgspec.structs.replace(world.model, estimator=lambda: RandomForestClassifier(8))
        self.rows = training_set.features.values
        self.training_set = save_training_set(training_set, self.blob)
        self.fitted = fit(model, training_set)
        self.version = self.registry().register(self.fitted, training_set=self.training_set)

    def registry(self, **given: Any) -> Registry:
        return Registry(self.catalog, self.blob, clock=VirtualClock(1_361_000_000_000_000), actor="tester", **given)

    def matrix(self, loaded: LoadedModel) -> list[list[float]]:
        found: list[list[float]] = loaded.encoding.matrix(self.rows)[:50].tolist()
        return found

    def keep(self, choice: RowChoice, version: Version, **changed: Any) -> None:
        body = msgspec.json.encode(msgspec.structs.replace(choice, **changed))
        self.catalog.write([Put("row_call", f"{version.id}/{choice.machine}", body)])


@pytest.fixture
def forest(tmp_path: Path, make: Callable[..., Any]) -> Iterator[Forest]:
    made = Forest(tmp_path, make())
    yield made
    made.catalog.close()


def test_a_choice_is_made_once_a_kind_of_machine_and_followed_at_each_load(forest: Forest) -> None:
    registry = forest.registry()
    loaded = registry.load(forest.version)
    assert registry.row_choices(forest.version) == []
    choice = registry.choose_row_call(loaded, forest.matrix(loaded))
    assert choice is not None
    assert choice.chosen == "trees" == loaded.row_call
    assert choice.rows == 59
    assert " us by path trees (" in choice.text
    assert "(library: " in choice.text
    assert {one.name: one.accepted for one in choice.trials} == {"trees": True, "library": True}
    assert f"time to score a single row on {choice.machine} | {choice.text}" in registry.card(forest.version)
    assert registry.choose_row_call(loaded) == choice == forest.registry().row_choices(forest.version.name)[0]

    forest.keep(choice, forest.version, chosen="library")
    assert forest.registry().load(forest.version).row_call == "library"
    packages = {**current_environment().packages, "sklearn": "0.1"}
    elsewhere = msgspec.structs.replace(current_environment(), packages=packages)
    assert forest.registry(environment=elsewhere).load(forest.version).row_call == "trees"


def test_a_refit_takes_what_was_found_for_the_version_that_was_judged(forest: Forest) -> None:
    registry = forest.registry()
    choice = registry.choose_row_call(registry.load(forest.version))
    assert choice is not None
    forest.keep(choice, forest.version, chosen="library")
    refit = registry.register(forest.fitted, training_set=forest.training_set, refit_of=forest.version.id)
    assert forest.registry().load(refit).row_call == "library"


def test_a_recorded_path_that_is_missing_here_is_logged_and_another_taken(
    forest: Forest, caplog: pytest.LogCaptureFixture
) -> None:
    registry = forest.registry()
    choice = registry.choose_row_call(registry.load(forest.version))
    assert choice is not None
    forest.keep(choice, forest.version, chosen="telepathy")
    with caplog.at_level(logging.WARNING):
        assert forest.registry().load(forest.version).row_call == "trees"
    assert "'telepathy'" in caplog.text
    assert "Using 'trees'" in caplog.text


def test_a_path_that_does_not_agree_is_never_chosen_however_quick(forest: Forest) -> None:
    loaded = forest.registry().load(forest.version)
    inner = several_paths(loaded.scorer)
    assert inner is not None
    inner.row_calls["trees"] = lambda row: 0.5  # what a broken way would be
    found = choose_row_call(loaded.artifact, loaded.scorer, version="v", machine="m", at_us=0)
    assert found is not None
    assert found.chosen == "library" == loaded.row_call
    assert [one.accepted for one in found.trials] == [False, True]
    assert "refused" in found.text


def test_a_path_whose_error_is_in_the_recorded_tolerance_is_not_taken(
    forest: Forest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = msgspec.structs.replace(forest.fitted.artifact, row_tolerance=0.5)
    data = encode_artifact(artifact)
    wide = msgspec.structs.replace(forest.fitted, artifact=artifact, data=data, digest=bytes_hash(data))
    version = forest.registry().register(wide, training_set=forest.training_set)
    assert forest.registry().load(version).row_call == "trees"

    loaded = forest.registry().load(version)
    inner = several_paths(loaded.scorer)
    assert inner is not None
    right = inner.row_calls["trees"]

    def off(by: float) -> Callable[[list[float]], Any]:
        return lambda row: np.add(right(row), by).item()

    inner.row_calls["trees"] = off(0.01)  # type: ignore[index]  # what a broken way would be
    inner.choose("trees")
    found = choose_row_call(loaded.artifact, loaded.scorer, version="v", machine="m", at_us=0)
    assert found is not None
    assert (found.chosen, [one.accepted for one in found.trials]) == ("library", [False, True])
    inner.row_calls["trees"] = off(1e-10)  # type: ignore[index]  # within what the runtime promises
    inner.choose("trees")
    found = choose_row_call(loaded.artifact, loaded.scorer, version="v", machine="m", at_us=0)
    assert found is not None
    assert (found.chosen, [one.accepted for one in found.trials]) == ("trees", [True, True])

    monkeypatch.setattr(EstimatorModel, "agrees", lambda self, call: True)  # as one that was not found out there
    monkeypatch.setattr(sklearn, "quick_row", lambda fitted: ("trees", off(0.01)))
    with caplog.at_level(logging.WARNING):
        assert forest.registry().load(version).row_call == "library"
    assert "path 'trees' does not reproduce the golden predictions on this machine" in caplog.text
    monkeypatch.setattr(sklearn, "quick_row", lambda fitted: ("trees", off(1e-10)))
    assert forest.registry().load(version).row_call == "trees"


def test_a_model_with_one_path_has_no_choice(forest: Forest, make: Callable[..., Any]) -> None:
    world = make()
    version = forest.registry().register(fit(world.model, world.training_set()), training_set=forest.training_set)
    loaded = forest.registry().load(version)
    assert loaded.row_call is None
    assert forest.registry().choose_row_call(loaded) is None


def test_a_lightgbm_version_is_loaded_without_its_package_and_what_that_brings(
    tmp_path: Path, make: Callable[..., Any]
) -> None:
    world = make()
    catalog, blob = SqlCatalog.sqlite(tmp_path / "catalog.db"), FileBlob(tmp_path / "blobs")
    training_set = world.training_set()
    model = msgspec.structs.replace(world.model, estimator=lambda: LGBMClassifier(n_estimators=8))
    registry = Registry(catalog, blob, clock=VirtualClock(1_361_000_000_000_000), actor="tester")
    version = registry.register(fit(model, training_set), training_set=save_training_set(training_set, blob))
    loaded = registry.load(version)
    row = loaded.encoding.matrix(training_set.features.values)[3].tolist()
    catalog.close()
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from trimtab.core.clock import SystemClock\n"
        "from trimtab.registry import Registry\n"
        "from trimtab.store.file_blob import FileBlob\n"
        "from trimtab.store.sql_catalog import SqlCatalog\n"
        "folder, reference, row = Path(sys.argv[1]), sys.argv[2], [float(one) for one in sys.argv[3:]]\n"
        "catalog = SqlCatalog.sqlite(folder / 'catalog.db')\n"
        "registry = Registry(catalog, FileBlob(folder / 'blobs'), clock=SystemClock(), actor='tester')\n"
        "print(registry.load(reference).predict_row(row).hex())\n"
        "catalog.close()\n"
        "print(*{'lightgbm', 'sklearn', 'scipy', 'pandas', 'duckdb', 'skops'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", code, str(tmp_path), version.name, *map(repr, row)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [loaded.predict_row(row).hex()]  # type: ignore[union-attr]  # a number
