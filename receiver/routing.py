"""Who gets which alert by which channel: a notification in, its deliveries out. Touches nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from receiver.notification import Alert, Notification, Severity, highest

__all__ = ["Audience", "Earlier", "Identity", "PlannedDelivery", "Receipt", "Routing", "identity", "plan"]

Identity: TypeAlias = tuple[str, datetime]
"""An alert from its start to its end: fingerprint and start."""


@dataclass(frozen=True)
class Audience:
    """A group of recipients, by channel."""

    name: str
    locale: str
    recipients: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Routing:
    """Who is told, by which channels for which severity; a channel that is off stands in neither."""

    audience: Audience
    channels: Mapping[Severity, tuple[str, ...]]
    one_by_one: frozenset[str] = frozenset()
    """Channels that tell each recipient by a message of its own, each with its own pace."""
    silent_when_resolved: frozenset[str] = frozenset()
    """Channels that are not told of the end."""


@dataclass(frozen=True)
class Receipt:
    """Who got a firing alert, or is about to get it."""

    channel: str
    lane: str
    audience: str
    locale: str
    recipients: tuple[str, ...]


Earlier: TypeAlias = Mapping[Identity, Sequence[Receipt]]
"""For alerts that were told of while they fired: to whom. Empty where that came to nothing."""


@dataclass(frozen=True)
class PlannedDelivery:
    """One message to be sent by one channel to one group of recipients."""

    to: Receipt
    positions: tuple[int, ...]
    """Which of the notification's alerts it tells."""
    severity: Severity
    firing: bool


@dataclass
class _Draft:
    positions: list[int] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)


def identity(alert: Alert) -> Identity:
    """What the alert is known by, here and at Alertmanager."""
    return alert.fingerprint, alert.starts_at


def plan(notification: Notification, routing: Routing, earlier: Earlier) -> list[PlannedDelivery]:
    """Routes alert by alert: each by its own severity, a resolved one to those who got it while it fired."""
    drafts: dict[Receipt, _Draft] = {}
    for position, alert in enumerate(notification.alerts):
        if alert.is_heartbeat or alert.severity == "none":
            continue
        for receipt in _receipts(alert, routing, earlier):
            draft = drafts.setdefault(receipt, _Draft())
            draft.positions.append(position)
            draft.alerts.append(alert)
    return [
        PlannedDelivery(
            to=receipt,
            positions=tuple(draft.positions),
            severity=highest(alert.severity for alert in draft.alerts),
            firing=any(alert.firing for alert in draft.alerts),
        )
        for receipt, draft in drafts.items()
    ]


def planner(notification: Notification, routing: Routing) -> Callable[[Earlier], list[PlannedDelivery]]:
    """`plan` but for what only the store knows."""
    return lambda earlier: plan(notification, routing, earlier)


def _receipts(alert: Alert, routing: Routing, earlier: Earlier) -> Sequence[Receipt]:
    if alert.firing:
        return _by_severity(alert.severity, routing)
    known = earlier.get(identity(alert))
    found = _by_severity(alert.severity, routing) if known is None else known
    return [
        receipt
        for receipt in found
        if receipt.channel in routing.audience.recipients and receipt.channel not in routing.silent_when_resolved
    ]


def _by_severity(severity: Severity, routing: Routing) -> list[Receipt]:
    audience = routing.audience
    found = []
    for channel in routing.channels.get(severity, ()):
        recipients = audience.recipients.get(channel, ())
        if channel in routing.one_by_one:
            found += [Receipt(channel, one, audience.name, audience.locale, (one,)) for one in recipients]
        elif recipients:
            found.append(Receipt(channel, "", audience.name, audience.locale, recipients))
    return found
