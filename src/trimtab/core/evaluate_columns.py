"""Expressions over whole columns: NumPy, the bits of `compile_row`."""

from __future__ import annotations

import zoneinfo
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns import Column, Columns, Dtype, column
from trimtab.core.errors import Misuse
from trimtab.core.expressions import GREATEST, Expression, common_dtype
from trimtab.core.functions import function_of
from trimtab.core.primitives import TIME_PARTS, hash_bucket, overflow, utc_offset_us
from trimtab.core.time import MINUTE_US

Array = NDArray[Any]

_COMPARE = {
    "==": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}
_FLOATS = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "//": np.floor_divide,
    "%": np.remainder,
    "log": np.log,
    "log1p": np.log1p,
    "exp": np.exp,
    "sqrt": np.sqrt,
    "neg": np.negative,
    "abs": np.abs,
}
_INT_MIN = np.int64(-(2**63))
_QUARTER_US = 15 * MINUTE_US


def evaluate_columns(expression: Expression, columns: Columns, what: str = "expression") -> Column:
    """The expression's value in every row.

    Raises:
        Misuse: The expression does not fit the columns, or an integer overflows.

    >>> from trimtab.core.expressions import col
    >>> evaluate_columns(col("x") * 2, Columns.of({"x": ("int", [1, None])})).to_list()
    [2, None]
    """
    expression.dtype({name: c.dtype for name, c in columns.by_name.items()}, what)
    with np.errstate(all="ignore"):
        return _evaluate(expression, columns)


def _evaluate(node: Expression, columns: Columns) -> Column:
    if node.op == "col":
        found = columns[str(node.params[0])]
        return _float(found.values) if found.dtype == "float" else found
    if node.op == "lit":
        return _constant(node, columns.rows)
    if node.op in ("&", "|", "fill_null", "when"):
        return _branches(node, columns)
    args = [_evaluate(arg, columns) for arg in node.args]
    if node.op == "python":
        return _python(node, args, columns)
    if node.op in _COMPARE:
        common = common_dtype(args[0].dtype, args[1].dtype) or "float"
        a, b = (_widen(arg, common) for arg in args)
        return _finish("bool", np.asarray(_COMPARE[node.op](a.values, b.values), bool), _both(a, b))
    if node.op in ("+", "-", "*", "/", "//", "%", "**"):
        return _arithmetic(node.op, *args)
    if node.op == "isin":
        return _is_in(args[0], node.args[1:])
    return _one_argument(node, args[0])


def _python(node: Expression, args: list[Column], columns: Columns) -> Column:
    """A plain Python function, row by row."""
    function = function_of(node)
    dtype: Dtype = node.params[1]  # type: ignore[assignment]  # transform() wrote it
    if not args:
        return column(dtype, [function(())] * columns.rows)
    return column(dtype, list(map(function, zip(*(arg.to_list() for arg in args), strict=True))))


def _branches(node: Expression, columns: Columns) -> Column:
    """The functions that may not need all their arguments in every row."""
    first = _evaluate(node.args[0], columns)
    present = first.present()
    if node.op == "when":
        chosen = first.values & present
        then = _where(chosen, node.args[1], columns)
        return _choose(chosen, then, _where(~chosen, node.args[2], columns) if len(node.args) == 3 else _nulls(then))
    if node.op == "fill_null":
        return _choose(present, first, _where(~present, node.args[1], columns))
    decisive = node.op == "|"
    return _kleene(decisive, first, _where(~present | (first.values != decisive), node.args[1], columns))


def _where(needed: Array, node: Expression, columns: Columns) -> Column:
    """The value where it is needed: an integer that overflows elsewhere, where no row would ask for it, is no error."""
    try:
        return _evaluate(node, columns)
    except Misuse:
        rows = np.flatnonzero(needed)
        part = _evaluate(node, columns.take(rows))
        values, valid = np.zeros(len(needed), part.values.dtype), np.zeros(len(needed), bool)
        values[rows], valid[rows] = part.values, part.present()
        return _finish(part.dtype, values, valid)


