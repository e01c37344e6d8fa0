"""Clients that ask and push while processes of the service are killed: what was acknowledged to them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from typing import Any

Body = Callable[[str], dict[str, Any]]


class Load:
    """Threads that go on whatever happens to a connection; what got no answer counts as nothing.

    Args:
        url: Of the service.
        visit: The body of a prediction request, by its key.
        reading: An event, by its number.
        name: Makes keys and numbers of several loads different.
    """

    def __init__(self, url: str, visit: Body, reading: Callable[[int], dict[str, Any]], name: int) -> None:
        self.predicted: list[str] = []
        self.pushed: list[int] = []
        self.refused: list[str] = []
        self.broken = 0  # connections
        self._address = url.removeprefix("http://")
        self._over = threading.Event()
        asks = [
            (lambda key: ("/v1/models/buyer/predict", {"request": visit(key)}), self._predicted),
            (lambda key: ("/v1/models/buyer/predict", {"request": visit(key)}), self._predicted),
            (lambda key: ("/v1/events/readings", reading(int(key.split("/")[2]) + name * 1_000_000)), None),
        ]
        self._threads = [threading.Thread(target=self._run, args=(f"{name}/{n}", *ask)) for n, ask in enumerate(asks)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *error: object) -> None:
        """Ask no more, and wait for what is under way."""
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def _predicted(self, answer: Any, key: str) -> None:
        self.predicted.append(answer["id"])

    def _run(self, name: str, ask: Callable[[str], tuple[str, Any]], note: Callable[[Any, str], None] | None) -> None:
        connection = HTTPConnection(self._address, timeout=60)
        n = 0
        while not self._over.is_set():
            n += 1
            path, body = ask(f"{name}/{n}")
            try:
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
                response = connection.getresponse()
                text = response.read()
            except (OSError, HTTPException):  # somebody was killed: what was asked is unknown, ask something new
                self.broken += 1
                connection.close()
                time.sleep(0.01)
                continue
            if response.status != 200:
                self.refused.append(text.decode())
            elif note is not None:
                note(json.loads(text), name)
            else:
                self.pushed.append(int(body["level"]))
        connection.close()
