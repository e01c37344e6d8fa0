import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import forked
from trimtab import store
from trimtab.events.columns.history import History
from trimtab.events.definitions import source
from trimtab.events.tables import materialise

NUMBERS = source("numbers", time="at", key="n", columns={"n": int, "x": float})

CHILD = """
import sys
from pathlib import Path
from trimtab import store
from trimtab.core.clock import SystemClock
from trimtab.events import Ingestor, Quarantine, materialise, source

folder, start = Path(sys.argv[1]), int(sys.argv[2])
numbers = source("numbers", time="at", key="n", columns={"n": int, "x": float})
clock = SystemClock()
log = store.open(f"sqlite://{folder}/log", "log")
quarantine = Quarantine(store.open(f"sqlite://{folder}/quarantine", "log"))
tables = {"numbers": store.open(f"delta://{folder}/numbers", "table")}
ingestor = Ingestor(log, [numbers], clock=clock, quarantine=quarantine)
for i in range(start, start + 1_000_000):
    ingestor.push("numbers", [{"n": i * 5 + j, "at": 0, "x": float(i)} for j in range(5)] + [{"n": i}])
    print(i, flush=True)
    if i % 4 == 3:
        materialise(log, [numbers], tables)
"""


def _run(folder: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    acknowledged = -1
    for _ in range(kills):
        # The batch that was acknowledged last is sent again, as a client does that did not hear the answer.
        args = [sys.executable, "-c", CHILD, str(folder), str(max(acknowledged, 0))]
        with forked.Popen(args, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for _ in range(rng.randint(1, 12)):
                acknowledged = int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
            for line in child.stdout:  # what it said before the signal came is acknowledged as well
                acknowledged = int(line)
    log = store.open(f"sqlite://{folder}/log", "log")
    table = store.open(f"delta://{folder}/numbers", "table")
    try:
        whole = History(log, [NUMBERS])
        whole.refresh()
        found = whole.frame("numbers").columns["n"].to_list()
        assert len(found) == len(set(found))
        assert set(range(5 * acknowledged + 5)) <= set(found)
        from_table = History(log, [NUMBERS], tables={"numbers": table})
        from_table.refresh()
        assert sorted(from_table.frame("numbers").columns["n"].to_list()) == sorted(found)
        materialise(log, [NUMBERS], {"numbers": table})
        rows = table.scan(["_partition", "_position"])
        places = list(zip(rows["_partition"].to_list(), rows["_position"].to_list(), strict=True))
        assert len(places) == len(set(places)) == sum(log.positions().values())
    finally:
        log.close()
        table.close()


def test_no_acknowledged_row_is_lost_or_counts_twice_when_the_process_is_killed(tmp_path: Path) -> None:
    _run(tmp_path, kills=4, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_no_acknowledged_row_is_lost_in_many_kills(tmp_path: Path, seed: int) -> None:
    _run(tmp_path, kills=20, seed=seed)
