"""배차 업무: orders, the backlog and where it goes, dispatches, vehicles, and the temperatures of those on the road."""

from grafana.board import DISPATCH, Board, Panels, Row, label_values
from grafana.panels import (
    COUNT,
    bar_panel,
    change,
    columns,
    graph_panel,
    merged,
    relabel,
    stat_panel,
    table_panel,
)
from grafana.queries import EXPORTER, OVERDUE, UTILIZATION, WAITING, series, target
from grafana.words import BLUE, DISPATCHES, GREEN, ORANGE, ORDERS, RED, VEHICLES

WINDOW = 'window="$window"'
STOPPED = 2 * 3600.0
"""Seconds without a new order, from which ColdChainOrdersStopped fires."""
SILENT = 15 * 60.0
"""Seconds without a reading, from which ColdChainTemperatureSensorSilent fires."""


def board() -> Board:
    """The dashboard's definition."""
    window = f"label_values({series('coldchain_orders')}, window)"
    plate = f"label_values({series('coldchain_vehicle_temperature_celsius')}, plate)"
    return Board(
        uid=DISPATCH,
        description="주문이 들어와 배송되기까지: 밀린 주문, 지연된 배차, 차량의 상태와 온도.",
        jobs=EXPORTER,
        categories="business|database",
        since="now-24h",
        variables=(label_values("window", "기간", window, "24h"), label_values("plate", "차량", plate)),
        top=_now(),
        rows=(
            Row("밀린 주문", _backlog()),
            Row("주문 ($window)", _orders()),
            Row("배차 ($window)", _dispatches()),
            Row("차량", _vehicles()),
            Row("차량 온도 (온도 질의를 켠 곳)", _temperatures(), folded=True),
        ),
    )


def _now() -> Panels:
    newest = series("coldchain_orders_newest_timestamp_seconds")
    delivered = series("instance_window:coldchain_orders_delivered:ratio", WINDOW)
    return (
        stat_panel(
            "주문 ($window)",
            "고른 기간에 만들어진 주문 수입니다. 기간은 서로 겹치므로 더하지 않습니다.",
            target(series("instance_window:coldchain_orders:sum", WINDOW), "{{instance}}"),
            unit=COUNT,
            size=(3, 4),
            decimals=0,
        ),
        stat_panel(
            "배송 완료율 ($window)",
            "고른 기간에 만들어진 주문 가운데 배송완료된 비율입니다.",
            target(delivered, "{{instance}}"),
            unit="percentunit",
            size=(3, 4),
            decimals=1,
            colour=GREEN,
        ),
        stat_panel(
            "마지막 주문 이후",
            "가장 최근 주문이 만들어진 뒤로 지난 시간입니다. 2시간이 넘으면 주문이 끊긴 것일 수 있습니다.",
            target(f"time() - {newest}", "{{instance}}"),
            unit="s",
            size=(3, 4),
            decimals=1,
            steps=[(None, GREEN), (STOPPED, ORANGE)],
            runbooks=["ColdChainOrdersStopped"],
        ),
        stat_panel(
            "배차 대기 주문",
            "수집기의 orders_waiting_after(기본 2시간)보다 오래 배차를 기다리는 주문 수입니다.",
            target(series("coldchain_orders_waiting"), "{{instance}}"),
            unit=COUNT,
            size=(3, 4),
            decimals=0,
            limits=WAITING,
            runbooks=["ColdChainOrdersWaiting"],
        ),
        stat_panel(
            "배차 ($window)",
            "고른 기간에 만들어진 배차 수입니다. 기간은 서로 겹치므로 더하지 않습니다.",
            target(series("instance_window:coldchain_dispatches:sum", WINDOW), "{{instance}}"),
            unit=COUNT,
            size=(3, 4),
            decimals=0,
        ),
        stat_panel(
            "지연 배차",
            "배차일이 지났는데 아직 진행중인 배차 수입니다.",
            target(series("coldchain_dispatches_overdue"), "{{instance}}"),
            unit=COUNT,
            size=(3, 4),
            decimals=0,
            limits=OVERDUE,
            runbooks=["ColdChainDispatchesOverdue"],
        ),
        stat_panel(
            "활성 배차",
            "확정되었거나 진행중인 배차 수입니다.",
            target(series("coldchain_dispatches_active"), "{{instance}}"),
            unit=COUNT,
            size=(3, 4),
            decimals=0,
        ),
        stat_panel(
            "차량 활용률",
            "전체 차량 가운데 운행 중인 차량의 비율입니다. 임계값보다 낮으면 파란색입니다.",
            target(series("coldchain_vehicles_utilization_ratio"), "{{instance}}"),
            unit="percentunit",
            size=(3, 4),
            decimals=1,
            limits=UTILIZATION,
            colour=GREEN,
            runbooks=["ColdChainVehicleUtilizationLow"],
        ),
    )


