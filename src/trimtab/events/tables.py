"""Tables of record: permanent copies of the events in the log, one table for each source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Columns, Dtype, column
from trimtab.core.errors import Misuse
from trimtab.core.shown import Shown
from trimtab.events.definitions import Source
from trimtab.events.records import ERASED, Event, decode, encode, known_at_us, padded
from trimtab.store.ports import Log, LogRecord, Prunable, Table

_COMMIT = 200_000  # how many records of one partition go into one commit of each table
_COMMIT_BYTES = 4 << 20  # a commit ends after this many bytes of payloads; decoded, they take 20 times as much memory
_BATCH = 10_000

# The columns for the fields of a record. They begin with an underscore, unlike all columns of a source.
FIELDS: dict[str, Dtype] = {
    "_event_at": "time",
    "_known_at": "time",  # the computed time at which the event became known
    "_append_at": "time",
    "_partition": "str",
    "_position": "int",
    "_id": "str",
    "_op": "str",
    "_history": "bool",
}


class Materialised(Shown, msgspec.Struct, frozen=True):
    """The result of copying the log to tables."""

    rows: dict[str, int]  # for each source, the number of new rows in its table
    # for each partition, the position up to which the tables have all records of the given sources
    positions: dict[str, int]
    unknown: int  # how many records are of other sources; these would be lost if the log was truncated


class Moved(msgspec.Struct, frozen=True):
    """The part of the log that is in tables of record. What was removed from the log is read from these tables."""

    tables: dict[str, Table]  # by source name
    through: dict[str, int]  # for each partition, the position up to which the tables have all records of all sources
    newest_us: int = -(2**62)  # the latest append time in the log when records were removed


def materialise(
    log: Log, sources: Sequence[Source], tables: Mapping[str, Table], *, through: Mapping[str, int] | None = None
) -> Materialised:
    """Copy the new records of the log to the tables of record, with all versions and deletions.

    Each commit also stores the position up to which a partition was copied. Records that a table already has are
    skipped, so a crash, or another process that copies, cannot lose or double a row. The log itself is not changed.
    Afterwards, its records up to the result's `positions` may be removed, if `unknown` is 0.

    Args:
        sources: The sources whose records are copied.
        tables: The tables by source name.
        through: For each partition, the position up to which the tables have all records of all sources. A source that
            was declared after records were removed from the log has no records before these positions.

    Raises:
        Misuse: A source has no table, or the table has other columns than the source.
    """
    for source in sources:
        if source.name not in tables:
            raise Misuse(
                f"materialise: source {source.name!r} has no table. There are tables of: {', '.join(tables) or 'none'}."
            )
    rows = {source.name: 0 for source in sources}
    unknown = 0
    ends = log.positions()
    for partition, end in sorted(ends.items()):
        moved = (through or {}).get(partition, 0)
        reached = {source.name: max(moved, tables[source.name].position(partition)) for source in sources}
        after = min(reached.values(), default=end)
        while after < end:
            after, strange = _commit(log, partition, after, end, sources, tables, reached, rows)
            unknown += strange
        # a table without new rows is also complete up to the end (for example of a source that was just declared)
        for source in sources:
            if tables[source.name].position(partition) < end:
                tables[source.name].append(table_rows(source, []), writer=partition, position=end)
    return Materialised(rows, ends, unknown)


def _commit(
    log: Log,
    partition: str,
    after: int,
    end: int,
    sources: Sequence[Source],
    tables: Mapping[str, Table],
    reached: Mapping[str, int],
    rows: dict[str, int],
) -> tuple[int, int]:
    """Copy the records of one commit, and count them in `rows`. When this function ends, their memory is freed.

    Returns:
        The last position, and how many records belong to no source.
    """
    groups: dict[str, list[tuple[LogRecord, Event]]] = {name: [] for name in reached}
    upto, strange = _read(log, partition, after, min(end, after + _COMMIT), groups)
    for source in sources:
        # another process may have written more
        there = max(reached[source.name], tables[source.name].position(partition))
        new = [(r, e) for r, e in groups.pop(source.name) if r.position > there]
        # the last commit also stores the position in tables without new rows, so that the next call starts there
        if new or upto == end:
            moved = tables[source.name].append(table_rows(source, new), writer=partition, position=upto)
            rows[source.name] += len(new) if moved else 0
    return upto, strange


def recorded(
    tables: Mapping[str, Table], sources: Sequence[Source], after: Mapping[str, int], *, batch: int = 5_000
) -> Iterator[list[LogRecord]]:
    """Yield the records after the positions `after` from the tables of record, in the order of their append times.

    Records of sources that are not in `sources` have no values.
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


