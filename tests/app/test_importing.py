from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import catboost
import file_bombs
import lightgbm
import numpy as np
import pytest
import shop
import skops.io
import xgboost
from onnx import TensorProto, helper, numpy_helper
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from memory import Memory
from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound
from trimtab.core.time import parse_time_us
from trimtab.registry.transfer import importing, inspecting
from trimtab.registry.transfer.golden import read_golden
from trimtab.registry.transfer.importing import FoundModel, check_inputs, find_model
from trimtab.training.runtimes.formats import Inspected, ModelFile

NAMES = ["x", "site", "site.level", "site.level_1d"]
SITES = {"site": ["north", "south"]}
_CHANCE = np.random.default_rng(0)
INPUTS = np.column_stack(
    [_CHANCE.normal(size=400), _CHANCE.integers(0, 2, 400), _CHANCE.normal(size=400), _CHANCE.normal(size=400)]
)
LABELS = (INPUTS[:, 0] + _CHANCE.normal(size=400) > 0).astype(int)
MLMODEL = """\
flavors:
  lightgbm:
    code: null
    data: model.lgb
    lgb_version: 4.7.0
    model_class: lightgbm.basic.Booster
    skops_trusted_types:
    - lightgbm.sklearn.LGBMRegressor
    - collections.OrderedDict
  python_function:
    data: model.lgb
    env:
      conda: conda.yaml
      virtualenv: python_env.yaml
    loader_module: mlflow.lightgbm
    python_version: 3.11.7
is_signature_from_type_hint: false
metadata:
  note: 'it''s two

    lines'
mlflow_version: 3.17.2
signature:
  inputs: '[{"type": "double", "name": "x", "required": true}, {"type": "double",
    "name": "site", "required": true}, {"type": "double", "name": "site.level", "required":
    true}, {"type": "double", "name": "site.level_1d", "required": true}]'
  outputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1]}}]'
  params: null
utc_time_created: '2024-04-10 20:04:54.761896'
"""


def booster(names: list[str] | str = "auto", columns: int = 4) -> lightgbm.Booster:
    data = lightgbm.Dataset(INPUTS[:, :columns], LABELS, feature_name=names)
    return lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1}, data, 5)


