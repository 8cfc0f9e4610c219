"""What is taken in: notifications with their deliveries, as many at once as wait, or the finding that one is known."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, exists, insert, or_, select, update

from receiver import alertmanager
from receiver.notification import HEARTBEAT, SEVERITIES, Alert, Notification
from receiver.routing import Earlier, Identity, PlannedDelivery, Receipt, identity
from receiver.tables import (
    ERASED,
    OPEN_STATES,
    AnyRow,
    alerts,
    deliveries,
    heartbeats,
    insert_into,
    is_held,
    new_ids,
    notifications,
    recipients,
    requests,
    seen,
)

__all__ = [
    "CLOCKS_DIFFER",
    "Accepted",
    "Addition",
    "Asked",
    "KeyReusedError",
    "NewDelivery",
    "accept_all",
    "in_parts",
    "insert_deliveries",
    "note_time",
    "positions_of",
]

REMINDER = "repeat interval elapsed"
"""`notification_reason` of a reminder (Alertmanager's notify.ReasonRepeatIntervalElapsed)."""

CLOCKS_DIFFER = timedelta(minutes=1)
"""More than those of two receivers do: what is stored as later than that was stored before the clock was set back."""

_LOST = ("failed", "suppressed")  # states in which nobody got the message
_AT_ONCE = 500  # values asked for in one statement


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
class Addition:
    """A notification to be taken in, with all that decides what becomes of it."""

    notification: Notification
    plan: Callable[[Earlier], Sequence[PlannedDelivery]]
    key: str
    """By which a duplicate is known."""
    payload: str
    now: datetime
    expired: datetime
    """One with the same key that came then or before makes no duplicate of it."""
    give_up_after: timedelta
    source: str
    asked: Asked | None

    @staticmethod
    def of(
        notification: Notification,
        plan: Callable[[Earlier], Sequence[PlannedDelivery]],
        *,
        now: datetime,
        dedup_window: timedelta,
        give_up_after: timedelta,
        source: str,
        asked: Asked | None,
    ) -> Addition:
        """With what can be made ready outside the transaction."""
        return Addition(
            notification=notification,
            plan=plan,
            key=_dedup_key(notification),
            payload=alertmanager.dump(notification),
            now=now,
            expired=now - dedup_window,
            give_up_after=give_up_after,
            source=source,
            asked=asked,
        )


@dataclass(frozen=True)
class NewDelivery:
    """A delivery to be stored; the last two are other deliveries' numbers."""

    notification: Notification
    notification_id: int
    planned: PlannedDelivery
    now: datetime
    give_up_after: timedelta
    fallback_for: int | None = None
    merged_into: int | None = None


def accept_all(connection: Connection, additions: Sequence[Addition]) -> list[Accepted]:
    """Stores each, or finds that it is a duplicate; raises KeyReusedError where one of them reuses a key.

    As many statements for all as for one, but for those that may touch each other: these go one after the other.
    """
    answers: dict[int, Accepted] = {}
    rest = list(range(len(additions)))
    while rest:
        taken: set[tuple[str, str]] = set()
        now: list[int] = []
        later: list[int] = []
        for number in rest:
            names = _names(additions[number])
            (later if names & taken else now).append(number)
            taken |= names
        answers.update(zip(now, _accept(connection, [additions[number] for number in now]), strict=True))
        rest = later
    return [answers[number] for number in range(len(additions))]


def _names(addition: Addition) -> set[tuple[str, str]]:
    names = {("key", addition.key), ("group", addition.notification.group_key)}
    return names if addition.asked is None else names | {("asked", addition.asked.key)}


def _accept(connection: Connection, additions: Sequence[Addition]) -> list[Accepted]:
    beats = [one.now for one in additions if any(a.is_heartbeat and a.firing for a in one.notification.alerts)]
    if beats:
        note_time(connection, HEARTBEAT, max(beats))
    known = {
        one.key: done
        for one in additions
        if one.asked is not None and (done := _take_request(connection, one.asked)) is not None
    }
    rest = [one for one in additions if one.key not in known]
    ids = dict(zip((one.key for one in rest), new_ids(connection, notifications, len(rest)), strict=True))
    known |= _take_keys(connection, rest, [ids[one.key] for one in rest])
    new = [one for one in rest if one.key not in known]
    stored = _store(connection, new, [ids[one.key] for one in new])
    return [stored.get(one.key) or Accepted(known[one.key], 0, duplicate=True) for one in additions]


def _dedup_key(notification: Notification) -> str:
    """Group key, number of truncated alerts and the set of transitions (fingerprint, start, status)."""
    transitions = sorted(
        {(alert.fingerprint, alert.starts_at.isoformat(), alert.firing) for alert in notification.alerts}
    )
    content = json.dumps([notification.group_key, notification.truncated, transitions])
    return hashlib.sha256(content.encode()).hexdigest()


def _take_keys(connection: Connection, additions: Sequence[Addition], ids: Sequence[int]) -> dict[str, int]:
    """Takes each one's key for the notification that it is to be, so that of several processes one gets it.

    For those that are known: the notification that came first.
    """
    taken: set[str] = set()
    for reminder in (False, True):
        some = [
            (one, new)
            for one, new in zip(additions, ids, strict=True)
            if (one.notification.reason == REMINDER) is reminder
        ]
        if not some:
            continue
        times = {
            "expired": min(one.expired for one, _ in some),
            "ahead": max(one.now for one, _ in some) + CLOCKS_DIFFER,
        }
        rows = [
            {"key": one.key, "notification_id": new, "seen_at": one.now, **times}
            # in one order, so that two processes never wait for each other
            for one, new in sorted(some, key=lambda pair: pair[0].key)
        ]
        taken.update(connection.execute(_take(connection.dialect.name, reminder), rows).scalars())
    others = [one.key for one in additions if one.key not in taken]
    if not others:
        return {}
    known = {row.key: row.notification_id for row in connection.execute(_KNOWN, {"keys": others})}
    for notification_id in sorted(known.values()):  # in one order, as above
        connection.execute(_COUNT_DUPLICATE, {"of_notification": notification_id})
    return known


# To put a statement together takes longer than to run it: once is enough.


@functools.cache
def _take(dialect: str, reminder: bool) -> Any:
    new = insert_into(dialect, seen)
    return new.on_conflict_do_update(
        index_elements=[seen.c.key],
        set_={"seen_at": new.excluded.seen_at, "notification_id": new.excluded.notification_id},
        where=None if reminder else or_(seen.c.seen_at <= bindparam("expired"), seen.c.seen_at > bindparam("ahead")),
    ).returning(seen.c.key)


_KNOWN = select(seen.c.key, seen.c.notification_id).where(seen.c.key.in_(bindparam("keys", expanding=True)))
_COUNT_DUPLICATE = (
    update(notifications)
    .where(notifications.c.id == bindparam("of_notification"))
    .values(duplicates=notifications.c.duplicates + 1)
)


def _store(connection: Connection, additions: Sequence[Addition], ids: Sequence[int]) -> dict[str, Accepted]:
    """What is new under these numbers, with its deliveries; by key."""
    if not additions:
        return {}
    earlier = _who_got(connection, [a for one in additions for a in one.notification.alerts if not a.firing])
    planned = [one.plan(earlier) for one in additions]
    _insert_notifications(connection, additions, ids)
    for one, new in zip(additions, ids, strict=True):
        if one.asked is not None:
            connection.execute(update(requests).where(requests.c.key == one.asked.key).values(notification_id=new))
    insert_deliveries(
        connection,
        [
            NewDelivery(one.notification, new, each, one.now, one.give_up_after)
            for one, new, some in zip(additions, ids, planned, strict=True)
            for each in some
        ],
    )
    found = {}
    for one, new, some in zip(additions, ids, planned, strict=True):
        suppressed = [each.to.channel for each in some if each.quiet is not None and each.quiet.until is None]
        if any(not alert.firing for alert in one.notification.alerts):
            suppressed += _drop_held(connection, one.notification, one.now)
        found[one.key] = Accepted(new, len(some), duplicate=False, suppressed=tuple(suppressed))
    return found


def _take_request(connection: Connection, asked: Asked) -> int | None:
    """Takes the key for a new request, or gives the notification of the one that has it."""
    new = insert_into(connection.dialect.name, requests).values(key=asked.key, digest=asked.digest)
    if connection.execute(new.on_conflict_do_nothing().returning(requests.c.key)).first() is not None:
        return None
    digest, known = connection.execute(
        select(requests.c.digest, requests.c.notification_id).where(requests.c.key == asked.key)
    ).one()
    if digest != asked.digest:
        raise KeyReusedError
    notification_id: int = known
    return notification_id


def note_time(connection: Connection, name: str, now: datetime) -> None:
    """A later time takes an earlier one's place, and one that can be takes that of one that cannot have been yet."""
    new = insert_into(connection.dialect.name, heartbeats).values(name=name, seen_at=now)
    connection.execute(
        new.on_conflict_do_update(
            index_elements=[heartbeats.c.name],
            set_={"seen_at": now},
            where=or_(heartbeats.c.seen_at < now, heartbeats.c.seen_at > now + CLOCKS_DIFFER),
        )
    )


def _who_got(connection: Connection, resolved: Sequence[Alert]) -> dict[Identity, list[Receipt]]:
    """To whom these alerts were told while they fired. One that was told to nobody in the end is there with nobody."""
    wanted = {identity(alert) for alert in resolved}
    rows: list[AnyRow] = []
    for some in in_parts(sorted({fingerprint for fingerprint, _ in wanted})):
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
                    _join(known, receipt)
    return found


def _join(known: list[Receipt], new: Receipt) -> None:
    """Nobody is there twice by the same channel, though a reminder may have gone to others than the beginning."""
    others = {address for one in known if one.channel == new.channel for address in one.recipients}
    left = tuple(address for address in new.recipients if address not in others)
    for number, one in enumerate(known):
        if replace(one, recipients=new.recipients) == new:
            known[number] = replace(one, recipients=one.recipients + left)
            return
    if left:
        known.append(replace(new, recipients=left))


def _told(
    connection: Connection, ids: Sequence[int]
) -> defaultdict[int, list[tuple[frozenset[int] | None, Receipt | None]]]:
    """For each notification its deliveries: which alerts they tell (None: all), to whom (None: it came to nothing)."""
    found: defaultdict[int, list[tuple[frozenset[int] | None, Receipt | None]]] = defaultdict(list)
    for some in in_parts(ids):
        rows = connection.execute(
            select(deliveries).where(deliveries.c.notification_id.in_(some)).order_by(deliveries.c.id)
        ).all()
        # what another's message tells has reached whom that one has
        by = {row.id: row.merged_into or row.id for row in rows}
        states = {row.id: row.state for row in rows}
        if others := by.values() - states.keys():
            carriers = select(deliveries.c.id, deliveries.c.state).where(deliveries.c.id.in_(others))
            states |= {row.id: row.state for row in connection.execute(carriers)}
        addresses: defaultdict[int, list[str]] = defaultdict(list)
        for delivery_id, address in connection.execute(
            select(recipients.c.delivery_id, recipients.c.address)
            .where(
                recipients.c.delivery_id.in_(by.values()),
                recipients.c.state != "refused",
                recipients.c.address != ERASED,
            )
            .order_by(recipients.c.delivery_id, recipients.c.position)
        ):
            addresses[delivery_id].append(address)
        for row in rows:
            reached = tuple(addresses[by[row.id]]) if states[by[row.id]] not in _LOST else ()
            receipt = Receipt(row.channel, row.lane, row.audience, row.locale, reached) if reached else None
            found[row.notification_id].append((positions_of(row.positions), receipt))
    return found


def in_parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """As many at a time as one statement asks for."""
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]


