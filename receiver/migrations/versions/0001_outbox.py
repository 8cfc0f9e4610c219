"""The outbox: notifications, their alerts, deliveries and recipients."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
INSTANT = sa.DateTime(timezone=True)
OPEN = sa.text("state IN ('pending', 'held', 'retrying')")


def upgrade() -> None:
    """Makes every table of the first version."""
    op.create_table(
        "notifications",
        sa.Column("id", ID, primary_key=True),
        sa.Column("received_at", INSTANT, nullable=False, index=True),
        sa.Column("source", sa.String(32), nullable=False),
        sa.Column("group_key", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("firing", sa.Boolean, nullable=False),
        sa.Column("alert_count", sa.Integer, nullable=False),
        sa.Column("duplicates", sa.Integer, nullable=False, server_default="0"),
        sa.Column("payload", sa.Text, nullable=False),
    )
    op.create_table(
        "alerts",
        sa.Column("notification_id", ID, sa.ForeignKey("notifications.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("starts_at", INSTANT, nullable=False),
        sa.Column("firing", sa.Boolean, nullable=False),
        sa.Index("alerts_identity", "fingerprint", "starts_at"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "deliveries",
        sa.Column("id", ID, primary_key=True),
        sa.Column(
            "notification_id", ID, sa.ForeignKey("notifications.id", ondelete="CASCADE"), nullable=False, index=True
        ),
        sa.Column("channel", sa.String(32), nullable=False),
        sa.Column("lane", sa.String(64), nullable=False),
        sa.Column("audience", sa.String(64), nullable=False),
        sa.Column("locale", sa.String(16), nullable=False),
        sa.Column("thread", sa.String(64), nullable=False),
        sa.Column("positions", sa.Text),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("urgency", sa.Integer, nullable=False),
        sa.Column("firing", sa.Boolean, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("next_attempt_at", INSTANT, nullable=False),
        sa.Column("give_up_at", INSTANT, nullable=False),
        sa.Column("lease_owner", sa.String(64)),
        sa.Column("lease_until", INSTANT),
        sa.Column("claimed_at", INSTANT),
        sa.Column("unanswered_since", INSTANT),
        sa.Column("settled_at", INSTANT),
        sa.Column("error", sa.Text),
        sa.Column("merged_into", ID, sa.ForeignKey("deliveries.id", ondelete="SET NULL")),
        sa.Column("fallback_for", ID, sa.ForeignKey("deliveries.id", ondelete="SET NULL")),
        sa.Index("deliveries_open", "channel", "next_attempt_at", sqlite_where=OPEN, postgresql_where=OPEN),
        sa.Index("deliveries_thread", "thread", "channel", sqlite_where=OPEN, postgresql_where=OPEN),
        sa.Index("deliveries_state", "state", "channel"),
        sa.Index("deliveries_merged_into", "merged_into"),
        sa.Index("deliveries_fallback_for", "fallback_for"),
    )
    op.create_table(
        "recipients",
        sa.Column("delivery_id", ID, sa.ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("address", sa.String(320), nullable=False, index=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("settled_at", INSTANT),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "seen",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("notification_id", ID),
        sa.Column("seen_at", INSTANT, nullable=False, index=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "heartbeats",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("seen_at", INSTANT, nullable=False),
        sqlite_with_rowid=False,
    )
