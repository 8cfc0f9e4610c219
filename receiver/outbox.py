"""What was accepted and what became of it: add, claim, finish, history. Every change is one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, exists, func, or_, select, update

from receiver import alertmanager, claiming
from receiver.accepting import (
    CLOCKS_DIFFER,
    Accepted,
    Addition,
    Asked,
    KeyReusedError,
    NewDelivery,
    accept_all,
    in_parts,
    insert_deliveries,
    note_time,
    positions_of,
)
from receiver.claiming import Claim, Finished, Recipient, Settlement, Wanted
from receiver.digest import BY_GROUP, Gathering
from receiver.fallback import Stranded
from receiver.notification import HEARTBEAT, Alert, Notification, Severity
from receiver.routing import Earlier, PlannedDelivery, Quiet, Receipt
from receiver.store import Store
from receiver.tables import (
    ERASED,
    OPEN_STATES,
    alerts,
    deliveries,
    heartbeats,
    is_lost,
    is_open,
    notifications,
    recipients,
    seen,
)

__all__ = [
    "Accepted",
    "Addition",
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

# In the table of heartbeats: times that all receivers on one store share.
_LISTENED = "(listened)"
_LISTENING_SINCE = "(listening since)"
_WRITTEN = "(written)"
_AT_ONCE = 500  # rows deleted in one statement
_HANDED_OVER_AT_ONCE = 50


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
        return self.submit(
            Addition.of(
                notification,
                plan,
                now=now,
                dedup_window=dedup_window,
                give_up_after=give_up_after,
                source=source,
                asked=asked,
            )
        ).result()

    def submit(self, addition: Addition) -> Future[Accepted]:
        """As `add`, without waiting: the answer comes after the commit, and what comes together is stored together."""
        return self._store.write_together(accept_all, addition)

    def heartbeat(self) -> datetime | None:
        """When the heartbeat was last heard, by whichever process."""
        return self._store.read(
            lambda connection: connection.execute(
                select(heartbeats.c.seen_at).where(heartbeats.c.name == HEARTBEAT)
            ).scalar()
        )

    def watch(self, fingerprint: str, *, now: datetime, patience: timedelta) -> Watched:
        """Notes that somebody listens for the heartbeat now, and says what is known of it and of its alarm.

        When nobody has listened for longer than `patience`, or the clock was set back, listening begins anew.
        """

        def work(connection: Connection) -> Watched:
            known = {row.name: row.seen_at for row in connection.execute(select(heartbeats))}
            listened, since = known.get(_LISTENED), known.get(_LISTENING_SINCE)
            if listened is None or since is None or now - listened > patience or since > now + CLOCKS_DIFFER:
                since = now
                note_time(connection, _LISTENING_SINCE, since)
            note_time(connection, _LISTENED, now)
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

        return self._store.read(work)

    # Delivering

    def claim(
        self,
        channel: str,
        *,
        now: datetime,
        limit: int,
        busy_lanes: Iterable[str] = (),
        held: Iterable[int] = (),
        only: int | None = None,
        gathering: Gathering = BY_GROUP,
        look_first: bool = True,
    ) -> list[Claim]:
        """Takes on up to `limit` deliveries that are due, the most urgent and then the oldest first.

        Messages of one group to the same recipients keep their order: the end of an alert never arrives before it.
        What waits of one group becomes one message, and after failures or above the rate what waits for the same
        readers does; with a rate, `limit` is 1. `only` is the one notification to look at. `held` are deliveries that
        the caller has in hand, whose lease may have ended while the store was away.
        `look_first` spares the store a write where nothing may be due.
        """
        wanted = Wanted(channel, now, tuple(busy_lanes), tuple(held), only)
        if look_first and not self._store.read(lambda connection: claiming.is_any_due(connection, wanted)):
            return []
        taken = self._store.write(
            lambda connection: claiming.take(
                connection, wanted, gathering, owner=self._owner, lease=self.lease, limit=limit
            )
        )
        return claiming.claims(taken)

    def next_due(self, channel: str) -> datetime | None:
        """When the channel's next delivery is due or its lease ends; None where nothing waits."""
        return self._store.read(lambda connection: claiming.next_due(connection, channel))

    def make_due(self, channel: str, *, now: datetime) -> None:
        """Has everything due that waits for its next attempt: after the clock was set back, that is nobody's wish."""
        waiting = update(deliveries).where(
            deliveries.c.channel == channel,
            is_open(deliveries),
            deliveries.c.state != "held",
            deliveries.c.next_attempt_at > now,
        )
        self._store.write(lambda connection: connection.execute(waiting.values(next_attempt_at=now)))

    def renew(self, ids: Sequence[int], *, now: datetime) -> None:
        """Extends the lease on those of these deliveries that this process holds."""
        held = update(deliveries).where(_held_by(self._owner), deliveries.c.id.in_(ids))
        self._store.write(lambda connection: connection.execute(held.values(lease_until=now + self.lease)))

    def finish(self, claim: Claim, settlement: Settlement, *, now: datetime) -> None:
        """Notes an attempt's outcome; where the lease was lost meanwhile, only what became of the recipients."""
        self.note(claim, settlement, now=now).result()

    def note(self, claim: Claim, settlement: Settlement, *, now: datetime) -> Future[None]:
        """As `finish`, without waiting: the answer comes after the commit, and what comes together is noted together.

        It raises nothing itself.
        """
        return self._store.write_together(claiming.finish_all, Finished(claim, settlement, self._owner, now))

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

    def release(self, begun: Sequence[Claim], untouched: Sequence[Claim], *, now: datetime) -> None:
        """Gives deliveries back at once; the next attempt at a `begun` one knows that this one may have got through."""
        held = update(deliveries).where(_held_by(self._owner))
        statements = [
            held.where(deliveries.c.id.in_([claim.id for claim in begun])).values(lease_until=now),
            held.where(deliveries.c.id.in_([claim.id for claim in untouched])).values(
                lease_owner=None, lease_until=None
            ),
        ]
        self._store.write(lambda connection: [connection.execute(statement) for statement in statements])

    def retry(self, delivery_id: int, *, now: datetime, give_up_after: timedelta) -> bool | None:
        """Puts a delivery that did not reach everyone in line again; False: nothing to retry, None: unknown."""

        def work(connection: Connection) -> bool | None:
            state = connection.execute(select(deliveries.c.state).where(deliveries.c.id == delivery_id)).scalar()
            if state is None:
                return None
            if state not in ("failed", "partial", "uncertain", "suppressed"):
                return False
            again = connection.execute(
                update(recipients)
                .where(
                    recipients.c.delivery_id == delivery_id,
                    recipients.c.state != "delivered",
                    recipients.c.address != ERASED,
                )
                .values(state="waiting", error=None, settled_at=None)
            )
            if not again.rowcount:
                return False
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

    def check(self, *, now: datetime) -> None:
        """Raises StoreUnavailableError where it cannot be read, or did not take the last write and takes none now.

        A disk that is full or has become read-only can still be read. Nothing is written where nothing has failed.
        """
        self.heartbeat()
        if not self._store.took_last_write:
            self._store.write(lambda connection: note_time(connection, _WRITTEN, now))

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
            .where(or_(is_open(deliveries), and_(is_lost(deliveries), deliveries.c.state == "failed")))
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
        still_open = exists().where(deliveries.c.notification_id == notifications.c.id, is_open(deliveries))
        old = select(notifications.c.id).where(notifications.c.received_at < before, ~still_open).limit(_AT_ONCE)

        def work(connection: Connection) -> int:
            connection.execute(delete(seen).where(seen.c.seen_at < seen_before))
            ids = connection.execute(old).scalars().all()
            if ids:
                connection.execute(delete(notifications).where(notifications.c.id.in_(ids)))
            return len(ids)

        return self._store.write(work)

    def erase(self, address: str, *, now: datetime) -> int:
        """Takes an address out of the history; how many deliveries named it. What still waits is not sent there."""

        def work(connection: Connection) -> int:
            of_address = func.lower(recipients.c.address) == address.lower()
            found = connection.execute(select(recipients.c.delivery_id).where(of_address)).scalars().all()
            waits = recipients.c.state == "waiting"
            connection.execute(update(recipients).where(of_address, waits).values(state="refused"))
            connection.execute(update(recipients).where(of_address).values(address=ERASED, error=None))
            has_others = exists().where(
                recipients.c.delivery_id == deliveries.c.id,
                or_(recipients.c.state != "refused", recipients.c.address != ERASED),
            )
            for some in in_parts(found):
                named = deliveries.c.id.in_(some)
                connection.execute(update(deliveries).where(named).values(error=None))
                connection.execute(
                    update(deliveries)
                    .where(named, is_open(deliveries), deliveries.c.lease_owner.is_(None), ~has_others)
                    .values(state="suppressed", settled_at=now, error="the recipients were erased")
                )
            return len(found)

        return self._store.write(work)


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
                is_lost(deliveries),
                and_(is_open(deliveries), deliveries.c.state != "held", waits, ~has_it),
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
        positions = positions_of(one.positions)
        own = every if positions is None else positions
        for planned in decide(Stranded(row.channel, row.audience, notification, own, by_channel)):
            key = planned.to, planned.quiet
            (inserted,) = insert_deliveries(
                connection,
                [
                    NewDelivery(
                        notification,
                        one.notification_id,
                        planned,
                        now,
                        give_up_after,
                        fallback_for=one.id,
                        merged_into=first.get(key),
                    )
                ],
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
        some, known = positions_of(row.positions), found[row.notification_id].get(row.channel, frozenset())
        found[row.notification_id][row.channel] = None if some is None or known is None else known | some
    return found


def _held_by(owner: str) -> ColumnElement[bool]:
    return and_(deliveries.c.lease_owner == owner, is_open(deliveries))


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
