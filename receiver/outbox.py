"""What was accepted and what became of it: add, claim, finish, history. Every change is one transaction."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from receiver import alertmanager
from receiver.digest import BY_GROUP, Gathering
from receiver.fallback import Stranded
from receiver.gathering import CRITICAL, admit, same_readers
from receiver.notification import HEARTBEAT, SEVERITIES, Alert, Notification, Severity
from receiver.routing import Earlier, Identity, PlannedDelivery, Quiet, Receipt, identity
from receiver.store import Store
from receiver.tables import OPEN_STATES, alerts, deliveries, heartbeats, notifications, recipients, requests, seen

__all__ = [
    "Accepted",
    "Asked",
    "Claim",
    "DeliveryRecord",
    "Filter",
    "HandedOver",
    "Heard",
    "KeyReusedError",
    "NotificationRecord",
    "Outbox",
    "Recipient",
    "RecipientRecord",
    "Settlement",
    "Told",
    "Waiting",
    "Watched",
]

AnyRow: TypeAlias = Row[*tuple[Any, ...]]

REMINDER = "repeat interval elapsed"
"""`notification_reason` of a reminder (Alertmanager's notify.ReasonRepeatIntervalElapsed)."""

# In the table of heartbeats: times that all receivers on one store share.
_LISTENED = "(listened)"
_LISTENING_SINCE = "(listening since)"
_LOST = ("failed", "suppressed")  # states in which nobody got the message
_REFERENCES_FROM_BEFORE = timedelta(hours=1)  # far more than clocks differ
_AT_ONCE = 500  # rows asked for or deleted in one statement
_HANDED_OVER_AT_ONCE = 50


@dataclass(frozen=True)
class Accepted:
    """What became of a notification at the door."""

    notification_id: int
    deliveries: int
    duplicate: bool
    suppressed: tuple[str, ...] = ()
    """The channels of the deliveries that came to nothing by it, one entry each."""


class KeyReusedError(Exception):
    """A program gave a key that it has used for another request."""


@dataclass(frozen=True)
class Asked:
    """What makes two requests of a program the same one: the key that it gave, and a digest of the rest."""

    key: str
    digest: str

    @staticmethod
    def of(key: str, digest: str) -> Asked:
        """From the key as it was given, whatever its length."""
        return Asked(hashlib.sha256(key.encode()).hexdigest(), digest)


@dataclass(frozen=True)
class Told:
    """The last notification of an alert of our own."""

    notification_id: int
    starts_at: datetime
    firing: bool


@dataclass(frozen=True)
class Watched:
    """The heartbeat as the store knows it."""

    heard: datetime | None
    listening_since: datetime
    """Since when some receiver has listened without a long pause."""
    alarm: Told | None


@dataclass(frozen=True)
class Recipient:
    """One address of a delivery and how it stands: waiting, delivered, refused, uncertain."""

    position: int
    address: str
    state: str


@dataclass(frozen=True)
class Claim:
    """A delivery that this process has taken on, for as long as its lease lasts."""

    id: int
    notification_id: int
    channel: str
    lane: str
    audience: str
    locale: str
    thread: str
    """The group that it tells of."""
    severity: Severity
    attempts: int
    """How many came before this one."""
    created_at: datetime
    claimed_at: datetime
    give_up_at: datetime
    unanswered_since: datetime | None
    """The first attempt of which nobody knows whether the peer took the message."""
    recipients: tuple[Recipient, ...]
    notification: Notification
    """With only those alerts that this delivery tells; of a digest, all of them as they last stood."""
    merged: int = 0
    """How many others were gathered into this one."""
    others: frozenset[str] = frozenset()
    """Where something is unanswered: what the peer calls the channel's messages that it took since."""
    newly_merged: int = 0
    """How many of them just now."""
    held_until: datetime | None = None
    """The end of the quiet time that it waited for, if it did."""
    groups: int = 1
    """How many groups it tells of."""
    instead_of: str | None = None
    """The channel that did not get it through, where this one tells it for that reason."""


@dataclass(frozen=True)
class Settlement:
    """What an attempt came to."""

    state: str
    recipients: Mapping[int, tuple[str, str | None]]
    """Position → state and error, for those that changed."""
    references: Mapping[int, str] = field(default_factory=dict)
    """Position → what the peer calls the message, where it says so."""
    next_attempt_at: datetime | None = None
    error: str | None = None
    unanswered_since: datetime | None = None


@dataclass(frozen=True)
class HandedOver:
    """A delivery that another channel tells too from now on; `to` None: nobody is left whom that would reach."""

    delivery_id: int
    channel: str
    to: str | None


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


class Outbox:
    """Shared by all threads. Every method raises StoreUnavailableError where the database cannot do it now."""

    def __init__(self, store: Store, owner: str, *, lease: timedelta = timedelta(seconds=15)) -> None:
        """`owner` names this process and no other; another takes its deliveries up when `lease` was not renewed."""
        self._store = store
        self._owner = owner
        self.lease = lease

    # Accepting

    def add(
        self,
        notification: Notification,
        plan: Callable[[Earlier], Sequence[PlannedDelivery]],
        *,
        now: datetime,
        dedup_window: timedelta,
        give_up_after: timedelta,
        source: str = "alertmanager",
        asked: Asked | None = None,
    ) -> Accepted:
        """Stores the notification with its deliveries, or finds that it is a duplicate.

        Raises KeyReusedError where what was `asked` has the key of something else.
        """
        key = dedup_key(notification)
        payload = alertmanager.dump(notification)

        def work(connection: Connection) -> Accepted:
            if any(alert.is_heartbeat and alert.firing for alert in notification.alerts):
                _note_heartbeat(connection, now)
            done = _take_request(connection, asked) if asked is not None else None
            if done is not None:
                return Accepted(done, 0, duplicate=True)
            known = _take_key(connection, key, now, now - dedup_window, reminder=notification.reason == REMINDER)
            if known is not None:
                connection.execute(
                    update(notifications)
                    .where(notifications.c.id == known)
                    .values(duplicates=notifications.c.duplicates + 1)
                )
                return Accepted(known, 0, duplicate=True)
            planned = plan(_who_got(connection, [alert for alert in notification.alerts if not alert.firing]))
            notification_id = _insert_notification(connection, notification, payload, source, now)
            connection.execute(update(seen).where(seen.c.key == key).values(notification_id=notification_id))
            if asked is not None:
                connection.execute(
                    update(requests).where(requests.c.key == asked.key).values(notification_id=notification_id)
                )
            for delivery in planned:
                _insert_delivery(connection, notification, notification_id, delivery, now, give_up_after)
            suppressed = [one.to.channel for one in planned if one.quiet is not None and one.quiet.until is None]
            if any(not alert.firing for alert in notification.alerts):
                suppressed += _drop_held(connection, notification, now)
            return Accepted(notification_id, len(planned), duplicate=False, suppressed=tuple(suppressed))

        return self._store.write(work)

    def heartbeat(self) -> datetime | None:
        """When the heartbeat was last heard, by whichever process."""
        return self._store.read(
            lambda connection: connection.execute(
                select(heartbeats.c.seen_at).where(heartbeats.c.name == HEARTBEAT)
            ).scalar()
        )

    def watch(self, fingerprint: str, *, now: datetime, patience: timedelta) -> Watched:
        """Notes that somebody listens for the heartbeat now, and says what is known of it and of its alarm.

        When nobody has listened for longer than `patience`, listening begins anew.
        """

        def work(connection: Connection) -> Watched:
            known = {row.name: row.seen_at for row in connection.execute(select(heartbeats))}
            listened, since = known.get(_LISTENED), known.get(_LISTENING_SINCE)
            if listened is None or since is None or now - listened > patience:
                since = now
                _note_time(connection, _LISTENING_SINCE, since)
            _note_time(connection, _LISTENED, now)
            alarm = connection.execute(
                select(alerts.c.notification_id, alerts.c.starts_at, alerts.c.firing)
                .where(alerts.c.fingerprint == fingerprint)
                .order_by(alerts.c.notification_id.desc())
                .limit(1)
            ).first()
            return Watched(known.get(HEARTBEAT), since, Told(*alarm) if alarm is not None else None)

        return self._store.write(work)

    def last_of(self, source: str, *, heartbeat: bool) -> NotificationRecord | None:
        """The newest notification from there: of the heartbeat and its like, or of what is told to people."""
        is_heartbeat = notifications.c.severity == "none"
        statement = (
            select(notifications)
            .where(notifications.c.source == source, is_heartbeat if heartbeat else ~is_heartbeat)
            .order_by(notifications.c.id.desc())
            .limit(1)
        )
        row = self._store.read(lambda connection: connection.execute(statement).first())
        if row is None:
            return None
        return replace(_notification_record(row, ()), notification=alertmanager.parse(row.payload.encode()))

    def heard(self, *, since: datetime) -> list[Heard]:
        """The alerts whose last word, of those that came since then, was that they fire."""
        last = (
            select(alerts.c.fingerprint, func.max(alerts.c.notification_id).label("id"))
            .join(notifications, notifications.c.id == alerts.c.notification_id)
            # what a program had to say, or a report, never ends
            .where(notifications.c.received_at >= since, notifications.c.source == "alertmanager")
            .group_by(alerts.c.fingerprint)
            .subquery()
        )
        statement = select(alerts.c.notification_id, alerts.c.position).join(
            last, and_(alerts.c.fingerprint == last.c.fingerprint, alerts.c.notification_id == last.c.id)
        )

        def work(connection: Connection) -> list[Heard]:
            positions: defaultdict[int, list[int]] = defaultdict(list)
            for notification_id, position in connection.execute(statement.where(alerts.c.firing)):
                positions[notification_id].append(position)
            told = connection.execute(
                select(notifications.c.id, notifications.c.received_at, notifications.c.payload).where(
                    notifications.c.id.in_(sorted(positions)[-_AT_ONCE:])
                )
            )
            found = []
            for row in told:
                whole = alertmanager.parse(row.payload.encode()).alerts
                found += [Heard(whole[position], row.received_at) for position in positions[row.id]]
            return found

        return self._store.read(work)

    # Delivering

    def claim(
        self,
        channel: str,
        *,
        now: datetime,
        limit: int,
        busy_lanes: Iterable[str] = (),
        only: int | None = None,
        gathering: Gathering = BY_GROUP,
    ) -> list[Claim]:
        """Takes on up to `limit` deliveries that are due, the most urgent and then the oldest first.

        Messages of one group to the same recipients keep their order: the end of an alert never arrives before it.
        What waits of one group becomes one message, and after failures or above the rate what waits for the same
        readers does. `only` is the one notification to look at.
        """
        due = select(deliveries.c.id).where(
            deliveries.c.channel == channel,
            or_(
                deliveries.c.state.in_(("pending", "retrying")),
                and_(deliveries.c.state == "held", ~_held_behind_another(now)),
            ),
            deliveries.c.next_attempt_at <= now,
            or_(deliveries.c.lease_until.is_(None), deliveries.c.lease_until <= now),
            deliveries.c.lane.not_in(list(busy_lanes)),
            ~_comes_after_another(),
        )
        if only is not None:
            due = due.where(deliveries.c.notification_id == only)
        # Looking costs less than writing, and most looks find nothing.
        if self._store.read(lambda connection: connection.execute(due.limit(1)).first()) is None:
            return []
        chosen = (
            due.order_by(deliveries.c.urgency.desc(), deliveries.c.next_attempt_at, deliveries.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("chosen")
        )
        # A lease that somebody left behind: nobody knows how far that attempt came.
        unanswered = case(
            (
                deliveries.c.lease_owner.is_not(None),
                func.coalesce(deliveries.c.unanswered_since, deliveries.c.claimed_at),
            ),
            else_=deliveries.c.unanswered_since,
        )
        statement = (
            update(deliveries)
            .where(deliveries.c.id.in_(select(chosen.c.id)))
            .values(lease_owner=self._owner, lease_until=now + self.lease, claimed_at=now, unanswered_since=unanswered)
            .returning(*deliveries.c)
        )

        return _claims(self._store.write(lambda connection: _take(connection, statement, gathering, now)))

    def next_due(self, channel: str) -> datetime | None:
        """When the channel's next delivery is due or its lease ends; None where nothing waits."""
        statement = select(
            func.min(
                case(
                    (deliveries.c.lease_until > deliveries.c.next_attempt_at, deliveries.c.lease_until),
                    else_=deliveries.c.next_attempt_at,
                ),
                type_=deliveries.c.next_attempt_at.type,
            )
        ).where(
            deliveries.c.channel == channel,
            or_(
                deliveries.c.state.in_(("pending", "retrying")),
                and_(deliveries.c.state == "held", ~_held_behind_another()),
            ),
            ~_comes_after_another(),
        )
        return self._store.read(lambda connection: connection.execute(statement).scalar())

    def renew(self, *, now: datetime) -> None:
        """Extends the lease on everything this process holds."""
        statement = update(deliveries).where(_held_by(self._owner)).values(lease_until=now + self.lease)
        if self._store.read(
            lambda connection: connection.execute(select(exists().where(_held_by(self._owner)))).scalar()
        ):
            self._store.write(lambda connection: connection.execute(statement))

    def finish(self, claim: Claim, settlement: Settlement, *, now: datetime) -> None:
        """Notes an attempt's outcome; where the lease was lost meanwhile, only what became of the recipients."""
        is_open = settlement.state in OPEN_STATES

        def work(connection: Connection) -> None:
            for position, (state, error) in settlement.recipients.items():
                connection.execute(
                    update(recipients)
                    .where(recipients.c.delivery_id == claim.id, recipients.c.position == position)
                    .values(
                        state=state,
                        error=error,
                        settled_at=None if state == "waiting" else now,
                        reference=settlement.references.get(position),
                    )
                )
            connection.execute(
                update(deliveries)
                .where(
                    deliveries.c.id == claim.id,
                    deliveries.c.lease_owner == self._owner,
                    deliveries.c.claimed_at == claim.claimed_at,
                )
                .values(
                    state=settlement.state,
                    attempts=claim.attempts + 1,
                    next_attempt_at=settlement.next_attempt_at or now,
                    unanswered_since=settlement.unanswered_since,
                    error=settlement.error,
                    settled_at=None if is_open else now,
                    lease_owner=None,
                    lease_until=None,
                )
            )

        self._store.write(work)

    def hand_over(
        self,
        decide: Callable[[Stranded], Sequence[PlannedDelivery]],
        *,
        now: datetime,
        after: Mapping[Severity, timedelta],
        give_up_after: timedelta,
    ) -> list[HandedOver]:
        """Has another channel tell what failed for good, or waits for longer than `after`; each of them once.

        Call again until it is empty. A delivery that has reached any of its recipients has got through.
        """
        stranded = _stranded(now, after).limit(_HANDED_OVER_AT_ONCE)
        if self._store.read(lambda connection: connection.execute(stranded.limit(1)).first()) is None:
            return []
        statement = (
            update(deliveries)
            .where(deliveries.c.id.in_(stranded.with_for_update(skip_locked=True)), deliveries.c.fallback_at.is_(None))
            .values(fallback_at=now)
            .returning(*deliveries.c)
        )

        def work(connection: Connection) -> list[HandedOver]:
            rows = connection.execute(statement).all()
            return [_hand_over(connection, row, decide, now, give_up_after) for row in rows]

        return self._store.write(work)

    def release(self, claims: Sequence[Claim], *, now: datetime) -> None:
        """Gives deliveries back at once; their next attempt knows that this one may have got through."""
        ids = [claim.id for claim in claims]
        self._store.write(
            lambda connection: connection.execute(
                update(deliveries).where(deliveries.c.id.in_(ids), _held_by(self._owner)).values(lease_until=now)
            )
        )

    def retry(self, delivery_id: int, *, now: datetime, give_up_after: timedelta) -> bool | None:
        """Puts a delivery that did not reach everyone in line again; False: nothing to retry, None: unknown."""

        def work(connection: Connection) -> bool | None:
            state = connection.execute(select(deliveries.c.state).where(deliveries.c.id == delivery_id)).scalar()
            if state is None:
                return None
            if state not in ("failed", "partial", "uncertain", "suppressed"):
                return False
            connection.execute(
                update(recipients)
                .where(recipients.c.delivery_id == delivery_id, recipients.c.state != "delivered")
                .values(state="waiting", error=None, settled_at=None)
            )
            changed = connection.execute(
                update(deliveries)
                .where(deliveries.c.id == delivery_id, deliveries.c.state == state)
                .values(
                    state="pending",
                    attempts=0,
                    next_attempt_at=now,
                    give_up_at=now + give_up_after,
                    settled_at=None,
                    error=None,
                )
            )
            return changed.rowcount == 1

        return self._store.write(work)

    # Looking

    def waiting(self) -> list[Waiting]:
        """Counts of what is open or has failed, by channel and state."""
        statement = (
            select(
                deliveries.c.channel,
                deliveries.c.state,
                func.count(),
                func.min(
                    func.coalesce(deliveries.c.held_until, deliveries.c.created_at), type_=deliveries.c.created_at.type
                ),
            )
            .where(deliveries.c.state.in_((*OPEN_STATES, "failed")))
            .group_by(deliveries.c.channel, deliveries.c.state)
        )
        rows = self._store.read(lambda connection: connection.execute(statement).all())
        return [Waiting(channel, state, count, oldest) for channel, state, count, oldest in rows]

    def history(self, wanted: Filter) -> list[NotificationRecord]:
        """The newest first."""
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
        statement = select(*shown).where(*conditions).order_by(notifications.c.id.desc()).limit(wanted.limit)

        def work(connection: Connection) -> list[NotificationRecord]:
            rows = connection.execute(statement).all()
            told = _delivery_records(connection, [row.id for row in rows])
            return [_notification_record(row, told[row.id]) for row in rows]

        return self._store.read(work)

    def notification(self, notification_id: int) -> NotificationRecord | None:
        """One with everything known of it."""

        def work(connection: Connection) -> NotificationRecord | None:
            row = connection.execute(select(notifications).where(notifications.c.id == notification_id)).first()
            if row is None:
                return None
            told = _delivery_records(connection, [notification_id])
            return replace(
                _notification_record(row, told[notification_id]), notification=alertmanager.parse(row.payload.encode())
            )

        return self._store.read(work)

    # Forgetting

    def prune(self, *, before: datetime, seen_before: datetime) -> int:
        """Deletes a few of the settled notifications received before a time; how many. Call again until it is 0."""
        still_open = exists().where(
            deliveries.c.notification_id == notifications.c.id, deliveries.c.state.in_(OPEN_STATES)
        )
        old = select(notifications.c.id).where(notifications.c.received_at < before, ~still_open).limit(_AT_ONCE)

        def work(connection: Connection) -> int:
            connection.execute(delete(seen).where(seen.c.seen_at < seen_before))
            ids = connection.execute(old).scalars().all()
            if ids:
                connection.execute(delete(notifications).where(notifications.c.id.in_(ids)))
            return len(ids)

        return self._store.write(work)

    def erase(self, address: str) -> int:
        """Takes an address out of the history; how many deliveries named it. What still waits is not sent there."""

        def work(connection: Connection) -> int:
            found = connection.execute(select(recipients).where(recipients.c.address == address)).all()
            for row in found:
                connection.execute(
                    update(recipients)
                    .where(recipients.c.delivery_id == row.delivery_id, recipients.c.position == row.position)
                    .values(address="(erased)", error=None, state="refused" if row.state == "waiting" else row.state)
                )
                connection.execute(update(deliveries).where(deliveries.c.id == row.delivery_id).values(error=None))
            return len(found)

        return self._store.write(work)


def dedup_key(notification: Notification) -> str:
    """Group key, number of truncated alerts and the set of transitions (fingerprint, start, status)."""
    transitions = sorted(
        {(alert.fingerprint, alert.starts_at.isoformat(), alert.firing) for alert in notification.alerts}
    )
    content = json.dumps([notification.group_key, notification.truncated, transitions])
    return hashlib.sha256(content.encode()).hexdigest()


def _take_key(connection: Connection, key: str, now: datetime, expired: datetime, *, reminder: bool) -> int | None:
    """Takes the key for a new notification, or gives the one that has it. One statement, so that one of two wins."""
    new = _insert_into(connection, seen).values(key=key, seen_at=now)
    taken = connection.execute(
        new.on_conflict_do_update(
            index_elements=[seen.c.key],
            set_={"seen_at": now},
            where=None if reminder else seen.c.seen_at <= expired,
        ).returning(seen.c.key)
    ).first()
    if taken is not None:
        return None
    known: int = connection.execute(select(seen.c.notification_id).where(seen.c.key == key)).scalar_one()
    return known


def _take_request(connection: Connection, asked: Asked) -> int | None:
    """Takes the key for a new request, or gives the notification of the one that has it."""
    new = _insert_into(connection, requests).values(key=asked.key, digest=asked.digest)
    if connection.execute(new.on_conflict_do_nothing().returning(requests.c.key)).first() is not None:
        return None
    digest, known = connection.execute(
        select(requests.c.digest, requests.c.notification_id).where(requests.c.key == asked.key)
    ).one()
    if digest != asked.digest:
        raise KeyReusedError
    notification_id: int = known
    return notification_id


def _note_heartbeat(connection: Connection, now: datetime) -> None:
    _note_time(connection, HEARTBEAT, now)


def _note_time(connection: Connection, name: str, now: datetime) -> None:
    """A later time takes an earlier one's place."""
    new = _insert_into(connection, heartbeats).values(name=name, seen_at=now)
    connection.execute(
        new.on_conflict_do_update(
            index_elements=[heartbeats.c.name], set_={"seen_at": now}, where=heartbeats.c.seen_at < now
        )
    )


def _insert_into(connection: Connection, table: Any) -> Any:
    """The dialect's own INSERT, for ON CONFLICT."""
    return (sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert)(table)


def _who_got(connection: Connection, resolved: Sequence[Alert]) -> dict[Identity, list[Receipt]]:
    """To whom these alerts were told while they fired. One that was told to nobody in the end is there with nobody."""
    wanted = {identity(alert) for alert in resolved}
    rows: list[AnyRow] = []
    for some in _in_parts(sorted({fingerprint for fingerprint, _ in wanted})):
        rows += connection.execute(
            select(alerts.c.fingerprint, alerts.c.starts_at, alerts.c.position, alerts.c.notification_id)
            .where(alerts.c.fingerprint.in_(some), alerts.c.firing)
            .order_by(alerts.c.notification_id)
        ).all()
    told = _told(connection, sorted({row.notification_id for row in rows}))
    found: dict[Identity, list[Receipt]] = {}
    for fingerprint, starts_at, position, notification_id in rows:
        if (fingerprint, starts_at) not in wanted:
            continue
        for positions, receipt in told[notification_id]:
            if positions is None or position in positions:
                known = found.setdefault((fingerprint, starts_at), [])
                if receipt is not None and receipt not in known:
                    known.append(receipt)
    return found


def _told(
    connection: Connection, ids: Sequence[int]
) -> defaultdict[int, list[tuple[frozenset[int] | None, Receipt | None]]]:
    """For each notification its deliveries: which alerts they tell (None: all), to whom (None: it came to nothing)."""
    found: defaultdict[int, list[tuple[frozenset[int] | None, Receipt | None]]] = defaultdict(list)
    for some in _in_parts(ids):
        rows = connection.execute(
            select(deliveries).where(deliveries.c.notification_id.in_(some)).order_by(deliveries.c.id)
        ).all()
        addresses: defaultdict[int, list[str]] = defaultdict(list)
        for delivery_id, address in connection.execute(
            select(recipients.c.delivery_id, recipients.c.address)
            .where(recipients.c.delivery_id.in_([row.id for row in rows]), recipients.c.state != "refused")
            .order_by(recipients.c.delivery_id, recipients.c.position)
        ):
            addresses[delivery_id].append(address)
        for row in rows:
            reached = tuple(addresses[row.id]) if row.state not in _LOST else ()
            receipt = Receipt(row.channel, row.lane, row.audience, row.locale, reached) if reached else None
            found[row.notification_id].append((_positions(row.positions), receipt))
    return found


def _in_parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]


def _positions(text: str | None) -> frozenset[int] | None:
    return None if text is None else frozenset(json.loads(text))


def _insert_notification(
    connection: Connection, notification: Notification, payload: str, source: str, now: datetime
) -> int:
    inserted = connection.execute(
        insert(notifications).values(
            received_at=now,
            source=source,
            group_key=notification.group_key,
            title=_title(notification),
            severity=notification.severity,
            firing=notification.firing,
            alert_count=len(notification.alerts) + notification.truncated,
            payload=payload,
        )
    )
    notification_id: int = inserted.inserted_primary_key[0]  # type: ignore[index] # None only for many rows at once
    connection.execute(
        insert(alerts),
        [
            {
                "notification_id": notification_id,
                "position": position,
                "fingerprint": alert.fingerprint,
                "starts_at": alert.starts_at,
                "firing": alert.firing,
            }
            for position, alert in enumerate(notification.alerts)
        ],
    )
    return notification_id


def _title(notification: Notification) -> str:
    """The first alert's, for lists; short enough for them."""
    alert = notification.alerts[0]
    return (alert.annotations.get("summary") or alert.name)[:200]


def _insert_delivery(
    connection: Connection,
    notification: Notification,
    notification_id: int,
    delivery: PlannedDelivery,
    now: datetime,
    give_up_after: timedelta,
    *,
    fallback_for: int | None = None,
    merged_into: int | None = None,
) -> int:
    to, quiet = delivery.to, delivery.quiet
    due = now if quiet is None or quiet.until is None else quiet.until
    state = "pending" if quiet is None else "suppressed" if quiet.until is None else "held"
    if merged_into is not None:
        state = "merged"
    whole = len(delivery.positions) == len(notification.alerts)
    inserted = connection.execute(
        insert(deliveries).values(
            notification_id=notification_id,
            channel=to.channel,
            lane=to.lane,
            audience=to.audience,
            locale=to.locale,
            thread=_thread(notification),
            positions=None if whole else json.dumps(delivery.positions, separators=(",", ":")),
            severity=delivery.severity,
            urgency=SEVERITIES.index(delivery.severity),
            firing=delivery.firing,
            state=state,
            created_at=now,
            next_attempt_at=due,
            held_until=quiet.until if quiet is not None else None,
            give_up_at=due + give_up_after,
            settled_at=None if state in OPEN_STATES else now,
            error=f"quiet time ({quiet.rule})" if quiet is not None else None,
            fallback_for=fallback_for,
            merged_into=merged_into,
        )
    )
    delivery_id: int = inserted.inserted_primary_key[0]  # type: ignore[index] # None only for many rows at once
    connection.execute(
        insert(recipients),
        [
            {"delivery_id": delivery_id, "position": position, "address": address, "state": "waiting"}
            for position, address in enumerate(to.recipients)
        ],
    )
    return delivery_id


def _stranded(now: datetime, after: Mapping[Severity, timedelta]) -> Any:
    """Those of which nobody has decided yet whether another channel tells them."""
    has_it = exists().where(recipients.c.delivery_id == deliveries.c.id, recipients.c.state == "delivered")
    since = func.coalesce(deliveries.c.held_until, deliveries.c.created_at, type_=deliveries.c.created_at.type)
    waits = or_(*(and_(deliveries.c.severity == one, since <= now - long) for one, long in after.items()))
    return (
        select(deliveries.c.id)
        .join(notifications, notifications.c.id == deliveries.c.notification_id)
        .where(
            deliveries.c.fallback_at.is_(None),
            or_(
                deliveries.c.state.in_(("failed", "uncertain")),
                and_(deliveries.c.state.in_(("pending", "retrying")), waits, ~has_it),
            ),
            notifications.c.source != "test",
        )
        .order_by(deliveries.c.urgency.desc(), deliveries.c.id)
    )


def _hand_over(
    connection: Connection,
    row: AnyRow,
    decide: Callable[[Stranded], Sequence[PlannedDelivery]],
    now: datetime,
    give_up_after: timedelta,
) -> HandedOver:
    """Inserts what is decided for the delivery and those gathered into it, which stay one message."""
    family = connection.execute(
        select(deliveries.c.id, deliveries.c.positions, deliveries.c.notification_id, notifications.c.payload)
        .join(notifications, notifications.c.id == deliveries.c.notification_id)
        .where(or_(deliveries.c.id == row.id, deliveries.c.merged_into == row.id))
        .order_by(deliveries.c.urgency.desc(), deliveries.c.id)
    ).all()
    carried = _carried(connection, {one.notification_id for one in family}, row.audience)
    first: dict[tuple[Receipt, Quiet | None], int] = {}
    for one in family:
        notification = alertmanager.parse(one.payload.encode())
        every = frozenset(range(len(notification.alerts)))
        by_channel = {to: every if some is None else some for to, some in carried[one.notification_id].items()}
        positions = _positions(one.positions)
        own = every if positions is None else positions
        for planned in decide(Stranded(row.channel, row.audience, notification, own, by_channel)):
            key = planned.to, planned.quiet
            inserted = _insert_delivery(
                *(connection, notification, one.notification_id, planned, now, give_up_after),
                fallback_for=one.id,
                merged_into=first.get(key),
            )
            first.setdefault(key, inserted)
    return HandedOver(row.id, row.channel, next((to.channel for to, _ in first), None))


def _carried(
    connection: Connection, ids: Iterable[int], audience: str
) -> Mapping[int, Mapping[str, frozenset[int] | None]]:
    """For each notification what the audience is told of it: by which channel, and which alerts (None: all)."""
    found: defaultdict[int, dict[str, frozenset[int] | None]] = defaultdict(dict)
    for row in connection.execute(
        select(deliveries.c.notification_id, deliveries.c.channel, deliveries.c.positions).where(
            deliveries.c.notification_id.in_(list(ids)), deliveries.c.audience == audience
        )
    ):
        some, known = _positions(row.positions), found[row.notification_id].get(row.channel, frozenset())
        found[row.notification_id][row.channel] = None if some is None or known is None else known | some
    return found


def _held_by(owner: str) -> ColumnElement[bool]:
    return and_(deliveries.c.lease_owner == owner, deliveries.c.state.in_(OPEN_STATES))


def _comes_after_another() -> ColumnElement[bool]:
    """Whether an earlier message of the same group to the same recipients reached none of them yet, and still may.

    A critical one waits for no lesser one, but takes it along.
    """
    earlier = deliveries.alias("earlier")
    has_it = exists().where(recipients.c.delivery_id == earlier.c.id, recipients.c.state == "delivered")
    return exists().where(
        earlier.c.thread == deliveries.c.thread,
        earlier.c.channel == deliveries.c.channel,
        earlier.c.audience == deliveries.c.audience,
        earlier.c.lane == deliveries.c.lane,
        earlier.c.id < deliveries.c.id,
        earlier.c.state.in_(("pending", "retrying")),
        or_(deliveries.c.urgency < CRITICAL, earlier.c.urgency >= deliveries.c.urgency),
        ~has_it,
    )


def _held_behind_another(now: datetime | None = None) -> ColumnElement[bool]:
    """Whether an earlier one is held for the same readers, and due by now if asked: that one gathers the others."""
    earlier = deliveries.alias("first_held")
    return exists().where(
        earlier.c.channel == deliveries.c.channel,
        earlier.c.lane == deliveries.c.lane,
        earlier.c.audience == deliveries.c.audience,
        earlier.c.locale == deliveries.c.locale,
        earlier.c.id < deliveries.c.id,
        earlier.c.state == "held",
        *([earlier.c.next_attempt_at <= now] if now is not None else []),
    )


def _drop_held(connection: Connection, notification: Notification, now: datetime) -> list[str]:
    """Suppresses what is held of this group and tells only that something began which is over; its channels."""
    held = connection.execute(
        select(deliveries).where(
            deliveries.c.thread == _thread(notification),
            deliveries.c.state == "held",
            deliveries.c.firing,
            deliveries.c.lease_owner.is_(None),
        )
    ).all()
    if not held:
        return []
    told = connection.execute(
        select(alerts).where(alerts.c.notification_id.in_({row.notification_id for row in held}))
    ).all()
    ended = connection.execute(
        select(alerts.c.fingerprint, alerts.c.starts_at).where(
            alerts.c.fingerprint.in_({row.fingerprint for row in told}), ~alerts.c.firing
        )
    ).all()
    gone = {(row.fingerprint, row.starts_at) for row in ended}
    dropped = []
    for row in held:
        positions = _positions(row.positions)
        own = [
            alert
            for alert in told
            if alert.notification_id == row.notification_id and (positions is None or alert.position in positions)
        ]
        # one that tells of an end as well has a line for the morning that no other has
        if all(alert.firing and (alert.fingerprint, alert.starts_at) in gone for alert in own):
            dropped.append(row)
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id.in_([row.id for row in dropped]))
        .values(state="suppressed", settled_at=now, error="resolved within the quiet time")
    )
    return [row.channel for row in dropped]


