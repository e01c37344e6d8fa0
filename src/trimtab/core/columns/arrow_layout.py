"""Convert Arrow arrays in memory to columns. The data are not trusted, so every access is checked for its bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from struct import Struct
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.column import Column, Dtype, WrongColumn, float_column
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US

Bytes = NDArray[np.uint8]

_SAMPLE = 1_000  # this many texts are compared, to decide whether most texts of a column differ
_WIDTHS = "c=i1 C=u1 s=i2 S=u2 i=i4 I=u4 l=i8 L=u8 e=f2 f=f4 g=f8"
_NUMBERS = {pair[0]: "<" + pair[2:] for pair in _WIDTHS.split()}
# for each format: the type of the stored numbers, microseconds per unit, units per microsecond
_TIMES = {"tdD": ("<i4", DAY_US, 1), "tdm": ("<i8", 1_000, 1)}
_TIMES |= {"tss": ("<i8", 1_000_000, 1), "tsm": ("<i8", 1_000, 1), "tsu": ("<i8", 1, 1), "tsn": ("<i8", 1, 1_000)}
# words for unsupported formats, by the beginning of the format
_NAMES = {"w:": "bytes", "td": "durations", "tD": "durations", "tt": "times of day", "ti": "intervals", "vz": "bytes"}
_NAMES |= {"z": "bytes", "Z": "bytes", "+s": "structs", "+m": "maps", "+u": "unions", "+r": "run-end-encoded values"}
_NAMES |= {"+l": "lists", "+L": "lists", "+v": "lists", "+w": "lists"}
INTERVALS = {"tiM": 4, "tiD": 8, "tin": 16}  # formats of intervals, with the bytes per value
_VIEW = Struct("<iiii")
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1


class Piece(msgspec.Struct, frozen=True, eq=False):
    """One Arrow array: its format string (of Arrow's C data interface) and its buffers. A buffer may be None."""

    name: str
    format: str
    rows: int
    buffers: Sequence[Bytes | None]
    offset: int = 0  # the position of the first row in the buffers
    dictionary: Column | None = None  # if given, the buffers have positions in this column instead of values


def read_piece(piece: Piece) -> Column:
    """Return the values of an Arrow array as a column.

    Decimals without digits after the point become integers if all of the array fit in 64 bits. Other decimals become
    the nearest double. Times are rounded down to microseconds. A time that does not fit in 64 bits becomes the first or
    last that does.

    Raises:
        Misuse: No column can hold values of this type, or the buffers do not fit together.
    """
    kind = piece.format
    if piece.dictionary is not None:
        return _of_dictionary(piece, piece.dictionary)
    valid = _valid(piece)
    if kind == "n":
        return Column("float", np.full(piece.rows, np.nan), np.zeros(piece.rows, bool))
    if kind == "b":
        values = _bits(piece, 1)
        return _column("bool", values if valid is None else values & valid, valid)
    if kind in _NUMBERS:
        return _number(piece, _fixed(piece, _NUMBERS[kind]), valid)
    if kind[:3] in _TIMES:
        return _column("time", _times(_fixed(piece, _TIMES[kind[:3]][0]), *_TIMES[kind[:3]][1:]), valid)
    if kind in ("u", "U"):
        return _offset_texts(piece, "<i4" if kind == "u" else "<i8", valid)
    if kind == "vu":
        return _views(piece, valid)
    if kind.startswith("d:"):
        return _decimals(piece, valid)
    named = next((text for start, text in _NAMES.items() if kind.startswith(start)), f"format {kind!r}")
    raise WrongColumn(
        f"column {piece.name!r} holds {named}; a column can hold numbers, text, booleans, dates and timestamps. Leave "
        "it out, or convert it to one of these.",
        column=piece.name,
    )


def join_columns(parts: Sequence[Column]) -> Column:
    """Return columns joined end to end. The result of joining int and float columns is a float column."""
    dtypes = {part.dtype for part in parts}
    if dtypes == {"int", "float"}:
        parts = [part if part.dtype == "float" else floats_of(part) for part in parts]
    if len(parts) == 1:
        return parts[0]
    gaps = any(part.valid is not None for part in parts)
    valid = np.concatenate([part.present() for part in parts]) if gaps else None
    return Column(parts[0].dtype, np.concatenate([part.values for part in parts]), valid)


def floats_of(column: Column) -> Column:
    """Return an int column as a float column. Each value becomes the nearest float."""
    return float_column(np.where(column.present(), column.values.astype(np.float64), np.nan))


def is_exact(kind: str) -> bool:
    """Return whether a `Column` can hold values of this format without changing them."""
    return kind in ("n", "b", "u", "U", "vu") or kind in _NUMBERS or kind[:3] in _TIMES


def buffer_bytes(kind: str, end: int) -> list[int]:
    """Return how many bytes `end` values of a format need in each buffer. Buffers with characters are left out."""
    bitmap = (end + 7) // 8
    if kind == "b":
        return [bitmap, bitmap]
    if kind in _NUMBERS:
        return [bitmap, end * np.dtype(_NUMBERS[kind]).itemsize]
    if kind[:3] in _TIMES:
        return [bitmap, end * np.dtype(_TIMES[kind[:3]][0]).itemsize]
    if kind in ("u", "U"):
        return [bitmap, (end + 1) * (4 if kind == "u" else 8)]
    if kind == "vu":
        return [bitmap, end * 16]
    if kind in INTERVALS:
        return [bitmap, end * INTERVALS[kind]]
    return [bitmap, end * _decimal(kind)[1]] if kind.startswith("d:") else []


def read_intervals(piece: Piece) -> list[bytes | None]:
    """Return the values of an array of intervals as their bytes in memory."""
    valid = _valid(piece)
    raw = _fixed(piece, f"V{INTERVALS[piece.format]}")
    there = np.ones(piece.rows, bool) if valid is None else valid
    return [value.tobytes() if ok else None for value, ok in zip(raw, there.tolist(), strict=True)]


def _column(dtype: Dtype, values: NDArray[Any], valid: NDArray[Any] | None) -> Column:
    if valid is not None and valid.all():
        valid = None
    if valid is not None and dtype in ("int", "time"):
        values = np.where(valid, values, 0)
    return Column(dtype, values, valid)


def _number(piece: Piece, values: NDArray[Any], valid: NDArray[Any] | None) -> Column:
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # NumPy would warn about signalling NaNs
            floats = values.astype(np.float64, copy=False)
        return float_column(floats if valid is None else np.where(valid, floats, np.nan))
    if values.dtype == np.uint64:
        there = values if valid is None else values[valid]
        # integers above the largest int64 become the nearest double, like all integers in a float column
        if len(there) and int(there.max()) > _INT_MAX:
            return float_column(np.where(True if valid is None else valid, values.astype(np.float64), np.nan))
    return _column("int", values.astype(np.int64), valid)


def _times(values: NDArray[Any], times: int, divided_by: int) -> NDArray[Any]:
    wide = values.astype(np.int64)
    if divided_by > 1 or times == 1:
        return wide if divided_by == 1 else np.floor_divide(wide, divided_by)
    limit = _INT_MAX // times
    return np.where(wide > limit, _INT_MAX, np.where(wide < -limit, _INT_MIN, wide * times))


def _of_dictionary(piece: Piece, words: Column) -> Column:
    valid = _valid(piece)
    kind = _NUMBERS.get(piece.format, "<f8")
    if "f" in kind:
        raise _broken(piece, f"a dictionary's indices are of format {piece.format!r}")
    indices = _fixed(piece, kind).astype(np.int64)
    if valid is not None:
        indices = np.where(valid, indices, 0)
    there = indices if valid is None else indices[valid]
    if len(there) and (int(there.min()) < 0 or int(there.max()) >= len(words)):
        raise _broken(piece, f"an index is outside its dictionary of {len(words)} values")
    if not len(words):
        words = Column(words.dtype, _placeholder(words.dtype), np.zeros(1, bool))
    found = words.take(indices)
    present = found.present() if valid is None else found.present() & valid
    values = found.values
    if not present.all():
        values = values.copy()
        values[~present] = _placeholder(words.dtype)[0]
    return Column(words.dtype, values, None if present.all() else present)


def _placeholder(dtype: Dtype) -> NDArray[Any]:
    if dtype == "str":
        return np.array([None], object)
    return np.array([np.nan if dtype == "float" else 0], {"float": np.float64, "bool": np.bool_}.get(dtype, np.int64))


def _texts(
    piece: Piece, parts: Sequence[bytes], valid: NDArray[Any] | None, text_of: Callable[[bytes], bytes] = bytes
) -> Column:
    """Return a column of texts. Equal texts share one Python object.

    Args:
        parts: For each row, bytes that identify its text.
        text_of: Returns the text, in UTF-8, that an item of `parts` identifies.
    """
    there: Sequence[bytes | None] = parts
    if valid is not None:
        there = [part if ok else None for part, ok in zip(parts, valid.tolist(), strict=True)]
    known: dict[bytes | None, str | None] = dict.fromkeys(there)
    shared: dict[str, str] = {}
    try:
        for part in known:
            if part is not None:
                text = text_of(part).decode()
                known[part] = shared.setdefault(text, text)
    except UnicodeDecodeError as error:
        raise _broken(piece, f"a text is not UTF-8 ({error.reason})") from error
    values = np.empty(piece.rows, object)
    values[:] = list(map(known.__getitem__, there))
    return _column("str", values, valid)


def _offset_texts(piece: Piece, kind: str, valid: NDArray[Any] | None) -> Column:
    """Read an array that has an offset for each text, and all texts in one buffer."""
    if not piece.rows:
        return _texts(piece, [], valid)
    offsets = _typed(piece, 1, kind, piece.offset, piece.rows + 1).astype(np.int64)
    data = piece.buffers[2]
    size = 0 if data is None else len(data)
    if offsets[0] < 0 or offsets[-1] > size or (np.diff(offsets) < 0).any():
        raise _broken(piece, "its texts lie outside their buffer")
    begin = int(offsets[0])
    encoded = b"" if data is None else data[begin : int(offsets[-1])].tobytes()
    bounds = (offsets - begin).tolist()
    if valid is None and encoded.isascii():
        text = encoded.decode()
        first = [text[a:b] for a, b in pairwise(bounds[: _SAMPLE + 1])]
        if len(set(first)) > len(first) // 2:  # otherwise it takes less memory to make one object for equal texts
            values = np.empty(piece.rows, object)
            values[:] = first if piece.rows <= _SAMPLE else [text[a:b] for a, b in pairwise(bounds)]
            return Column("str", values)
    return _texts(piece, [encoded[a:b] for a, b in pairwise(bounds)], valid)


def _views(piece: Piece, valid: NDArray[Any] | None) -> Column:
    """Read an array of views. A view has a short text, or the place of a long text in a buffer."""
    held: list[bytes] = [b"" if data is None else data.tobytes() for data in piece.buffers[2:]]
    # limit the total size, because many views of one long text could take far more memory than the buffers
    left = 4 * sum(map(len, held)) + 16 * piece.rows

    def text_of(view: bytes) -> bytes:
        nonlocal left
        size, _, buffer, at = _VIEW.unpack(view)
        if 0 <= size <= 12:
            return view[4 : 4 + size]
        left -= size
        if size < 0 or left < 0 or not 0 <= buffer < len(held) or not 0 <= at <= len(held[buffer]) - size:
            raise _broken(piece, "its texts lie outside their buffers")
        text: bytes = held[buffer][at : at + size]
        return text

    views = _typed(piece, 1, "V16", piece.offset, piece.rows)
    if valid is None and (texts := _short_texts(views)) is not None:
        return Column("str", texts)
    return _texts(piece, views.tolist(), valid, text_of)


def _short_texts(views: NDArray[Any]) -> NDArray[Any] | None:
    """Return the texts of views as Python objects, if all are short and ASCII, and most seem to differ; else None."""
    if len(set(views[:_SAMPLE].tolist())) <= min(len(views), _SAMPLE) // 2:
        return None  # it takes less time and memory to make one object for equal texts
    sizes, letters = views.view("<i4")[::4], views.view(np.uint8).reshape(-1, 16)[:, 4:]
    if sizes.min() < 0 or sizes.max() > letters.shape[1]:
        return None
    longest = max(int(sizes.max()), 1)
    letters = np.where(np.arange(longest) < sizes[:, None], letters[:, :longest], 0).astype(np.uint32)
    if letters.max() > 127 or np.count_nonzero(letters) != sizes.sum():  # NumPy would drop a zero at the end of a text
        return None
    texts: NDArray[Any] = letters.view(f"U{longest}").ravel().astype(object)
    return texts


def _decimals(piece: Piece, valid: NDArray[Any] | None) -> Column:
    scale, width = _decimal(piece.format)
    raw = _typed(piece, 1, f"V{width}", piece.offset, piece.rows).tobytes()
    present = [True] * piece.rows if valid is None else valid.tolist()
    whole = [int.from_bytes(raw[i * width : (i + 1) * width], "little", signed=True) for i in range(piece.rows)]
    if scale == 0 and all(_INT_MIN <= n <= _INT_MAX for n, ok in zip(whole, present, strict=True) if ok):
        return _column("int", np.array([n if ok else 0 for n, ok in zip(whole, present, strict=True)], np.int64), valid)
    # Python rounds a quotient of integers only once, to the nearest double
    value: Callable[[int], float] = (lambda n: n / 10**scale) if scale >= 0 else (lambda n: float(n * 10**-scale))
    return float_column(np.array([value(n) if ok else np.nan for n, ok in zip(whole, present, strict=True)], float))


def _decimal(kind: str) -> tuple[int, int]:
    """Return the scale and the width in bytes of a decimal format, "d:precision,scale[,bits]"."""
    try:
        _, scale, *bits = map(int, kind[2:].split(","))
    except ValueError:
        scale, bits = 1_000, []
    width = (bits[0] if bits else 128) // 8
    if not (-100 <= scale <= 100 and width in (4, 8, 16, 32)):
        raise Misuse(f"Arrow data: format {kind!r} is not a decimal. Write it again.")
    return scale, width


def _valid(piece: Piece) -> NDArray[np.bool_] | None:
    if piece.format == "n" or not piece.buffers or piece.buffers[0] is None or not len(piece.buffers[0]):
        return None
    return _bits(piece, 0)


def _bits(piece: Piece, number: int) -> NDArray[np.bool_]:
    first, end = piece.offset, piece.offset + piece.rows
    packed = _typed(piece, number, "u1", first // 8, (end + 7) // 8 - first // 8) if piece.rows else np.empty(0, "u1")
    bits = np.unpackbits(packed, bitorder="little")
    return bits[first % 8 : first % 8 + piece.rows].astype(bool)


def _fixed(piece: Piece, kind: str) -> NDArray[Any]:
    return _typed(piece, 1, kind, piece.offset, piece.rows)


def _typed(piece: Piece, number: int, kind: str, first: int, count: int) -> NDArray[Any]:
    """Return `count` values of a buffer, beginning at index `first`."""
    dtype = np.dtype(kind)
    data = piece.buffers[number] if number < len(piece.buffers) else None
    if not count:
        return np.empty(0, dtype)
    size = 0 if data is None else len(data)
    if data is None or (first + count) * dtype.itemsize > size:
        raise _broken(piece, f"{piece.rows} rows do not fit a buffer of {size} bytes")
    return np.frombuffer(data, dtype, count, first * dtype.itemsize)


def _broken(piece: Piece, why: str) -> Misuse:
    return WrongColumn(f"column {piece.name!r}: damaged Arrow data: {why}. Write it again.", column=piece.name)
