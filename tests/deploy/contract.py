"""What users hold on to: every alert with its severity, `for`, category and title, and every series with its labels."""

from dataclasses import dataclass

CPU, MEMORY, DISK = "ColdChainCpuHigh", "ColdChainMemoryHigh", "ColdChainDiskHigh"
SLOW, UTILIZATION = "ColdChainDatabaseSlow", "ColdChainVehicleUtilizationLow"


@dataclass(frozen=True)
class Alert:
    """One row: how the alert of this name and severity is to be."""

    held: str
    category: str
    title: str


ALERTS = {
    (CPU, "warning"): Alert("2m", "system", "CPU 사용률 주의"),
    (CPU, "critical"): Alert("30s", "system", "CPU 사용률 높음"),
    (MEMORY, "warning"): Alert("2m", "system", "메모리 사용률 주의"),
    (MEMORY, "critical"): Alert("30s", "system", "메모리 부족"),
    (DISK, "warning"): Alert("2m", "system", "디스크 사용률 주의"),
    (DISK, "critical"): Alert("30s", "system", "디스크 공간 부족"),
    (SLOW, "warning"): Alert("1m", "database", "데이터베이스 응답 지연"),
    (SLOW, "critical"): Alert("30s", "database", "데이터베이스 응답 느림"),
    ("ColdChainDatabaseDown", "critical"): Alert("0s", "database", "데이터베이스 연결 실패"),
    ("ColdChainOrdersWaiting", "warning"): Alert("1m", "business", "배차 대기 주문 많음"),
    ("ColdChainDispatchesOverdue", "warning"): Alert("1m", "business", "지연된 배차 발견"),
    (UTILIZATION, "info"): Alert("15m", "business", "차량 활용률 낮음"),
    # Beyond the limits' table: what the monitoring says of itself, and of trends.
    ("ColdChainWatchdog", "none"): Alert("0s", "monitoring", "모니터링 정상 동작 신호"),
    ("ColdChainExporterDown", "critical"): Alert("1m", "monitoring", "모니터링 수집기 중단"),
    ("ColdChainReceiverDown", "critical"): Alert("1m", "monitoring", "알림 수신기 중단"),
    ("ColdChainDeliveriesFailing", "critical"): Alert("5m", "monitoring", "알림 발송 실패"),
    ("ColdChainSourceStale", "warning"): Alert("1m", "monitoring", "데이터 수집 지연"),
    ("ColdChainThresholdMissing", "warning"): Alert("2m", "monitoring", "임계값 누락"),
    ("ColdChainOutboxOld", "warning"): Alert("5m", "monitoring", "알림 발송 지연"),
    ("ColdChainSmsBalanceLow", "warning"): Alert("15m", "monitoring", "문자 잔여 건수 부족"),
    ("ColdChainDiskFillingUp", "warning"): Alert("1h", "system", "디스크 하루 안에 가득 참"),
    ("ColdChainBacklogGrowing", "warning"): Alert("10m", "business", "배차 대기 주문 계속 증가"),
    ("ColdChainOrdersStopped", "warning"): Alert("5m", "business", "신규 주문 중단"),
    # The cold-chain pack.
    ("ColdChainTemperatureOutOfRange", "critical"): Alert("10m", "business", "적재함 온도 이탈"),
    ("ColdChainTemperatureSensorSilent", "warning"): Alert("0s", "business", "온도 센서 무응답"),
}
THRESHOLDS = {
    *((name, severity) for name in (CPU, MEMORY, DISK, SLOW) for severity in ("warning", "critical")),
    ("ColdChainOrdersWaiting", "warning"),
    ("ColdChainDispatchesOverdue", "warning"),
    (UTILIZATION, "info"),
}

