"""The index of the event log finds what a history of the whole log has, whatever happened to log, tables and files."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import forked
from trimtab import store
from trimtab.events.columns import key_index
from trimtab.events.columns.history import History
from trimtab.events.columns.key_index import KeyIndex, versions_of
from trimtab.events.definitions import source
from trimtab.events.records import ERASED, Event, encode
from trimtab.events.tables import Moved, materialise

KEYED = source("keyed", time="at", key="k", columns={"k": str, "who": str, "x": float})
PLAIN = source("plain", time="at", columns={"who": str})
BOTH = [KEYED, PLAIN]
NAMES = "abcdefg"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "_BLOCK", 8)
    monkeypatch.setattr(key_index, "_MANY", 16)
    monkeypatch.setattr(key_index, "_NEAR", 2)
    monkeypatch.setattr(key_index, "_TOGETHER", 3)


def payload(rng: random.Random) -> bytes:
    key, who, at_us = rng.choice(NAMES), rng.choice(NAMES), rng.randrange(5)
    if rng.random() < 0.3:
        return encode(Event("plain", f"{key}@{who}", at_us, 0, "upsert", False, (who, at_us)))
    op: Any = rng.choice(["upsert", "upsert", "delete"])
    values = (key, None if op == "delete" else who, float(rng.randrange(2)), at_us)
    return encode(Event("keyed", key, at_us, 0, op, False, values))


def rows(frame: Any) -> list[Any]:
    """The versions of a frame, ordered by their places in the log."""
    order = np.lexsort((frame.position, frame.partition))
    parts = np.array(frame.partitions, object)[frame.partition[order]].tolist() if frame.rows else []
    own = (frame.event_at_us, frame.known_at_us, frame.superseded_at_us, frame.deleted, frame.position, frame.loaded_h)
    columns = [column.take(order).to_list() for column in frame.columns.by_name.values()]
    return list(zip(parts, *(field[order].tolist() for field in own), *columns, strict=True))


def hashes(index: KeyIndex) -> dict[str, list[int]]:
    found = {name: np.concatenate([*(one.ravel() for one in k.blocks), k.rest]) for name, k in index._known.items()}
    return {name: one.tolist() for name, one in found.items()}


def check(log: Any, folder: Path, moved: Any, index: KeyIndex) -> None:
    """Everything that the index finds is what the history has, and its files are those of a new index."""
    history = History(log, BOTH, tables=moved)
    history.refresh()
    for what in BOTH:
        frame = history.frame(what.name)
        for key in NAMES:
            if what is KEYED:
                mine = frame.take(frame.columns["k"].values == key)
                assert rows(versions_of(index, what, {key})) == rows(mine)
            index_by_who = KeyIndex(log, folder, moved, column=(what, "who"))
            found = {(r.partition, r.position) for r in index_by_who.find(what, [key])}
            with_who = frame.take(frame.columns["who"].values == key)
            places = zip(np.array(with_who.partitions, object)[with_who.partition], with_who.position, strict=True)
            assert found >= {(p, int(n)) for p, n in places} - _filled(frame)
    new = KeyIndex(log, folder / "new", moved)
    new.refresh()
    index.refresh()
    assert hashes(index) == hashes(new)


def _filled(frame: Any) -> set[tuple[str, int]]:
    """Deletions have the values of the version before them."""
    gone = frame.take(frame.deleted)
    return {(gone.partitions[p], int(n)) for p, n in zip(gone.partition, gone.position, strict=True)}


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_it_finds_what_the_history_has(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    tables = {one.name: store.open(f"delta://{tmp_path / one.name}", "table") for one in BOTH}
    through: dict[str, int] = {}

    def moved() -> Moved:
        return Moved(tables if through else {}, dict(through))

    where = f"sqlite://{tmp_path / 'log'}"
    with store.open(where, "log") as log, store.open(where, "log") as other:
        index = KeyIndex(log, tmp_path / "index", moved)
        for _ in range(6):
            for one in (log, other):
                one.append([payload(rng) for _ in range(rng.randrange(1, 30))])
            if rng.random() < 0.4:
                reached = materialise(log, BOTH, tables, through=through).positions
                for one in (log, other):
                    cut = rng.randrange(reached[one.partition] + 1)
                    through[one.partition] = max(cut, through.get(one.partition, 0))
                    one.truncate(one.partition, through[one.partition])
            if rng.random() < 0.5:  # another process
                index = KeyIndex(log, tmp_path / "index", moved)
            for file in (tmp_path / "index").glob("*.ids") if rng.random() < 0.5 else ():
                data = bytearray(file.read_bytes())
                if data and rng.random() < 0.5:
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                file.write_bytes(data[: rng.randrange(len(data) + 1)] if rng.random() < 0.5 else data)
                index = KeyIndex(log, tmp_path / "index", moved)
            check(log, tmp_path / "index", moved, index)


def test_a_file_about_another_log_is_made_again(tmp_path: Path) -> None:
    rng = random.Random(1)
    for number in range(2):
        with store.open(f"sqlite://{tmp_path / f'log{number}'}", "log") as log:
            log.append([payload(rng) for _ in range(40)])
            check(
                log, tmp_path / "index", lambda: Moved({}, {}), KeyIndex(log, tmp_path / "index", lambda: Moved({}, {}))
            )


def test_an_erased_record_is_not_found(tmp_path: Path) -> None:
    with store.open(f"sqlite://{tmp_path / 'log'}", "log") as log:
        log.append([encode(Event("keyed", key, 1, 0, "upsert", False, (key, "w", 1.0, 1))) for key in NAMES])
        index = KeyIndex(log, tmp_path / "index", lambda: Moved({}, {}))
        assert len(index.find(KEYED, ["b"])) == 1
        log.erase(log.partition, {2: encode(Event(ERASED, "", 0, 0, "delete", False, ("keyed",)))})
        assert index.find(KEYED, ["b"]) == []
        assert versions_of(index, KEYED, {"b"}).rows == 0


def test_a_folder_that_cannot_be_written_keeps_the_index_in_memory(tmp_path: Path) -> None:
    (tmp_path / "index").write_text("a file in place of the folder")
    with store.open(f"sqlite://{tmp_path / 'log'}", "log") as log:
        rng = random.Random(2)
        log.append([payload(rng) for _ in range(40)])
        index = KeyIndex(log, tmp_path / "index", lambda: Moved({}, {}))
        assert index.find(KEYED, list(NAMES))
        assert index.seen("keyed", [*NAMES, "none"], log.positions()) >= {"a"}
        assert index.seen("keyed", ["none"], log.positions()) == set()


CHILD = """
import sys
from pathlib import Path
from trimtab import store
from trimtab.events.columns import key_index
from trimtab.events.tables import Moved
key_index._BLOCK = 8
with store.open(f"sqlite://{sys.argv[1]}", "log") as log:
    print("ready", flush=True)
    while True:
        for file in Path(sys.argv[2]).glob("*.ids"):
            file.unlink()
        key_index.KeyIndex(log, Path(sys.argv[2]), lambda: Moved({}, {})).refresh()
"""


def test_a_process_that_is_killed_leaves_files_that_are_right(tmp_path: Path) -> None:
    rng = random.Random(3)
    with store.open(f"sqlite://{tmp_path / 'log'}", "log") as log:
        log.append([payload(rng) for _ in range(2_000)])
        for _ in range(5):
            command = [sys.executable, "-c", CHILD, str(tmp_path / "log"), str(tmp_path / "index")]
            with forked.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                for _ in range(rng.randrange(50)):
                    log.positions()  # a random point of its work
                os.kill(process.pid, signal.SIGKILL)
            index = KeyIndex(log, tmp_path / "index", lambda: Moved({}, {}))
            new = KeyIndex(log, tmp_path / "none", lambda: Moved({}, {}))
            index.refresh()
            new.refresh()
            assert hashes(index) == hashes(new)
