from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import forked
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.packs import pack
from trimtab.core.errors import Conflict, Corrupt, Misuse, Unavailable
from trimtab.store.sqlite.log import SqliteLog
from trimtab.testing import LogContract, MemoryLog

Start = Callable[[str, str, Path], subprocess.Popen[str]]


class TestSqliteLog(LogContract):
    @pytest.fixture(params=["durable", "relaxed"])
    def log(self, request: pytest.FixtureRequest, tmp_path: Path, clock: VirtualClock) -> Iterator[SqliteLog]:
        with SqliteLog(tmp_path / "log", mode=request.param, clock=clock) as log:
            yield log


def payloads(log: SqliteLog, partition: str) -> list[bytes]:
    found: list[bytes] = []
    while records := log.read(partition, len(found)):
        found += [record.payload for record in records]
    return found


@pytest.mark.fast
def test_positions_and_append_times_go_on_after_reopening(tmp_path: Path) -> None:
    with SqliteLog(tmp_path, clock=VirtualClock(9_000)) as log:
        log.append([b"a", b"b"])
    with SqliteLog(tmp_path, clock=VirtualClock(1_000)) as log:
        assert log.positions() == {"p0001": 2}
        assert log.append([b"c"]) == range(3, 4)
        assert log.read("p0001", 2)[0].appended_at_us == 9_000
        log.truncate("p0001", 3)
    with SqliteLog(tmp_path, clock=VirtualClock(1_000)) as log:
        assert log.append([b"d"]) == range(4, 5)
        assert log.read("p0001", 0)[0].appended_at_us == 9_000


@pytest.mark.parametrize("rows", [1, 32, 33, 255, 256, 257, 300, 551])
def test_appends_of_any_length_are_written_whole(tmp_path: Path, rows: int) -> None:
    """Also where it takes several statements, of the log's own time and of times that are given."""
    made = [f"{n}".encode() for n in range(rows)]
    with SqliteLog(tmp_path, mode="relaxed", clock=VirtualClock(0)) as log:
        assert log.append(made) == range(1, rows + 1)
        assert log.append(made, at_us=range(rows)) == range(rows + 1, 2 * rows + 1)
        found = log.read("p0001", 0)
    assert [(record.position, record.payload) for record in found] == list(enumerate(made * 2, 1))
    assert [record.appended_at_us for record in found] == [0] * rows + list(range(rows))


def test_each_writer_takes_a_partition_and_leaves_it_to_the_next(tmp_path: Path) -> None:
    with SqliteLog(tmp_path) as first:
        assert first.partition == "p0001"
        with SqliteLog(tmp_path) as second:
            assert second.append([b"x"]) == range(1, 2)
            assert second.partition == "p0002"
            assert first.read("p0002", 0)[0].payload == b"x"
        with SqliteLog(tmp_path) as third:
            assert third.partition == "p0002"
            assert third.append([b"y"]) == range(2, 3)
        assert first.positions() == {"p0001": 0, "p0002": 2}


def test_a_partition_that_was_moved_away_is_never_begun_again(tmp_path: Path) -> None:
    with SqliteLog(tmp_path) as log:
        log.append([b"a"])
    (tmp_path / "p0001.db").rename(tmp_path / "damaged")
    with SqliteLog(tmp_path) as log:
        log.append([b"b"])
        assert log.positions() == {"p0002": 1}


def test_a_view_that_knows_more_than_the_log_is_told_so(tmp_path: Path) -> None:
    with SqliteLog(tmp_path) as log:
        log.append([b"a"])
        with pytest.raises(Corrupt, match="it ends at position 1, but was read up to 5"):
            log.read("p0001", 5)


def test_only_reading_takes_no_partition(tmp_path: Path) -> None:
    with SqliteLog(tmp_path) as log:
        assert log.positions() == {}
    assert list(tmp_path.iterdir()) == []


def test_only_the_writer_of_a_partition_truncates_it(tmp_path: Path) -> None:
    with SqliteLog(tmp_path) as first, SqliteLog(tmp_path) as second:
        first.append([b"a", b"b"])
        with pytest.raises(Conflict, match=str(os.getpid())):
            second.truncate("p0001", 1)
    with SqliteLog(tmp_path) as first, SqliteLog(tmp_path) as second:
        second.append([b"takes p0001"])
        first.append([b"takes p0002"])
        assert second.partition == "p0001"
    with SqliteLog(tmp_path) as log:
        assert log.truncate("p0002", 1) == 1  # nobody writes it now