def positions_of(text: str | None) -> frozenset[int] | None:
    """Which of a notification's alerts a delivery tells, from its column; None: all."""
    return None if text is None else frozenset(json.loads(text))


def _insert_notifications(connection: Connection, additions: Sequence[Addition], ids: Sequence[int]) -> None:
    """With their alerts."""
    connection.execute(
        _INSERT_NOTIFICATION,
        [
            {
                "id": new,
                "received_at": one.now,
                "source": one.source,
                "group_key": one.notification.group_key,
                "title": _title(one.notification),
                "severity": one.notification.severity,
                "firing": one.notification.firing,
                "alert_count": len(one.notification.alerts) + one.notification.truncated,
                "payload": one.payload,
            }
            for one, new in zip(additions, ids, strict=True)
        ],
    )
    connection.execute(
        _INSERT_ALERT,
        [
            {
                "notification_id": new,
                "position": position,
                "fingerprint": alert.fingerprint,
                "starts_at": alert.starts_at,
                "firing": alert.firing,
            }
            for one, new in zip(additions, ids, strict=True)
            for position, alert in enumerate(one.notification.alerts)
        ],
    )


def _title(notification: Notification) -> str:
    """The first alert's, for lists; short enough for them."""
    alert = notification.alerts[0]
    return (alert.annotations.get("summary") or alert.name)[:200]


