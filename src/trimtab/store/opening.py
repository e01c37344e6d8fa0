"""Open a store, given its URL and the kind of store."""

# ruff: noqa: A001 - `store.open` is named after `io.open`
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, overload
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Misuse
from trimtab.core.urls import mask_url
from trimtab.store.ports import Blob, Catalog, KeyValue, Log, Place, Table

Port = Literal["log", "table", "kv", "blob", "catalog"]


class _Backend(msgspec.Struct, frozen=True, kw_only=True):
    """One implementation of a port: a class that takes a path or, for a server, a URL."""

    opens: str  # "module:name" in trimtab.store
    example: str  # a URL
    takes: tuple[str, ...] = ()  # which of the arguments `clock`, `repair` and `mode` it takes
    place: str | None = None  # "module:name" of the class of its `Place`, if it is an embedded key-value store
    server: bool = False


_BACKENDS: dict[tuple[str, Port], _Backend] = {  # by scheme and port
    ("sqlite", "log"): _Backend(
        opens="sqlite.log:SqliteLog", example="sqlite:///var/lib/project/log", takes=("mode", "clock")
    ),
    ("delta", "table"): _Backend(opens="delta.table:DeltaTable", example="delta:///var/lib/project/tables/landings"),
    ("lmdb", "kv"): _Backend(
        opens="lmdb.kv:LmdbKeyValue",
        example="lmdb:///var/lib/project/online",
        takes=("mode", "repair"),
        place="lmdb.place:LmdbPlace",
    ),
    ("file", "blob"): _Backend(opens="file_blob:FileBlob", example="file:///var/lib/project/blobs"),
    ("sqlite", "catalog"): _Backend(
        opens="sql_catalog:SqlCatalog.sqlite", example="sqlite:///var/lib/project/catalog.db", takes=("mode", "clock")
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
    """Open the store at `url`. A store that does not exist is created.

    URLs have three slashes and an absolute path: `sqlite:///dir` (log), `sqlite:///file.db` (catalog), `delta:///dir`
    (table), `lmdb:///dir` (kv), `file:///dir` (blob). `sqlite` and `lmdb` URLs take `?mode=durable` or `?mode=relaxed`.

    Args:
        url: The address of the store.
        port: The kind of store.
        clock: The clock that stamps a log's records and measures a catalogue's leases; by default the system's clock.
        repair: The advice in messages about a damaged key-value store; by default to restore it from a backup.

    Raises:
        Misuse: The URL is malformed, or no store of this kind has such URLs. The message has an example.
        Unavailable: The store cannot be reached or created now.
        Corrupt: The stored data are damaged.

    >>> open("mysql:///x", "log")
    Traceback (most recent call last):
    ...
    trimtab.core.errors.Misuse: store: no backend for 'mysql:///x' as a log. Write sqlite:///var/lib/project/log.
    """
    backend, where, options = _parse(url, port)
    given = {"clock": clock, "repair": repair, **options}
    opened: Log | Table | KeyValue | Blob | Catalog = _loaded(backend.opens)(
        where, **{name: given[name] for name in backend.takes if given.get(name) is not None}
    )
    return opened


def place(url: str) -> Place:
    """Return the `Place` of the key-value store at `url`, without opening or making the store.

    Raises:
        Misuse: The URL is unknown, or is not that of a key-value store.
    """
    backend, where, _ = _parse(url, "kv")
    found: Place = ServerPlace(url) if backend.place is None else _loaded(backend.place)(where)
    return found


def check_server(url: str) -> None:
    """Refuse a URL of a key-value store that is not on a server.

    Raises:
        Misuse: The URL is unknown, or is that of an embedded store.
    """
    backend, _, _ = _parse(url, "kv")
    if not backend.server:
        raise Misuse(
            f"[store]: found {mask_url(url)!r}, needed the URL of a server. "
            "Without the setting, the store is in the state folder."
        )


class ServerPlace:
    """A `Place` on a server. There, `fresh` deletes the old pairs, and cannot restore them after an error."""

    def __init__(self, url: str) -> None:
        self._url = url

    def mark(self) -> str:
        return self._url

    def is_aside(self) -> bool:
        return False

    def drop_aside(self) -> None:
        pass

    @contextmanager
    def fresh(self, opened: Callable[[], KeyValue]) -> Iterator[None]:
        """Delete every pair."""
        while keys := [key for key, _ in opened().scan(b"")]:
            opened().erase(keys)
        yield


def _loaded(name: str) -> Any:
    module, _, member = name.partition(":")
    return attrgetter(member)(import_module(f"trimtab.store.{module}"))


def _parse(url: str, port: Port) -> tuple[_Backend, str | Path, dict[str, str]]:
    shown = mask_url(url)
    if port not in _EXAMPLES:
        raise Misuse(f"store: no port {port!r}. There are: {', '.join(_EXAMPLES)}.")
    example = f"Write {_EXAMPLES[port]}."
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise Misuse(f"store: {shown!r} is not a URL ({error}). {example}") from None
    backend = _BACKENDS.get((parts.scheme, port))
    if backend is None and parts.scheme in _SERVERS:
        raise Misuse(f"store: {shown!r}: the {parts.scheme} backend is not in this version. {example}")
    if backend is None:
        raise Misuse(f"store: no backend for {shown!r} as a {port}. {example}")
    if backend.server:
        return backend, url, {}
    path = unquote(parts.path)
    if parts.netloc or not path.startswith("/") or path == "/" or parts.fragment:
        raise Misuse(f"store: {shown!r}: needed three slashes and an absolute path (# and ? as %23 and %3F). {example}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name, value in options.items():
        if name != "mode" or "mode" not in backend.takes:
            known = "mode" if "mode" in backend.takes else "none"
            raise Misuse(f"store: {shown!r}: no option {name!r}; known options: {known}.")
        if value not in _MODES:
            raise Misuse(f"store: {shown!r}: mode is {value!r}. Write {' or '.join(_MODES)}.")
    return backend, Path(path), options
