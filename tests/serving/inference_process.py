"""A process that serves the shop by the Open Inference Protocol: `inference_process.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from conftest import Shop
from trimtab.core.clock import SystemClock
from trimtab.serving.http.requests.limits import Limits
from trimtab.serving.http.server.server import serve
from trimtab.serving.http.service import HttpService
from trimtab.serving.inference.grpc_server import GrpcListener, GrpcServer
from trimtab.serving.inference.rest import mount_inference


def main(folder: Path) -> None:
    shop = Shop(folder, clock=SystemClock(), notes=True)
    said: list[str] = []
    service = HttpService(
        [shop.endpoint],
        shop.log,
        limits=Limits(body_bytes=400_000, rows=2_000, body_timeout_s=1.0),
    )
    inference = mount_inference(service)
    service.lifecycle.server = GrpcServer(inference, service.count, GrpcListener(announce=said.append))
    try:
        # A test notices what holds up the end: it is longer than any of them waits.
        serve(service, port=0, grace_s=600.0, announce=lambda url: print(url, said[0], flush=True))
    finally:
        shop.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
