"""The outbox's statements for those who look: what came, what became of it, what waits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, exists, func, or_, select

from receiver import alertmanager
from receiver.accepting import in_parts
from receiver.notification import Alert, Notification, Severity
from receiver.tables import OPEN_STATES, AnyRow, alerts, deliveries, is_lost, is_open, notifications, recipients

__all__ = [
    "DeliveryRecord",
    "Filter",
    "Heard",
    "NotificationRecord",
    "RecipientRecord",
    "Waiting",
    "find",
    "heard",
    "last_of",
    "latest",
    "waiting",
]


@dataclass(frozen=True)
class Waiting:
    """How many deliveries of a channel are in a state, and since when the oldest of them waits."""

    channel: str
    state: str
    count: int
    oldest: datetime


@dataclass(frozen=True)
class RecipientRecord:
    address: str
    state: str
    error: str | None
    settled_at: datetime | None


@dataclass(frozen=True)
class DeliveryRecord:
    """A delivery as the history shows it."""

    id: int
    channel: str
    audience: str
    severity: Severity
    firing: bool
    state: str
    attempts: int
    created_at: datetime
    next_attempt_at: datetime | None
    settled_at: datetime | None
    error: str | None
    recipients: tuple[RecipientRecord, ...]
    merged_into: int | None = None
    """The delivery whose message tells this too."""
    fallback_for: int | None = None
    """The delivery that did not get through, so that this one was made."""


@dataclass(frozen=True)
class NotificationRecord:
    """A notification as the history shows it; its alerts only where one was asked for."""

    id: int
    received_at: datetime
    source: str
    group_key: str
    severity: Severity
    firing: bool
    alert_count: int
    duplicates: int
    title: str
    deliveries: tuple[DeliveryRecord, ...]
    notification: Notification | None = None


@dataclass(frozen=True)
class Heard:
    """A firing alert, as the last notification that named it told it, and when that came."""

    alert: Alert
    at: datetime


@dataclass(frozen=True)
class Filter:
    """Which notifications to list; None: any."""

    firing: bool | None = None
    state: str | None = None
    severity: str | None = None
    channel: str | None = None
    before: int | None = None
    limit: int = 50


def latest(connection: Connection, wanted: Filter) -> list[NotificationRecord]:
    """The newest first, without their alerts."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.firing is not None:
        conditions.append(notifications.c.firing == wanted.firing)
    if wanted.severity is not None:
        conditions.append(notifications.c.severity == wanted.severity)
    if wanted.before is not None:
        conditions.append(notifications.c.id < wanted.before)
    of_delivery = [deliveries.c.notification_id == notifications.c.id]
    if wanted.state is not None:
        of_delivery.append(deliveries.c.state == wanted.state)
    if wanted.channel is not None:
        of_delivery.append(deliveries.c.channel == wanted.channel)
    if len(of_delivery) > 1:
        conditions.append(exists().where(*of_delivery))
    shown = [column for column in notifications.c if column is not notifications.c.payload]
    rows = connection.execute(
        select(*shown).where(*conditions).order_by(notifications.c.id.desc()).limit(wanted.limit)
    ).all()
    told = _delivery_records(connection, [row.id for row in rows])
    return [_notification_record(row, told[row.id]) for row in rows]


def find(connection: Connection, notification_id: int) -> NotificationRecord | None:
    """One with everything known of it."""
    row = connection.execute(select(notifications).where(notifications.c.id == notification_id)).first()
    if row is None:
        return None
    return _with_alerts(row, _delivery_records(connection, [notification_id])[notification_id])


def last_of(connection: Connection, source: str, *, heartbeat: bool) -> NotificationRecord | None:
    """As Outbox.last_of, without its deliveries."""
    is_heartbeat = notifications.c.severity == "none"
    row = connection.execute(
        select(notifications)
        .where(notifications.c.source == source, is_heartbeat if heartbeat else ~is_heartbeat)
        .order_by(notifications.c.id.desc())
        .limit(1)
    ).first()
    return _with_alerts(row, ()) if row is not None else None


