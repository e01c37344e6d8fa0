"""What the features mean, word for word, with loops over all records: slow, plain, and the judge of both engines."""

from __future__ import annotations

import hashlib
import math
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Context, Decimal
from typing import Any

import msgspec
import numpy as np

from trimtab.core.columns.data import Columns, Dtype, column
from trimtab.core.expressions.by_rows import RowFunction, compile_row
from trimtab.core.expressions.failed import failures
from trimtab.core.expressions.nodes import Expression
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.definitions import Source
from trimtab.features.aggregates import Aggregate
from trimtab.features.definitions import View
from trimtab.features.frames import Reason

Answer = tuple[Any, Reason]
Evaluate = Callable[[Expression, Mapping[str, Dtype], Mapping[str, Any]], tuple[Any, bool]]
# of a row the expression's value, and whether some part that it needed failed


_COMPILED: dict[tuple[int, int], tuple[Expression, Mapping[str, Dtype], RowFunction]] = {}


def by_rows(expression: Expression, columns: Mapping[str, Dtype], row: Mapping[str, Any]) -> tuple[Any, bool]:
    key = id(expression), id(columns)  # expressions cannot be compared; both are kept, so that no id is taken again
    if key not in _COMPILED:
        if len(_COMPILED) > 1_000:
            _COMPILED.clear()
        _COMPILED[key] = expression, columns, compile_row(expression, columns)
    before = failures.count
    value = _COMPILED[key][2](row)
    return value, failures.count != before


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
    records: Sequence[Record],
    view: View,
    key: Any,
    at_us: int,
    positions: Mapping[str, int] | None = None,
    evaluate: Evaluate = by_rows,
) -> dict[str, Answer]:
    """Each feature's value and reason as of (at_us, positions); positions None: all that is there."""
    if key is None:
        return {name: _nothing(aggregate, view.source, "no_entity") for name, aggregate in view.features.items()}
    known = [r for r in records if r.known_at_us <= at_us and _applied(r, positions)]
    of_key = [r for r in versions(known, view.source) if _entity(r, view) == key and not r.deleted]
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
            answers[name] = answer(aggregate, view.source, rows, at_us, evaluate)
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
    match aggregate.kind:
        case "count" | "count_distinct":
            return 0, reason
        case "decayed_sum":
            return 0.0, reason
        case "sum":
            assert aggregate.of is not None
            return (0.0 if aggregate.of.dtype(source.columns, "") == "float" else 0), reason
        case _:
            return None, reason


def contribution(
    aggregate: Aggregate, source: Source, record: Record, evaluate: Evaluate = by_rows
) -> tuple[Any, bool]:
    """The record's contribution, None when it makes none, and whether it failed."""
    failed = False
    if aggregate.where is not None:
        there, failed = evaluate(aggregate.where, source.columns, record.row)
        if there is not True:
            return None, failed
    if aggregate.of is None:
        return 1, failed
    value, also = evaluate(aggregate.of, source.columns, record.row)
    return value, failed or also


def _latest(aggregate: Aggregate, source: Source, rows: list[Record], at_us: int, evaluate: Evaluate) -> Answer:
    if not rows:
        return None, "expired"
    winner = max(rows, key=lambda r: (r.event_at_us, r.known_at_us, r.partition, r.position))
    if aggregate.max_age_us is not None and at_us - winner.event_at_us > aggregate.max_age_us:
        return None, "expired"
    value, failed = contribution(aggregate, source, winner, evaluate)
    if value is None:
        return None, "failed" if failed else "null"
    return value, "found"


def _window(aggregate: Aggregate, source: Source, rows: list[Record], at_us: int, evaluate: Evaluate) -> Answer:
    if aggregate.over_us is not None:
        start = _floor(at_us - aggregate.over_us, aggregate)
        rows = [r for r in rows if r.event_at_us >= start]
    if aggregate.until_us:
        end = _floor(at_us - aggregate.until_us, aggregate)
        rows = [r for r in rows if r.event_at_us < end]
    if not rows:
        return _nothing(aggregate, source, "outside_window")
    rows = sorted(rows, key=lambda r: (r.event_at_us, r.known_at_us, r.partition, r.position))
    given = [(r, v) for r, v in ((r, contribution(aggregate, source, r, evaluate)[0]) for r in rows) if v is not None]
    if not given:
        return _nothing(aggregate, source, "null")
    value = _value_of(aggregate, [v for _, v in given], [r for r, _ in given], at_us)
    if aggregate.kind == "sum" and isinstance(value, int) and not -(2**63) <= value < 2**63:
        return None, "failed"
    return value, "null" if value is None else "found"


