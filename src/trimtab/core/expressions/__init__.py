"""Expressions: formulas over the columns of one row, evaluated for a single row or for whole columns."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.core.expressions.by_columns import evaluate_columns, evaluate_marked
    from trimtab.core.expressions.by_rows import compile_row
    from trimtab.core.expressions.nodes import col, when

__all__ = ["col", "compile_row", "evaluate_columns", "evaluate_marked", "when"]

_LAZY = {  # for each public name, the module that is imported when the name is first used
    "col": "nodes",
    "compile_row": "by_rows",
    "evaluate_columns": "by_columns",
    "evaluate_marked": "by_columns",
    "when": "nodes",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
