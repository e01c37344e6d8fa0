"""Results of a view: encode them as bytes, and put the results of parts together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Dtype

Array = NDArray[Any]
Answers: TypeAlias = "dict[str, tuple[Column, Array]]"  # for each feature: its values, and the codes of their reasons

_KINDS: dict[str, Any] = {"float": "<f8", "bool": "?", "int": "<i8", "time": "<i8"}


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    dtype: Dtype
    values: bytes | list[Any]
    valid: bytes | None
    codes: bytes


def packed(answers: Answers) -> bytes:
    """Return results as bytes. The same results give the same bytes."""
    return msgspec.msgpack.encode({name: _packed(column, codes) for name, (column, codes) in answers.items()})


def unpacked(data: bytes) -> Answers:
    """Return the results in some bytes."""
    found = msgspec.msgpack.decode(data, type=dict[str, _Packed])
    return {name: (_column(p), np.frombuffer(p.codes, np.uint8)) for name, p in found.items()}


def scattered(found: Sequence[tuple[Array, Answers]], rows: int) -> Answers:
    """Return the results of all rows, put together from the results of parts.

    Each part comes with the indexes of its rows. Together, the parts have all rows.
    """
    if not found:
        return {}
    out: Answers = {}
    for name, (first, _) in found[0][1].items():
        values = np.empty(rows, first.values.dtype)
        valid = np.ones(rows, bool)
        codes = np.empty(rows, np.uint8)
        for places, answers in found:
            column, of_part = answers[name]
            values[places], valid[places], codes[places] = column.values, column.present(), of_part
        out[name] = (Column(first.dtype, values, None if valid.all() else valid), codes)
    return out


def _packed(column: Column, codes: Array) -> _Packed:
    kind = _KINDS.get(column.dtype)
    values = column.values.tolist() if kind is None else column.values.astype(kind, copy=False).tobytes()
    valid = None if column.valid is None else column.valid.tobytes()
    return _Packed(column.dtype, values, valid, codes.tobytes())


def _column(p: _Packed) -> Column:
    valid = None if p.valid is None else np.frombuffer(p.valid, bool)
    if isinstance(p.values, bytes):
        return Column(p.dtype, np.frombuffer(p.values, _KINDS[p.dtype]), valid)
    values = np.empty(len(p.values), object)
    values[:] = p.values
    return Column(p.dtype, values, valid)
