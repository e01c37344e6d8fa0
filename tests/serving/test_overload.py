"""More requests than can be answered: some are, soon, and the rest is refused at once."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
import urllib.request
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import pytest

from impatient import overloaded, retry_at_once
from processes import PATIENCE_S
from trimtab.serving.http.predict.refusals import Refusals
from trimtab.serving.http.predict.scheduler import RequestScheduler
from trimtab.serving.protect.admission import GradientLimit

ROW = {"id": "c1", "user": "ann", "basket": 12.5, "kind": "web", "at": 1_700_000_000_000_000}
BODY = json.dumps({"request": ROW})
MESSAGE = f"POST /v1/models/late/predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(BODY)}\r\n\r\n{BODY}".encode()
TENSORS = [
    {"name": name, "datatype": kind, "shape": [1], "data": [ROW[name]]}
    for name, kind in (("id", "BYTES"), ("user", "BYTES"), ("basket", "FP64"), ("kind", "BYTES"), ("at", "INT64"))
]
INFER_BODY = json.dumps({"inputs": TENSORS})
INFER = f"POST /v2/models/late/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(INFER_BODY)}\r\n\r\n".encode()
INFER += INFER_BODY.encode()


class Asked(msgspec.Struct):
    """What became of the requests of some seconds."""

    latencies_s: list[float]  # of those that were answered
    refusals_s: list[float]  # of those that were refused
    sent: int
    other: list[int]  # other statuses, and 429 without a time to wait
    unsent: int  # nobody was free to send them: the asker's own limit

    def p99_ms(self, *, refused: bool = False) -> float:
        found = sorted(self.refusals_s if refused else self.latencies_s)
        return 1_000 * found[int(0.99 * len(found))] if found else float("nan")


async def ask(port: int, request: bytes, *, rate: float, seconds: float, connections: int, seed: int = 1) -> Asked:
    """Send `rate` requests a second over `connections`, a request at a time on each."""
    free: asyncio.LifoQueue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.LifoQueue()
    for _ in range(connections):
        free.put_nowait(await asyncio.open_connection("127.0.0.1", port))
    chance = random.Random(seed)
    found = Asked([], [], 0, [], 0)
    tasks: set[asyncio.Task[None]] = set()
    begun_s = due_s = perf_counter()
    while (now_s := perf_counter()) < begun_s + seconds:
        due_s += chance.expovariate(rate)
        if due_s > now_s:
            await asyncio.sleep(due_s - now_s)
        if free.empty():
            await asyncio.sleep(0)
        if free.empty():
            found.unsent += 1
            continue
        found.sent += 1
        task = asyncio.create_task(_one(free, free.get_nowait(), request, found))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    while not free.empty():
        free.get_nowait()[1].close()
    return found


async def _one(free: Any, connection: Any, request: bytes, found: Asked) -> None:
    reader, writer = connection
    sent_s = perf_counter()
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
    took_s, status = perf_counter() - sent_s, int(head.split()[1])
    if status == 200:
        found.latencies_s.append(took_s)
    elif status == 429 and re.search(rb"\r\nretry-after: [1-9]\d*\r\n", head.lower()):
        found.refusals_s.append(took_s)
    else:
        found.other.append(status)
    free.put_nowait(connection)


def run(port: int, rate: float, seconds: float, connections: int = 200, *, message: bytes = MESSAGE) -> Asked:
    return asyncio.run(ask(port, message, rate=rate, seconds=seconds, connections=connections))


def figures(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
        lines = [line.rsplit(" ", 1) for line in response.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def memory_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


PREDICT, INFERENCE = 'route="predict",model="late"', 'route="inference",model="late"'


@pytest.mark.slow
@pytest.mark.parametrize(("message", "labels"), [(MESSAGE, PREDICT), (INFER, INFERENCE)])
def test_overload_is_refused_and_passes_without_a_trace(
    start_server: Any, tmp_path: Path, message: bytes, labels: str
) -> None:
    """A quick and a slow model are overloaded under soak."""
    server = start_server(tmp_path, work_s=2e-3)
    loaded = run(server.port, 1_000, 2, message=message)
    assert loaded.other == []
    assert loaded.latencies_s
    assert len(loaded.latencies_s) + len(loaded.refusals_s) == loaded.sent
    assert loaded.refusals_s  # 200 connections: the limit has fallen from 512
    assert figures(server.port)["trimtab_admission_limit"] < 200
    until = time.monotonic() + PATIENCE_S
    sent, refused = loaded.sent, len(loaded.refusals_s)
    while True:
        after = run(server.port, 10, 1, message=message)
        assert after.other == []
        sent, refused = sent + after.sent, refused + len(after.refusals_s)
        if not after.refusals_s:
            break
        assert time.monotonic() < until
    told = figures(server.port)
    assert told['trimtab_requests_under_way{kind="predict"}'] == 0
    assert told.get(f'trimtab_requests_total{{{labels},status="429"}}', 0) == refused
    assert told['trimtab_answered_requests_total{model="late"}'] == sent - refused
    assert server.stop() == (0, "")


@pytest.mark.soak
@pytest.mark.parametrize("work_s", [5e-5, 2e-3, 2e-2])
def test_admitted_requests_stay_quick_at_five_times_the_capacity(
    start_server: Any, tmp_path: Path, soak_report: Any, work_s: float
) -> None:
    server = start_server(tmp_path, work_s=work_s)
    run(server.port, 100, 2)
    before = figures(server.port)['trimtab_answered_requests_total{model="late"}']
    full = run(server.port, max(1_500, 0.5 / work_s), 5)
    capacity = (figures(server.port)['trimtab_answered_requests_total{model="late"}'] - before) / 5
    time.sleep(2)
    quiet = run(server.port, 0.8 * capacity, 20)
    memory = memory_mb(server.process.pid)
    loaded = run(server.port, 5 * capacity, 60, connections=400)
    grown = memory_mb(server.process.pid) - memory
    time.sleep(2)
    after = run(server.port, 0.5 * capacity, 5)
    found = {
        "capacity_per_s": round(capacity),
        "p99_ms_at_80_percent": quiet.p99_ms(),
        "refused_at_80_percent": len(quiet.refusals_s),
        "admitted": len(loaded.latencies_s),
        "refused": len(loaded.refusals_s),
        "p99_ms_admitted": loaded.p99_ms(),
        "p99_ms_refused": loaded.p99_ms(refused=True),
        "unsent": loaded.unsent,
        "grown_mb": grown,
        "refused_2_s_later": len(after.refusals_s),
        "p99_ms_2_s_later": after.p99_ms(),
    }
    slow = loaded.p99_ms() > 2 * max(quiet.p99_ms(), 50)  # the limit accepts a mean latency of 50 ms
    failures = len(full.other) + len(loaded.other) + len(after.refusals_s) + slow
    soak_report(f"overload_{1e3 * work_s:g}_ms", runs=1, failures=failures, **found)
    assert loaded.other == []
    assert len(loaded.latencies_s) + len(loaded.refusals_s) == loaded.sent
    assert after.refusals_s == []
    assert grown < 20
    assert len(loaded.latencies_s) > 0.5 * 60 * capacity
    assert not slow, found
    assert not loaded.refusals_s or loaded.p99_ms(refused=True) <= 2 * loaded.p99_ms(), found
    assert server.stop() == (0, "")


@pytest.mark.slow
def test_clients_that_retry_at_once_are_held_back_and_health_is_answered_meanwhile(
    start_server: Any, tmp_path: Path
) -> None:
    server = start_server(tmp_path, work_s=0.002)
    for reconnect in (False, True):
        found = retry_at_once(server.port, MESSAGE, connections=300, seconds=1, reconnect=reconnect)
        assert set(found.statuses) == {"200", "429"}
        assert found.statuses["429"] <= 1_100 * found.seconds + 300  # not as many as they could ask for
        assert found.waits == ["1", "2", "3"]
        assert len(found.health_ms) >= 2
    assert server.stop() == (0, "")


def test_refusals_leave_in_order_and_only_as_many_as_there_was_time_for() -> None:
    async def refused() -> tuple[int, list[int], float]:
        refusals, sent, loop = Refusals(lambda: True, lambda: 0.0), list[int](), asyncio.get_running_loop()
        at_once = 0
        while refusals.at_once():
            at_once += 1
        begun_s = perf_counter()
        done = loop.create_future()
        for n in range(20):
            refusals.hold(lambda n=n: sent.append(n))
        refusals.hold(lambda: done.set_result(None))
        assert not refusals.at_once()
        assert refusals.held == 21
        await done
        assert refusals.held == 0
        return at_once, sent, perf_counter() - begun_s

    at_once, sent, took_s = asyncio.run(refused())
    assert 100 <= at_once < 200
    assert sent == list(range(20))
    assert took_s > 0.08  # nothing was answered meanwhile: 200 a second


def test_as_many_are_in_flight_as_the_limit_allows_and_no_more() -> None:
    turns, taken = RequestScheduler(GradientLimit(least=4, most=4)), 0
    while not turns.full():
        turns.waits()
        taken += 1
        assert taken <= 4
    assert (taken, turns.under_way, turns.refused) == (4, 4, 1)


def test_a_request_that_waits_for_its_log_counts_as_work() -> None:
    turns = RequestScheduler(GradientLimit())
    begun_s = perf_counter()
    assert turns.free(begun_s)
    while perf_counter() < begun_s + 0.0015:
        pass
    turns.waits()
    assert not turns.free(perf_counter())
    assert turns.under_way == 1


@pytest.mark.soak
def test_seven_tenths_of_the_capacity_are_answered_to_clients_that_retry_at_once(
    start_server: Any, tmp_path: Path, soak_report: Any
) -> None:
    figures: dict[str, float] = {}
    failures = 0
    cases = [("relaxed", 5e-5), ("relaxed", 2e-3), ("relaxed", 2e-2), ("durable", 5e-5), ("durable", 2e-3)]
    for mode, work_s in cases:
        folder = tmp_path / f"{mode}-{work_s}"
        folder.mkdir()
        server = start_server(folder, mode, work_s=work_s)
        found = overloaded(server.port, MESSAGE, [server.process.pid])
        failures += found["share"] < 0.7
        failures += found["health_p99_ms"] >= 100
        figures |= {f"{mode}_{1e3 * work_s:g}_ms_{name}": value for name, value in found.items()}
        assert server.stop() == (0, "")
    soak_report("overload_retries", runs=2 * len(cases), failures=failures, **figures)
    assert failures == 0, figures


def test_a_limit_falls_to_where_answers_need_not_wait_long() -> None:
    limit, now_s = GradientLimit(least=4, most=200), 0.0
    for _ in range(200):
        for _ in range(20):
            now_s += 0.005
            limit.observe(0.002 * limit.limit, service_s=0.002, under_way=limit.limit, now_s=now_s)
    assert 25 <= limit.limit <= 36  # 25 answers take the accepted 50 ms


def test_connections_that_get_their_answers_within_50_ms_are_never_refused() -> None:
    limit, now_s = GradientLimit(least=8, most=512), 0.0
    for step in range(2_000):  # 256 connections ask again at once, and each answer takes a fiftieth of its latency
        now_s += 0.001
        limit.observe(0.045 + 0.004 * (step % 2), service_s=0.0002, under_way=256, now_s=now_s)
    assert limit.limit == 512
    for _ in range(200):  # a pause of a second lowers it, and it is back as soon as answers are quick again
        now_s += 0.005
        limit.observe(1.0, service_s=0.0002, under_way=256, now_s=now_s)
    assert limit.limit < 256
    for _ in range(1_000):
        now_s += 0.005
        limit.observe(0.0002 * limit.limit, service_s=0.0002, under_way=min(256, limit.limit), now_s=now_s)
    assert limit.limit >= 256


def test_a_slow_machine_is_no_queue() -> None:
    limit, now_s = GradientLimit(least=4, most=200), 0.0
    for step in range(4_000):
        now_s += 0.005
        limit.observe(0.5, service_s=0.45 if step % 2 else 0.4, under_way=30, now_s=now_s)
    assert limit.limit == 200


def test_a_limit_rises_only_when_it_is_needed_and_rises_again_within_two_seconds() -> None:
    limit, now_s = GradientLimit(least=8, most=512), 0.0
    for _ in range(400):
        now_s += 0.01
        limit.observe(1.0, service_s=0.001, under_way=limit.limit, now_s=now_s)
    assert limit.limit < 20
    low = limit.limit
    for _ in range(200):
        now_s += 0.01
        limit.observe(0.001, service_s=0.001, under_way=1, now_s=now_s)
    assert limit.limit == low
    for _ in range(200):
        now_s += 0.01
        limit.observe(0.001, service_s=0.001, under_way=limit.limit, now_s=now_s)
    assert limit.limit > 80
