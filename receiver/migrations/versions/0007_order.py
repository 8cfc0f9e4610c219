"""What is open in the order in which it is taken on, so that a long line costs a claim no more than a short one."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_HELD = sa.text("state IN ('held')")
_LOST = sa.text("state IN ('failed', 'uncertain')")
_OPEN = sa.text("state IN ('pending', 'held', 'retrying')")


def upgrade() -> None:
    """Makes the one index anew, with the urgency, and the other for those alone that it is needed for."""
    op.drop_index("deliveries_open", "deliveries")
    op.create_index(
        "deliveries_open",
        "deliveries",
        ["channel", sa.text("urgency DESC"), "next_attempt_at", "id"],
        sqlite_where=_OPEN,
        postgresql_where=_OPEN,
    )
    op.create_index(
        "deliveries_held",
        "deliveries",
        ["channel", "audience", "lane", "id"],
        sqlite_where=_HELD,
        postgresql_where=_HELD,
    )
    op.drop_index("deliveries_state", "deliveries")
    op.create_index("deliveries_lost", "deliveries", ["state", "channel"], sqlite_where=_LOST, postgresql_where=_LOST)