def _one_argument(node: Expression, arg: Column) -> Column:
    match node.op:
        case "category":
            return arg
        case "is_null":
            return Column("bool", ~arg.present())
        case "~":
            return _finish("bool", ~arg.values, arg.valid)
        case "log" | "log1p" | "exp" | "sqrt":
            return _float(_FLOATS[node.op](_widen(arg, "float").values))
        case "neg" | "abs":
            if arg.dtype == "float":
                return _float(_FLOATS[node.op](arg.values))
            values = _widen(arg, "int").values
            if (values == _INT_MIN).any():
                raise Misuse(overflow(node.op, _INT_MIN))
            return Column("int", _FLOATS[node.op](values), arg.valid)
        case "clip":
            return _clip(arg, *node.params)
        case "bucket":
            edges = np.array(node.params, np.float64)
            return _finish("int", np.searchsorted(edges, _widen(arg, "float").values, "right"), arg.valid)
        case "hash_bucket":
            n = int(node.params[0])  # type: ignore[arg-type]  # an int, by hash_bucket()
            return _hash_bucket(arg, n)
        case op:
            local = arg.values + _offsets(arg.values, str(node.params[0]))
            return _finish("int", TIME_PARTS[op](local), arg.valid)


def _constant(node: Expression, rows: int) -> Column:
    dtype: Dtype = node.params[0]  # type: ignore[assignment]  # lit() wrote it
    kind = {"float": np.float64, "bool": np.bool_, "str": np.object_}.get(dtype, np.int64)
    values: Array = np.empty(rows, kind)
    values.fill(node.params[1])  # `np.full` and a comparison with a bare text take away the NULs that it ends with
    return Column(dtype, values)


def _float(values: Array) -> Column:
    """A float result: what is not a finite number up to 1e150 is null, and -0.0 is 0.0."""
    if len(values) == 0 or (values.min() >= -GREATEST and values.max() <= GREATEST):  # False when there is a NaN
        return Column("float", values + 0.0)
    present = np.abs(values) <= GREATEST
    return Column("float", np.where(present, values + 0.0, np.nan), present)


def _finish(dtype: Dtype, values: Array, valid: Array | None) -> Column:
    """A column with the placeholder where it is null."""
    if valid is None or valid.all():
        return Column(dtype, values)
    return Column(
        dtype, np.where(valid, values, {"str": None, "float": np.nan}.get(dtype, values.dtype.type(0))), valid
    )


def _both(a: Column, b: Column) -> Array | None:
    return None if a.valid is None and b.valid is None else a.present() & b.present()


def _widen(column: Column, dtype: Dtype) -> Column:
    if column.dtype == dtype:
        return column
    kind = np.float64 if dtype == "float" else np.int64
    return _finish(dtype, column.values.astype(kind), column.valid)


def _nulls(like: Column) -> Column:
    none = np.zeros(len(like), bool)
    if len(like) == 0:
        return like
    return _finish(like.dtype, like.values, none)


def _choose(first: Array, one: Column, other: Column) -> Column:
    dtype = common_dtype(one.dtype, other.dtype) or "float"
    a, b = _widen(one, dtype), _widen(other, dtype)
    valid = None if a.valid is None and b.valid is None else np.where(first, a.present(), b.present())
    return _finish(dtype, np.where(first, a.values, b.values), valid)


def _kleene(decisive: bool, a: Column, b: Column) -> Column:
    x, y = a.present(), b.present()
    decided = (x & (a.values == decisive)) | (y & (b.values == decisive))
    return _finish("bool", decided == decisive, decided | (x & y))


def _is_in(arg: Column, literals: tuple[Expression, ...]) -> Column:
    common = arg.dtype
    for literal in literals:
        common = common_dtype(common, _constant(literal, 0).dtype) or common
    choices = [_widen(_constant(literal, 1), common).values for literal in literals]  # one value each
    arg = _widen(arg, common)
    hits = np.zeros(len(arg), bool)
    for choice in choices:
        hits |= np.asarray(arg.values == choice, bool)
    return _finish("bool", hits, arg.valid)


