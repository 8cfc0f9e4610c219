"""What another channel tells too: of a delivery that does not get through, the part that nobody carries there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from receiver.notification import Notification, Severity, highest
from receiver.routing import Moment, PlannedDelivery, Routing

__all__ = ["Rules", "Stranded", "plan", "planner"]


@dataclass(frozen=True)
class Rules:
    """Which channel is next to which, and how long a delivery may wait before that one is asked."""

    next: Mapping[str, str]
    after: Mapping[Severity, timedelta]


@dataclass(frozen=True)
class Stranded:
    """A delivery that has failed for good, or has not got through in time."""

    channel: str
    audience: str
    notification: Notification
    positions: frozenset[int]
    """Which of the notification's alerts it tells."""
    carried: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """By channel, those that the audience is told of anyway."""
    told: Mapping[tuple[str, str], frozenset[int]] = field(default_factory=dict)
    """By channel and address, those that somebody is told of anyway, in whichever audience."""


def plan(stranded: Stranded, routing: Routing, rules: Rules, now: datetime) -> list[PlannedDelivery]:
    """The deliveries by the next channel to the same audience; none where that carries all, or reaches nobody else."""
    channel = rules.next.get(stranded.channel)
    if channel is None:
        return []
    left = tuple(sorted(stranded.positions - stranded.carried.get(channel, frozenset())))
    alerts = [stranded.notification.alerts[position] for position in left]
    firing = any(alert.firing for alert in alerts)
    if not alerts or (channel in routing.silent_when_resolved and not firing):
        return []
    told = [to for to, positions in stranded.told.items() if positions.issuperset(left)]
    moment = Moment(routing, now)
    severity = highest(alert.severity for alert in alerts)
    return [
        PlannedDelivery(receipt, left, severity, firing, moment.quiet(channel, stranded.audience, severity))
        for receipt in moment.reach(stranded.audience, channel, told)
    ]


def planner(routing: Routing, rules: Rules, now: datetime) -> Callable[[Stranded], Sequence[PlannedDelivery]]:
    """`plan` but for what only the store knows."""
    return lambda stranded: plan(stranded, routing, rules, now)
