"""Sources: from raw records to validated, de-duplicated events in the log; quarantine; columnar history."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trimtab.events.definitions import Source, Time, source
from trimtab.events.frames import NEVER_US, EventFrame
from trimtab.events.records import Event, decode, encode, known_at_us

if TYPE_CHECKING:
    from trimtab.events.history import History

__all__ = [
    "NEVER_US",
    "Event",
    "EventFrame",
    "History",
    "Source",
    "Time",
    "decode",
    "encode",
    "known_at_us",
    "source",
]

_LAZY = {"History": "history"}  # these load NumPy


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"trimtab.events.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
