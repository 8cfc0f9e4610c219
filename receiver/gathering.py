"""The outbox's statements for messages that go together: what waits for the same readers becomes one delivery."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    and_,
    exists,
    func,
    or_,
    select,
    update,
)

from receiver import digest
from receiver.digest import Gathering, Lane
from receiver.notification import SEVERITIES
from receiver.tables import (
    AnyRow,
    comes_before,
    deliveries,
    has_reached_some,
    insert_into,
    is_on_its_way,
    is_open,
    lanes,
    recipients,
)

__all__ = ["CRITICAL", "admit", "gather_held"]

CRITICAL = SEVERITIES.index("critical")

_BACKLOG = timedelta(minutes=1)  # what has waited for longer goes along with what is tried again
_AFTER_A_DIGEST = timedelta(seconds=1)
_AT_ONCE = 1_000  # deliveries in one message; what is beyond it makes another


class _Along(Enum):
    """What goes along with a message."""

    GROUP = "what waits of the same group"
    BACKLOG = "what has been tried in vain, or has waited for long"
    ALL = "everything"


def admit(
    connection: Connection, claimed: Sequence[AnyRow], gathering: Gathering, now: datetime
) -> dict[int, int | None]:
    """Merges into each delivery just claimed what goes with it, and says how many; None: it is put off to a digest.

    One that has gone along with another is not in the answer.
    """
    ids = [row.id for row in claimed]
    reached = _have_reached_some(connection, ids)
    crowded = _crowded(connection, claimed) if gathering.rate is None else frozenset()
    found: dict[int, int | None] = {}
    gone: set[int] = set()
    # those that have reached some come last: what is left of them may have gone along with a later one
    for row in sorted(claimed, key=lambda row: (row.id in reached, -row.urgency, row.next_attempt_at, row.id)):
        if row.id in gone:
            continue
        if row.id in reached or (gathering.rate is None and row.thread not in crowded):
            found[row.id] = 0
            continue
        ids.remove(row.id)
        if gathering.rate is not None and _waits_for_a_digest(connection, row, now):
            found[row.id] = None
            continue
        merged = _admit(connection, row, ids, gathering, now)
        gone |= set(merged or ())
        found[row.id] = None if merged is None else len(merged)
    return found


def _admit(
    connection: Connection, row: AnyRow, mates: Sequence[int], gathering: Gathering, now: datetime
) -> list[int] | None:
    again = bool(row.attempts) or row.unanswered_since is not None
    along = _Along.BACKLOG if again and gathering.rate is not None else _Along.GROUP
    lane = None
    if gathering.rate is not None and not again:
        lane = _lane(connection, row)
        turn = digest.turn(lane, gathering.rate, now)
        lane = turn.lane
        if turn.wait_until is not None:
            _put_off(connection, row, turn.wait_until)
            _keep(connection, row, lane)
            return None
        along = _Along.ALL if turn.gather else along
    merged: list[int] = []
    if gathering.unanswered or row.unanswered_since is None:
        merged = _others(connection, row, mates, along, gathering, now)
        merged += _remnants(connection, row, mates, gathering, now)
        _merge(connection, row, merged, now)
    if lane is not None and gathering.rate is not None:
        _keep(connection, row, digest.note(lane, len(merged), gathering.rate, now))
    return merged


def gather_held(connection: Connection, first: AnyRow, now: datetime) -> int:
    """Merges into the first what is due of everything else held for the same readers; how many."""
    if first.unanswered_since is not None:  # it may have arrived as it is
        return 0
    others = connection.execute(
        select(deliveries.c.id)
        .where(
            _same_lane(first),
            deliveries.c.locale == first.locale,
            deliveries.c.id != first.id,
            deliveries.c.state == "held",
            deliveries.c.lease_owner.is_(None),
            deliveries.c.next_attempt_at <= now,
        )
        .with_for_update(skip_locked=True)
    ).scalars()
    same = _same_readers(connection, first.id, others)
    _merge(connection, first, same, now)
    return len(same)


def _same_readers(connection: Connection, first: int, others: Iterable[int]) -> list[int]:
    """Those of the others that go to exactly the addresses of the first."""
    addresses: defaultdict[int, list[str]] = defaultdict(list)
    for row in connection.execute(
        select(recipients.c.delivery_id, recipients.c.address)
        .where(recipients.c.delivery_id.in_([first, *others]))
        .order_by(recipients.c.delivery_id, recipients.c.position)
    ):
        addresses[row.delivery_id].append(row.address)
    return [one for one, some in addresses.items() if one != first and some == addresses[first]]


def _have_reached_some(connection: Connection, ids: Sequence[int]) -> frozenset[int]:
    """Those that some of their recipients have."""
    statement = select(recipients.c.delivery_id).where(
        recipients.c.delivery_id.in_(ids), recipients.c.state == "delivered"
    )
    return frozenset(connection.execute(statement).scalars())


def _crowded(connection: Connection, claimed: Sequence[AnyRow]) -> frozenset[str]:
    """The groups of which more waits than one claimed delivery."""
    threads = [row.thread for row in claimed]
    waiting = connection.execute(
        select(deliveries.c.thread)
        .where(
            is_open(deliveries),
            deliveries.c.thread.in_(threads),
            deliveries.c.channel.in_({row.channel for row in claimed}),
            deliveries.c.id.not_in([row.id for row in claimed]),
        )
        .distinct()
    ).scalars()
    return frozenset(waiting) | {thread for thread in threads if threads.count(thread) > 1}


def _waits_for_a_digest(connection: Connection, row: AnyRow, now: datetime) -> bool:
    """Puts it off where the earlier message of its group is told by a digest that is not through, but may yet be."""
    gathered, earlier = deliveries.alias("gathered"), deliveries.alias("earlier")
    due = connection.execute(
        select(func.max(gathered.c.next_attempt_at, type_=deliveries.c.next_attempt_at.type))
        .join(earlier, earlier.c.merged_into == gathered.c.id)
        .where(
            is_on_its_way(gathered),
            or_(  # a later one of its own group waits for this one, but for a critical one
                gathered.c.thread != row.thread,
                gathered.c.id < row.id,
                gathered.c.urgency > max(row.urgency, CRITICAL - 1),
            ),
            gathered.c.channel == row.channel,
            gathered.c.audience == row.audience,
            gathered.c.lane == row.lane,
            gathered.c.urgency >= (CRITICAL if row.urgency >= CRITICAL else 0),
            earlier.c.thread == row.thread,
            earlier.c.id < row.id,
            ~has_reached_some(gathered),
        )
    ).scalar()
    if due is None:
        return False
    again = max(due, now) + _AFTER_A_DIGEST
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id == row.id)
        .values(next_attempt_at=again, lease_owner=None, lease_until=None, claimed_at=None)
    )
    return True


def _same_lane(row: AnyRow) -> ColumnElement[bool]:
    return and_(
        deliveries.c.channel == row.channel,
        deliveries.c.audience == row.audience,
        deliveries.c.lane == row.lane,
    )


def _same_class(row: AnyRow) -> ColumnElement[bool]:
    """The critical ones are told apart from the rest, so that no storm of those holds them back."""
    return deliveries.c.urgency >= CRITICAL if row.urgency >= CRITICAL else deliveries.c.urgency < CRITICAL


def _others(
    connection: Connection, row: AnyRow, mates: Sequence[int], along: _Along, gathering: Gathering, now: datetime
) -> list[int]:
    """What goes along with it; of what is claimed already only `mates`, which nobody has begun to send."""
    same_group = deliveries.c.thread == row.thread
    since = func.coalesce(deliveries.c.held_until, deliveries.c.created_at, type_=deliveries.c.created_at.type)
    stuck = or_(
        deliveries.c.attempts > 0,
        since <= now - _BACKLOG,
        _follows_one("stuck", row, lambda earlier: earlier.c.attempts > 0),  # its end goes with its beginning
    )
    wanted = {
        _Along.GROUP: same_group,
        _Along.BACKLOG: or_(same_group, and_(_same_class(row), stuck)),
        _Along.ALL: or_(same_group, _same_class(row)),
    }[along]
    follows = _follows_one("in_flight", row, lambda earlier: ~_is_free(earlier, mates, gathering, now))
    found = (
        connection.execute(
            select(deliveries.c.id)
            .where(
                _can_join(row, mates, gathering, now),
                wanted,
                ~follows,
                ~has_reached_some(deliveries),
            )
            .order_by(deliveries.c.id)
            .limit(_AT_ONCE)
            .with_for_update(skip_locked=True)
        )
        .scalars()
        .all()
    )
    same = _same_readers(connection, row.id, found) if found else []
    return _without_followers(connection, row, same, now) if same else []


def _can_join(row: AnyRow, mates: Sequence[int], gathering: Gathering, now: datetime) -> ColumnElement[bool]:
    """Whether it could be told by the row's message, in the same words and by the same way."""
    return and_(
        is_open(deliveries),
        deliveries.c.state != "held",
        _same_lane(row),
        deliveries.c.locale == row.locale,
        deliveries.c.id != row.id,
        _is_free(deliveries, mates, gathering, now),
    )


