"""Who gets which alert, by which channel and when: a notification in, its deliveries out. Touches nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeAlias

from receiver.matchers import Matcher
from receiver.notification import SEVERITIES, Alert, Notification, Severity, highest
from receiver.schedules import Schedule

__all__ = [
    "Audience",
    "Earlier",
    "Identity",
    "Moment",
    "PlannedDelivery",
    "Quiet",
    "QuietRule",
    "Receipt",
    "Route",
    "Routing",
    "Taken",
    "identity",
    "plan",
    "planner",
]

Identity: TypeAlias = tuple[str, datetime]
"""An alert from its start to its end: fingerprint and start."""

_LONGEST_QUIET = timedelta(days=31)  # beyond it nobody waits for the end of the quiet time


@dataclass(frozen=True)
class Audience:
    """A group of recipients, by channel; a channel that is off is not there."""

    name: str
    locale: str
    recipients: Mapping[str, tuple[str, ...]]
    on_duty: Schedule | None = None
    """When it is told of what begins; None: at any time."""


@dataclass(frozen=True)
class Route:
    """Takes the alerts that all its matchers match, and hands them to its audiences."""

    name: str
    audiences: tuple[str, ...]
    channels: Mapping[Severity, tuple[str, ...]]
    matchers: tuple[Matcher, ...] = ()
    goes_on: bool = False
    """Whether the routes after it are asked as well."""


@dataclass(frozen=True)
class QuietRule:
    """What is not told at certain times, but held back until they are over (`hold`) or not told at all."""

    name: str
    schedule: Schedule
    channels: frozenset[str]
    severities: frozenset[Severity]
    audiences: frozenset[str] | None = None
    hold: bool = True


@dataclass(frozen=True)
class Routing:
    """Everything that decides who is told of what."""

    audiences: Mapping[str, Audience]
    default: Route
    """Takes what no route takes, and what reaches nobody."""
    routes: tuple[Route, ...] = ()
    quiet: tuple[QuietRule, ...] = ()
    one_by_one: frozenset[str] = frozenset()
    """Channels that tell each recipient by a message of its own, each with its own pace."""
    off: frozenset[str] = frozenset()
    """Channels that are not told of anything."""
    silent_when_resolved: frozenset[str] = frozenset()
    """Channels that are not told of the end."""

    def by_channels(self, channels: Sequence[str]) -> Routing:
        """The same audiences, told by these channels whatever the severity."""
        by_all: dict[Severity, tuple[str, ...]] = {severity: tuple(channels) for severity in SEVERITIES}
        return replace(
            self,
            default=replace(self.default, channels=by_all),
            routes=tuple(replace(route, channels=by_all) for route in self.routes),
        )


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
class Quiet:
    """Why a message is not sent now; `until` None: never."""

    rule: str
    until: datetime | None


@dataclass(frozen=True)
class PlannedDelivery:
    """One message to be sent by one channel to one group of recipients."""

    to: Receipt
    positions: tuple[int, ...]
    """Which of the notification's alerts it tells."""
    severity: Severity
    firing: bool
    quiet: Quiet | None = None


@dataclass(frozen=True)
class Taken:
    """What the routes make of an alert."""

    routes: tuple[str, ...]
    receipts: tuple[Receipt, ...]
    off_duty: tuple[str, ...] = ()
    """Audiences that would have been told at another time."""


@dataclass
class _Draft:
    positions: list[int] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)


def identity(alert: Alert) -> Identity:
    """What the alert is known by, here and at Alertmanager."""
    return alert.fingerprint, alert.starts_at


def plan(notification: Notification, routing: Routing, earlier: Earlier, now: datetime) -> list[PlannedDelivery]:
    """Routes alert by alert: each by its own labels, a resolved one to those who got it while it fired."""
    moment = Moment(routing, now)
    drafts: dict[tuple[Receipt, Quiet | None], _Draft] = {}
    for position, alert in enumerate(notification.alerts):
        if alert.is_heartbeat or alert.severity == "none":
            continue
        for receipt in _receipts(alert, moment, earlier):
            quiet = moment.quiet(receipt.channel, receipt.audience, alert.severity)
            draft = drafts.setdefault((receipt, quiet), _Draft())
            draft.positions.append(position)
            draft.alerts.append(alert)
    return [
        PlannedDelivery(
            to=receipt,
            positions=tuple(draft.positions),
            severity=highest(alert.severity for alert in draft.alerts),
            firing=any(alert.firing for alert in draft.alerts),
            quiet=quiet,
        )
        for (receipt, quiet), draft in drafts.items()
    ]


