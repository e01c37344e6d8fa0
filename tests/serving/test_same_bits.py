"""One row and many, over HTTP, by the Open Inference Protocol over HTTP and gRPC, in process and in a batch."""

from __future__ import annotations

import concurrent.futures
import importlib.util
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import forked
from trimtab import store
from trimtab.core.clock import SystemClock
from trimtab.core.columns.data import Columns
from trimtab.serving.answer.batch import batch_predictions, score_table
from trimtab.serving.answer.inputs import OfflineInputs
from trimtab.serving.arms.endpoint import Endpoint
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.store.sqlite.log import SqliteLog
from trimtab.training.runtimes import runtime_for

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("plain_models", HERE / "plain_models.py")
assert spec is not None
assert spec.loader is not None
plain: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plain)

EXACT = [
    f"{runtime}-{task}" for runtime in ("lightgbm", "xgboost", "catboost") for task in ("class", "classes", "number")
]
TOLERANCE = {"sklearn-class": 1e-12, "sklearn-number": 1e-12, "onnx-number": 1e-5}
ROWS = 24


def estimators() -> dict[str, Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found: dict[str, Any] = {"sklearn-class": HistGradientBoostingClassifier(max_iter=9)}
    found["sklearn-number"] = make_pipeline(SimpleImputer(), StandardScaler(), Ridge())
    for package, kind in (("lightgbm", "LGBM{}"), ("xgboost", "XGB{}"), ("catboost", "CatBoost{}")):
        if importlib.util.find_spec(package):
            library = importlib.import_module(package)
            for task, what in (("class", "Classifier"), ("classes", "Classifier"), ("number", "Regressor")):
                found[f"{package}-{task}"] = getattr(library, kind.format(what))(n_estimators=15)
    if importlib.util.find_spec("skl2onnx") and importlib.util.find_spec("onnxruntime"):
        from trimtab.training import onnx

        found["onnx-number"] = onnx(RandomForestRegressor(9))
    return found


class Asked:
    """The stored models, and a process that serves them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        draw = np.random.default_rng(2)
        x = draw.normal(size=(400, len(plain.INPUTS)))
        number = x[:, 0] - 2 * x[:, 1] + draw.normal(size=400)
        targets = {"class": number > 0, "classes": np.digitize(number, [-1.0, 1.0]), "number": number}
        for name, estimator in estimators().items():
            runtime = runtime_for(estimator)
            runtime.configure(estimator, seed=1, threads=1)
            fitted = runtime.fit(estimator, x, targets[name.partition("-")[2]].astype(float), plain.INPUTS)
            (folder / name).write_bytes(runtime.save(fitted))
        (folder / "served").mkdir()
        now_us = time.time_ns() // 1_000
        self.rows = [{**row, "at": now_us} for row in plain.odd_rows(ROWS)]
        command = [sys.executable, str(HERE / "plain_models.py"), str(folder)]
        self.process = forked.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        urls = re.findall(r"\S+:\d+", said)
        if len(urls) != 2:
            self.process.kill()
            raise AssertionError(f"the process did not start: {said}{self.process.communicate()[1]}")
        self.url, self.grpc = urls[0], urls[1].removeprefix("http://")
        self.client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def close(self) -> None:
        self.client.close()
        self.process.terminate()
        _, complaints = self.process.communicate(timeout=60)
        assert "Traceback" not in complaints

    def http(self, name: str, body: Any) -> Any:
        answer = self.client.post(f"/v1/models/{name.replace('-', '_')}/predict", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    made = Asked(tmp_path_factory.mktemp("models"))
    yield made
    made.close()


def scores(answers: list[dict[str, Any]]) -> list[list[float]]:
    return [[*one["scores"].values()] if one.get("scores") else [one["score"]] for one in answers]


def all_ways(asked: Asked, name: str, folder: Path) -> dict[str, list[list[float]]]:
    """What the rows score, by how they were asked."""
    rows, found = asked.rows, {}
    found["HTTP, many"] = scores(asked.http(name, {"rows": rows})["predictions"])
    found["HTTP, one by one"] = scores([asked.http(name, {"request": row}) for row in rows])
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found["HTTP, at once"] = scores([*pool.map(lambda row: asked.http(name, {"request": row}), rows)])
    found |= protocol(asked, name)
    log = PredictionLog(SqliteLog(folder / "log", mode="relaxed"))
    catalog = store.open(f"sqlite://{folder}/catalog.db", "catalog")
    try:
        answerer = plain.answerer(asked.folder, name, log)
        endpoint = Endpoint(answerer.served.model)
        endpoint.swap(answerer)
        shown = [{"score": one.score, "scores": one.scores} for one in endpoint.answer(rows)]
        found["in process, many"] = scores(shown)
        shown = [{"score": one.score, "scores": one.scores} for row in rows for one in endpoint.answer([row])]
        found["in process, one by one"] = scores(shown)
        columns = plain.QUESTION.columns
        table = Columns.of({one: (dtype, [row[one] for row in rows]) for one, dtype in columns.items()})
        manifest = score_table(
            answerer.served,
            table,
            rows[0]["at"],
            inputs=OfflineInputs(plain.FEATURES, plain.ENCODING, lambda upto: ({}, {})),
            scorer=answerer.scorer,
            log=log,
            catalog=catalog,
            clock=SystemClock(),
            part_rows=7,
        )
        batch = [one for part in batch_predictions(manifest, log) for one in part]
        found["batch"] = [[*one.scores.values()] if one.scores else [one.score] for one in batch]
    finally:
        catalog.close()
        log.close()
    return found


def protocol(asked: Asked, name: str) -> dict[str, list[list[float]]]:
    """By tensors, which cannot say null: rows with null are left out, and asked by /v1."""
    whole = [row for row in asked.rows if None not in row.values()]
    assert len(whole) > ROWS / 4
    tensors = [
        {"name": "id", "datatype": "BYTES", "data": [row["id"] for row in whole]},
        {"name": "at", "datatype": "INT64", "data": [row["at"] for row in whole]},
        *({"name": one, "datatype": "FP64", "data": [row[one] for row in whole]} for one in plain.INPUTS),
    ]
    each = [[{**one, "data": [one["data"][n]]} for one in tensors] for n in range(len(whole))]
    ways = {"protocol, HTTP": by_rest}
    if importlib.util.find_spec("grpc"):
        ways["protocol, gRPC"] = by_grpc
    given = {}
    for way, ask in ways.items():
        model = name.replace("-", "_")
        given[f"{way}, many"] = ask(asked, model, tensors, len(whole))
        given[f"{way}, one by one"] = [value for one in each for value in ask(asked, model, one, 1)]
    return {way: in_place(asked, name, data, len(whole)) for way, data in given.items()}


def in_place(asked: Asked, name: str, data: list[float], count: int) -> list[list[float]]:
    width = len(data) // count
    given = iter([data[at : at + width] for at in range(0, len(data), width)])
    return [
        next(given) if None not in row.values() else scores([asked.http(name, {"request": row})])[0]
        for row in asked.rows
    ]


def by_rest(asked: Asked, model: str, tensors: list[dict[str, Any]], count: int) -> list[float]:
    shaped = [{**one, "shape": [count]} for one in tensors]
    answer = asked.client.post(f"/v2/models/{model}/infer", json={"inputs": shaped})
    assert answer.status_code == 200, answer.text
    outputs = {one["name"]: one["data"] for one in answer.json()["outputs"]}
    found: list[float] = outputs.get("scores", outputs["score"])
    return found


def by_grpc(asked: Asked, model: str, tensors: list[dict[str, Any]], count: int) -> list[float]:
    import grpc

    from trimtab.serving.inference.messages import build_messages

    messages = build_messages()
    field = {"BYTES": "bytes_contents", "INT64": "int64_contents", "FP64": "fp64_contents"}
    inputs = [
        {
            "name": one["name"],
            "datatype": one["datatype"],
            "shape": [count],
            "contents": {field[one["datatype"]]: [v.encode() if isinstance(v, str) else v for v in one["data"]]},
        }
        for one in tensors
    ]
    with grpc.insecure_channel(asked.grpc) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=lambda one: one.SerializeToString(),
            response_deserializer=messages["ModelInferResponse"].FromString,
        )
        answer = call(messages["ModelInferRequest"](model_name=model, inputs=inputs), timeout=60)
    names = [one.name for one in answer.outputs]
    place = names.index("scores" if "scores" in names else "score")
    if answer.raw_output_contents:
        found: list[float] = np.frombuffer(answer.raw_output_contents[place], "<f8").tolist()
        return found
    return [*answer.outputs[place].contents.fp64_contents]


@pytest.mark.parametrize("name", EXACT)
def test_row_exact_runtimes_give_the_same_bits_whichever_way_they_are_asked(
    asked: Asked, name: str, tmp_path: Path
) -> None:
    if not (asked.folder / name).exists():
        pytest.skip("its library is not installed")
    found = all_ways(asked, name, tmp_path)
    expected = found["batch"]
    assert len({str(one) for one in expected}) > 5
    assert {way: one for way, one in found.items() if one != expected} == {}


@pytest.mark.parametrize("name", TOLERANCE)
def test_other_runtimes_stay_within_their_tolerance_whichever_way_they_are_asked(
    asked: Asked, name: str, tmp_path: Path
) -> None:
    if not (asked.folder / name).exists():
        pytest.skip("its library is not installed")
    found = {way: np.array(one) for way, one in all_ways(asked, name, tmp_path).items()}
    for way, one in found.items():
        np.testing.assert_allclose(one, found["batch"], rtol=TOLERANCE[name], atol=TOLERANCE[name], err_msg=way)


def test_numbers_that_json_has_no_word_for_are_refused_by_name_and_not_scored(asked: Asked) -> None:
    for text in ("Infinity", "NaN", "1e999"):
        row = ", ".join(f'"{name}": 0.5' for name in plain.INPUTS[1:])
        body = f'{{"request": {{"id": "r", "at": {asked.rows[0]["at"]}, "x0": {text}, {row}}}}}'
        answer = asked.client.post(
            "/v1/models/lightgbm_class/predict", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code in (400, 422), (text, answer.text)
