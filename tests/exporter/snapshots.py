"""Snapshots by hand: what each source has found, as of monotonic second 100."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from exporter.families import Family
from exporter.settings import ExporterSettings
from exporter.snapshot import Snapshot, SourceState

NOW = 100.0
MOMENT = datetime(2026, 1, 27, 13, 0, tzinfo=UTC)
"""22:00 in Seoul."""

Samples = Mapping[Any, float]
Figures = Mapping[str, float | Samples]

GIB, MIB = 2**30, 2**20

HOST: Figures = {
    "coldchain_host_cpu_usage_ratio": 0.253,
    "coldchain_host_cpus": 8,
    "coldchain_host_memory_total_bytes": 16 * GIB,
    "coldchain_host_memory_used_bytes": 7.3 * GIB,
    "coldchain_host_memory_available_bytes": 8.7 * GIB,
    "coldchain_host_memory_usage_ratio": 7.3 / 16,
    "coldchain_host_filesystem_size_bytes": {("/",): 500 * GIB, ("/data",): 2000 * GIB},
    "coldchain_host_filesystem_used_bytes": {("/",): 310.2 * GIB, ("/data",): 20 * GIB},
    "coldchain_host_filesystem_available_bytes": {("/",): 189.8 * GIB, ("/data",): 1980 * GIB},
    "coldchain_host_filesystem_usage_ratio": {("/",): 310.2 / 500, ("/data",): 0.01},
    "coldchain_host_network_receive_bytes_total": {("eth0",): 2340 * MIB, ("lo",): 0.67 * MIB},
    "coldchain_host_network_transmit_bytes_total": {("eth0",): 1249.78 * MIB, ("lo",): 0.67 * MIB},
}
DATABASE: Figures = {"coldchain_database_response_seconds": 0.04523}
ORDERS: Figures = {
    "coldchain_orders": {
        ("24h", "pending"): 12,
        ("24h", "assigned"): 45,
        ("24h", "in_transit"): 38,
        ("24h", "delivered"): 48,
        ("24h", "cancelled"): 2,
        ("1h", "pending"): 1,
        ("168h", "pending"): 500,
    },
    "coldchain_orders_24h": 145,
    "coldchain_orders_waiting": 0,
    "coldchain_orders_processing_seconds_mean": {("24h",): 6.5 * 3600},
}
DISPATCHES: Figures = {
    "coldchain_dispatches": {
        ("24h", "draft"): 5,
        ("24h", "confirmed"): 20,
        ("24h", "in_progress"): 30,
        ("24h", "completed"): 12,
        ("24h", "cancelled"): 0,
    },
    "coldchain_dispatches_active": 23,
    "coldchain_dispatches_overdue": 0,
    "coldchain_dispatches_distance_meters_mean": {("24h",): 42500},
}
VEHICLES: Figures = {
    "coldchain_vehicles": {
        ("available",): 27,
        ("in_use",): 20,
        ("maintenance",): 1,
        ("emergency_maintenance",): 1,
        ("breakdown",): 1,
        ("out_of_service",): 0,
    },
    "coldchain_vehicles_utilization_ratio": 0.4,
    "coldchain_vehicles_active": 45,
}


def found(name: str, figures: Figures) -> SourceState:
    """A source that has just been looked at with success, and is fresh until second 175."""
    families = []
    for family, samples in figures.items():
        by: Samples = samples if isinstance(samples, Mapping) else {(): samples}
        labels = tuple(f"label{number}" for number in range(len(next(iter(by), ()))))
        families.append(Family(family, "", labels, by))
    return SourceState(
        name, 15, 5, tuple(families), succeeded_at=MOMENT, fresh_until=175.0, looked_at=MOMENT, duration=0.1
    )


def failing(state: SourceState, error: str = "connection refused", hint: str = "") -> SourceState:
    """The same after a look that failed."""
    return replace(state, error=error, hint=hint)


def stale(state: SourceState, error: str = "connection refused", hint: str = "") -> SourceState:
    """The same when what it found has become too old."""
    return replace(failing(state, error, hint), fresh_until=50.0)


STATES = {
    "host": found("host", HOST),
    "database": found("database", DATABASE),
    "orders": found("orders", ORDERS),
    "dispatches": found("dispatches", DISPATCHES),
    "vehicles": found("vehicles", VEHICLES),
}


def snapshot(settings: ExporterSettings | None = None, /, **changed: SourceState | Figures | None) -> Snapshot:
    """All is well but for what is `changed`: figures on top of a source's own, a state of its, or None for off."""
    states = dict(STATES)
    for name, change in changed.items():
        if change is None:
            del states[name]
        elif isinstance(change, SourceState):
            states[name] = change
        else:
            own = {family.name: family.samples for family in STATES[name].families}
            states[name] = found(name, {**own, **change})
    return Snapshot(MappingProxyType(states), settings or ExporterSettings())
