"""Tensors as the protocol defines them: named, with typed elements in row-major order."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from trimtab.core.errors import Misuse

BYTES = "BYTES"
_BF16 = "BF16"  # the upper 16 bits of an FP32
FLOATS = ("FP64", "FP32", "FP16", _BF16)
INTEGERS = ("INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8")
RAW_CODES = {  # by datatype: the format of an element in the module `struct`
    "BOOL": "?", "FP64": "d", "FP32": "f", "FP16": "e",
    "INT64": "q", "INT32": "i", "INT16": "h", "INT8": "b", "UINT64": "Q", "UINT32": "I", "UINT16": "H", "UINT8": "B",
}  # fmt: skip
DATATYPES = (*RAW_CODES, _BF16, BYTES)
_ONES = {name: struct.Struct(f"<{code}") for name, code in RAW_CODES.items()}  # convert an element from and to bytes
_SIZES = {**{name: one.size for name, one in _ONES.items()}, _BF16: 2}
_SIZE = struct.Struct("<I")  # the format of the size before each element of BYTES
_SHOWN = 40  # the maximum number of characters of a refused value in an error message


class InputTensor(msgspec.Struct, frozen=True, gc=False):
    """A tensor in a request. Either `raw` or `data` contains its elements."""

    name: str
    datatype: str
    shape: Sequence[int]
    raw: bytes | None = None  # all elements as little-endian bytes; each element of BYTES comes after its size
    data: Sequence[Any] | None = None  # the elements as a list


class OutputTensor(msgspec.Struct, frozen=True, gc=False):
    """A tensor in a response."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[Any]  # the elements as a flat list, with texts for BYTES

    def raw(self) -> bytes:
        """Return the elements as bytes.

        >>> OutputTensor("id", "BYTES", (1,), ["ab"]).raw()
        b'\\x02\\x00\\x00\\x00ab'
        """
        if self.datatype != BYTES:
            return struct.pack(f"<{len(self.values)}{RAW_CODES[self.datatype]}", *self.values)
        out = []
        for value in self.values:
            element = value.encode()
            out.append(_SIZE.pack(len(element)))
            out.append(element)
        return b"".join(out)


def row_count(tensor: InputTensor) -> int:
    """Return the number of rows of a tensor with shape [n] or [n, 1].

    Raises:
        Misuse: The tensor has another shape.
    """
    shape = tensor.shape
    if not 1 <= len(shape) <= 2 or shape[0] < 0 or (len(shape) == 2 and shape[1] != 1):
        raise Misuse(f"input {_short(tensor.name)}: shape {_shape(shape)}. Needed: [n] or [n, 1], n rows.")
    return shape[0]


def elements(tensor: InputTensor, count: int) -> Sequence[Any]:
    """Return the elements of a tensor as a flat list of numbers, booleans or texts, with None for NaN and null.

    Args:
        count: The expected number of elements. Memory is only allocated for elements that were sent.

    Raises:
        Misuse: The tensor's type is unknown, there are no elements, their size or number is wrong, or an element is not
            of the type. The message names the tensor.
    """
    name, datatype, raw = tensor.name, tensor.datatype, tensor.raw
    one = _ONES.get(datatype)
    # most tensors are a single number, so this is a fast path
    if count == 1 and raw is not None and one is not None and len(raw) == one.size:
        number = one.unpack(raw)
        return number if number[0] == number[0] else (None,)
    if datatype not in _SIZES and datatype != BYTES:
        raise Misuse(f"input {_short(name)}: datatype {_short(datatype)}. Known datatypes: {', '.join(DATATYPES)}.")
    if raw is not None:
        values = _texts(name, raw, count) if datatype == BYTES else _numbers(name, datatype, raw, count)
    elif tensor.data is not None:
        values = _given(name, datatype, tensor.data, count)
    else:
        raise Misuse(f"input {_short(name)}: has no data. Send `data`, or bytes and their number (binary_data_size).")
    return [None if v != v else v for v in values] if datatype in FLOATS else values  # NaN is not equal to itself


