"""Expressions over the columns of one row. An expression can be evaluated for whole columns and for single rows.

An expression is a tree of functions from a fixed set. `evaluate_columns` and `compile_row` give the same results, bit
for bit. The table in docs/expressions.md has their rules for types and nulls.

>>> late = col("arr_delay") >= 30
>>> late.dtype({"arr_delay": "float"}, "example"), late
('bool', (col('arr_delay') >= 30))
"""

from __future__ import annotations

import datetime as dt
import itertools
import zoneinfo
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import msgspec

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse
from trimtab.core.hashing import content_hash
from trimtab.core.time import parse_time_us

GREATEST = 1e150  # a float result of larger magnitude is null, because its square, or a sum, might not be finite

Scalar: TypeAlias = bool | int | float | str | dt.datetime
Param: TypeAlias = bool | int | float | str | None
Op = Literal[
    "col", "lit", "+", "-", "*", "/", "//", "%", "**", "neg", "abs",
    "==", "!=", "<", "<=", ">", ">=", "&", "|", "~",
    "log", "log1p", "exp", "sqrt", "clip", "is_null", "fill_null", "isin", "when",
    "hour", "minute", "weekday", "day_of_year", "month", "bucket", "hash_bucket", "category", "python",
]  # fmt: skip
OPS: tuple[Op, ...] = get_args(Op)

_INFIX = frozenset({"+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", "<=", ">", ">=", "&", "|"})
_NUMBERS = ("float", "int", "bool")
_MAY_OVERFLOW = frozenset({"+", "-", "*", "//", "neg", "abs"})


