"""What is taken on: deliveries that are due, with all that they tell, and the note of what became of them."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Select,
    String,
    and_,
    bindparam,
    case,
    exists,
    func,
    null,
    or_,
    select,
    update,
)

from receiver import alertmanager
from receiver.accepting import positions_of
from receiver.digest import Gathering
from receiver.gathering import CRITICAL, admit, gather_held
from receiver.notification import SEVERITIES, Alert, Notification, Severity
from receiver.routing import Identity, identity
from receiver.tables import (
    ERASED,
    OPEN_STATES,
    AnyRow,
    comes_before,
    deliveries,
    has_reached_some,
    is_held,
    is_lost,
    is_on_its_way,
    is_open,
    notifications,
    recipients,
)

__all__ = [
    "Claim",
    "Finished",
    "Recipient",
    "Settlement",
    "Wanted",
    "claims",
    "finish_all",
    "is_any_due",
    "next_due",
    "take",
    "together",
]

_REFERENCES_FROM_BEFORE = timedelta(hours=1)  # far more than clocks differ


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
    newly_merged: int = 0
    """How many of them just now."""
    others: frozenset[str] = frozenset()
    """Where something is unanswered: what the peer calls the channel's messages that it took since."""
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
class Finished:
    """An attempt that was made, and by whom."""

    claim: Claim
    settlement: Settlement
    owner: str
    now: datetime


@dataclass(frozen=True)
class Wanted:
    """What a channel can take on now."""

    channel: str
    now: datetime
    busy_lanes: tuple[str, ...] = ()
    held: tuple[int, ...] = ()
    """Deliveries that are in hand, and not to be taken again."""
    only: int | None = None
    """The one notification to look at, if so."""

    def values(self) -> dict[str, Any]:
        """For `_due`'s parameters."""
        of_one = {"wanted_notification": self.only} if self.only is not None else {}
        return {
            "wanted_channel": self.channel,
            "wanted_by": self.now,
            "wanted_not_in": list(self.busy_lanes),
            "wanted_not_held": list(self.held),
            **of_one,
        }


def is_any_due(connection: Connection, wanted: Wanted) -> bool:
    """Whether anything waits for its turn no longer. Looking costs less than writing, and most looks find nothing."""
    return connection.execute(_due(wanted.only is not None).limit(1), wanted.values()).first() is not None


def next_due(connection: Connection, channel: str) -> datetime | None:
    """When the channel's next delivery is due or its lease ends; None where nothing waits."""
    found: datetime | None = connection.execute(_next_due(), {"wanted_channel": channel}).scalar()
    return found


# To put a statement together takes longer than to run it: once is enough.


@functools.cache
def _due(of_one: bool) -> Select[int]:
    statement = select(deliveries.c.id).where(
        deliveries.c.channel == bindparam("wanted_channel"),
        is_open(deliveries),
        or_(deliveries.c.state != "held", ~_held_behind_another(bindparam("wanted_by"))),
        deliveries.c.next_attempt_at <= bindparam("wanted_by"),
        or_(deliveries.c.lease_until.is_(None), deliveries.c.lease_until <= bindparam("wanted_by")),
        deliveries.c.lane.not_in(bindparam("wanted_not_in", expanding=True)),
        deliveries.c.id.not_in(bindparam("wanted_not_held", expanding=True)),
        ~_comes_after_another(bindparam("wanted_by")),
    )
    return statement.where(deliveries.c.notification_id == bindparam("wanted_notification")) if of_one else statement


@functools.cache
def _next_due() -> Select[datetime | None]:
    return select(
        func.min(
            case(
                (deliveries.c.lease_until > deliveries.c.next_attempt_at, deliveries.c.lease_until),
                else_=deliveries.c.next_attempt_at,
            ),
            type_=deliveries.c.next_attempt_at.type,
        )
    ).where(
        deliveries.c.channel == bindparam("wanted_channel"),
        is_open(deliveries),
        or_(deliveries.c.state != "held", ~_held_behind_another()),
        ~_comes_after_another(),
    )


