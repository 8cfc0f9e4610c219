"""Deliveries know until when they were held, so that their age counts from there."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds the column; what was never held has none."""
    op.add_column("deliveries", sa.Column("held_until", sa.DateTime(timezone=True)))
