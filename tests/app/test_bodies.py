"""Large bodies of many connections take no more memory than they may, whoever sends them and however slowly."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import shop

from memory import Memory
from processes import eventually

MB = 1 << 20
EVENTS = "/v1/events/readings"


def events(size: int, count: int) -> bytes:
    """Some events, in so many bytes."""
    now_us, pad = time.time_ns() // 1_000, "x" * (size // count - 80)
    return json.dumps([{"site": f"{pad}{n % 9}", "level": n / 7, "read_at": now_us - n} for n in range(count)]).encode()


def post(url: str, path: str, body: bytes) -> int:
    where = urlsplit(url)
    connection = HTTPConnection(where.hostname or "", where.port, timeout=60)
    try:
        connection.request("POST", path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        assert response.status != 429 or response.getheader("retry-after")
        response.read()
        return response.status
    finally:
        connection.close()


def held_back(url: str, body: bytes) -> socket.socket:
    """A connection on which all of a request but its end is sent, as far as it is read."""
    where = urlsplit(url)
    connection = socket.create_connection((where.hostname or "", where.port or 0))
    head = f"POST {EVENTS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body[:-5])
    return connection


def take(folder: Path, *, body: int, count: int, at_once: int, held: int, most_mb: float) -> None:
    """Send `at_once` bodies, then hold `held` of them back; the process must grow by less than `most_mb`.

    Each body has `count` events in `body` bytes.
    """
    whole, request = events(body, count), json.dumps({"request": shop.visit("v1", shop.NOW_US)}).encode()
    with shop.serving(folder, begun=subprocess.Popen) as (process, url), ThreadPoolExecutor(held) as pool:
        assert post(url, EVENTS, whole) == 200
        memory = Memory(process.pid)
        statuses = set(pool.map(lambda _: post(url, EVENTS, whole), range(at_once)))
        assert statuses <= {200, 429}
        assert 200 in statuses
        assert memory.grown() < most_mb
        begun_mb = memory.now()
        memory.begin()
        with ExitStack() as connections:
            for connection in pool.map(lambda _: held_back(url, whole), range(held)):
                connections.enter_context(connection)
            assert post(url, "/v1/models/buyer/predict", request) == 200
            assert memory.grown() < most_mb
        eventually(lambda: memory.now() < begun_mb + most_mb / 4)  # they are given back
        assert post(url, EVENTS, whole) == 200


@pytest.mark.slow
def test_bodies_of_many_connections_take_no_more_than_they_may(trained: Path) -> None:
    with (trained / "trimtab.toml").open("a") as settings:
        settings.write(f"[serve]\nmax_body_bytes = {2 * MB}\nmax_bodies_bytes = {32 * MB}\n")
    take(trained, body=2 * MB - 200_000, count=2_000, at_once=16, held=100, most_mb=110)


@pytest.mark.soak
def test_bodies_of_the_usual_size_take_no_more_than_they_may(trained: Path, soak_report: Callable[..., None]) -> None:
    take(trained, body=8 * MB - 400_000, count=8_000, at_once=16, held=300, most_mb=600)
    soak_report("large_bodies", runs=316, failures=0)
