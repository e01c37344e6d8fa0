"""What was erased is on no page of the disk any more."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

import forked
from trimtab.core.columns.data import Columns
from trimtab.core.columns.packs import pack
from trimtab.core.errors import Conflict, Unavailable
from trimtab.store.delta.table import DeltaTable
from trimtab.store.lmdb.kv import LmdbKeyValue
from trimtab.store.sqlite.log import SqliteLog


def files_with(folder: Path, needle: bytes) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and needle in p.read_bytes())


def said(name: str, size: int) -> bytes:
    return (name.encode() + b"/") * size


@pytest.mark.fast
@pytest.mark.parametrize("seed", range(3))
def test_no_page_of_a_log_keeps_an_erased_payload(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with SqliteLog(tmp_path) as log:
        payloads = [said(f"person-{n % 50:02}", chance.choice([1, 3, 40, 900])) for n in range(600)]
        for start in range(0, 600, 60):
            if start % 120:
                log.append(payloads[start : start + 60])
            else:
                log.append_packs([pack(60, [payloads[start : start + 60]])])
        log.truncate(log.partition, 200)  # these leave free pages behind
        for name in ("person-07", "person-08", "person-31"):
            assert files_with(tmp_path, name.encode())
            there = [n for n in range(201, 601) if payloads[n - 1].startswith(name.encode())]
            assert log.erase(log.partition, dict.fromkeys(there, b"-")) == len(there) == 8
            assert files_with(tmp_path, name.encode()) == []
        left = [r for r in log.read(log.partition, 200) if r.payload != b"-"]
        assert [r.payload for r in left] == [p for p in payloads[200:] if p[7:9] not in (b"07", b"08", b"31")]
    assert files_with(tmp_path, b"person-07") == []


def test_erasing_from_a_log_waits_for_no_other_writer_and_no_reader(tmp_path: Path) -> None:
    with SqliteLog(tmp_path) as log, SqliteLog(tmp_path) as other:
        log.append([b"secret"])
        with pytest.raises(Conflict, match="is writing to it"):
            other.erase(log.partition, {1: b"-"})
        with SqliteLog(tmp_path) as reader:
            assert reader.read(log.partition, 0)[0].payload == b"secret"
            connection = reader._reader(log.partition)._connection
            connection.execute("BEGIN")
            connection.execute("SELECT * FROM record").fetchall()
            log._reader(log.partition)
            writer = log._own()
            assert writer._connection is not None
            writer._connection.execute("PRAGMA busy_timeout = 50")
            with pytest.raises(Unavailable, match=r"again|busy|locked"):
                log.erase(log.partition, {1: b"-"})
            connection.execute("ROLLBACK")
            assert log.erase(log.partition, {1: b"-"}) == 1
    assert files_with(tmp_path, b"secret") == []


@pytest.mark.fast
def test_no_page_of_a_map_keeps_what_was_deleted_or_replaced(tmp_path: Path) -> None:
    chance = random.Random(1)
    with LmdbKeyValue(tmp_path) as store:
        keys = [b"key-%04d" % n for n in range(2_000)]
        for _ in range(5):
            some = chance.sample(keys, 700)
            store.write({key: said(f"of-{key.decode()}", chance.choice([1, 5, 600])) for key in some})
        before = dict(store.scan(b""))
        gone = keys[3::7]
        store.write({keys[0]: b"replaced"})
        store.erase(gone)
        assert dict(store.scan(b"")) == {k: v for k, v in before.items() if k not in gone} | {keys[0]: b"replaced"}
        data = (tmp_path / "data.mdb").read_bytes()
        assert [key for key in gone if key in data] == []
        assert b"of-" + keys[0] not in data
        store.check()
        store.write({b"more": b"1"})
        assert store.get(b"more") == b"1"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.mdb", "lock.mdb", "writer.lock"]


HOLDER = """
import sys
from pathlib import Path
from trimtab.store.lmdb.kv import LmdbKeyValue

with LmdbKeyValue(Path(sys.argv[1])) as store:
    print(store.get(b"a"), flush=True)
    sys.stdin.read()
"""


def test_a_map_that_another_process_has_open_is_left_alone(tmp_path: Path) -> None:
    with LmdbKeyValue(tmp_path) as store:
        store.write({b"a": b"1"})
        command = [sys.executable, "-c", HOLDER, str(tmp_path)]
        with forked.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "b'1'\n"
            with pytest.raises(Conflict, match="another process has it open"):
                store.erase([b"a"])
            assert store.get(b"a") == b"1"
            holder.communicate()
        store.erase([b"a"])
        assert store.get(b"a") is None


def test_no_file_of_a_table_keeps_an_erased_row(tmp_path: Path) -> None:
    def rows(first: int) -> Columns:
        numbers = range(first, first + 50)
        return Columns.of({"n": ("int", list(numbers)), "s": ("str", [f"person-{n % 10}" for n in numbers])})

    with DeltaTable(tmp_path) as table:
        for position in range(1, 5):
            table.append(rows(50 * position), writer="w", position=position)
        table.compact()
        (tmp_path / "_0123.new").write_bytes(b"person-3")  # of a process that was killed
        gone = Columns.of({"s": ("str", ["person-3"])})
        assert table.erase(gone, Columns.of({"n": ("int", [1]), "s": ("str", ["instead"])})) == 20
        assert sorted(set(table.scan()["s"].to_list())) == ["instead", *(f"person-{n}" for n in range(10) if n != 3)]
    for path in tmp_path.rglob("*.parquet"):
        if path.parent == tmp_path:
            assert ("person-3",) not in duckdb.sql(f"SELECT s FROM read_parquet('{path}')").fetchall()
    assert files_with(tmp_path, b"person-3") == []
