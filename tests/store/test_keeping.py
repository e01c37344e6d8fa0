"""Room that comes back to the disk, and copies of stores that others write to."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.columns.data import Columns
from trimtab.core.errors import Conflict, NotFound, Unavailable
from trimtab.store.delta.table import DeltaTable
from trimtab.store.lmdb.kv import LmdbKeyValue
from trimtab.store.log_places import positions_before
from trimtab.store.ports import Put
from trimtab.store.sql_catalog import SqlCatalog
from trimtab.store.sqlite.log import SqliteLog
from trimtab.testing import MemoryLog


def size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix.startswith(".db"))


def filled(folder: Path, records: int = 30_000) -> SqliteLog:
    log = SqliteLog(folder)
    for start in range(0, records, 1_000):
        log.append([b"%08d" % n + bytes(200) for n in range(start, start + 1_000)])
    return log


@pytest.mark.fast
def test_a_truncation_gives_the_room_back_while_appends_go_on(tmp_path: Path) -> None:
    with filled(tmp_path) as log:
        before, stop, appended = size_bytes(tmp_path), threading.Event(), [0]

        def append() -> None:
            while not stop.is_set():
                appended[0] += len(log.append([b"more"]))

        thread = threading.Thread(target=append)
        thread.start()
        assert log.truncate("p0001", 29_000) == 29_000
        stop.set()
        thread.join()
        assert appended[0] > 0
        assert log.positions() == {"p0001": 30_000 + appended[0]}
        assert log.read("p0001", 0, limit=1)[0].position == 29_001
    assert size_bytes(tmp_path) < before / 10


def test_a_partition_that_another_process_writes_is_left_alone(tmp_path: Path) -> None:
    with filled(tmp_path, 1_000), SqliteLog(tmp_path) as other, pytest.raises(Conflict, match="is writing to it"):
        other.truncate("p0001", 500)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 20), max_size=20), st.integers(-1, 22), st.integers(0, 20))
def test_the_position_before_a_moment_is_found(times: list[int], at_us: int, cut: int) -> None:
    log = MemoryLog()
    if times:
        log.append([b"x"] * len(times), at_us=sorted(times))
        log.truncate("p0001", min(cut, len(times)))
    found = positions_before(log, at_us).get("p0001", 0)
    left = log.read("p0001", 0) if times else []
    older = [r.position for r in left if r.appended_at_us < at_us]
    assert [r.position for r in left if r.position <= found] == older


def test_rows_are_pruned_and_older_versions_go_with_the_next_vacuum(tmp_path: Path) -> None:
    with DeltaTable(tmp_path / "a'b") as table:
        for n in range(4):
            rows = Columns.of({"k": ("str", [f"{n}a", f"{n}b"]), "n": ("int", [2 * n, 2 * n + 1])})
            table.append(rows, writer="w", position=n + 1)
        assert table.count("n > (SELECT avg(n) FROM rows)") == 4
        assert table.prune("n < 3") == 3
        assert table.prune("n < 3") == 0
        assert table.scan()["n"].to_list() == [3, 4, 5, 6, 7]
        assert table.position("w") == 4
        assert table.scan(version=4)["n"].to_list() == list(range(8))
        assert table.vacuum(1) == 0
        assert table.vacuum(0) > 0
        with pytest.raises(NotFound, match="version 4 needs"):
            table.scan(version=4)
        assert table.scan()["n"].to_list() == [3, 4, 5, 6, 7]
        assert table.prune("true") == 5
        assert table.scan()["n"].to_list() == []
        assert table.append(Columns.of({"k": ("str", ["z"]), "n": ("int", [9])}), writer="w", position=5)


def test_copies_are_whole_while_others_write(tmp_path: Path) -> None:
    kv, catalog = LmdbKeyValue(tmp_path / "kv"), SqlCatalog.sqlite(tmp_path / "catalog.db")
    table, log = DeltaTable(tmp_path / "table"), SqliteLog(tmp_path / "log")
    stop = threading.Event()
    written = [0]

    def write() -> None:
        while not stop.is_set():
            n = written[0] + 1
            log.append([b"%d" % n])
            kv.write({b"a": b"%d" % n, b"b": b"%d" % n})
            catalog.write([Put("n", "n", b"%d" % n), Put("n", "m", b"%d" % n)])
            if n % 5 == 0:
                table.append(Columns.of({"n": ("int", [n])}), writer="w", position=n)
            written[0] = n

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while written[0] < 6:
            time.sleep(0.01)
        for turn in range(4):
            least, to = written[0], tmp_path / f"copy{turn}"
            ends = log.copy_to(to / "log")
            kv.copy_to(to / "kv")
            catalog.acquire("lease", "somebody", 100)
            catalog.copy_to(to / "catalog.db")
            table.copy_to(to / "table")
            with SqliteLog(to / "log") as copy:
                assert copy.positions() == ends
                assert len(copy.read("p0001", 0)) == ends["p0001"] >= least
            with LmdbKeyValue(to / "kv") as pairs:
                assert pairs.get(b"a") == pairs.get(b"b")
                assert int(pairs.get(b"a") or 0) >= least
            with SqlCatalog.sqlite(to / "catalog.db") as records:
                assert [r.body for r in records.find("n")] == [records.find("n")[0].body] * len(records.find("n"))
                assert records.acquire("lease", "another", 1)  # a copy has no leases
                records.check()
            with DeltaTable(to / "table") as rows:
                assert rows.scan()["n"].to_list() == list(range(5, rows.position("w") + 1, 5))
    finally:
        stop.set()
        thread.join()
        for part in (kv, catalog, table, log):
            part.close()


def test_a_copy_to_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with filled(tmp_path / "log", 1_000) as log, LmdbKeyValue(tmp_path / "kv") as kv:
        for copy in (log.copy_to, kv.copy_to):
            with pytest.raises(Unavailable, match="file/there"):
                copy(tmp_path / "file" / "there")
