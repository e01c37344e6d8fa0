"""A process that makes a project with waiting predictions and their labels, or closes its first day: `what folder ...`.

`make FOLDER DAYS ROWS`: ROWS predictions on each of DAYS days, all of which wait, and their labels.
`close FOLDER DAYS`: one tick after the wait of the first day is over; prints its peak memory in bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import block_process
import msgspec
import numpy as np
from test_block_kills import PROJECT, prepared

import trimtab as tt
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.records import Prediction
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.monitoring.quality.quality_days import stored_days
from trimtab.testing.builders import a_prediction

PIECE = 20_000
NOW_US = block_process.NOW_US


def prediction(key: str, at_us: int, version: str) -> Prediction:
    request = msgspec.msgpack.encode([key, at_us, 0.5, "north"])
    return a_prediction(
        id=f"p_{key}", request_id=key, model="one", version=version, made_at_us=at_us, at_us=at_us, score=0.4,
        request=request,
    )  # fmt: skip


def make(folder: Path, days: int, rows: int) -> None:
    prepared(folder)
    (folder / "project.py").write_text(PROJECT.replace('wait="1d"', f'wait="{days}d"'))
    clock = VirtualClock(NOW_US)
    with tt.open(folder, clock=clock, environment={}) as project:
        version = project.registry.alias("one", "champion")
        assert version is not None
        for first in range(0, days * rows, PIECE):
            numbers = range(first, min(first + PIECE, days * rows))
            times = [NOW_US + n * DAY_US // rows for n in numbers]
            keys = [f"v{n}" for n in numbers]
            clock.advance_to(times[-1])
            project.predictions.append(
                [prediction(key, at_us, version.id) for key, at_us in zip(keys, times, strict=True)], at_us=times
            )
            bought = (np.arange(first, numbers[-1] + 1) % 3 == 0).astype(float).tolist()
            project.push(
                "sales",
                Columns.of({"id": ("str", keys), "closed_at": ("time", times), "bought": ("float", bought)}),
            )


def close(folder: Path, days: int) -> None:
    clock = VirtualClock(NOW_US + (days + 1) * DAY_US + HOUR_US)
    settings = {"TRIMTAB_FEATURES_MEMORY_BYTES": str(256 << 20)}
    with tt.open(folder, clock=clock, environment=settings) as project:
        project.tick()
        assert not project.in_memory()
        (day,) = stored_days(project.state.catalog, "one", from_us=NOW_US)
    # Not `ru_maxrss`: over an exec it keeps the peak of the process before.
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    print(msgspec.json.encode({"peak_bytes": peak, "labelled": day.whole.labelled}).decode())


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        close(Path(sys.argv[2]), int(sys.argv[3]))
