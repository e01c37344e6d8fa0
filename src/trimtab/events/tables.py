"""Tables of record: what the log says, one table a source, for good."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from trimtab.core.columns.data import Columns, Dtype, column
from trimtab.core.errors import Misuse
from trimtab.events.definitions import Source
from trimtab.events.records import ERASED, Event, decode, encode, known_at_us, padded
from trimtab.store.ports import Log, LogRecord, Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COMMIT = 200_000  # records of one partition that go into one commit a table
_COMMIT_BYTES = 16 << 20  # payload size that ends a commit: values take 20 times as much in memory
_BATCH = 10_000

# A record's own fields. They begin with an underscore, so that a source may have columns of these names.
FIELDS: dict[str, Dtype] = {
    "_event_at": "time",
    "_known_at": "time",  # the effective one
    "_append_at": "time",
    "_partition": "str",
    "_position": "int",
    "_id": "str",
    "_op": "str",
    "_history": "bool",
}


class Materialised(msgspec.Struct, frozen=True):
    """Result of a pass over the log."""

    rows: dict[str, int]  # new rows by source
    positions: dict[str, int]  # by partition: up to here every record of the given sources is in its table
    unknown: int  # records of sources that were not given, among those read: truncating the log loses them


class Moved(msgspec.Struct, frozen=True):
    """The part of the log that is in tables of record, where readers of a truncated log continue."""

    tables: dict[str, Table]  # by source
    through: dict[str, int]  # by partition: up to here every record of every source is in its table
    newest_us: int = -(2**62)  # the greatest append time of the log when it was truncated


def materialise(
    log: Log, sources: Sequence[Source], tables: Mapping[str, Table], *, through: Mapping[str, int] | None = None
) -> Materialised:
    """Move what is new in the log into the sources' tables of record, every version and tombstone.

    The log's position rides in each commit, under the partition's name, so what is in already is skipped and a crash
    neither loses nor doubles a row; nor does another pass that was there in between. The log stays as it is: afterwards
    it may be truncated up to `positions`.

    Args:
        log: The event log.
        sources: The sources to move.
        tables: Their tables, by source name.
        through: Positions up to which every record of every source is in its table: so those of a source that was
            declared after the log was truncated are none.

    Raises:
        Misuse: A source has no table, or its table was made for other columns.
    """
    for source in sources:
        if source.name not in tables:
            raise Misuse(f"materialise: source {source.name!r} has no table. There are: {', '.join(tables) or 'none'}.")
    rows = {source.name: 0 for source in sources}
    unknown = 0
    ends = log.positions()
    for partition, end in sorted(ends.items()):
        moved = (through or {}).get(partition, 0)
        reached = {source.name: max(moved, tables[source.name].position(partition)) for source in sources}
        after = min(reached.values(), default=end)
        while after < end:
            groups: dict[str, list[tuple[LogRecord, Event]]] = {name: [] for name in reached}
            upto, strange = _read(log, partition, after, min(end, after + _COMMIT), groups)
            unknown += strange
            for source in sources:
                there = max(reached[source.name], tables[source.name].position(partition))  # another pass may be ahead
                new = [(r, e) for r, e in groups[source.name] if r.position > there]
                if new or upto == end:  # the last commit moves every position, so that the next pass begins there
                    moved = tables[source.name].append(table_rows(source, new), writer=partition, position=upto)
                    rows[source.name] += len(new) if moved else 0
            after = upto
        for source in sources:  # one declared after a truncation: its table counts as complete up to there
            if tables[source.name].position(partition) < end:
                tables[source.name].append(table_rows(source, []), writer=partition, position=end)
    return Materialised(rows, ends, unknown)


def recorded(
    tables: Mapping[str, Table], sources: Sequence[Source], after: Mapping[str, int], *, batch: int = 5_000
) -> Iterator[list[LogRecord]]:
    """The records behind `after` that are in tables of record, as the log had them, by append time.

    Of a table whose source is not among `sources` a record's place and time are true, but it has no values.
    """
    columns = {source.name: list(source.columns) for source in sources}
    declared = {source.name: source.columns for source in sources}
    parts: list[tuple[str, Columns]] = []
    for name, table in tables.items():
        rows = with_columns(table.scan(), declared[name]) if name in declared else table.scan(list(FIELDS))
        if rows.rows:
            floors = np.array([after.get(partition, 0) for partition in rows["_partition"].values.tolist()], np.int64)
            parts.append((name, rows.take(rows["_position"].values > floors)))
    if not parts:
        return
    names = [partition for _, rows in parts for partition in rows["_partition"].values.tolist()]
    append_at, positions = (np.concatenate([rows[f].values for _, rows in parts]) for f in ("_append_at", "_position"))
    part = np.repeat(np.arange(len(parts)), [rows.rows for _, rows in parts])
    row = np.concatenate([np.arange(rows.rows) for _, rows in parts])
    order = np.lexsort((positions, _ranks(names), append_at))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        records: list[tuple[int, LogRecord]] = []
        for number, (name, rows) in enumerate(parts):
            places = np.flatnonzero(part[chosen] == number)
            found = _records(name, rows.take(row[chosen[places]]), columns.get(name, []))
            records += zip(places.tolist(), found, strict=True)
        yield [record for _, record in sorted(records, key=lambda one: one[0])]


def _records(source: str, rows: Columns, columns: Sequence[str]) -> Iterator[LogRecord]:
    fields = {name: rows[name].to_list() for name in FIELDS}
    values = zip(*(rows[name].to_list() for name in columns), strict=True) if columns else repeat((), rows.rows)
    for i, of_columns in enumerate(values):
        event = Event(
            source,
            fields["_id"][i],
            fields["_event_at"][i],
            fields["_known_at"][i],
            fields["_op"][i],
            fields["_history"][i],
            tuple(of_columns),
        )
        yield LogRecord(fields["_partition"][i], fields["_position"][i], fields["_append_at"][i], encode(event))


def _read(
    log: Log, partition: str, after: int, end: int, groups: dict[str, list[tuple[LogRecord, Event]]]
) -> tuple[int, int]:
    """Sort records after `after` into groups, up to `end` or until they are large enough for one commit.

    Returns:
        The last position, and how many were in no group.
    """
    strange = size_bytes = 0
    while after < end and size_bytes < _COMMIT_BYTES:
        records = log.read(partition, after, limit=min(_BATCH, end - after))
        if not records or records[0].position != after + 1:
            found = f"{records[0].position} as the first" if records else "none"
            raise Misuse(
                f"materialise: needs the records of partition {partition!r} from {after + 1} to {end}, found {found}. "
                "They were truncated before every table had them: begin such a table with `load`."
            )
        for record in records:
            size_bytes += len(record.payload)
            event = decode(record.payload)
            if event.source in groups:
                groups[event.source].append((record, event))
            else:
                strange += event.source != ERASED
        after = records[-1].position
    return after, strange


def table_rows(source: Source, rows: Sequence[tuple[LogRecord, Event]]) -> Columns:
    """Records of a source as rows of its table of record."""
    fields: dict[str, list[Any]] = {
        "_event_at": [e.event_at_us for _, e in rows],
        "_known_at": [known_at_us(e, r) for r, e in rows],
        "_append_at": [r.appended_at_us for r, _ in rows],
        "_partition": [r.partition for r, _ in rows],
        "_position": [r.position for r, _ in rows],
        "_id": [e.id for _, e in rows],
        "_op": [e.op for _, e in rows],
        "_history": [e.history for _, e in rows],
    }
    width = len(source.columns)
    values = [padded(e.values, width) for _, e in rows]
    by_column = zip(*values, strict=True) if values else ((),) * width
    columns = {name: column(dtype, fields[name]) for name, dtype in FIELDS.items()}
    for (name, dtype), of_column in zip(source.columns.items(), by_column, strict=True):
        columns[name] = column(dtype, of_column)
    return Columns(columns)


def with_columns(rows: Columns, columns: Mapping[str, Dtype]) -> Columns:
    """Rows of a table of record that have all of these columns: null where the table was written without them."""
    lacking = {name: dtype for name, dtype in columns.items() if name not in rows}
    if not lacking or not rows.by_name:
        return rows
    return rows.replace({name: column(dtype, (None,) * rows.rows) for name, dtype in lacking.items()})


class Recorded(msgspec.Struct, frozen=True, eq=False):
    """One source's table of record, read once: rows by (append time, partition, position)."""

    rows: Columns | None  # None: there is no table
    reached: dict[str, int]  # partition -> the position up to which it has every record of the source


