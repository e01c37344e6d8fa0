"""A process that serves the shop: `serving_process.py FOLDER relaxed|durable PORT [SECONDS OF WORK [GRACE]]`.

The model has to work so long for an answer (`inf`: it comes to no end, except in the event loop), and the service waits
so long for requests at its end.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from conftest import Shop
from trimtab.core.clock import SystemClock
from trimtab.core.errors import TrimtabError
from trimtab.serving.applier import Applier
from trimtab.serving.http.requests.limits import Limits
from trimtab.serving.http.requests.threads import exit_now
from trimtab.serving.http.server.server import serve
from trimtab.serving.http.service import HttpService, ServiceHooks
from trimtab.serving.inference.rest import mount_inference


class Toiling:
    """A model that has to work for its answers."""

    def __init__(self, scorer: Any, work_s: float) -> None:
        self.scorer = scorer
        self.work_s = work_s

    def predict_row(self, row: list[float]) -> Any:
        self._toil(1)
        return self.scorer.predict_row(row)

    def predict(self, matrix: Any) -> Any:
        self._toil(2 * len(matrix))  # a batch of it does not pay
        return self.scorer.predict(matrix)

    def _toil(self, rows: int) -> None:
        if self.work_s == float("inf"):
            while threading.current_thread() is not threading.main_thread():
                time.sleep(0.01)
            return
        until_s = time.perf_counter() + rows * self.work_s
        while time.perf_counter() < until_s:
            pass


def main(folder: Path, mode: Any, port: int, work_s: float = 0.0, grace_s: float = 10.0) -> None:
    shop = Shop(folder, clock=SystemClock(), mode=mode, notes=mode == "relaxed")
    if work_s:
        shop.endpoint.swap(shop.answerer(scorer=Toiling(shop.scorer, work_s)))
    applier = Applier(shop.events, shop.online.apply, shop.online.positions).start()

    def ready() -> str | None:
        return None if applier.failure is None else f"the views stand still: {applier.failure}"

    service = HttpService(
        [shop.endpoint],
        shop.log,
        push=shop.ingestor.push,
        wait_applied=applier.wait_applied,
        hooks=ServiceHooks(ready=ready),
        limits=Limits(body_bytes=200_000, rows=100, body_timeout_s=1.0),
    )
    mount_inference(service)
    lag = "trimtab_lag_records", "Events not applied yet."
    service.parts.metrics.gauge(*lag, (), lambda: {(): applier.lag_records()})
    try:
        serve(service, port=port, grace_s=grace_s)
    finally:
        applier.close()
        shop.close()
    exit_now(0)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), *map(float, sys.argv[4:]))
    except TrimtabError as error:
        sys.exit(f"{type(error).__name__}: {error}")
