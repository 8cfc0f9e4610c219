"""The outbox's tables. A change here needs a migration beside it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Dialect,
    ForeignKey,
    FromClause,
    Index,
    Integer,
    MetaData,
    Row,
    Select,
    String,
    Table,
    Text,
    and_,
    bindparam,
    exists,
    func,
    literal_column,
    or_,
    select,
    text,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.types import TypeDecorator

__all__ = [
    "ERASED",
    "LONGEST_NAME",
    "OPEN_STATES",
    "REVISION",
    "AnyRow",
    "alerts",
    "comes_before",
    "deliveries",
    "has_reached_some",
    "heartbeats",
    "insert_into",
    "is_held",
    "is_lost",
    "is_on_its_way",
    "is_open",
    "lanes",
    "metadata",
    "new_ids",
    "notifications",
    "recipients",
    "requests",
    "seen",
]


REVISION = "0007"
"""The newest of the migrations."""

AnyRow: TypeAlias = Row[*tuple[Any, ...]]
"""Of any statement, its columns by their names."""


class Instant(TypeDecorator[datetime]):
    """An aware time in UTC; SQLite keeps it without its zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def insert_into(dialect: str, table: Table) -> Any:
    """The dialect's own INSERT, for ON CONFLICT."""
    if dialect == "sqlite":
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - 2 MB that a receiver on SQLite does without

    return postgresql.insert(table)


def new_ids(connection: Connection, table: Table, count: int) -> Sequence[int]:
    """Numbers for so many new rows, ascending; within a transaction that writes."""
    if connection.dialect.name == "sqlite":  # which counts so itself, and has one writer at a time
        last = connection.execute(_last_id(table)).scalar() or 0
        return range(last + 1, last + count + 1)
    return sorted(connection.execute(_next_ids(table), {"count": count}).scalars())


@functools.cache
def _last_id(table: Table) -> Select[int]:
    return select(func.max(table.c.id))


@functools.cache
def _next_ids(table: Table) -> Select[int]:
    rows = func.generate_series(1, bindparam("count")).alias()
    return select(func.nextval(func.pg_get_serial_sequence(table.name, "id"))).select_from(rows)


LONGEST_NAME = 64
"""Of a group or a Slack hook; PostgreSQL takes no longer one into the columns below."""

Id = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER counts up by itself in SQLite

OPEN_STATES = ("pending", "held", "retrying")
"""States of a delivery that is still to be settled."""


LOST_STATES = ("failed", "uncertain")
"""States of a delivery that has come to its end and may have reached nobody."""


ERASED = "(erased)"
"""What stands in the place of a recipient's address that was taken out."""


def is_open(table: FromClause) -> ColumnElement[bool]:
    """In the very words of the partial indexes below: SQLite uses one only where the query repeats them."""
    return _is_one_of(table, OPEN_STATES)


def is_held(table: FromClause) -> ColumnElement[bool]:
    """As `is_open`."""
    return _is_one_of(table, ("held",))


def is_on_its_way(table: FromClause, now: datetime | BindParameter[datetime] | None = None) -> ColumnElement[bool]:
    """Whether it is open, and waits for the end of no quiet time that lasts: one that is being sent does so no longer.

    Without `now` every quiet time lasts.
    """
    over = [table.c.next_attempt_at <= now] if now is not None else []
    return and_(is_open(table), or_(table.c.state != "held", table.c.lease_owner.is_not(None), *over))


def has_reached_some(table: FromClause) -> ColumnElement[bool]:
    """Whether some of its recipients have it."""
    return exists().where(recipients.c.delivery_id == table.c.id, recipients.c.state == "delivered")


def is_lost(table: FromClause) -> ColumnElement[bool]:
    """As `is_open`."""
    return _is_one_of(table, LOST_STATES)


def _is_one_of(table: FromClause, states: Sequence[str]) -> ColumnElement[bool]:
    return table.c.state.in_([literal_column(f"'{state}'") for state in states])


metadata = MetaData()