def test_processes_append_at_once_while_one_follows(start_writer: Start, tmp_path: Path) -> None:
    writers = [start_writer("log", "some", tmp_path) for _ in range(3)]
    found: Counter[bytes] = Counter()
    read: dict[str, int] = {}
    with SqliteLog(tmp_path) as log:
        while True:
            running = [w for w in writers if w.poll() is None]
            for partition in log.positions():
                records = log.read(partition, read.get(partition, 0))
                found.update(r.payload for r in records)
                read[partition] = records[-1].position if records else read.get(partition, 0)
            if not running:
                break
        assert read == log.positions()
    acknowledged = {tuple(line.split()) for w in writers for line in w.communicate()[0].splitlines()}
    parts = {tuple(p.decode("ascii", "replace").split("/")[:2]) for p in found if not p.startswith(b"0/")}
    assert parts == acknowledged
    assert len(acknowledged) == 120
    assert set(Counter(p for p in found.elements() if not p.startswith(b"0/")).values()) == {1}


def test_threads_of_a_closed_log_are_told_so(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path)
    log.append([b"a"])
    log.close()
    log.close()
    with pytest.raises(Misuse, match="closed"):
        log.append([b"b"])
    with pytest.raises(Misuse, match="closed"):
        log.read("p0001", 0)


def test_upkeep_keeps_the_write_ahead_log_small_without_a_fold_by_appends(tmp_path: Path) -> None:
    wal = tmp_path / "p0001.db-wal"
    with SqliteLog(tmp_path, mode="relaxed") as log:
        log.maintenance()  # nothing is there yet
        log.append([b"x" * 4_000] * 10)
        log.maintenance()
        for _ in range(6):
            for _ in range(15):
                log.append([b"x" * 4_000] * 100)  # more pages than SQLite folds by itself
            assert folded(tmp_path / "p0001.db") == 0
            log.maintenance()
        assert wal.stat().st_size < 1.5 * 1_500 * 4_200  # begun anew six times
        assert [len(record.payload) for record in log.read("p0001", 9_005)] == [4_000] * 5
    with SqliteLog(tmp_path, mode="relaxed") as log:
        assert log.positions() == {"p0001": 9_010}


def folded(path: Path) -> int:
    """How many pages of the write-ahead log are in the file; of a log that was begun anew."""
    return int.from_bytes(Path(f"{path}-shm").read_bytes()[96:100], "little")


def test_appends_fold_where_nobody_does_in_time(tmp_path: Path) -> None:
    with SqliteLog(tmp_path, mode="relaxed") as log:
        log.append([b"x"])
        log.maintenance()
        for _ in range(250):
            log.append([b"x" * 4_000] * 100)
        assert (tmp_path / "p0001.db-wal").stat().st_size < 12_000 * 4_200


def test_a_process_that_is_killed_after_upkeep_leaves_all_that_it_acknowledged(tmp_path: Path) -> None:
    child = """
import os, sys, pathlib
from trimtab.store.sqlite.log import SqliteLog
log = SqliteLog(pathlib.Path(sys.argv[1]), mode="durable")
for n in range(40):
    log.append([b"%d" % n])
    if n % 7 == int(sys.argv[2]):
        log.maintenance()
os.kill(os.getpid(), 9)
"""
    for turn in range(7):
        folder = tmp_path / str(turn)
        forked.run([sys.executable, "-c", child, str(folder), str(turn)], check=False, timeout=60)
        with SqliteLog(folder) as log:
            assert payloads(log, "p0001") == [b"%d" % n for n in range(40)]


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    with SqliteLog(tmp_path) as log:
        log.append([b"a"])
    with contextlib.closing(sqlite3.connect(tmp_path / "p0001.db")) as connection:
        connection.execute("PRAGMA user_version = 3")
    with SqliteLog(tmp_path) as log, pytest.raises(Misuse, match=r"p0001.db: log format 3, .* reads up to 2"):
        log.positions()
    with SqliteLog(tmp_path) as log, pytest.raises(Misuse, match="format 3"):
        log.append([b"b"])


