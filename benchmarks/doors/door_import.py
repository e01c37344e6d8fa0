"""Import a LightGBM model file as a version, with golden rows: ms. The floor checks the same rows by hand.

Both are first imports of a process that has not read a model yet, as `trimtab versions import` is. The start of the
process and the opening of the project are not included. The floor uses the library's own package.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

NAME = "door_import"
TARGET = "ours <= 200"
UNIT = "ms"
BETTER = "lower"
_INPUTS, _ROWS = 30, 20
_PROJECT = """\
import trimtab as tt

names = [f"x{n}" for n in range(30)]
asked = tt.request("asked", key="id", time="at", columns={"id": str, "at": tt.Time, **dict.fromkeys(names, float)})
told = tt.source("told", time="at", key="id", columns={"id": str, "y": bool})

def trees():
    from lightgbm import LGBMClassifier
    return LGBMClassifier()

model = tt.model("scored", request=asked, features=[{name: tt.col(name) for name in names}],
    label=tt.label(told, key="id", value=tt.col("y"), wait="1d"), estimator=trees, metric="log_loss")
"""
_OURS = """
import sys, time
import trimtab as tt
with tt.open(sys.argv[1]) as project:
    start = time.perf_counter()
    project.import_model(sys.argv[2], "scored", golden=sys.argv[3], first=True, why="a benchmark")
    took = time.perf_counter() - start
print(1e3 * took)
"""
_FLOOR = """
import hashlib, json, sqlite3, sys, time
from pathlib import Path
folder, file, golden = map(Path, sys.argv[1:])
start = time.perf_counter()
import lightgbm
import numpy as np
data = file.read_bytes()
rows = [json.loads(line) for line in golden.read_text().splitlines()]
wanted = [row.pop("score") for row in rows]
scores = lightgbm.Booster(model_str=data.decode()).predict(np.array([list(row.values()) for row in rows]))
assert np.allclose(scores, wanted, rtol=1e-6)
digest = hashlib.sha256(data).hexdigest()
(folder / digest).write_bytes(data)
with sqlite3.connect(folder / "versions.db") as catalog:
    catalog.execute("CREATE TABLE IF NOT EXISTS version (id TEXT, model TEXT)")
    catalog.execute("INSERT INTO version VALUES (?, 'scored')", (digest,))
catalog.close()
print(1e3 * (time.perf_counter() - start))
"""
_MLFLOW = """
import sys, time
import lightgbm, mlflow
mlflow.set_tracking_uri(f"sqlite:///{sys.argv[1]}/mlflow.db")
mlflow.set_experiment("e")
booster = lightgbm.Booster(model_file=sys.argv[2])
start = time.perf_counter()
with mlflow.start_run():
    mlflow.lightgbm.log_model(booster, name="scored", registered_model_name="scored")
print(1e3 * (time.perf_counter() - start))
"""


class Imports:
    """A model file, its golden rows, and a fresh project for each turn."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._turns = folder, 0
        generator = np.random.default_rng(0)
        inputs = generator.normal(size=(5_000, _INPUTS))
        labels = inputs[:, :3].sum(axis=1) + generator.normal(size=len(inputs)) > 0
        names = [f"x{n}" for n in range(_INPUTS)]
        data = lightgbm.Dataset(inputs, labels, feature_name=names)
        booster = lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1}, data, 100)
        self._file, self._golden = folder / "model.txt", folder / "golden.ndjson"
        booster.save_model(self._file)
        scored = zip(inputs[:_ROWS].tolist(), booster.predict(inputs[:_ROWS]).tolist(), strict=True)
        lines = [json.dumps({**dict(zip(names, row, strict=True)), "score": score}) for row, score in scored]
        self._golden.write_text("\n".join(lines))

    def took_ms(self, program: str, python: str = sys.executable) -> float:
        """Run a program on a fresh folder, and return the milliseconds that it measured."""
        self._turns += 1
        project = self._folder / str(self._turns)
        project.mkdir()
        (project / "project.py").write_text(_PROJECT)
        (project / "trimtab.toml").write_text('[project]\nname = "scored"\n')
        given = [str(one) for one in (project, self._file, self._golden)]
        run = subprocess.run([python, "-c", program, *given], check=True, stdout=subprocess.PIPE, text=True)
        return float(run.stdout.splitlines()[-1])


def setup(folder: Path) -> Imports:
    return Imports(folder)


def ours(imports: Imports) -> float:
    return imports.took_ms(_OURS)


def floor(imports: Imports) -> float:
    return imports.took_ms(_FLOOR)


def peers(imports: Imports, python: Path) -> Mapping[str, Any]:
    return {"MLflow": imports.took_ms(_MLFLOW, str(python))}