def golden(file: Path, scores: Any, rows: int = 5) -> Path:
    """Golden rows as JSON lines, of the first inputs."""
    lines = []
    for row, score in zip(INPUTS[:rows].tolist(), np.asarray(scores)[:rows].tolist(), strict=True):
        row[1] = SITES["site"][int(row[1])]
        lines.append(json.dumps({**dict(zip(NAMES, row, strict=True)), "score": score}))
    file.write_text("\n".join(lines))
    return file


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with history and no version."""
    folder = shop.write_project(tmp_path_factory.mktemp("import") / "empty")
    with shop.opened(folder) as project:
        shop.load(project)
    return folder


def test_a_bare_model_becomes_a_version_that_serves_only_once_it_is_promoted(empty: Path, tmp_path: Path) -> None:
    model = booster(NAMES)
    model.save_model(tmp_path / "theirs.txt")
    file = golden(tmp_path / "golden.ndjson", model.predict(INPUTS))
    with shop.opened(empty) as project:
        made = project.import_model(
            tmp_path / "theirs.txt",
            "buyer",
            golden=file,
            window="7d",
            categories=SITES,
            seen_until="2024-03-20",
            actor="ada",
        )
        assert made.imported is not None
        assert (made.imported.file, made.imported.kind, made.actor) == ("theirs.txt", "LightGBM text", "ada")
        assert made.imported.inputs_named
        assert made.imported.golden.startswith("5 golden rows and 2")
        assert (made.rows, made.cut_us) == (0, parse_time_us("2024-03-20"))
        assert project.evaluation(made.name).value < 0.65
        assert project.registry.alias("buyer", "champion") is None
        with pytest.raises(Misuse, match="no gate record"):
            project.registry.move("buyer", "champion", made, why="it came from elsewhere")
        with pytest.raises(Conflict, match=r"training cut is 2024-03-20T00:00:00, not 2024-03-21.*on 7d, not 8d"):
            project.import_model(
                tmp_path / "theirs.txt", "buyer", golden=file, window="8d", categories=SITES, seen_until="2024-03-21"
            )
        assert "may have seen these rows" not in project.card(made.name)  # seen until before its window
        again = project.import_model(
            tmp_path / "theirs.txt", "buyer", golden=file, categories=SITES, first=True, why="the old system's model"
        )
        assert again.id == made.id  # an equal one is the same version
        row, told = project.ledger()[-1], (made.id, "the old system's model")
        assert (row.act, row.actor, row.version, row.cause) == ("import", "a person", *told)
        answer = project.predict("buyer", [shop.visit("one", shop.NOW_US)])[0]
        logged = next(p for block in project.predictions.scan() for p in block if p.id == answer.id)
        assert answer.version == made.name
        assert answer.score == model.predict(np.frombuffer(logged.values, "<f8").reshape(1, -1))[0]
        assert project.train("buyer")  # and it is a champion as any other
        compared = project.compare(made.name, "buyer@2", window="7d")
        assert compared.predictions is not None


def test_each_library_s_own_file_is_read(empty: Path, tmp_path: Path) -> None:
    frame = {"feature_names": NAMES}
    trees = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(INPUTS, LABELS, **frame), 5)
    trees.save_model(tmp_path / "xgb.json")
    cat = catboost.CatBoostClassifier(iterations=5, verbose=False, thread_count=1, allow_writing_files=False)
    cat.fit(catboost.Pool(INPUTS, LABELS, feature_names=NAMES))
    cat.save_model(str(tmp_path / "cat.cbm"))
    pipe = make_pipeline(SimpleImputer(keep_empty_features=True), LogisticRegression()).fit(INPUTS, LABELS)
    skops.io.dump(pipe, tmp_path / "pipe.skops")
    told = {
        "xgb.json": (trees.predict(xgboost.DMatrix(INPUTS, **frame)), True, "xgboost"),
        "cat.cbm": (cat.predict_proba(INPUTS)[:, 1], True, "catboost"),
        "pipe.skops": (pipe.predict_proba(INPUTS)[:, 1], False, "sklearn"),
    }
    with shop.opened(empty) as project:
        for name, (scores, named, runtime) in told.items():
            file = golden(tmp_path / "golden.ndjson", scores)
            made = project.import_model(tmp_path / name, "buyer", golden=file, categories=SITES)
            assert made.imported is not None
            assert (made.imported.inputs_named, made.runtime) == (named, runtime)
            loaded = project.registry.load(made)
            np.testing.assert_allclose(loaded.predict(INPUTS), scores, atol=1e-6)


WEIGHTS = np.array([[1.0], [0.0], [0.5], [-0.5]])


def graph(*, rows: int | None = None, clean: str = "clean", weights: TensorProto | None = None) -> bytes:
    """An ONNX file of a logistic regression to which a null is 0, or NaN where it is not given what is `clean`."""
    nodes = [
        helper.make_node("IsNaN", ["inputs"], ["null"]),
        helper.make_node("Where", ["null", "zero", "inputs"], ["clean"]),
        helper.make_node("MatMul", [clean, "weights"], ["odds"]),
        helper.make_node("Sigmoid", ["odds"], ["chances"]),
    ]
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("inputs", TensorProto.DOUBLE, [rows, 4])],
        [helper.make_tensor_value_info("chances", TensorProto.DOUBLE, [rows, 1])],
        [weights or numpy_helper.from_array(WEIGHTS, "weights"), numpy_helper.from_array(np.array(0.0), "zero")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def test_an_onnx_graph_is_read(empty: Path, tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(graph())
    scores = 1.0 / (1.0 + np.exp(-INPUTS @ WEIGHTS[:, 0]))
    file = golden(tmp_path / "golden.ndjson", scores)
    with shop.opened(empty) as project:
        assert project.import_model(tmp_path / "graph.onnx", "buyer", golden=file, categories=SITES).runtime == "onnx"


def test_what_an_export_wrote_comes_back_to_the_bit(trained: Path, tmp_path: Path) -> None:
    with shop.opened(trained) as project:
        project.export("buyer@champion", tmp_path / "out")
        made = project.import_model(tmp_path / "out", "buyer")
        ours, theirs = project.registry.load("buyer@champion"), project.registry.load(made)
        assert ours.predict(INPUTS).tobytes() == theirs.predict(INPUTS).tobytes()
        assert made.imported is not None
        assert made.imported.kind == "exported by trimtab, sklearn"
        file = tmp_path / "out" / "model.skops"
        file.write_bytes(file.read_bytes() + b"!")
        with pytest.raises(Corrupt, match=r"model\.skops is not what was exported"):
            project.import_model(tmp_path / "out", "buyer")


def test_an_export_of_a_model_of_another_kind_is_refused(trained: Path, tmp_path: Path) -> None:
    with shop.opened(trained) as project:
        project.export("buyer@champion", tmp_path / "out")
    folder = shop.write_project(tmp_path / "numbers")
    file = folder / "project.py"
    text = (
        file.read_text()
        .replace('"bought": bool', '"bought": bool, "amount": float')
        .replace('"bought", wait', '"amount", wait')
    )
    file.write_text(
        text.replace('metric="log_loss"', 'metric="squared_error"').replace("calibration=0.5", "calibration=1.0")
    )
    said = (
        r"buyer@2 predicts another kind of label \(binary, metric log_loss\) than model 'buyer' \(regression, squared"
    )
    with shop.opened(folder) as project, pytest.raises(Misuse, match=said):
        project.import_model(tmp_path / "out", "buyer")


def test_an_mlflow_folder_is_read_without_mlflow(empty: Path, tmp_path: Path) -> None:
    model = booster()
    folder = tmp_path / "mlflow"
    folder.mkdir()
    model.save_model(folder / "model.lgb")
    (folder / "MLmodel").write_text(MLMODEL)
    file = golden(tmp_path / "golden.ndjson", model.predict(INPUTS))
    with shop.opened(empty) as project:
        made = project.import_model(folder, "buyer", golden=file, categories=SITES)
        assert made.imported is not None
        assert (made.imported.file, made.imported.kind) == ("mlflow", "MLflow folder, lightgbm")
        assert made.imported.inputs_named  # by its signature: the file itself says Column_0
        (folder / "MLmodel").write_text(MLMODEL.replace('"name": "x"', '"name": "why"'))
        with pytest.raises(Misuse, match="missing x; not declared why"):
            project.import_model(folder, "buyer", golden=file, categories=SITES)
        (folder / "MLmodel").write_text(MLMODEL.replace("model.lgb", "../model.lgb"))
        with pytest.raises(Misuse, match="outside the folder"):
            project.import_model(folder, "buyer", golden=file, categories=SITES)
        (folder / "MLmodel").write_text("flavors:\n  spark:\n    data: x\n")
        with pytest.raises(Misuse, match="it has the flavors spark"):
            project.import_model(folder, "buyer", golden=file, categories=SITES)


def test_inputs_that_are_not_the_features_are_named(empty: Path) -> None:
    with shop.opened(empty) as project:
        model = project.definitions.models["buyer"]
    given = FoundModel(path=Path("m.txt"), format="lightgbm", data=b"", kind="LightGBM text")
    for names, said in (
        ([*NAMES[:3], "other"], r"missing site\.level_1d; not declared other"),
        ([*NAMES, "more"], "missing none; not declared more"),
        ([NAMES[1], NAMES[0], *NAMES[2:]], "its input 1 is 'site', the feature there is 'x'"),
        (["Column_0", "Column_1", "Column_2"], "it reads 3 inputs, but model 'buyer' declares 4 features"),
    ):
        looked = Inspected(runtime="lightgbm", data=b"", kind="Booster", inputs=tuple(names), count=len(names))
        with pytest.raises(Misuse, match=said):
            check_inputs(given, looked, model)
    assert not check_inputs(given, Inspected(runtime="onnx", data=b"", kind="graph", count=4), model)
    assert check_inputs(given, Inspected(runtime="lightgbm", data=b"", kind="Booster", inputs=tuple(NAMES)), model)


def test_nothing_is_registered_that_was_not_held_against_something(empty: Path, tmp_path: Path) -> None:
    model = booster(NAMES)
    model.save_model(tmp_path / "m.txt")
    wrong = golden(tmp_path / "wrong.ndjson", model.predict(INPUTS) + 0.01)
    with shop.opened(empty) as project:
        count = len(project.versions())
        with pytest.raises(Misuse, match=r"there is nothing to check it with.*--window 14d"):
            project.import_model(tmp_path / "m.txt", "buyer", categories=SITES)
        with pytest.raises(Misuse, match="golden row 0: the model gives"):
            project.import_model(tmp_path / "m.txt", "buyer", golden=wrong, categories=SITES)
        with pytest.raises(Misuse, match="needed the values of site"):
            project.import_model(tmp_path / "m.txt", "buyer", window="7d")
        with pytest.raises(Misuse, match="before the window of 300d"):
            project.import_model(tmp_path / "m.txt", "buyer", window="300d", categories=SITES)
        with pytest.raises(NotFound, match="model 'byer' is not declared"):
            project.import_model(tmp_path / "m.txt", "byer", window="7d")
        with pytest.raises(NotFound, match="not found"):
            project.import_model(tmp_path / "absent.txt", "buyer", window="7d")
        with pytest.raises(NotFound, match="not found"):
            project.import_model(tmp_path / "m.txt", "buyer", golden=tmp_path / "absent.ndjson")
        (tmp_path / "lines.ndjson").write_text('{"x": 1}\n')
        with pytest.raises(Misuse, match="a row has no 'score'"):
            project.import_model(tmp_path / "m.txt", "buyer", golden=tmp_path / "lines.ndjson")
        assert len(project.versions()) == count


class Bomb:
    def __reduce__(self) -> Any:
        return os.abort, ()


def test_files_that_are_none_and_code_that_nobody_allowed_are_refused(empty: Path, tmp_path: Path) -> None:
    text = booster(NAMES).model_to_string()
    (tmp_path / "cut.txt").write_text(text[: len(text) // 2])
    (tmp_path / "model.h5").write_bytes(b"x")
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps(Bomb()))
    skops.io.dump(Bomb, tmp_path / "foreign.skops")
    with shop.opened(empty) as project:
        with pytest.raises(Misuse, match=r"Untrusted types.*Bomb.*give a folder of `trimtab versions export`"):
            project.import_model(tmp_path / "foreign.skops", "buyer", window="7d", categories=SITES)
        (tmp_path / "damaged.skops").write_bytes(bytes(range(256)))
        with pytest.raises(Misuse, match=r"File is not a zip file\. Save it again\."):
            project.import_model(tmp_path / "damaged.skops", "buyer", window="7d", categories=SITES)
        for file in ("cut.txt", "model.h5"):
            with pytest.raises(Misuse, match=f"import {file}"):
                project.import_model(tmp_path / file, "buyer", window="7d", categories=SITES)
        with pytest.raises(Misuse, match='trust="pickle"'):
            project.import_model(tmp_path / "bomb.pkl", "buyer", window="7d", categories=SITES)
        with pytest.raises(Misuse, match="ended its process"):  # what was allowed runs in a process of its own
            project.import_model(tmp_path / "bomb.pkl", "buyer", window="7d", categories=SITES, trust="pickle")


class Leaves:
    def __reduce__(self) -> Any:
        return sys.exit, (3,)


def look(kind: str, data: bytes) -> Inspected:
    """What is found in a file's bytes."""
    return inspecting.inspect_file(ModelFile(format=kind, data=data, probability=True, names=tuple(NAMES)))


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("lightgbm", b"a letter to a friend"),
        ("catboost", b"CBM1" + bytes(range(256))),
        ("catboost", b"no model"),
        ("xgboost", b"no model"),
        ("onnx", bytes(range(256))),
        ("skops", bytes(range(256))),
        ("pickle", b"no pickle"),
        ("pickle", pickle.dumps(Leaves())),
    ],
)
def test_bytes_that_are_no_model_are_called_so(kind: str, data: bytes) -> None:
    with pytest.raises(Corrupt, match=f"{kind}: these"):
        look(kind, data)


