"""A server killed at random times under load loses nothing that it acknowledged, and doubles nothing."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from processes import eventually
from trimtab.events import decode
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.serving.log.spool import Spool
from trimtab.store.sqlite.log import SqliteLog


class Load:
    """Clients that send requests and events until the server is gone, and keep what was acknowledged."""

    def __init__(self, url: str, life: int) -> None:
        self.url = url
        self.life = life
        self.predictions: list[str] = []
        self.events: list[str] = []
        self.refused: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(4)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as client:
            try:
                for n in range(1_000_000):
                    if self._over.is_set():
                        return
                    name = f"{self.life}-{number}-{n}"
                    if number % 2:
                        self._ask(client, name, 1 + n % 3)
                    else:
                        self._push(client, name, 1 + n % 3)
            except httpx.TransportError:
                return  # the server was killed: requests in flight were not acknowledged

    @property
    def acknowledged(self) -> int:
        """How much was acknowledged, or refused, by now."""
        return len(self.predictions) + len(self.events) + len(self.refused)

    def _ask(self, client: httpx.Client, name: str, count: int) -> None:
        rows = [{"id": f"{name}-{i}", "user": name, "basket": 1.0, "kind": "web", "at": 0} for i in range(count)]
        response = client.post("/v1/models/late/predict", json={"rows": rows})
        if response.status_code == 200:
            self.predictions += [answer["id"] for answer in response.json()["predictions"]]
        else:
            self.refused.append(response.text)

    def _push(self, client: httpx.Client, name: str, count: int) -> None:
        now_us = time.time_ns() // 1_000
        users = [f"{name}-{i}" for i in range(count)]
        events = [{"user": user, "amount": 1.0, "paid_at": now_us} for user in users]
        response = client.post("/v1/events/payments", json=events)
        if response.status_code == 200:
            self.events += users
        else:
            self.refused.append(response.text)


def campaign(start_server: Any, folder: Path, mode: str, kills: int, seed: int) -> tuple[int, int, int]:
    """Kill it `kills` times; how many acknowledged records are lost, are there twice, and how many there were."""
    rng = random.Random(seed)
    predictions: list[str] = []
    events: list[str] = []
    for life in range(kills):
        server = start_server(folder, mode)
        load = Load(server.url, life)
        eventually(lambda load=load: load.acknowledged)
        time.sleep(rng.uniform(0.0, 0.7))
        server.kill()
        load.join()
        assert load.refused == []
        predictions += load.predictions
        events += load.events
    with SqliteLog(folder / "predictions") as log:
        Spool(folder / "spool", PredictionLog(log)).close()  # what the last one left, as its next start would find it
        logged = Counter(p.id for block in PredictionLog(log).scan() for p in block)
        if predictions:
            assert PredictionLog(log).find(predictions[-1]).id == predictions[-1]
    pushed: Counter[str] = Counter()
    with SqliteLog(folder / "events") as log:
        for partition in log.positions():
            after = 0
            while records := log.read(partition, after):
                pushed.update(str(decode(record.payload).values[0]) for record in records)
                after = records[-1].position
    lost = sum(one not in logged for one in predictions) + sum(one not in pushed for one in events)
    double = sum(n > 1 for n in logged.values()) + sum(n > 1 for n in pushed.values())
    assert len(set(predictions)) == len(predictions)
    return lost, double, len(predictions) + len(events)


@pytest.mark.parametrize(("mode", "kills"), [("relaxed", 2), ("durable", 1)])
def test_a_killed_server_keeps_what_it_acknowledged(start_server: Any, tmp_path: Path, mode: str, kills: int) -> None:
    lost, double, acknowledged = campaign(start_server, tmp_path, mode, kills, seed=kills)
    assert (lost, double) == (0, 0)
    assert acknowledged > 0


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["relaxed", "durable"])
def test_a_server_killed_many_times_keeps_what_it_acknowledged(
    start_server: Any, tmp_path: Path, mode: str, soak_report: Any
) -> None:
    lost, double, acknowledged = campaign(start_server, tmp_path, mode, 20, seed=7)
    soak_report(f"kill_serving_{mode}", runs=20, failures=lost + double, acknowledged=acknowledged)
    assert (lost, double) == (0, 0)
