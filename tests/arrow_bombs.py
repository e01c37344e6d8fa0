"""Arrow streams of few bytes that would become much: what crafted headers, dictionaries and buffers can do.

The headers are FlatBuffers of our own making, in which several places may name one object; pyarrow writes the rest.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

END = b"\xff\xff\xff\xff" + bytes(4)
INT, TEXT, NULL, TIMESTAMP, STRUCT, UNION, FIXED_BYTES = 2, 5, 1, 10, 13, 14, 15
SCHEMA, DICTIONARY, BATCH = 1, 2, 3


class Number:
    def __init__(self, form: str, value: int) -> None:
        self.form, self.value = form, value


class Table:
    def __init__(self, fields: dict[int, Any]) -> None:
        self.fields = fields


class Vector:
    """A vector of tables or texts."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items


class Raw:
    """A text, or a vector of plain values, with so many elements."""

    def __init__(self, count: int, data: bytes) -> None:
        self.count, self.data = count, data


def flat(root: Table) -> bytes:
    """The bytes of a buffer; an object that is named several times is written once, behind all that name it."""
    order: list[Any] = []
    seen: set[int] = set()
    stack = [(root, iter(_parts(root)))]
    seen.add(id(root))
    while stack:
        one, parts = stack[-1]
        for part in parts:
            if id(part) not in seen:
                seen.add(id(part))
                stack.append((part, iter(_parts(part))))
                break
        else:
            order.append(one)
            stack.pop()
    out, places, later = bytearray(4), dict[int, int](), [(0, root)]
    for one in reversed(order):
        places[id(one)] = _put(out, one, later)
    for at, one in later:
        struct.pack_into("<I", out, at, places[id(one)] - at)
    return bytes(out + bytes(-len(out) % 8))


def _parts(one: Any) -> list[Any]:
    if isinstance(one, Table):
        return [value for value in one.fields.values() if not isinstance(value, Number)]
    return one.items if isinstance(one, Vector) else []


def _put(out: bytearray, one: Any, later: list[tuple[int, Any]]) -> int:
    if isinstance(one, Raw):
        out += bytes((4 - len(out)) % 8)
        at = len(out)
        out += struct.pack("<I", one.count) + one.data + bytes(1)
        return at
    if isinstance(one, Vector):
        out += bytes(-len(out) % 4)
        at = len(out)
        out += struct.pack("<I", len(one.items)) + bytes(4 * len(one.items))
        later += [(at + 4 + 4 * number, item) for number, item in enumerate(one.items)]
        return at
    size, inside = 4, {}
    for number, value in sorted(one.fields.items(), key=lambda pair: -_width(pair[1])):
        size += -size % _width(value)
        inside[number] = size
        size += _width(value)
    count = 1 + max(one.fields, default=-1)
    out += bytes(-len(out) % 8) + bytes(-(4 + 2 * count) % 8)
    vtable = len(out)
    out += struct.pack("<HH", 4 + 2 * count, size) + b"".join(struct.pack("<H", inside.get(n, 0)) for n in range(count))
    at = len(out)
    out += struct.pack("<i", at - vtable) + bytes(size - 4)
    for number, value in one.fields.items():
        if isinstance(value, Number):
            struct.pack_into(value.form, out, at + inside[number], value.value)
        else:
            later.append((at + inside[number], value))
    return at


def _width(value: Any) -> int:
    return struct.calcsize(value.form) if isinstance(value, Number) else 4


def text(value: bytes) -> Raw:
    return Raw(len(value), value)


def message(kind: int, header: Table, body: bytes = b"", pairs: Vector | None = None) -> bytes:
    fields: dict[int, Any] = {0: Number("<h", 4), 1: Number("<B", kind), 2: header, 3: Number("<q", len(body))}
    found = flat(Table(fields | ({} if pairs is None else {4: pairs})))
    return b"\xff\xff\xff\xff" + struct.pack("<i", len(found)) + found + body


