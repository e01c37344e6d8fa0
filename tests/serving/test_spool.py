"""The spool: what was answered is in the log in the end, whenever its process dies."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.clock import SystemClock
from trimtab.core.errors import Conflict, Unavailable
from trimtab.core.records import Prediction
from trimtab.serving.log.buffered_log import BufferedLog
from trimtab.serving.log.commit import GroupCommit
from trimtab.serving.log.prediction_ids import PredictionIds
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.serving.log.prediction_record import encode
from trimtab.serving.log.spool import SIZE_BYTES, Spool, recover_spools, remove_spools
from trimtab.serving.observe.shared_status import SharedStatus, shared_statuses
from trimtab.store.file_lock import FileLock
from trimtab.testing import MemoryLog
from trimtab.testing.builders import a_prediction

ids = PredictionIds(SystemClock())


def prediction(size: int = 10) -> Prediction:
    return a_prediction(id=ids(), request=b"x" * size)


@pytest.mark.fast
@given(st.lists(st.tuples(st.lists(st.integers(0, 5_000), max_size=4), st.booleans()), max_size=20), st.integers(0, 30))
def test_buffered_payloads_are_in_the_log_once_after_a_kill_at_any_step(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[list[int], bool]], death: int
) -> None:
    """A step notes some answers; then they may be appended. Death leaves the spool as it is."""
    folder = tmp_path_factory.mktemp("spool")
    log = PredictionLog(MemoryLog())
    spool = Spool(folder, log)
    answered, waiting = [], []
    for number, (sizes, appended) in enumerate(steps):
        made = [prediction(size) for size in sizes]
        assert spool.add([encode(p) for p in made])
        answered += made
        waiting += made
        if number == death:
            break
        if appended:
            log.append(waiting)
            if number + 1 == death:
                break  # it died between the append and the word of it
            spool.clear()
            waiting = []
    spool.close()
    with Spool(folder, log):
        assert [p.id for block in log.scan() for p in block] == [p.id for p in answered]
    with Spool(folder, log) as again:
        assert again.recovered == 0


def test_a_full_spool_takes_nothing_more_and_keeps_what_it_has(tmp_path: Path) -> None:
    log = PredictionLog(MemoryLog())
    with Spool(tmp_path, log) as spool:
        taken = [p for p in (prediction(100_000) for _ in range(50)) if spool.add([encode(p)])]
        assert len(taken) == SIZE_BYTES // 100_400
        assert not spool.add([b"x" * SIZE_BYTES])
    with Spool(tmp_path, log) as spool:
        assert spool.recovered == len(taken)
        assert [p.id for p in log.read()[0]] == [p.id for p in taken]


def test_each_living_process_has_a_spool_of_its_own(tmp_path: Path) -> None:
    log = PredictionLog(MemoryLog())
    one, two = prediction(), prediction()
    with Spool(tmp_path, log) as first:
        first.add([encode(one)])
        with Spool(tmp_path, log) as second:
            second.add([encode(two)])
            assert second.recovered == 0  # the first one lives
        with Spool(tmp_path, log) as third:
            assert third.recovered == 1
    with Spool(tmp_path, log):
        assert sorted(p.id for p in log.read()[0]) == sorted([one.id, two.id])


def test_all_spools_of_the_dead_go_to_the_log_whatever_is_missing_between_them(tmp_path: Path) -> None:
    log = PredictionLog(MemoryLog())
    spools = [Spool(tmp_path, log) for _ in range(4)]
    made = [prediction() for _ in spools]
    for spool, one in zip(spools, made, strict=True):
        spool.add([encode(one)])
    for spool in (spools[1], spools[3]):
        spool.close()
    (tmp_path / "spool-0003").unlink()
    assert recover_spools(tmp_path, log) == 2  # those of the living are theirs
    assert sorted(p.id for p in log.read()[0]) == sorted([made[1].id, made[3].id])
    assert recover_spools(tmp_path, log) == recover_spools(tmp_path / "none", log) == 0
    for spool in (spools[0], spools[2]):
        spool.close()
    with Spool(tmp_path, log) as again:
        assert again.recovered == 1


@pytest.mark.parametrize("damage", [b"", b"\0" * 50, b"\xff" * SIZE_BYTES])
def test_a_file_that_is_no_spool_becomes_one(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "spool-0001").write_bytes(damage)
    log = PredictionLog(MemoryLog())
    with Spool(tmp_path, log) as spool:
        assert spool.recovered == 0
        spool.add([encode(prediction())])
    with Spool(tmp_path, log) as spool:
        assert spool.recovered == 1


def test_a_torn_payload_is_left_out(tmp_path: Path) -> None:
    log = PredictionLog(MemoryLog())
    with Spool(tmp_path, log) as spool:
        spool.add([encode(prediction(50)), encode(prediction(50))])
    data = bytearray((tmp_path / "spool-0001").read_bytes())
    data[data.rindex(b"x")] ^= 1
    (tmp_path / "spool-0001").write_bytes(data)
    with Spool(tmp_path, log) as spool:
        assert spool.recovered == 1


class Disk(MemoryLog):
    """A log on a disk that can be full."""

    full = False

    def append(self, payloads: Sequence[bytes], *, at_us: Any = None) -> range:
        if self.full:
            raise Unavailable("disk full")
        return super().append(payloads, at_us=at_us)


def test_buffered_answers_reach_the_log_without_a_wait(tmp_path: Path) -> None:
    log = PredictionLog(BufferedLog(MemoryLog(), tmp_path))

    async def main() -> None:
        commit = GroupCommit(log)
        made = [prediction() for _ in range(200)]
        for one in made:
            assert commit.buffer([one])
        await asyncio.sleep(0.1)
        assert [p.id for p in log.read()[0]] == [p.id for p in made]
        assert commit.buffer([prediction()])
        commit.close()
        assert len(log.read()[0]) == 201

    asyncio.run(main())
    log.close()


def test_while_the_disk_is_full_answers_are_kept_until_the_spool_is_full_too(tmp_path: Path) -> None:
    disk = Disk()
    log = PredictionLog(BufferedLog(disk, tmp_path))

    async def main() -> list[Prediction]:
        commit = GroupCommit(log)
        disk.full = True
        kept = []
        while commit.buffer([one := prediction(50_000)]):
            kept.append(one)
        assert len(kept) == SIZE_BYTES // 50_400
        with pytest.raises(Unavailable):
            await commit.append([one])
        await asyncio.sleep(0.01)
        assert isinstance(commit.failure, Unavailable)
        disk.full = False
        while not commit.buffer([one]):  # the log is tried again after a while
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)
        assert commit.failure is None
        commit.close()
        return [*kept, one]

    answered = asyncio.run(main())
    log.close()
    assert [p.id for p in log.read()[0]] == [p.id for p in answered]


def test_spools_are_removed_with_their_payloads_in_the_log_unless_a_process_lives(tmp_path: Path) -> None:
    log = PredictionLog(MemoryLog())
    living, dead = Spool(tmp_path, log), Spool(tmp_path, log)
    one, two = prediction(), prediction()
    living.add([encode(one)])
    dead.add([encode(two)])
    dead.close()
    with pytest.raises(Conflict, match=r"process .* uses this spool"):
        remove_spools(tmp_path, log)
    assert (tmp_path / "spool-0001").exists()
    living.close()
    remove_spools(tmp_path, log)
    assert list(tmp_path.glob("spool-????")) == []
    assert sorted(p.id for p in log.read()[0]) == sorted([one.id, two.id])


@contextmanager
def full() -> Iterator[None]:
    """No file of this process may grow beyond a kilobyte: to it that is a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_024, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def held() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd" if sys.platform == "linux" else "/dev/fd"))


