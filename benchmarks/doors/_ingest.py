"""What the benchmarks of ingested files share: a million rows as CSV and Parquet, and the same work by hand."""

from __future__ import annotations

import os
import time
from itertools import count
from pathlib import Path

import duckdb

import trimtab as tt

ROWS = 1_000_000
PROJECT = """
import trimtab as tt

payments = tt.source("payments", time="paid_at", key="payment_id", columns={
    "payment_id": str, "user": str, "shop": str, "amount": float, "items": int, "ok": bool})
"""
MADE = """
SELECT 'p' || i AS payment_id, TIMESTAMP '2025-01-01' + INTERVAL (i * 20) SECOND AS paid_at,
    'u' || (hash(i) % 100000) AS "user", 's' || (hash(i + 7) % 1000) AS shop,
    round((hash(i + 13) % 1000000) / 1000.0, 2) AS amount, (hash(i + 17) % 9)::BIGINT AS items, hash(i) % 10 > 0 AS ok
FROM range({rows}) AS t(i)
"""
TYPES = 'payment_id VARCHAR, paid_at TIMESTAMP, "user" VARCHAR, shop VARCHAR, amount DOUBLE, items BIGINT, ok BOOLEAN'


class Files:
    """The rows as a file, and fresh folders to put them into."""

    def __init__(self, folder: Path, form: str, rows: int = ROWS) -> None:
        self._folder = folder
        self._form = form
        self._rows = rows
        self._file = folder / f"payments.{form}"
        self._turns = count()
        options = "FORMAT parquet" if form == "parquet" else "FORMAT csv, HEADER"
        duckdb.sql(f"COPY ({MADE.format(rows=rows)}) TO '{self._file}' ({options})")

    def ours(self) -> float:
        """Rows per second of `project.ingest` into a new project; each row is durable in the event log."""
        place = self._folder / f"project-{next(self._turns)}"
        place.mkdir()
        (place / "project.py").write_text(PROJECT)
        (place / "trimtab.toml").touch()
        with tt.open(place) as project:
            begin = time.perf_counter()
            done = project.ingest("payments", self._file)
            took_s = time.perf_counter() - begin
        assert (done.accepted, done.quarantined) == (self._rows, 0)
        return self._rows / took_s

    def floor(self) -> float:
        """Rows per second of DuckDB: read, convert to the declared types, write a Parquet file, sync it."""
        to = self._folder / f"by-hand-{next(self._turns)}.parquet"
        begin = time.perf_counter()
        with duckdb.connect() as connection:
            connection.execute(f"CREATE TABLE payments ({TYPES})")
            read = f"read_parquet('{self._file}')"
            if self._form == "csv":
                read = f"read_csv('{self._file}', header = true, all_varchar = true)"
            connection.execute(f"INSERT INTO payments BY NAME SELECT * FROM {read}")
            connection.execute(f"COPY payments TO '{to}' (FORMAT parquet)")
        with to.open("rb") as file:
            os.fsync(file.fileno())
        return self._rows / (time.perf_counter() - begin)