class Expression(msgspec.Struct, frozen=True, eq=False):
    """A function of one row. Begin with `col()`, `lit()` or `when()`, and apply operators and methods.

    `==` makes an expression that compares values. Use `same_as()` to find out whether two expressions are the same.
    """

    op: Op
    args: tuple[Expression, ...] = ()
    params: tuple[Param, ...] = ()  # constants that belong to the function; for `lit`, the type and the value

    def dtype(self, columns: Mapping[str, Dtype], what: str) -> Dtype:
        """Return the type of the result.

        Args:
            columns: The types of the columns that can be read, by name.
            what: The definition that contains the expression. Error messages begin with it.

        Raises:
            Misuse: There is no such column, or an operator cannot take arguments of the given types.
        """
        found: list[Dtype] = []
        for arg in self.args:
            if arg.op == "category":
                raise Misuse(f"{what}: {arg!r} is used inside {self.op}. Make .category() the last, outermost call.")
            found.append(arg.dtype(columns, what))
        return _result(self, found, columns, what)

    def columns(self) -> set[str]:
        """Return the names of the columns that the expression reads."""
        if self.op == "col":
            return {str(self.params[0])}
        return set().union(*(arg.columns() for arg in self.args))

    @property
    def hash(self) -> str:
        """The hash that identifies this expression."""
        return content_hash(self)

    @property
    def is_category(self) -> bool:
        """True for a string that training encodes as a category."""
        return self.op == "category"

    def same_as(self, other: Expression) -> bool:
        """Return whether both expressions are the same tree."""
        return self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    def __bool__(self) -> bool:
        raise Misuse(
            f"{self!r} has no truth value until it is evaluated. Combine with & | ~ (in brackets) instead of and, or, "
            "not; use .isin([...]) instead of in; compare definitions with .same_as()."
        )

    def __repr__(self) -> str:
        return _text(self)

    def __add__(self, other: Expression | Scalar) -> Expression:
        return Expression("+", (self, _node(other)))

    def __radd__(self, other: Scalar) -> Expression:
        return Expression("+", (_node(other), self))

    def __sub__(self, other: Expression | Scalar) -> Expression:
        return Expression("-", (self, _node(other)))

    def __rsub__(self, other: Scalar) -> Expression:
        return Expression("-", (_node(other), self))

    def __mul__(self, other: Expression | Scalar) -> Expression:
        return Expression("*", (self, _node(other)))

    def __rmul__(self, other: Scalar) -> Expression:
        return Expression("*", (_node(other), self))

    def __truediv__(self, other: Expression | Scalar) -> Expression:
        return Expression("/", (self, _node(other)))

    def __rtruediv__(self, other: Scalar) -> Expression:
        return Expression("/", (_node(other), self))

    def __floordiv__(self, other: Expression | Scalar) -> Expression:
        return Expression("//", (self, _node(other)))

    def __rfloordiv__(self, other: Scalar) -> Expression:
        return Expression("//", (_node(other), self))

    def __mod__(self, other: Expression | Scalar) -> Expression:
        return Expression("%", (self, _node(other)))

    def __rmod__(self, other: Scalar) -> Expression:
        return Expression("%", (_node(other), self))

    def __pow__(self, other: Expression | Scalar) -> Expression:
        return Expression("**", (self, _node(other)))

    def __rpow__(self, other: Scalar) -> Expression:
        return Expression("**", (_node(other), self))

    def __neg__(self) -> Expression:
        return Expression("neg", (self,))

    def __abs__(self) -> Expression:
        return self.abs()

    def __eq__(self, other: Expression | Scalar) -> Expression:  # type: ignore[override]  # not bool, on purpose
        return Expression("==", (self, _node(other)))

    def __ne__(self, other: Expression | Scalar) -> Expression:  # type: ignore[override]  # not bool, on purpose
        return Expression("!=", (self, _node(other)))

    def __lt__(self, other: Expression | Scalar) -> Expression:
        return Expression("<", (self, _node(other)))

    def __le__(self, other: Expression | Scalar) -> Expression:
        return Expression("<=", (self, _node(other)))

    def __gt__(self, other: Expression | Scalar) -> Expression:
        return Expression(">", (self, _node(other)))

    def __ge__(self, other: Expression | Scalar) -> Expression:
        return Expression(">=", (self, _node(other)))

    def __and__(self, other: Expression | bool) -> Expression:
        return Expression("&", (self, _node(other)))

    def __rand__(self, other: bool) -> Expression:
        return Expression("&", (_node(other), self))

    def __or__(self, other: Expression | bool) -> Expression:
        return Expression("|", (self, _node(other)))

    def __ror__(self, other: bool) -> Expression:
        return Expression("|", (_node(other), self))

    def __invert__(self) -> Expression:
        return Expression("~", (self,))

    def log(self) -> Expression:
        """The natural logarithm; null at and below 0."""
        return Expression("log", (self,))

    def log1p(self) -> Expression:
        """log(1 + x), precise near 0; null at and below -1."""
        return Expression("log1p", (self,))

    def exp(self) -> Expression:
        """e to the power of x; null where the result exceeds 1e150."""
        return Expression("exp", (self,))

    def sqrt(self) -> Expression:
        """The square root; null below 0."""
        return Expression("sqrt", (self,))

    def abs(self) -> Expression:
        """The absolute value."""
        return Expression("abs", (self,))

    def clip(self, low: float | None, high: float | None) -> Expression:
        """The value, raised to at least `low` and lowered to at most `high`. None: no bound."""
        bounds = tuple(None if b is None else _number(b, "clip") for b in (low, high))
        if bounds[0] is not None and bounds[1] is not None and bounds[0] > bounds[1]:
            raise Misuse(f"clip({low}, {high}): the lower bound is above the upper. Swap them.")
        return Expression("clip", (self,), bounds)

    def is_null(self) -> Expression:
        """True where the value is null. The result itself is never null."""
        return Expression("is_null", (self,))

    def fill_null(self, value: Expression | Scalar) -> Expression:
        """The value where it is not null, and otherwise `value`."""
        return Expression("fill_null", (self, _node(value)))

    def isin(self, values: Iterable[Scalar]) -> Expression:
        """True where the value is one of `values`. The result is null where the value is null."""
        choices = tuple(_node(v) for v in values)
        if not choices:
            raise Misuse(f"{self!r}.isin([]): no values. Give at least one.")
        return Expression("isin", (self, *choices))

    def hour(self, tz: str = "UTC") -> Expression:
        """The hour of the day in time zone `tz`, 0 to 23."""
        return Expression("hour", (self,), (_zone(tz),))

    def minute(self, tz: str = "UTC") -> Expression:
        """The minute of the hour in time zone `tz`, 0 to 59."""
        return Expression("minute", (self,), (_zone(tz),))

    def weekday(self, tz: str = "UTC") -> Expression:
        """The day of the week in time zone `tz`, Monday 0 to Sunday 6."""
        return Expression("weekday", (self,), (_zone(tz),))

    def day_of_year(self, tz: str = "UTC") -> Expression:
        """The day of the year in time zone `tz`, 1 to 366."""
        return Expression("day_of_year", (self,), (_zone(tz),))

    def month(self, tz: str = "UTC") -> Expression:
        """The month in time zone `tz`, 1 to 12."""
        return Expression("month", (self,), (_zone(tz),))

    def bucket(self, edges: Sequence[float]) -> Expression:
        """How many of the ascending `edges` are less than or equal to the value: 0 to len(edges)."""
        numbers = tuple(float(_number(e, "bucket")) for e in edges)
        if not numbers or any(a >= b for a, b in itertools.pairwise(numbers)):
            raise Misuse(f"bucket({list(edges)}): give at least one edge, in strictly ascending order.")
        return Expression("bucket", (self,), numbers)

    def hash_bucket(self, n: int) -> Expression:
        """A hash of the value from 0 to n - 1, the same on every machine and in every release."""
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= 2**31:
            raise Misuse(f"hash_bucket({n!r}): give a number of buckets from 1 to 2**31.")
        return Expression("hash_bucket", (self,), (n,))

    def category(self) -> Expression:
        """The string as a category. The model gets the index of the string in the vocabulary of the training data."""
        return Expression("category", (self,))


