"""From here on an SQLite catalogue is in WAL mode and written in turns; an earlier trimtab, without them, refuses."""

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change no table: the revision itself is what keeps others out. # D57"""


def downgrade() -> None:
    """Change no table."""
