"""The limits, in one place, and who passes them: alerts, exported thresholds and dashboards all follow them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from exporter.families import Family
from serving.settings import Settings

if TYPE_CHECKING:
    from exporter.snapshot import Snapshot  # which holds the settings, and they the thresholds

__all__ = ["Alert", "Category", "Severity", "Thresholds", "judge", "threshold_family"]

Severity = Literal["critical", "warning", "info"]
Category = Literal["system", "database", "business"]


def _off(value: object) -> object:
    # YAML 1.1 reads a bare `off` as false
    return None if value is False or value == "off" else value


def _ratio(value: float | None) -> float | None:
    if value is not None and not 0 <= value <= 1:
        raise ValueError("a ratio between 0 and 1 (0.9 is 90 %), or off")
    return value


def _not_negative(value: float | None) -> float | None:
    if value is not None and not 0 <= value < math.inf:
        raise ValueError("a number from 0 on, or off")
    return value


Ratio = Annotated[float | None, BeforeValidator(_off), AfterValidator(_ratio)]
Amount = Annotated[float | None, BeforeValidator(_off), AfterValidator(_not_negative)]


class _Limits(Settings):
    """The limits of one alert by severity; None is off. `off` for the whole alert switches each of them off."""

    @model_validator(mode="before")
    @classmethod
    def _whole_alert_off(cls, value: Any) -> Any:
        if value is None or value is False or value == "off":
            return dict.fromkeys(cls.model_fields)
        return value

    @model_validator(mode="after")
    def _warning_comes_first(self) -> _Limits:
        warning, critical = getattr(self, "warning", None), getattr(self, "critical", None)
        if warning is not None and critical is not None and warning > critical:
            raise ValueError(f"warning ({warning:g}) is above critical ({critical:g}): it would never come first")
        return self


class _Usage(_Limits):
    warning: Ratio = 0.7
    critical: Ratio = 0.9


class _Disk(_Limits):
    warning: Ratio = 0.8
    critical: Ratio = 0.9


class _Response(_Limits):
    warning: Amount = 0.5
    critical: Amount = 1.0


class _Waiting(_Limits):
    warning: Amount = 10


class _Overdue(_Limits):
    warning: Amount = 5


class _Utilization(_Limits):
    info: Ratio = 0.3


class Thresholds(Settings):
    """`thresholds:`, by alert and severity; the units are those of the series that each alert watches."""

    ColdChainCpuHigh: _Usage = Field(default_factory=_Usage)
    ColdChainMemoryHigh: _Usage = Field(default_factory=_Usage)
    ColdChainDiskHigh: _Disk = Field(default_factory=_Disk)
    ColdChainDatabaseSlow: _Response = Field(default_factory=_Response)
    ColdChainOrdersWaiting: _Waiting = Field(default_factory=_Waiting)
    ColdChainDispatchesOverdue: _Overdue = Field(default_factory=_Overdue)
    ColdChainVehicleUtilizationLow: _Utilization = Field(default_factory=_Utilization)

    def items(self) -> Iterator[tuple[str, str, float]]:
        """Alert, severity and limit of each; one that is off is +Inf, or -Inf for a lower limit: nothing passes it."""
        for alert in type(self).model_fields:
            limits: _Limits = getattr(self, alert)
            off = -math.inf if alert in LOWER else math.inf
            for severity in type(limits).model_fields:
                limit: float | None = getattr(limits, severity)
                yield alert, severity, off if limit is None else limit


LOWER = frozenset({"ColdChainVehicleUtilizationLow"})
"""Alerts on what falls below their limit; the others are on what rises above it."""


def threshold_family(thresholds: Thresholds) -> Family:
    """`coldchain_alert_threshold`, which the Prometheus rules compare with."""
    return Family(
        "coldchain_alert_threshold",
        "The limits in force, in the unit of the series that each alert watches; +Inf (-Inf for a lower limit) when "
        "switched off.",
        ("alert", "severity"),
        {(alert, severity): limit for alert, severity, limit in thresholds.items()},
    )


@dataclass(frozen=True)
class Alert:
    """A limit that is passed, or the database that is down."""

    name: str
    severity: Severity
    category: Category
    value: float | None = None
    """In the unit of the limit; None where there is nothing to measure."""
    labels: tuple[str, ...] = ()
    """Of the sample that passed: the mount of a disk."""


@dataclass(frozen=True)
class _Watched:
    """Where the figure is found that an alert's limits are compared with."""

    category: Category
    source: str
    family: str


_WATCHED = {
    "ColdChainCpuHigh": _Watched("system", "host", "coldchain_host_cpu_usage_ratio"),
    "ColdChainMemoryHigh": _Watched("system", "host", "coldchain_host_memory_usage_ratio"),
    "ColdChainDiskHigh": _Watched("system", "host", "coldchain_host_filesystem_usage_ratio"),
    "ColdChainDatabaseSlow": _Watched("database", "database", "coldchain_database_response_seconds"),
    "ColdChainOrdersWaiting": _Watched("business", "orders", "coldchain_orders_waiting"),
    "ColdChainDispatchesOverdue": _Watched("business", "dispatches", "coldchain_dispatches_overdue"),
    "ColdChainVehicleUtilizationLow": _Watched("business", "vehicles", "coldchain_vehicles_utilization_ratio"),
}
_SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")


def judge(snapshot: Snapshot, limits: Thresholds, now: float) -> tuple[Alert, ...]:
    """The alerts at monotonic time `now`, the gravest first; one a cause, with its highest severity, and at once.

    Judged is what may be shown: a source that is stale or off has no alerts.
    """
    found: list[Alert] = []
    database = snapshot.states.get("database")
    if database is not None and database.up(now) is False:
        found.append(Alert("ColdChainDatabaseDown", "critical", "database"))
    in_force = {(alert, severity): limit for alert, severity, limit in limits.items()}
    for name, watched in _WATCHED.items():
        for family in snapshot.shown(watched.source, now) or ():
            for labels, value in family.samples.items() if family.name == watched.family else ():
                severity = _highest(name, value, in_force)
                if severity is not None:
                    found.append(Alert(name, severity, watched.category, value, labels))
    return tuple(sorted(found, key=lambda alert: _SEVERITIES.index(alert.severity)))


def _highest(name: str, value: float, limits: dict[tuple[str, str], float]) -> Severity | None:
    for severity in _SEVERITIES:
        limit = limits.get((name, severity))
        if limit is not None and (value < limit if name in LOWER else value > limit):
            return severity
    return None