def read_table(
    table: Table | None, partitions: Sequence[str], upto: Mapping[str, int] | None, through: Mapping[str, int]
) -> Recorded:
    """The rows of a table of record, of the partitions and positions in `upto` when it is given.

    Up to `through` it has every record of its source; there are none where there is no table.
    """
    if table is None:
        return Recorded(None, dict(through))
    reached = {
        name: max(table.position(name), through.get(name, 0)) for name in {*partitions, *through}
    }  # first, so that the rows are not older than this
    rows = table.scan()
    if not rows.rows:
        return Recorded(rows, reached)
    names = rows["_partition"].values.tolist()
    positions = rows["_position"].values
    for name, position in _last(names, positions).items():
        reached[name] = max(reached.get(name, 0), position)
    order = np.lexsort((positions, _ranks(names), rows["_append_at"].values))
    if upto is not None:
        limits = np.array([upto.get(name, 0) for name in names], np.int64)
        order = order[(positions <= limits)[order]]
    return Recorded(rows.take(order), reached)


def _last(names: Sequence[str], positions: NDArray[Any]) -> dict[str, int]:
    distinct = {name: i for i, name in enumerate(dict.fromkeys(names))}
    last = np.zeros(len(distinct), np.int64)
    np.maximum.at(last, [distinct[name] for name in names], positions)
    return dict(zip(distinct, last.tolist(), strict=True))


def _ranks(names: Sequence[str]) -> NDArray[Any]:
    rank = {name: i for i, name in enumerate(sorted(set(names)))}
    return np.array([rank[name] for name in names], np.int64)