def insert_deliveries(connection: Connection, new: Sequence[NewDelivery]) -> Sequence[int]:
    """With their recipients; the new numbers."""
    if not new:
        return ()
    ids = new_ids(connection, deliveries, len(new))
    connection.execute(
        _INSERT_DELIVERY, [{"id": delivery_id, **_row(one)} for one, delivery_id in zip(new, ids, strict=True)]
    )
    connection.execute(
        _INSERT_RECIPIENT,
        [
            {"delivery_id": delivery_id, "position": position, "address": address, "state": "waiting"}
            for one, delivery_id in zip(new, ids, strict=True)
            for position, address in enumerate(one.planned.to.recipients)
        ],
    )
    return ids


_INSERT_NOTIFICATION, _INSERT_ALERT = insert(notifications), insert(alerts)
_INSERT_DELIVERY, _INSERT_RECIPIENT = insert(deliveries), insert(recipients)


def _row(new: NewDelivery) -> dict[str, Any]:
    notification, planned = new.notification, new.planned
    to, quiet = planned.to, planned.quiet
    due = new.now if quiet is None or quiet.until is None else quiet.until
    state = "pending" if quiet is None else "suppressed" if quiet.until is None else "held"
    if new.merged_into is not None:
        state = "merged"
    whole = len(planned.positions) == len(notification.alerts)
    return {
        "notification_id": new.notification_id,
        "channel": to.channel,
        "lane": to.lane,
        "audience": to.audience,
        "locale": to.locale,
        "thread": _thread(notification),
        "positions": None if whole else json.dumps(planned.positions, separators=(",", ":")),
        "severity": planned.severity,
        "urgency": SEVERITIES.index(planned.severity),
        "firing": planned.firing,
        "state": state,
        "created_at": new.now,
        "next_attempt_at": due,
        "held_until": quiet.until if quiet is not None else None,
        "give_up_at": due + new.give_up_after,
        "settled_at": None if state in OPEN_STATES else new.now,
        "error": f"quiet time ({quiet.rule})" if quiet is not None else None,
        "fallback_for": new.fallback_for,
        "merged_into": new.merged_into,
    }


def _drop_held(connection: Connection, notification: Notification, now: datetime) -> list[str]:
    """Suppresses what is held of this group and tells only that something began which is over; its channels."""
    gathered = deliveries.alias("gathered")
    held = connection.execute(
        select(deliveries).where(
            deliveries.c.thread == _thread(notification),
            is_held(deliveries),
            deliveries.c.firing,
            deliveries.c.lease_owner.is_(None),
            ~exists().where(gathered.c.merged_into == deliveries.c.id),
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
        positions = positions_of(row.positions)
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
