"""From the snapshot to the guide's documents; Korean labels, percentages and local time begin here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from exporter.documents import (
    AlertDocument,
    Alerts,
    ApplicationCheck,
    Dashboard,
    DatabaseCheck,
    Dispatches,
    Error,
    Health,
    Metrics,
    Orders,
    ResourcesCheck,
    Status,
    System,
    Vehicles,
)
from exporter.families import Family, family_of
from exporter.limits import Alert, Category, judge
from exporter.periods import OFF, Answer
from exporter.snapshot import Snapshot

__all__ = ["alerts", "dashboard", "health", "metrics", "present"]

ORDER_LABELS = {
    "pending": "배차대기",
    "assigned": "배차완료",
    "in_transit": "운송중",
    "delivered": "배송완료",
    "cancelled": "취소",
}
DISPATCH_LABELS = {
    "draft": "임시저장",
    "confirmed": "확정",
    "in_progress": "진행중",
    "completed": "완료",
    "cancelled": "취소",
}
RECENT = 5
BUSINESS = ("orders", "dispatches", "vehicles")


@dataclass(frozen=True)
class _Words:
    """An alert's titles and messages, by severity."""

    titles: Mapping[str, str]
    messages: Mapping[str, Callable[[Alert, Snapshot], str]]


def _usage(subject: str, title: str, grave_title: str) -> _Words:
    def share(alert: Alert) -> str:
        return f"{subject.format(*alert.labels)} 사용률이 {(alert.value or 0) * 100:.1f}%"

    return _Words(
        {"warning": title, "critical": grave_title},
        {
            "warning": lambda alert, _: f"{share(alert)}입니다",
            "critical": lambda alert, _: f"{share(alert)}로 매우 높습니다",
        },
    )


_WORDS = {
    "ColdChainCpuHigh": _usage("CPU", "CPU 사용률 주의", "CPU 사용률 높음"),
    "ColdChainMemoryHigh": _usage("메모리", "메모리 사용률 주의", "메모리 부족"),
    "ColdChainDiskHigh": _usage("디스크({})", "디스크 사용률 주의", "디스크 공간 부족"),
    "ColdChainDatabaseDown": _Words(
        {"critical": "데이터베이스 연결 실패"}, {"critical": lambda *_: "데이터베이스에 연결할 수 없습니다"}
    ),
    "ColdChainDatabaseSlow": _Words(
        {"warning": "데이터베이스 응답 지연", "critical": "데이터베이스 응답 느림"},
        {
            "warning": lambda alert, _: f"데이터베이스 응답 시간이 {(alert.value or 0) * 1000:.0f}ms입니다",
            "critical": lambda alert, _: f"데이터베이스 응답 시간이 {(alert.value or 0) * 1000:.0f}ms로 매우 느립니다",
        },
    ),
    "ColdChainOrdersWaiting": _Words(
        {"warning": "배차 대기 주문 많음"},
        {
            "warning": lambda alert, snapshot: (
                f"{_duration(snapshot.settings.orders_waiting_after)} 이상 배차 대기 중인 주문이 "
                f"{alert.value or 0:.0f}건 있습니다"
            )
        },
    ),
    "ColdChainDispatchesOverdue": _Words(
        {"warning": "지연된 배차 발견"},
        {"warning": lambda alert, _: f"예정일을 넘긴 진행 중 배차가 {alert.value or 0:.0f}건 있습니다"},
    ),
    "ColdChainVehicleUtilizationLow": _Words(
        {"info": "차량 활용률 낮음"},
        {"info": lambda alert, _: f"차량 활용률이 {(alert.value or 0) * 100:.1f}%로 낮습니다"},
    ),
}


@dataclass(frozen=True)
class _View:
    """The snapshot at monotonic time `now`."""

    snapshot: Snapshot
    now: float
    moment: datetime
    """The time of a snapshot that tells of no look yet."""

    @cached_property
    def alerts(self) -> tuple[Alert, ...]:
        return judge(self.snapshot, self.snapshot.thresholds, self.now)

    @property
    def timestamp(self) -> str:
        moment = self.snapshot.looked_at or self.moment
        return moment.astimezone(self.snapshot.settings.timezone).isoformat(timespec="seconds")

    def value(self, source: str, name: str, *labels: str) -> float | None:
        """A figure, while it may be shown."""
        return family_of(self.snapshot.shown(source, self.now) or (), name).value(*labels)

    def part(self, category: Category, *sources: str) -> tuple[Status, Error | None]:
        """The status of these sources and of the alerts of their category; why, where there is nothing to show."""
        states = [self.snapshot.states[name] for name in sources if name in self.snapshot.states]
        severities = {alert.severity for alert in self.alerts if alert.category == category}
        silent = [state for state in states if state.shown(self.now) is None]
        error = "; ".join(
            f"{state.name}: {state.trouble(self.now)}" if len(sources) > 1 else f"{state.trouble(self.now)}"
            for state in silent
        )
        if not states:
            return "unknown", None
        if "critical" in severities:
            return "unhealthy", error or None
        return ("degraded" if silent or "warning" in severities else "healthy"), error or None


