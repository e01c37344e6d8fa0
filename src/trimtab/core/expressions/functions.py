"""Plain Python functions inside expressions. A function is identified by a hash of its code."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse
from trimtab.core.expressions.failed import failed
from trimtab.core.expressions.nodes import GREATEST, Expression, Scalar, col, lit
from trimtab.core.expressions.primitives import INT_MAX, INT_MIN
from trimtab.core.shown import shown

Nulls = Literal["skip", "pass"]
Function = Callable[..., Any]

_DTYPES: dict[object, Dtype] = {float: "float", int: "int", bool: "bool", str: "str"}
_PLAIN = (bool, int, float, str)
_KNOWN: dict[str, Function] = {}  # functions by the hash of their code


class Transform:
    """A Python function that returns an expression when it is called with expressions. `transform` makes one."""

    def __init__(self, function: Function, returns: Dtype, nulls: Nulls) -> None:
        from trimtab.core.expressions.code import code_hash  # imported here, because importing it takes time

        self.function = function
        try:
            self.name = function.__name__
            self._signature = inspect.signature(function)
        except (AttributeError, ValueError):  # for example, a partial has no name, and `max` has no signature
            raise Misuse(
                f"transform: {shown(function)} has no name or no signature. Write a function with def that calls it."
            ) from None
        self._params = (self.name, returns, nulls, code_hash(function))
        _KNOWN[self._params[3]] = function

    def __call__(self, *args: Expression | Scalar) -> Expression:
        """Return the expression that calls the function.

        Each argument is an expression, the name of a column (which stands for `tt.col`), or a constant.

        Raises:
            Misuse: The function takes another number of arguments.
        """
        nodes = tuple(
            arg if isinstance(arg, Expression) else col(arg) if isinstance(arg, str) else lit(arg) for arg in args
        )
        try:
            self._signature.bind(*nodes)
        except TypeError as error:
            raise Misuse(f"transform {self.name!r}: {error}. It takes {self._signature}.") from None
        return Expression("python", nodes, self._params)


def transform(
    function: Function | None = None, *, returns: type = float, nulls: Nulls = "skip"
) -> Any:  # a Transform, or a decorator if `function` is None
    """Make a plain Python function usable in features. It is called for each row, both offline and online.

    The result must only depend on the arguments. The hash of the definition includes the code and everything that it
    uses. Times are passed as microseconds since 1970, UTC.

    Args:
        function: A function of one or more values.
        returns: The type of the result: float, int, bool or str. None, NaN and floats beyond ±1e150 are null.
        nulls: What happens if an argument is null. "skip": the result is null. "pass": the function gets None.

    Raises:
        Misuse: An argument has a value that is not listed here, the function has no name or no signature, or
            `code_hash` cannot hash the function.

    >>> @transform(returns=float)
    ... def ratio(part: float, whole: float) -> float | None:
    ...     return part / whole if whole else None
    >>> ratio(col("late"), col("flights"))
    ratio(col('late'), col('flights'))
    """
    if returns not in _DTYPES:
        raise Misuse(f"transform: returns={returns!r} must be one of float, int, bool and str.")
    if nulls not in get_args(Nulls):
        raise Misuse(f'transform: nulls={nulls!r} is neither "skip" nor "pass".')
    if function is None:
        return lambda decorated: Transform(decorated, _DTYPES[returns], nulls)
    if not callable(function):
        raise Misuse(f"transform: {function!r} is not a function.")
    return Transform(function, _DTYPES[returns], nulls)


def function_of(expression: Expression) -> Callable[[Sequence[Any]], Any]:
    """Return a function that computes a `python` node of an expression, given the values of the node's arguments.

    Nulls are passed as None. If the user's function fails, the result is null and the failure is counted.

    Raises:
        Misuse: The user's function is not known in this process.
    """
    name, returns, nulls, code = expression.params
    function = _KNOWN.get(str(code))
    if function is None:
        raise Misuse(
            f"transform {name!r}: the function with the code hash {str(code)[:12]} is not loaded. Load the project "
            "file that defines it; if it was changed or removed, train a version with the present functions."
        )
    skips = nulls == "skip"

    def evaluate(values: Sequence[Any]) -> Any:
        if skips and None in values:
            return None
        try:
            return _as_declared(function(*values), str(returns))
        except (Exception, SystemExit) as error:  # the user's function may raise any exception
            failed(f"transform {name!r} failed on {shown(list(values))}: {_said(error)}")
            return None

    return evaluate


def files_of(expressions: Iterable[Expression]) -> tuple[str, ...]:
    """Return the files that define the functions inside expressions.

    Another process knows the functions once it has imported these files.
    """
    found: dict[str, None] = {}
    for expression in expressions:
        if expression.op == "python" and (function := _KNOWN.get(str(expression.params[3]))) is not None:
            code = getattr(inspect.unwrap(function), "__code__", None)
            found |= {} if code is None else {code.co_filename: None}  # a builtin function has no code in Python
        found |= dict.fromkeys(files_of(expression.args))
    return tuple(found)


def _as_declared(result: Any, returns: str) -> float | int | bool | str | None:
    """Return the result of a function as a value of the declared type."""
    if not isinstance(result, _PLAIN) and hasattr(result, "item"):
        result = result.item()  # turns a NumPy number into a Python number
    if result is None:
        return None
    if returns == "float" and isinstance(result, int | float):
        real = float(result)
        return real + 0.0 if -GREATEST <= real <= GREATEST else None  # also turns NaN into null
    if returns == "int" and isinstance(result, int):
        if not INT_MIN <= result <= INT_MAX:
            raise OverflowError(f"it gave {shown(result)}, which does not fit an integer of 64 bits; return a float")
        return int(result)
    if returns == "bool" and isinstance(result, bool):
        return result
    if returns == "str" and isinstance(result, str):
        result.encode()  # raises an error if the text cannot be stored as UTF-8
        return str.__str__(result)
    raise TypeError(f"it gave {shown(result)}, a {type(result).__name__}; it is declared to return {returns}")


def _said(error: BaseException) -> str:
    """Return the message of an exception, or a substitute if its class fails to produce one."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # the class of the exception may be the user's
        return type(error).__name__
