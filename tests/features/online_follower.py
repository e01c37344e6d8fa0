"""A process that applies a log to an online store until it is killed or done: `online_follower.py LOG ONLINE`."""

from __future__ import annotations

import sys
from typing import Any

from trimtab import features as d
from trimtab import store
from trimtab.core.expressions import col
from trimtab.events.definitions import source
from trimtab.features.definitions import view
from trimtab.features.online.store import OnlineStore

COLUMNS: dict[str, Any] = {"id": str, "who": str, "x": float}
KEYED = source("keyed", time="at", key="id", columns=COLUMNS)
PLAIN = source("plain", time="at", columns=COLUMNS)
FEATURES = {
    "last": d.latest("x"),
    "n": d.count(over="10s"),
    "s": d.sum("x", over="1min"),
    "m": d.mean("x", where=col("x") > 0, over="10s"),
    "lo": d.min("x", over="1min"),
    "hi": d.max("x"),
}
VIEWS = [
    view("keyed_v", source=KEYED, by="who", features=FEATURES),
    view("plain_v", source=PLAIN, by="who", features=FEATURES),
    view("plain_w", source=PLAIN, by="who", features={"s": FEATURES["s"], "lo": FEATURES["lo"]}),
]
BATCH = 40


def follow(log_folder: str, online_folder: str) -> None:
    log = store.open(f"sqlite://{log_folder}", "log")
    kv = store.open(f"lmdb://{online_folder}", "kv")
    online = OnlineStore(kv, VIEWS)
    (partition,) = log.positions()
    print("ready", flush=True)
    while records := log.read(partition, online.positions().get(partition, 0), limit=BATCH):
        online.apply(records)
    kv.close()
    log.close()
    print("done", flush=True)


if __name__ == "__main__":
    follow(*sys.argv[1:])
