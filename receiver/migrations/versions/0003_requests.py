"""Requests that a program may repeat, each with the notification that the first of them became."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Makes the table; a request is forgotten with its notification."""
    notification_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "requests",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column(
            "notification_id", notification_id, sa.ForeignKey("notifications.id", ondelete="CASCADE"), index=True
        ),
        sqlite_with_rowid=False,
    )
