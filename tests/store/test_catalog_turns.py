"""The catalogue in WAL mode: one writer at a time, whatever SQLite does; damage of its log is found."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sqlite3
import threading
from pathlib import Path

import pytest

from trimtab.core.errors import Corrupt, Unavailable
from trimtab.store import Append, Put
from trimtab.store.sql_catalog import SqlCatalog
from trimtab.store.sqlite.write_lock import WriteLock


def write_one(path: Path, key: str) -> None:
    with SqlCatalog.sqlite(path) as catalog:
        catalog.write([Put("a", key, b"1", expected=0)])


@pytest.mark.fast
def test_a_turn_belongs_to_one_and_the_next_waits_for_it(tmp_path: Path) -> None:
    turns = [WriteLock(tmp_path / "turn", wait_s=0.05) for _ in range(2)]
    with turns[0].hold(), pytest.raises(Unavailable, match=r"were writing for more than 0\.05 s"), turns[1].hold():
        pass
    with turns[1].hold():
        pass
    for turn in turns:
        turn.close()


def test_threads_that_share_a_turn_take_it_one_after_the_other(tmp_path: Path) -> None:
    turn, inside, most = WriteLock(tmp_path / "turn", wait_s=10.0), 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            with turn.hold():
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    turn.close()
    assert most == 1


def test_a_write_holds_the_turn_until_it_is_committed(tmp_path: Path) -> None:
    turn = WriteLock(tmp_path / "c.db-turn", wait_s=0.05)
    with SqlCatalog.sqlite(tmp_path / "c.db") as catalog:
        catalog.write([Put("a", "b", b"1")])
        with catalog._transaction("BEGIN IMMEDIATE"), pytest.raises(Unavailable), turn.hold():
            pass
        with turn.hold():
            assert catalog.get("a", "b") is not None  # readers wait for nobody
    turn.close()


def test_an_older_catalogue_goes_over_to_wal_once_and_keeps_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    write_one(path, "before")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:  # as an earlier trimtab left it
        assert connection.execute("PRAGMA journal_mode = PERSIST").fetchone() == ("persist",)
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    write_one(path, "after")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("0002",)
    with SqlCatalog.sqlite(path) as catalog:
        assert [record.key for record in catalog.find("a")] == ["after", "before"]


def test_damage_in_the_log_of_acknowledged_changes_is_named(tmp_path: Path) -> None:
    path, copy = tmp_path / "c.db", tmp_path / "copy.db"
    with SqlCatalog.sqlite(path) as catalog:
        for number in range(5):
            catalog.write([Append("ledger", number, b"x")])
        for suffix in ("", "-wal"):
            copy.with_name(copy.name + suffix).write_bytes(path.with_name(path.name + suffix).read_bytes())
    log = copy.with_name("copy.db-wal")
    data = bytearray(log.read_bytes())
    data[32 + 24 + 100] ^= 1
    log.write_bytes(bytes(data))
    with pytest.raises(Corrupt, match=r"copy.db-wal: damaged: only 0 of at least \d+ acknowledged frames"):
        SqlCatalog.sqlite(copy)


def test_many_processes_write_and_checkpoint_without_loss(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    SqlCatalog.sqlite(path).close()
    spawn = multiprocessing.get_context("fork")
    workers = [spawn.Process(target=_write_large, args=(path, name)) for name in "xyz"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    with SqlCatalog.sqlite(path) as catalog:
        catalog.check()
        assert [len(catalog.journal(name)) for name in "xyz"] == [12, 12, 12]


def _write_large(path: Path, name: str) -> None:
    with SqlCatalog.sqlite(path) as catalog:
        for number in range(12):  # 0.7 MB each: a checkpoint at every second or third of them
            catalog.write([Append(name, number, os.urandom(700_000))])