def test_a_spool_for_which_there_is_no_room_leaves_nothing_behind(tmp_path: Path) -> None:
    log = PredictionLog(MemoryLog())
    with full():
        before = held()
        for _ in range(5):
            with pytest.raises(Unavailable, match="a spool cannot be made"):
                Spool(tmp_path, log)
        assert held() == before
    assert [path.name for path in tmp_path.iterdir()] == ["spool-0001.lock"]
    with Spool(tmp_path, log) as spool:  # the same one, once there is
        assert spool.add([encode(prediction())])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spool-0001", "spool-0001.lock"]


def test_answers_are_refused_while_there_is_no_room_for_a_spool(tmp_path: Path) -> None:
    log = BufferedLog(MemoryLog(), tmp_path)
    with full():
        before = held()
        for _ in range(50):
            with pytest.raises(Unavailable, match="a spool cannot be made"):
                log.buffer([encode(prediction())])
        assert held() == before
    log.buffer([encode(one := prediction())])
    assert [p.id for p in PredictionLog(log).read()[0]] == [one.id]
    log.close()


def test_a_status_for_which_there_is_no_room_leaves_nothing_behind(tmp_path: Path) -> None:
    with full():
        before = held()
        for _ in range(5):
            with pytest.raises(Unavailable, match="a status file cannot be made"):
                SharedStatus(tmp_path)
        assert held() == before
    assert shared_statuses(tmp_path) == []
    with SharedStatus(tmp_path) as note:
        assert [path.name for path in sorted(tmp_path.iterdir())] == ["note-0001", "note-0001.lock"]
        note.publish("the disk is full")
        assert shared_statuses(tmp_path) == ["the disk is full"]


def test_a_status_that_is_being_made_is_empty(tmp_path: Path) -> None:
    """Its process has the lock, and the file has no content so far."""
    lock = FileLock.take(tmp_path / "note-0001.lock")
    assert lock is not None
    (tmp_path / "note-0001").touch()
    assert shared_statuses(tmp_path) == []
    lock.release()


def test_a_status_that_was_removed_is_empty(tmp_path: Path) -> None:
    """There was no room for it, and its process removed it during the look: a link to nothing is like that."""
    lock = FileLock.take(tmp_path / "note-0001.lock")
    assert lock is not None
    (tmp_path / "note-0001").symlink_to(tmp_path / "gone")
    with SharedStatus(tmp_path) as note:
        note.publish("the disk is full")
        assert shared_statuses(tmp_path) == ["the disk is full"]
    lock.release()
