"""Tables of named columns with nulls: how they are stored, exchanged with Arrow, and displayed."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.core.columns.column import Column, WrongColumn
    from trimtab.core.columns.data import Columns

__all__ = ["Column", "Columns", "WrongColumn"]

# for each public name, the module that is imported when the name is first used
_LAZY = {"Column": "column", "Columns": "data", "WrongColumn": "column"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return __all__
