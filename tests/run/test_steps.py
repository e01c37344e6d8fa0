from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import forked
from processes import eventually
from trimtab.core.clock import SystemClock
from trimtab.core.errors import Misuse, Unavailable
from trimtab.run import finished, step
from trimtab.store.file_blob import FileBlob
from trimtab.store.sql_catalog import SqlCatalog

CLOCK = SystemClock()

SCRIPT = """
import sys, time, pathlib
from trimtab.core.clock import SystemClock
from trimtab.run import step
from trimtab.store.file_blob import FileBlob
from trimtab.store.sql_catalog import SqlCatalog

folder, who, slow = pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
catalog, blob = SqlCatalog.sqlite(folder / "catalog.db"), FileBlob(folder / "blobs")
for number in range(3):
    def work():
        with open(folder / "ran", "a") as log:
            log.write(f"{number} {who}\\n")
        time.sleep(slow if number else 0)
        return f"result {number}".encode()
    got = step(catalog, blob, f"part{number}", "h", work, clock=SystemClock())
    assert got.result == f"result {number}".encode()
catalog.close()
print("done")
"""


@pytest.fixture
def blob(tmp_path: Path) -> FileBlob:
    return FileBlob(tmp_path / "blobs")


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[SqlCatalog]:
    with SqlCatalog.sqlite(tmp_path / "catalog.db") as opened:
        yield opened


@pytest.mark.fast
def test_a_finished_step_is_not_done_again(catalog: SqlCatalog, blob: FileBlob) -> None:
    calls: list[int] = []

    def work() -> bytes:
        calls.append(1)
        return b"fitted"

    done = [step(catalog, blob, "train", "h1", work, clock=CLOCK) for _ in range(3)]
    assert [(one.result, one.cached) for one in done] == [(b"fitted", False), (b"fitted", True), (b"fitted", True)]
    step(catalog, blob, "train", "h2", work, clock=CLOCK)
    assert len(calls) == 2
    done = finished(catalog, "train", "h1")
    assert done is not None
    assert done.attempts == 1


@pytest.mark.fast
def test_only_what_is_unavailable_is_tried_again_after_doubling_pauses(catalog: SqlCatalog, blob: FileBlob) -> None:
    left, pauses = [3], []

    def flaky() -> bytes:
        left[0] -= 1
        if left[0] >= 0:
            raise Unavailable("not yet")
        return b"ok"

    assert step(catalog, blob, "a", "h", flaky, clock=CLOCK, sleep=pauses.append).result == b"ok"
    assert pauses == [0.1, 0.2, 0.4]
    left[0] = 4
    with pytest.raises(Unavailable):
        step(catalog, blob, "b", "h", flaky, clock=CLOCK, sleep=pauses.append)

    def wrong() -> bytes:
        raise Misuse("never right")

    pauses.clear()
    with pytest.raises(Misuse):
        step(catalog, blob, "c", "h", wrong, clock=CLOCK, sleep=pauses.append)
    assert pauses == []
    assert step(catalog, blob, "c", "h", lambda: b"later", clock=CLOCK).result == b"later"


def test_a_killed_process_is_succeeded_at_its_first_unfinished_step(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    first = forked.Popen([*command, "first", "60"], stdout=subprocess.DEVNULL)
    eventually(lambda: ran.exists() and "1 first" in ran.read_text())
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    second = forked.run([*command, "second", "0"], capture_output=True, text=True, timeout=120, check=True)
    assert second.stdout == "done\n"
    assert ran.read_text().split("\n")[:-1] == ["0 first", "1 first", "1 second", "2 second"]
