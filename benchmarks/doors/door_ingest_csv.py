"""`project.ingest` of a CSV file of 1,000,000 rows into a new project, durable: rows per second.

The floor is DuckDB: it reads the file, converts the values to the declared types, and writes a Parquet file that is
synced. It makes no ids, no checksums, no records that others can follow, and knows nothing of rows that do not fit.
"""

from __future__ import annotations

from pathlib import Path

from _ingest import Files

NAME = "door_ingest_csv"
TARGET = "ours >= 150000"
UNIT = "rows/s"
BETTER = "higher"


def setup(folder: Path) -> Files:
    return Files(folder, "csv")


def ours(files: Files) -> float:
    return files.ours()


def floor(files: Files) -> float:
    return files.floor()
