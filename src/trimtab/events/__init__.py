"""Sources: how raw records become validated events in the log, without duplicates; quarantine; history in columns."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.definitions import Source, Time, source
from trimtab.events.records import Event, decode, encode, known_at_us

if TYPE_CHECKING:
    from trimtab.events.arriving import Arrivals, arrivals
    from trimtab.events.batch import Problem
    from trimtab.events.columns.history import History
    from trimtab.events.files.files import Rows, Table, read_file, read_rows
    from trimtab.events.ingest import Ingestor, Pushed
    from trimtab.events.quarantine import Quarantine, Quarantined, Replayed, SetAside
    from trimtab.events.tables import Materialised, materialise
    from trimtab.events.values.fitting import BadRow, FileRows

__all__ = [
    "NEVER_US",
    "Arrivals",
    "BadRow",
    "Event",
    "EventFrame",
    "FileRows",
    "History",
    "Ingestor",
    "Materialised",
    "Problem",
    "Pushed",
    "Quarantine",
    "Quarantined",
    "Replayed",
    "Rows",
    "SetAside",
    "Source",
    "Table",
    "Time",
    "arrivals",
    "decode",
    "encode",
    "known_at_us",
    "materialise",
    "read_file",
    "read_rows",
    "source",
]

_LAZY = {  # by name: the module that has it; these modules load NumPy or DuckDB
    "Arrivals": "arriving",
    "BadRow": "values.fitting",
    "FileRows": "values.fitting",
    "History": "columns.history",
    "Ingestor": "ingest",
    "Materialised": "tables",
    "Problem": "batch",
    "Pushed": "ingest",
    "Quarantine": "quarantine",
    "Quarantined": "quarantine",
    "Replayed": "quarantine",
    "Rows": "files.files",
    "SetAside": "quarantine",
    "Table": "files.files",
    "arrivals": "arriving",
    "materialise": "tables",
    "read_file": "files.files",
    "read_rows": "files.files",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"trimtab.events.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
