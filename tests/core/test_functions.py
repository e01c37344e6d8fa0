"""Plain Python functions in features: the same row by row everywhere, null and named where they go wrong."""

from __future__ import annotations

import functools
import math
import re
import sys
from typing import Any

import numpy as np
import pytest

from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse
from trimtab.core.expressions.by_columns import evaluate_columns, evaluate_marked
from trimtab.core.expressions.by_rows import compile_row
from trimtab.core.expressions.failed import failures
from trimtab.core.expressions.functions import files_of, transform
from trimtab.core.expressions.nodes import Expression, col


def of_one(function: Any, **options: Any) -> Expression:
    made: Expression = transform(function, **options)(col("x"))
    return made


def both(expression: Expression, x: float | None) -> Any:
    """The value from both evaluators, which must agree."""
    in_row = compile_row(expression, {"x": "float"})({"x": x})
    in_columns = evaluate_columns(expression, Columns.of({"x": ("float", [x])})).to_list()[0]
    assert (type(in_row), in_row) == (type(in_columns), in_columns)
    return in_row


class Twice:
    def __call__(self, x: float) -> float:
        return 2 * x


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def unspeakable(x: float) -> float:
    raise Unspeakable


@pytest.mark.fast
def test_a_null_argument_skips_the_function_unless_it_asks_for_nulls() -> None:
    def missing(x: float | None) -> float:
        return 1.0 if x is None else 0.0

    assert both(of_one(missing), None) is None
    assert both(of_one(missing, nulls="pass"), None) == 1.0


@pytest.mark.parametrize(
    ("result", "returns", "expected"),
    [
        (float("nan"), float, None),
        (float("inf"), float, None),
        (1e200, float, None),
        (-0.0, float, 0.0),
        (3, float, 3.0),
        (np.float32(0.5), float, 0.5),
        (np.int8(4), int, 4),
        (True, int, 1),
        (None, str, None),
        ("x", str, "x"),
        (np.bool_(True), bool, True),
    ],
)
def test_results_become_values_of_the_declared_type(result: Any, returns: type, expected: Any) -> None:
    assert str(both(of_one(lambda x: result, returns=returns), 1.0)) == str(expected)


@pytest.mark.parametrize(
    ("function", "returns", "message"),
    [
        (lambda x: "text", float, "it gave 'text', a str; it is declared to return float"),
        (lambda x: 1.5, int, "it gave 1.5, a float; it is declared to return int"),
        (lambda x: 1, bool, "it gave 1, a int; it is declared to return bool"),
        (lambda x: 2**64, int, "does not fit an integer of 64 bits"),
        (lambda x: 10**400, float, "OverflowError"),
        (lambda x: "\ud800", str, "UnicodeEncodeError"),
        (lambda x: np.arange(2), float, "ValueError"),
        (lambda x: x / 0, float, r"failed on \[1.0\]: ZeroDivisionError"),
        (lambda x: sys.exit("enough"), float, "SystemExit: enough"),
        (unspeakable, float, r"failed on \[1.0\]: Unspeakable$"),
    ],
)
def test_a_function_that_goes_wrong_gives_null_and_is_named(function: Any, returns: type, message: str) -> None:
    expression = of_one(function, returns=returns)
    assert both(expression, 1.0) is None
    assert re.search(message, failures.error)
    marked = evaluate_marked(expression, Columns.of({"x": ("float", [None, 1.0])}))
    assert marked.failed is not None
    assert marked.failed.tolist() == [False, True]
    assert re.search(message, marked.error)


def test_wrong_declarations_are_refused() -> None:
    with pytest.raises(Misuse, match="returns=<class 'list'> must be one of"):
        transform(lambda x: x, returns=list)
    with pytest.raises(Misuse, match='neither "skip" nor "pass"'):
        transform(lambda x: x, nulls="drop")  # type: ignore[arg-type]  # a user's mistake
    with pytest.raises(Misuse, match="missing a required argument: 'y'"):
        transform(lambda x, y: x)(col("x"))
    with pytest.raises(Misuse, match="no column 'nope'"):
        transform(lambda x: x)("nope").dtype({"x": "float"}, "feature 'f'")


def test_another_body_is_another_definition() -> None:
    assert of_one(lambda x: x + 1).hash != of_one(lambda x: x + 2).hash


def test_a_function_that_this_process_does_not_know_is_named() -> None:
    unknown = Expression("python", (col("x"),), ("gone", "float", "skip", "0" * 64))
    with pytest.raises(Misuse, match="transform 'gone': the function with the code hash"):
        compile_row(unknown, {"x": "float"})
    assert files_of([unknown]) == ()
    assert files_of([of_one(lambda x: x) + 1]) == (__file__,)


@pytest.mark.parametrize("function", [functools.partial(pow, 2), max, Twice()])
def test_callables_without_a_name_or_a_signature_are_refused(function: Any) -> None:
    with pytest.raises(Misuse, match="Write a function with def"):
        transform(function)


def test_a_builtin_function_is_defined_in_no_file() -> None:
    assert files_of([transform(math.sqrt)("x")]) == ()
