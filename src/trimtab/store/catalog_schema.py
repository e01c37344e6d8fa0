"""The tables of the catalogue (the database of small records), and their migrations."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateTable

from trimtab.core.errors import Misuse

HEAD = "0002"
KNOWN = ("0001", "0002")  # every schema revision that this version of trimtab can read or migrate, oldest first

_text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")  # sorts texts by bytes, like SQLite
metadata = sa.MetaData()
record = sa.Table(
    "record",
    metadata,
    sa.Column("kind", _text, primary_key=True),
    sa.Column("key", _text, primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("crc", sa.BigInteger, nullable=False),
)
journal = sa.Table(
    "journal",
    metadata,
    sa.Column("journal", _text, primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("crc", sa.BigInteger, nullable=False),
)
lease = sa.Table(
    "lease",
    metadata,
    sa.Column("lease", _text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("expires_at_us", sa.BigInteger, nullable=False),
    sa.Column("crc", sa.BigInteger, nullable=False),
)
_version = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def new_sqlite() -> list[str]:
    """Return statements that make the same empty SQLite catalogue as the migrations.

    They do without Alembic, which takes 0.2 s to load.
    """
    tables = (_version, record, journal, lease)
    made = [str(CreateTable(table).compile(dialect=sqlite.dialect())).strip() for table in tables]
    return [*made, f"INSERT INTO {_version.name} VALUES ('{HEAD}')"]


def revision_of(connection: sa.Connection, what: str) -> str | None:
    """Return the database's schema revision; None if it has no tables yet.

    Raises:
        Misuse: A newer trimtab made the database, or it belongs to another program.
    """
    tables = set(sa.inspect(connection).get_table_names())
    if _version.name not in tables:
        if tables:
            found = ", ".join(sorted(tables)[:5])
            raise Misuse(
                f"{what}: not a trimtab catalogue: it has tables ({found}) but no version. Give an empty database."
            )
        return None
    revisions = connection.execute(sa.select(_version.c.version_num)).scalars().all()
    if len(revisions) != 1 or revisions[0] not in KNOWN:
        found = ", ".join(revisions) or "none"
        raise Misuse(
            f"{what}: schema revision {found}, this trimtab knows {', '.join(KNOWN)}. Use the trimtab that wrote it."
        )
    return str(revisions[0])


def migrate(connection: sa.Connection) -> None:
    """Bring the database to the newest schema, within the caller's transaction."""
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)

    def steps(revision: object, context: object) -> object:
        return scripts._upgrade_revs(HEAD, revision)  # type: ignore[arg-type]  # like Alembic's own upgrade

    with EnvironmentContext(config, scripts, fn=steps, destination_rev=HEAD) as environment:
        environment.configure(connection=connection, target_metadata=metadata)
        environment.run_migrations()
