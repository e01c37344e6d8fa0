"""Bodies of few bytes cannot stand for much: each grows the process by at most 64 MB, and has an answer or an error."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bombs
import grpc
import pytest
import shop

from memory import Memory

MOST_MB = 64.0
MOST_S = 20.0
ANSWERS = {200, 400, 408, 413, 415, 422, 429, 503, 504}
CODES = {"INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "INTERNAL"}


class Running:
    """A service, asked by HTTP and by gRPC."""

    def __init__(self, process: Any, url: str, address: str) -> None:
        self.memory = Memory(process.pid)
        self._host, self._port = urlsplit(url).hostname or "", urlsplit(url).port
        options = [("grpc.max_send_message_length", -1)]
        channel = grpc.insecure_channel(address, options, compression=grpc.Compression.Gzip)
        self._infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    def ask(self, bomb: bombs.Bomb) -> tuple[bool, str]:
        """Whether it is an answer or a clean error, and what it is."""
        if bomb.path == "grpc":
            try:
                self._infer(bomb.body, timeout=MOST_S)
            except grpc.RpcError as error:
                return error.code().name in CODES, error.code().name
            return True, "OK"
        connection = HTTPConnection(self._host, self._port, timeout=MOST_S)
        try:
            connection.request("POST", bomb.path, bomb.body, bomb.headers)
            response = connection.getresponse()
            return response.status in ANSWERS and bool(response.read()), str(response.status)
        finally:
            connection.close()


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Running, list[str]]]:
    """A service, and what it complained about once it has ended."""
    command = [sys.executable, "-c", "from trimtab.cli import main; main()", "serve", "--json"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--grpc-port", "0"],
        cwd=folder,
        env=shop.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    said: list[str] = []
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        where = json.loads(line)
        yield Running(process, where["url"], where["grpc"]), said
    finally:
        process.terminate()
        said.append(process.communicate(timeout=60)[1])


def campaign(folder: Path, seed: int, count: int) -> tuple[list[str], float, float]:
    """What went wrong with so many bodies, the most that one grew the process by, and the longest that one took."""
    wrong, most_mb, most_s = [], 0.0, 0.0
    with serving(folder) as (running, said):
        for number, bomb in enumerate(islice(bombs.bombs(seed), count + 60)):
            running.memory.begin()
            begun_s = time.monotonic()
            clean, answer = running.ask(bomb)
            took_s, grown = time.monotonic() - begun_s, running.memory.grown()
            if number < 60:  # what is loaded with the first of each kind, pyarrow for one, is no growth of a body
                continue
            most_mb, most_s = max(most_mb, grown), max(most_s, took_s)
            if grown > MOST_MB or took_s > MOST_S or not clean:
                wrong.append(f"{bomb.name} to {bomb.path}: {answer}, {grown:.0f} MB, {took_s:.1f} s")
    if "Traceback" in said[0]:
        wrong.append(said[0][-2_000:])
    return wrong, most_mb, most_s


def test_few_bytes_cannot_take_all_memory(trained: Path) -> None:
    wrong, _, _ = campaign(trained, 1, 90)
    assert not wrong


@pytest.mark.soak
def test_bombs_of_every_kind(trained: Path, soak_report: Callable[..., None]) -> None:
    wrong, most_mb, most_s = campaign(trained, 2, 1_000)
    soak_report("bombs", runs=1_000, failures=len(wrong), grown_mb=most_mb, slowest_s=most_s)
    assert not wrong
