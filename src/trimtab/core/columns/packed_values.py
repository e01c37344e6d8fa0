"""The msgpack encoding of columns, without a Python step for each number."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.column import Column
from trimtab.core.columns.packs import Mirrored, Part, Ragged

_NULL, _FALSE, _BYTES, _FLOAT = 0xC0, 0xC2, 0xC4, 0xCB
# by the size of an encoded integer: its first byte if it is not negative, and its first byte if it is negative
_INTEGERS = {2: (0xCC, 0xD0), 3: (0xCD, 0xD1), 5: (0xCE, 0xD2), 9: (0xCF, 0xD3)}
_MOST = 0xFF  # msgpack encodes bytes up to this length with a head of two bytes, and longer ones with a head of three
_encode = msgspec.msgpack.Encoder().encode


def packed_values(column: Column) -> Ragged:
    """Return the values of a column, each as msgpack encodes it.

    >>> from trimtab.core.columns.column import column
    >>> packed_values(column("int", [1, None, 300])).data == b"".join(map(_encode, [1, None, 300]))
    True
    """
    if column.dtype == "str":
        return _texts(column)
    values, rows = column.values, len(column)
    cells, sizes = np.empty((rows, 9), np.uint8), np.ones(rows, np.int64)
    if column.dtype == "bool":
        cells[:, 0] = _FALSE + values
    elif column.dtype == "float":
        cells[:, 0], sizes[:] = _FLOAT, 9
        cells[:, 1:] = values.astype(">f8")[:, None].view(np.uint8)
    else:
        _integers(values, cells, sizes)
    if column.valid is not None:
        cells[~column.valid, 0], sizes[~column.valid] = _NULL, 1
    width = int(sizes.max(initial=1))
    if int(sizes.min(initial=width)) == width:
        return Ragged(cells[:, :width].tobytes(), sizes)
    return Ragged(cells[np.arange(9) < sizes[:, None]].tobytes(), sizes)


def packed_rows_of(columns: list[Column], matrix: NDArray[Any] | None = None) -> list[Part]:
    """Return the rows of a table as parts of a pack (see packs.py), in which each payload gets one row.

    A row becomes a msgpack value of the type bytes, which contains the row's values as a msgpack array.

    `matrix` is a matrix of float64 that is another part of the pack. A column that equals one of its columns to the bit
    is not stored again.
    """
    rows, head = len(columns[0]), _encode([None] * len(columns))[: -len(columns)]
    numbers = None if matrix is None or not rows else matrix.view(np.int64)
    places = {} if numbers is None else {bits: place for place, bits in enumerate(numbers[0].tolist())}
    sizes, parts = np.full(rows, len(head), np.int64), list[Part]()
    for column in columns:
        if matrix is not None and numbers is not None and column.dtype == "float" and column.valid is None:
            own = column.values.view(np.int64)
            place = places.get(int(own[0]))
            if place is not None and (own == numbers[:, place]).all():
                parts += [bytes([_FLOAT]), Mirrored(matrix, place)]
                sizes += 9
                continue
        values = packed_values(column)
        parts.append(values)
        sizes += values.sizes
    if sizes.max(initial=0) >= 1 << 16:
        encoded = zip(*(column.to_list() for column in columns), strict=True)
        return [Ragged.of([_encode(_encode(row)) for row in encoded])]
    long = sizes > _MOST
    heads = np.empty((rows, 3), np.uint8)
    heads[:, 0], heads[:, 1], heads[:, 2] = _BYTES + long, np.where(long, sizes >> 8, sizes), sizes & 0xFF
    return [Ragged(heads[np.arange(3) < (2 + long)[:, None]].tobytes(), 2 + long), head, *parts]


def _integers(values: NDArray[Any], cells: NDArray[Any], sizes: NDArray[Any]) -> None:
    """Write encoded integers into `cells`, and their sizes into `sizes`."""
    bytes_of = values.astype(">i8")[:, None].view(np.uint8)
    cells[:, 0] = bytes_of[:, 7]  # enough for -32 to 127
    for size, (first, first_negative) in _INTEGERS.items():
        # an integer needs this size if the next smaller size has too few bits
        bits = 8 * (size // 2) if size > 2 else 7
        negative = values < (-(1 << bits - 1) if size > 2 else -32)
        larger = np.flatnonzero(negative | (values >= 1 << bits))
        sizes[larger] = size
        cells[larger, 0] = np.where(negative[larger], first_negative, first)
        cells[larger, 1:size] = bytes_of[larger, 9 - size :]


def _texts(column: Column) -> Ragged:
    texts = column.to_list()
    if column.valid is None:
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        data = _encode(texts)
        head = 1 if len(texts) < 16 else 3 if len(texts) < 1 << 16 else 5
        # if this is true, each text is ASCII, and has a head of one byte
        if sizes.max(initial=0) < 32 and len(data) - head == len(texts) + sizes.sum():
            return Ragged(data[head:], sizes + 1)
    return Ragged.of([*map(_encode, texts)])