def _clip(arg: Column, low: Any, high: Any) -> Column:
    dtype: Dtype = "float" if arg.dtype == "float" or isinstance(low, float) or isinstance(high, float) else "int"
    arg = _widen(arg, dtype)
    values = arg.values
    if low is not None:
        values = np.where(values < low, values.dtype.type(low), values)
    if high is not None:
        values = np.where(values > high, values.dtype.type(high), values)
    return _finish(dtype, values, arg.valid)


def _hash_bucket(arg: Column, n: int) -> Column:
    present = arg.present()
    values = np.zeros(len(arg), np.int64)
    known: dict[Any, int] = {}
    for row in np.flatnonzero(present):
        value = arg.values[row] if arg.dtype == "str" else arg.values[row].item()
        if (bucket := known.get(value)) is None:
            bucket = known[value] = hash_bucket(value, n)
        values[row] = bucket
    return _finish("int", values, arg.valid)


def _offsets(at_us: Array, tz: str) -> Array | int:
    """UTC offsets, asked of the zone once a quarter of an hour, or for each row where it changes inside one."""
    if tz == "UTC":
        return 0
    zone = zoneinfo.ZoneInfo(tz)
    quarters, where = np.unique(at_us // _QUARTER_US, return_inverse=True)
    starts = [int(q) * _QUARTER_US for q in quarters]
    first = np.array([utc_offset_us(zone, at) for at in starts], np.int64)
    last = np.array([utc_offset_us(zone, at + _QUARTER_US - 1) for at in starts], np.int64)
    offsets: Array = first[where]
    for row in np.flatnonzero((first != last)[where]):
        offsets[row] = utc_offset_us(zone, int(at_us[row]))
    return offsets


def _arithmetic(op: str, a: Column, b: Column) -> Column:
    if op == "**":
        return _power(_widen(a, "float").values, _widen(b, "float").values)
    if op == "/" or "float" in (a.dtype, b.dtype):
        x, y = _widen(a, "float").values, _widen(b, "float").values
        if op in ("/", "//", "%"):
            y = np.where(y == 0.0, np.nan, y)
        return _float(_FLOATS[op](x, y))
    dtype: Dtype = "time" if (a.dtype == "time") != (b.dtype == "time") else "int"
    x, y = (c.values.astype(np.int64, copy=False) for c in (a, b))
    valid = _both(a, b)
    if op in ("//", "%"):
        valid = (y != 0) if valid is None else valid & (y != 0)
        y = np.where(y == 0, 1, y)
    values, wrong = _int_arithmetic(op, x, y)
    if valid is not None:
        wrong = wrong & valid
    if wrong.any():
        row = int(np.argmax(wrong))
        raise Misuse(overflow(op, int(x[row]), int(y[row])))
    return _finish(dtype, values, valid)


def _int_arithmetic(op: str, x: Array, y: Array) -> tuple[Array, Array]:
    """The result modulo 2**64, and where it overflowed."""
    match op:
        case "+":
            values = x + y
            return values, ((x ^ values) & (y ^ values)) < 0
        case "-":
            values = x - y
            return values, ((x ^ y) & (x ^ values)) < 0
        case "*":
            values = x * y
            nonzero = np.where(x == 0, 1, x)
            return values, ((x != 0) & (values // nonzero != y)) | ((x == -1) & (y == _INT_MIN))
        case "//":
            return x // y, (x == _INT_MIN) & (y == -1)
        case _:
            return x % y, np.zeros(len(x), bool)


def _power(x: Array, y: Array) -> Column:
    # NumPy takes shortcuts (a square, a root) for what looks like a constant exponent, one row included, and these
    # round otherwise than its general loop: so both evaluators hand it at least two rows of each.
    rows = len(x)
    values = np.power(np.resize(x, 2), np.resize(y, 2))[:rows] if rows == 1 else np.power(x, y)
    values = np.where(y == 2.0, x * x, values)  # in both evaluators: the usual case is quick in rows
    return _float(np.where(np.isnan(x) | np.isnan(y), np.nan, values))  # IEEE says 1 to NaN**0; null stays null
