"""From this revision on, an SQLite catalogue is in WAL mode, and its writers hold a lock (`WriteLock`).

Earlier versions of trimtab do not know the lock. They refuse a catalogue of this revision.
"""

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change no table. Because of the new revision, earlier versions of trimtab refuse the catalogue. # D57"""


def downgrade() -> None:
    """Change no table."""