def test_damage_in_a_dead_writers_wal_is_not_taken_for_its_end(start_writer: Start, tmp_path: Path) -> None:
    writer = start_writer("log", "until-killed", tmp_path)
    assert writer.stdout is not None
    for _ in range(40):
        writer.stdout.readline()
    writer.kill()
    writer.wait()
    wal = tmp_path / "p0001.db-wal"
    frames = (wal.stat().st_size - 32) // (4_096 + 24)
    assert frames > 20
    with wal.open("r+b") as file:
        file.seek(32 + 10 * (4_096 + 24) + 2_000)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with SqliteLog(tmp_path) as log, pytest.raises(Corrupt, match=r"p0001.db-wal: damaged"):
        log.append([b"x"])


def test_a_torn_last_frame_is_no_damage(start_writer: Start, tmp_path: Path) -> None:
    writer = start_writer("log", "until-killed", tmp_path)
    assert writer.stdout is not None
    for _ in range(40):
        writer.stdout.readline()
    writer.kill()
    writer.wait()
    wal = tmp_path / "p0001.db-wal"
    os.truncate(wal, wal.stat().st_size - 1_000)
    with SqliteLog(tmp_path) as log:
        last = log.positions()["p0001"]
        assert log.append([b"x"]) == range(last + 1, last + 2)