def health(snapshot: Snapshot, now: float, moment: datetime) -> Health:
    """`GET health` at monotonic time `now`; `moment` is its timestamp as long as nothing was looked at."""
    view = _View(snapshot, now, moment)
    database, resources, application = _database(view), _resources(view), _application(view)
    return {
        "status": _worst(part["status"] for part in (database, resources, application)),
        "timestamp": view.timestamp,
        "checks": {"database": database, "system_resources": resources, "application": application},
    }


def metrics(
    snapshot: Snapshot, period_hours: int, answers: Mapping[str, Answer], now: float, moment: datetime
) -> Metrics:
    """`GET metrics`: orders and dispatches from `answers`, which are of that period, and the rest from the snapshot."""
    window = f"{period_hours}h"
    found = {
        "orders": answers["orders"],
        "dispatches": answers["dispatches"],
        "vehicles": _present(snapshot, "vehicles", now),
        "system": _present(snapshot, "host", now),
    }
    orders, dispatches, vehicles, system = (answer.families for answer in found.values())
    document: Metrics = {
        "period_hours": period_hours,
        "timestamp": _View(snapshot, now, moment).timestamp,
        "orders": _orders(orders, window) if orders is not None else None,
        "dispatches": _dispatches(dispatches, window) if dispatches is not None else None,
        "vehicles": _vehicles(vehicles) if vehicles is not None else None,
        "system": _system(system, snapshot.settings.disk.mountpoint) if system is not None else None,
    }
    errors = {name: answer.error or "" for name, answer in found.items() if answer.families is None}
    if errors:
        document["errors"] = errors
    return document


def present(snapshot: Snapshot, now: float) -> dict[str, Answer]:
    """The answers for `metrics` that the snapshot itself has: those of the windows that are configured."""
    return {source: _present(snapshot, source, now) for source in ("orders", "dispatches")}


def alerts(snapshot: Snapshot, now: float, moment: datetime) -> Alerts:
    """`GET alerts`."""
    view = _View(snapshot, now, moment)
    return {"total": len(view.alerts), "alerts": _alerts(view, view.alerts)}


def dashboard(snapshot: Snapshot, now: float, moment: datetime) -> Dashboard:
    """`GET dashboard`: the others in short."""
    view = _View(snapshot, now, moment)
    database, resources, application = _database(view), _resources(view), _application(view)
    levels = Counter(alert.severity for alert in view.alerts)
    return {
        "timestamp": view.timestamp,
        "health": {
            "status": _worst(part["status"] for part in (database, resources, application)),
            "database": database["status"],
            "resources": resources["status"],
            "application": application["status"],
        },
        "metrics": {
            "orders_24h": application["recent_orders_24h"],
            "active_dispatches": application["active_dispatches"],
            "vehicle_utilization": _percent(view.value("vehicles", "coldchain_vehicles_utilization_ratio")),
            "cpu_percent": resources["cpu_percent"],
            "memory_percent": resources["memory_percent"],
            "disk_percent": resources["disk_percent"],
        },
        "alerts": {
            "total": len(view.alerts),
            "by_level": {"critical": levels["critical"], "warning": levels["warning"], "info": levels["info"]},
            "recent": _alerts(view, view.alerts[:RECENT]),
        },
    }


def _worst(statuses: Iterable[Status]) -> Status:
    found = set(statuses)
    order: tuple[Status, ...] = ("unhealthy", "degraded", "healthy")
    return next((status for status in order if status in found), "unknown")


def _database(view: _View) -> DatabaseCheck:
    status, error = view.part("database", "database")
    seconds = view.value("database", "coldchain_database_response_seconds")
    if status == "unknown":
        message = "Database is not watched"
    elif seconds is None:
        message = "Database connection failed" if status == "unhealthy" else "Database state is not known"
    else:
        message = "Database connection OK" if status == "healthy" else "Database responds slowly"
    check: DatabaseCheck = {
        "status": status,
        "response_time_ms": None if seconds is None else round(seconds * 1000, 2),
        "message": message,
    }
    if error is not None:
        check["error"] = error
    return check


def _resources(view: _View) -> ResourcesCheck:
    status, error = view.part("system", "host")
    disk = view.snapshot.settings.disk.mountpoint
    check: ResourcesCheck = {
        "status": status,
        "cpu_percent": _percent(view.value("host", "coldchain_host_cpu_usage_ratio")),
        "memory_percent": _percent(view.value("host", "coldchain_host_memory_usage_ratio")),
        "disk_percent": _percent(view.value("host", "coldchain_host_filesystem_usage_ratio", disk)),
        "memory_available_gb": _gigabytes(view.value("host", "coldchain_host_memory_available_bytes")),
        "disk_free_gb": _gigabytes(view.value("host", "coldchain_host_filesystem_available_bytes", disk)),
    }
    if error is not None:
        check["error"] = error
    return check


