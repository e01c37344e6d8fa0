"""`trimtab serve` as a process: answers, pushes, kill -9 under load, bad settings, a long training at the end."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
import shop

import forked
from processes import eventually
from trimtab.app.project import open_project
from trimtab.app.serve.background import BackgroundTasks
from trimtab.app.serve.service import open_to_all
from trimtab.app.state.service_failures import service_failures
from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Misuse
from trimtab.core.records import Prediction
from trimtab.core.time import DAY_US, format_time
from trimtab.serving.log.prediction_ids import PredictionIds
from trimtab.serving.log.prediction_record import encode
from trimtab.serving.log.spool import Spool

AS_OF = format_time(shop.NOW_US)


def reading(n: int) -> dict[str, Any]:
    return {"site": "east", "level": float(n), "read_at": format_time(shop.NOW_US - DAY_US + n)}


def visit(key: str) -> dict[str, Any]:
    return {**shop.visit(key, shop.NOW_US), "at": AS_OF}


@pytest.mark.fast
def test_a_served_project_answers_and_applies_what_is_pushed(trained: Path) -> None:
    with shop.serving(trained, "--as-of", AS_OF) as (_, url):
        assert shop.call(f"{url}/health/ready")[0] == 200
        status, before = shop.call(f"{url}/v1/models/buyer/predict", {"request": visit("a")})
        assert (status, before["version"], before["reasons"]) == (200, "buyer@2", {})
        event = {"site": "north", "level": 40.0, "read_at": format_time(shop.NOW_US)}
        assert shop.call(f"{url}/v1/events/readings?wait=applied", event)[0] == 200
        after = shop.call(f"{url}/v1/models/buyer/predict", {"request": visit("b")})[1]
        assert after["score"] != before["score"]
        past = shop.call(f"{url}/v1/models/buyer/predict", {"request": visit("c"), "at": AS_OF})[1]
        assert past["flags"] == ["past"]
        assert "trimtab_views_lag_records 0" in shop.call(f"{url}/metrics")[1]
    with shop.opened(trained, shop.NOW_US + DAY_US) as project:
        assert project.predictions.find(after["id"]).score == after["score"]
        assert project.why(before["id"]).inputs[0].value == 0.5


class Load:
    """Threads that predict and push until the server is gone; what was acknowledged."""

    def __init__(self, url: str, round_number: int) -> None:
        self.predicted: list[str] = []
        self.pushed: list[int] = []
        self._local = threading.local()
        self._address = url.removeprefix("http://")
        self._threads = [threading.Thread(target=self._predict, args=(round_number, n)) for n in range(2)]
        self._threads.append(threading.Thread(target=self._push, args=(round_number,)))
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(timeout=60)

    def _predict(self, round_number: int, thread: int) -> None:
        for n in range(100_000):
            answer = self._post("/v1/models/buyer/predict", {"request": visit(f"r{round_number}/{thread}/{n}")})
            if answer is None:
                break
            self.predicted.append(answer["id"])
        self._close()

    def _push(self, round_number: int) -> None:
        for n in range(100_000):
            number = round_number * 1_000_000 + n
            if self._post("/v1/events/readings", reading(number)) is None:
                break
            self.pushed.append(number)
        self._close()

    def _close(self) -> None:
        if hasattr(self._local, "connection"):
            self._local.connection.close()

    def _post(self, path: str, body: Any) -> Any:
        try:
            if not hasattr(self._local, "connection"):
                self._local.connection = HTTPConnection(self._address, timeout=60)
            self._local.connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = self._local.connection.getresponse()
            text = response.read()
        except (OSError, HTTPException):  # the server was killed
            return None
        assert response.status == 200, text
        return json.loads(text)


def kills(folder: Path, count: int, seed: int) -> tuple[int, dict[str, int]]:
    """Kill the server under load so many times; records acknowledged, and what is wrong in the logs."""
    chance = random.Random(seed)
    predicted: list[str] = []
    pushed: list[int] = []
    for number in range(count):
        with shop.serving(folder, "--as-of", AS_OF, stop=signal.SIGKILL) as (process, url):
            load = Load(url, number)
            time.sleep(chance.uniform(0.05, 0.6))
            process.kill()
            load.join()
        predicted += load.predicted
        pushed += load.pushed
    with shop.serving(folder, "--as-of", AS_OF) as (process, _):  # what a spool holds is recovered at the start
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    with shop.opened(folder) as project:
        faults = shop.faults_of_log(project, predicted, pushed)
    assert len(predicted) > count
    assert len(pushed) > count
    return len(predicted) + len(pushed), {fault: count for fault, count in faults.items() if count}


@pytest.mark.parametrize(("mode", "count"), [("durable", 3), ("relaxed", 2)])
def test_a_killed_server_has_logged_each_answer_and_event_once(trained: Path, mode: str, count: int) -> None:
    (trained / "trimtab.toml").write_text(f'[serve]\nlog = "{mode}"\n')
    assert kills(trained, count, seed=1)[1] == {}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_relaxed_server_noted_is_logged_by_a_durable_one(trained: Path, workers: int) -> None:
    given = {"request_id": "r", "model": "buyer", "version": "v", "arm": "champion", "mode": "live", "score": 0.5}
    times = {"made_at_us": shop.NOW_US, "at_us": shop.NOW_US, "positions": {}}
    made = PredictionIds(VirtualClock(shop.NOW_US))()
    one = Prediction(id=made, request=b"", values=b"", reasons=b"", **given, **times)  # type: ignore[arg-type]  # as kept
    with shop.opened(trained) as project, Spool(project.state_folder / "spool", project.predictions) as spool:
        spool.add([encode(one)])  # and it was killed
    (trained / "trimtab.toml").write_text('[serve]\nlog = "durable"\n')
    with shop.serving(trained, "--as-of", AS_OF, "--workers", str(workers)):
        pass
    with shop.opened(trained) as project:
        assert project.predictions.find(one.id) == one


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["durable", "relaxed"])
def test_a_server_killed_many_times_has_logged_each_answer_and_event_once(
    trained: Path, mode: str, soak_report: Any
) -> None:
    (trained / "trimtab.toml").write_text(f'[serve]\nlog = "{mode}"\n')
    acknowledged, faults = kills(trained, 20, seed=2)
    soak_report(f"kill_serve_{mode}", runs=20, failures=sum(faults.values()), acknowledged=acknowledged)
    assert faults == {}


def test_a_service_that_others_reach_without_a_key_says_so(trained: Path) -> None:
    with shop.opened(trained) as project:
        for host in ("127.0.0.1", "::1", "localhost"):
            assert open_to_all(project, host) is None
        for host in ("0.0.0.0", "::", "shop.example"):
            assert str(open_to_all(project, host)).startswith(
                f"any client that reaches {host} may predict, push and read"
            )
    with shop.serving(trained, "--as-of", AS_OF, "--host", "0.0.0.0") as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        said = process.stderr.read()
        assert (said.count("\n"), said[:38]) == (1, "warning: any client that reaches 0.0.0"), said
    with shop.opened(trained) as project:
        project.keys.add("shop", ["predict"])
        assert open_to_all(project, "0.0.0.0") is None


def test_a_bad_setting_leaves_nothing_behind(trained: Path) -> None:
    threads = {t.name for t in threading.enumerate()}
    (trained / "trimtab.toml").write_text("[serve]\nmax_rows = -1\n")
    with pytest.raises(Misuse, match="max_rows must be 1 or more, not -1"):
        open_project(trained, environment={})
    (trained / "trimtab.toml").write_text("")
    with open_project(trained, environment={}) as project:
        with pytest.raises(Misuse, match="port"):
            project.serve(port=70_000)
        assert not project.views.followed()
    assert {t.name for t in threading.enumerate()} <= threads


def test_sigterm_during_a_long_training_ends_cleanly(tmp_path: Path) -> None:
    folder = shop.write_project(tmp_path / "slow")
    file = folder / "project.py"
    slow = "def batch():\n    import pathlib, time\n\n    pathlib.Path('training').touch()\n    time.sleep(600)\n"
    file.write_text(file.read_text().replace("def batch():\n", slow))
    with shop.opened(folder) as project:
        shop.load(project)
    hurried = (
        "import trimtab.app.serve.background as k; k._TICK_S = 0.1; k._GRACE_S = 0.5\n"
        f"from trimtab.app.project import open_project\nfrom trimtab.core.clock import ShiftedClock\n"
        f"with open_project('.', clock=ShiftedClock({shop.NOW_US})) as p: p.serve(port=0)"
    )
    process = forked.Popen(
        [sys.executable, "-c", hurried], cwd=folder, env=shop.environment(), stderr=subprocess.PIPE, text=True
    )
    eventually(lambda: (folder / "training").exists() or process.poll() is not None)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert "Traceback" not in error


def test_a_service_is_ready_before_it_loads_what_its_loop_needs(tmp_path: Path) -> None:
    """The first answer waits for each of these modules.  # D0219"""
    folder = shop.write_project(tmp_path / "new")
    code = (
        "import os, signal, sys\n"
        "from trimtab.app.project import open_project\n"
        "def ready(url):\n"
        "    ours = {name for name in sys.modules if name.startswith('trimtab.')}\n"
        "    loop = ('trimtab.steering.loop.', 'trimtab.steering.gate', 'trimtab.training.data', 'trimtab.stats.inf')\n"
        "    print(len(ours) <= 340 or len(ours), sorted(name for name in ours if name.startswith(loop)))\n"
        "    print(sorted({'numpy', 'sqlalchemy', 'duckdb', 'scipy', 'sklearn'} & sys.modules.keys()))\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "with open_project('.') as project:\n"
        "    project.serve(port=0, ready=ready)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=shop.environment(), capture_output=True, text=True
    )
    assert (done.stdout, done.returncode) == ("True []\n[]\n", 0), done.stderr


