"""From predictions and label events to outcomes: joined, late, missing, corrected."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.feedback.blocks import BlockSums, DayBlocks, day_qualities, merged
    from trimtab.feedback.days import day_quality
    from trimtab.feedback.logged_waiting import Extent, LoggedWaiting
    from trimtab.feedback.open_days import InMemory, OpenDays, Waiting
    from trimtab.feedback.outcomes import (
        IndexedLabels,
        KnownLabels,
        LabelReader,
        ListColumn,
        OutcomeFrame,
        OutcomeJoin,
    )
    from trimtab.feedback.slices import RequestSlices

__all__ = [
    "BlockSums",
    "DayBlocks",
    "Extent",
    "InMemory",
    "IndexedLabels",
    "KnownLabels",
    "LabelReader",
    "ListColumn",
    "LoggedWaiting",
    "OpenDays",
    "OutcomeFrame",
    "OutcomeJoin",
    "RequestSlices",
    "Waiting",
    "day_qualities",
    "day_quality",
    "merged",
]

_LAZY = {  # name -> its file; they load NumPy
    "BlockSums": "blocks",
    "DayBlocks": "blocks",
    "Extent": "logged_waiting",
    "InMemory": "open_days",
    "IndexedLabels": "outcomes",
    "KnownLabels": "outcomes",
    "LabelReader": "outcomes",
    "ListColumn": "outcomes",
    "LoggedWaiting": "logged_waiting",
    "OpenDays": "open_days",
    "OutcomeFrame": "outcomes",
    "OutcomeJoin": "outcomes",
    "RequestSlices": "slices",
    "Waiting": "open_days",
    "day_qualities": "blocks",
    "day_quality": "days",
    "merged": "blocks",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"trimtab.feedback.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