@given(
    batches=st.lists(
        st.tuples(
            st.lists(st.binary(max_size=30), max_size=5), st.one_of(st.none(), st.integers(0, 10_000)), st.booleans()
        ),
        max_size=8,
    ),
    cuts=st.lists(st.integers(0, 30), max_size=3),
    erased=st.sets(st.integers(1, 30), max_size=3),
)
@settings(max_examples=25, deadline=None)
def test_it_is_the_log_in_memory_made_durable(
    batches: list[tuple[list[bytes], int | None, bool]], cuts: list[int], erased: set[int]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        clock = VirtualClock(5_000)
        logs = SqliteLog(Path(directory), clock=clock), MemoryLog(clock=clock)
        with logs[0]:
            for log in logs:
                log.append([b"first"])
            for i, (batch, at_us, packed) in enumerate(batches):
                times = None if at_us is None else [at_us] * len(batch)
                if packed and batch:
                    packs = [pack(len(some), [b"p", some]) for some in (batch[:3], batch[3:]) if some]
                    assert logs[0].append_packs(packs, at_us=at_us) == logs[1].append_packs(packs, at_us=at_us)
                else:
                    assert logs[0].append(batch, at_us=times) == logs[1].append(batch, at_us=times)
                if i < len(cuts):
                    assert logs[0].truncate("p0001", cuts[i]) == logs[1].truncate("p0001", cuts[i])
            assert logs[0].positions() == logs[1].positions()
            assert logs[0].erase("p0001", dict.fromkeys(erased, b"")) == logs[1].erase(
                "p0001", dict.fromkeys(erased, b"")
            )
        with SqliteLog(Path(directory), clock=clock) as reopened:
            assert reopened.read("p0001", 0) == logs[1].read("p0001", 0)
            for after in range(0, logs[1].positions()["p0001"], 3):
                for limit in (1, 2, 7):
                    assert reopened.read("p0001", after, limit=limit) == logs[1].read("p0001", after, limit=limit)


def test_a_write_ahead_log_that_cannot_be_read_is_said_and_no_other_partition_is_taken(tmp_path: Path) -> None:
    with SqliteLog(tmp_path) as log:
        log.append([b"a"])
    wal = tmp_path / "p0001.db-wal"
    wal.mkdir()
    with SqliteLog(tmp_path) as log:
        for _ in range(3):
            with pytest.raises(Unavailable, match=r"p0001.db-wal: cannot be read \(.*directory"):
                log.append([b"b"])
        wal.rmdir()
        assert log.append([b"b"]) == range(2, 3)
        assert log.positions() == {"p0001": 2}


def test_a_lock_file_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    with SqliteLog(tmp_path) as log:
        log.append([b"a"])
    (tmp_path / "p0001.lock").unlink()
    (tmp_path / "p0001.lock").mkdir()
    with SqliteLog(tmp_path) as log, pytest.raises(Unavailable, match=r"p0001\.lock: the lock file cannot be made"):
        log.truncate("p0001", 1)


def moved(log: Path, away: Path) -> None:
    log.rename(away)


def deleted(log: Path, away: Path) -> None:
    shutil.copytree(log, away)
    shutil.rmtree(log)


def without_wal(log: Path, away: Path) -> None:
    shutil.copytree(log, away)
    (log / "p0001.db-wal").unlink()


@pytest.mark.parametrize("lose", [moved, deleted, without_wal])
@pytest.mark.parametrize("mode", ["durable", "relaxed"])
def test_nothing_is_appended_to_a_file_that_is_not_there_any_more(
    tmp_path: Path, lose: Callable[[Path, Path], None], mode: Literal["durable", "relaxed"]
) -> None:
    with SqliteLog(tmp_path / "log", mode=mode) as log:
        log.append([b"a"])
        lose(tmp_path / "log", tmp_path / "away")
        with pytest.raises(Unavailable, match=r"p0001\.db: this file or its -wal file was removed"):
            log.append([b"b"])
        if lose is not moved:
            shutil.rmtree(tmp_path / "log", ignore_errors=True)
        (tmp_path / "away").rename(tmp_path / "log")  # as a person puts it back
        assert log.append([b"c"]) == range(2, 3)
        assert payloads(log, "p0001") == [b"a", b"c"]


def test_an_older_copy_in_the_place_of_a_log_is_named(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "log") as log:
        log.append([b"a"])
        log.maintenance()
        shutil.copytree(tmp_path / "log", tmp_path / "older")
        log.append([b"b", b"c"])
        shutil.rmtree(tmp_path / "log")
        shutil.copytree(tmp_path / "older", tmp_path / "log")
        assert log.positions() == {"p0001": 1}  # readers go on in what lies there
        with pytest.raises(Unavailable, match="was removed"):
            log.append([b"d"])
        with pytest.raises(Corrupt, match=r"its last record is 1, but this process wrote up to 3"):
            log.append([b"d"])


def test_a_partition_skips_positions_that_others_have_read(tmp_path: Path) -> None:
    with SqliteLog(tmp_path, clock=VirtualClock(50)) as log:
        log.append([b"a", b"b"], at_us=[10, 20])
        log.skip_to("p0001", 7, [(b"a", 10), (b"b", 20)])
        assert [(r.position, r.appended_at_us, r.payload) for r in log.read("p0001", 0)] == [
            (8, 10, b"a"),
            (9, 20, b"b"),
        ]
        assert log.append([b"c"]) == range(10, 11)
        log.skip_to("p0003", 5, [])
        assert log.positions() == {"p0001": 10, "p0003": 5}
    with SqliteLog(tmp_path, clock=VirtualClock(50)) as log, SqliteLog(tmp_path, clock=VirtualClock(50)) as other:
        assert log.append([b"d"]) == range(11, 12)
        assert other.partition == "p0002"
        with pytest.raises(Conflict):
            log.skip_to("p0002", 7, [])


def test_a_pack_is_one_row_that_is_read_as_records(tmp_path: Path) -> None:
    with SqliteLog(tmp_path, clock=VirtualClock(5_000)) as log:
        log.append([b"a"])
        assert log.append_packs([pack(3, [b"x", [b"1", b"22", b"3"]]), pack(2, [b"y"])]) == range(2, 7)
        log.append([b"b"])
        with contextlib.closing(sqlite3.connect(tmp_path / "p0001.db")) as connection:
            assert connection.execute("SELECT position FROM record").fetchall() == [(1,), (4,), (6,), (7,)]
        assert payloads(log, "p0001") == [b"a", b"x1", b"x22", b"x3", b"y", b"y", b"b"]
        assert log.restamp("p0001", 4_000, 6_000) == 7
        assert {record.appended_at_us for record in log.read("p0001", 0)} == {6_000}
    with contextlib.closing(sqlite3.connect(tmp_path / "p0001.db")) as connection:
        connection.execute("DELETE FROM record WHERE position = 4")
        connection.commit()
    with SqliteLog(tmp_path) as log, pytest.raises(Corrupt, match="position 2 is missing"):
        log.read("p0001", 0)


def test_records_that_a_clock_ahead_stamped_are_stamped_again(tmp_path: Path) -> None:
    with SqliteLog(tmp_path, clock=VirtualClock(50)) as log:
        log.append([b"a", b"b", b"c"], at_us=[10, 900, 900])
        assert log.append([b"d"]) == range(4, 5)
        assert log.restamp("p0001", 60, 60) == 3
        log.append([b"e"], at_us=[70])
        assert [(r.appended_at_us, r.payload) for r in log.read("p0001", 0)] == [
            (10, b"a"),
            (60, b"b"),
            (60, b"c"),
            (60, b"d"),
            (70, b"e"),
        ]
