"""The records of one source up to a position in the log, as tables from which views are filled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trimtab.core.columns.data import Column, Columns, Dtype, column
from trimtab.core.errors import Misuse
from trimtab.events.definitions import Source
from trimtab.events.records import Event, decode_all, known_at_us, padded
from trimtab.store.log_order import Gap, in_order, intervals
from trimtab.store.ports import Log, LogRecord

if TYPE_CHECKING:
    from trimtab.events.tables import Moved, Recorded

_BATCH = 10_000
_BEGIN_US = -(2**62)
_FIELDS: dict[str, Dtype] = {
    "_event_at": "time",
    "_known_at": "time",
    "_partition": "str",
    "_position": "int",
    "_id": "str",
    "_op": "str",
    "_s_at": "time",  # the latest append time up to this record
}


class SourceRows:
    """All records of a source up to some positions in the log, in the order in which a view applies them.

    Each iteration reads the records again. It gives tables with the source's columns and `_event_at`, `_known_at`,
    `_partition`, `_position`, `_id`, `_op` and `_s_at`. The tables are small, but the source's table of record
    is read as a whole.

    Args:
        positions: For each partition, the last position to read.
        moved: The records that are in tables of record (permanent copies). The log may no longer have these records.

    Raises:
        Misuse: Needed records were removed from the log.
    """

    def __init__(self, log: Log, source: Source, positions: Mapping[str, int], *, moved: Moved | None = None) -> None:
        self.source = source
        self.positions = dict(positions)
        self.most = sum(positions.values())  # an upper limit of the number of rows
        self._log = log
        self._moved = moved

    def __iter__(self) -> Iterator[Columns]:
        after: dict[str, int] = {}
        s_us = _BEGIN_US
        there = self._log.positions()
        if self._moved is not None:
            recorded = self._recorded(self._moved)
            after = {name: min(reached, self.positions.get(name, 0)) for name, reached in recorded.reached.items()}
            if recorded.rows is not None and recorded.rows.rows:
                rows = _of_table(recorded.rows, self.source)
                s_us = int(rows["_s_at"].values[-1])
                for start in range(0, rows.rows, _BATCH):
                    yield rows.take(slice(start, start + _BATCH))
        # a partition that is no longer in the log is completely in the tables
        upto = self.positions if self._moved is None else {n: p for n, p in self.positions.items() if n in there}
        for records in log_batches(self._log, after, upto):
            s_at = []
            for record in records:
                s_us = max(s_us, record.appended_at_us)
                s_at.append(s_us)
            events = decode_all([record.payload for record in records])
            mine = [i for i, event in enumerate(events) if event.source == self.source.name]
            if mine:
                yield _of_log(self.source, [(records[i], events[i], s_at[i]) for i in mine])

    def _recorded(self, moved: Moved) -> Recorded:
        from trimtab.events.tables import read_table

        return read_table(moved.tables.get(self.source.name), list(self.positions), self.positions, moved.through)


def log_batches(
    log: Log, after: Mapping[str, int], upto: Mapping[str, int], *, batch: int = _BATCH
) -> Iterator[list[LogRecord]]:
    """Yield the records after `after` up to `upto` of all partitions, by (append time, partition, position).

    Raises:
        Misuse: Some of these records were removed from the log.
    """
    try:
        for parts in intervals(log, after, upto, batch=batch):
            yield in_order(parts)
    except Gap as gap:
        raise Misuse(
            f"event log: {gap} The missing records were truncated. Fill the view from the tables of record, to which "
            "`trimtab storage materialise` copies the log."
        ) from gap


def _of_log(source: Source, rows: Sequence[tuple[LogRecord, Event, int]]) -> Columns:
    width = len(source.columns)
    fields: dict[str, list[Any]] = {
        "_event_at": [e.event_at_us for _, e, _ in rows],
        "_known_at": [known_at_us(e, r) for r, e, _ in rows],
        "_partition": [r.partition for r, _, _ in rows],
        "_position": [r.position for r, _, _ in rows],
        "_id": [e.id for _, e, _ in rows],
        "_op": [e.op for _, e, _ in rows],
        "_s_at": [s_us for _, _, s_us in rows],
    }
    columns = {name: column(dtype, fields[name]) for name, dtype in _FIELDS.items()}
    values = [e.values if len(e.values) == width else padded(e.values, width) for _, e, _ in rows]
    for (name, dtype), of_column in zip(source.columns.items(), zip(*values, strict=True), strict=True):
        columns[name] = column(dtype, of_column)
    return Columns(columns)


def _of_table(rows: Columns, source: Source) -> Columns:
    import numpy as np

    from trimtab.events.tables import with_columns

    s_at = Column("time", np.maximum.accumulate(rows["_append_at"].values))
    names = [name for name in _FIELDS if name != "_s_at"]
    return with_columns(rows, source.columns).select([*names, *source.columns]).replace({"_s_at": s_at})
