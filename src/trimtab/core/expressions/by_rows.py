"""Evaluate expressions for single rows with Python closures. The results equal those of `evaluate_columns`."""

from __future__ import annotations

import math
import operator
import zoneinfo
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from trimtab.core.codegen import define
from trimtab.core.columns.data import Dtype
from trimtab.core.expressions.failed import failed
from trimtab.core.expressions.functions import function_of
from trimtab.core.expressions.nodes import GREATEST, Expression, common_dtype
from trimtab.core.expressions.primitives import INT_MAX, INT_MIN, TIME_PARTS, hash_bucket, overflow, utc_offset_us

Row: TypeAlias = Mapping[str, Any]
RowFunction: TypeAlias = Callable[[Row], Any]

_LOWEST = -GREATEST
# generated code for the value of a float column (`v` is what the row holds), and the values of its names
FLOAT_COLUMN = "None if v is None or not lowest <= v <= greatest else v + 0.0"
BOUNDS = {"lowest": _LOWEST, "greatest": GREATEST}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}


def compile_row(expression: Expression, columns: Mapping[str, Dtype], what: str = "expression") -> RowFunction:
    """Return a function that computes the value of an expression for one row.

    Args:
        columns: The types of the columns. The function only reads the columns that the expression names.
        what: The definition that contains the expression, for error messages.

    Returns:
        A function of a mapping from column names to values, with None for null and ints for times. If the expression
        fails for a row (an integer overflows, or a Python function raises an error), the value is null and the failure
        is counted (see `failed.py`). If the row lacks a needed column, the function raises KeyError, so check rows from
        outside first.

    Raises:
        Misuse: The expression does not fit the columns.

    >>> from trimtab.core.expressions.nodes import col
    >>> compile_row(col("x") * 2, {"x": "float"})({"x": 1.5})
    3.0
    """
    expression.dtype(columns, what)
    return _compile(expression, columns)[0]


