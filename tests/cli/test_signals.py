"""`trimtab signals`: what monitoring found, from all of a project's time."""

from __future__ import annotations

import json
from pathlib import Path

from command import Run
from test_alert import write

import trimtab as tt
from trimtab.core.records import Signal
from trimtab.core.time import DAY_US, parse_time_us
from trimtab.monitoring.signals import settle, stored
from trimtab.testing.builders import a_signal

BEGIN_US = parse_time_us("2024-03-01T06:30:00Z")


def look(folder: Path, day: int, *found: Signal) -> None:
    """Store what monitoring finds on a day. What it found before and does not find now has ended."""
    with tt.open(folder) as project:
        kinds, now_us = {one.kind for one in found} | {"nulls", "shape"}, BEGIN_US + day * DAY_US
        settled = settle(project.signals(), kinds, found, now_us=now_us, because={"nulls": "the values are back"})
        project.state.catalog.write(stored(settled, now_us))


def test_signals_are_listed_long_after_their_end(tmp_path: Path, call: Run) -> None:
    write(tmp_path)
    assert call("signals").stdout == "No signal yet.\n"
    nulls = a_signal(BEGIN_US, id="n", model="late", kind="nulls", subject="column km", message="Half of km is null.")
    shape = a_signal(
        BEGIN_US + DAY_US, id="s", model="late", kind="shape", subject="", severity="info", message="Wider."
    )
    look(tmp_path, 0, nulls)
    look(tmp_path, 1, nulls, shape)
    look(tmp_path, 2, shape)
    first = (
        "2024-03-01 06:30  red   late  nulls of column km: Half of km is null. "
        "Ended 2024-03-03 06:30: the values are back."
    )
    second = "2024-03-02 06:30  info  late  shape: Wider. Not ended."
    assert call("signals").stdout.splitlines() == [first, second]
    assert call("signals", "late", "--red").stdout.splitlines() == [first]
    assert call("signals", "--since", "2024-03-03T07:00:00Z").stdout.splitlines() == [second]
    assert call("signals", "--since", "2024-03-03").stdout.splitlines() == [first, second]
    assert (
        call("signals", "--open").stdout.splitlines() == call("signals", "--last", "1").stdout.splitlines() == [second]
    )
    found = [json.loads(line) for line in call("--json", "signals").stdout.splitlines()]
    assert [(one["kind"], one["ended_because"]) for one in found] == [("nulls", "the values are back"), ("shape", None)]


def test_a_model_that_there_is_not_is_named(tmp_path: Path, call: Run) -> None:
    write(tmp_path)
    done = call("signals", "flights")
    assert (done.returncode, done.stderr) == (
        3,
        "trimtab: no deployment of model 'flights'. Deployments: late.\n",
    )
    look(tmp_path, 0, a_signal(BEGIN_US, model="late", severity="info"))
    assert call("signals", "late", "--red").stdout == "No such signal.\n"
    assert call("signals", "another").returncode == 3