notifications = Table(
    "notifications",
    metadata,
    Column("id", Id, primary_key=True),
    Column("received_at", Instant, nullable=False, index=True),
    Column("source", String(32), nullable=False),
    Column("group_key", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("severity", String(16), nullable=False),
    Column("firing", Boolean, nullable=False),
    Column("alert_count", Integer, nullable=False),
    Column("duplicates", Integer, nullable=False, server_default="0"),
    Column("payload", Text, nullable=False),
)

alerts = Table(
    "alerts",
    metadata,
    Column("notification_id", Id, ForeignKey(notifications.c.id, ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("starts_at", Instant, nullable=False),
    Column("firing", Boolean, nullable=False),
    Index("alerts_identity", "fingerprint", "starts_at"),
    sqlite_with_rowid=False,
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Id, primary_key=True),
    Column("notification_id", Id, ForeignKey(notifications.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("channel", String(32), nullable=False),
    Column("lane", String(LONGEST_NAME), nullable=False),  # what the channel's pace counts by: a Slack hook
    Column("audience", String(LONGEST_NAME), nullable=False),
    Column("locale", String(16), nullable=False),
    Column("thread", String(64), nullable=False),  # the group, so that its messages arrive in their order
    Column("positions", Text),  # which of the notification's alerts, as a JSON list; NULL: all
    Column("severity", String(16), nullable=False),
    Column("urgency", Integer, nullable=False),
    Column("firing", Boolean, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("created_at", Instant, nullable=False),
    Column("next_attempt_at", Instant, nullable=False),
    Column("held_until", Instant),  # the end of the quiet time that it waited for
    Column("give_up_at", Instant, nullable=False),
    Column("lease_owner", String(64)),
    Column("lease_until", Instant),
    Column("claimed_at", Instant),
    Column("unanswered_since", Instant),  # the first attempt of which nobody knows whether the peer took it
    Column("settled_at", Instant),
    Column("error", Text),
    Column("merged_into", Id, ForeignKey("deliveries.id", ondelete="SET NULL")),
    Column("fallback_for", Id, ForeignKey("deliveries.id", ondelete="SET NULL")),
    Column("fallback_at", Instant),  # when it was decided whether another channel tells it too
    Index(
        "deliveries_open",
        "channel",
        text("urgency DESC"),
        "next_attempt_at",
        "id",
        sqlite_where=text("state IN ('pending', 'held', 'retrying')"),
        postgresql_where=text("state IN ('pending', 'held', 'retrying')"),
    ),
    Index(
        "deliveries_thread",
        "thread",
        "channel",
        sqlite_where=text("state IN ('pending', 'held', 'retrying')"),
        postgresql_where=text("state IN ('pending', 'held', 'retrying')"),
    ),
    Index(
        "deliveries_held",
        "channel",
        "audience",
        "lane",
        "id",
        sqlite_where=text("state IN ('held')"),
        postgresql_where=text("state IN ('held')"),
    ),
    Index(
        "deliveries_lost",
        "state",
        "channel",
        sqlite_where=text("state IN ('failed', 'uncertain')"),
        postgresql_where=text("state IN ('failed', 'uncertain')"),
    ),
    Index("deliveries_merged_into", "merged_into"),
    Index("deliveries_fallback_for", "fallback_for"),
)

recipients = Table(
    "recipients",
    metadata,
    Column("delivery_id", Id, ForeignKey(deliveries.c.id, ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("address", String(320), nullable=False, index=True),
    Column("state", String(16), nullable=False),  # waiting, delivered, refused, uncertain
    Column("error", Text),
    Column("settled_at", Instant),
    Column("reference", String(64)),  # what the peer calls the message
    sqlite_with_rowid=False,
)

seen = Table(  # what makes a duplicate one, across replicas
    "seen",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("notification_id", Id),
    Column("seen_at", Instant, nullable=False, index=True),
    sqlite_with_rowid=False,
)

requests = Table(  # what makes a program's request one that was made before: Idempotency-Key
    "requests",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("notification_id", Id, ForeignKey(notifications.c.id, ondelete="CASCADE"), index=True),
    sqlite_with_rowid=False,
)

lanes = Table(  # what the same readers were told of late: digest.Lane
    "lanes",
    metadata,
    Column("channel", String(32), primary_key=True),
    Column("audience", String(LONGEST_NAME), primary_key=True),
    Column("lane", String(LONGEST_NAME), primary_key=True),
    Column("critical", Boolean, primary_key=True),
    Column("told", Text, nullable=False),  # a JSON list of times
    Column("digest_at", Instant),
    sqlite_with_rowid=False,
)

heartbeats = Table(
    "heartbeats",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("seen_at", Instant, nullable=False),
    sqlite_with_rowid=False,
)


def comes_before(earlier: FromClause) -> ColumnElement[bool]:
    """Whether it, an alias of the deliveries, tells earlier of the same group to the same readers."""
    return and_(
        earlier.c.thread == deliveries.c.thread,
        earlier.c.channel == deliveries.c.channel,
        earlier.c.audience == deliveries.c.audience,
        earlier.c.lane == deliveries.c.lane,
        earlier.c.id < deliveries.c.id,
    )
