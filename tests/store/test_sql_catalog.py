from __future__ import annotations

import contextlib
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Corrupt, Misuse, Unavailable
from trimtab.store import Append, Put, Remove, sql_catalog
from trimtab.store.sql_catalog import SqlCatalog
from trimtab.testing import CatalogContract

Start = Callable[[str, str, Path], subprocess.Popen[str]]


class TestSqliteCatalog(CatalogContract):
    @pytest.fixture
    def catalog(self, tmp_path: Path, clock: VirtualClock) -> Iterator[SqlCatalog]:
        with SqlCatalog.sqlite(tmp_path / "catalog.db", clock=clock) as catalog:
            yield catalog


@pytest.mark.fast
def test_what_is_written_is_there_after_reopening(tmp_path: Path) -> None:
    with SqlCatalog.sqlite(tmp_path / "c.db") as catalog:
        catalog.write([Put("a", "b", b"1"), Append("j", 1, b"x")])
    with SqlCatalog.sqlite(tmp_path / "c.db") as catalog:
        assert catalog.get("a", "b") is not None
        assert catalog.check() == 2


def test_two_catalogues_of_one_file_exclude_each_other(tmp_path: Path) -> None:
    clock = VirtualClock(0)
    with (
        SqlCatalog.sqlite(tmp_path / "c.db", clock=clock) as one,
        SqlCatalog.sqlite(tmp_path / "c.db", clock=clock) as two,
    ):
        assert one.acquire("controller", "one", 5.0)
        assert not two.acquire("controller", "two", 5.0)
        clock.advance_to(5_000_000)
        assert two.acquire("controller", "two", 5.0)
        assert not one.acquire("controller", "one", 5.0)


def test_processes_that_create_and_count_at_once_lose_no_step(start_writer: Start, tmp_path: Path) -> None:
    writers = [start_writer("counter", "some", tmp_path) for _ in range(3)]
    for writer in writers:
        assert writer.wait(timeout=60) == 0
    with SqlCatalog.sqlite(tmp_path / "catalog.db") as catalog:
        record = catalog.get("n", "n")
        assert record is not None
        assert (record.revision, record.body) == (120, b"120")
        assert [line.body for line in catalog.journal("j")] == [b"%d" % i for i in range(1, 121)]


def test_a_changed_byte_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    with SqlCatalog.sqlite(path) as catalog:
        catalog.write([Put("alias", "champion", b'"late@7"'), Append("ledger", 1, b"promoted")])
    path.write_bytes(path.read_bytes().replace(b'"late@7"', b'"late@8"').replace(b"promoted", b"promoteD"))
    with SqlCatalog.sqlite(path) as catalog:
        with pytest.raises(Corrupt, match="alias/champion"):
            catalog.get("alias", "champion")
        with pytest.raises(Corrupt, match="alias/champion"):
            catalog.find("alias")
        with pytest.raises(Corrupt, match="line 1 of journal 'ledger'"):
            catalog.journal("ledger")


def test_a_missing_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    with SqlCatalog.sqlite(path) as catalog:
        for i in range(3):
            catalog.write([Append("ledger", i, b"x")])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM journal WHERE sequence = 2")
    with SqlCatalog.sqlite(path) as catalog, pytest.raises(Corrupt, match="line 2 of journal 'ledger' is missing"):
        catalog.journal("ledger")


def test_vacuum_leaves_no_bytes_of_replaced_and_removed_records_in_any_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_catalog, "_BUSY_S", 0.2)

    def there(what: bytes) -> bool:
        return any(what in file.read_bytes() for file in tmp_path.iterdir())

    with SqlCatalog.sqlite(tmp_path / "c.db") as catalog, SqlCatalog.sqlite(tmp_path / "c.db") as other:
        catalog.write([Put("a", "b", b"person-1" * 2_000), Put("a", "c", b"person-2")])
        catalog.write([Put("a", "b", b"1"), Remove("a", "c")])
        assert there(b"person-1")
        assert there(b"person-2")
        with contextlib.closing(sqlite3.connect(tmp_path / "c.db", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM record").fetchall()
            with pytest.raises(Unavailable, match=r"c.db: another process is reading it, so old bytes stay in it"):
                catalog.vacuum()
        catalog.vacuum()
        assert not there(b"person")
        other.write([Put("a", "d", b"2")])
        assert [record.body for record in catalog.find("a")] == [b"1", b"2"]


def test_a_newer_revision_or_a_foreign_database_is_refused(tmp_path: Path) -> None:
    SqlCatalog.sqlite(tmp_path / "newer.db").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "newer.db", isolation_level=None)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Misuse, match=r"newer.db: schema revision 9999, but .* reads 0001, 0002"):
        SqlCatalog.sqlite(tmp_path / "newer.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "foreign.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE customers(name TEXT)")
    with pytest.raises(Misuse, match="customers"):
        SqlCatalog.sqlite(tmp_path / "foreign.db")


def test_an_older_database_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    sqlite3.connect(path, isolation_level=None).execute("VACUUM").connection.close()
    assert path.stat().st_size > 0  # a database before the first revision
    with SqlCatalog.sqlite(path) as catalog:
        catalog.write([Put("a", "b", b"1")])
        assert catalog.check() == 1


def test_a_new_file_is_that_of_the_migrations(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "migrated.db", isolation_level=None).execute("VACUUM").connection.close()
    found = []
    for name in ("migrated.db", "new.db"):
        SqlCatalog.sqlite(tmp_path / name).close()
        with contextlib.closing(sqlite3.connect(tmp_path / name)) as connection:
            found.append((list(connection.iterdump()), connection.execute("PRAGMA journal_mode").fetchone()))
    assert found[0] == found[1]
    assert found[0][1] == ("wal",)


def test_nothing_is_written_to_a_catalogue_that_is_not_there_any_more(tmp_path: Path) -> None:
    with SqlCatalog.sqlite(tmp_path / "catalog.db") as catalog:
        catalog.write([Put("k", "a", b"1")])
        (tmp_path / "catalog.db").rename(tmp_path / "away")
        with pytest.raises(Unavailable, match=r"catalog\.db: the file was removed"):
            catalog.write([Put("k", "b", b"2")])
        (tmp_path / "away").rename(tmp_path / "catalog.db")
        catalog.write([Put("k", "c", b"3")])
        assert [record.key for record in catalog.find("k")] == ["a", "c"]
