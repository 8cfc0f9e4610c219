"""The outbox's statements for what another channel tells too, once it has failed or takes too long."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import ColumnElement, Connection, and_, exists, func, or_, select, update

from receiver import alertmanager
from receiver.accepting import NewDelivery, insert_deliveries, positions_of
from receiver.fallback import Stranded
from receiver.notification import Severity
from receiver.routing import PlannedDelivery, Quiet, Receipt
from receiver.tables import (
    LOST_STATES,
    AnyRow,
    deliveries,
    has_reached_some,
    is_lost,
    is_open,
    notifications,
    recipients,
)

__all__ = ["HandedOver", "hand_over", "is_any_stranded"]

T = TypeVar("T")

_AT_ONCE = 50


@dataclass(frozen=True)
class HandedOver:
    """A delivery that another channel tells too from now on; `to` None: nobody is left whom that would reach."""

    delivery_id: int
    channel: str
    to: str | None


def is_any_stranded(connection: Connection, now: datetime, after: Mapping[Severity, timedelta]) -> bool:
    """Whether there is anything to hand over. Looking costs less than writing, and most looks find nothing."""
    return connection.execute(_stranded(now, after).limit(1)).first() is not None


def hand_over(
    connection: Connection,
    decide: Callable[[Stranded], Sequence[PlannedDelivery]],
    now: datetime,
    *,
    after: Mapping[Severity, timedelta],
    give_up_after: timedelta,
) -> list[HandedOver]:
    """As Outbox.hand_over: a few of them, chosen the most urgent first."""
    chosen = _stranded(now, after).limit(_AT_ONCE).with_for_update(skip_locked=True)
    rows = connection.execute(
        update(deliveries)
        .where(deliveries.c.id.in_(chosen), deliveries.c.fallback_at.is_(None))
        .values(fallback_at=now)
        .returning(*deliveries.c)
    ).all()
    return [_hand_over(connection, row, decide, now, give_up_after) for row in rows]


def _stranded(now: datetime, after: Mapping[Severity, timedelta]) -> Any:
    """Those of which nobody has decided yet whether another channel tells them."""
    older = deliveries.alias("older")  # a younger message may have taken it along

    def waits_since(time: datetime) -> ColumnElement[bool]:
        of_its_own, of_another = (
            func.coalesce(one.c.held_until, one.c.created_at, type_=deliveries.c.created_at.type) <= time
            for one in (deliveries, older)
        )
        return or_(of_its_own, exists().where(older.c.merged_into == deliveries.c.id, of_another))

    waits = or_(*(and_(deliveries.c.severity == one, waits_since(now - long)) for one, long in after.items()))
    return (
        select(deliveries.c.id)
        .join(notifications, notifications.c.id == deliveries.c.notification_id)
        .where(
            deliveries.c.fallback_at.is_(None),
            or_(
                is_lost(deliveries),
                and_(is_open(deliveries), deliveries.c.state != "held", waits, ~has_reached_some(deliveries)),
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
    ids = {one.notification_id for one in family}
    carried, told = _carried(connection, ids, row.audience), _told(connection, ids)
    first: dict[tuple[Receipt, Quiet | None], int] = {}
    for one in family:
        notification = alertmanager.parse(one.payload.encode())
        every = frozenset(range(len(notification.alerts)))
        stranded = Stranded(
            row.channel,
            row.audience,
            notification,
            _whole(positions_of(one.positions), every),
            {to: _whole(some, every) for to, some in carried[one.notification_id].items()},
            {to: _whole(some, every) for to, some in told[one.notification_id].items()},
        )
        for planned in decide(stranded):
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


def _whole(positions: frozenset[int] | None, every: frozenset[int]) -> frozenset[int]:
    return every if positions is None else positions


# Of each notification who is told of which alerts; None: of all.
_Known: TypeAlias = defaultdict[int, dict[T, frozenset[int] | None]]


def _carried(connection: Connection, ids: Iterable[int], audience: str) -> _Known[str]:
    """By channel, what the audience is told of."""
    found = connection.execute(
        select(deliveries.c.notification_id, deliveries.c.channel, deliveries.c.positions).where(
            deliveries.c.notification_id.in_(list(ids)), deliveries.c.audience == audience
        )
    )
    return _joined((notification_id, channel, positions) for notification_id, channel, positions in found)


def _told(connection: Connection, ids: Iterable[int]) -> _Known[tuple[str, str]]:
    """By channel and address, what has got there or is on its way."""
    message = deliveries.alias("message")
    found = connection.execute(
        select(deliveries.c.notification_id, deliveries.c.channel, recipients.c.address, deliveries.c.positions)
        .join(message, message.c.id == func.coalesce(deliveries.c.merged_into, deliveries.c.id))
        .join(recipients, recipients.c.delivery_id == message.c.id)
        .where(
            deliveries.c.notification_id.in_(list(ids)),
            message.c.state.not_in((*LOST_STATES, "suppressed", "held")),
            recipients.c.state != "refused",
        )
    )
    return _joined(
        (notification_id, (channel, address), positions) for notification_id, channel, address, positions in found
    )


def _joined(rows: Iterable[tuple[int, T, str | None]]) -> _Known[T]:
    found: _Known[T] = defaultdict(dict)
    for notification_id, to, positions in rows:
        some, known = positions_of(positions), found[notification_id].get(to, frozenset())
        found[notification_id][to] = None if some is None or known is None else known | some
    return found