def test_a_catboost_model_with_categories_of_its_own_is_refused_by_name(tmp_path: Path) -> None:
    rows = [["a", 1.0], ["b", 2.0]] * 20
    quiet = {"iterations": 2, "verbose": False, "allow_writing_files": False}
    catboost.CatBoostClassifier(**quiet).fit(rows, [0, 1] * 20, cat_features=[0]).save_model(str(tmp_path / "own.cbm"))
    with pytest.raises(Misuse, match=r"expects categories \(cat_features\), but trimtab encodes them as numbers"):
        look("catboost", (tmp_path / "own.cbm").read_bytes())


def test_a_look_says_what_an_estimator_takes() -> None:
    plain = look("skops", skops.io.dumps(LogisticRegression().fit(INPUTS, LABELS)))
    assert (plain.count, plain.inputs, plain.accepts_null) == (4, (), False)
    with pytest.raises(Misuse, match="not an estimator of scikit-learn"):
        look("skops", skops.io.dumps({"a": 1}))
    with pytest.raises(Misuse, match="lacks fit or predict"):
        look("pickle", pickle.dumps({"a": 1}))


def test_a_pickle_is_imported_where_somebody_allows_it(empty: Path, tmp_path: Path) -> None:
    pipe = make_pipeline(SimpleImputer(keep_empty_features=True), LogisticRegression()).fit(INPUTS, LABELS)
    (tmp_path / "pipe.pkl").write_bytes(pickle.dumps(pipe))
    file = golden(tmp_path / "golden.ndjson", pipe.predict_proba(INPUTS)[:, 1])
    with shop.opened(empty) as project:
        made = project.import_model(tmp_path / "pipe.pkl", "buyer", golden=file, categories=SITES, trust="pickle")
        assert made.trust == "pickle"


