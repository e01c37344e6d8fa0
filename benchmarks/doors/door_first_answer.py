"""From the start of `trimtab serve` to the first answer of a LightGBM model over HTTP: seconds."""

from __future__ import annotations

import csv
import datetime as dt
import http.client
import json
import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NAME = "door_first_answer"
TARGET = "ours <= 0.8"
UNIT = "s"
BETTER = "lower"
_PATIENCE_S = 60
_RUN = (sys.executable, "-c", "from trimtab.cli import main; main()")


class Served:
    """A project with a trained model, and a request that it answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "orders"
        row = _write_history(folder / "orders.csv")
        self.body = json.dumps({"request": row})
        given = ("--time", "ordered_at", "--key", "order_id", "--label", "returned", "--estimator", "trees")
        self._do(folder, "init", "orders.csv", *given)
        for name in ("orders", "orders_labels"):
            self._do(self.folder, "ingest", name, "../orders.csv")
        self._do(self.folder, "train")

    def start_s(self) -> float:
        """Seconds to the first answer of a new process."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        began = time.perf_counter()
        process = subprocess.Popen([*_RUN, "serve", "--port", str(port)], cwd=self.folder, stdout=subprocess.DEVNULL)
        try:
            while time.perf_counter() - began < _PATIENCE_S:
                if self._answers(port):
                    return time.perf_counter() - began
                time.sleep(0.005)
            raise SystemExit(f"no answer after {_PATIENCE_S} s")
        finally:
            process.terminate()
            process.wait(30)

    def _answers(self, port: int) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("POST", "/v1/models/returned/predict", self.body, {"content-type": "application/json"})
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def _do(self, folder: Path, *arguments: str) -> None:
        subprocess.run([*_RUN, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def setup(folder: Path) -> Served:
    return Served(folder)


def ours(served: Served) -> float:
    return served.start_s()


def _write_history(file: Path) -> dict[str, Any]:
    draw, at = random.Random(1), dt.datetime(2026, 1, 1)
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["order_id", "ordered_at", "plan", "price", "age", "returned"])
        for number in range(3_000):
            at += dt.timedelta(minutes=draw.expovariate(1 / 90))
            price = round(draw.gauss(50, 20), 2)
            plan, age = draw.choice("abc"), draw.randint(18, 80)
            row = [f"o{number}", at.isoformat(), plan, price, age, int(price + draw.gauss(0, 20) < 40)]
            writer.writerow(row)
    return {"order_id": "new", "ordered_at": at.isoformat() + "Z", "plan": plan, "price": price, "age": age}