def _is_free(table: FromClause, mates: Sequence[int], gathering: Gathering, now: datetime) -> ColumnElement[bool]:
    """Whether it may go along with another: nobody has it in hand, or whoever had it is dead."""
    free = or_(table.c.lease_owner.is_(None), table.c.id.in_(mates))
    if gathering.unanswered:
        return or_(free, table.c.lease_until <= now)
    return and_(free, table.c.unanswered_since.is_(None))


def _remnants(
    connection: Connection, row: AnyRow, mates: Sequence[int], gathering: Gathering, now: datetime
) -> list[int]:
    """Earlier ones of its group that only some have got: the others hear of it by this one, lest it come after it.

    Not those that told of other groups too, of which those who have got it would hear again.
    """
    gathered = deliveries.alias("gathered")
    of_another = exists().where(gathered.c.merged_into == deliveries.c.id, gathered.c.thread != deliveries.c.thread)
    found = (
        connection.execute(
            select(deliveries.c.id)
            .where(
                _can_join(row, mates, gathering, now),
                deliveries.c.thread == row.thread,
                deliveries.c.id < row.id,
                has_reached_some(deliveries),
                ~of_another,
            )
            .order_by(deliveries.c.id)
            .with_for_update(skip_locked=True)
        )
        .scalars()
        .all()
    )
    return _same_readers(connection, row.id, found) if found else []


