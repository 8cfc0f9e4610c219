"""The exporter: a host and a dispatch database in, gauges and JSON out. `MonitoringService` is the JSON for Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.service import MonitoringService

__all__ = ["MonitoringService"]


def __getattr__(name: str) -> object:
    if name == "MonitoringService":
        from exporter.service import MonitoringService  # noqa: PLC0415 - every other import of the package is spared it

        return MonitoringService
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