def test_an_onnx_graph_that_takes_so_many_rows_or_has_its_weights_elsewhere_is_refused_with_what_to_do() -> None:
    elsewhere = TensorProto(name="weights", data_type=TensorProto.DOUBLE, dims=[4, 1])
    elsewhere.data_location = TensorProto.EXTERNAL
    elsewhere.external_data.add(key="location", value="graph.onnx.data")
    with pytest.raises(Misuse, match=r"its weights are in another file\. Save all in one"):
        look("onnx", graph(weights=elsewhere))
    with pytest.raises(Misuse, match="it takes 2 rows at a time"):
        look("onnx", graph(rows=2))


def test_an_onnx_graph_that_has_no_number_for_a_null_is_refused(empty: Path, tmp_path: Path) -> None:
    assert look("onnx", graph()).accepts_null
    (tmp_path / "graph.onnx").write_bytes(graph(clean="inputs"))
    with shop.opened(empty) as project, pytest.raises(Misuse, match="its graph gives no number for nulls"):
        project.import_model(tmp_path / "graph.onnx", "buyer", window="7d", categories=SITES)


def one_node_after_another(*nodes: Any, weights: list[TensorProto], given: int) -> bytes:
    """An ONNX graph from `inputs` to `out`, which is of the type `given`."""
    taken = helper.make_tensor_value_info("inputs", TensorProto.DOUBLE, [None, 4])
    out = helper.make_tensor_value_info("out", given, [None, None])
    opset = helper.make_opsetid("", 18)
    made = helper.make_graph(list(nodes), "graph", [taken], [out], weights)
    return bytes(helper.make_model(made, opset_imports=[opset], ir_version=9).SerializeToString())


