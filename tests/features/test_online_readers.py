"""Processes that read while one writes: each read is of one instant, the map grows, the killed leave no slot behind."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from online_reader import MAP_BYTES, ONES, VIEWS

import forked
from trimtab.events.records import Event, encode
from trimtab.features.online.fill.fill import Filling
from trimtab.features.online.store import OnlineStore
from trimtab.store.lmdb import environment as lmdb_environment
from trimtab.store.lmdb.kv import LmdbKeyValue
from trimtab.store.ports import LogRecord
from trimtab.testing import MemoryLog

READER = Path(__file__).with_name("online_reader.py")


def one(position: int) -> LogRecord:
    at_us = position - 1
    event = Event(ONES.name, f"e{position}", at_us, 0, "upsert", False, (f"e{position}", "a", 1.0, at_us))
    return LogRecord("p", position, position, encode(event))


def started(folder: Path) -> subprocess.Popen[str]:
    process = forked.Popen(
        [sys.executable, str(READER), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


class GivenLog(MemoryLog):
    """A log of ones."""

    def __init__(self, end: int) -> None:
        super().__init__()
        self.end = end

    def positions(self) -> dict[str, int]:
        return {"p": self.end}

    def read(self, partition: str, after: int, *, limit: int = 10_000) -> list[LogRecord]:
        return [one(n) for n in range(after + 1, min(self.end, after + limit) + 1)]


def test_three_processes_read_one_instant_each_while_one_applies_rebuilds_and_grows_the_map(tmp_path: Path) -> None:
    with LmdbKeyValue(tmp_path, map_bytes=MAP_BYTES) as kv:
        store = OnlineStore(kv, VIEWS)
        readers = [started(tmp_path) for _ in range(3)]
        end = 0
        for round_ in range(60):
            store.apply([one(n) for n in range(end + 1, end + 31)])
            end += 30
            if round_ % 20 == 10:
                for name in store.plans:
                    for _ in Filling(store, name, GivenLog(end)).steps():
                        pass
        kv.write({f"z{i}".encode(): bytes(100_000) for i in range(40)})  # beyond the map that all began with
        for n in range(end + 1, end + 11):
            store.apply([one(n)])
            time.sleep(0.02)
        for reader in readers:
            out, _ = reader.communicate(timeout=60)
            assert reader.returncode == 0
            reads, instants = map(int, out.split())
            assert reads > 20
            assert instants > 3


def test_the_slot_of_a_reader_that_was_killed_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_environment, "READERS_S", 0.0)
    reading = """
import sys
from pathlib import Path
from trimtab.store.lmdb.kv import LmdbKeyValue
def hold(transaction, argument):
    print("reading", flush=True)
    sys.stdin.read()
with LmdbKeyValue(Path(sys.argv[1])) as kv:
    kv._environment.read(hold, None)
"""
    with LmdbKeyValue(tmp_path) as kv:
        kv.write({b"a": b"1"})
        process = forked.Popen(
            [sys.executable, "-c", reading, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        held = kv._environment._environment.readers()
        assert str(process.pid) in held
        for i in range(200):
            kv.write({b"a": bytes([i]) * 50_000})
        grown = (tmp_path / "data.mdb").stat().st_size
        process.kill()
        process.wait()
        process.communicate()
        for i in range(200):
            kv.write({b"a": bytes([i]) * 50_000})
        assert str(process.pid) not in kv._environment._environment.readers()
        assert (tmp_path / "data.mdb").stat().st_size < 1.2 * grown