ANY: frozenset[str] = frozenset()
WINDOW = frozenset({"1h", "24h", "168h"})
CHANNEL = frozenset({"email", "slack", "sms"})
ORDER = frozenset({"pending", "assigned", "in_transit", "delivered", "cancelled"})
DISPATCH = frozenset({"draft", "confirmed", "in_progress", "completed", "cancelled"})
VEHICLE = frozenset(
    {"available", "in_use", "maintenance", "emergency_maintenance", "breakdown", "out_of_service"},
)
OUTCOME = frozenset({"delivered", "partial", "uncertain", "retried", "merged", "suppressed", "failed"})
SOURCE = {"source": frozenset({"host", "database", "orders", "dispatches", "vehicles", "vehicle_temperature"})}
SERIES: dict[str, dict[str, frozenset[str]]] = {
    "up": {},
    "coldchain_host_cpu_seconds_total": {"mode": ANY},
    "coldchain_host_cpu_usage_ratio": {},
    "coldchain_host_cpus": {},
    "coldchain_host_memory_total_bytes": {},
    "coldchain_host_memory_used_bytes": {},
    "coldchain_host_memory_available_bytes": {},
    "coldchain_host_memory_usage_ratio": {},
    "coldchain_host_filesystem_size_bytes": {"mountpoint": ANY},
    "coldchain_host_filesystem_used_bytes": {"mountpoint": ANY},
    "coldchain_host_filesystem_available_bytes": {"mountpoint": ANY},
    "coldchain_host_filesystem_usage_ratio": {"mountpoint": ANY},
    "coldchain_host_network_receive_bytes_total": {"device": ANY},
    "coldchain_host_network_transmit_bytes_total": {"device": ANY},
    "coldchain_database_up": {},
    "coldchain_database_response_seconds": {},
    "coldchain_orders": {"window": WINDOW, "status": ORDER},
    "coldchain_orders_waiting": {},
    "coldchain_orders_oldest_waiting_seconds": {},
    "coldchain_orders_newest_timestamp_seconds": {},
    "coldchain_orders_processing_seconds_mean": {"window": WINDOW},
    "coldchain_dispatches": {"window": WINDOW, "status": DISPATCH},
    "coldchain_dispatches_active": {},
    "coldchain_dispatches_overdue": {},
    "coldchain_dispatches_distance_meters_mean": {"window": WINDOW},
    "coldchain_vehicles": {"status": VEHICLE},
    "coldchain_vehicles_utilization_ratio": {},
    "coldchain_alert_threshold": {
        "alert": frozenset(name for name, _ in THRESHOLDS),
        "severity": frozenset({"info", "warning", "critical"}),
    },
    "coldchain_source_up": SOURCE,
    "coldchain_source_duration_seconds": SOURCE,
    "coldchain_source_last_success_timestamp_seconds": SOURCE,
    "coldchain_source_interval_seconds": SOURCE,
    "coldchain_config_last_reload_successful": {},
    "coldchain_exporter_build_info": {"version": ANY, "python": ANY},
    "coldchain_vehicle_temperature_celsius": {"plate": ANY, "compartment": ANY},
    "coldchain_vehicle_temperature_min_celsius": {"plate": ANY},
    "coldchain_vehicle_temperature_max_celsius": {"plate": ANY},
    "coldchain_vehicle_temperature_timestamp_seconds": {"plate": ANY, "compartment": ANY},
    "coldchain_vehicle_temperature_expected": {"plate": ANY},
    "coldchain_receiver_webhooks_total": {
        "result": frozenset({"accepted", "duplicate", "invalid", "unauthorized", "unavailable"}),
    },
    "coldchain_receiver_deliveries_total": {"channel": CHANNEL, "outcome": OUTCOME},
    "coldchain_receiver_delivery_seconds_bucket": {"channel": CHANNEL, "le": ANY},
    "coldchain_receiver_delivery_seconds_count": {"channel": CHANNEL},
    "coldchain_receiver_delivery_seconds_sum": {"channel": CHANNEL},
    "coldchain_receiver_outbox_deliveries": {
        "channel": CHANNEL,
        "state": frozenset({"pending", "held", "retrying", "failed"}),
    },
    "coldchain_receiver_outbox_oldest_seconds": {"channel": CHANNEL},
    "coldchain_receiver_channel_up": {"channel": CHANNEL},
    "coldchain_receiver_heartbeat_timestamp_seconds": {},
    "coldchain_receiver_sms_balance_messages": {"type": frozenset({"sms", "lms", "mms"})},
    "coldchain_receiver_build_info": {"version": ANY, "python": ANY},
}
# Of node_exporter, where it watches the host.
NODE_SERIES: dict[str, dict[str, frozenset[str]]] = {
    "node_cpu_seconds_total": {"cpu": ANY, "mode": frozenset({"idle", "iowait", "user", "system"})},
    "node_memory_MemAvailable_bytes": {},
    "node_memory_MemTotal_bytes": {},
    "node_filesystem_size_bytes": {"device": ANY, "device_error": ANY, "fstype": ANY, "mountpoint": ANY},
    "node_filesystem_free_bytes": {"device": ANY, "device_error": ANY, "fstype": ANY, "mountpoint": ANY},
    "node_filesystem_avail_bytes": {"device": ANY, "device_error": ANY, "fstype": ANY, "mountpoint": ANY},
}
