"""How a service ends: told several times, by its terminal."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import shop

from processes import within
from trimtab.core.time import format_moment
from trimtab.serving.workers.states import FOLDER

AS_OF = format_moment(shop.NOW_US)
ONE, TWO = ("--as-of", AS_OF), ("--as-of", AS_OF, "--workers", "2")


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def takes_connections(url: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port_of(url))).close()
    except ConnectionRefusedError:
        return False
    return True


def worker_pids(folder: Path) -> list[int]:
    """Of all workers, once they are ready; none where one process does everything."""
    return [worker.pid for worker in shop.all_ready(folder).workers if worker.pid]


def send_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def visit(key: str) -> dict[str, Any]:
    return {**shop.visit(key, shop.NOW_US), "at": AS_OF}


@contextmanager
def half_asked(url: str) -> Iterator[Callable[[], bytes]]:
    """A request under way, half of whose body is there; what is called sends the rest and gives the answer."""
    body = json.dumps({"request": visit("last")}).encode()
    head = "POST /v1/models/buyer/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", port_of(url)), timeout=30) as connection:
        connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body[:9])
        time.sleep(0.2)  # the service has it by now

        def rest() -> bytes:
            connection.sendall(body[9:])
            return connection.recv(4_096)

        yield rest


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
            within(10, lambda: not takes_connections(url))
            send_all(workers if number == signal.SIGTERM else [process.pid, *workers], number)
            time.sleep(0.3)
            assert rest().startswith(b"HTTP/1.1 200 OK\r\n")
        _, error = process.communicate(timeout=60)
        assert (process.returncode, error) == (0, "")
    assert not (trained / ".trimtab" / FOLDER / "service.json").exists()


@pytest.mark.parametrize("arguments", [TWO, ONE], ids=["workers", "one process"])
def test_a_service_that_is_to_outlive_its_terminal_does(trained: Path, arguments: tuple[str, ...]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does; children inherit it
    try:
        with shop.serving(trained, *arguments) as (process, url):
            send_all([process.pid, *worker_pids(trained)], signal.SIGHUP)
            time.sleep(0.5)
            assert shop.call(f"{url}/v1/models/buyer/predict", {"request": visit("a")})[0] == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
