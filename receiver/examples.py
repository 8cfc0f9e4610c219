"""Notifications to try words on: every state that a message can tell of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from receiver.notification import Alert, Notification, Severity

__all__ = ["EXAMPLES"]

_BEGAN = datetime(2026, 1, 27, 13, 0, tzinfo=UTC)
_LINKS = {
    "runbook_url": "https://docs.example.com/runbooks/ko/example.md",
    "runbook_url_en": "https://docs.example.com/runbooks/en/example.md",
    "dashboard_url": "https://grafana.example.com/d/coldchain",
}


def _alert(
    severity: Severity, category: str, name: str, summary: tuple[str, str], description: tuple[str, str]
) -> Alert:
    labels = {"alertname": name, "severity": severity, "category": category, "instance": "dispatch-1"}
    words = {"summary": summary[0], "summary_en": summary[1], "description": description[0]}
    return Alert(
        f"{name}-{severity}",
        firing=True,
        starts_at=_BEGAN,
        labels=labels,
        annotations={**words, "description_en": description[1], **_LINKS},
        generator_url="http://prometheus.example.com:9090/graph",
    )


_CPU = _alert(
    "critical",
    "system",
    "ColdChainCpuHigh",
    ("CPU 사용률 높음", "CPU usage high"),
    ("CPU 사용률이 95.3%로 매우 높습니다", "CPU usage is very high at 95.3%"),
)
_ORDERS = _alert(
    "warning",
    "business",
    "ColdChainOrdersWaiting",
    ("배차 대기 주문 많음", "Many orders waiting"),
    ("2시간 이상 배차 대기 중인 주문이 12건 있습니다", "12 orders have been waiting for dispatch for over 2 hours"),
)
_VEHICLES = _alert(
    "info",
    "business",
    "ColdChainVehicleUtilizationLow",
    ("차량 활용률 낮음", "Vehicle utilization low"),
    ("차량 활용률이 28.5%로 낮습니다", "Vehicle utilization is low at 28.5%"),
)
_DISKS = [
    replace(
        _alert(
            "warning",
            "system",
            "ColdChainDiskHigh",
            ("디스크 사용률 주의", "Disk usage elevated"),
            (f"{mount} 디스크 사용률이 {percent}%입니다", f"Disk usage of {mount} is {percent}%"),
        ),
        fingerprint=mount,
        labels={"alertname": "ColdChainDiskHigh", "severity": "warning", "category": "system", "mountpoint": mount},
    )
    for mount, percent in (("/", 85.1), ("/var", 82.0), ("/srv", 81.4))
]


def _ended(alert: Alert, after: timedelta = timedelta(minutes=12)) -> Alert:
    return replace(alert, firing=False, ends_at=alert.starts_at + after)


def _notification(*alerts: Alert, truncated: int = 0) -> Notification:
    return Notification("{}:{}", alerts, truncated, external_url="http://alertmanager.example.com:9093")


EXAMPLES: Mapping[str, Notification] = {
    "critical": _notification(_CPU),
    "warning": _notification(_ORDERS),
    "info": _notification(_VEHICLES),
    "resolved": _notification(_ended(_ORDERS)),
    "several": _notification(*_DISKS),
    "mixed": _notification(_DISKS[0], _DISKS[1], _ended(_DISKS[2])),
    "several-resolved": _notification(*(_ended(disk, timedelta(days=1, hours=3)) for disk in _DISKS)),
    "truncated": _notification(*_DISKS, truncated=1_234),
    "bare": Notification("{}:{}", (Alert("bare", firing=True, starts_at=_BEGAN, labels={"alertname": "Bare"}),)),
    "held": _notification(_CPU, _ORDERS, _ended(_VEHICLES)),
}
"""By the name of their state; `held` is told as what quiet hours held back."""