def type_of(kind: int) -> Table:
    if kind == INT:
        return Table({0: Number("<i", 64), 1: Number("<B", 1)})
    return Table({0: Number("<i", 1 << 24)}) if kind == FIXED_BYTES else Table({})


def field(name: Raw, kind: int = INT, **more: Any) -> Table:
    fields = {0: name, 1: Number("<B", 1), 2: Number("<B", kind), 3: more.pop("held", None) or type_of(kind)}
    places = {"dictionary": 4, "children": 5, "pairs": 6}
    return Table(fields | {5: Vector([])} | {places[name]: value for name, value in more.items()})


def schema(fields: list[Table], pairs: Vector | None = None) -> bytes:
    return message(SCHEMA, Table({1: Vector(fields)} | ({} if pairs is None else {2: pairs})))


def batch(rows: int, nodes: list[int], buffers: list[tuple[int, int]], *, packed: bool = False) -> Table:
    return Table(
        {
            0: Number("<q", rows),
            1: Raw(len(nodes), b"".join(struct.pack("<qq", count, 0) for count in nodes)),
            2: Raw(len(buffers), b"".join(struct.pack("<qq", *one) for one in buffers)),
        }
        | ({3: Table({0: Number("<b", 1), 1: Number("<b", 0)})} if packed else {})
    )


def dictionary(number: int, held: Table, body: bytes = b"", *, delta: bool = False) -> bytes:
    return message(DICTIONARY, Table({0: Number("<q", number), 1: held, 2: Number("<B", delta)}), body)


def coded(number: int) -> Table:
    """The description of a dictionary."""
    return Table({0: Number("<q", number), 1: Table({0: Number("<i", 32), 1: Number("<B", 1)})})


def names(count: int) -> list[Raw]:
    return [text(b"c%d" % number) for number in range(count)]


def long_name(count: int, size: int) -> bytes:
    """Columns that share one name."""
    name = text(b"x" * size)
    return schema([field(name) for _ in range(count)]) + END


def long_zone(count: int, size: int) -> bytes:
    held = Table({0: Number("<h", 2), 1: text(b"z" * size)})
    return schema([field(name, TIMESTAMP, held=held) for name in names(count)]) + END


def long_pairs(count: int, size: int, where: str) -> bytes:
    pair = Table({0: text(b"k"), 1: text(b"v" * size)})
    pairs = Vector([pair] * count)
    if where == "fields":
        return schema([field(name, pairs=Vector([pair])) for name in names(count)]) + END
    if where == "schema":
        return schema([field(text(b"x"))], pairs) + END
    return message(SCHEMA, Table({1: Vector([field(text(b"x"))])}), b"", pairs) + END


def long_union(count: int, size: int) -> bytes:
    held = Table({1: Raw(size, bytes(4 * size))})
    return schema([field(name, UNION, held=held) for name in names(count)]) + END


def twice_a_level(levels: int) -> bytes:
    """Two columns in each of two columns, and so on, of as many tables as there are levels."""
    below = field(text(b"x"), STRUCT)
    for _ in range(levels):
        below = field(text(b"x"), STRUCT, children=Vector([below, below]))
    return schema([below]) + END


def deep(levels: int) -> bytes:
    below = field(text(b"x"))
    for _ in range(levels):
        below = field(text(b"x"), STRUCT, children=Vector([below]))
    return schema([below]) + END


def growing(times: int, rows: int, kind: int = NULL) -> bytes:
    """A dictionary that grows by rows that take no bytes."""
    out = schema([field(text(b"x"), kind, dictionary=coded(0))])
    for number in range(times):
        out += dictionary(0, batch(rows, [rows], []), delta=number > 0)
    return out + message(BATCH, batch(0, [0], [(0, 0), (0, 0)])) + END