def recorded_between(
    log: Log, moved: Moved, sources: Sequence[Source], span: tuple[str, int, int], *, batch: int = _BATCH
) -> Iterator[tuple[list[LogRecord], int]]:
    """Yield the records between two positions in batches, each with the position that was reached.

    Records that were removed from the log are read from the tables of record, but only those of `sources`.

    Args:
        span: A partition, the position after which to begin, and the last position.
    """
    partition, after, last = span
    there = partition in log.positions()
    while after < last:
        records = log.read(partition, after, limit=min(batch, last - after)) if there else []
        first = records[0].position if records else last + 1
        if first > after + 1:
            reached = min(first - 1, after + batch, last)
            found: list[LogRecord] = []
            for source in sources:
                if source.name in moved.tables:
                    where = within(partition, after, reached)
                    found += table_records(source, rows_where(moved.tables[source.name], where))
            yield sorted(found, key=attrgetter("position")), reached
            after = reached
        else:
            after = records[-1].position
            yield (records if after <= last else [one for one in records if one.position <= last]), min(after, last)


def rows_where(table: Table, condition: str, names: Sequence[str] | None = None) -> Columns:
    """Return the rows of a table of record that fulfil an SQL condition; see `Prunable.rows`."""
    if not isinstance(table, Prunable):
        raise Misuse(
            f"{type(table).__name__}: cannot read selected rows, only all. Keep tables of record in Delta tables."
        )
    return table.rows(condition, names)


def within(partition: str, after: int, last: int) -> str:
    """Return the SQL condition for the rows of a partition between two positions."""
    return f""""_partition" = '{partition.replace("'", "''")}' AND "_position" > {after} AND "_position" <= {last}"""


def table_records(source: Source, rows: Columns) -> list[LogRecord]:
    """Return the log records that rows of a table of record stand for, with the computed known-at times."""
    return list(_records(source.name, with_columns(rows, source.columns), list(source.columns))) if rows.rows else []


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
    """Read records after `after`, and add them to the group of their source.

    Stop at `end`, or when the groups are large enough for one commit.

    Returns:
        The last position, and how many records belong to no group.
    """
    strange = size_bytes = 0
    while after < end and size_bytes < _COMMIT_BYTES:
        records = log.read(partition, after, limit=min(_BATCH, end - after))
        if not records or records[0].position != after + 1:
            found = f"{records[0].position} as the first" if records else "none"
            raise Misuse(
                f"materialise: needs the records of partition {partition!r} from {after + 1} to {end}, found {found}. "
                "The missing records were truncated before every table had a copy. Restore the log or the table that "
                "lacks them from a backup."
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
    """Return records of a source as rows of its table of record."""
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
    """Return rows of a table of record with all of the given columns. Missing columns are null."""
    lacking = {name: dtype for name, dtype in columns.items() if name not in rows}
    if not lacking or not rows.by_name:
        return rows
    return rows.replace({name: column(dtype, (None,) * rows.rows) for name, dtype in lacking.items()})


class Recorded(msgspec.Struct, frozen=True, eq=False):
    """The contents of one table of record, sorted by (append time, partition, position)."""

    rows: Columns | None  # None if the source has no table
    reached: dict[str, int]  # for each partition, the position up to which the table has all records of the source


def read_table(
    table: Table | None, partitions: Sequence[str], upto: Mapping[str, int] | None, through: Mapping[str, int]
) -> Recorded:
    """Read a table of record. If `upto` is given, read only its partitions, up to its positions.

    The table is known to be complete up to the positions `through`. If there is no table, the source has no records up
    to these positions.
    """
    if table is None:
        return Recorded(None, dict(through))
    reached = {
        name: max(table.position(name), through.get(name, 0)) for name in {*partitions, *through}
    }  # the positions are read first, so the rows are at least as new
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