def col(name: str) -> Expression:
    """Return an expression for the value of a column.

    >>> (col("distance") / 2).columns()
    {'distance'}
    """
    if not isinstance(name, str) or not name:
        raise Misuse(f"col({name!r}): give the name of a column.")
    return Expression("col", (), (name,))


def lit(value: Scalar) -> Expression:
    """Return an expression for a constant: a number, a truth value, a string or a time.

    >>> lit(2.5)
    2.5
    """
    if isinstance(value, bool):
        return Expression("lit", (), ("bool", value))
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Misuse(
                f"lit: {value!r} cannot be encoded as UTF-8, so no event can hold it. Write another text."
            ) from None
        return Expression("lit", (), ("str", value))
    if isinstance(value, dt.datetime):
        return Expression("lit", (), ("time", parse_time_us(value)))
    number = _number(value, "lit")
    return Expression("lit", (), ("float" if isinstance(number, float) else "int", number))


def when(condition: Expression, then: Expression | Scalar, otherwise: Expression | Scalar | None = None) -> Expression:
    """Return `then` where the condition is true, and `otherwise` where it is false or null (None: null).

    >>> when(col("x") > 0, 1, -1)
    when((col('x') > 0), 1, -1)
    """
    args = (_node(condition), _node(then))
    return Expression("when", args if otherwise is None else (*args, _node(otherwise)))


def common_dtype(one: Dtype, other: Dtype) -> Dtype | None:
    """Return the type that can hold values of both types, or None. (A bool can become an int, and an int a float.)"""
    if one == other:
        return one
    if one in _NUMBERS and other in _NUMBERS:
        return "float" if "float" in (one, other) else "int"
    return None


def may_fail(expression: Expression, columns: Mapping[str, Dtype]) -> bool:
    """Return whether the expression could fail for some row.

    It can fail if an integer can overflow or if a Python function is called.

    >>> may_fail(col("n") * 2, {"n": "int"}), may_fail(col("x") * 2, {"x": "float"})
    (True, False)
    """
    whole = expression.op in _MAY_OVERFLOW and expression.dtype(columns, "expression") != "float"
    return expression.op == "python" or whole or any(may_fail(arg, columns) for arg in expression.args)


def _node(value: Expression | Scalar) -> Expression:
    return value if isinstance(value, Expression) else lit(value)