def growing_between(times: int, size: int) -> bytes:
    """A dictionary that grows by a word before each batch, so that each batch holds another one."""
    long = struct.pack("<ii", 0, size) + b"w" * size + bytes(-size % 8)
    short = struct.pack("<iiii", 0, 1, 0, 0) + b"w" + bytes(7)
    out = schema([field(text(b"x"), TEXT, dictionary=coded(0))])
    out += dictionary(0, batch(1, [1], [(0, 0), (0, 8), (8, size)]), long)
    for _ in range(times):
        out += dictionary(0, batch(1, [1], [(0, 0), (0, 8), (16, 1)]), short, delta=True)
        out += message(BATCH, batch(1, [1], [(0, 0), (0, 4)]), bytes(8))
    return out + END


def one_for_all(columns: int, words: int) -> bytes:
    """A dictionary that many columns have."""
    ends = b"".join(struct.pack("<i", 4 * number) for number in range(words + 1)) + bytes(-4 * (words + 1) % 8)
    held = b"".join(b"%04d" % (number % 10_000) for number in range(words)) + bytes(-4 * words % 8)
    out = schema([field(name, TEXT, dictionary=coded(0)) for name in names(columns)])
    out += dictionary(0, batch(words, [words], [(0, 0), (0, 4 * words + 4), (len(ends), 4 * words)]), ends + held)
    return out + message(BATCH, batch(1, [1] * columns, [(0, 0), (0, 4)] * columns), bytes(8)) + END


def same_bytes(columns: int, rows: int) -> bytes:
    """Columns whose buffers are the same bytes."""
    held = batch(rows, [rows] * columns, [(0, 0), (0, 8 * rows)] * columns)
    return schema([field(name) for name in names(columns)]) + message(BATCH, held, bytes(8 * rows)) + END


def packed(columns: int, claimed: int, data: bytes = b"") -> bytes:
    """Compressed buffers that say how long they are."""
    body = struct.pack("<q", claimed) + (data or b"\x04\x22\x4d\x18" + bytes(20))
    held = batch(1, [1] * columns, [(0, 0), (0, len(body))] * columns, packed=True)
    return schema([field(name) for name in names(columns)]) + message(BATCH, held, body) + END


def nothing(columns: int, rows: int) -> bytes:
    """Rows of nulls, which take no bytes."""
    held = batch(rows, [rows] * columns, [])
    return schema([field(name, NULL) for name in names(columns)]) + message(BATCH, held) + END


def wide_bytes(columns: int) -> bytes:
    held = batch(1, [1] * columns, [(0, 0), (0, 0)] * columns)
    return schema([field(name, FIXED_BYTES) for name in names(columns)]) + message(BATCH, held) + END


def many_empty(times: int, columns: int = 1) -> bytes:
    held = message(BATCH, batch(0, [0] * columns, [(0, 0), (0, 0)] * columns))
    return schema([field(name) for name in names(columns)]) + held * times + END


def written(table: Any, **options: Any) -> bytes:
    """What pyarrow writes."""
    sink = pa.BufferOutputStream()
    batches = options.pop("batches", None)
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, batches)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def overlapping(rows: int, size: int, columns: int = 1) -> bytes:
    """Texts that are parts of one, each of almost all of it."""
    data = bytes(random.Random(1).choices(b"abcdef", k=size))
    views = b"".join(struct.pack("<i4sii", size - at, data[at : at + 4], 0, at) for at in range(rows))
    one = pa.Array.from_buffers(pa.string_view(), rows, [None, pa.py_buffer(views), pa.py_buffer(data)])
    return written(pa.table({f"c{number}": one for number in range(columns)}))


def replaced(times: int, words: int) -> bytes:
    """Another dictionary before each batch."""
    chunks = [
        pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array([f"{n}-{i}" for i in range(words)]))
        for n in range(times)
    ]
    return written(pa.table({"x": pa.chunked_array(chunks)}))


