"""Turn the given value of a label into the value of the column from which the label is computed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse
from trimtab.core.expressions.by_rows import compile_row
from trimtab.core.expressions.nodes import Expression
from trimtab.events.values.conversions import BOOL_WORDS, Refused, of_text
from trimtab.features.definitions import Label

# An expression with only these functions compares a column with constants. To find a value for which it is true (or
# false), only the constants must be tried, and one value that equals none of them.
_COMPARED = frozenset({"col", "lit", "==", "!=", "isin", "~", "python"})


class LabelValues:
    """Turns the value of a label, as a caller gives it, into the value of its one column.

    True and false say whether the predicted event happened. Every other value is the value of the column.

    Args:
        others: Expressions of other definitions that read the label's source.
    """

    def __init__(self, label: Label, others: Iterable[Expression]) -> None:
        self._label = label
        self.columns = sorted(label.value.columns())
        self._dtypes = {name: label.source.columns[name] for name in self.columns}
        self._is_truth = label.value.dtype(label.source.columns, "label") == "bool"
        self._row = compile_row(label.value, label.source.columns)
        self._constants = [value for dtype, value in _constants(label.value)]
        # a value that equals no constant may be made up, unless another definition reads the column's values
        self._may_invent = not any(_reads_directly(other, label.value, self.columns) for other in others)

    def column_value(self, given: Any, *, text: bool = False) -> Any:
        """Return the value of the label's column. With `text`, the given value is a field of a text file.

        Raises:
            Misuse: The given value does not determine the value of the column. The message says what to give.
        """
        (name,) = self.columns
        dtype = self._dtypes[name]
        if text and isinstance(given, str):
            try:
                given = of_text(dtype, given, self._label.source.format(name))
            except Refused:  # a word such as "yes"; or a wrong value, which goes to quarantine
                if not self._is_truth:
                    return given
        if not self._is_truth:
            if isinstance(given, bool | np.bool_) and dtype != "bool":
                raise Misuse(f"found {given}. Give a value of column {name!r}, which is of type {dtype}.")
            return given
        truth = self._truth(given, dtype, text)
        return given if truth is None else self._value_where(truth, name, dtype)

    def _truth(self, given: Any, dtype: Dtype, text: bool) -> bool | None:
        """Return the truth value that a given value stands for; None if it stands for none or is a column value."""
        if isinstance(given, bool | np.bool_):
            return bool(given)
        if dtype in ("str", "bool") and type(given) is int and given in (0, 1):
            return bool(given)
        if not isinstance(given, str) or (dtype not in ("str", "bool") and not text):
            return None
        word = given.strip().lower()
        said = BOOL_WORDS.get(word)
        own = {str(value).strip().lower() for value in self._constants} & BOOL_WORDS.keys()
        if said is None or (own and (word not in ("true", "false") or own & {"true", "false"})):
            return None  # the label compares the column with such words, so they are values of the column
        return None if dtype == "str" and self._holds(given) is said else said

    def _holds(self, value: Any) -> Any:
        (name,) = self.columns
        return self._row({name: value})

    def counts_as(self, given: Any, value: Any) -> str | None:
        """Return the label for `value`, "true" or "false"; None if it is no truth value, or `given` was no text."""
        if not self._is_truth or not isinstance(given, str):
            return None
        return str(self._holds(value)).lower()

    def _value_where(self, truth: bool, name: str, dtype: Dtype) -> Any:
        """Return a value of the column for which the label is `truth`: a constant in the label, or another value."""
        known: list[Any] = [True, False] if dtype == "bool" else list(self._constants)
        made: list[Any] = []
        if self._may_invent:
            made = [f"not {value}" for value in known] if dtype == "str" else [0, 1, 2]
        if dtype == "bool" or _ops(self._label.value) <= _COMPARED:
            for value in (*known, *(made if dtype in ("str", "int", "float") else ())):
                if self._holds(value) is truth:
                    return value
        raise Misuse(
            f"the label is {self._label.value!r}, and {str(truth).lower()} does not say which value {name!r} has. Give "
            f"that value of {name!r} instead."
        )


def _constants(node: Expression) -> list[tuple[Any, Any]]:
    if node.op == "lit":
        return [(node.params[0], node.params[1])]
    return [found for arg in node.args for found in _constants(arg)]


def _ops(node: Expression) -> set[str]:
    return {node.op}.union(*map(_ops, node.args))


def _reads_directly(node: Expression, truth: Expression, columns: list[str]) -> bool:
    """Return whether an expression reads one of the columns outside of the label's own expression."""
    if node.same_as(truth):
        return False
    if node.op == "col":
        return str(node.params[0]) in columns
    return any(_reads_directly(arg, truth, columns) for arg in node.args)
