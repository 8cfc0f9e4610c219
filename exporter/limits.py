"""The limits, in one place: alerts, exported thresholds and dashboards all follow them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from exporter.families import Family
from serving.settings import Settings

__all__ = ["Thresholds", "threshold_family"]


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
