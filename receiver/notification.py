"""What travels through the receiver: a notification and its alerts, as facts without words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

__all__ = ["SEVERITIES", "Alert", "Notification", "Severity", "highest", "masked"]

Severity: TypeAlias = Literal["none", "info", "warning", "critical"]

SEVERITIES: tuple[Severity, ...] = ("none", "info", "warning", "critical")
"""From the least to the most urgent; `none` is never delivered."""

_KNOWN: Mapping[str, Severity] = {severity: severity for severity in SEVERITIES}

HEARTBEAT = "ColdChainWatchdog"


def highest(severities: Iterable[Severity]) -> Severity:
    """The most urgent of them, `none` where there are none."""
    return max(severities, key=SEVERITIES.index, default="none")


def masked(address: str) -> str:
    """Enough of a recipient's address to know it by in a log or on a page, not enough to use it."""
    if "@" in address:
        name, _, domain = address.partition("@")
        return f"{name[:2]}***@{domain}"
    if address.isdigit() and len(address) >= 8:
        return f"{address[:3]}****{address[-4:]}"
    return address


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert; its times are aware and in UTC, `ends_at` is None while it fires."""

    fingerprint: str
    firing: bool
    starts_at: datetime
    ends_at: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    generator_url: str = ""

    @property
    def name(self) -> str:
        return self.labels.get("alertname", "")

    @property
    def severity(self) -> Severity:
        """A missing or unknown one counts as warning: better one message too many."""
        value = self.labels.get("severity", "")
        return _KNOWN.get(value) or _KNOWN.get(value.strip().lower(), "warning")

    @property
    def is_heartbeat(self) -> bool:
        """Whether it only says that the monitoring is alive."""
        return self.name == HEARTBEAT


@dataclass(frozen=True, slots=True)
class Notification:
    """A group of alerts as Alertmanager told it, or a message that a program asked to send."""

    group_key: str
    alerts: tuple[Alert, ...]
    truncated: int = 0
    """How many alerts of the group Alertmanager left out."""
    reason: str = ""
    group_labels: Mapping[str, str] = field(default_factory=dict)
    external_url: str = ""

    @property
    def severity(self) -> Severity:
        """The most urgent of its alerts'."""
        return highest(alert.severity for alert in self.alerts)

    @property
    def firing(self) -> bool:
        """Whether any of its alerts fires; the root `status` of the payload says otherwise where it was truncated."""
        return any(alert.firing for alert in self.alerts)
