"""Rows that are given up or given back leave the disk, whatever stops it, also while another process has the files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from trimtab import store
from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Conflict, Unavailable
from trimtab.events.definitions import source
from trimtab.events.ingest import Ingestor
from trimtab.events.quarantine import Quarantine, Replayed
from trimtab.store.ports import Log
from trimtab.testing import MemoryLog

PLAIN = source("plain", time="at", columns={"who": str, "x": float})


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Log]:
    with closing(store.open(f"sqlite://{tmp_path}/q", "log")) as log:
        yield log


def fill(log: Log, rows: int, *, x: str = "much") -> Ingestor:
    """Refused rows, and who refused them."""
    ingestor = Ingestor(MemoryLog(), [PLAIN], clock=VirtualClock(0), quarantine=Quarantine(log))
    ingestor.push("plain", [{"who": f"secret-{i}", "x": x, "at": 0} for i in range(rows)])
    return ingestor


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.fast
def test_what_is_dropped_is_on_no_page_any_more_and_gives_its_room_back(kept: Log, tmp_path: Path) -> None:
    fill(kept, 5_000)
    before = on_disk(tmp_path)
    assert b"secret-4999" in before
    assert Quarantine(kept).drop() == 5_000
    assert b"secret" not in on_disk(tmp_path)
    assert len(on_disk(tmp_path)) < len(before) / 5
    assert Quarantine(kept).find(lambda row: True) == {}
    assert kept.read("p0001", 0) == []  # no note stays either
    fill(kept, 3)
    assert Quarantine(kept).counts() == {"plain": {"wrong_type": 3}}


def test_rows_between_others_are_erased_and_the_others_stay(kept: Log, tmp_path: Path) -> None:
    ingestor = fill(kept, 2)
    ingestor.push("plain", [{"who": "stays", "x": 1.0}])
    fill(kept, 2)
    assert Quarantine(kept).drop(reason="wrong_type") == 4
    assert [row.raw() for row in Quarantine(kept).read()] == [{"who": "stays", "x": 1.0}]
    assert b"secret" not in on_disk(tmp_path)
    assert [record.position for record in kept.read("p0001", 0)] == [3, 4, 5, 6]


def test_what_was_given_back_does_not_stay_in_quarantine(kept: Log, tmp_path: Path) -> None:
    ingestor = fill(kept, 1_500)
    done = Quarantine(kept).replay(ingestor, fix=lambda row: row | {"x": 1.0})
    assert done == Replayed(1_500, 0, 0)
    assert b"secret" not in on_disk(tmp_path)
    assert kept.read("p0001", 0) == []


def test_a_replay_that_takes_a_part_leaves_the_rest_and_no_event_twice(kept: Log, tmp_path: Path) -> None:
    ingestor = fill(kept, 4)
    fixes = {"secret-0": 1.0, "secret-2": 2.0}
    fix = lambda row: row | {"x": fixes.get(row["who"], row["x"])}  # noqa: E731
    assert Quarantine(kept).replay(ingestor, fix=fix) == Replayed(2, 2, 0)
    assert [row.raw()["who"] for row in Quarantine(kept).read()] == ["secret-1", "secret-3"]
    assert b"secret-0" not in on_disk(tmp_path)
    assert Quarantine(kept).replay(ingestor, fix=lambda row: row | {"x": 1.0}) == Replayed(2, 0, 0)
    assert kept.read("p0001", 0) == []


@pytest.mark.parametrize("steps", range(4))
def test_a_drop_that_is_stopped_at_any_step_is_finished_by_the_next(
    kept: Any, tmp_path: Path, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(kept, 10)
    Ingestor(MemoryLog(), [PLAIN], clock=VirtualClock(0), quarantine=Quarantine(kept)).push("plain", [{"who": "stays"}])
    left = steps

    def stopping(name: str) -> Any:
        real = getattr(kept, name)

        def step(*args: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return real(*args, **more)

        return step

    with monkeypatch.context() as patched:
        for name in ("append", "erase", "truncate"):
            patched.setattr(kept, name, stopping(name))
        with pytest.raises(KeyboardInterrupt):
            Quarantine(kept).drop(reason="wrong_type")
    count = len(Quarantine(kept).read())
    assert count == (11 if steps == 0 else 1)
    Quarantine(kept).drop(reason="wrong_type")
    assert [row.raw()["who"] for row in Quarantine(kept).read()] == ["stays"]
    assert b"secret" not in on_disk(tmp_path)


def test_a_file_that_another_process_writes_is_named_and_erased_the_next_time(tmp_path: Path) -> None:
    with closing(store.open(f"sqlite://{tmp_path}/q", "log")) as serving:
        fill(serving, 5)
        with closing(store.open(f"sqlite://{tmp_path}/q", "log")) as mine:
            with pytest.raises(Conflict, match=r"5 rows are dropped.*still on the disk"):
                Quarantine(mine).drop()
            assert Quarantine(mine).counts() == {}
    with closing(store.open(f"sqlite://{tmp_path}/q", "log")) as mine:
        assert Quarantine(mine).drop() == 0
    assert b"secret" not in on_disk(tmp_path)


def test_rows_whose_old_bytes_could_not_be_removed_are_not_taken_for_erased(kept: Any) -> None:
    fill(kept, 2)

    def busy(partition: str, instead: Any) -> int:
        type(kept).erase(kept, partition, instead)
        raise Unavailable("another process is reading it")

    kept.erase = busy
    with pytest.raises(Unavailable, match="2 rows are dropped"):
        Quarantine(kept).drop()
    again: list[str] = []
    kept.erase = lambda partition, instead: again.append(partition) or type(kept).erase(kept, partition, instead)
    Quarantine(kept).drop()
    assert again[0] == "p0001"
    assert kept.read("p0001", 0) == []
