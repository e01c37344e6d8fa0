"""Convert tensors to request rows. Each tensor is a column, and each element is the column's value in one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse
from trimtab.serving.answer.request_rows import RequestRows, Row
from trimtab.serving.inference.tensors import BYTES, FLOATS, INTEGERS, InputTensor, elements, row_count
from trimtab.serving.problems import InvalidField, Refused

DATATYPE_OF: dict[Dtype, str] = {"float": "FP64", "int": "INT64", "bool": "BOOL", "str": BYTES, "time": BYTES}
TAKEN: dict[Dtype, tuple[str, ...]] = {  # by type of a column: the datatypes that its tensor may have
    "float": (*FLOATS, *INTEGERS),
    # whole floats count as integers, because pandas stores integers with missing values as floats
    "int": (*INTEGERS, *FLOATS),
    "bool": ("BOOL",),
    "str": (BYTES,),
    "time": (BYTES, "INT64"),
}
EMPTY_IS_NULL = "empty_is_null"  # the parameter of a request that makes empty texts null


def check_names(tensors: Sequence[InputTensor], request_rows: RequestRows, model_inputs: Sequence[str]) -> None:
    """Raise an error for tensors that are not columns of the request, or that are sent twice.

    The check stops at the first wrong tensor, so that a request with very many tensors costs little.

    Args:
        tensors: The tensors, one for each column.
        model_inputs: The names of the model's inputs, for the error message.

    Raises:
        Misuse: A tensor is not a column, or a column is sent twice.
    """
    columns, found = request_rows.request.columns, set[str]()
    for tensor in tensors:
        name = tensor.name
        if name not in columns:
            raise _no_column(name, request_rows.names, model_inputs)
        if name in found:
            raise Misuse(f"input {name!r}: sent twice. Send one tensor for each column.")
        found.add(name)


def checked_count(tensors: Sequence[InputTensor], limit: int) -> int:
    """Return the number of rows, which must be the same in all tensors of the request.

    Raises:
        Misuse: There are no tensors, a shape is not that of a column, or the numbers of rows differ.
        Refused: There are more than `limit` rows.
    """
    if not tensors:
        raise Misuse("inputs: there are none. Send a tensor for each column of the request.")
    counts = [row_count(tensor) for tensor in tensors]
    if len(set(counts)) > 1:
        other = next(n for n, count in enumerate(counts) if count != counts[0])
        raise Misuse(
            f"inputs: {tensors[0].name!r} has {counts[0]} rows, {tensors[other].name!r} {counts[other]}. Send tensors "
            "with the same number of rows."
        )
    if counts[0] > limit:
        raise Refused(413, f"inputs: {counts[0]} rows; the limit is {limit}. Send them in parts.")
    return counts[0]


def rows_of(
    tensors: Sequence[InputTensor], count: int, request_rows: RequestRows, parameters: Mapping[str, Any]
) -> list[Row]:
    """Return the request rows from these tensors, checked.  # D94

    Args:
        tensors: The tensors, which `check_names` has checked. Columns without a tensor are null.
        count: The number of rows, as returned by `checked_count`.
        parameters: The parameters of the request. Only `empty_is_null` is used here.

    Raises:
        Misuse: The key or the time is missing, or a tensor does not have its declared type. If a row is not valid, the
            error is `InvalidField`.
    """
    columns = request_rows.request.columns
    given = {tensor.name: tensor for tensor in tensors}
    for name in (request_rows.request.key, request_rows.request.time):
        if name not in given:
            raise Misuse(
                f"input {name!r}: is missing. Key and time of a request are needed; other columns may be null."
            )
    empty_is_null = parameters.get(EMPTY_IS_NULL) is True
    values = [
        _column(given[name], columns[name], count, empty_is_null) if name in given else repeat(None, count)
        for name in request_rows.names
    ]
    rows = [dict(zip(request_rows.names, row, strict=True)) for row in zip(*values, strict=True)]
    try:
        return request_rows.check(rows)
    except InvalidField as error:
        raise _as_input(error) from error


def _column(tensor: InputTensor, dtype: Dtype, count: int, empty_is_null: bool) -> Sequence[Any]:
    """Return the values of one column, with None for null."""
    datatype = tensor.datatype
    if datatype not in TAKEN[dtype]:
        raise Misuse(
            f"input {tensor.name!r}: datatype {datatype[:20]!r}, but the column is declared {dtype}. Send "
            f"{' or '.join(TAKEN[dtype])}."
        )
    values = elements(tensor, count)
    if dtype == "int" and datatype in FLOATS:
        return [_whole(tensor.name, index, value) for index, value in enumerate(values)]
    if empty_is_null and datatype == BYTES:
        return [value or None for value in values]
    return values


def _whole(name: str, index: int, value: float | None) -> int | None:
    if value is None:
        return None
    if not value.is_integer():  # infinity is refused as well
        raise Misuse(
            f"input {name!r}: element {index} is {value!r}, but the column is declared int. Send whole numbers."
        )
    return int(value)


def _no_column(name: str, names: Sequence[str], model_inputs: Sequence[str]) -> Misuse:
    shown = name[:60]
    if name in model_inputs:
        return Misuse(
            f"input {shown!r} is a feature, which the service computes. Send the columns of the request instead: "
            f"{', '.join(names)}."
        )
    return Misuse(f"input {shown!r} is not a column of the request. The columns are {', '.join(names)}.")


def _as_input(error: InvalidField) -> InvalidField:
    """Return an error about a row as an error about an element of a tensor."""
    row, _, name = error.pointer.partition("].")
    said = f"input {error.field!r}, element {row.removeprefix('rows[')}"
    text = str(error).replace(f"{error.pointer}: ", f"{said}: ", 1) if name else str(error)
    return InvalidField(text, field=error.field, pointer=error.pointer)
