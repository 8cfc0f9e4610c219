"""When what waits for the same readers is told in one message instead of many: a pure answer, the clock an argument."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

__all__ = ["BY_GROUP", "Gathering", "Lane", "Rate", "Turn", "note", "turn"]


@dataclass(frozen=True)
class Rate:
    """At most so many single messages within a time to the same readers; then what comes waits for a digest."""

    most: int
    within: timedelta
    every: timedelta
    """From the first that has to wait to the digest."""


@dataclass(frozen=True)
class Gathering:
    """How a channel gathers."""

    rate: Rate | None = None
    """None: each group has its messages, however many there are and however late they come."""
    unanswered: bool = True
    """Whether a message may be gathered that its peer may have already; not where the peer can be asked for it."""


BY_GROUP = Gathering()
"""Only what is of one group."""


@dataclass(frozen=True)
class Lane:
    """What the same readers were told of late."""

    told: tuple[datetime, ...] = ()
    """When, one entry a notification, the oldest first; no more of them than the rate allows."""
    digest_at: datetime | None = None
    """When what waits is told."""


@dataclass(frozen=True)
class Turn:
    """What the next message is to do, and the lane afterwards."""

    lane: Lane
    wait_until: datetime | None = None
    gather: bool = False
    """Whether it takes everything along that waits."""


def turn(lane: Lane, rate: Rate, now: datetime) -> Turn:
    """Whether a message to these readers goes by itself, waits for a digest, or is that digest."""
    if lane.digest_at is not None:
        if now < lane.digest_at <= now + rate.every:  # it is never further off unless the clock was set back
            return Turn(lane, wait_until=lane.digest_at)
        return Turn(note(replace(lane, digest_at=None), 1, rate, now), gather=True)
    if len(_recent(lane, rate, now)) < rate.most:
        return Turn(note(lane, 1, rate, now))
    at = now + rate.every
    return Turn(replace(lane, digest_at=at), wait_until=at)


def note(lane: Lane, count: int, rate: Rate, now: datetime) -> Lane:
    """The lane after so many more notifications were told: while a storm lasts, its digests keep it one."""
    told = (*_recent(lane, rate, now), *([now] * min(count, rate.most)))
    return replace(lane, told=told[-rate.most :])


def _recent(lane: Lane, rate: Rate, now: datetime) -> tuple[datetime, ...]:
    return tuple(time for time in lane.told if abs(now - time) < rate.within)