def _number(value: object, what: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        if what != "lit":
            raise Misuse(f"{what}: {value!r} is not a number. Use an int or a float.")
        raise Misuse(f"{what}: {value!r} cannot be a constant. Use a number, a truth value, a string or a datetime.")
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise Misuse(f"{what}: {value} does not fit 64 bits. Write it as a float.")
        return int(value)
    if not -GREATEST <= value <= GREATEST:
        raise Misuse(f"{what}: {value} is out of range. Use a finite number of magnitude up to 1e150.")
    return float(value) + 0.0


def _zone(tz: str) -> str:
    try:
        zoneinfo.ZoneInfo(tz)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        raise Misuse(f'tz={tz!r} is not a time zone. Use a name such as "Europe/Berlin" or "UTC".') from None
    return tz


def _result(node: Expression, found: list[Dtype], columns: Mapping[str, Dtype], what: str) -> Dtype:
    """Return the type of a node's value, given the types of the node's arguments."""

    def need(ok: bool, needed: str) -> None:
        if not ok:
            raise Misuse(f"{what}: {node.op} in {node!r} needs {needed}; it was given {' and '.join(found)}.")

    numbers = all(d in _NUMBERS for d in found)
    match node.op:
        case "col":
            name = str(node.params[0])
            if name not in columns:
                raise Misuse(f"{what}: no column {name!r}. There are: {', '.join(columns)}.")
            return columns[name]
        case "lit":
            dtype: Dtype = node.params[0]  # type: ignore[assignment]  # lit() wrote it
            return dtype
        case "+" | "-" if found[0] == "time":
            minus = node.op == "-"
            need(found[1] == "int" or (minus and found[1] == "time"), "an int of microseconds after a time")
            return "int" if found[1] == "time" else "time"
        case "+" | "-" | "*" | "//" | "%":
            need(numbers, "numbers")
            return "float" if "float" in found else "int"
        case "/" | "**" | "log" | "log1p" | "exp" | "sqrt":
            need(numbers, "numbers")
            return "float"
        case "neg" | "abs":
            need(numbers, "a number")
            return "float" if found[0] == "float" else "int"
        case "==" | "!=":
            need(common_dtype(found[0], found[1]) is not None, "two numbers, two strings or two times")
            return "bool"
        case "<" | "<=" | ">" | ">=":
            need(numbers or found == ["time", "time"], "two numbers or two times, such as datetime(2026, 3, 1)")
            return "bool"
        case "&" | "|" | "~":
            need(all(d == "bool" for d in found), "truth values")
            return "bool"
        case "clip":
            need(numbers, "a number")
            return "float" if found[0] == "float" or any(isinstance(p, float) for p in node.params) else "int"
        case "is_null":
            return "bool"
        case "isin":
            need(
                all(common_dtype(found[0], d) is not None for d in found),
                "one type for the column and the values to look for",
            )
            return "bool"
        case "fill_null" | "when":
            branches = found if node.op == "fill_null" else found[1:]
            need(node.op == "fill_null" or found[0] == "bool", "a truth value as its condition")
            common = common_dtype(branches[0], branches[-1])
            need(common is not None, "two values of one type")
            return common or "float"
        case "hour" | "minute" | "weekday" | "day_of_year" | "month":
            need(found == ["time"], "a time")
            return "int"
        case "bucket":
            need(numbers, "a number")
            return "int"
        case "hash_bucket":
            return "int"
        case "category":
            need(found == ["str"], "a string")
            return "str"
        case "python":
            returns: Dtype = node.params[1]  # type: ignore[assignment]  # transform() wrote it
            return returns
        case _:
            raise Misuse(f"{what}: {node.op!r} is not a function. There are: {', '.join(OPS)}.")


def _text(node: Expression) -> str:
    args = [repr(arg) for arg in node.args]
    match node.op:
        case "col":
            return f"col({node.params[0]!r})"
        case "lit":
            kind, value = node.params
            return repr(value) if kind != "time" else f"time({value})"
        case "~":
            return f"~{args[0]}"
        case "neg":
            return f"-{args[0]}"
        case "when":
            return f"when({', '.join(args)})"
        case "python":
            return f"{node.params[0]}({', '.join(args)})"
        case op if op in _INFIX:
            return f"({args[0]} {op} {args[1]})"
        case op:
            rest = [*args[1:], *(repr(p) for p in node.params)]
            return f"{args[0]}.{op}({', '.join(rest)})"