@functools.cache
def _claim(of_one: bool) -> Any:
    chosen = (
        _due(of_one)
        .order_by(deliveries.c.urgency.desc(), deliveries.c.next_attempt_at, deliveries.c.id)
        .limit(bindparam("most"))
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
    return (
        update(deliveries)
        .where(deliveries.c.id.in_(select(chosen.c.id)))
        .values(
            lease_owner=bindparam("new_owner"),
            lease_until=bindparam("new_lease"),
            claimed_at=bindparam("wanted_by"),
            unanswered_since=unanswered,
        )
        .returning(*deliveries.c)
    )


def _comes_after_another(now: BindParameter[datetime] | None = None) -> ColumnElement[bool]:
    """Whether an earlier message of the same group to the same recipients reached none of them yet, and still may.

    One that has reached some is waited for only while it is being sent: what is left of it goes along with the later
    one. A critical one waits for no lesser one, but takes it along.
    """
    earlier = deliveries.alias("earlier")
    return exists().where(
        comes_before(earlier),
        is_on_its_way(earlier, now),
        or_(deliveries.c.urgency < CRITICAL, earlier.c.urgency >= deliveries.c.urgency),
        or_(earlier.c.lease_owner.is_not(None), ~has_reached_some(earlier)),
    )


def _held_behind_another(now: BindParameter[datetime] | None = None) -> ColumnElement[bool]:
    """Whether an earlier one is held for the same readers, and due by now if asked: that one gathers the others."""
    earlier = deliveries.alias("first_held")
    return exists().where(
        earlier.c.channel == deliveries.c.channel,
        earlier.c.lane == deliveries.c.lane,
        earlier.c.audience == deliveries.c.audience,
        earlier.c.locale == deliveries.c.locale,
        earlier.c.id < deliveries.c.id,
        is_held(earlier),
        *([earlier.c.next_attempt_at <= now] if now is not None else []),
    )


@dataclass(frozen=True)
class Taken:
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


def take(
    connection: Connection, wanted: Wanted, gathering: Gathering, *, owner: str, lease: timedelta, limit: int
) -> Taken:
    """Takes on up to `limit` of what is due, with what is gathered for the same readers."""
    now = wanted.now
    claimed = connection.execute(
        _claim(wanted.only is not None),
        {**wanted.values(), "most": limit, "new_owner": owner, "new_lease": now + lease},
    ).all()
    newly_merged = {row.id: gather_held(connection, row, now) for row in claimed if row.state == "held"}
    admitted = admit(connection, [row for row in claimed if row.state != "held"], gathering, now)
    newly_merged |= {number: count for number, count in admitted.items() if count is not None}
    rows = [row for row in claimed if row.id in newly_merged]
    grown = [number for number, count in newly_merged.items() if count]
    if grown:
        rows = [row for row in rows if row.id not in grown]
        rows += connection.execute(select(deliveries).where(deliveries.c.id.in_(grown))).all()
    return _read(connection, rows, newly_merged)


def _read(connection: Connection, rows: Sequence[AnyRow], newly_merged: Mapping[int, int]) -> Taken:
    """With their recipients and all that they tell."""
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
    return Taken(
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


def claims(taken: Taken) -> list[Claim]:
    """The most urgent and then the oldest first. Reads the texts, so it is for after the transaction."""
    of_delivery: defaultdict[int, list[Recipient]] = defaultdict(list)
    for row in taken.recipients:
        of_delivery[row.delivery_id].append(Recipient(row.position, row.address, row.state))
    parts: defaultdict[int, list[Notification]] = defaultdict(list)
    for row in taken.told:
        parts[row.merged_into or row.id].append(
            _part(alertmanager.parse(row.payload.encode()), positions_of(row.positions))
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


def finish_all(connection: Connection, finished: Sequence[Finished]) -> list[None]:
    """Notes each attempt's outcome; where its lease was lost meanwhile, only what became of the recipients.

    That may be more than the one knew who gave the delivery up, before or after.
    """
    changed = [
        {
            "of_delivery": one.claim.id,
            "at_position": position,
            "new_state": state,
            "new_error": error,
            "new_settled_at": None if state == "waiting" else one.now,
            "new_reference": one.settlement.references.get(position),
            "of_owner": one.owner,
            "of_time": one.claim.claimed_at,
        }
        for one in finished
        for position, (state, error) in one.settlement.recipients.items()
    ]
    if changed:
        connection.execute(_SETTLE_RECIPIENT, changed)
    noted = connection.execute(
        _SETTLE_DELIVERY,
        [
            {
                "of_delivery": one.claim.id,
                "of_owner": one.owner,
                "of_time": one.claim.claimed_at,
                "new_state": one.settlement.state,
                "new_attempts": one.claim.attempts + 1,
                "new_next_attempt_at": one.settlement.next_attempt_at or one.now,
                "new_unanswered_since": one.settlement.unanswered_since,
                "new_error": one.settlement.error,
                "new_settled_at": None if one.settlement.state in OPEN_STATES else one.now,
            }
            for one in finished
        ],
    )
    gave_up = any(one.settlement.state not in ("delivered", *OPEN_STATES) for one in finished)
    if gave_up or noted.rowcount < len(finished):
        connection.execute(_SETTLE_BY_RECIPIENTS, {"of_deliveries": [one.claim.id for one in finished]})
    return [None] * len(finished)


_NEW_STATE = bindparam("new_state", type_=String)
_IS_HELD = and_(
    deliveries.c.id == bindparam("of_delivery"),
    deliveries.c.lease_owner == bindparam("of_owner"),
    deliveries.c.claimed_at == bindparam("of_time"),
)
_HAS_GROWN = exists().where(
    deliveries.c.merged_into == bindparam("of_delivery"), deliveries.c.settled_at > bindparam("of_time")
)
_SETTLE_RECIPIENT = (
    update(recipients)
    .where(
        recipients.c.delivery_id == bindparam("of_delivery"),
        recipients.c.position == bindparam("at_position"),
        # who comes late tells only what has arrived, and knows nothing of what joined the message after it was sent
        or_(exists().where(_IS_HELD), and_(_NEW_STATE == "delivered", ~_HAS_GROWN)),
        # what is settled stays so, but that it has arrived: a late answer may have said so, or an erasure stopped it
        or_(recipients.c.state == "waiting", _NEW_STATE == "delivered"),
    )
    .values(
        state=bindparam("new_state"),
        error=bindparam("new_error"),
        settled_at=bindparam("new_settled_at"),
        reference=bindparam("new_reference"),
    )
)
_NAMES_AN_ERASED_ONE = exists().where(
    recipients.c.delivery_id == bindparam("of_delivery"), recipients.c.address == ERASED
)
_SETTLE_DELIVERY = (
    update(deliveries)
    .where(_IS_HELD)
    .values(
        state=bindparam("new_state"),
        attempts=bindparam("new_attempts"),
        next_attempt_at=bindparam("new_next_attempt_at"),
        unanswered_since=bindparam("new_unanswered_since"),
        error=case((_NAMES_AN_ERASED_ONE, null()), else_=bindparam("new_error")),
        settled_at=bindparam("new_settled_at"),
        lease_owner=None,
        lease_until=None,
    )
)
_MISSES_SOME = exists().where(recipients.c.delivery_id == deliveries.c.id, recipients.c.state != "delivered")
_SETTLE_BY_RECIPIENTS = (
    update(deliveries)
    .where(
        deliveries.c.id.in_(bindparam("of_deliveries", expanding=True)),
        or_(is_lost(deliveries), deliveries.c.state == "partial"),
        has_reached_some(deliveries),
    )
    .values(
        state=case((_MISSES_SOME, "partial"), else_="delivered"),
        error=case((_MISSES_SOME, deliveries.c.error), else_=null()),
    )
)
