"""How a process that serves ends: within its grace, whatever a request is at."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from processes import eventually


def test_a_request_that_comes_to_no_end_keeps_no_process_longer_than_its_grace(
    start_server: Any, tmp_path: Path
) -> None:
    server = start_server(tmp_path, work_s=float("inf"), grace_s=1.0)
    answers: list[tuple[int, bytes]] = []
    now_us = time.time_ns() // 1_000
    row = {"id": "c1", "user": "ann", "basket": 12.5, "kind": "web", "at": now_us}
    body = json.dumps({"request": row, "at": now_us}).encode()  # as of the past: in a thread

    def ask() -> None:
        address, kind = f"{server.url}/v1/models/late/predict", {"Content-Type": "application/json"}
        try:
            urllib.request.urlopen(urllib.request.Request(address, body, kind), timeout=60)
        except urllib.error.HTTPError as error:
            answers.append((error.code, error.read()))

    def shown() -> bytes:
        return urllib.request.urlopen(f"{server.url}/metrics", timeout=60).read()  # type: ignore[no-any-return]

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        eventually(lambda: b'under_way{kind="slow"} 1' in shown())
        status, complaints = server.stop()
    finally:
        server.process.kill()
    asker.join(30)
    assert status == 0
    assert complaints.endswith("threads still work on 1 slow requests at the end; not waiting for them\n")
    assert "Traceback" not in complaints, complaints
    (answer,) = answers
    assert answer[0] == 503
    assert b"The service is stopping" in answer[1]


def listens(port: int) -> bool:
    with socket.socket() as asker:
        return asker.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("patient", [True, False])
def test_who_does_not_read_his_answers_keeps_no_process(start_server: Any, tmp_path: Path, patient: bool) -> None:
    """The last answer, that the service ends, waited until all before it were read."""
    server = start_server(tmp_path, grace_s=1.0 if patient else 600.0)

    def answered() -> int:
        text = urllib.request.urlopen(f"{server.url}/metrics", timeout=60).read().decode()
        return int(re.search(r'trimtab_requests_total{route="metrics"[^}]*} (\d+)|$', text)[1] or 0)  # type: ignore[index]

    with socket.socket() as asker:
        asker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        asker.connect(("127.0.0.1", server.port))
        asker.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n" * 1_500)
        before = 0
        while (now := answered()) > before + 1:  # until nobody but this one is answered
            before = now
            time.sleep(0.15)
        assert now < 1_500
        try:
            server.process.terminate()
            if not patient:
                while listens(server.port):
                    time.sleep(0.02)
                server.process.terminate()
            status, complaints = server.ended()
        finally:
            server.process.kill()
    assert status == 0
    assert "Traceback" not in complaints, complaints