def _thread(notification: Notification) -> str:
    return hashlib.sha256(notification.group_key.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class _Taken:
    """What was claimed, as the tables have it."""

    rows: Sequence[AnyRow]
    recipients: Sequence[AnyRow]
    told: Sequence[AnyRow]
    """Each delivery's notification, and those of the deliveries merged into it, the oldest first."""
    newly_merged: Mapping[int, int]
    instead_of: Mapping[int, str]
    """Delivery → the channel that did not get it through."""
    others: Mapping[int, frozenset[str]]
    """Delivery of which nobody knows whether the peer took it → what the peer calls those that it took since."""


def _take(connection: Connection, statement: Any, gathering: Gathering, now: datetime) -> _Taken:
    """Runs the statement that claims, gathers what goes to the same readers, and reads all that is to be told."""
    newly_merged: dict[int, int] = {}
    rows: list[AnyRow] = []
    for claimed in connection.execute(statement).all():
        row = claimed
        count = _gather(connection, row, now) if row.state == "held" else admit(connection, row, gathering, now)
        if count:
            row = connection.execute(select(deliveries).where(deliveries.c.id == row.id)).one()
        if count is not None:
            newly_merged[row.id] = count
            rows.append(row)
    ids = [row.id for row in rows]
    of_recipients = connection.execute(
        select(recipients)
        .where(recipients.c.delivery_id.in_(ids))
        .order_by(recipients.c.delivery_id, recipients.c.position)
    ).all()
    told = connection.execute(
        select(deliveries.c.id, deliveries.c.merged_into, deliveries.c.positions, notifications.c.payload)
        .join(notifications, notifications.c.id == deliveries.c.notification_id)
        .where(or_(deliveries.c.id.in_(ids), deliveries.c.merged_into.in_(ids)))
        .order_by(notifications.c.id, deliveries.c.id)
    ).all()
    origins = {row.fallback_for for row in rows if row.fallback_for is not None}
    channels = _channels(connection, origins) if origins else {}
    instead_of = {row.id: channels[row.fallback_for] for row in rows if row.fallback_for in channels}
    return _Taken(
        rows,
        of_recipients,
        told,
        newly_merged,
        instead_of,
        {row.id: _others(connection, row) for row in rows if row.unanswered_since is not None},
    )


def _channels(connection: Connection, ids: Iterable[int]) -> dict[int, str]:
    found = connection.execute(select(deliveries.c.id, deliveries.c.channel).where(deliveries.c.id.in_(list(ids))))
    return {row.id: row.channel for row in found}


def _others(connection: Connection, row: AnyRow) -> frozenset[str]:
    """What the peer calls the channel's messages that are known to have been taken since the unanswered attempt."""
    found = connection.execute(
        select(recipients.c.reference)
        .distinct()
        .join(deliveries, deliveries.c.id == recipients.c.delivery_id)
        .where(
            deliveries.c.channel == row.channel,
            recipients.c.reference.is_not(None),
            recipients.c.settled_at >= row.unanswered_since - _REFERENCES_FROM_BEFORE,
        )
    ).scalars()
    return frozenset(found)


def _gather(connection: Connection, first: AnyRow, now: datetime) -> int:
    """Merges into the first what is due of everything else held for the same readers; how many."""
    others = connection.execute(
        select(deliveries.c.id).where(
            deliveries.c.channel == first.channel,
            deliveries.c.lane == first.lane,
            deliveries.c.audience == first.audience,
            deliveries.c.locale == first.locale,
            deliveries.c.id != first.id,
            deliveries.c.state == "held",
            deliveries.c.next_attempt_at <= now,
        )
    ).scalars()
    same = same_readers(connection, first.id, others)
    merged = connection.execute(
        update(deliveries)
        .where(deliveries.c.id.in_(same), deliveries.c.state == "held")
        .values(state="merged", merged_into=first.id, settled_at=now)
    )
    return merged.rowcount


def _claims(taken: _Taken) -> list[Claim]:
    of_delivery: defaultdict[int, list[Recipient]] = defaultdict(list)
    for row in taken.recipients:
        of_delivery[row.delivery_id].append(Recipient(row.position, row.address, row.state))
    parts: defaultdict[int, list[Notification]] = defaultdict(list)
    for row in taken.told:
        parts[row.merged_into or row.id].append(
            _part(alertmanager.parse(row.payload.encode()), _positions(row.positions))
        )
    found = [
        Claim(
            id=row.id,
            notification_id=row.notification_id,
            channel=row.channel,
            lane=row.lane,
            audience=row.audience,
            locale=row.locale,
            thread=row.thread,
            severity=row.severity,
            attempts=row.attempts,
            created_at=row.created_at,
            claimed_at=row.claimed_at,
            give_up_at=row.give_up_at,
            unanswered_since=row.unanswered_since,
            recipients=tuple(of_delivery[row.id]),
            notification=together(parts[row.id]),
            merged=len(parts[row.id]) - 1,
            newly_merged=taken.newly_merged.get(row.id, 0),
            groups=len({part.group_key for part in parts[row.id]}),
            others=taken.others.get(row.id, frozenset()),
            held_until=row.held_until,
            instead_of=taken.instead_of.get(row.id),
        )
        for row in taken.rows
    ]
    return sorted(found, key=lambda claim: (-SEVERITIES.index(claim.severity), claim.created_at, claim.id))


def together(told: Sequence[Notification]) -> Notification:
    """Several notifications as one, the oldest first: each alert as it last stood, each group's count of the rest."""
    if len(told) == 1:
        return told[0]
    alerts_now: dict[Identity, Alert] = {}
    for notification in told:
        for alert in notification.alerts:
            alerts_now.pop(identity(alert), None)  # so that the order is that of the last word
            alerts_now[identity(alert)] = alert
    truncated = {notification.group_key: notification.truncated for notification in told}
    return replace(told[-1], alerts=tuple(alerts_now.values()), truncated=sum(truncated.values()), reason="")


def _part(notification: Notification, positions: frozenset[int] | None) -> Notification:
    if positions is None:
        return notification
    chosen = tuple(alert for position, alert in enumerate(notification.alerts) if position in positions)
    return replace(notification, alerts=chosen)


def _delivery_records(connection: Connection, ids: Sequence[int]) -> defaultdict[int, list[DeliveryRecord]]:
    rows = connection.execute(
        select(deliveries).where(deliveries.c.notification_id.in_(ids)).order_by(deliveries.c.id)
    ).all()
    told: defaultdict[int, list[RecipientRecord]] = defaultdict(list)
    for row in connection.execute(
        select(recipients)
        .where(recipients.c.delivery_id.in_([row.id for row in rows]))
        .order_by(recipients.c.delivery_id, recipients.c.position)
    ):
        told[row.delivery_id].append(RecipientRecord(row.address, row.state, row.error, row.settled_at))
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
            )
        )
    return found


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
