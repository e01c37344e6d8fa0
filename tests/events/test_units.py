"""Times that were given as seconds or milliseconds are told from times in microseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.time import parse_time_us
from trimtab.events import Ingestor, Quarantine, read_rows
from trimtab.events.definitions import source
from trimtab.testing import MemoryLog

SOURCE = source("s", time="at", columns={"who": str})
NOW_US = parse_time_us("2024-03-01T00:00:00Z")
GOOD = [NOW_US - 1, parse_time_us("1979-12-31T00:00:00Z"), parse_time_us("1970-03-01T00:00:00Z"), -5, 0, 17]
BAD = {
    NOW_US // 1_000_000: "seconds",
    NOW_US // 1_000: "milliseconds",
    parse_time_us("1980-01-02") // 1_000_000: "seconds",
}


@pytest.fixture
def ingestor() -> Ingestor:
    clock = VirtualClock(NOW_US)
    return Ingestor(MemoryLog(clock=clock), [SOURCE], clock=clock, quarantine=Quarantine(MemoryLog(clock=clock)))


def written(folder: Path, kind: str, values: list[int]) -> Path:
    path = folder / f"rows.{kind}"
    if kind == "ndjson":
        path.write_text("".join(json.dumps({"who": "x", "at": value}) + "\n" for value in values))
    elif kind == "csv":
        path.write_text("who,at\n" + "".join(f"x,{value}\n" for value in values))
    else:
        rows = {"who": np.array(["x"] * len(values)), "at": np.array(values, np.int64)}
        duckdb.from_arrow(Columns.of({"who": ("str", rows["who"].tolist()), "at": ("int", values)})).write_parquet(
            str(path)
        )
    return path


@pytest.mark.fast
@pytest.mark.parametrize("entry", ["rows", "table", "ndjson", "parquet", "list"])
@pytest.mark.parametrize("history", [False, True])
def test_integers_in_another_unit_go_to_quarantine_and_the_unit_is_named(
    ingestor: Ingestor, tmp_path: Path, entry: str, history: bool
) -> None:
    values = [*GOOD, *BAD]
    given: Any
    if entry == "rows":
        pushed = ingestor.push("s", [{"who": "x", "at": value} for value in values], history=history)
    else:
        if entry == "table":
            given = Columns.of({"who": ("str", ["x"] * len(values)), "at": ("int", values)})
        elif entry == "list":
            given = [{"who": "x", "at": value} for value in values]
        else:
            given = written(tmp_path, entry, values)
        pushed = ingestor.take("s", read_rows(given, SOURCE, on_error="quarantine"), history=history)
    assert (pushed.accepted, pushed.quarantined) == (len(GOOD), len(BAD))
    assert {(p.row, p.field, p.reason) for p in pushed.problems} == {(n, "at", "bad_time") for n in (6, 7, 8)}
    for problem, unit in zip(pushed.problems, BAD.values(), strict=True):
        assert f"which as microseconds lies in 1970 and looks like {unit}" in problem.found


def test_text_that_counts_seconds_says_so_and_text_of_1970_is_taken(ingestor: Ingestor, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"who,at\nx,{NOW_US // 1_000_000}\nx,1970-01-01T00:28:00Z\n")
    pushed = ingestor.take("s", read_rows(path, SOURCE, on_error="quarantine"), history=True)
    assert (pushed.accepted, pushed.quarantined) == (1, 1)
    assert "looks like seconds" in pushed.problems[0].found
    times = Columns.of({"who": ("str", ["x"]), "at": ("time", [NOW_US // 1_000_000])})
    assert ingestor.load("s", times).accepted == 1
    assert ingestor.push("s", [{"who": "x", "at": "1970-01-01T00:28:00Z"}]).accepted == 1
