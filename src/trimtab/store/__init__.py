"""The five kinds of stores (`Log`, `Table`, `KeyValue`, `Blob`, `Catalog`), and their backends that need no server."""

from trimtab.store.opening import Port, check_server, open, place  # noqa: A004 - `store.open`, like `io.open`
from trimtab.store.ports import Append, Blob, Catalog, Entry, KeyValue, Log, LogRecord, Put, Record, Remove, Table

__all__ = [
    "Append",
    "Blob",
    "Catalog",
    "Entry",
    "KeyValue",
    "Log",
    "LogRecord",
    "Port",
    "Put",
    "Record",
    "Remove",
    "Table",
    "check_server",
    "open",
    "place",
]
