"""A process that applies a log to an online store until it is killed or done: `online_follower.py LOG ONLINE [MOST]`.

It says "batch" after each batch, and after MOST of them waits to be killed.
"""

from __future__ import annotations

import sys
from typing import Any

from trimtab import features as d
from trimtab import store
from trimtab.core.expressions.functions import transform
from trimtab.core.expressions.nodes import col
from trimtab.events.definitions import source
from trimtab.features.definitions import view
from trimtab.features.online.store import OnlineStore

COLUMNS: dict[str, Any] = {"id": str, "who": str, "x": float}
KEYED = source("keyed", time="at", key="id", columns=COLUMNS)
PLAIN = source("plain", time="at", columns=COLUMNS)


@transform
def picky(x: float) -> float:
    if x > 5.0:
        raise ValueError(x)
    return x


FEATURES = {
    "picky": d.latest(picky("x")),
    "picky_s": d.sum(picky("x"), over="1min"),
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


class Reporter:
    """Tells of each batch; after `most` of them it waits, to be killed, until its standard input closes."""

    def __init__(self, most: int | None) -> None:
        self._left = most

    def __call__(self) -> None:
        print("batch", flush=True)
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                sys.stdin.read()


def follow(log_folder: str, online_folder: str, most: str | None = None) -> None:
    reporter = Reporter(None if most is None else int(most))
    log = store.open(f"sqlite://{log_folder}", "log")
    kv = store.open(f"lmdb://{online_folder}", "kv")
    online = OnlineStore(kv, VIEWS)
    (partition,) = log.positions()
    print("ready", flush=True)
    while records := log.read(partition, online.positions().get(partition, 0), limit=BATCH):
        online.apply(records)
        reporter()
    kv.close()
    log.close()
    print("done", flush=True)


if __name__ == "__main__":
    follow(*sys.argv[1:])
