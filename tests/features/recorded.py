"""Records of a test as the Parquet files of a table of record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from oracle import Record

from trimtab.core.columns.data import Columns, column
from trimtab.events.definitions import Source
from trimtab.events.tables import FIELDS
from trimtab.features.parts.event_files import EventFiles, table_events
from trimtab.store.delta.files import ParquetFiles

PARTITIONS = ("p0", "p1")


def recorded(
    records: Sequence[Record], source: Source, folder: Path, positions: dict[str, int] | None = None
) -> EventFiles:
    """What a table of record would say; the records are cut into two files."""
    files = ParquetFiles(folder)
    middle = len(records) // 2
    names = [files.write(_table(half, source), 1) for half in (records[:middle], records[middle:]) if half]
    files.close()
    return table_events(
        source, [folder / name for name in names], PARTITIONS, positions or dict.fromkeys(PARTITIONS, 10**9)
    )


def _table(records: Sequence[Record], source: Source) -> Columns:
    fields = {
        "_event_at": [r.event_at_us for r in records],
        "_known_at": [r.known_at_us for r in records],
        "_append_at": [r.known_at_us for r in records],
        "_partition": [r.partition for r in records],
        "_position": [r.position for r in records],
        "_id": [r.id for r in records],
        "_op": ["delete" if r.deleted else "upsert" for r in records],
        "_history": [False for _ in records],
    }
    columns = {name: column(dtype, fields[name]) for name, dtype in FIELDS.items()}
    return Columns(columns | {n: column(d, [r.row[n] for r in records]) for n, d in source.columns.items()})