def _backlog() -> Panels:
    # A trend of a few minutes says nothing about two hours: no forecast before there is half an hour to go by.
    known = f"{series('coldchain_orders_waiting')} offset 30m"
    forecast = f"{series('instance:coldchain_orders_waiting:predict_linear1h_2h')}\n  and on (job, instance)\n{known}"
    smoothed = series("instance:coldchain_orders_waiting:avg5m")
    return (
        graph_panel(
            "배차 대기 주문과 2시간 뒤 예상",
            "오래 기다리는 주문 수, 최근 1시간의 추세가 이어질 때 2시간 뒤의 수(점선), 그리고 임계값입니다.",
            target(series("coldchain_orders_waiting"), "대기 {{instance}}"),
            target(forecast, "2시간 뒤 예상 {{instance}}"),
            unit=COUNT,
            size=(12, 8),
            decimals=0,
            limits=WAITING,
            runbooks=["ColdChainOrdersWaiting", "ColdChainBacklogGrowing"],
        ).override_by_regexp("/^2시간 뒤 예상/", [change("custom.lineStyle", {"fill": "dot", "dash": [0, 6]})]),
        graph_panel(
            "대기 주문 증감",
            "최근 1시간과 30분 동안 늘어난 대기 주문 수입니다. 0보다 크면 처리하는 것보다 빨리 쌓이고 있습니다.",
            target(f"delta({smoothed}[1h])", "1시간 동안 {{instance}}"),
            target(f"delta({smoothed}[30m])", "30분 동안 {{instance}}"),
            unit=COUNT,
            size=(6, 8),
            decimals=0,
            floor=None,
            runbooks=["ColdChainBacklogGrowing"],
        ),
        graph_panel(
            "최장 배차 대기 추이",
            "가장 오래 배차를 기다리는 주문의 대기 시간입니다.",
            target(series("coldchain_orders_oldest_waiting_seconds"), "대기 {{instance}}"),
            unit="s",
            size=(6, 8),
            runbooks=["ColdChainOrdersWaiting"],
        ),
    )


def _orders() -> Panels:
    by_status = f"sum by (status) ({series('coldchain_orders', WINDOW)})"
    return (
        graph_panel(
            "주문 상태 추이",
            "고른 기간에 만들어진 주문을 현재 상태별로 쌓았습니다. 여러 수집기를 고르면 더한 값입니다.",
            target(by_status, "{{status}}"),
            unit=COUNT,
            size=(12, 8),
            decimals=0,
            names=ORDERS,
            stacked=True,
        ),
        bar_panel(
            "주문 상태",
            "고른 기간에 만들어진 주문의 현재 상태입니다. 여러 수집기를 고르면 더한 값입니다.",
            target(by_status, "{{status}}", instant=True),
            unit=COUNT,
            size=(6, 8),
            decimals=0,
            names=ORDERS,
        ),
        graph_panel(
            "평균 처리 시간",
            "고른 기간에 만들어져 배송완료된 주문이 접수에서 마지막 변경까지 걸린 평균 시간입니다.",
            target(series("coldchain_orders_processing_seconds_mean", WINDOW), "평균 {{instance}}"),
            unit="s",
            size=(6, 8),
        ),
    )


