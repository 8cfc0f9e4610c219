"""Vehicles: what state the fleet is in, and how much of it is at work."""

from __future__ import annotations

from exporter.tables import Gauge, Table, count, share

__all__ = ["VEHICLES"]

AVAILABLE, IN_USE, *_ = STATUSES = (
    "AVAILABLE",
    "IN_USE",
    "MAINTENANCE",
    "EMERGENCY_MAINTENANCE",
    "BREAKDOWN",
    "OUT_OF_SERVICE",
)

VEHICLES = Table(
    "vehicles",
    STATUSES,
    (
        Gauge("coldchain_vehicles", "Vehicles by status.", count(), by=("status",)),
        Gauge(
            "coldchain_vehicles_utilization_ratio",
            "Vehicles IN_USE among all vehicles; absent when there are none.",
            share(IN_USE),
        ),
        Gauge(
            "coldchain_vehicles_active",
            "Vehicles AVAILABLE or IN_USE whose is_active is set.",
            count(),
            status=(AVAILABLE, IN_USE),
            where="is_active",
            exported=False,
        ),
    ),
)
