"""A worker that is replaced after somebody edited the project file: it answers by what it finds, and status says so."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import shop
from alias_moves import AS_OF

from processes import eventually
from trimtab.app.inspect.status import _not_answering
from trimtab.serving.workers.states import FOLDER, ServiceState, read_state
from trimtab.serving.workers.supervisor import SlotState

MORE = "more = tt.source('more', time='at', columns={'n': int})\n"
TWO = ("--as-of", AS_OF, "--workers", "2")


def workers(folder: Path) -> list[SlotState]:
    found: ServiceState | None = read_state(folder / ".trimtab" / FOLDER)
    return [] if found is None else found.workers


def all_ready(folder: Path, restarts: int = 0) -> list[SlotState]:
    """Both workers, once they answer and the first of them was replaced so often at least."""

    def look() -> list[SlotState] | None:
        found = workers(folder)
        ready = len(found) == 2 and all(worker.ready for worker in found)
        return found if ready and found[0].restarts >= restarts else None

    return eventually(look)  # type: ignore[no-any-return]


def red(folder: Path) -> list[str]:
    with shop.opened(folder) as project:
        return [line for line in project.status().red if line.startswith("worker")]


def kill_first(folder: Path) -> None:
    pid = workers(folder)[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def test_a_worker_that_reads_changed_definitions_answers_and_status_is_red(trained: Path) -> None:
    file = trained / "project.py"
    with shop.serving(trained, *TWO) as (_, url):
        all_ready(trained)
        file.write_text(file.read_text() + "\n# a remark changes nothing\n")
        kill_first(trained)
        assert [worker.changed for worker in all_ready(trained, 1)] == [False, False]
        assert red(trained) == []
        file.write_text(file.read_text() + MORE)
        kill_first(trained)
        assert [worker.changed for worker in all_ready(trained, 2)] == [True, False]
        assert red(trained) == [
            "worker 1 of the service reads a project file that has changed since the service started, and may "
            "answer differently from the others: restart the service"
        ]
        for _ in range(8):  # whichever worker takes it
            assert shop.call(f"{url}/health/ready")[0] == 200


def test_a_worker_that_cannot_read_the_project_file_any_more_says_why_and_comes_back_with_it(trained: Path) -> None:
    file = trained / "project.py"
    before = file.read_text()
    with shop.serving(trained, *TWO) as (_, url):
        all_ready(trained)
        file.write_text(before + "\ndef half(:\n")
        kill_first(trained)
        eventually(lambda: "project file" in workers(trained)[0].last_words)
        found = read_state(trained / ".trimtab" / FOLDER)
        assert found is not None
        (line,) = _not_answering(found)  # nobody can open the project now, to ask for its status
        assert line.startswith("worker 1 of the service does not answer; worker 1 (pid ")
        assert "Misuse: the project file has changed since the service started; correct it and restart" in line
        assert "SyntaxError" in line
        assert shop.call(f"{url}/health/ready")[0] == 200
        file.write_text(before)
        all_ready(trained, 1)
        assert red(trained) == []
