from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import trimtab.testing
from trimtab import store
from trimtab.core.errors import Misuse
from trimtab.core.urls import mask_url
from trimtab.store.sql_catalog import SqlCatalog
from trimtab.store.sqlite.log import SqliteLog


@pytest.mark.fast
@pytest.mark.parametrize(
    ("url", "port", "name"),
    [
        ("sqlite://{}/log", "log", "SqliteLog"),
        ("sqlite://{}/c.db", "catalog", "SqlCatalog"),
        ("lmdb://{}/kv", "kv", "LmdbKeyValue"),
        ("file://{}/blobs", "blob", "FileBlob"),
        ("delta://{}/table", "table", "DeltaTable"),
    ],
)
def test_each_port_has_an_embedded_backend(url: str, port: store.Port, name: str, tmp_path: Path) -> None:
    opened = store.open(url.format(tmp_path), port)  # type: ignore[call-overload]  # a port that is not a literal
    assert type(opened).__name__ == name
    opened.close()


def test_a_log_is_durable_unless_it_is_asked_to_be_relaxed(tmp_path: Path) -> None:
    for query, mode in [("", "durable"), ("?mode=durable", "durable"), ("?mode=relaxed", "relaxed")]:
        log = store.open(f"sqlite://{tmp_path}/log{query}", "log")
        assert isinstance(log, SqliteLog)
        assert log.mode == mode
        log.close()


def test_a_catalogue_is_durable_unless_it_is_asked_to_be_relaxed(tmp_path: Path) -> None:
    for query, synchronous in [("", 2), ("?mode=durable", 2), ("?mode=relaxed", 1)]:  # FULL, and NORMAL
        catalog = store.open(f"sqlite://{tmp_path}/c.db{query}", "catalog")
        assert isinstance(catalog, SqlCatalog)
        with catalog._transaction("BEGIN IMMEDIATE") as connection:
            assert connection.execute("PRAGMA synchronous").fetchone() == (synchronous,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        catalog.close()


def test_a_path_may_hold_any_character(tmp_path: Path) -> None:
    log = store.open(f"sqlite://{tmp_path}/100%25%20%3Fl%23g%C3%A4", "log")
    log.append([b"a"])
    log.close()
    assert (tmp_path / "100% ?l#gä" / "p0001.db").is_file()


@pytest.mark.parametrize(
    ("url", "port", "says"),
    [
        ("redis://user:hunter2@host/0", "kv", "redis backend is not in this version.*lmdb:///"),
        ("postgresql://u:hunter2@host/db", "catalog", "postgresql backend is not in this version.*sqlite:///"),
        ("nats://host", "log", "nats backend is not in this version"),
        ("kafka://host", "log", "kafka backend is not in this version"),
        ("s3://bucket/x?secret_key=hunter2", "blob", "s3 backend is not in this version"),
        ("mysql://u:hunter2@host", "catalog", "no backend for .* as a catalog"),
        ("sqlite:///x", "kv", "no backend for .* as a kv. Write lmdb:///"),
        ("sqlite://relative/dir", "log", "three slashes"),
        ("sqlite:///", "log", "three slashes"),
        ("/plain/path", "log", "no backend"),
        ("sqlite:///x?mode=fast", "log", "mode is 'fast'. Write durable or relaxed"),
        ("sqlite:///x?moed=durable", "log", "no option 'moed'; known options: mode"),
        ("file:///x?mode=durable", "blob", "no option 'mode'; known options: none"),
        ("sqlite:///x", "logs", "no port 'logs'. There are: log, table, kv, blob, catalog"),
        ("http://[::1", "log", "is not a URL"),
    ],
)
def test_what_cannot_be_opened_says_what_can(url: str, port: str, says: str) -> None:
    with pytest.raises(Misuse, match=says) as caught:
        store.open(url, port)  # type: ignore[call-overload]  # the mistake under test
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://:pw@h:1/0", "redis://***@h:1/0"),
        ("postgresql+psycopg://a:b@c@h/db", "postgresql+psycopg://***@h/db"),
        ("s3://b/p?aws_secret_access_key=x&region=eu", "s3://b/p?aws_secret_access_key=***&region=eu"),
        ("sqlite:///a@b/c.db", "sqlite:///a@b/c.db"),
        ("no url", "no url"),
    ],
)
def test_credentials_are_hidden(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_importing_loads_no_driver() -> None:
    heavy = ["numpy", "duckdb", "lmdb", "deltalake", "sqlite3", "pytest"]
    code = f"import sys, trimtab.store, trimtab.testing; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"


def test_every_contract_is_there_under_its_name() -> None:
    for name in trimtab.testing.__all__:
        assert getattr(trimtab.testing, name).__name__ == name
    with pytest.raises(AttributeError):
        trimtab.testing.NoSuchContract  # noqa: B018 - the look-up is the test
