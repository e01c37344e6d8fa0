"""From predictions and label events to outcomes: joined, late, missing, corrected."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.feedback.days import day_quality
    from trimtab.feedback.outcomes import (
        IndexedLabels,
        KnownLabels,
        LabelReader,
        ListColumn,
        OpenDays,
        OutcomeFrame,
        OutcomeJoin,
    )

__all__ = [
    "IndexedLabels",
    "KnownLabels",
    "LabelReader",
    "ListColumn",
    "OpenDays",
    "OutcomeFrame",
    "OutcomeJoin",
    "day_quality",
]

_LAZY = {  # name -> its file; they load NumPy
    "IndexedLabels": "outcomes",
    "KnownLabels": "outcomes",
    "LabelReader": "outcomes",
    "ListColumn": "outcomes",
    "OpenDays": "outcomes",
    "OutcomeFrame": "outcomes",
    "OutcomeJoin": "outcomes",
    "day_quality": "days",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"trimtab.feedback.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