def _value_of(aggregate: Aggregate, values: list[Any], rows: list[Record], at_us: int) -> Any:
    """The aggregate of the values of some rows, the oldest first; at least one."""
    match aggregate.kind:
        case "count":
            return len(values)
        case "sum":
            return total(values)
        case "mean":
            return float(total(values)) / len(values) + 0.0
        case "min":
            return min(values)
        case "max":
            return max(values)
        case "var":
            return variance(values)
        case "std":
            found = variance(values)
            return None if found is None else math.sqrt(found)
        case "first":
            return values[0]
        case "last":
            return values[-aggregate.place] if len(values) >= aggregate.place else None
        case "count_distinct":
            return distinct(values, aggregate.keep)
        case "top":
            return top(values, aggregate.place)
        case "decayed_sum":
            return _decayed(aggregate, values, rows, at_us)[0]
        case "decayed_mean":
            weighted, weight = _decayed(aggregate, values, rows, at_us)
            return weighted / weight + 0.0
        case _:
            raise AssertionError(aggregate)


def _floor(at_us: int, aggregate: Aggregate) -> int:
    return at_us // aggregate.hop_us * aggregate.hop_us if aggregate.hop_us else at_us


def variance(values: Sequence[Any]) -> float | None:
    """The sample variance, by the fixed sequence of float operations that it is defined by."""
    if len(values) < 2:
        return None
    floats = [float(v) for v in values]
    s1, s2 = math.fsum(floats), math.fsum([v * v for v in floats])
    deviations = s2 - s1 / len(floats) * s1
    return (deviations if deviations > 0 else 0.0) / (len(floats) - 1)


def distinct(values: Sequence[Any], keep: int) -> int:
    """The number of different values, or its estimate from the k-th least hash."""
    hashes = sorted({hashed(v) for v in values})
    if len(hashes) < keep:
        return len(hashes)
    return min(max((keep - 1) * 2**64 // (hashes[keep - 1] + 1), keep), 2**63 - 1)


def top(values: Sequence[Any], place: int) -> Any:
    """The value at a place by count, of the 1,024 values of least hash."""
    kept = set(sorted({hashed(v) for v in values})[:1_024])
    counts = Counter(v for v in values if hashed(v) in kept)
    ranked = sorted(counts, key=lambda v: (-counts[v], v))
    return ranked[place - 1] if place <= len(ranked) else None


def hashed(value: Any) -> int:
    """Sixty-four bits of a value: of a text blake2b, of a number its eight bytes mixed (splitmix64)."""
    if isinstance(value, str):
        raw = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(raw, "little")
    z = int.from_bytes(struct.pack("<d", value), "little") if isinstance(value, float) else int(value) % 2**64
    z = (z + 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def _decayed(aggregate: Aggregate, values: list[Any], rows: list[Record], at_us: int) -> tuple[float, float]:
    """Weighted sum and weight: exact and rounded in each tile, then folded from the oldest tile on."""
    tiles: dict[int, list[float]] = {}
    for record, value in zip(rows, values, strict=True):
        tiles.setdefault(_floor(record.event_at_us, aggregate), []).append(float(value))
    weighted, weight = 0.0, 0.0
    for start in sorted(tiles):
        age_us = _floor(at_us, aggregate) - start
        w = float(Context(prec=60).power(Decimal(2), Decimal(-age_us) / Decimal(aggregate.half_life_us)))
        weighted = weighted + w * math.fsum(tiles[start])
        weight = weight + w * len(tiles[start])
    return weighted + 0.0, weight


def total(values: Sequence[Any]) -> Any:
    """The exact sum, rounded once."""
    return math.fsum(values) + 0.0 if isinstance(values[0], float) else sum(map(int, values))


def _entity(record: Record, view: View) -> Any:
    """What the record is about: a value, several values, or None where any is null."""
    found = tuple(record.row[name] for name in view.by)
    return found[0] if len(found) == 1 else None if None in found else found
