"""Notifications for tests, one keyword a deviation from the ordinary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from receiver.notification import Alert, Notification
from receiver.outbox import Claim, Recipient
from receiver.routing import Audience, Route, Routing

NOW = datetime(2026, 1, 27, 13, 0, tzinfo=UTC)  # 22:00 in Seoul
WINDOW = timedelta(minutes=20)
DAY = timedelta(hours=24)

AUDIENCE = Audience(
    "default",
    "ko",
    {"email": ("a@example.com", "b@example.com"), "slack": ("default",), "sms": ("01012345678", "01087654321")},
)
DEFAULT_ROUTE = Route(
    "default",
    ("default",),
    {"info": ("slack",), "warning": ("email", "slack"), "critical": ("email", "sms", "slack")},
)
ROUTING = Routing(audiences={"default": AUDIENCE}, default=DEFAULT_ROUTE, one_by_one=frozenset({"slack"}))


def alert(
    fingerprint: str = "f1",
    *,
    name: str = "ColdChainCpuHigh",
    severity: str | None = "critical",
    category: str = "system",
    summary: str = "CPU 사용률 높음",
    description: str = "CPU 사용률이 95.3%로 매우 높습니다",
    resolved_after: timedelta | None = None,
    starts_at: datetime = NOW,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
) -> Alert:
    """One that fires, or has resolved `resolved_after` its start."""
    own = {"alertname": name, "category": category, "instance": "dispatch-1", "job": "coldchain-exporter"}
    return Alert(
        fingerprint=fingerprint,
        firing=resolved_after is None,
        starts_at=starts_at,
        ends_at=starts_at + resolved_after if resolved_after is not None else None,
        labels=own | ({"severity": severity} if severity is not None else {}) | (labels or {}),
        annotations={"summary": summary, "description": description} | (annotations or {}),
        generator_url="http://prometheus.example:9090/graph",
    )


def notification(*alerts: Alert, group_key: str = "{}:{}", truncated: int = 0, reason: str = "") -> Notification:
    """Of one critical alert if none is given."""
    return Notification(group_key=group_key, alerts=alerts or (alert(),), truncated=truncated, reason=reason)


def claim(*states: str, addresses: Sequence[str] = "abcdef", **deviations: Any) -> Claim:
    """A first attempt at a delivery by email, its recipients in these states."""
    ordinary: dict[str, Any] = {
        "id": 1,
        "notification_id": 1,
        "channel": "email",
        "lane": "",
        "audience": "default",
        "locale": "ko",
        "thread": "t",
        "severity": "critical",
        "attempts": 0,
        "created_at": NOW,
        "claimed_at": NOW,
        "give_up_at": NOW + DAY,
        "unanswered_since": None,
        "recipients": tuple(
            Recipient(n, address, state) for n, (address, state) in enumerate(zip(addresses, states, strict=False))
        ),
        "notification": notification(),
    }
    return Claim(**(ordinary | deviations))


def payload(alerts: Sequence[dict[str, Any]] | None = None, **root: Any) -> dict[str, Any]:
    """A body as Alertmanager posts it; None takes a field away."""
    document = {
        "version": "4",
        "groupKey": "{}:{}",
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "r",
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.example:9093",
        "alerts": [payload_alert()] if alerts is None else list(alerts),
    } | root
    return {key: value for key, value in document.items() if value is not None}


def payload_alert(fingerprint: str = "f1", severity: str | None = "warning", **fields: Any) -> dict[str, Any]:
    """One alert of a payload; None takes a field away."""
    document = {
        "status": "firing",
        "fingerprint": fingerprint,
        "labels": {"alertname": "ColdChainOrdersWaiting", "category": "business"}
        | ({"severity": severity} if severity is not None else {}),
        "annotations": {
            "summary": "배차 대기 주문 많음",
            "description": "2시간 이상 배차 대기 중인 주문이 11건 있습니다",
        },
        "startsAt": "2026-01-27T13:00:00Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example:9090/graph",
    } | fields
    return {key: value for key, value in document.items() if value is not None}


def body(alerts: Sequence[dict[str, Any]] | None = None, **root: Any) -> bytes:
    """`payload` as bytes."""
    return json.dumps(payload(alerts, **root), ensure_ascii=False).encode()