def test_one_deployment_that_fails_keeps_no_other_from_being_followed(trained: Path) -> None:
    with shop.opened(trained) as project:
        version = project.registry.alias("buyer", "champion")
        assert version is not None
        (blob,) = [p for p in (trained / ".trimtab" / "blob").rglob("*") if p.name.endswith(version.artifact[4:])]
        blob.write_bytes(b"damaged")
        keeper = BackgroundTasks(project)
        keeper.follow()
        assert project.served("learner").endpoint.ready
        assert not project.served("buyer").endpoint.ready
        assert list(keeper.failures) == ["follow buyer"]
        assert service_failures(project.state.catalog) == keeper.failures
        keeper.start().close()
        assert service_failures(project.state.catalog) == {}


def test_an_end_under_load_fails_no_request_on_an_open_connection(trained: Path) -> None:
    body = json.dumps({"request": visit("k")}).encode()
    head = b"POST /v1/models/buyer/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    asked = head + b"content-length: %d\r\n\r\n%b" % (len(body), body)
    looked = b"GET /v1/models/buyer HTTP/1.1\r\nhost: localhost\r\n\r\n"
    statuses: Counter[int] = Counter()
    failed: list[object] = []
    begun = threading.Barrier(9)

    def ask(port: int, what: bytes) -> None:
        """Again and again on one connection, until the server says that it closes it."""
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            begun.wait()
            while True:
                try:
                    connection.sendall(what)
                    answer = HTTPResponse(connection)
                    answer.begin()
                    answer.read()
                    answer.close()
                except (OSError, HTTPException) as error:
                    failed.append(error)
                    return
                statuses[answer.status] += 1
                if answer.getheader("connection") == "close":
                    return

    with shop.serving(trained, "--as-of", AS_OF) as (process, url):
        port = int(url.rpartition(":")[2])
        askers = [threading.Thread(target=ask, args=(port, what)) for what in [asked] * 6 + [looked] * 2]
        for asker in askers:
            asker.start()
        idle = socket.create_connection(("127.0.0.1", port), timeout=60)
        idle.sendall(looked)  # so it is not one that waits to be taken
        answer = HTTPResponse(idle)
        answer.begin()
        answer.read()
        begun.wait()
        eventually(lambda: statuses[200] > 50)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        for asker in askers:
            asker.join()
        with idle:
            assert idle.recv(1) == b""  # closed in order
    assert not failed
    assert list(statuses) == [200]
    assert statuses[200] > 8


@pytest.mark.slow
def test_a_version_that_cannot_be_loaded_is_not_said_to_be_missing(trained: Path) -> None:
    with shop.opened(trained) as project:
        champion = project.registry.alias("buyer", "champion")
        assert champion is not None
        artifact = trained / ".trimtab" / "blob" / champion.artifact
    whole = artifact.read_bytes()
    artifact.chmod(0o644)
    artifact.write_bytes(b"torn" + whole[4:])
    with shop.serving(trained, "--as-of", AS_OF) as (_, url):
        for path, body in [("/health/ready", None), ("/v1/models/buyer/predict", {"request": visit("k")})]:
            status, problem = shop.call(url + path, body)
            assert (status, "'buyer': the version in service cannot be loaded here" in problem["detail"]) == (503, True)
        artifact.write_bytes(whole)
        eventually(lambda: shop.call(f"{url}/v1/models/buyer/predict", {"request": visit("k")})[0] == 200)
        assert shop.call(f"{url}/health/ready")[0] == 200
