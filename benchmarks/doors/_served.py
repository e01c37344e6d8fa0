"""A project with a LightGBM model of 100 trees over 30 floats, and its service (`trimtab serve`)."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import _http
import msgspec
import numpy as np

ROWS = 20_000
RUN = (sys.executable, "-c", "from trimtab.cli import main; main()")
_PROJECT = f"""
import trimtab as tt

floats = {{f"x{{n}}": float for n in range({_http.FLOATS})}}
question = tt.request("units", key="id", time="at", columns={{"id": str, **floats, "at": tt.Time}})
labels = tt.source("labels", key="id", time="at", columns={{"id": str, "at": tt.Time, "bad": int}})


def estimator():
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=100, verbose=-1)


model = tt.model(
    "{_http.MODEL}", request=question, features=[{{name: tt.col(name) for name in floats}}],
    label=tt.label(labels, key="id", value=tt.col("bad") == 1, wait="1h"), estimator=estimator, metric="log_loss",
)
tt.deployment(model, retrain=tt.on_quality_drop() | tt.every("30d"))
"""


class Ports(NamedTuple):
    """Where a service listens."""

    http: int
    grpc: int


class Project:
    """The project, trained, in a folder that also has the model's text for other servers (`_http.make_model`)."""

    def __init__(self, folder: Path) -> None:
        import polars

        _http.make_model(folder)
        self.folder, self.root = folder, folder / "project"
        self.root.mkdir()
        (self.root / "project.py").write_text(_PROJECT)
        (self.root / "trimtab.toml").write_text('[project]\nname = "units"\n')
        x, y = _http.data(ROWS)
        rows = {"id": [f"u{n}" for n in range(ROWS)]} | {f"x{n}": x[:, n] for n in range(_http.FLOATS)}
        at = np.datetime64("2026-01-01T00:00", "us") + np.arange(ROWS) * np.timedelta64(20, "m")
        polars.DataFrame(rows | {"at": at}).write_parquet(folder / "units.parquet")
        polars.DataFrame({"id": rows["id"], "at": at, "bad": y.astype(int)}).write_parquet(folder / "labels.parquet")
        self.run("ingest", "units", str(folder / "units.parquet"))
        self.run("ingest", "labels", str(folder / "labels.parquet"))
        self.run("train")

    def run(self, *arguments: str) -> None:
        """Run a command of the project."""
        subprocess.run([*RUN, *arguments], cwd=self.root, check=True, stdout=subprocess.DEVNULL)

    @contextlib.contextmanager
    def served(self, log: str = "relaxed") -> Iterator[Ports]:
        """`trimtab serve` with its background tasks, answering over HTTP and gRPC."""
        process = subprocess.Popen(
            [*RUN, "serve", "--port", "0", "--grpc-port", "0"],
            cwd=self.root,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TRIMTAB_SERVE_LOG": log},
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not (found := re.search(r"http://\S+:(\d+), gRPC on \S+:(\d+)", line)):
                raise SystemExit(f"trimtab serve did not start: {line}")
            yield Ports(int(found[1]), int(found[2]))
        finally:
            process.terminate()
            process.wait(60)


def columns_of(*, rows: int = 1) -> list[dict[str, Any]]:
    """The row of `_http.body` as tensors of the Open Inference Protocol, one for each column."""
    row = msgspec.json.decode(_http.body())["request"]
    kinds = {str: "BYTES", int: "INT64", float: "FP64"}
    return [
        {"name": name, "datatype": kinds[type(value)], "shape": [rows], "data": [value] * rows}
        for name, value in row.items()
    ]


def matrix_of() -> dict[str, Any]:
    """The floats of that row as one tensor, as MLServer takes them."""
    values = [one["data"][0] for one in columns_of() if one["datatype"] == "FP64"]
    return {"name": "input-0", "datatype": "FP64", "shape": [1, len(values)], "data": values}


def infer_message(tensors: list[dict[str, Any]]) -> bytes:
    """A request over gRPC with raw tensors."""
    from trimtab.serving.inference.messages import build_messages
    from trimtab.serving.inference.tensors import OutputTensor

    request = build_messages()["ModelInferRequest"](model_name=_http.MODEL)
    for one in tensors:
        request.inputs.add(name=one["name"], datatype=one["datatype"], shape=one["shape"])
        request.raw_input_contents.append(OutputTensor(one["name"], one["datatype"], (), one["data"]).raw())
    return bytes(request.SerializeToString())
