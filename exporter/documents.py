"""The documents of the JSON API, field for field; the description that is served is made of these."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12 on

__all__ = [
    "AlertDocument",
    "Alerts",
    "Checks",
    "Dashboard",
    "Health",
    "Metrics",
    "Problem",
    "Status",
]

Status = Annotated[
    Literal["healthy", "degraded", "unhealthy", "unknown"],
    Field(description="`unknown` is what is switched off; it does not count."),
]
Level = Literal["critical", "warning", "info"]
Timestamp = Annotated[
    str,
    Field(
        description="When the figures were taken, ISO 8601 with the offset of the business's time zone.",
        json_schema_extra={"format": "date-time"},
    ),
]
Percent = Annotated[float | None, Field(description="To one decimal; null when unknown.")]
Gigabytes = Annotated[float | None, Field(description="2^30 bytes; null when unknown.")]
Megabytes = Annotated[float, Field(description="2^20 bytes since boot, over all devices.")]
Count = Annotated[int | None, Field(description="Null when unknown.")]
Error = Annotated[str, Field(description="Why figures are null, or what fails; absent when all is well.")]


class DatabaseCheck(TypedDict):
    """The database: does it answer, and how fast."""

    status: Status
    response_time_ms: Annotated[float | None, Field(description="Round trip of the last probe; null while down.")]
    message: str
    error: NotRequired[Error]


class ResourcesCheck(TypedDict):
    """The host. The disk is the one that the settings name, `/` unless told; the fullest of all decides the status."""

    status: Status
    cpu_percent: Percent
    memory_percent: Percent
    disk_percent: Percent
    memory_available_gb: Gigabytes
    disk_free_gb: Gigabytes
    error: NotRequired[Error]


class ApplicationCheck(TypedDict):
    """The business."""

    status: Status
    recent_orders_24h: Count
    active_dispatches: Annotated[int | None, Field(description="CONFIRMED and IN_PROGRESS; null when unknown.")]
    active_vehicles: Annotated[
        int | None, Field(description="AVAILABLE and IN_USE with is_active set; null when unknown.")
    ]
    error: NotRequired[Error]


class Checks(TypedDict):
    """The parts that health is made of."""

    database: DatabaseCheck
    system_resources: ResourcesCheck
    application: ApplicationCheck


class Health(TypedDict):
    """`GET health`."""

    status: Annotated[Status, Field(description="The worst of its parts.")]
    timestamp: Timestamp
    checks: Checks


class Orders(TypedDict):
    """Orders created in the period, by present status."""

    total: int
    by_status: Annotated[dict[str, int], Field(description="By Korean label; a status without one by its own name.")]
    avg_processing_hours: Annotated[
        float | None, Field(description="From created_at to updated_at of those DELIVERED; null when none.")
    ]
    completion_rate: Annotated[float | None, Field(description="DELIVERED in percent of total; null when none.")]


class Dispatches(TypedDict):
    """Dispatches created in the period, by present status."""

    total: int
    by_status: Annotated[dict[str, int], Field(description="By Korean label; a status without one by its own name.")]
    avg_distance_km: Annotated[float | None, Field(description="Of those that have a distance; null when none.")]


class Vehicles(TypedDict):
    """The fleet as it is now; available, in_use and maintenance add up to total."""

    total: int
    available: int
    in_use: int
    maintenance: Annotated[int, Field(description="Neither AVAILABLE nor IN_USE.")]
    utilization_rate: Annotated[float | None, Field(description="in_use in percent of total; null when none.")]


class Cpu(TypedDict):
    """All processors together."""

    percent: Percent
    count: int


class Memory(TypedDict):
    """Memory; used is what is not available."""

    total_gb: float
    used_gb: float
    available_gb: float
    percent: float


class Disk(TypedDict):
    """The disk that the settings name, `/` unless told, as df counts; null while it does not answer."""

    total_gb: Gigabytes
    used_gb: Gigabytes
    free_gb: Gigabytes
    percent: Percent


class Network(TypedDict):
    """Traffic since boot."""

    bytes_sent_mb: Megabytes
    bytes_recv_mb: Megabytes


class System(TypedDict):
    """The host as it is now."""

    cpu: Cpu
    memory: Memory
    disk: Disk
    network: Network


class Metrics(TypedDict):
    """`GET metrics`. A section is null when its source has nothing to show; `errors` says why."""

    period_hours: int
    timestamp: Timestamp
    orders: Orders | None
    dispatches: Dispatches | None
    vehicles: Vehicles | None
    system: System | None
    errors: NotRequired[Annotated[dict[str, str], Field(description="By section; absent when none is null.")]]


class AlertDocument(TypedDict):
    """A limit that is passed."""

    level: Level
    category: Literal["system", "database", "business"]
    title: str
    message: str
    timestamp: Timestamp


class Alerts(TypedDict):
    """`GET alerts`: what passes its limit at this moment, the gravest first."""

    total: int
    alerts: list[AlertDocument]


class DashboardHealth(TypedDict):
    """Health in words."""

    status: Status
    database: Status
    resources: Status
    application: Status


class DashboardMetrics(TypedDict):
    """The figures of health, and the fleet's utilization in percent."""

    orders_24h: Count
    active_dispatches: Count
    vehicle_utilization: Percent
    cpu_percent: Percent
    memory_percent: Percent
    disk_percent: Percent


class ByLevel(TypedDict):
    """Alerts by level."""

    critical: int
    warning: int
    info: int


class DashboardAlerts(TypedDict):
    """Alerts, counted, and the gravest five."""

    total: int
    by_level: ByLevel
    recent: Annotated[list[AlertDocument], Field(max_length=5)]


class Dashboard(TypedDict):
    """`GET dashboard`."""

    timestamp: Timestamp
    health: DashboardHealth
    metrics: DashboardMetrics
    alerts: DashboardAlerts


class Problem(TypedDict):
    """Why a request is refused, with the field at fault."""

    detail: str
