"""What the features mean, word for word, with loops over all records: slow, plain, and the judge of both engines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from trimtab.core.columns import Columns, column
from trimtab.core.evaluate_rows import compile_row
from trimtab.events.definitions import Source
from trimtab.events.frames import NEVER_US, EventFrame
from trimtab.features.aggregates import Aggregate
from trimtab.features.definitions import View
from trimtab.features.frames import Reason

Answer = tuple[Any, Reason]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One record of an event log."""

    id: str
    row: dict[str, Any]  # the source's columns; a tombstone may leave all but the key null
    event_at_us: int
    known_at_us: int
    partition: str = "p0"
    position: int
    deleted: bool = False


def oracle(
    records: Sequence[Record], view: View, key: Any, at_us: int, positions: Mapping[str, int] | None = None
) -> dict[str, Answer]:
    """Each feature's value and reason as of (at_us, positions); positions None: all that is there."""
    if key is None:
        return {name: _nothing(aggregate, view.source, "no_entity") for name, aggregate in view.features.items()}
    known = [r for r in records if r.known_at_us <= at_us and _applied(r, positions)]
    of_key = [r for r in versions(known, view.source) if _entity(r, view) == key]
    live = [r for r in newest(known, view.source) if _entity(r, view) == key and not r.deleted]
    answers = {}
    for name, aggregate in view.features.items():
        if not of_key:
            answers[name] = _nothing(aggregate, view.source, "no_entity")
        elif not any(_happened(r, view, at_us) for r in of_key):
            answers[name] = _nothing(aggregate, view.source, "not_yet")
        else:
            rows = [r for r in live if _happened(r, view, at_us)]
            answer = _latest if aggregate.kind == "latest" else _window
            answers[name] = answer(aggregate, view.source, rows, at_us)
    return answers


def versions(records: Sequence[Record], source: Source) -> list[Record]:
    """The versions that count, of every id in their order: repetitions and conflicts dropped, tombstones filled."""
    out: list[Record] = []
    for of_id in _by_id(records).values():
        kept: list[Record] = []
        first: Record | None = None
        for record in sorted(of_id, key=_version_order):
            if not record.deleted and first is None:
                first = record
            if source.key is None and not record.deleted and not _same(record, first):
                continue
            if kept and ((record.deleted and kept[-1].deleted) or _same(record, kept[-1])):
                continue
            if record.deleted and kept:
                filled = {name: kept[-1].row[name] if v is None else v for name, v in record.row.items()}
                record = msgspec.structs.replace(record, row=filled)
            kept.append(record)
        out += kept
    return out


def newest(records: Sequence[Record], source: Source) -> list[Record]:
    """The live version of every id."""
    return [max(of_id, key=_version_order) for of_id in _by_id(versions(records, source)).values()]


def frame_of(records: Sequence[Record], source: Source, partitions: Sequence[str] = ("p0", "p1")) -> EventFrame:
    """The frame that holds these records, in the order given."""
    kept = versions(records, source)
    until: dict[tuple[str, int], int] = {}
    for of_id in _by_id(kept).values():
        ordered = sorted(of_id, key=_version_order)
        for one, following in zip(ordered, [*ordered[1:], None], strict=True):
            until[one.partition, one.position] = following.known_at_us if following else NEVER_US
    order = {(r.partition, r.position): i for i, r in enumerate(records)}
    kept.sort(key=lambda r: order[r.partition, r.position])
    names = sorted(partitions)
    return EventFrame(
        source.name,
        Columns({n: column(d, [r.row[n] for r in kept]) for n, d in source.columns.items()}),
        np.array([r.event_at_us for r in kept], np.int64),
        np.array([r.known_at_us for r in kept], np.int64),
        np.array([until[r.partition, r.position] for r in kept], np.int64),
        np.array([r.deleted for r in kept], bool),
        np.array([names.index(r.partition) for r in kept], np.int16),
        np.array([r.position for r in kept], np.int64),
        tuple(names),
    )


def _applied(record: Record, positions: Mapping[str, int] | None) -> bool:
    return positions is None or record.position <= positions.get(record.partition, 0)


def _by_id(records: Sequence[Record]) -> dict[str, list[Record]]:
    out: dict[str, list[Record]] = {}
    for record in records:
        out.setdefault(record.id, []).append(record)
    return out


def _version_order(record: Record) -> tuple[int, str, int]:
    return record.known_at_us, record.partition, record.position


def _same(one: Record, other: Record | None) -> bool:
    return other is not None and (one.deleted, one.event_at_us, one.row) == (
        other.deleted,
        other.event_at_us,
        other.row,
    )


def _happened(record: Record, view: View, at_us: int) -> bool:
    return record.event_at_us < at_us or (view.boundary == "inclusive" and record.event_at_us == at_us)


def _nothing(aggregate: Aggregate, source: Source, reason: Reason) -> Answer:
    if aggregate.kind not in ("count", "sum"):
        return None, reason
    real = aggregate.kind == "sum" and aggregate.of is not None and aggregate.of.dtype(source.columns, "") == "float"
    return (0.0 if real else 0), reason


def _value(aggregate: Aggregate, source: Source, record: Record) -> Any:
    """The record's contribution; None when it makes none."""
    if aggregate.where is not None and compile_row(aggregate.where, source.columns)(record.row) is not True:
        return None
    return 1 if aggregate.of is None else compile_row(aggregate.of, source.columns)(record.row)


def _latest(aggregate: Aggregate, source: Source, rows: list[Record], at_us: int) -> Answer:
    if not rows:
        return None, "expired"
    winner = max(rows, key=lambda r: (r.event_at_us, r.known_at_us, r.partition, r.position))
    if aggregate.max_age_us is not None and at_us - winner.event_at_us > aggregate.max_age_us:
        return None, "expired"
    value = _value(aggregate, source, winner)
    return value, "null" if value is None else "found"


def _window(aggregate: Aggregate, source: Source, rows: list[Record], at_us: int) -> Answer:
    if aggregate.over_us is not None:
        start = at_us - aggregate.over_us
        if aggregate.hop_us:
            start = start // aggregate.hop_us * aggregate.hop_us
        rows = [r for r in rows if r.event_at_us >= start]
    if not rows:
        return _nothing(aggregate, source, "outside_window")
    values = [v for v in (_value(aggregate, source, r) for r in rows) if v is not None]
    if not values:
        return _nothing(aggregate, source, "null")
    match aggregate.kind:
        case "count":
            return len(values), "found"
        case "sum":
            return total(values), "found"
        case "mean":
            return float(total(values)) / len(values) + 0.0, "found"
        case "min":
            return min(values), "found"
        case _:
            return max(values), "found"


def total(values: Sequence[Any]) -> Any:
    """The exact sum, rounded once."""
    return math.fsum(values) + 0.0 if isinstance(values[0], float) else sum(map(int, values))


def _entity(record: Record, view: View) -> Any:
    """What the record is about: a value, several values, or None where any is null."""
    found = tuple(record.row[name] for name in view.by)
    return found[0] if len(found) == 1 else None if None in found else found
