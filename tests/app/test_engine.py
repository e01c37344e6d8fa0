"""A service that begins where one with workers was killed: its workers may have the port for a moment yet."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import shop

from trimtab.app.project import Project, open_project
from trimtab.app.serve import engine, parts
from trimtab.core.clock import ShiftedClock
from trimtab.core.errors import Unavailable
from trimtab.serving.http.server import accepting
from trimtab.serving.http.server.server import listen
from trimtab.serving.workers.states import FOLDER
from trimtab.serving.workers.supervisor import Supervisor


class Killed(BaseException):
    """As if the process had been: nothing more is done, though what is open is closed."""


@pytest.fixture
def project(trained: Path) -> Iterator[Project]:
    with open_project(trained, clock=ShiftedClock(shop.NOW_US), environment={}) as opened:
        yield opened


@pytest.fixture
def folder(project: Project) -> Path:
    """As a service with workers leaves it that was killed before it told anything of itself."""
    folder = project.state_folder / FOLDER
    folder.mkdir(parents=True)
    accepting.begin(folder)
    return folder


@pytest.fixture
def orphan() -> Iterator[socket.socket]:
    """Has the port, as a worker without its supervisor."""
    with listen("127.0.0.1", 0) as listener:
        yield listener


def end_at_once(url: str) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def waiting(monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> list[float]:
    """Let `what` happen whenever somebody waits for the port; so often it did."""
    waited: list[float] = []

    def sleep(time_s: float) -> None:
        waited.append(time_s)
        what()

    monkeypatch.setattr(parts, "sleep", sleep)
    return waited


def killed() -> None:
    raise Killed


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("second", [1, 2])
def test_a_start_after_one_that_was_killed_while_it_waited_for_the_port_waits_for_it_too(
    project: Project, folder: Path, orphan: socket.socket, monkeypatch: pytest.MonkeyPatch, first: int, second: int
) -> None:
    port, urls = port_of(orphan), list[str]()
    waiting(monkeypatch, killed)
    with pytest.raises(Killed):
        project.serve(port=port, workers=first)
    waited = waiting(monkeypatch, orphan.close)

    def ready(url: str) -> None:
        urls.append(url)
        end_at_once(url)

    project.serve(port=port, workers=second, ready=ready)
    assert len(waited) == 1
    assert urls == [f"http://127.0.0.1:{port}"]
    assert not list(folder.iterdir())


def test_a_service_that_is_killed_before_it_tells_of_itself_leaves_the_trace_of_its_workers(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killable(Supervisor):
        def run(self, announce: Callable[[], object]) -> None:
            seen.append((project.state_folder / FOLDER / parts._MARK).exists())
            self._end_all()

    seen: list[bool] = []
    monkeypatch.setattr(engine, "Supervisor", Killable)
    project.serve(port=0, workers=2)
    assert seen == [True]
    assert not (project.state_folder / FOLDER / parts._MARK).exists()  # it ended in order


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_of_another_program_is_said_at_once_where_no_worker_can_be_left(
    project: Project, orphan: socket.socket, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    waited = waiting(monkeypatch, killed)
    for _ in range(2):  # nor does the start in vain leave anything to wait for
        with pytest.raises(Unavailable, match="Stop what uses port"):
            project.serve(port=port_of(orphan), workers=workers)
    assert waited == []


def test_a_port_that_is_not_let_go_is_none_of_a_worker_and_the_next_start_is_told_at_once(
    tmp_path: Path, orphan: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepting.begin(tmp_path)
    monkeypatch.setattr(parts, "monotonic", iter([0.0, 1.0, parts._LEFT_S, parts._LEFT_S]).__next__)
    waited = waiting(monkeypatch, lambda: None)
    for _ in range(2):
        with pytest.raises(Unavailable, match="Stop what uses port"):
            parts.when_port_is_free(tmp_path, lambda: listen("127.0.0.1", port_of(orphan)))
    assert len(waited) == 1


def test_nobody_waits_for_an_address_that_no_worker_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accepting.begin(tmp_path)
    waited = waiting(monkeypatch, killed)
    with pytest.raises(Unavailable, match="an address of this machine"):
        parts.when_port_is_free(tmp_path, lambda: listen("192.0.2.1", 8080))  # of no machine: RFC 5737
    assert waited == []
    assert (tmp_path / parts._MARK).exists()


def test_the_port_of_grpc_is_waited_for_by_one_process_too(
    project: Project, folder: Path, orphan: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("grpc")
    waited = waiting(monkeypatch, orphan.close)
    told: list[str] = []
    project.serve(port=0, workers=1, grpc_port=port_of(orphan), grpc_ready=told.append, ready=end_at_once)
    assert len(waited) == 1
    assert told == [f"127.0.0.1:{told[0].rpartition(':')[2]}"]


def test_two_starts_of_a_service_are_told_apart(project: Project, folder: Path) -> None:
    starts = {engine._task(project, folder).start for _ in range(2)}
    assert len(starts - {""}) == 2


@pytest.fixture
def theirs() -> Iterator[socket.socket]:
    """Has a port as a worker has that of gRPC: others that say so may have it, too."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def test_workers_do_not_share_the_port_of_grpc_with_those_of_another_service(
    project: Project, theirs: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("grpc")
    waited = waiting(monkeypatch, killed)
    port = port_of(theirs)
    with pytest.raises(Unavailable, match=rf"gRPC on 127.0.0.1:{port}: cannot be listened on"):
        project.serve(port=0, workers=2, grpc_port=port, ready=end_at_once)
    assert waited == []


def test_the_port_of_grpc_is_waited_for_until_workers_of_a_killed_service_let_it_go(
    project: Project, folder: Path, theirs: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("grpc")
    port, told = port_of(theirs), list[str]()
    waited = waiting(monkeypatch, theirs.close)
    project.serve(port=0, workers=2, grpc_port=port, grpc_ready=told.append, ready=end_at_once)
    assert len(waited) == 1
    assert told == [f"127.0.0.1:{port}"]
