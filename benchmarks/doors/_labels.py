"""Shared by the benchmarks of joins: labels and events in Parquet files, a project, the join by hand, and the peers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = [f"x{i}" for i in range(10)]
YEAR_S = 365 * 86_400
KEYS = {"user": 50_000, "shop": 2_000, "item": 20_000}  # the entity of each of three sources; shops are texts
_PROJECT = """
import trimtab as tt

columns = dict.fromkeys([f"x{i}" for i in range(10)], float)
for name, kind in (("user", int), ("shop", str), ("item", int)):
    source = tt.source(f"{name}_events", time="moment", columns={name: kind} | columns)
    globals()[name] = tt.view(f"of_{name}", source=source, by=name, features={c: tt.latest(c) for c in columns})
"""
_PEER = Path(__file__).with_name("_peer_joins.py")


class Joins:
    """A project, a file of labels, and a file of as many events for each of three entities."""

    def __init__(self, folder: Path, rows: int) -> None:
        import duckdb

        import trimtab as tt

        folder.mkdir(parents=True, exist_ok=True)
        (folder / "project.py").write_text(_PROJECT)
        (folder / "trimtab.toml").write_text("")
        self.folder, self.rows = folder, rows
        self.labels = folder / "labels.parquet"
        self.events = {name: folder / f"{name}_events.parquet" for name in KEYS}
        moment = f"make_timestamptz((random() * {YEAR_S})::BIGINT * 1000000 + 1700000000000000) AS moment"
        keys = {name: f"{_key(name, count)} AS {name}" for name, count in KEYS.items()}
        values = ", ".join(f"random() * 100 AS {column}" for column in COLUMNS)
        with duckdb.connect() as connection:
            connection.execute("SELECT setseed(0.5)")
            wanted = {self.labels: ", ".join(keys.values())}
            wanted |= {self.events[name]: f"{sql}, {values}" for name, sql in keys.items()}
            for file, columns in wanted.items():
                query = f"SELECT {moment}, {columns} FROM range({rows}) ORDER BY moment"
                connection.execute(f"COPY ({query}) TO '{file}'")
        self.project = tt.open(folder)

    def close(self) -> None:
        self.project.close()

    def join(self) -> Any:
        """The features of all labels, by the public verb."""
        events = {f"{name}_events": file for name, file in self.events.items()}
        return self.project.join(self.labels, [f"of_{name}" for name in KEYS], at="moment", events=events)

    def ours_s(self) -> float:
        start = time.perf_counter()
        found = self.join()
        seconds = time.perf_counter() - start
        assert len(found) == self.rows
        return seconds

    def floor_s(self) -> float:
        start = time.perf_counter()
        found = by_hand(self.labels, self.events)
        seconds = time.perf_counter() - start
        assert len(found["of_user.x0"]) == self.rows
        return seconds

    def differing(self) -> int:
        """Return how many values differ from those by hand.

        There, any of several events of one entity and second may be the answer.
        """
        ours, theirs = self.join(), by_hand(self.labels, self.events)
        return sum(int((~np.isclose(ours[n].values, v, 0, 0, equal_nan=True)).sum()) for n, v in theirs.items())

    def peers(self, python: Path) -> dict[str, float]:
        """Return seconds and peak memory of the same join by other products, and the peak memory of ours.

        Each runs in a process of its own. The seconds do not have its start and imports, the memory has them.
        """
        asked = {"labels": str(self.labels), "events": {name: str(file) for name, file in self.events.items()}}
        found: dict[str, float] = {}
        for peer in ("feast", "polars", "ours", "by_hand"):
            command = [str(python) if peer in ("feast", "polars") else sys.executable, str(_PEER), peer]
            given = json.dumps(asked | {"folder": str(self.folder)})
            done = subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                print(f"{peer}: did not finish (status {done.returncode})", file=sys.stderr)
                continue
            result = json.loads(done.stdout.splitlines()[-1])
            assert result["rows"] == self.rows
            if peer in ("feast", "polars"):
                found[f"{peer}, s"] = result["s"]
            found[f"{peer}, peak MB"] = result["peak_mb"]
        return found


def by_hand(labels: Path, events: Mapping[str, Path]) -> dict[str, Any]:
    """Join the newest event of each entity in DuckDB: find the numbers of the rows, then read the columns.

    This takes two thirds of the time of one query that carries ten columns of each view through its joins. Repeated
    events need no care, because they give the same values.
    """
    import duckdb

    out: dict[str, Any] = {}
    with duckdb.connect() as connection:
        numbered = f"FROM read_parquet('{labels}', file_row_number = true)"
        connection.execute(f"CREATE TEMP TABLE labels AS SELECT *, file_row_number AS n {numbered}")
        for name, file in events.items():
            found = connection.execute(
                "SELECT coalesce(e.row, -1) AS row FROM labels l ASOF LEFT JOIN (SELECT *, file_row_number AS row "
                f"FROM read_parquet('{file}', file_row_number = true)) e "
                f"ON l.{name} = e.{name} AND l.moment > e.moment ORDER BY l.n"
            ).fetchnumpy()["row"]
            read = connection.execute(f"SELECT {', '.join(COLUMNS)} FROM '{file}'").fetchnumpy()
            for column in COLUMNS:
                out[f"of_{name}.{column}"] = np.append(np.ma.getdata(read[column]), np.nan)[found]
    return out


def _key(name: str, count: int) -> str:
    number = f"(random() * {count})::BIGINT"
    return f"'{name}-' || {number}" if name == "shop" else number