def _numbers(name: str, datatype: str, raw: bytes, count: int) -> Sequence[Any]:
    if len(raw) != count * _SIZES[datatype]:
        needed = f"{count} values of {datatype} (by its shape) take {count * _SIZES[datatype]} bytes"
        raise Misuse(f"input {_short(name)}: {len(raw)} bytes were sent, but {needed}.")
    if datatype == _BF16:
        halves = struct.unpack(f"<{count}H", raw)
        return struct.unpack(f"<{count}f", struct.pack(f"<{count}I", *(half << 16 for half in halves)))
    return struct.unpack(f"<{count}{RAW_CODES[datatype]}", raw)


def _texts(name: str, raw: bytes, count: int) -> list[str]:
    out: list[str] = []
    at, end = 0, len(raw)
    while at < end and len(out) < count:
        if at + 4 > end:
            raise Misuse(
                f"input {_short(name)}: the data end within the four bytes that give the size of element {len(out)}."
            )
        begin = at + 4
        at = begin + _SIZE.unpack_from(raw, at)[0]
        if at > end:
            raise Misuse(
                f"input {_short(name)}: element {len(out)} should have {at - begin} bytes, but {end - begin} are left."
            )
        out.append(_text(name, len(out), raw[begin:at]))
    if len(out) != count or at != end:
        more = f" and {end - at} bytes more" if at < end else ""
        raise Misuse(f"input {_short(name)}: {len(out)} elements{more}, but its shape says {count}.")
    return out


def _text(name: str, index: int, element: bytes) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise Misuse(
            f"input {_short(name)}: element {index} is not UTF-8 ({error.reason}). Send texts in UTF-8."
        ) from None


def _given(name: str, datatype: str, data: Sequence[Any], count: int) -> Sequence[Any]:
    """Return the elements of a tensor that were sent one by one, as JSON or as typed values."""
    if len(data) != count:
        raise Misuse(f"input {_short(name)}: {len(data)} elements, but its shape says {count}.")
    if datatype == _BF16 and data:
        raise Misuse(f"input {_short(name)}: {_BF16} can only be sent as raw bytes. Send it in binary, or as FP32.")
    if data and isinstance(data[0], list):  # a tensor of shape [n, 1] as nested lists
        for index, row in enumerate(data):
            if not isinstance(row, list) or len(row) != 1:
                raise Misuse(
                    f"input {_short(name)}: row {index} is {_short(row)}. Give [value] for each row, or all values in "
                    "one list."
                )
        data = [one[0] for one in data]
    if datatype == BYTES:
        return [
            _text(name, index, value) if isinstance(value, bytes) else _of_kind(name, datatype, index, value, str)
            for index, value in enumerate(data)
        ]
    if datatype == "BOOL":
        return [_of_kind(name, datatype, index, value, bool) for index, value in enumerate(data)]
    return [_number(name, datatype, index, value) for index, value in enumerate(data)]


def _of_kind(name: str, datatype: str, index: int, value: Any, kind: type) -> Any:
    if value is not None and type(value) is not kind:
        raise _wrong(name, datatype, index, value)
    return value


def _number(name: str, datatype: str, index: int, value: Any) -> Any:
    """Return a number rounded to the tensor's type. For example, 0.1 as FP32 is the nearest 32-bit float."""
    if value is None:
        return None
    if type(value) is not int and (type(value) is not float or datatype not in FLOATS):
        raise _wrong(name, datatype, index, value)
    one = _ONES[datatype]
    try:
        return one.unpack(one.pack(value))[0]
    except (struct.error, OverflowError):
        raise _wrong(name, datatype, index, value) from None


def _wrong(name: str, datatype: str, index: int, value: Any) -> Misuse:
    return Misuse(f"input {_short(name)}: element {index} is {_short(value)}, which is not of type {datatype}.")


def _shape(shape: Sequence[int]) -> str:
    return _cut(str(list(shape))) if len(shape) <= _SHOWN else f"of {len(shape)} dimensions"


def _short(value: Any) -> str:
    """Return a value as text for an error message.

    For a list or object, this is only its length, because `repr` fails if the value is deeply nested.
    """
    if isinstance(value, list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, str | bytes):
        value = value[: _SHOWN + 1]  # only the part that is shown
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