def _without_followers(connection: Connection, row: AnyRow, ids: Sequence[int], now: datetime) -> list[int]:
    """Those of which none follows an open one of its group that stays: another receiver may be taking that one now."""
    chosen = deliveries.alias("chosen")
    threads = select(chosen.c.thread).where(chosen.c.id.in_(ids))
    waiting = connection.execute(
        select(deliveries.c.id, deliveries.c.thread, deliveries.c.urgency)
        .where(
            is_on_its_way(deliveries, now),
            _same_lane(row),
            deliveries.c.id != row.id,
            deliveries.c.thread.in_(threads),
            ~has_reached_some(deliveries),
        )
        .order_by(deliveries.c.id)
    ).all()
    kept: list[int] = []
    staying: defaultdict[str, int] = defaultdict(int)  # the most urgent of those that stay
    going = frozenset(ids)
    for one in waiting:
        # a critical one waits for no lesser one
        if one.id in going and (one.thread not in staying or one.urgency > max(staying[one.thread], CRITICAL - 1)):
            kept.append(one.id)
        else:
            staying[one.thread] = max(staying[one.thread], one.urgency)
    return kept


def _follows_one(name: str, row: AnyRow, which: Callable[[FromClause], ColumnElement[bool]]) -> ColumnElement[bool]:
    """Whether an earlier one of its group, other than `row`, is open and such."""
    earlier = deliveries.alias(name)
    return exists().where(
        comes_before(earlier),
        earlier.c.id != row.id,
        is_open(earlier),
        which(earlier),
    )


def _merge(connection: Connection, row: AnyRow, ids: Sequence[int], now: datetime) -> None:
    """Has the row tell these too: for as long as the youngest may be tried, as urgently as the most urgent."""
    if not ids:
        return
    last, urgency = connection.execute(
        select(
            func.max(deliveries.c.give_up_at, type_=deliveries.c.give_up_at.type), func.max(deliveries.c.urgency)
        ).where(deliveries.c.id.in_([row.id, *ids]))
    ).one()
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id == row.id)
        .values(
            give_up_at=last,
            urgency=urgency,
            severity=SEVERITIES[urgency],
            fallback_at=None,  # what joins it may be told by no other channel yet
        )
    )
    # what they had gathered themselves comes with them
    connection.execute(update(deliveries).where(deliveries.c.merged_into.in_(ids)).values(merged_into=row.id))
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id.in_(ids))
        .values(
            state="merged",
            merged_into=row.id,
            settled_at=now,
            unanswered_since=None,
            lease_owner=None,
            lease_until=None,
        )
    )


def _put_off(connection: Connection, row: AnyRow, until: datetime) -> None:
    """The delivery, and with it all that would have its turn only to be put off as well."""
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id == row.id)
        .values(next_attempt_at=until, lease_owner=None, lease_until=None, claimed_at=None)
    )
    waiting = select(deliveries.c.id).where(
        is_open(deliveries),
        deliveries.c.state == "pending",
        _same_lane(row),
        _same_class(row),
        deliveries.c.attempts == 0,
        deliveries.c.lease_owner.is_(None),
        deliveries.c.next_attempt_at < until,
    )
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id.in_(waiting.with_for_update(skip_locked=True)))
        .values(next_attempt_at=until)
    )


def _key(row: AnyRow) -> dict[str, Any]:
    return {
        "channel": row.channel,
        "audience": row.audience,
        "lane": row.lane,
        "critical": row.urgency >= CRITICAL,
    }


def _lane(connection: Connection, row: AnyRow) -> Lane:
    """Locked, so that of two receivers one counts after the other."""
    connection.execute(
        insert_into(connection.dialect.name, lanes).values(**_key(row), told="[]").on_conflict_do_nothing()
    )
    found = connection.execute(select(lanes).where(_is_lane(row)).with_for_update()).one()
    return Lane(tuple(datetime.fromisoformat(time) for time in json.loads(found.told)), found.digest_at)


def _keep(connection: Connection, row: AnyRow, lane: Lane) -> None:
    told = json.dumps([time.isoformat() for time in lane.told])
    connection.execute(update(lanes).where(_is_lane(row)).values(told=told, digest_at=lane.digest_at))


def _is_lane(row: AnyRow) -> ColumnElement[bool]:
    return and_(*(lanes.c[name] == value for name, value in _key(row).items()))