def _dispatches() -> Panels:
    by_status = f"sum by (status) ({series('coldchain_dispatches', WINDOW)})"
    return (
        graph_panel(
            "배차 상태 추이",
            "고른 기간에 만들어진 배차를 현재 상태별로 쌓았습니다. 여러 수집기를 고르면 더한 값입니다.",
            target(by_status, "{{status}}"),
            unit=COUNT,
            size=(9, 8),
            decimals=0,
            names=DISPATCHES,
            stacked=True,
        ),
        bar_panel(
            "배차 상태",
            "고른 기간에 만들어진 배차의 현재 상태입니다. 여러 수집기를 고르면 더한 값입니다.",
            target(by_status, "{{status}}", instant=True),
            unit=COUNT,
            size=(5, 8),
            decimals=0,
            names=DISPATCHES,
        ),
        graph_panel(
            "지연 배차 추이",
            "배차일이 지났는데 아직 진행중인 배차 수와 그 임계값입니다.",
            target(series("coldchain_dispatches_overdue"), "지연 {{instance}}"),
            unit=COUNT,
            size=(5, 8),
            decimals=0,
            limits=OVERDUE,
            runbooks=["ColdChainDispatchesOverdue"],
        ),
        graph_panel(
            "평균 이동 거리",
            "고른 기간에 만들어진 배차의 평균 이동 거리입니다. 거리가 적히지 않은 배차는 빼고 셉니다.",
            target(series("coldchain_dispatches_distance_meters_mean", WINDOW), "평균 {{instance}}"),
            unit="lengthm",
            size=(5, 8),
        ),
    )


def _vehicles() -> Panels:
    by_status = f"sum by (status) ({series('coldchain_vehicles')})"
    return (
        graph_panel(
            "차량 상태 추이",
            "차량을 상태별로 쌓았습니다. 여러 수집기를 고르면 더한 값입니다.",
            target(by_status, "{{status}}"),
            unit=COUNT,
            size=(9, 8),
            decimals=0,
            names=VEHICLES,
            stacked=True,
        ),
        bar_panel(
            "차량 상태",
            "차량의 현재 상태입니다. 여러 수집기를 고르면 더한 값입니다.",
            target(by_status, "{{status}}", instant=True),
            unit=COUNT,
            size=(5, 8),
            decimals=0,
            names=VEHICLES,
        ),
        graph_panel(
            "차량 활용률 추이",
            "운행 중인 차량의 비율과 그 하루 평균, 그리고 임계값입니다. 이 임계값은 아래로 내려갈 때 울립니다.",
            target(series("coldchain_vehicles_utilization_ratio"), "활용률 {{instance}}"),
            target(series("instance:coldchain_vehicles_utilization_ratio:avg24h"), "24시간 평균 {{instance}}"),
            unit="percentunit",
            size=(10, 8),
            limits=UTILIZATION,
            ratio=True,
            runbooks=["ColdChainVehicleUtilizationLow"],
        ),
    )