def planner(notification: Notification, routing: Routing, now: datetime) -> Callable[[Earlier], list[PlannedDelivery]]:
    """`plan` but for what only the store knows."""
    return lambda earlier: plan(notification, routing, earlier, now)


def _receipts(alert: Alert, moment: Moment, earlier: Earlier) -> Sequence[Receipt]:
    if alert.firing:
        return moment.take(alert).receipts
    known = earlier.get(identity(alert))
    found = moment.take(alert).receipts if known is None else known
    silent = moment.routing.off | moment.routing.silent_when_resolved
    return [receipt for receipt in found if receipt.channel not in silent]


class Moment:
    """The routing at one time. What is the same for many alerts is worked out once."""

    def __init__(self, routing: Routing, now: datetime) -> None:
        self.routing = routing
        self._now = now
        self._taken: dict[tuple[tuple[str, ...], Severity], Taken] = {}
        self._quiet: dict[tuple[str, str, Severity], Quiet | None] = {}

    def take(self, alert: Alert) -> Taken:
        """Who is told of a firing alert.

        The label `severity` reads as the receiver understands it: warning where it is missing or unknown.
        """
        labels = {**alert.labels, "severity": alert.severity}
        routes = list(self._matching(labels)) or [self.routing.default]
        key = tuple(route.name for route in routes), alert.severity
        if key not in self._taken:
            self._taken[key] = self._ask(routes, alert.severity)
        return self._taken[key]

    def quiet(self, channel: str, audience: str, severity: Severity) -> Quiet | None:
        """Whether and until when such a message is to wait; None: it is sent at once."""
        key = channel, audience, severity
        if key not in self._quiet:
            self._quiet[key] = self._find_quiet(*key)
        return self._quiet[key]

    def reach(self, audience: str, channel: str, told: Iterable[tuple[str, str]] = ()) -> Sequence[Receipt]:
        """Everybody of an audience by one channel, whoever is on duty; nobody where the audience is no more.

        `told` are left out: channel and address.
        """
        known = self.routing.audiences.get(audience)
        return tuple(self._tell(known, (channel,), set(told))) if known is not None else ()

    def _matching(self, labels: Mapping[str, str]) -> Iterator[Route]:
        for route in self.routing.routes:
            if all(matcher.matches(labels) for matcher in route.matchers):
                yield route
                if not route.goes_on:
                    return

    def _ask(self, routes: Sequence[Route], severity: Severity) -> Taken:
        off_duty: list[str] = []
        receipts: list[Receipt] = []
        told: set[tuple[str, str]] = set()
        for route in routes:
            for name in route.audiences:
                audience = self.routing.audiences[name]
                if audience.on_duty is None or audience.on_duty.covers(self._now):
                    receipts += self._tell(audience, route.channels.get(severity, ()), told)
                elif name not in off_duty:
                    off_duty.append(name)
        default = self.routing.default
        if not receipts and default not in routes:
            caught = self._ask([default], severity)
            return Taken((*(route.name for route in routes), default.name), caught.receipts, tuple(off_duty))
        return Taken(tuple(route.name for route in routes), tuple(receipts), tuple(off_duty))

    def _tell(self, audience: Audience, channels: Sequence[str], told: set[tuple[str, str]]) -> Iterator[Receipt]:
        """Nobody is told twice by the same channel, whatever groups they are in."""
        for channel in channels:
            recipients = tuple(one for one in audience.recipients.get(channel, ()) if (channel, one) not in told)
            told |= {(channel, one) for one in recipients}
            if channel in self.routing.one_by_one:
                for one in recipients:
                    yield Receipt(channel, one, audience.name, audience.locale, (one,))
            elif recipients:
                yield Receipt(channel, "", audience.name, audience.locale, recipients)

    def _find_quiet(self, channel: str, audience: str, severity: Severity) -> Quiet | None:
        rules = [
            rule
            for rule in self.routing.quiet
            if channel in rule.channels
            and severity in rule.severities
            and (rule.audiences is None or audience in rule.audiences)
        ]
        first: QuietRule | None = None
        time = self._now
        while time < self._now + _LONGEST_QUIET:
            rule = next((rule for rule in rules if rule.schedule.covers(time)), None)
            if rule is None or (first is not None and not rule.hold):
                break
            first = first or rule
            if not rule.hold:
                return Quiet(rule.name, None)
            time = rule.schedule.ends(time)
        return Quiet(first.name, time) if first is not None else None
