from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import yaml
from catboost import CatBoostClassifier
from lightgbm import LGBMClassifier, LGBMRegressor
from river import compose, linear_model, preprocessing
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Conflict, Misuse
from trimtab.core.expressions.nodes import col
from trimtab.features.definitions import label
from trimtab.registry import LoadedModel, Registry
from trimtab.registry.describing.signature import signature_of
from trimtab.registry.transfer.export import Exported, export_version
from trimtab.registry.transfer.standalone import Model, ModelError
from trimtab.store.file_blob import FileBlob
from trimtab.store.sql_catalog import SqlCatalog
from trimtab.training import build_training_set, fit, save_training_set
from trimtab.training.runtimes.estimators import onnx

_BLOCKED = """
import runpy, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("trimtab", "msgspec", "mlflow"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

ESTIMATORS: dict[str, Callable[[], Any]] = {
    "lightgbm": lambda: LGBMClassifier(n_estimators=10),
    "xgboost": lambda: XGBClassifier(n_estimators=10),
    "catboost": lambda: CatBoostClassifier(iterations=10),
    "onnx": lambda: onnx(LogisticRegression()),
    "sklearn linear": lambda: LogisticRegression(),
    "sklearn trees": lambda: HistGradientBoostingClassifier(max_iter=10),
    "sklearn pipeline": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "river": lambda: compose.Pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression()),
}


class Stubborn:
    """An estimator of a user's own."""

    def fit(self, inputs: Any, target: Any) -> Any:
        self.mean = float(np.mean(target))
        return self

    def predict(self, inputs: Any) -> Any:
        return np.full(len(inputs), self.mean)


def loaded_of(tmp_path: Path, world: Any, **changed: Any) -> LoadedModel:
    training_set = world.training_set()
    trust = changed.pop("trust", None)
    fitted = fit(msgspec.structs.replace(world.model, **changed), training_set, trust=trust)
    blob = FileBlob(tmp_path / "blobs")
    digest = save_training_set(training_set, blob)
    with SqlCatalog.sqlite(tmp_path / "catalog.db") as catalog:
        registry = Registry(catalog, blob, clock=VirtualClock(1_361_000_000_000_000), actor="tester")
        return registry.load(registry.register(fitted, training_set=digest))


