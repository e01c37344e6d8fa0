"""One way to get a store: its URL and the port it is wanted as."""

# ruff: noqa: A001 - `store.open` is its name, like `io.open`
from __future__ import annotations

from pathlib import Path
from typing import Literal, overload
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from trimtab.core.clock import Clock
from trimtab.core.errors import Misuse
from trimtab.core.urls import mask_url
from trimtab.store.ports import Blob, Catalog, KeyValue, Log, Table

Port = Literal["log", "table", "kv", "blob", "catalog"]

_SCHEMES: dict[str, tuple[Port, ...]] = {
    "sqlite": ("log", "catalog"),
    "delta": ("table",),
    "lmdb": ("kv",),
    "file": ("blob",),
}
_EXAMPLES: dict[Port, str] = {
    "log": "sqlite:///var/lib/project/log",
    "table": "delta:///var/lib/project/tables/landings",
    "kv": "lmdb:///var/lib/project/online",
    "blob": "file:///var/lib/project/blobs",
    "catalog": "sqlite:///var/lib/project/catalog.db",
}
_MODES: dict[str, tuple[str, ...]] = {"mode": ("durable", "relaxed")}
_OPTIONS: dict[tuple[str, Port], dict[str, tuple[str, ...]]] = {
    ("sqlite", "log"): _MODES,
    ("sqlite", "catalog"): _MODES,
}
_SERVERS = ("redis", "rediss", "valkey", "postgresql", "postgres", "nats", "kafka", "s3")


@overload
def open(url: str, port: Literal["log"], *, clock: Clock | None = None) -> Log: ...
@overload
def open(url: str, port: Literal["table"], *, clock: Clock | None = None) -> Table: ...
@overload
def open(url: str, port: Literal["kv"], *, mend: str | None = None) -> KeyValue: ...
@overload
def open(url: str, port: Literal["blob"], *, clock: Clock | None = None) -> Blob: ...
@overload
def open(url: str, port: Literal["catalog"], *, clock: Clock | None = None) -> Catalog: ...
def open(
    url: str, port: Port, *, clock: Clock | None = None, mend: str | None = None
) -> Log | Table | KeyValue | Blob | Catalog:
    """The store at `url`, made when it is not there.

    `sqlite:///dir` (log), `sqlite:///file.db` (catalog), these two with `?mode=durable` or `relaxed`,
    `delta:///dir` (table), `lmdb:///dir` (kv), `file:///dir` (blob): three slashes and an absolute path.

    Args:
        url: Where it is.
        port: What it is wanted as.
        clock: Stamps a log's records and measures a catalogue's leases; the system's when left out.
        mend: What errors say that a key-value store needs when it is damaged; to restore it, when left out.

    Raises:
        Misuse: The URL, or the port for it, is unknown; the message lists those that exist.
        Unavailable: It cannot be reached or made now.
        Corrupt: What is there is damaged.

    >>> open("mysql:///x", "log")
    Traceback (most recent call last):
    ...
    trimtab.core.errors.Misuse: store: no backend for 'mysql:///x' as a log. Write sqlite:///var/lib/project/log.
    """
    parts, path, options = _parse(url, port)
    mode: Literal["durable", "relaxed"] = "relaxed" if options.get("mode") == "relaxed" else "durable"
    match parts.scheme, port:
        case "sqlite", "log":
            from trimtab.store.sqlite.log import SqliteLog

            return SqliteLog(path, mode=mode, clock=clock)
        case "sqlite", "catalog":
            from trimtab.store.sql_catalog import SqlCatalog

            return SqlCatalog.sqlite(path, clock=clock, mode=mode)
        case "lmdb", "kv":
            from trimtab.store.lmdb.kv import LmdbKeyValue

            return LmdbKeyValue(path) if mend is None else LmdbKeyValue(path, mend=mend)
        case "file", "blob":
            from trimtab.store.file_blob import FileBlob

            return FileBlob(path)
    from trimtab.store.delta.table import DeltaTable

    return DeltaTable(path)


def _parse(url: str, port: Port) -> tuple[SplitResult, Path, dict[str, str]]:
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
    if port not in _SCHEMES.get(parts.scheme, ()):
        raise Misuse(f"store: no backend for {shown!r} as a {port}. {example}")
    path = unquote(parts.path)
    if parts.netloc or not path.startswith("/") or path == "/" or parts.fragment:
        raise Misuse(f"store: {shown!r}: needed three slashes and an absolute path (# and ? as %23 and %3F). {example}")
    allowed = _OPTIONS.get((parts.scheme, port), {})
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name, value in options.items():
        if name not in allowed:
            known = ", ".join(allowed) or "none"
            raise Misuse(f"store: {shown!r}: no option {name!r}; there are: {known}.")
        if value not in allowed[name]:
            raise Misuse(f"store: {shown!r}: {name} is {value!r}. Write {' or '.join(allowed[name])}.")
    return parts, Path(path), options
