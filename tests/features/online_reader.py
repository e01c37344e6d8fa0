"""A process that reads until its input ends: `online_reader.py ONLINE`; it fails when values are not of one instant."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

from trimtab import features as d
from trimtab.events.definitions import source
from trimtab.features.definitions import request, view
from trimtab.features.feature_set import feature_set
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.store.lmdb.kv import LmdbKeyValue

COLUMNS: dict[str, Any] = {"id": str, "who": str, "x": float}
ONES = source("ones", time="at", columns=COLUMNS)
VIEWS = [
    view("ever", source=ONES, by="who", features={"n": d.count(), "s": d.sum("x")}),
    view("last", source=ONES, by="who", features={"x": d.latest("x"), "n": d.count(over=10**9)}),
]
ASK = request("ask", key="ask_id", time="asked_at", columns={"ask_id": str, "who": str})
MAP_BYTES = 1 << 20


def read_on(folder: str) -> None:
    """Every event is of one entity and counts one, so all values of a read are its position."""
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    reads, seen = 0, set()
    with LmdbKeyValue(Path(folder), map_bytes=MAP_BYTES) as kv:
        plan = RequestPlan(feature_set(ASK, VIEWS), kv)
        print("ready", flush=True)
        while not stop.is_set():
            got = plan.read([{"who": "a"}, {"who": "b"}], 0)
            p = got.positions.get("p", 0)
            assert got.values[0] == ([p, float(p), 1.0, p] if p else [0, 0.0, None, 0]), got
            assert got.values[1] == [0, 0.0, None, 0], got
            reads += 1
            seen.add(p)
    print(reads, len(seen), flush=True)


if __name__ == "__main__":
    read_on(sys.argv[1])
