"""How many threads numerical libraries have in the processes of a service: one, so that cores are not fought over."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import shop
from alias_moves import AS_OF

LOOK = """
import json, os
import scipy.linalg, sklearn  # with OpenBLAS and OpenMP
from threadpoolctl import threadpool_info

found = [(one["user_api"], one["num_threads"]) for one in threadpool_info()]
with open(os.path.join(os.path.dirname(__file__), "pools.jsonl"), "a") as file:
    file.write(json.dumps({"process": os.getpid(), "pools": found}) + "\\n")
"""


@pytest.mark.parametrize(("workers", "said"), [(1, None), (2, None), (1, "2")])
def test_numerical_libraries_have_one_thread_unless_somebody_says_otherwise(
    trained: Path, monkeypatch: pytest.MonkeyPatch, workers: int, said: str | None
) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
        if said is not None:
            monkeypatch.setenv(name, said)
    with (trained / "project.py").open("a") as file:
        file.write(LOOK)
    with shop.serving(trained, "--as-of", AS_OF, "--workers", str(workers), begun=subprocess.Popen):
        if workers > 1:
            shop.all_ready(trained)
    found = [json.loads(line) for line in (trained / "pools.jsonl").read_text().splitlines()]
    assert len({one["process"] for one in found}) == (1 if workers == 1 else 3)
    threads = {tuple(pool) for one in found for pool in one["pools"]}
    assert {name for name, _ in threads} == {"blas", "openmp"}
    assert {count for _, count in threads} == {int(said or 1)}