def heard(connection: Connection, since: datetime) -> list[Heard]:
    """As Outbox.heard."""
    last = (
        select(alerts.c.fingerprint, func.max(alerts.c.notification_id).label("id"))
        .join(notifications, notifications.c.id == alerts.c.notification_id)
        # what a program had to say, or a report, never ends
        .where(notifications.c.received_at >= since, notifications.c.source == "alertmanager")
        .group_by(alerts.c.fingerprint)
        .subquery()
    )
    statement = (
        select(alerts.c.notification_id, alerts.c.position)
        .join(last, and_(alerts.c.fingerprint == last.c.fingerprint, alerts.c.notification_id == last.c.id))
        .where(alerts.c.firing)
    )
    positions: defaultdict[int, list[int]] = defaultdict(list)
    for notification_id, position in connection.execute(statement):
        positions[notification_id].append(position)
    found = []
    for some in in_parts(sorted(positions)):
        told = connection.execute(
            select(notifications.c.id, notifications.c.received_at, notifications.c.payload).where(
                notifications.c.id.in_(some)
            )
        )
        for row in told:
            whole = alertmanager.parse(row.payload.encode()).alerts
            found += [Heard(whole[position], row.received_at) for position in positions[row.id]]
    return found


def waiting(connection: Connection) -> list[Waiting]:
    """Counts of what is open or has failed, by channel and state."""
    since = func.coalesce(deliveries.c.held_until, deliveries.c.created_at)
    rows = connection.execute(
        select(
            deliveries.c.channel,
            deliveries.c.state,
            func.count(),
            func.min(since, type_=deliveries.c.created_at.type),
        )
        .where(or_(is_open(deliveries), and_(is_lost(deliveries), deliveries.c.state == "failed")))
        .group_by(deliveries.c.channel, deliveries.c.state)
    )
    return [Waiting(channel, state, count, oldest) for channel, state, count, oldest in rows]


def _delivery_records(connection: Connection, ids: Sequence[int]) -> defaultdict[int, list[DeliveryRecord]]:
    rows = connection.execute(
        select(deliveries).where(deliveries.c.notification_id.in_(ids)).order_by(deliveries.c.id)
    ).all()
    told: defaultdict[int, list[RecipientRecord]] = defaultdict(list)
    states = {row.id: row.state for row in rows}
    for row in connection.execute(
        select(recipients)
        .where(recipients.c.delivery_id.in_([row.id for row in rows]))
        .order_by(recipients.c.delivery_id, recipients.c.position)
    ):
        merged = row.state == "waiting" and states[row.delivery_id] == "merged"
        state = "merged" if merged else row.state
        told[row.delivery_id].append(RecipientRecord(row.address, state, row.error, row.settled_at))
    found: defaultdict[int, list[DeliveryRecord]] = defaultdict(list)
    for row in rows:
        found[row.notification_id].append(
            DeliveryRecord(
                id=row.id,
                channel=row.channel,
                audience=row.audience,
                severity=row.severity,
                firing=row.firing,
                state=row.state,
                attempts=row.attempts,
                created_at=row.created_at,
                next_attempt_at=row.next_attempt_at if row.state in OPEN_STATES else None,
                settled_at=row.settled_at,
                error=row.error,
                recipients=tuple(told[row.id]),
                merged_into=row.merged_into,
                fallback_for=row.fallback_for,
            )
        )
    return found


def _with_alerts(row: AnyRow, told: Sequence[DeliveryRecord]) -> NotificationRecord:
    return replace(_notification_record(row, told), notification=alertmanager.parse(row.payload.encode()))


def _notification_record(row: AnyRow, told: Sequence[DeliveryRecord]) -> NotificationRecord:
    return NotificationRecord(
        id=row.id,
        received_at=row.received_at,
        source=row.source,
        group_key=row.group_key,
        severity=row.severity,
        firing=row.firing,
        alert_count=row.alert_count,
        duplicates=row.duplicates,
        title=row.title,
        deliveries=tuple(told),
    )
