"""From here on an SQLite catalogue is in WAL mode, and its writers take turns.

An earlier trimtab, which does not take turns, refuses a catalogue of this revision.
"""

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change no table. The revision itself keeps earlier versions out. # D57"""


def downgrade() -> None:
    """Change no table."""
