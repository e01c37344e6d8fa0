"""Compute the states of views that only have latest values: by columns, which is faster than by rows. # D31

Such a state is one encoded row, with fixed bytes before and after it. A row is a fixed sequence of MessagePack values.
So the states of many entities can be built as one matrix of bytes, with a row for each entity. Values differ in length,
so a boolean matrix says which bytes are used.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

from trimtab.core.columns.data import Column, Columns
from trimtab.core.expressions.nodes import GREATEST
from trimtab.events.columns.frames import NEVER_US
from trimtab.features.online.packed.keys import Row, name_bytes
from trimtab.features.online.packed.plan import ViewPlan
from trimtab.features.online.packed.state import EntityState

if TYPE_CHECKING:
    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[Any]"
ByRows: TypeAlias = Callable[[ViewPlan, Mapping[bytes, list[Row]], int], Iterator[tuple[bytes, bytes]]]

_FLOAT, _INT, _NULL, _FALSE, _TRUE = 0xCB, 0xD3, 0xC0, 0xC2, 0xC3  # MessagePack's bytes for types
_LONGEST = 160  # the longest name or text in a matrix, in bytes; rows with a longer one are encoded one by one
_CHUNK = 20_000  # how many entities a matrix has
_WORDS = 4  # names that differ in at most this many words of eight bytes are sorted as numbers

_encode = msgspec.msgpack.Encoder().encode


class Part(Protocol):
    """Chooses the entities to load."""

    parts: int

    @property
    def is_first(self) -> bool: ...
    def has(self, name: bytes) -> bool: ...


def loads_columns(plan: ViewPlan) -> bool:
    """Return whether a view can be loaded by `LatestLoad`.

    It must only have latest values of plain columns, one column that identifies the entity, and a source without a key.
    """
    return not plan.windowed and not plan.keyed and plan.values.plain and len(plan.view.by) == 1


class LatestLoad:
    """Reads the rows of a source, one table at a time, then gives the encoded state of each entity.

    Args:
        s_us: The append time S up to which the states have applied the log.
        count: The counts of `ViewApplied`, to which the rows are added.
        by_rows: Makes the keys and states of the few entities that are not simple; see `_by_entity`.
    """

    def __init__(self, plan: ViewPlan, s_us: int, count: Counter[str], by_rows: ByRows) -> None:
        self.plan = plan
        self._s_us = s_us
        self._count = count
        self._by_rows = by_rows
        self._by = plan.view.by[0]
        self._columns = [plan.columns[series.column] for series in plan.series.all if series.column is not None]
        self._names = ["_event_at", "_known_at", "_partition", "_position", "_id", self._by, *self._columns]
        self._parts: list[Columns] = []

    def take(self, chunk: Columns, part: Part) -> None:
        """Keep the rows of a table whose entities are in the part."""
        import numpy as np

        live = chunk["_op"].values != "delete"
        named = live & chunk[self._by].present()
        if part.is_first:
            self._count["applied"] += chunk.rows
            self._count["refused_deletes"] += int((~live).sum())
            self._count["no_entity"] += int((live & ~named).sum())
        if part.parts > 1:
            entities = chunk[self._by].values.tolist()
            named &= np.array(
                [there and part.has(name_bytes(e)) for e, there in zip(entities, named, strict=True)], bool
            )
        kept = chunk.select(dict.fromkeys(self._names))
        self._parts.append(kept if named.all() else kept.take(named))

    def states(self) -> Iterator[dict[bytes, bytes]]:
        """Yield keys and encoded states in pieces. All but the last piece are in the order of the keys."""
        import numpy as np

        parts = [part for part in self._parts if part.rows]
        self._parts = []
        if not parts:
            return
        rows = Columns.concat(parts)
        del parts
        raw = {name: _as_bytes(column) for name, column in rows.by_name.items() if column.dtype == "str"}
        order, starts, odd = self._by_entity(rows, raw)
        ends = np.append(starts[1:], len(order))
        simple = order[ends - 1] if not odd.any() else order[ends - 1][~odd]
        prefix = self.plan.keys.states
        frame = _frame(self.plan, self._s_us)
        for start in range(0, len(simple), _CHUNK):
            some = simple[start : start + _CHUNK]
            yield dict(zip(self._keys(prefix, rows, raw, some), self._packed(rows, raw, some, frame), strict=True))
        if odd.any():
            groups: dict[bytes, list[Row]] = defaultdict(list)
            # sort by arrival, because only the first of several repetitions counts
            tied = np.sort(order[np.repeat(odd, ends - starts)])
            for entity, row in self._as_rows(rows.take(tied)):
                groups[name_bytes(entity)].append(row)
            yield dict(self._by_rows(self.plan, groups, self._s_us))

    def _by_entity(self, rows: Columns, raw: Mapping[str, Bytes]) -> tuple[Array, Array, Array]:
        """Sort the rows by entity, with the newest row of each entity last.

        Return the order, the index in this order at which each entity begins, and which entities are not simple: those
        with an odd text (see `Bytes`), with a row whose event time or known-at time is after S, or with two rows of the
        newest event time.
        """
        import numpy as np

        event_at, known_at = rows["_event_at"].values, rows["_known_at"].values
        names = raw[self._by].values if self._by in raw else rows[self._by].values
        order = _by_name(names)
        in_order = names[order]
        begins = np.ones(len(order), bool)  # True where another entity begins
        begins[1:] = in_order[1:] != in_order[:-1]
        if not begins.all():
            group = np.empty(len(order), np.int64)
            group[order] = np.cumsum(begins)
            order = np.lexsort((rows["_position"].values, _codes(raw["_partition"].values), known_at, event_at, group))
        starts = np.flatnonzero(begins)
        last = self._s_us if self.plan.inclusive else self._s_us - 1
        odd_rows = (event_at > last) | (known_at > self._s_us)
        for texts in raw.values():
            odd_rows |= texts.odd
        tied = np.zeros(len(order), bool)  # True where a row has the same time as the previous row of its entity
        sorted_at = event_at[order]
        tied[1:] = ~begins[1:] & (sorted_at[1:] == sorted_at[:-1])
        ends = np.append(starts[1:], len(order)) - 1
        odd = np.logical_or.reduceat(odd_rows[order], starts) | tied[ends]
        return order, starts, odd

    def _keys(self, prefix: bytes, rows: Columns, raw: Mapping[str, Bytes], some: Array) -> list[bytes]:
        if self._by not in raw:
            return [prefix + name_bytes(entity) for entity in rows[self._by].values[some].tolist()]
        names = raw[self._by]
        return _cut([_constant(prefix + b"s"), _texts(names.values[some], names.lengths[some])], len(some))

    def _packed(self, rows: Columns, raw: Mapping[str, Bytes], some: Array, frame: tuple[bytes, bytes]) -> list[bytes]:
        """Return the encoded states of entities, each from the entity's newest row."""
        head, tail = frame

        def texts(name: str) -> list[Piece]:
            constant = raw[name].constant
            if constant is not None:
                return [_constant(_encode(constant))]
            return _headed(raw[name].take(some), rows[name].present()[some])

        return _cut(
            [
                _constant(head + b"\x97"),  # the row is a list of seven values
                _numbers(_INT, rows["_event_at"].values[some]),
                _numbers(_INT, rows["_known_at"].values[some]),
                *texts("_partition"),
                _numbers(_INT, rows["_position"].values[some]),
                _constant(_encode(NEVER_US)),
                *texts("_id"),
                _constant(_list_head(len(self.plan.series.all))),
                *(
                    p
                    for name in self._columns
                    for p in (texts(name) if name in raw else _values(rows[name].take(some)))
                ),
                _constant(tail),
            ],
            len(some),
        )

    def _as_rows(self, rows: Columns) -> Iterator[tuple[Any, Row]]:
        fields = (rows[name].values.tolist() for name in self._names[:6])
        values = zip(*(rows[name].to_list() for name in self._columns), strict=True)
        reals = [series.real for series in self.plan.series.all]
        for event_at, known_at, partition, position, event_id, entity, of_row in zip(*fields, values, strict=True):
            gives = [_given(value, real) for value, real in zip(of_row, reals, strict=True)]
            yield entity, [event_at, known_at, partition, position, NEVER_US, event_id, gives]