def strange(rows: int) -> list[Any]:
    """Columns that no table can have."""
    ints = pa.array(range(rows), pa.int64())
    lists = pa.array([[1] * 10] * rows)
    return [
        lists,
        pa.array([[[[[1]]]]] * rows),
        pa.array([{"a": {"b": [1]}}] * rows),
        pa.array([b"x"] * rows),
        pa.UnionArray.from_sparse(pa.array([0] * rows, pa.int8()), [ints, ints]),
        pa.UnionArray.from_dense(pa.array([0] * rows, pa.int8()), pa.array(range(rows), pa.int32()), [ints, ints]),
        pa.RunEndEncodedArray.from_arrays(pa.array([rows], pa.int32()), pa.array([1])),
        pa.ListViewArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([rows] * rows, pa.int32()), ints),
        pa.array([1] * rows, pa.duration("us")),
        pa.array([1] * rows, pa.time64("us")),
        pa.array([[("k", 1)]] * rows, pa.map_(pa.string(), pa.int64())),
    ]


def zeros(size: int) -> bytes:
    """A compressed buffer of as many zeros."""
    return packed(1, size, pa.Codec("lz4").compress(bytes(size)).to_pybytes())


def narrow(columns: int, rows: int, kind: Any) -> bytes:
    """Columns whose values take less in the stream than in memory."""
    ones = pa.array([1] * rows).cast(kind)
    return written(pa.table({f"c{number}": ones for number in range(columns)}))


def bombs(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Crafted bodies without end, each with what it is called."""
    kinds: dict[str, Callable[[int], bytes]] = {
        "one long name": lambda n: long_name(2_000 * n, 40_000 * n),
        "one long zone": lambda n: long_zone(500 * n, 40_000 * n),
        "one long value, in fields": lambda n: long_pairs(500 * n, 40_000 * n, "fields"),
        "one long value, in the schema": lambda n: long_pairs(4_000 * n, 40_000 * n, "schema"),
        "one long value, in the message": lambda n: long_pairs(4_000 * n, 40_000 * n, "message"),
        "one long union": lambda n: long_union(500 * n, 10_000 * n),
        "twice a level": lambda n: twice_a_level(10 * n),
        "deep": lambda n: deep(60 * n),
        "growing": lambda n: growing(400 * n, 1 << (20 + n)),
        "growing by texts": lambda n: growing(40 * n, 1 << (20 + n), TEXT),
        "growing between": lambda n: growing_between(150 * n, 80_000 * n),
        "one dictionary for all": lambda n: one_for_all(500 * n, 4_000 * n),
        "the same bytes": lambda n: same_bytes(500 * n, 2_000 * n),
        "packed, it says": lambda n: packed(n, 1 << (30 + n)),
        "packed zeros": lambda n: zeros(40_000_000 * n),
        "nothing": lambda n: nothing(100 * n, 10_000),
        "very many nothings": lambda n: nothing(1, 1 << (30 + n)),
        "wide bytes": lambda n: wide_bytes(n),
        "many empty batches": lambda n: many_empty(1_000 * n),
        "many empty wide batches": lambda n: many_empty(10 * n, 500 * n),
        "overlapping": lambda n: overlapping(1_000 * n, 30_000 * n, 1 + n % 3),
        "replaced": lambda n: replaced(20 * n, 500 * n),
        "many batches": lambda n: written(pa.table({"x": range(1_000 * n)}), batches=1),
        "many narrow columns": lambda n: narrow(30 * n, 5_000, pa.int8()),
        "many truths": lambda n: narrow(50 * n, 9_000, pa.bool_()),
        "packed texts": lambda n: written(pa.table({"x": ["x" * 4_000] * (2_000 * n)}), compression="zstd"),
        "strange": lambda n: written(pa.table({"x": rng.choice(strange(2_000 * n))})),
        "decimals": lambda n: narrow(n, 2_000 * n, pa.decimal256(60, 3)),
    }  # fmt: skip
    while True:
        for name, make in kinds.items():
            yield name, make(rng.randint(1, 4))
