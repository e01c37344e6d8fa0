"""The tables of the catalogue (the database of small records), and their migrations."""

from __future__ import annotations

import sqlite3

from trimtab.core.errors import Misuse

HEAD = "0002"
KNOWN = ("0001", "0002")  # every schema revision that this version of trimtab can read or migrate, oldest first
# The statements that make an empty catalogue. `alembic_version` holds the schema revision. Its name is from Alembic,
# which earlier versions of trimtab used.
TABLES = (
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY"
    " (version_num))",
    "CREATE TABLE record (kind TEXT NOT NULL, key TEXT NOT NULL, revision BIGINT NOT NULL, body BLOB NOT NULL,"
    " crc BIGINT NOT NULL, PRIMARY KEY (kind, key))",
    "CREATE TABLE journal (journal TEXT NOT NULL, sequence BIGINT NOT NULL, at_us BIGINT NOT NULL,"
    " body BLOB NOT NULL, crc BIGINT NOT NULL, PRIMARY KEY (journal, sequence))",
    "CREATE TABLE lease (lease TEXT NOT NULL, holder TEXT NOT NULL, expires_at_us BIGINT NOT NULL,"
    " crc BIGINT NOT NULL, PRIMARY KEY (lease))",
    f"INSERT INTO alembic_version VALUES ('{HEAD}')",
)


def revision_of(connection: sqlite3.Connection, what: str) -> str | None:
    """Return the database's schema revision; None if it has no tables yet.

    Raises:
        Misuse: A newer trimtab made the database, or it belongs to another program.
    """
    found = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
    )
    tables = sorted(name for (name,) in found)
    if "alembic_version" not in tables:
        if tables:
            raise Misuse(
                f"{what} is not a trimtab catalogue: it has tables ({', '.join(tables[:5])}) but no version. Give an "
                "empty database."
            )
        return None
    revisions = [str(revision) for (revision,) in connection.execute("SELECT version_num FROM alembic_version")]
    if len(revisions) != 1 or revisions[0] not in KNOWN:
        raise Misuse(
            f"{what}: schema revision {', '.join(revisions) or 'none'}, but this trimtab reads {', '.join(KNOWN)}. Use "
            "the trimtab that wrote it."
        )
    return revisions[0]


def migrate(connection: sqlite3.Connection, revision: str | None) -> None:
    """Bring the database from a revision to the newest schema, within the caller's transaction.

    From revision 0002 on, an SQLite catalogue is in WAL mode, and its writers hold a lock (`WriteLock`). No table has
    changed. The new number makes earlier versions of trimtab, which do not know the lock, refuse the catalogue.  # D57
    """
    if revision is None:
        for statement in TABLES:
            connection.execute(statement)
    else:
        connection.execute(f"UPDATE alembic_version SET version_num = '{HEAD}'")
