"""Bodies of few bytes cannot stand for much: each grows the process by at most 64 MB, and has an answer or an error."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import chain, islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bombs
import file_bombs
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


class Reader:
    """A process that reads files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("bomb_process.py"))],
            env=shop.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.memory = Memory(self._process.pid)

    def ask(self, bomb: file_bombs.FileBomb) -> tuple[bool, str]:
        """Whether it came to a clean end, and what it says."""
        file = self._folder / f"file{bomb.ending}"
        file.write_bytes(bomb.data)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"model {bomb.format} {file}\n" if bomb.format else f"file {file}\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline().strip()
        return bool(said), said[:300]

    def close(self) -> None:
        self._process.communicate(timeout=60)


class Found:
    """What went wrong, the most that a body grew the process by, and the longest that one took."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.most_mb = self.most_s = 0.0

    def ask(self, asked: Any, bomb: Any, *, first: bool = False) -> None:
        """Send one; what is loaded with the first of each kind, pyarrow for one, is no growth of a body."""
        asked.memory.begin()
        begun_s = time.monotonic()
        clean, answer = asked.ask(bomb)
        took_s = time.monotonic() - begun_s
        grown = asked.memory.grown() if clean else 0.0
        if not clean or took_s > MOST_S or (grown > MOST_MB and not first):
            self.wrong.append(f"{bomb}: {answer}, {grown:.0f} MB, {took_s:.1f} s"[-400:])
        if not first:
            self.most_mb, self.most_s = max(self.most_mb, grown), max(self.most_s, took_s)


def send(found: Found, folder: Path, seed: int, count: int) -> None:
    """Send so many requests; the first of each address and type load what reads them."""
    seen = set[tuple[str, ...]]()
    with serving(folder) as (running, said):
        for bomb in islice(bombs.bombs(seed), count):
            kind = (bomb.path, *bomb.headers.values())
            found.ask(running, bomb, first=kind not in seen)
            seen.add(kind)
    if "Traceback" in said[0]:
        found.wrong.append(said[0][-2_000:])


def read(found: Found, folder: Path, made: Iterator[file_bombs.FileBomb]) -> None:
    """Read files; the first table and the first models of each library load what reads them."""
    reader, seen = Reader(folder), set[str]()
    for bomb in made:
        kind = bomb.format or bomb.ending
        found.ask(reader, bomb, first=kind not in seen)
        seen.add(kind)
    reader.close()


@pytest.mark.slow
def test_few_bytes_cannot_take_all_memory(trained: Path, tmp_path: Path) -> None:
    found, rng = Found(), random.Random(1)
    send(found, trained, 1, 40)
    tables, models = file_bombs.tables(rng, most=1), file_bombs.models(rng)
    read(found, tmp_path / "files", chain(islice(tables, 7), islice(models, 2)))
    assert not found.wrong


@pytest.mark.soak
def test_bombs_of_every_kind(trained: Path, tmp_path: Path, soak_report: Callable[..., None]) -> None:
    found = Found()
    send(found, trained, 2, 810)
    made = chain.from_iterable(
        chain(file_bombs.tables(random.Random(seed)), file_bombs.models(random.Random(seed))) for seed in range(9)
    )
    read(found, tmp_path / "files", islice(made, 250))
    soak_report("bombs", runs=1_000, failures=len(found.wrong), grown_mb=found.most_mb, slowest_s=found.most_s)
    assert not found.wrong
