"""Recipients know what the peer calls the message that they got."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Adds the column; empty where the peer gave no name."""
    op.add_column("recipients", sa.Column("reference", sa.String(64)))