def run(folder: Path, file: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an exported file in a process in which trimtab cannot be imported."""
    command = [sys.executable, "-I", "-W", "error::SyntaxWarning", "-c", _BLOCKED, str(folder / file), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def exported(loaded: LoadedModel, folder: Path, **given: Any) -> Exported:
    return export_version(loaded, folder, card="# card\n", **given)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory, world: Any) -> LoadedModel:
    return loaded_of(tmp_path_factory.mktemp("trees"), world, estimator=ESTIMATORS["lightgbm"], calibration="platt")


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_export_answers_as_the_version_does(name: str, tmp_path: Path, world: Any) -> None:
    loaded = loaded_of(tmp_path, world, estimator=ESTIMATORS[name])
    done = exported(loaded, tmp_path / "out")
    assert done.golden == 9
    assert done.difference <= done.tolerance <= 1e-6
    values = world.training_set().features.values
    columns = {field: values[field].to_list() for field in values.names}
    expected = loaded.predict(loaded.encoding.matrix(values))
    np.testing.assert_allclose(Model(tmp_path / "out").predict(columns), expected, rtol=0, atol=done.tolerance)
    if loaded.artifact.row_exact:
        assert done.difference == 0.0
    code = (tmp_path / "out" / done.check).read_text()
    assert re.search(r"^\s*(import|from) trimtab", code, flags=re.MULTILINE) is None
    if name in ("lightgbm", "sklearn pipeline"):
        found = run(tmp_path / "out", done.check, "--check")  # where trimtab cannot be imported
        assert found.returncode == 0, found.stderr
        assert "late_flight@1: 9 golden predictions repeated" in found.stdout


@pytest.mark.slow
def test_an_export_scores_files(trees: LoadedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = exported(trees, tmp_path / "out", mlflow=True)
    (tmp_path / "rows.csv").write_text("carrier.late_rate_7d,name,km\n0.25,c1,900\n,unheard of,\n")
    rows = [{"carrier.late_rate_7d": 0.25, "name": "c1", "km": 900}, {"carrier.late_rate_7d": None, "name": "x"}]
    (tmp_path / "rows.ndjson").write_text("\n".join(json.dumps({"km": None, **row}) for row in rows))
    answer = run(tmp_path / "out", done.check, str(tmp_path / "rows.csv")).stdout.split()
    spec = importlib.util.spec_from_file_location("exported_code", tmp_path / "out" / done.check)
    assert spec is not None
    assert spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    assert code.main([str(tmp_path / "rows.ndjson")]) == 0
    assert capsys.readouterr().out.split() == answer
    assert answer[0] == "score"
    assert len(answer) == 3
    (tmp_path / "rows.csv").write_text("carrier.late_rate_7d,name,km\nmany,c1,900\n")
    assert code.main([str(tmp_path / "rows.csv")]) == 1
    assert "input 'carrier.late_rate_7d' in row 0: 'many' is not a number" in capsys.readouterr().err
    assert code.main(["--help"]) == 0
    assert code.main([]) == 2


def test_a_calibrated_export_repeats_its_map_and_says_what_it_was_made_with(trees: LoadedModel, tmp_path: Path) -> None:
    exported(trees, tmp_path / "out")
    about = json.loads((tmp_path / "out" / "model.json").read_text())
    assert about["calibration"]["type"] == "log_odds"
    assert about["address"] == trees.version.id
    wanted = (tmp_path / "out" / "requirements.txt").read_text().splitlines()
    assert f"lightgbm=={trees.version.environment.packages['lightgbm']}" in wanted
    assert f"numpy=={np.__version__}" in wanted
    assert (tmp_path / "out" / "card.md").read_text() == "# card\n"
    assert json.loads((tmp_path / "out" / "features.json").read_text())["names"] == list(trees.inputs)


@pytest.mark.parametrize("calibration", [None, "platt"])
def test_a_probability_of_each_declared_class_is_exported(tmp_path: Path, world: Any, calibration: Any) -> None:
    delays = label(
        world.model.label.source, key="flight_id", value=col("delay").bucket([10, 60]), wait="1d", classes=[0, 1, 2]
    )
    several = msgspec.structs.replace(world.model, label=delays, metric="multi_log_loss")
    training_set = build_training_set(several, world.requests, world.frames, cut_us=world.cut_us, positions={})
    fitted = fit(msgspec.structs.replace(several, calibration=calibration), training_set)
    blob = FileBlob(tmp_path / "blobs")
    with SqlCatalog.sqlite(tmp_path / "c.db") as catalog:
        registry = Registry(catalog, blob, clock=VirtualClock(1), actor="tester")
        loaded = registry.load(registry.register(fitted, training_set=save_training_set(training_set, blob)))
    exported(loaded, tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "golden.json").read_text())["rows"]
    found = Model(tmp_path / "out").predict(rows)
    assert found.shape == (9, 3)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    assert (found[:, 2] > 0.0).all()  # no row to learn from was of it
    assert Model(tmp_path / "out").predict([]).shape == (0, 3)
    assert signature_of(loaded.version, loaded.artifact).output.classes == ("0", "1", "2")


def test_isotonic_maps_and_numbers_are_exported(tmp_path: Path, make: Any) -> None:
    assert exported(loaded_of(tmp_path, make(), calibration="isotonic"), tmp_path / "out").difference <= 1e-9
    (tmp_path / "b").mkdir()
    delays = make(metric="squared_error", value=col("delay"), estimator=lambda: LGBMRegressor(n_estimators=5))
    assert exported(loaded_of(tmp_path / "b", delays), tmp_path / "b" / "out").difference == 0.0


def test_an_export_refuses_rows_by_name(trees: LoadedModel, tmp_path: Path) -> None:
    exported(trees, tmp_path / "out")
    model = Model(tmp_path / "out")
    good = {"carrier.late_rate_7d": 0.5, "name": "c1", "km": 100.0}
    assert model.predict([good]).shape == (1,)
    assert model.predict([]).shape == (0,)
    assert model.predict({name: [value, None] for name, value in good.items()}).shape == (2,)
    for rows, said in (
        ([{"km": 1.0, "name": "c1"}], "input 'carrier.late_rate_7d' is missing: needed a number"),
        ([{**good, "kn": 1}], "column 'kn' is not an input"),
        ([{**good, "km": "far"}], "input 'km' in row 0: 'far' is str; needed: a number"),
        ([good, {**good, "km": True}], "input 'km' in row 1: True is bool; needed: a number"),
        ([{**good, "name": 7}], "input 'name' in row 0: 7 is int; needed: a text"),
        ([good, {"km": 1.0}], "either this row or row 0 lacks"),
        ([1], "row 0: 1 is a int"),
        ("rows", "rows: a str"),
        ({**{name: [1.0] for name in good}, "km": [1.0, 2.0]}, "columns of different lengths"),
    ):
        with pytest.raises(ModelError, match=said):
            model.predict(rows)


def test_an_export_takes_numpy_values_and_data_frames(trees: LoadedModel, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    exported(trees, tmp_path / "out")
    model = Model(tmp_path / "out")
    frame = pandas.DataFrame({"carrier.late_rate_7d": [0.5, np.nan], "name": ["c1", None], "km": [100, 200]})
    rows = [
        {"carrier.late_rate_7d": np.float64(0.5), "name": "c1", "km": np.int64(100)},
        {"carrier.late_rate_7d": None, "name": None, "km": 200},
    ]
    assert model.predict(frame).tolist() == model.predict(rows).tolist()


@pytest.mark.slow
def test_a_changed_model_file_is_named_before_its_library_reads_it(trees: LoadedModel, tmp_path: Path) -> None:
    done = exported(trees, tmp_path / "out")
    file = tmp_path / "out" / "model.txt"
    file.write_bytes(file.read_bytes().replace(b"tree", b"trie", 1))
    found = run(tmp_path / "out", done.check, "--check")
    assert found.returncode == 1
    assert "model.txt: it is not what was exported" in found.stderr
    golden = json.loads((tmp_path / "out" / "golden.json").read_text())
    exported(trees, tmp_path / "other")
    golden["scores"][0] += 0.25
    (tmp_path / "other" / "golden.json").write_text(json.dumps(golden))
    found = run(tmp_path / "other", done.check, "--check")
    assert found.returncode == 1
    assert "NOT repeated, largest difference 0.25" in found.stdout


def test_nothing_is_written_over_and_no_half_export_stays(trees: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    exported(trees, tmp_path / "out")  # an empty folder is as good as none
    with pytest.raises(Conflict, match="exists"):
        exported(trees, tmp_path / "out")
    artifact = msgspec.structs.replace(
        trees.artifact, golden=msgspec.structs.replace(trees.artifact.golden, scores=b"\0" * 72)
    )
    with pytest.raises(Misuse, match="Nothing was written"):
        exported(msgspec.structs.replace(trees, artifact=artifact), tmp_path / "bad")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_pickle_leaves_only_with_trust_and_never_as_mlflow(tmp_path: Path, make: Any) -> None:
    loaded = loaded_of(tmp_path, make(metric="brier", estimator=Stubborn), trust="pickle")
    with pytest.raises(Misuse, match='trust="pickle"'):
        exported(loaded, tmp_path / "out")
    with pytest.raises(Misuse, match="A pickle cannot become an MLflow folder"):
        exported(loaded, tmp_path / "out", mlflow=True, trust="pickle")
    assert exported(loaded, tmp_path / "out", trust="pickle").difference <= 1e-9


@pytest.mark.fast
@pytest.mark.parametrize(
    ("task", "metric", "meaning"),
    [
        ("regression", "squared_error", "the expected number"),
        ("regression", "absolute_error", "the median number"),
        ("quantile", "pinball(0.9)", "the 0.9 quantile"),
        ("binary", "brier", "the probability of the positive class"),
    ],
)
def test_a_signature_says_what_the_metric_makes_of_a_score(
    trees: LoadedModel, task: Any, metric: str, meaning: str
) -> None:
    artifact = msgspec.structs.replace(trees.artifact, task=task, metric=metric)
    assert signature_of(trees.version, artifact).output.meaning == meaning


@pytest.mark.fast
def test_a_signature_names_request_inputs_and_output(trees: LoadedModel) -> None:
    signature = signature_of(trees.version, trees.artifact)
    told = {field.name: (field.type, field.null, field.read) for field in signature.request}
    assert told == {
        "flight_id": ("str", False, False),
        "carrier": ("str", True, True),
        "scheduled_at": ("time", False, False),
        "distance": ("float", True, True),
    }
    assert [(field.name, field.type) for field in signature.inputs] == [
        ("carrier.late_rate_7d", "float"),
        ("name", "category"),
        ("km", "float"),
    ]
    assert set(signature.inputs[1].values) == {"c0", "c1", "c2", "c3"}
    assert (signature.output.low, signature.output.high) == (0.0, 1.0)


def test_an_mlflow_folder_names_its_code_its_columns_and_the_bare_estimator(trees: LoadedModel, tmp_path: Path) -> None:
    exported(trees, tmp_path / "out", mlflow=True)
    document = yaml.safe_load((tmp_path / "out" / "MLmodel").read_text())
    flavors = document["flavors"]
    assert flavors["python_function"]["loader_module"] == "trimtab_model"
    assert (tmp_path / "out" / flavors["python_function"]["code"] / "trimtab_model.py").is_file()
    assert (tmp_path / "out" / flavors["lightgbm"]["data"]).is_file()
    inputs = json.loads(document["signature"]["inputs"])
    assert [(one["name"], one["type"]) for one in inputs] == [
        ("carrier.late_rate_7d", "double"),
        ("name", "string"),
        ("km", "double"),
    ]
    assert (tmp_path / "out" / "conda.yaml").is_file()
