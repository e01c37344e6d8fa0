"""Opens a store by its URL and the port that is wanted."""

# ruff: noqa: A001 - `store.open` is its name, like `io.open`
from __future__ import annotations

from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, overload
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Misuse
from trimtab.core.urls import mask_url
from trimtab.store.ports import Blob, Catalog, KeyValue, Log, Table

Port = Literal["log", "table", "kv", "blob", "catalog"]


class _Backend(msgspec.Struct, frozen=True):
    """One implementation of a port, given by a class that takes a path."""

    opens: str  # "module:name" in trimtab.store
    example: str  # a URL
    takes: tuple[str, ...] = ()  # some of the arguments `clock`, `repair` and `mode`


_BACKENDS: dict[tuple[str, Port], _Backend] = {  # by scheme and port; a server also leaves `_SERVERS`
    ("sqlite", "log"): _Backend("sqlite.log:SqliteLog", "sqlite:///var/lib/project/log", ("mode", "clock")),
    ("delta", "table"): _Backend("delta.table:DeltaTable", "delta:///var/lib/project/tables/landings"),
    ("lmdb", "kv"): _Backend("lmdb.kv:LmdbKeyValue", "lmdb:///var/lib/project/online", ("repair",)),
    ("file", "blob"): _Backend("file_blob:FileBlob", "file:///var/lib/project/blobs"),
    ("sqlite", "catalog"): _Backend(
        "sql_catalog:SqlCatalog.sqlite", "sqlite:///var/lib/project/catalog.db", ("mode", "clock")
    ),
}
_EXAMPLES: dict[Port, str] = {port: backend.example for (_, port), backend in _BACKENDS.items()}
_MODES = ("durable", "relaxed")
_SERVERS = ("redis", "rediss", "valkey", "postgresql", "postgres", "nats", "kafka", "s3")


@overload
def open(url: str, port: Literal["log"], *, clock: Clock | None = None) -> Log: ...
@overload
def open(url: str, port: Literal["table"], *, clock: Clock | None = None) -> Table: ...
@overload
def open(url: str, port: Literal["kv"], *, repair: str | None = None) -> KeyValue: ...
@overload
def open(url: str, port: Literal["blob"], *, clock: Clock | None = None) -> Blob: ...
@overload
def open(url: str, port: Literal["catalog"], *, clock: Clock | None = None) -> Catalog: ...
def open(
    url: str, port: Port, *, clock: Clock | None = None, repair: str | None = None
) -> Log | Table | KeyValue | Blob | Catalog:
    """Open the store at `url`. It is made when it does not exist.

    `sqlite:///dir` (log), `sqlite:///file.db` (catalog), these two with `?mode=durable` or `relaxed`,
    `delta:///dir` (table), `lmdb:///dir` (kv), `file:///dir` (blob): three slashes and an absolute path.

    Args:
        url: Its address.
        port: The port as which the store is used.
        clock: Stamps a log's records and measures a catalogue's leases. If left out, the system's clock.
        repair: What errors say to do when a key-value store is damaged; left out, to restore it from a backup.

    Raises:
        Misuse: The URL is unknown, or has no such port. The message lists those that exist.
        Unavailable: The store cannot be reached or made now.
        Corrupt: The stored data are damaged.

    >>> open("mysql:///x", "log")
    Traceback (most recent call last):
    ...
    trimtab.core.errors.Misuse: store: no backend for 'mysql:///x' as a log. Write sqlite:///var/lib/project/log.
    """
    backend, path, options = _parse(url, port)
    given = {"clock": clock, "repair": repair, **options}
    module, _, name = backend.opens.partition(":")
    found: Any = attrgetter(name)(import_module(f"trimtab.store.{module}"))
    opened: Log | Table | KeyValue | Blob | Catalog = found(
        path, **{name: given[name] for name in backend.takes if given.get(name) is not None}
    )
    return opened


def _parse(url: str, port: Port) -> tuple[_Backend, Path, dict[str, str]]:
    shown = mask_url(url)
    if port not in _EXAMPLES:
        raise Misuse(f"store: no port {port!r}. There are: {', '.join(_EXAMPLES)}.")
    example = f"Write {_EXAMPLES[port]}."
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise Misuse(f"store: {shown!r} is no URL ({error}). {example}") from None
    if parts.scheme in _SERVERS:
        raise Misuse(f"store: {shown!r}: the {parts.scheme} backend is not in this version. {example}")
    backend = _BACKENDS.get((parts.scheme, port))
    if backend is None:
        raise Misuse(f"store: no backend for {shown!r} as a {port}. {example}")
    path = unquote(parts.path)
    if parts.netloc or not path.startswith("/") or path == "/" or parts.fragment:
        raise Misuse(f"store: {shown!r}: needed three slashes and an absolute path (# and ? as %23 and %3F). {example}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name, value in options.items():
        if name != "mode" or "mode" not in backend.takes:
            known = "mode" if "mode" in backend.takes else "none"
            raise Misuse(f"store: {shown!r}: no option {name!r}; there are: {known}.")
        if value not in _MODES:
            raise Misuse(f"store: {shown!r}: mode is {value!r}. Write {' or '.join(_MODES)}.")
    return backend, Path(path), options