def test_an_onnx_graph_that_fails_at_a_null_has_no_number_for_it() -> None:
    numbered = one_node_after_another(
        helper.make_node("Cast", ["inputs"], ["places"], to=TensorProto.INT64),
        helper.make_node("Gather", ["weights", "places"], ["found"]),
        helper.make_node("ReduceMax", ["found"], ["out"], keepdims=1),
        weights=[numpy_helper.from_array(np.arange(5.0), "weights")],
        given=TensorProto.DOUBLE,
    )
    assert not look("onnx", numbered).accepts_null


def test_an_onnx_graph_whose_output_is_no_numbers_is_refused_with_its_type() -> None:
    worded = one_node_after_another(
        helper.make_node("Cast", ["inputs"], ["out"], to=TensorProto.STRING), weights=[], given=TensorProto.STRING
    )
    with pytest.raises(Misuse, match=r"its output 'out' is tensor\(string\), needed numbers"):
        look("onnx", worded)


@pytest.mark.fast
@pytest.mark.parametrize("name", ["net.pt", "net.pt2", "net.PTH", "net.ckpt", "net.safetensors", "folder"])
def test_a_file_of_pytorch_is_refused_with_the_way_by_onnx(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        (path / "MLmodel").write_text("flavors:\n  pytorch:\n    model_data: data\n")
    else:
        path.write_bytes(b"PK")
    with pytest.raises(Misuse, match=r"of PyTorch\. .*torch\.onnx\.export\(.*trimtab\.training\.neural"):
        find_model(path)


@pytest.mark.fast
def test_an_export_of_a_newer_trimtab_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(
        '{"format": 2, "runtime": "sklearn", "file": "m.skops", "sha256": "", "features": []}'
    )
    (tmp_path / "m.skops").write_bytes(b"x")
    with pytest.raises(Misuse, match=r"model\.json has format 2; needed 1\. Upgrade trimtab"):
        find_model(tmp_path)


@pytest.mark.fast
def test_a_model_json_of_another_library_is_no_export(tmp_path: Path) -> None:
    """It ended with `KeyError: 'runtime'`, even if the folder was one of MLflow."""
    (tmp_path / "model.json").write_text('{"learner": {}, "version": [3, 0, 0]}')
    with pytest.raises(NotFound, match=r"neither MLmodel nor the model\.json of an export"):
        find_model(tmp_path)
    (tmp_path / "MLmodel").write_text("flavors:\n  xgboost:\n    data: model.json\n")
    assert find_model(tmp_path).kind == "MLflow folder, xgboost"
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(Misuse, match=r"model\.json: it cannot be read"):
        find_model(tmp_path)


def test_a_pipe_is_no_model_and_has_no_golden_rows(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    for read in (find_model, read_golden):
        with pytest.raises(Misuse, match="found a named pipe, needed a file"):
            read(tmp_path / "m.onnx")


@pytest.mark.slow
def test_a_graph_without_an_end_is_given_up(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "endless.onnx").write_bytes(file_bombs.endless_loop(len(NAMES)))
    monkeypatch.setattr(importing, "LONGEST_S", 4.0)
    with (
        shop.opened(empty) as project,
        pytest.raises(Misuse, match=r"import endless\.onnx: onnx has not .* it after 4 s"),
    ):
        project.import_model(tmp_path / "endless.onnx", "buyer", window="7d", categories=SITES)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded on Linux")
def test_a_small_file_may_not_take_much_memory(empty: Path, tmp_path: Path) -> None:
    memory = Memory(os.getpid())
    (tmp_path / "huge.onnx").write_bytes(file_bombs.huge_constant(10**9, len(NAMES)))
    (tmp_path / "wide.onnx").write_bytes(file_bombs.tiled(10**6, len(NAMES)))
    (tmp_path / "huge.txt").write_text(booster(NAMES).model_to_string().replace("num_class=1", "num_class=2147483647"))
    with shop.opened(empty) as project:
        for file, said in (
            ("huge.onnx", "far more memory than the size of its file"),
            ("wide.onnx", "gives 4000000 numbers a row|far more memory"),
            ("huge.txt", "lightgbm"),
        ):
            with pytest.raises(Misuse, match=said):
                project.import_model(tmp_path / file, "buyer", window="7d", categories=SITES)
    assert memory.grown() < 200  # a feature join and its libraries, for one


def test_an_xgboost_that_names_its_inputs_is_scored_on_a_window(empty: Path, tmp_path: Path) -> None:
    data = xgboost.DMatrix(INPUTS, LABELS, feature_names=NAMES)
    model = xgboost.train({"objective": "binary:logistic", "nthread": 1}, data, 5)
    model.save_model(tmp_path / "named.json")
    with shop.opened(empty) as project:
        made = project.import_model(tmp_path / "named.json", "buyer", window="7d", categories=SITES)
        assert made.imported is not None
        assert made.imported.inputs_named
        assert project.evaluation(made.name).value < 0.75


def test_an_imported_champion_is_watched_from_the_first_refused_candidate_on(tmp_path: Path) -> None:
    model = booster(NAMES)
    model.save_model(tmp_path / "theirs.txt")
    file = golden(tmp_path / "golden.ndjson", model.predict(INPUTS))
    folder = shop.write_project(tmp_path / "own")
    text = (folder / "project.py").read_text()
    (folder / "project.py").write_text(text.replace("margin=-0.5", "margin=0.5"))  # no candidate is so much better
    with shop.opened(folder) as project:
        shop.load(project)
        project.import_model(
            tmp_path / "theirs.txt",
            "buyer",
            golden=file,
            categories=SITES,
            seen_until="2024-03-20",
            first=True,
            why="the old system's model",
        )
        red = "quality is not watched: the version in service was not promoted by the loop"
        assert any(red in line for line in project.status().red)
        assert [one.act for one in project.train("buyer")][-1] == "refuse"
        assert not any("not watched" in line for line in project.status().red)
        watch = project.loop("buyer").monitor.watch
        assert watch is not None
        assert watch.version == project.registry.get("buyer@champion").id
        assert watch.figures
