"""How a service ends: told several times, by its terminal, with a request that never ends, without its supervisor."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import msgspec
import pytest
import shop

import forked
from processes import eventually
from trimtab.app.project import open_project
from trimtab.app.serve import engine
from trimtab.core.clock import ShiftedClock
from trimtab.core.time import format_time
from trimtab.serving.http.server import accepting
from trimtab.serving.http.server.server import listen
from trimtab.serving.workers.states import FOLDER, ServiceState, write_state
from trimtab.serving.workers.worker import Worker

AS_OF = format_time(shop.NOW_US)
ENDLESS = 4711.0
TOILING = """
import time

def toiled(x):
    while x == 4711.0:
        time.sleep(0.01)
    return x
"""
ONE, TWO = ("--as-of", AS_OF), ("--as-of", AS_OF, "--workers", "2")


@pytest.fixture(scope="module")
def toiling_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shop.write_project(tmp_path_factory.mktemp("toiling") / "trained")
    text = shop.PROJECT.replace('"x": tt.col("x")', '"x": tt.transform(toiled, returns=float)(tt.col("x"))')
    (folder / "project.py").write_text(TOILING + text)
    with shop.opened(folder) as project:
        shop.load(project)
        assert project.train("buyer")[-1].act == "promote"
    return folder


@pytest.fixture
def toiling(toiling_once: Path, tmp_path: Path) -> Path:
    """A project in service whose model comes to no end with one request, and whose log is relaxed."""
    folder = Path(shutil.copytree(toiling_once, tmp_path / "project"))
    (folder / "trimtab.toml").write_text('[serve]\nlog = "relaxed"\n')
    return folder


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def _responds(url: str) -> bool:
    with (
        suppress(OSError, HTTPException),
        closing(HTTPConnection("127.0.0.1", port_of(url), timeout=0.1)) as connection,
    ):
        connection.request("GET", "/health/live")
        return connection.getresponse().status > 0
    return False


def takes_connections(url: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port_of(url))).close()
    except (ConnectionRefusedError, ConnectionResetError):  # reset: it stopped listening at this moment
        return False
    return True


def worker_pids(folder: Path) -> list[int]:
    """Of all workers, once they are ready; none where one process does everything."""
    return [worker.pid for worker in shop.all_ready(folder).workers if worker.pid]


def send_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def visit(key: str, x: float = 0.5) -> dict[str, Any]:
    return {**shop.visit(key, shop.NOW_US, x), "at": AS_OF}


@contextmanager
def half_asked(url: str) -> Iterator[Callable[[], bytes]]:
    """A request under way, half of whose body is there; what is called sends the rest and gives the answer."""
    body = json.dumps({"request": visit("last")}).encode()
    head = "POST /v1/models/buyer/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", port_of(url)), timeout=30) as connection:
        connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body[:9])
        time.sleep(0.1)  # the service has it by now

        def rest() -> bytes:
            connection.sendall(body[9:])
            return connection.recv(4_096)

        yield rest


class Endless:
    """Asks what the model comes to no end with; in a thread of the service where it is asked as of the past."""

    def __init__(self, url: str, *, past: bool = True) -> None:
        self.status: int | None = None  # None: there was no answer
        self.ended = threading.Event()
        asked = {"request": visit("endless", ENDLESS), **({"at": AS_OF} if past else {})}
        threading.Thread(target=self._ask, args=(port_of(url), asked), daemon=True).start()
        if past:
            eventually(lambda: 'trimtab_requests_under_way{kind="slow"} 1' in _plain(shop.call(f"{url}/metrics")[1]))
        else:
            eventually(lambda: not _responds(url))  # it computes in the loop of the server

    def _ask(self, port: int, asked: dict[str, Any]) -> None:
        with suppress(OSError, HTTPException):
            connection = HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request(
                "POST", "/v1/models/buyer/predict", json.dumps(asked), {"Content-Type": "application/json"}
            )
            self.status = connection.getresponse().status
        self.ended.set()


def _plain(metrics: str) -> str:
    """Without the names of workers."""
    for worker in ("1", "2"):
        metrics = metrics.replace(f'{{worker="{worker}",', "{")
    return metrics


@pytest.mark.parametrize("arguments", [TWO, ONE], ids=["workers", "one process"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_tells_every_process_to_end_lets_requests_finish(
    trained: Path, arguments: tuple[str, ...], number: signal.Signals
) -> None:
    """As systemd tells all processes at once, of which a supervisor tells its workers again; a terminal tells twice."""
    with shop.serving(trained, *arguments) as (process, url):
        workers = worker_pids(trained)
        with half_asked(url) as rest:
            send_all([process.pid, *workers], number)
            eventually(lambda: not takes_connections(url))
            send_all(workers if number == signal.SIGTERM else [process.pid, *workers], number)
            time.sleep(0.1)
            assert rest().startswith(b"HTTP/1.1 200 OK\r\n")
        _, error = process.communicate(timeout=60)
        assert (process.returncode, error) == (0, "")
    assert not (trained / ".trimtab" / FOLDER / "service.json").exists()


@pytest.mark.parametrize("arguments", [TWO, ONE], ids=["workers", "one process"])
def test_connections_that_wait_to_be_taken_when_a_service_is_told_to_end_are_answered(
    trained: Path, arguments: tuple[str, ...]
) -> None:
    """As on a machine that is busy: the kernel has a connection, and the service did not come to take it yet."""
    with shop.serving(trained, *arguments) as (process, url):
        every = [process.pid, *worker_pids(trained)]
        send_all(every, signal.SIGSTOP)
        with half_asked(url) as rest, half_asked(url) as other:
            send_all(every, signal.SIGTERM)
            send_all(every, signal.SIGCONT)
            eventually(lambda: not takes_connections(url))
            assert rest().startswith(b"HTTP/1.1 200 OK\r\n")
            assert other().startswith(b"HTTP/1.1 200 OK\r\n")
        _, error = process.communicate(timeout=60)
        assert (process.returncode, error) == (0, "")


@pytest.mark.parametrize("arguments", [TWO, ONE], ids=["workers", "one process"])
def test_a_service_that_is_to_outlive_its_terminal_does(trained: Path, arguments: tuple[str, ...]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does; children inherit it
    try:
        with shop.serving(trained, *arguments) as (process, url):
            send_all([process.pid, *worker_pids(trained)], signal.SIGHUP)
            for n in range(10):
                assert shop.call(f"{url}/v1/models/buyer/predict", {"request": visit(f"a{n}")})[0] == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_ends_a_service_though_a_thread_comes_to_no_end(toiling: Path) -> None:
    with shop.serving(toiling, *ONE) as (process, url):
        try:
            answered = [
                shop.call(f"{url}/v1/models/buyer/predict", {"request": visit(f"v{n}")})[1]["id"] for n in range(5)
            ]
            endless = Endless(url)
            process.send_signal(signal.SIGINT)
            eventually(lambda: not takes_connections(url))
            assert process.poll() is None  # it waits for the request
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=20)
        finally:
            process.kill()
        assert process.returncode == 0
        assert "Traceback" not in error
        assert "threads still work on 1 slow requests at the end" in error
    assert endless.ended.wait(30)
    assert endless.status in (None, 503)
    with shop.opened(toiling) as project:
        assert not any(shop.faults_of_log(project, answered, []).values())


@pytest.mark.slow
@pytest.mark.parametrize("past", [True, False], ids=["in a thread", "in the event loop"])
def test_a_worker_without_its_supervisor_ends_though_a_request_does_not(toiling: Path, past: bool) -> None:
    """And what it answered is logged once, noted or appended: nothing but the spool may need to survive."""
    folder = toiling / ".trimtab" / FOLDER
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with open_project(toiling, clock=ShiftedClock(shop.NOW_US), environment={}) as project:
        project.apply_first()
        task = engine._task(project, folder)
    engine._cleared(folder)
    write_state(folder, ServiceState(pid=os.getpid(), url=url, at_us=time.time_ns() // 1_000, workers=[]))
    task = msgspec.structs.replace(task, slot=1, count=1, grace_s=1.0, fill_s=1.0)
    command = [sys.executable, "-m", "trimtab.app.serve.worker"]
    worker = Worker(1, command, msgspec.msgpack.encode(task), listener)
    try:
        eventually(lambda: b"r" in worker.receive())
        asked = [shop.call(f"{url}/v1/models/buyer/predict", {"request": visit(f"v{n}")}) for n in range(20)]
        Endless(url, past=past)
        worker.channel.close()  # as if the supervisor had been killed
        listener.close()
        worker.process.wait(timeout=20)
    finally:
        worker.kill()
        worker.process.wait()
        worker.close()
        listener.close()
    listen("127.0.0.1", port_of(url)).close()
    accepting.end(folder)
    assert [status for status, _ in asked] == [200] * 20
    with shop.opened(toiling) as project:
        assert not any(shop.faults_of_log(project, [answer["id"] for _, answer in asked], []).values())


def test_a_service_prints_where_it_answers_and_what_to_ask(trained: Path) -> None:
    command = [sys.executable, "-c", "from trimtab.cli import main; main()", "serve", "--port", "0"]
    with forked.Popen(
        command, cwd=trained, env=shop.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(4)]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    url = lines[0].split()[2]
    assert lines == [
        f"Serving on {url} (Ctrl-C stops)",
        f"every address, with forms to try it: {url}/docs",
        *(f"ask: POST {url}/v1/models/{name}/predict" for name in ("buyer", "learner")),
    ]
