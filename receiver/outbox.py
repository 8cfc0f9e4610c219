"""What was accepted and what became of it: add, claim, finish, history. Every change is one transaction."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, or_, select, update

from receiver import claiming, handing_over, history
from receiver.accepting import (
    CLOCKS_DIFFER,
    Accepted,
    Addition,
    Asked,
    KeyReusedError,
    accept_all,
    in_parts,
    note_time,
)
from receiver.claiming import Claim, Finished, Recipient, Settlement, Wanted
from receiver.digest import BY_GROUP, Gathering
from receiver.fallback import Stranded
from receiver.handing_over import HandedOver
from receiver.history import DeliveryRecord, Filter, Heard, NotificationRecord, RecipientRecord, Waiting
from receiver.notification import HEARTBEAT, Notification, Severity
from receiver.routing import Earlier, PlannedDelivery
from receiver.store import Store
from receiver.tables import (
    ERASED,
    alerts,
    deliveries,
    heartbeats,
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
    "new_owner",
]

# In the table of heartbeats: times that all receivers on one store share.
_LISTENED = "(listened)"
_LISTENING_SINCE = "(listening since)"
_WRITTEN = "(written)"
_AT_ONCE = 500  # rows deleted in one statement


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


def new_owner() -> str:
    """A name for this process that no other has or will have."""
    return f"{socket.gethostname()[:20]}-{os.getpid()}-{uuid.uuid4().hex[:12]}"


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
        """Has everything due that waits for its next attempt: after the clock was set back, that is nobody's wish.

        No lease ends later than one that begins now: whoever had it may be dead.
        """
        those = update(deliveries).where(deliveries.c.channel == channel, is_open(deliveries))
        waiting = those.where(deliveries.c.state != "held", deliveries.c.next_attempt_at > now)
        end = now + self.lease
        leased = those.where(deliveries.c.lease_until > end)
        statements = [waiting.values(next_attempt_at=now), leased.values(lease_until=end)]
        self._store.write(lambda connection: [connection.execute(statement) for statement in statements])

    def renew(self, ids: Sequence[int], *, now: datetime) -> None:
        """Extends the lease on those of these deliveries that this process holds."""
        held = update(deliveries).where(_held_by(self._owner), deliveries.c.id.in_(ids))
        self._store.write(lambda connection: connection.execute(held.values(lease_until=now + self.lease)))

    def finish(self, claim: Claim, settlement: Settlement, *, now: datetime) -> Future[None]:
        """Notes an attempt's outcome; where the lease was lost meanwhile, only what became of the recipients.

        Waits for nothing and raises nothing itself: the answer comes after the commit, and what comes together is noted
        together.
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
        if not self._store.read(lambda connection: handing_over.is_any_stranded(connection, now, after)):
            return []
        return self._store.write(
            lambda connection: handing_over.hand_over(connection, decide, now, after=after, give_up_after=give_up_after)
        )

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

    def heartbeat(self) -> datetime | None:
        """When the heartbeat was last heard, by whichever process."""
        return self._store.read(
            lambda connection: connection.execute(
                select(heartbeats.c.seen_at).where(heartbeats.c.name == HEARTBEAT)
            ).scalar()
        )

    def check(self, *, now: datetime) -> None:
        """Raises StoreUnavailableError where it cannot be read, or did not take the last write and takes none now.

        A disk that is full or has become read-only can still be read. Nothing is written where nothing has failed.
        """
        self.heartbeat()
        if not self._store.took_last_write:
            self._store.write(lambda connection: note_time(connection, _WRITTEN, now))

    def waiting(self) -> list[Waiting]:
        """Counts of what is open or has failed, by channel and state."""
        return self._store.read(history.waiting)

    def history(self, wanted: Filter) -> list[NotificationRecord]:
        """The newest first."""
        return self._store.read(lambda connection: history.latest(connection, wanted))

    def notification(self, notification_id: int) -> NotificationRecord | None:
        """One with everything known of it."""
        return self._store.read(lambda connection: history.find(connection, notification_id))

    def last_of(self, source: str, *, heartbeat: bool) -> NotificationRecord | None:
        """The newest notification from there: of the heartbeat and its like, or of what is told to people."""
        return self._store.read(lambda connection: history.last_of(connection, source, heartbeat=heartbeat))

    def heard(self, *, since: datetime) -> list[Heard]:
        """The alerts whose last word, of those that came since then, was that they fire."""
        return self._store.read(lambda connection: history.heard(connection, since))

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
                    .where(named, is_open(deliveries), ~has_others)
                    .values(
                        state="suppressed",
                        settled_at=now,
                        error="the recipients were erased",
                        lease_owner=None,
                        lease_until=None,
                    )
                )
            return len(found)

        return self._store.write(work)


def _held_by(owner: str) -> ColumnElement[bool]:
    return and_(deliveries.c.lease_owner == owner, is_open(deliveries))
