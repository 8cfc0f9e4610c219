"""What the same readers were told of late, so that a storm is one to all receivers and after a restart."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Makes the table."""
    op.create_table(
        "lanes",
        sa.Column("channel", sa.String(32), primary_key=True),
        sa.Column("audience", sa.String(64), primary_key=True),
        sa.Column("lane", sa.String(64), primary_key=True),
        sa.Column("critical", sa.Boolean, primary_key=True),
        sa.Column("told", sa.Text, nullable=False),
        sa.Column("digest_at", sa.DateTime(timezone=True)),
        sqlite_with_rowid=False,
    )
