"""Models of all runtimes over six plain numbers, and a process that serves them: `plain_models.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.core.clock import SystemClock
from trimtab.core.expressions.nodes import col
from trimtab.features import request
from trimtab.features.encoding import Encoding
from trimtab.features.feature_set import feature_set
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.inputs import BareInputs
from trimtab.serving.answer.served import Readers, ServedVersion
from trimtab.serving.arms.endpoint import Endpoint
from trimtab.serving.http.server.server import serve
from trimtab.serving.http.service import HttpService
from trimtab.serving.log.prediction_ids import PredictionIds
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.store.sqlite.log import SqliteLog
from trimtab.training.runtimes import runtime_named

INPUTS = tuple(f"x{n}" for n in range(6))
QUESTION = request("question", key="id", time="at", columns={"id": str, **dict.fromkeys(INPUTS, float)})
FEATURES = feature_set(QUESTION, [{f"in_{name}": col(name) for name in INPUTS}])
ENCODING = Encoding(dtypes=FEATURES.dtypes, vocabularies={})


def odd_rows(count: int) -> list[dict[str, Any]]:
    """Requests with null, denormals, -0.0 and very large numbers among ordinary ones."""
    draw = np.random.default_rng(11)
    matrix = draw.normal(scale=2.0, size=(count, len(INPUTS)))
    matrix[0], matrix[1, 0], matrix[2, 1], matrix[3, 2], matrix[4, 3] = np.nan, 5e-324, -0.0, 1e37, -1e-320
    matrix[5::3, 4], matrix[6::4, 0] = np.nan, np.nan
    return [
        {"id": f"r{n}", **{name: None if value != value else value for name, value in zip(INPUTS, row, strict=True)}}
        for n, row in enumerate(matrix.tolist())
    ]


def answerer(folder: Path, name: str, log: PredictionLog) -> Answerer:
    """What answers with the model that is stored in `folder` as RUNTIME-TASK."""
    clock = SystemClock()
    scorer = runtime_named(name.partition("-")[0]).load((folder / name).read_bytes())
    classes = ("a", "b", "c") if name.endswith("-classes") else ()
    model = name.replace("-", "_")
    served = ServedVersion(
        model=model, version=f"{name:0>64}", label=f"{model}@1", arm="champion", inputs=FEATURES.names, classes=classes
    )
    reader = BareInputs(FEATURES, ENCODING)
    return Answerer(served, QUESTION, Readers(reader), scorer, log=log, clock=clock, ids=PredictionIds(clock))


def main(folder: Path) -> None:
    from trimtab.serving.inference.grpc_server import GrpcListener, GrpcServer
    from trimtab.serving.inference.rest import mount_inference

    log = PredictionLog(SqliteLog(folder / "served" / "predictions", mode="relaxed"))
    endpoints, said = [], list[str]()
    for file in sorted(one for one in folder.iterdir() if one.is_file()):
        made = answerer(folder, file.name, log)
        endpoints.append(Endpoint(made.served.model))
        endpoints[-1].swap(made)
    service = HttpService(endpoints, log)
    inference = mount_inference(service)
    service.lifecycle.server = GrpcServer(inference, service.count, GrpcListener(announce=said.append))
    try:
        serve(service, port=0, announce=lambda url: print(url, said[0], flush=True))
    finally:
        log.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