class Bytes(msgspec.Struct, frozen=True, eq=False):
    """Texts encoded as UTF-8. Those that are odd only serve for sorting: their entities are encoded by rows."""

    values: Array  # bytes of a fixed width, or Python objects
    lengths: Array
    odd: Array  # True for odd texts, which are too long for a matrix or end with a zero byte
    constant: str | None = None  # the text, if all are equal

    def take(self, rows: Array) -> Bytes:
        return Bytes(self.values[rows], self.lengths[rows], self.odd[rows])


def _frame(plan: ViewPlan, s_us: int) -> tuple[bytes, bytes]:
    """Return the bytes before and after the row in an encoded state at S."""
    state = EntityState(plan)
    state.seal(s_us)
    state.known = 1  # any number but 0
    mark: Any = "\x00here\x00"
    state.latest_rows = [mark]
    head, tail = state.pack().split(_encode(mark))
    return head, tail


def _as_bytes(texts: Column) -> Bytes:
    """Return the texts of a column. Nulls become empty texts."""
    import numpy as np

    values: list[Any] = texts.values.tolist()
    if texts.valid is not None:
        values = ["" if value is None else value for value in values]
    # all texts are equal, which is usual for names of partitions
    elif len(values) > 1 and values[0] is values[-1] and len(set(values)) == 1:
        one, n = _as_bytes(texts.take(slice(1))), len(values)
        same, lengths, odd = (np.broadcast_to(array, n) for array in (one.values, one.lengths, one.odd))
        return Bytes(same, lengths, odd, values[0])
    joined = "".join(values)
    raw = values if joined.isascii() else [value.encode("utf-8", "surrogatepass") for value in values]
    lengths = np.fromiter(map(len, raw), np.int64, len(raw))
    width = max(1, int(lengths.max(initial=0)))
    if width <= _LONGEST and "\0" not in joined:
        flat = np.frombuffer(joined.encode("utf-8", "surrogatepass"), np.uint8)
        if len(flat) == width * len(raw):
            return Bytes(flat.view(f"S{width}"), lengths, np.zeros(len(raw), bool))
        matrix = np.zeros((len(raw), width), np.uint8)
        matrix[np.arange(width) < lengths[:, None]] = flat
        return Bytes(matrix.view(f"S{width}").ravel(), lengths, np.zeros(len(raw), bool))
    raw = [value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass") for value in values]
    odd = np.array([len(value) > _LONGEST or value.endswith(b"\x00") for value in raw], bool)
    whole = np.empty(len(raw), object)
    whole[:] = raw
    return Bytes(whole, lengths, odd)


def _by_name(names: Array) -> Array:
    """Return the order of names. The order of equal names is arbitrary.

    If names only differ in a few bytes, these bytes are compared as numbers. Numbers are sorted ten times as fast as
    texts.
    """
    import numpy as np

    if names.dtype.kind != "S":
        return np.argsort(names, kind="stable")
    width = names.dtype.itemsize
    matrix = np.ascontiguousarray(names).view(np.uint8).reshape(-1, width)
    differ = np.flatnonzero((matrix != matrix[0]).any(axis=0))
    if not len(differ):
        return np.arange(len(names))
    if len(differ) > _WORDS * 8:
        return np.argsort(names, kind="stable")
    padded = np.zeros((len(names), -(-len(differ) // 8) * 8), np.uint8)
    padded[:, : len(differ)] = matrix[:, differ]
    words = [word.astype(np.uint64) for word in padded.view(">u8").T]
    order = np.argsort(words[0])
    if len(words) > 1 and (np.diff(words[0][order]) == 0).any():
        order = np.lexsort(words[::-1])
    return order


def _codes(names: Array) -> Array:
    """Return numbers that have the order of the names. This is only fast if there are few distinct names."""
    import numpy as np

    if (names == names[0]).all():
        return np.zeros(len(names), np.int8)
    return np.unique(names, return_inverse=True)[1]


class Piece(msgspec.Struct, frozen=True, eq=False):
    """Some bytes of each entity's state, with a function that writes them in place, which avoids copies."""

    width: int
    put: Callable[[Array], object]  # writes into a matrix of bytes that has a row for each entity
    there: Array | None = None  # a boolean matrix of the same shape, True for bytes that are used; None: all are


def _cut(pieces: Sequence[Piece], n: int) -> list[bytes]:
    """Return the bytes of each of `n` rows."""
    import numpy as np

    width, at = sum(piece.width for piece in pieces), 0
    matrix = np.empty((n, width), np.uint8)
    there = None if all(piece.there is None for piece in pieces) else np.ones(matrix.shape, bool)
    for piece in pieces:
        piece.put(matrix[:, at : at + piece.width])
        if there is not None and piece.there is not None:
            there[:, at : at + piece.width] = piece.there
        at += piece.width
    if there is None:
        rows: list[bytes] = matrix.view(f"V{width}").ravel().tolist()
        return rows
    ends: list[int] = np.cumsum(there.sum(1)).tolist()
    whole = matrix[there].tobytes()
    return [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _bytes(values: Array, there: Array | None = None) -> Piece:
    """Return given bytes as a piece: the same for all entities, or one row of bytes for each."""
    import numpy as np

    return Piece(values.shape[-1], lambda out: np.copyto(out, values), there)


def _constant(raw: bytes) -> Piece:
    import numpy as np

    return _bytes(np.frombuffer(raw, np.uint8))


def _numbers(kind: int, values: Array, present: Array | None = None) -> Piece:
    """Return int64 or float64 numbers as a piece: a type byte and eight bytes each. A null has one byte."""
    import numpy as np

    there = None
    if present is not None and not present.all():
        there = np.ones((len(values), 9), bool)
        there[~present, 1:] = False

    def put(out: Array) -> None:
        out[:, 0] = kind
        if there is not None:
            out[~there[:, 1], 0] = _NULL
        out[:, 1:].view(">i8")[:, 0] = values.view(np.int64)

    return Piece(9, put, there)


def _values(values: Column) -> list[Piece]:
    """Return a column of numbers or bools as pieces."""
    import numpy as np

    if values.dtype == "bool":
        out = np.where(values.values, _TRUE, _FALSE).astype(np.uint8)
        out[~values.present()] = _NULL
        return [_bytes(out[:, None])]
    if values.dtype == "float":
        floats = values.values + 0.0
        with np.errstate(invalid="ignore"):
            fits = np.abs(floats) <= GREATEST
        return [_numbers(_FLOAT, floats, fits)]
    return [_numbers(_INT, values.values, values.valid)]


def _texts(values: Array, lengths: Array) -> Piece:
    """Return texts as a piece, without their lengths."""
    import numpy as np

    width = int(lengths.max()) if len(lengths) else 0
    fixed = np.ascontiguousarray(values.astype(f"S{max(1, width)}"))
    out = fixed.view(np.uint8).reshape(len(fixed), -1)[:, :width]
    return _bytes(out, None if (lengths == width).all() else np.arange(width) < lengths[:, None])


def _headed(texts: Bytes, present: Array) -> list[Piece]:
    """Return texts as pieces, each after its length. A null has one byte."""
    import numpy as np

    text = _texts(texts.values, texts.lengths)
    if text.width < 32:
        head = (0xA0 | texts.lengths).astype(np.uint8)[:, None]
        head[~present] = _NULL
        return [_bytes(head), text]
    head = np.empty((len(texts.lengths), 2), np.uint8)
    head[:, 0], head[:, 1] = np.where(present, 0xD9, _NULL), texts.lengths
    kept = np.ones(head.shape, bool)
    kept[:, 1] = present
    return [_bytes(head, None if present.all() else kept), text]


def _list_head(length: int) -> bytes:
    return _encode([None] * length)[: -length or None]


def _given(value: Any, real: bool) -> Any:
    if real and value is not None:
        return value + 0.0 if -GREATEST <= value <= GREATEST else None
    return value
