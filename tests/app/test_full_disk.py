"""A full disk under a service: what is answered is kept, whoever looks is told, and nothing is lost or there twice."""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import shop
from alias_moves import CLI

import forked
from processes import eventually
from trimtab.core.time import DAY_US, format_time

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are set by prlimit")
AS_OF = format_time(shop.NOW_US)
ROWS = 100


def answers(url: str, name: str) -> tuple[int, Any]:
    return shop.call(
        f"{url}/v1/models/buyer/predict", {"rows": [shop.visit(f"{name}{n}", shop.NOW_US) for n in range(ROWS)]}
    )


def figures(url: str) -> dict[str, float]:
    lines = shop.call(f"{url}/metrics")[1].splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def status(folder: Path) -> str:
    done = forked.run([*CLI, "status"], cwd=folder, env=shop.environment(), capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@contextmanager
def full(pid: int) -> Iterator[None]:
    """No file of the process may grow beyond a kilobyte: to it that is a full disk."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1_024, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def watched(url: str) -> Iterator[list[int]]:
    """What each look said whether the process lives: one after the other, until one is not answered."""
    seen: list[int] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.02):
            seen.append(shop.call(f"{url}/health/live")[0])

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["relaxed", "durable"])
def test_a_full_disk_loses_no_answer_and_is_said_to_whoever_looks(trained: Path, mode: str) -> None:
    (trained / "trimtab.toml").write_text(f'[serve]\nlog = "{mode}"\n')
    given: list[str] = []

    def ask(name: str) -> int:
        code, answer = answers(url, name)
        if code == 200:
            given.extend(one["id"] for one in answer["predictions"])
        else:
            assert code == 503
            assert "predictions cannot be logged" in answer["detail"] or "disk" in answer["detail"], answer
        return code

    with shop.serving(trained, "--as-of", AS_OF) as (process, url):
        assert ask("before") == 200
        with watched(url) as looks:
            with full(process.pid):
                already = len(looks)
                codes: list[int] = []
                while codes.count(503) < 20 and len(codes) < 400:
                    codes.append(ask(f"during{len(codes)}"))
                kept = codes.index(503)
                assert (kept > 10) if mode == "relaxed" else (kept == 0)
                assert set(codes[kept:]) == {503}
                code, problem = shop.call(f"{url}/health/ready")
                assert (code, "predictions cannot be logged" in problem["detail"]) == (503, True)
                seen = figures(url)
                assert seen["trimtab_prediction_log_failing"] == 1
                assert seen["trimtab_predictions_noted"] - kept * ROWS in (0, ROWS)  # those before may be among them
                assert "RED  the serving process: predictions cannot be logged: " in status(trained)
                eventually(lambda: len(looks) > already + 5)
            eventually(lambda: shop.call(f"{url}/health/ready")[0] == 200)
            assert ask("after") == 200
        assert set(looks) == {200}
        assert "predictions cannot be logged" not in status(trained)
        seen = figures(url)
        assert seen["trimtab_prediction_log_failing"] == 0
        assert seen['trimtab_predictions_total{model="buyer",fate="logged"}'] == len(given)
        assert seen['trimtab_predictions_total{model="buyer",fate="dropped"}'] == 0
    with shop.opened(trained, shop.NOW_US + DAY_US) as project:
        logged = [one.id for some in project.predictions.scan() for one in some]
    assert sorted(logged) == sorted(given)
