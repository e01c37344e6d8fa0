"""Evaluate expressions over whole columns with NumPy. The results equal those of `compile_row`, bit for bit."""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns, Dtype, column
from trimtab.core.expressions.failed import failures
from trimtab.core.expressions.functions import function_of
from trimtab.core.expressions.nodes import GREATEST, Expression, common_dtype
from trimtab.core.expressions.primitives import TIME_PARTS, hash_bucket, overflow, utc_offset_us
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


class Evaluated(NamedTuple):
    """The values of an expression for all rows, and the rows for which it failed."""

    column: Column
    failed: Array | None  # True for rows in which a needed part of the expression failed; None: it failed in no row
    error: str  # the message of the first failure


def evaluate_columns(expression: Expression, columns: Columns, what: str = "expression") -> Column:
    """Return the value of an expression for every row. It is null where the expression fails; see `evaluate_marked`.

    Raises:
        Misuse: The expression does not fit the columns.

    >>> from trimtab.core.expressions.nodes import col
    >>> evaluate_columns(col("x") * 2, Columns.of({"x": ("int", [1, None])})).to_list()
    [2, None]
    """
    return evaluate_marked(expression, columns, what).column


def evaluate_marked(
    expression: Expression, columns: Columns, what: str = "expression", needed: Array | None = None
) -> Evaluated:
    """Return the value of an expression for every row, and mark the rows for which it fails.

    The expression fails where an integer overflows or a Python function raises an error.

    Args:
        columns: The columns that the expression reads.
        what: The definition that contains the expression, for error messages.
        needed: A boolean array: the rows whose values will be used. Other rows cannot fail. None: all rows.

    Raises:
        Misuse: The expression does not fit the columns.

    >>> from trimtab.core.expressions.nodes import col
    >>> found = evaluate_marked(col("x") * 4, Columns.of({"x": ("int", [1, 2**62])}))
    >>> found.column.to_list(), found.failed.tolist()
    ([4, None], [False, True])
    """
    expression.dtype({name: c.dtype for name, c in columns.by_name.items()}, what)
    evaluation = _Evaluation(columns)
    with np.errstate(all="ignore"):
        return Evaluated(evaluation.of(expression, needed), evaluation.failed, evaluation.error)


class _Evaluation:
    """One evaluation over columns, which collects the rows in which a node (a part of the expression) fails."""

    def __init__(self, columns: Columns) -> None:
        self.failed: Array | None = None
        self.error = ""
        self._columns = columns

    def of(self, node: Expression, needed: Array | None) -> Column:
        """Return the values of a node. In rows that are not needed, they are arbitrary."""
        if node.op == "col":
            found = self._columns[str(node.params[0])]
            return _float(found.values) if found.dtype == "float" else found
        if node.op == "lit":
            return _constant(node, self._columns.rows)
        if node.op in ("&", "|", "fill_null", "when"):
            return self._branches(node, needed)
        args = [self.of(arg, needed) for arg in node.args]
        if node.op == "python":
            return self._python(node, args, needed)
        if node.op in _COMPARE:
            common = common_dtype(args[0].dtype, args[1].dtype) or "float"
            a, b = (_widen(arg, common) for arg in args)
            return _finish("bool", np.asarray(_COMPARE[node.op](a.values, b.values), bool), _both(a, b))
        if node.op in ("+", "-", "*", "/", "//", "%", "**"):
            return self._arithmetic(node.op, args[0], args[1], needed)
        if node.op == "isin":
            return _is_in(args[0], node.args[1:])
        return self._one_argument(node, args[0], needed)

    def _fail(self, wrong: Array, needed: Array | None, error: Callable[[int], str]) -> None:
        """Of the rows where a node fails, mark those that are needed. `error` returns the reason for one row."""
        if needed is not None:
            wrong = wrong & needed
        if wrong.any():
            self.error = self.error or error(int(np.argmax(wrong)))
            self.failed = wrong if self.failed is None else self.failed | wrong

    def _branches(self, node: Expression, needed: Array | None) -> Column:
        """Evaluate a node that does not need all arguments in every row, such as `when`."""
        first = self.of(node.args[0], needed)
        present = first.present()
        if node.op == "when":
            chosen = first.values & present
            then = self.of(node.args[1], _and(chosen, needed))
            return _choose(
                chosen, then, self.of(node.args[2], _and(~chosen, needed)) if len(node.args) == 3 else _nulls(then)
            )
        if node.op == "fill_null":
            return _choose(present, first, self.of(node.args[1], _and(~present, needed)))
        decisive = node.op == "|"
        undecided = ~present | (first.values != decisive)
        return _kleene(decisive, first, self.of(node.args[1], _and(undecided, needed)))

    def _python(self, node: Expression, args: list[Column], needed: Array | None) -> Column:
        """Call a Python function for each row whose value is needed."""
        function = function_of(node)
        dtype: Dtype = node.params[1]  # type: ignore[assignment]  # transform() wrote it
        rows = self._columns.rows
        places = np.arange(rows) if needed is None else np.flatnonzero(needed)
        if needed is not None:
            args = [arg.take(places) for arg in args]
        given = list(zip(*(arg.to_list() for arg in args), strict=True)) if args else [()] * len(places)
        before = failures.count
        found = list(map(function, given))
        if failures.count != before:
            # call the function again for each null, to find out in which rows it failed
            nulls = [(place, given[n]) for n, place in enumerate(places.tolist()) if found[n] is None]
            errors = {place: _error_of(function, values) for place, values in nulls}
            wrong = np.zeros(rows, bool)
            wrong[[place for place, error in errors.items() if error]] = True
            self._fail(wrong, None, errors.__getitem__)
        if needed is None:
            return column(dtype, found)
        part = column(dtype, found)
        values, valid = np.zeros(rows, part.values.dtype), np.zeros(rows, bool)
        values[places], valid[places] = part.values, part.present()
        return _finish(dtype, values, valid)

    def _arithmetic(self, op: str, a: Column, b: Column, needed: Array | None) -> Column:
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
        return self._integers(dtype, values, valid, wrong, needed, lambda row: overflow(op, int(x[row]), int(y[row])))

    def _integers(
        self,
        dtype: Dtype,
        values: Array,
        valid: Array | None,
        wrong: Array,
        needed: Array | None,
        error: Callable[[int], str],
    ) -> Column:
        """Return a column of integers. Where `wrong` is True, the value is null and the row is marked as failed."""
        if valid is not None:
            wrong = wrong & valid
        if wrong.any():
            self._fail(wrong, needed, error)
            valid = ~wrong if valid is None else valid & ~wrong
        return _finish(dtype, values, valid)

    def _one_argument(self, node: Expression, arg: Column, needed: Array | None) -> Column:
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
                x = _widen(arg, "int").values
                error = overflow(node.op, int(_INT_MIN))
                return self._integers("int", _FLOATS[node.op](x), arg.valid, x == _INT_MIN, needed, lambda row: error)
            case "clip":
                return _clip(arg, *node.params)
            case "bucket":
                edges = np.array(node.params, np.float64)
                return _finish("int", np.searchsorted(edges, _widen(arg, "float").values, "right"), arg.valid)
            case "hash_bucket":
                n = int(node.params[0])  # type: ignore[arg-type]  # an int, by hash_bucket()
                return _hash_bucket(arg, n)
            case op:
                return self._time_part(op, str(node.params[0]), arg, needed)

    def _time_part(self, op: str, tz: str, arg: Column, needed: Array | None) -> Column:
        if tz == "UTC":
            return _finish("int", TIME_PARTS[op](arg.values), arg.valid)
        offsets = _offsets(arg.values, tz)
        local, wrong = _int_arithmetic("+", arg.values, offsets)

        def error(row: int) -> str:
            return overflow("+", int(arg.values[row]), int(offsets[row]))

        return self._integers("int", TIME_PARTS[op](local), arg.valid, wrong, needed, error)