class _Constant:
    """A function that returns the same value for every row."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self, row: Row) -> Any:
        return self.value


def _compile(node: Expression, columns: Mapping[str, Dtype]) -> tuple[RowFunction, Dtype]:
    dtype = node.dtype(columns, "expression")
    if node.op == "col":
        return _column(str(node.params[0]), dtype), dtype
    if node.op == "lit":
        return _Constant(node.params[1]), dtype
    args = [_compile(arg, columns) for arg in node.args]
    if node.op == "python":
        return _python(function_of(node), [function for function, _ in args]), dtype
    return _function(node, args, dtype), dtype


def _python(function: Callable[[list[Any]], Any], args: list[RowFunction]) -> RowFunction:
    return lambda row: function([arg(row) for arg in args])


def _column(name: str, dtype: Dtype) -> RowFunction:
    if dtype != "float":
        return operator.itemgetter(name)

    lines = ["def read(row):", "  v = row[name]", f"  return {FLOAT_COLUMN}"]
    read: RowFunction = define("read", lines, {"name": name, **BOUNDS}, about="a column")
    return read


def _function(node: Expression, args: list[tuple[RowFunction, Dtype]], dtype: Dtype) -> RowFunction:
    op = node.op
    if op in _COMPARE:
        common = common_dtype(args[0][1], args[1][1])
        return _binary(_COMPARE[op], *(_widen(*arg, common or "float") for arg in args))
    if op == "**":
        return _power(*(_widen(*arg, "float") for arg in args))
    if op in _ARITHMETIC:
        if dtype == "float":
            return _float_arithmetic(op, *(_widen(*arg, "float") for arg in args))
        return _int_arithmetic(op, *(_widen(f, d, "int") if d == "bool" else f for f, d in args))
    if op in ("&", "|"):
        return _kleene(op == "|", args[0][0], args[1][0])
    if op == "fill_null":
        first, second = (_widen(*arg, dtype) for arg in args)
        return lambda row: second(row) if (value := first(row)) is None else value
    if op == "when":
        condition = args[0][0]
        branches = [_widen(*arg, dtype) for arg in args[1:]]
        then, otherwise = branches[0], branches[1] if len(branches) == 2 else lambda row: None
        return lambda row: then(row) if condition(row) else otherwise(row)
    if op == "isin":
        common = args[0][1]
        for _, other in args[1:]:
            common = common_dtype(common, other) or common
        choices = frozenset(_widen(*arg, common)({}) for arg in args[1:])
        return _unary(lambda value: value in choices, _widen(*args[0], common))
    return _one_argument(node, args[0][0], args[0][1], dtype)


def _one_argument(node: Expression, arg: RowFunction, found: Dtype, dtype: Dtype) -> RowFunction:
    op, params = node.op, node.params
    match op:
        case "category":
            return arg
        case "is_null":
            return lambda row: arg(row) is None
        case "~":
            return _unary(operator.not_, arg)
        case "neg" | "abs":
            function = operator.neg if op == "neg" else operator.abs
            arg = _widen(arg, found, dtype)
            return _unary((lambda x: function(x) + 0.0) if dtype == "float" else _checked(op, function), arg)
        case "log" | "log1p" | "exp" | "sqrt":
            return _unary(_transcendental(op), _widen(arg, found, "float"))
        case "clip":
            low, high = (None if p is None else _convert(p, dtype) for p in params)
            return _unary(_clip(low, high), _widen(arg, found, dtype))
        case "bucket":
            edges: list[Any] = list(params)
            return _unary(lambda value: bisect_right(edges, value), _widen(arg, found, "float"))
        case "hash_bucket":
            n = int(params[0])  # type: ignore[arg-type]  # an int, by hash_bucket()
            return _unary(lambda value: hash_bucket(value, n), arg)
        case _:
            return _unary(_time_part(op, str(params[0])), arg)


def _unary(function: Callable[[Any], Any], arg: RowFunction) -> RowFunction:
    return lambda row: None if (value := arg(row)) is None else function(value)


def _binary(function: Callable[[Any, Any], Any], left: RowFunction, right: RowFunction) -> RowFunction:
    if isinstance(right, _Constant):
        constant = right.value
        return lambda row: None if (value := left(row)) is None else function(value, constant)

    def evaluate(row: Row) -> Any:
        a, b = left(row), right(row)
        return None if a is None or b is None else function(a, b)

    return evaluate


def _convert(value: Any, dtype: Dtype) -> Any:
    return float(value) if dtype == "float" else int(value) if dtype == "int" else value


def _widen(function: RowFunction, found: Dtype, dtype: Dtype) -> RowFunction:
    if found == dtype:
        return function
    if isinstance(function, _Constant):
        return _Constant(_convert(function.value, dtype))
    return _unary(float if dtype == "float" else int, function)


def _kleene(decisive: bool, left: RowFunction, right: RowFunction) -> RowFunction:
    """Return a function for `|` (`decisive` is True) or `&` (`decisive` is False).

    If one side has the decisive value, the result has it, too. Otherwise, if one side is null, the result is null.
    """

    def evaluate(row: Row) -> bool | None:
        a = left(row)
        if a is not None and a == decisive:
            return decisive
        b = right(row)
        if b is not None and b == decisive:
            return decisive
        return None if a is None or b is None else not decisive

    return evaluate


def _float_arithmetic(op: str, left: RowFunction, right: RowFunction) -> RowFunction:
    function = _ARITHMETIC[op]
    divides = op in ("/", "//", "%")

    def evaluate(row: Row) -> float | None:
        a, b = left(row), right(row)
        if a is None or b is None or (divides and b == 0.0):
            return None
        result = function(a, b)
        return result + 0.0 if _LOWEST <= result <= GREATEST else None

    return evaluate


def _int_arithmetic(op: str, left: RowFunction, right: RowFunction) -> RowFunction:
    function = _ARITHMETIC[op]
    divides = op in ("//", "%")

    def evaluate(row: Row) -> int | None:
        a, b = left(row), right(row)
        if a is None or b is None or (divides and b == 0):
            return None
        result: int = function(a, b)
        if INT_MIN <= result <= INT_MAX:
            return result
        failed(overflow(op, a, b))
        return None

    return evaluate


def _checked(op: str, function: Callable[[int], int]) -> Callable[[int], int | None]:
    def evaluate(value: int) -> int | None:
        result = function(value)
        if result <= INT_MAX:
            return result
        failed(overflow(op, value))
        return None

    return evaluate


def _power(left: RowFunction, right: RowFunction) -> RowFunction:
    import numpy as np

    def power(a: float, b: float) -> float | None:
        if b == 2.0:
            result = a * a
        else:
            with np.errstate(all="ignore"):
                # two rows, for the reason given in `by_columns._power`
                result = float(np.power(np.array((a, a)), np.array((b, b)))[0])
        return result + 0.0 if _LOWEST <= result <= GREATEST else None

    return _binary(power, left, right)


def _transcendental(op: str) -> Callable[[float], float | None]:
    """Return the function named `op`. NumPy is only called if the result is finite, so it never warns."""
    import numpy as np

    if op == "sqrt":
        # the square root is correctly rounded everywhere, so Python's function gives the same bits as NumPy's
        return lambda x: math.sqrt(x) if x >= 0.0 else None
    function: Callable[[float], Any] = {"log": np.log, "log1p": np.log1p, "exp": np.exp}[op]
    low, high = {"log": (0.0, math.inf), "log1p": (-1.0, math.inf), "exp": (-math.inf, 346.0)}[op]

    def evaluate(x: float) -> float | None:
        if not low < x < high:
            return None
        result = float(function(x))
        return result + 0.0 if result <= GREATEST else None

    return evaluate


def _clip(low: Any, high: Any) -> Callable[[Any], Any]:
    def clip(value: Any) -> Any:
        if low is not None and value < low:
            return low
        return high if high is not None and value > high else value

    return clip


def _time_part(op: str, tz: str) -> Callable[[int], int | None]:
    part = TIME_PARTS[op]
    if tz == "UTC":
        return part
    zone = zoneinfo.ZoneInfo(tz)

    def evaluate(at_us: int) -> int | None:
        offset_us = utc_offset_us(zone, at_us)
        local_us = at_us + offset_us
        if INT_MIN <= local_us <= INT_MAX:
            result: int = part(local_us)
            return result
        failed(overflow("+", at_us, offset_us))
        return None

    return evaluate
