"""`trimtab serve --workers 2`: one service of several processes, killed, replaced, promoted to under load."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import shop
from alias_moves import AS_OF, CLI, Answers, asking, promote, wait_until_alone, waited_s
from worker_load import Load

import forked
from impatient import overloaded
from processes import eventually, is_alive
from trimtab.app.features.project_spec import ProjectSpec
from trimtab.app.project import Project, open_project
from trimtab.app.serve.followed_views import FollowedViews
from trimtab.app.serve.worker import WorkerTask, missing_here
from trimtab.core.errors import Misuse, Unavailable
from trimtab.core.time import DAY_US, HOUR_US, format_time
from trimtab.serving.workers.states import ServiceState, write_state

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
TWO = ("--as-of", AS_OF, "--workers", "2")


def reading(n: int) -> dict[str, Any]:
    return {"site": "east", "level": float(n), "read_at": format_time(shop.NOW_US - DAY_US + n)}


def visit(key: str) -> dict[str, Any]:
    return {**shop.visit(key, shop.NOW_US), "at": AS_OF}


def takes_connections(url: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))).close()
    except (ConnectionRefusedError, ConnectionResetError):  # reset: it stopped listening at this moment
        return False
    return True


def test_workers_answer_as_one_service(trained: Path) -> None:
    with shop.serving(trained, *TWO) as (process, url):
        found = shop.all_ready(trained)
        assert [worker.slot for worker in found.workers] == [1, 2]
        assert shop.call(f"{url}/health/ready")[0] == 200
        status, before = shop.call(f"{url}/v1/models/buyer/predict", {"request": visit("a")})
        assert (status, before["version"], before["reasons"]) == (200, "buyer@2", {})
        event = {"site": "north", "level": 40.0, "read_at": format_time(shop.NOW_US)}
        assert shop.call(f"{url}/v1/events/readings?wait=applied", event)[0] == 200
        for n in range(8):  # whichever worker takes it
            status, after = shop.call(f"{url}/v1/models/buyer/predict", {"request": visit(f"b{n}")})
            assert after["score"] != before["score"]
            told = {"prediction": after["id"], "value": True}
            assert shop.call(f"{url}/v1/labels/buyer", told)[1]["accepted"] == 1
            assert shop.call(f"{url}/v1/predictions/{after['id']}")[1]["score"] == after["score"]

        def shown() -> str | None:
            text: str = shop.call(f"{url}/metrics")[1]
            counted = re.findall(r'trimtab_predictions_total\{worker="\d",model="buyer",fate="logged"\} (\d+)', text)
            applied = 'trimtab_views_lag_records{worker="engine"} 0' in text  # told about once a second
            return text if sum(map(int, counted)) == 9 and applied else None

        text = eventually(shown)
        assert text.count("# TYPE trimtab_predictions_total") == 1
        assert 'trimtab_worker_restarts_total{worker="engine",slot="2"} 0' in text
        said = forked.run(
            [*CLI, "status"], cwd=trained, env=shop.environment(), capture_output=True, text=True, check=False
        ).stdout
        assert f"served by 2 workers on {url}" in said
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as under_way:
            body = json.dumps({"request": visit("last")}).encode()
            head = "POST /v1/models/buyer/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            under_way.sendall(head.encode() + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
            assert under_way.recv(4_096) == CONTINUE  # a worker has it
            under_way.sendall(body[:9])
            process.send_signal(signal.SIGTERM)
            eventually(lambda: not takes_connections(url))
            under_way.sendall(body[9:])
            assert under_way.recv(4_096).startswith(b"HTTP/1.1 200 OK\r\n")
        _, error = process.communicate(timeout=60)
        assert (process.returncode, error) == (0, "")
        assert not any(is_alive(worker.pid) for worker in found.workers if worker.pid)
    assert not list((trained / ".trimtab" / "workers").iterdir())
    with shop.opened(trained, shop.NOW_US + DAY_US) as project:
        assert project.predictions.find(after["id"]).score == after["score"]
        assert "served by" not in "\n".join(project.status().lines())


def test_connections_that_stay_open_are_shared(trained: Path) -> None:
    """How evenly depends on who else uses the cores; that whoever has fewer is left the next one does not.

    That is `test_a_connection_is_left_to_the_worker_that_has_fewer`.
    """
    with shop.serving(trained, *TWO) as (_, url), ExitStack() as opened:
        shop.all_ready(trained)
        port, counted = int(url.rpartition(":")[2]), Counter[str]()
        for _ in range(32):  # each once the one before was answered: nobody takes several that wait
            one = opened.enter_context(socket.create_connection(("127.0.0.1", port)))
            one.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            asked = HTTPResponse(one)
            asked.begin()
            own = re.search(r'^process_start_time_seconds\{worker="(\d)"', asked.read().decode(), re.MULTILINE)
            assert own is not None
            counted[own[1]] += 1
        assert min(counted["1"], counted["2"]) >= 4, counted


def test_workers_answer_with_what_the_engine_has_learnt(trained: Path) -> None:
    with shop.serving(trained, *TWO) as (_, url):
        shop.all_ready(trained)

        def answers(name: str) -> list[dict[str, Any]]:
            """To the same question, of whichever workers take it."""
            asked = [{"request": visit(f"{name}{n}")} for n in range(8)]
            return [shop.call(f"{url}/v1/models/learner/predict", one)[1] for one in asked]

        before = answers("a")
        for n in range(8):
            sale = {"visit_id": f"a{n}", "site": "north", "bought": False, "closed_at": before[-1]["at_us"]}
            assert shop.call(f"{url}/v1/events/sales", sale)[0] == 200
        with shop.opened(trained, shop.NOW_US + 2 * HOUR_US) as project:
            assert project.teacher("learner").teach() == 8  # as the engine will in an hour
        eventually(lambda: max(one["score"] for one in answers("b")) < before[0]["score"])


_BETWEEN = 8  # answers and events at least, between two kills


def campaign(folder: Path, *, rounds: int, kills: int, seed: int) -> dict[str, int]:
    """Kill workers, then the supervisor, under load, so many times; what was acknowledged, and what is wrong.

    The next service has the same port, which workers of the killed one may hold for a moment yet.
    """
    chance = random.Random(seed)
    predicted: list[str] = []
    pushed: list[int] = []
    refused: list[str] = []
    port = "0"
    leaving: set[int] = set()
    for number in range(rounds):
        with shop.serving(folder, *TWO, "--port", port, stop=signal.SIGKILL) as (process, url):
            port = url.rpartition(":")[2]
            pids: set[int] = set()
            with Load(url, visit, reading, number) as load:
                for _ in range(kills):
                    enough = len(load.predicted) + len(load.pushed) + _BETWEEN
                    eventually(lambda enough=enough: len(load.predicted) + len(load.pushed) >= enough)
                    time.sleep(chance.uniform(0.05, 0.6))
                    found = eventually(lambda: [w for w in (shop.state(folder) or _NONE).workers if w.ready and w.pid])
                    pids.update(worker.pid for worker in found)
                    victim = chance.choice(found).pid
                    if is_alive(victim):
                        os.kill(victim, signal.SIGKILL)
                time.sleep(chance.uniform(0.05, 0.6))
                pids.update(worker.pid for worker in (shop.state(folder) or _NONE).workers if worker.pid)
                process.kill()
        leaving.update(pids)
        predicted += load.predicted
        pushed += load.pushed
        refused += load.refused
    with shop.serving(folder, *TWO, "--port", port) as (process, _):  # what spools hold is recovered at the start
        shop.all_ready(folder)
        eventually(lambda: not any(map(is_alive, leaving)))  # workers without a supervisor notice, and go
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    with shop.opened(folder) as project:
        faults = shop.faults_of_log(project, predicted, pushed)
        assert len(project.state.predictions.positions()) <= 8  # partitions are taken again, not made anew
    return {"acknowledged": len(predicted) + len(pushed), **faults, "refused": len(refused)}


_NONE = ServiceState(pid=0, url="", at_us=0, workers=[])


@pytest.mark.slow
def test_killed_workers_and_supervisors_have_logged_each_answer_and_event_once(trained: Path) -> None:
    (trained / "trimtab.toml").write_text('[serve]\nlog = "relaxed"\n')
    found = campaign(trained, rounds=1, kills=3, seed=1)
    assert found.pop("acknowledged") >= 3 * _BETWEEN
    assert not any(found.values()), found


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["durable", "relaxed"])
def test_workers_and_supervisors_killed_many_times_have_logged_each_answer_and_event_once(
    trained: Path, mode: str, soak_report: Any
) -> None:
    (trained / "trimtab.toml").write_text(f'[serve]\nlog = "{mode}"\n')
    rounds, kills = 10, 12
    found = campaign(trained, rounds=rounds, kills=kills, seed=2)
    acknowledged = found.pop("acknowledged")
    runs = rounds * (kills + 1)
    soak_report(f"kill_workers_{mode}", runs=runs, failures=sum(found.values()), acknowledged=acknowledged)
    assert not any(found.values()), found


class UnderLoad(msgspec.Struct):
    """What came of promotions under load."""

    answers: Answers
    moved: list[tuple[float, str]]
    longest_s: float  # from a promotion until its version answers alone
    faults: dict[str, int]
    capacity: float = 0.0  # answers a second, where it was measured

    @property
    def share(self) -> float:
        """Of the capacity, what was answered while versions were promoted."""
        came = self.answers["came"]
        return float(len(came) / (came.max() - came.min()) / self.capacity)


def promoted_under_load(
    folder: Path,
    *,
    connections: int,
    moves: int,
    pause_s: float,
    rate: float = 0.0,
    share: float | None = None,
    measure_s: float = 0.0,
) -> UnderLoad:
    """Promote to and fro under load, each time after the version before answers alone; the answers, and what is wrong.

    With a `share`, so many answers a second are measured for `measure_s` seconds first as connections get that ask
    without a pause, and that share of it is asked for at a fixed rate while versions are promoted.
    """
    moved: list[tuple[float, str]] = []
    before, capacity = [], 0.0
    with shop.serving(folder, *TWO) as (_, url):
        shop.all_ready(folder)
        if share is not None:
            with asking(folder, url, connections) as ended:
                time.sleep(measure_s)
                before.append(ended())
            came = before[0]["came"]
            middle = (came > came[0] + measure_s / 4) & (came < came[0] + measure_s * 3 / 4)
            capacity = middle.sum() / (measure_s / 2)
            rate = share * capacity
        with asking(folder, url, connections, rate) as ended:
            with shop.opened(folder) as project:
                for number in range(moves):
                    time.sleep(pause_s)
                    name = f"buyer@{1 + number % 2}"
                    moved.append((promote(project, name), name))
                    wait_until_alone(folder, *moved[-1])
            time.sleep(pause_s)
            answers = ended()
    waits = waited_s(answers, moved)
    with shop.opened(folder) as project:
        faults = {"failed": int((answers["status"] != 200).sum()), **faults_of_answers(project, [*before, answers])}
    return UnderLoad(answers=answers, moved=moved, longest_s=max(waits), faults=faults, capacity=capacity)


def faults_of_answers(project: Project, answers: list[Answers]) -> dict[str, int]:
    """How many answers are not logged exactly once, and how many no whole version gave."""
    versions = {name: project.registry.get(name) for name in ("buyer@1", "buyer@2")}
    loaded = {version.id: project.registry.load(version).scorer for version in versions.values()}
    ids, said = [], Counter[tuple[str, bytes, float]]()
    for block in project.predictions.scan():
        ids.append(np.array([one.id for one in block], "S28"))
        said.update((one.version, one.values, one.score) for one in block)
    logged = np.concatenate(ids)
    given = np.concatenate([one["id"][one["status"] == 200] for one in answers])
    once, counts = np.unique(logged, return_counts=True)
    wrong = 0
    for (version, values, score), count in said.items():
        row = list(struct.unpack(f"<{len(values) // 8}d", values))
        wrong += count if loaded[version].predict_row(row) != score else 0
    named = {version for one in answers for version in np.unique(one["version"][one["status"] == 200]).tolist()}
    return {
        "not logged": int((~np.isin(given, once)).sum()),
        "logged and not answered": int((~np.isin(once, given)).sum()),
        "logged twice": int((counts - 1).sum()),
        "answered twice": len(given) - len(np.unique(given)),
        "no version's": wrong + len(named - {name.encode() for name in versions}),
    }


@pytest.mark.slow
def test_a_promotion_reaches_every_worker_and_no_request_fails(trained: Path) -> None:
    """How soon, the soak campaign says: another load of the machine puts it off."""
    (trained / "trimtab.toml").write_text('[serve]\nlog = "relaxed"\n')
    found = promoted_under_load(trained, connections=4, moves=2, pause_s=0.3)
    assert not any(found.faults.values()), found.faults


@pytest.mark.slow
def test_requests_at_a_fixed_rate_are_made_at_that_rate_while_versions_change(trained: Path) -> None:
    (trained / "trimtab.toml").write_text('[serve]\nlog = "relaxed"\n')
    found = promoted_under_load(trained, connections=8, moves=2, pause_s=0.3, rate=50.0)
    asked = np.sort(found.answers["asked"])
    assert np.diff(asked) == pytest.approx(1.0 / 50.0, abs=1e-5)  # none is left out or put off
    assert not any(found.faults.values()), found.faults


@pytest.mark.soak
def test_ten_minutes_of_promotions_fail_no_request_and_log_every_answer_once(trained: Path, soak_report: Any) -> None:
    """At seven tenths of what the service can do; TRIMTAB_SOAK_MOVES says how many promotions, ten seconds each."""
    (trained / "trimtab.toml").write_text('[serve]\nlog = "relaxed"\n')
    moves = int(os.environ.get("TRIMTAB_SOAK_MOVES", "59"))
    found = promoted_under_load(trained, connections=32, moves=moves, pause_s=10.0, share=0.7, measure_s=10.0)
    took_ms = (found.answers["came"] - found.answers["asked"]) * 1e3
    soak_report(
        "promotions_under_load",
        runs=moves,
        failures=sum(found.faults.values()),
        answers=len(found.answers),
        capacity_per_s=round(found.capacity),
        answered_share=round(found.share, 3),
        longest_s=round(found.longest_s, 3),
        p50_ms=round(float(np.quantile(took_ms, 0.5)), 2),
        p99_ms=round(float(np.quantile(took_ms, 0.99)), 2),
    )
    assert not any(found.faults.values()), found.faults
    assert found.longest_s < 1.0
    assert found.share > 0.65


def test_settings_are_refused_before_a_worker_starts(trained: Path) -> None:
    threads = {t.name for t in threading.enumerate()}
    for settings, words in (("max_rows = -1", "rows"), ("port = 70000", "port"), ("workers = 0", "workers")):
        (trained / "trimtab.toml").write_text(f"[serve]\nworkers = 2\n{settings}\n".replace("workers = 2\nw", "w"))
        with pytest.raises(Misuse, match=words), open_project(trained, environment={}) as project:
            project.serve(port=None)
    (trained / "trimtab.toml").write_text("[serve]\nworkers = 2\n")
    with shop.opened(trained) as project, pytest.raises(Misuse, match="VirtualClock"):
        project.serve(port=0)
    assert {t.name for t in threading.enumerate()} <= threads


def test_a_worker_says_at_once_that_events_are_not_applied_any_more(trained: Path) -> None:
    told = {"pid": 1, "url": "", "at_us": time.time_ns() // 1_000, "workers": []}
    why = "the applier stopped: a view is damaged"
    with shop.opened(trained) as project:
        pushed = project.ingestor.push("readings", [reading(1)])
        reached = {pushed.partition: pushed.position}
        stopped = ServiceState(**told, stands_still=why, stopped=True)  # type: ignore[arg-type]
        begun = time.monotonic()
        with pytest.raises(Unavailable, match=f"not in the online features yet: {why}"):
            FollowedViews(project, lambda: None, lambda: stopped).wait_applied(reached, 60)
        assert time.monotonic() - begun < 20
        hindered = ServiceState(**told, stands_still="events cannot be applied: x")  # type: ignore[arg-type]
        with pytest.raises(Unavailable, match=r"waited 0.3 s; events cannot be applied: x\."):
            FollowedViews(project, lambda: None, lambda: hindered).wait_applied(reached, 0.3)
        task = WorkerTask(
            slot=1,
            count=1,
            project=ProjectSpec.of(project.config, project.state_folder),
            folder=str(project.state_folder),
            ahead_us=None,
            fill_s=0.0,
            grace_s=0.0,
            definitions="",
        )
        write_state(project.state_folder, stopped)
        assert missing_here(task, 7) == why
        write_state(project.state_folder, ServiceState(**told))  # type: ignore[arg-type]
        assert missing_here(task, 7) == "online features are being filled: 7 records to apply."
        assert missing_here(task, 0) is None


@pytest.mark.fast
def test_a_service_loads_no_heavy_library_by_itself(tmp_path: Path) -> None:
    folder = shop.write_project(tmp_path / "empty")
    code = (
        "import contextlib, sys\n"
        "import trimtab.app.serve.engine, trimtab.app.serve.worker\n"
        "from trimtab.app.serve.followed_views import FollowedViews\n"
        "from trimtab.app.serve.background import BackgroundTasks\n"
        "from trimtab.app.project import open_project\n"
        "from trimtab.app.serve.parts import http_service\n"
        "from trimtab.serving.observe.metrics import Metrics\n"
        "with open_project('.') as project, contextlib.ExitStack() as opened:\n"
        "    project.apply_first()\n"
        "    views = FollowedViews(project, lambda: None)\n"
        "    BackgroundTasks(project).follow()\n"
        "    http_service(project, opened, log=project.predictions, metrics=Metrics(), host='127.0.0.1', workers=2,\n"
        "                 wait_applied=views.wait_applied, ready=lambda: None).close()\n"
        "heavy = {'sklearn', 'scipy', 'pandas', 'lightgbm', 'duckdb', 'arro3', 'polars', 'pyarrow', 'onnxruntime'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=shop.environment(), capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_the_statistics_of_the_inference_protocol_are_those_of_all_workers(trained: Path) -> None:
    values = (("visit_id", "BYTES", "s"), ("site", "BYTES", "north"), ("at", "INT64", shop.NOW_US), ("x", "FP64", 0.5))
    tensors = [{"name": name, "shape": [1], "datatype": kind, "data": [value]} for name, kind, value in values]
    with shop.serving(trained, *TWO) as (_, url):
        shop.all_ready(trained)
        for _ in range(20):  # each by a connection of its own: both workers answer some
            assert shop.call(f"{url}/v2/models/buyer/infer", {"inputs": tensors})[0] == 200
        assert shop.call(f"{url}/v2/models/buyer/infer", {"inputs": tensors[1:]})[0] != 200

        def figures() -> list[dict[str, Any]]:
            asked = [shop.call(f"{url}/v2/models/buyer/stats")[1]["model_stats"][0] for _ in range(6)]
            assert {one["version"] for one in asked} == {"2"}
            return asked

        def all_counted() -> list[dict[str, Any]] | None:
            found = figures()
            counts = {(one["inference_count"], one["execution_count"]) for one in found}
            stats = [one["inference_stats"] for one in found]
            ends = {(one["success"]["count"], one["fail"]["count"]) for one in stats}
            return found if (counts, ends) == ({(20, 20)}, {(20, 1)}) else None

        for one in eventually(all_counted):
            stats = one["inference_stats"]
            assert stats["success"]["ns"] >= stats["compute_infer"]["ns"] > 0
            assert time.time() * 1e3 - 60_000 < one["last_inference"] <= time.time() * 1e3

        def rows_of_models() -> dict[str, int]:  # as the worker that takes it knows it: it may lag behind the other
            all_models = shop.call(f"{url}/v2/models/stats")[1]["model_stats"]
            return {one["name"]: one["inference_count"] for one in all_models}

        def rows_counted() -> int:
            text = shop.call(f"{url}/metrics")[1]
            found = re.findall(r'trimtab_inference_rows_total\{worker="\d",model="buyer",version="2"\} (\d+)', text)
            return sum(map(int, found))

        eventually(lambda: rows_of_models() == {"buyer": 20, "learner": 0})
        eventually(lambda: rows_counted() == 20)


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["durable", "relaxed"])
def test_two_workers_answer_clients_that_retry_at_once(trained: Path, mode: str, soak_report: Any) -> None:
    (trained / "trimtab.toml").write_text(f'[serve]\nlog = "{mode}"\n')
    body = json.dumps({"request": {**shop.visit("k1", shop.NOW_US), "at": AS_OF}}).encode()
    head = f"POST /v1/models/buyer/predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    with shop.serving(trained, *TWO) as (_, url):
        pids = [worker.pid for worker in shop.all_ready(trained).workers]
        found = overloaded(int(url.rpartition(":")[2]), head.encode() + body, [pid for pid in pids if pid])
    failures = (found["share"] < 0.7) + (found["health_p99_ms"] >= 100)
    soak_report(f"overload_retries_workers_{mode}", runs=1, failures=failures, **found)
    assert failures == 0, found
