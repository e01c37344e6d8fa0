"""Schema revisions of the catalogue, and their migration by Alembic."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from trimtab.core.errors import Misuse

HEAD = "0002"
KNOWN = ("0001", "0002")  # every revision that this version can read or migrate, oldest first


def revision_of(connection: sqlite3.Connection, what: str) -> str | None:
    """The database's schema revision, None when it has no tables yet.

    Raises:
        Misuse: A newer trimtab made it, or it belongs to something else.
    """
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "alembic_version" not in tables:
        if tables:
            found = ", ".join(sorted(tables)[:5])
            raise Misuse(f"{what}: no trimtab catalogue: it has tables ({found}) but no version. Give an empty one.")
        return None
    revisions = [revision for (revision,) in connection.execute("SELECT version_num FROM alembic_version")]
    if len(revisions) != 1 or revisions[0] not in KNOWN:
        found = ", ".join(map(str, revisions)) or "none"
        raise Misuse(
            f"{what}: schema revision {found}, this trimtab knows {', '.join(KNOWN)}. Use the trimtab that wrote it."
        )
    return str(revisions[0])


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database to the newest schema and commit, in the caller's transaction."""
    import sqlalchemy as sa
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)

    def steps(revision: object, context: object) -> object:
        return scripts._upgrade_revs(HEAD, revision)  # type: ignore[arg-type]  # as Alembic's own upgrade does

    engine = sa.create_engine("sqlite://", creator=lambda: connection, poolclass=sa.pool.StaticPool)
    with EnvironmentContext(config, scripts, fn=steps, destination_rev=HEAD) as environment, engine.connect() as given:
        environment.configure(connection=given)
        environment.run_migrations()
        given.commit()
