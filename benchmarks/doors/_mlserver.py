"""MLServer with the same model, started by the interpreter of its own environment."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

MODEL = "bench"
_PATIENCE_S = 60


def write(folder: Path, http: int, grpc: int, metrics: int) -> Path:
    """Write the settings: the model is called in the event loop, which is MLServer's quickest mode here."""
    served = folder / "mlserver"
    served.mkdir(exist_ok=True)
    settings = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics, "host": "127.0.0.1"}
    quiet = {"parallel_workers": 0, "debug": False, "logging_settings": None}
    (served / "settings.json").write_text(json.dumps(settings | quiet))
    model = {"name": MODEL, "implementation": "mlserver_lightgbm.LightGBMModel"}
    model |= {"parameters": {"uri": str(folder / "model.txt"), "version": "1"}}
    (served / "model-settings.json").write_text(json.dumps(model))
    return served


@contextlib.contextmanager
def server(folder: Path, python: Path) -> Iterator[tuple[int, int]]:
    """The ports of HTTP and gRPC of a running MLServer."""
    free = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [one.getsockname()[1] for one in free]
    for one in free:
        one.close()
    served = write(folder, *ports)
    own = python.parent.parent / "mlserver" / "bin" / "python"  # an environment of its own; see `make bench-peers`
    command = [
        str(own if own.exists() else python),
        "-c",
        "from mlserver.cli import main; main()",
        "start",
        str(served),
    ]
    with (folder / "mlserver.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        began = time.monotonic()
        while not _ready(ports[0]):
            if process.poll() is not None or time.monotonic() > began + _PATIENCE_S:
                raise SystemExit(f"MLServer did not start:\n{(folder / 'mlserver.log').read_text()[-2_000:]}")
            time.sleep(0.1)
        yield ports[0], ports[1]
    finally:
        process.terminate()
        process.wait(30)


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/{MODEL}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
