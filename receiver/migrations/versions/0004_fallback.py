"""Deliveries know when it was decided whether another channel tells it too."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Adds the column; what failed before is not handed on now."""
    op.add_column("deliveries", sa.Column("fallback_at", sa.DateTime(timezone=True)))
    op.execute("UPDATE deliveries SET fallback_at = settled_at WHERE state IN ('failed', 'uncertain')")
