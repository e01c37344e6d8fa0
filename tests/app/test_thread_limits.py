"""How many threads numerical libraries have in the processes of a service: one, so that cores are not fought over."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import shop
from alias_moves import AS_OF

LOOK = """
import ctypes, importlib.util, json, os
from pathlib import Path
import numpy  # with OpenBLAS
from threadpoolctl import threadpool_info

site = Path(importlib.util.find_spec("sklearn").origin).parents[1]
ctypes.CDLL(str(next(site.glob("scikit_learn.libs/libgomp*"))))  # OpenMP, without the second that scikit-learn takes

found = [(one["user_api"], one["num_threads"]) for one in threadpool_info()]
with open(os.path.join(os.path.dirname(__file__), "pools.jsonl"), "a") as file:
    file.write(json.dumps({"process": os.getpid(), "pools": found}) + "\\n")
"""


@pytest.mark.parametrize(("workers", "said"), [(1, None), (2, None), (1, "2")])
def test_numerical_libraries_have_one_thread_unless_somebody_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, said: str | None
) -> None:
    folder = shop.write_project(tmp_path / "shop")  # without a version, whose library each process would load
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
        if said is not None:
            monkeypatch.setenv(name, said)
    with (folder / "project.py").open("a") as file:
        file.write(LOOK)
    with shop.serving(folder, "--as-of", AS_OF, "--workers", str(workers), begun=subprocess.Popen):
        if workers > 1:
            shop.all_ready(folder)
    found = [json.loads(line) for line in (folder / "pools.jsonl").read_text().splitlines()]
    assert len({one["process"] for one in found}) == (1 if workers == 1 else 3)
    threads = {tuple(pool) for one in found for pool in one["pools"]}
    assert {name for name, _ in threads} == {"blas", "openmp"}
    assert {count for _, count in threads} == {int(said or 1)}
