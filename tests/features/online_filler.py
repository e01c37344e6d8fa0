"""A process that fills, rebuilds, applies and compacts until it is killed or done.

`online_filler.py LOG ONLINE [MOST]` says "batch" after each step, and after MOST of them waits to be killed.
"""

from __future__ import annotations

import sys

from online_follower import BATCH, VIEWS, Reporter

from trimtab import store
from trimtab.features.online.compaction import Compaction
from trimtab.features.online.fill.fill import Filling, fill, live_positions, unfilled
from trimtab.features.online.store import OnlineStore


def work(log_folder: str, online_folder: str, most: str | None = None) -> None:
    reporter = Reporter(None if most is None else int(most))
    log = store.open(f"sqlite://{log_folder}", "log")
    kv = store.open(f"lmdb://{online_folder}", "kv")
    online = OnlineStore(kv, VIEWS)
    (partition,) = log.positions()
    print("ready", flush=True)
    if len(unfilled(online)) == len(VIEWS):  # the first half of the log, record by record
        half = log.positions()[partition] // 2
        while (at := online.positions().get(partition, 0)) < half:
            online.apply(log.read(partition, at, limit=BATCH))
            reporter()
    for _ in fill(online, log, most_rows=700):
        reporter()
    compaction = Compaction(online)
    for name in online.plans:
        for _ in Filling(online, name, log, most_rows=1_000).steps():
            online.apply(log.read(partition, (live_positions(online) or {}).get(partition, 0), limit=BATCH))
            compaction.step(20)
            reporter()
    while records := log.read(partition, online.positions().get(partition, 0), limit=BATCH):
        online.apply(records)
        reporter()
    kv.close()
    log.close()
    print("done", flush=True)


if __name__ == "__main__":
    work(*sys.argv[1:])