def _and(mask: Array, needed: Array | None) -> Array:
    return mask if needed is None else mask & needed


def _error_of(function: Callable[[Sequence[Any]], Any], values: Sequence[Any]) -> str:
    """Return the error message if a function fails for the values of one row; otherwise ""."""
    before = failures.count
    function(values)
    return failures.error if failures.count != before else ""


def _constant(node: Expression, rows: int) -> Column:
    dtype: Dtype = node.params[0]  # type: ignore[assignment]  # lit() wrote it
    kind = {"float": np.float64, "bool": np.bool_, "str": np.object_}.get(dtype, np.int64)
    values: Array = np.empty(rows, kind)
    # not `np.full`, which would drop NUL characters at the end of a text
    values.fill(node.params[1])
    return Column(dtype, values)


def _float(values: Array) -> Column:
    """Return a float column. Values that are infinite, NaN or beyond 1e150 become null, and -0.0 becomes 0.0."""
    # for NaN, the comparison is False
    if len(values) == 0 or (values.min() >= -GREATEST and values.max() <= GREATEST):
        return Column("float", values + 0.0)
    present = np.abs(values) <= GREATEST
    return Column("float", np.where(present, values + 0.0, np.nan), present)


def _finish(dtype: Dtype, values: Array, valid: Array | None) -> Column:
    """Return a column in which null values are replaced by the placeholder of the type."""
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
    # each choice is an array with one value, because NumPy ignores NULs at the end of a text that is not in an array
    choices = [_widen(_constant(literal, 1), common).values for literal in literals]
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


def _offsets(at_us: Array, tz: str) -> Array:
    """Return the UTC offset of each time.

    Offsets are looked up for the beginning and the end of each quarter of an hour. Where these two differ, the offset
    of each row is looked up.
    """
    zone = zoneinfo.ZoneInfo(tz)
    quarters, where = np.unique(at_us // _QUARTER_US, return_inverse=True)
    starts = [int(q) * _QUARTER_US for q in quarters]
    first = np.array([utc_offset_us(zone, at) for at in starts], np.int64)
    last = np.array([utc_offset_us(zone, at + _QUARTER_US - 1) for at in starts], np.int64)
    offsets: Array = first[where]
    for row in np.flatnonzero((first != last)[where]):
        offsets[row] = utc_offset_us(zone, int(at_us[row]))
    return offsets


def _int_arithmetic(op: str, x: Array, y: Array) -> tuple[Array, Array]:
    """Return the results modulo 2**64, and a boolean array of the rows that overflowed."""
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
    # If the exponent is equal in all rows, or if there is only one row, NumPy takes short cuts (such as a square root)
    # that round differently. So both evaluators pass arrays of equal length with at least two rows.
    rows = len(x)
    values = np.power(np.resize(x, 2), np.resize(y, 2))[:rows] if rows == 1 else np.power(x, y)
    # both evaluators compute x * x for this exponent, which is fast for one row
    values = np.where(y == 2.0, x * x, values)
    # IEEE 754 defines NaN**0 as 1, but NaN stands for null, which must stay null
    return _float(np.where(np.isnan(x) | np.isnan(y), np.nan, values))
