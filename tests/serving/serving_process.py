"""A process that serves the shop: `serving_process.py FOLDER relaxed|durable PORT`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from conftest import Shop
from trimtab.core.clock import SystemClock
from trimtab.core.errors import TrimtabError
from trimtab.serving import Applier, HttpService, Limits, Spool, serve


def main(folder: Path, mode: Any, port: int) -> None:
    shop = Shop(folder, clock=SystemClock(), mode=mode)
    applier = Applier(shop.events, shop.online.apply, shop.online.positions, clock=shop.clock).start()

    def ready() -> str | None:
        return None if applier.failure is None else f"the views stand still: {applier.failure}"

    spool = Spool(folder / "spool", shop.log) if mode == "relaxed" else None
    service = HttpService(
        [shop.endpoint],
        shop.log,
        spool=spool,
        push=shop.ingestor.push,
        wait_applied=applier.wait_applied,
        ready=ready,
        limits=Limits(body_bytes=200_000, rows=100, body_timeout_s=1.0),
    )
    service.metrics.gauge("trimtab_lag_records", "Events not applied yet.", (), lambda: {(): applier.lag_records()})
    try:
        serve(service, port=port)
    finally:
        applier.close()
        shop.close()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    except TrimtabError as error:
        sys.exit(f"{type(error).__name__}: {error}")