def _application(view: _View) -> ApplicationCheck:
    status, error = view.part("business", *BUSINESS)
    check: ApplicationCheck = {
        "status": status,
        "recent_orders_24h": _whole(view.value("orders", "coldchain_orders_24h")),
        "active_dispatches": _whole(view.value("dispatches", "coldchain_dispatches_active")),
        "active_vehicles": _whole(view.value("vehicles", "coldchain_vehicles_active")),
    }
    if error is not None:
        check["error"] = error
    return check


def _orders(families: Sequence[Family], window: str) -> Orders:
    by_status = _in_window(families, "coldchain_orders", window)
    total = sum(by_status.values())
    seconds = family_of(families, "coldchain_orders_processing_seconds_mean").value(window)
    return {
        "total": total,
        "by_status": _labelled(by_status, ORDER_LABELS),
        "avg_processing_hours": _divided(seconds, 3600),
        "completion_rate": _percent(by_status.get("delivered", 0) / total if total else None),
    }


def _dispatches(families: Sequence[Family], window: str) -> Dispatches:
    by_status = _in_window(families, "coldchain_dispatches", window)
    meters = family_of(families, "coldchain_dispatches_distance_meters_mean").value(window)
    return {
        "total": sum(by_status.values()),
        "by_status": _labelled(by_status, DISPATCH_LABELS),
        "avg_distance_km": _divided(meters, 1000),
    }


def _vehicles(families: Sequence[Family]) -> Vehicles:
    by_status = {labels[0]: int(value) for labels, value in family_of(families, "coldchain_vehicles").samples.items()}
    total = sum(by_status.values())
    available, in_use = by_status.get("available", 0), by_status.get("in_use", 0)
    return {
        "total": total,
        "available": available,
        "in_use": in_use,
        "maintenance": total - available - in_use,
        "utilization_rate": _percent(family_of(families, "coldchain_vehicles_utilization_ratio").value()),
    }


def _system(families: Sequence[Family], disk: str) -> System:
    def total(name: str) -> float:
        return sum(family_of(families, name).samples.values())

    def memory(name: str) -> float:
        return round(total(f"coldchain_host_memory_{name}_bytes") / 2**30, 2)

    return {
        "cpu": {
            "percent": _percent(family_of(families, "coldchain_host_cpu_usage_ratio").value()),
            "count": int(total("coldchain_host_cpus")),
        },
        "memory": {
            "total_gb": memory("total"),
            "used_gb": memory("used"),
            "available_gb": memory("available"),
            "percent": round(total("coldchain_host_memory_usage_ratio") * 100, 1),
        },
        "disk": {
            "total_gb": _gigabytes(family_of(families, "coldchain_host_filesystem_size_bytes").value(disk)),
            "used_gb": _gigabytes(family_of(families, "coldchain_host_filesystem_used_bytes").value(disk)),
            "free_gb": _gigabytes(family_of(families, "coldchain_host_filesystem_available_bytes").value(disk)),
            "percent": _percent(family_of(families, "coldchain_host_filesystem_usage_ratio").value(disk)),
        },
        "network": {
            "bytes_sent_mb": round(total("coldchain_host_network_transmit_bytes_total") / 2**20, 2),
            "bytes_recv_mb": round(total("coldchain_host_network_receive_bytes_total") / 2**20, 2),
        },
    }


def _alerts(view: _View, found: Sequence[Alert]) -> list[AlertDocument]:
    return [
        {
            "level": alert.severity,
            "category": alert.category,
            "title": _WORDS[alert.name].titles[alert.severity],
            "message": _WORDS[alert.name].messages[alert.severity](alert, view.snapshot),
            "timestamp": view.timestamp,
        }
        for alert in found
    ]


def _present(snapshot: Snapshot, source: str, now: float) -> Answer:
    """What the snapshot has of a source."""
    state = snapshot.states.get(source)
    if state is None:
        return OFF
    return Answer(state.shown(now), state.trouble(now))


def _in_window(families: Sequence[Family], name: str, window: str) -> dict[str, int]:
    return {status: int(value) for (of, status), value in family_of(families, name).samples.items() if of == window}


def _labelled(by_status: Mapping[str, int], labels: Mapping[str, str]) -> dict[str, int]:
    """In the order of the labels; a status without one comes behind them, by the name that the database has for it."""
    known = {text: by_status[status] for status, text in labels.items() if status in by_status}
    return known | {status.upper(): number for status, number in by_status.items() if status not in labels}


def _divided(value: float | None, divisor: float) -> float | None:
    return None if value is None else round(value / divisor, 2)


def _percent(ratio: float | None) -> float | None:
    return None if ratio is None else round(ratio * 100, 1)


def _gigabytes(value: float | None) -> float | None:
    return _divided(value, 2**30)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _duration(value: timedelta) -> str:
    """2시간, or 1시간 30분."""
    minutes, seconds = divmod(int(value.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "시간"), (minutes, "분"), (seconds, "초"))
    return " ".join(f"{number}{unit}" for number, unit in parts if number)