def _temperatures() -> Panels:
    now = series("coldchain_vehicle_temperature_celsius")
    last = series("instance_plate_compartment:coldchain_vehicle_temperature_celsius:last1h")
    heard = series("instance_plate_compartment:coldchain_vehicle_temperature_timestamp_seconds:last1h")
    expected = series("coldchain_vehicle_temperature_expected")
    low = series("coldchain_vehicle_temperature_min_celsius")
    high = series("coldchain_vehicle_temperature_max_celsius")
    of_vehicle = "on (job, instance, plate) group_left ()"
    margin = (
        "min by (plate, compartment) (\n"
        f'  label_replace(-1 * ({last} - {of_vehicle} {high}), "limit", "max", "", "")\n'
        "  or\n"
        f'  label_replace({last} - {of_vehicle} {low}, "limit", "min", "", "")\n'
        ")"
    )
    nearest = f"bottomk(20, {margin})"
    # as the rule has it, but for the first minutes of a trip
    silent = (
        "max by (plate, compartment) (\n"
        f"  time() - {heard} >= {SILENT:.0f}\n  and on (job, instance, plate) {expected}\n"
        f"  or\n  {SILENT:.0f} * {expected}\n  unless on (job, instance, plate) {heard}\n"
        ")"
    )
    plate = 'plate="$plate"'
    return (
        stat_panel(
            "온도 이탈 적재함",
            "마지막 온도가 차량의 허용 범위를 벗어난 적재함 수입니다. 10분 이어지면 알림이 울립니다.",
            target(f"count({margin} < 0) or vector(0)", instant=True),
            unit=COUNT,
            size=(8, 4),
            steps=[(None, GREEN), (1, RED)],
            graph=False,
            runbooks=["ColdChainTemperatureOutOfRange"],
        ),
        stat_panel(
            "무응답 센서",
            "운행 중인 차량에서 15분 넘게 온도를 보내지 않은 센서 수입니다.",
            target(f"count({silent}) or vector(0)", instant=True),
            unit=COUNT,
            size=(8, 4),
            steps=[(None, GREEN), (1, ORANGE)],
            graph=False,
            runbooks=["ColdChainTemperatureSensorSilent"],
        ),
        stat_panel(
            "온도를 보내는 차량",
            "최근 1시간 안에 온도를 보낸 차량 수와, 운행 중이어서 보내야 하는 차량 수입니다.",
            target(f"count(count by (plate) ({now}))", "보낸 차량", instant=True),
            target(f"count(count by (plate) ({expected}))", "보내야 하는 차량", instant=True),
            unit=COUNT,
            size=(8, 4),
            graph=False,
        ),
        relabel(
            graph_panel(
                "적재함 온도: $plate",
                "고른 차량의 적재함 온도와 허용 범위입니다.",
                target(series("coldchain_vehicle_temperature_celsius", plate), "적재함 {{compartment}}"),
                target(f"max({series('coldchain_vehicle_temperature_min_celsius', plate)})", "min"),
                target(f"min({series('coldchain_vehicle_temperature_max_celsius', plate)})", "max"),
                unit="celsius",
                size=(12, 9),
                decimals=1,
                floor=None,
                runbooks=["ColdChainTemperatureOutOfRange"],
            ),
            {"min": ("허용 하한", BLUE), "max": ("허용 상한", RED)},
        ),
        table_panel(
            "허용 한계에 가까운 적재함",
            "허용 상한이나 하한까지의 여유가 가장 적은 20칸입니다. 여유가 0보다 작으면 범위를 벗어난 것입니다.",
            target(nearest, table=True),
            target(f"max by (plate, compartment) ({last})\n  and\n{nearest}", table=True),
            unit="celsius",
            size=(12, 9),
            sort="여유",
        )
        .with_transformation(merged())
        .with_transformation(
            columns({"plate": "차량", "compartment": "적재함", "Value #B": "온도", "Value #A": "여유"}, hidden=["Time"])
        ),
        table_panel(
            "무응답 센서 목록",
            "값이 끊긴 지 오래된 순서입니다. 적재함이 비어 있으면 한 번도 값을 보낸 적이 없는 차량입니다.",
            target(silent, table=True),
            target(f"max by (plate, compartment) ({last})\n  and\n{silent}", table=True),
            unit="s",
            size=(24, 7),
            sort="무응답",
            descending=True,
            no_value="없음",
            runbooks=["ColdChainTemperatureSensorSilent"],
        )
        .with_transformation(merged())
        .with_transformation(
            columns(
                {"plate": "차량", "compartment": "적재함", "Value #A": "무응답", "Value #B": "마지막 온도"},
                hidden=["Time"],
            )
        )
        .override_by_name("마지막 온도", [change("unit", "celsius"), change("decimals", 1)]),
    )
