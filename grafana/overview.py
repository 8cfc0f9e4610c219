"""운영 개요: what the duty officer sees first, on one screen."""

from grafana_foundation_sdk.builders import table

from grafana.board import OVERVIEW, Board, Panels
from grafana.panels import (
    COUNT,
    change,
    columns,
    gauge_panel,
    graph_panel,
    health_panel,
    lit,
    stat_panel,
    table_panel,
    words_column,
)
from grafana.queries import (
    CPU,
    DISK,
    MEMORY,
    OVERDUE,
    SLOW,
    UTILIZATION,
    WAITING,
    alerts,
    firing,
    health,
    series,
    target,
)
from grafana.words import CATEGORIES, GREEN, HEALTH, SEVERITIES, SOURCES, titles

JOBS = 'job=~"coldchain-(exporter|receiver)"'
UNREACHABLE = f"(1 - {series('up', JOBS)})"
LISTED = 'severity!="none"'
ORDERS_24H = series("coldchain_orders", 'window="24h"')
FULLEST = f"max by (job, instance) ({series('coldchain_host_filesystem_usage_ratio')})"


def _health() -> Panels:
    return (
        health_panel(
            "전체 상태",
            "오른쪽 네 부분 가운데 가장 나쁜 상태입니다. 경고 알림이 울리면 주의, 위험 알림이 울리면 위험입니다.",
            target(health(UNREACHABLE), instant=True),
            HEALTH,
            size=(4, 4),
        ),
        health_panel(
            "데이터베이스",
            "연결과 응답 시간에 대한 알림으로 판단합니다. 데이터베이스를 보지 않거나 수집기가 멈추면 확인 불가입니다.",
            target(health(f"0 * {series('coldchain_database_up')}", "database"), instant=True),
            HEALTH,
            size=(4, 4),
            runbooks=["ColdChainDatabaseDown", "ColdChainDatabaseSlow"],
        ),
        health_panel(
            "시스템 자원",
            "CPU, 메모리, 디스크에 대한 알림으로 판단합니다. 호스트 수집을 끈 곳에서는 확인 불가입니다.",
            target(health(f"0 * {series('coldchain_host_cpu_usage_ratio')}", "system"), instant=True),
            HEALTH,
            size=(4, 4),
            runbooks=["ColdChainCpuHigh", "ColdChainMemoryHigh", "ColdChainDiskHigh"],
        ),
        health_panel(
            "애플리케이션",
            "주문, 배차, 차량에 대한 알림으로 판단합니다. 밤마다 울리는 ‘신규 주문 중단’은 넣지 않습니다.",
            target(health(f"0 * {series('coldchain_orders_waiting')}", "business"), instant=True),
            HEALTH,
            size=(4, 4),
            runbooks=["ColdChainOrdersWaiting", "ColdChainDispatchesOverdue"],
        ),
        health_panel(
            "모니터링",
            "수집기와 수신기에 닿을 수 있는지, 수집과 발송에 대한 알림이 있는지로 판단합니다.",
            target(health(UNREACHABLE, "monitoring"), instant=True),
            HEALTH,
            size=(4, 4),
            runbooks=["ColdChainExporterDown", "ColdChainReceiverDown", "ColdChainDeliveriesFailing"],
        ),
        lit(
            stat_panel(
                "발생 중인 알림",
                "지금 울리고 있는 알림의 수입니다. Alertmanager가 억제하거나 영업시간 밖이라 보내지 않은 것도 셉니다.",
                *(target(_count(severity), severity, instant=True) for severity in SEVERITIES),
                unit=COUNT,
                size=(4, 4),
                graph=False,
            ),
            SEVERITIES,
        ),
    )


def _business() -> Panels:
    return (
        stat_panel(
            "24시간 주문",
            "최근 24시간 동안 만들어진 주문 수입니다. 취소된 주문도 셉니다.",
            target(f"sum by (job, instance) ({ORDERS_24H})", "{{instance}}"),
            unit=COUNT,
            size=(4, 4),
            decimals=0,
        ),
        stat_panel(
            "배차 대기 주문",
            "orders_waiting_after(기본 2시간)보다 오래 배차를 기다리는 주문 수입니다. 임계값을 넘으면 주황색입니다.",
            target(series("coldchain_orders_waiting"), "{{instance}}"),
            unit=COUNT,
            size=(4, 4),
            decimals=0,
            limits=WAITING,
            runbooks=["ColdChainOrdersWaiting"],
        ),
        stat_panel(
            "최장 배차 대기",
            "가장 오래 배차를 기다리는 주문의 대기 시간입니다. 기다리는 주문이 없으면 0입니다.",
            target(series("coldchain_orders_oldest_waiting_seconds"), "{{instance}}"),
            unit="s",
            size=(4, 4),
            decimals=1,
            runbooks=["ColdChainOrdersWaiting"],
        ),
        stat_panel(
            "지연 배차",
            "배차일이 지났는데 아직 진행중인 배차 수입니다. 임계값을 넘으면 주황색입니다.",
            target(series("coldchain_dispatches_overdue"), "{{instance}}"),
            unit=COUNT,
            size=(4, 4),
            decimals=0,
            limits=OVERDUE,
            runbooks=["ColdChainDispatchesOverdue"],
        ),
        stat_panel(
            "활성 배차",
            "확정되었거나 진행중인 배차 수입니다.",
            target(series("coldchain_dispatches_active"), "{{instance}}"),
            unit=COUNT,
            size=(4, 4),
            decimals=0,
        ),
        stat_panel(
            "차량 활용률",
            "전체 차량 가운데 운행 중인 차량의 비율입니다. 임계값보다 낮으면 파란색입니다.",
            target(series("coldchain_vehicles_utilization_ratio"), "{{instance}}"),
            unit="percentunit",
            size=(4, 4),
            decimals=1,
            limits=UTILIZATION,
            colour=GREEN,
            runbooks=["ColdChainVehicleUtilizationLow"],
        ),
    )


COLUMNS = {
    "severity": "심각도",
    "title": "알림",
    "category": "분류",
    "mountpoint": "마운트",
    "channel": "채널",
    "source": "수집 항목",
    "plate": "차량",
    "compartment": "적재함",
    "alert": "임계값",
    "instance": "대상",
    "Value": "시작",
    "alertname": "런북",
}


def _firing() -> table.Panel:
    panel = (
        table_panel(
            "발생 중인 알림 목록",
            "지금 울리고 있는 알림입니다. 런북 칸에서 무엇을 할지 보거나, Alertmanager로 가서 잠시 끌 수 있습니다.",
            target(
                "label_join(\n"
                f"  1000 * {alerts('ALERTS_FOR_STATE', LISTED)}\n"
                f"  and ignoring (alertstate) {firing(LISTED)},\n"
                '  "title", "/", "alertname", "severity"\n)',
                table=True,
            ),
            unit="none",
            size=(12, 7),
            sort="시작",
            descending=True,
            no_value="울리고 있는 알림이 없습니다",
        )
        .with_transformation(columns(COLUMNS, hidden=["Time", "job", "limit"]))
        .override_by_name(
            "시작", [change("unit", "dateTimeFromNow"), change("custom.width", 110), change("custom.align", "left")]
        )
        .override_by_name(
            "런북",
            [
                change(
                    "links",
                    [
                        {
                            "title": "런북 열기",
                            "url": "${runbooks:raw}/ko/${__value.raw}.md",
                            "targetBlank": True,
                        },
                        {
                            "title": "Alertmanager에서 보기",
                            "url": "${alertmanager:raw}/#/alerts?filter=%7Balertname%3D%22${__value.raw}%22%7D",
                            "targetBlank": True,
                        },
                    ],
                ),
            ],
        )
    )
    panel = words_column(panel, "심각도", SEVERITIES, 70)
    panel = words_column(panel, "알림", titles())
    panel = words_column(panel, "분류", CATEGORIES, 110)
    return words_column(panel, "수집 항목", SOURCES, 100)


def _now() -> Panels:
    return (
        gauge_panel(
            "CPU",
            "수집기의 고정된 구간 동안 CPU가 일한 비율입니다. 테두리의 색은 수집기에 설정된 임계값입니다.",
            target(series("coldchain_host_cpu_usage_ratio"), "{{instance}}"),
            size=(4, 7),
            limits=CPU,
            runbooks=["ColdChainCpuHigh"],
        ),
        gauge_panel(
            "메모리",
            "사용할 수 없는 메모리의 비율입니다. 테두리의 색은 수집기에 설정된 임계값입니다.",
            target(series("coldchain_host_memory_usage_ratio"), "{{instance}}"),
            size=(4, 7),
            limits=MEMORY,
            runbooks=["ColdChainMemoryHigh"],
        ),
        gauge_panel(
            "디스크 (가장 찬 곳)",
            "가장 많이 찬 파일 시스템의 사용률로, df와 같게 셉니다. 테두리의 색은 수집기에 설정된 임계값입니다.",
            target(FULLEST, "{{instance}}"),
            size=(4, 7),
            limits=DISK,
            runbooks=["ColdChainDiskHigh", "ColdChainDiskFillingUp"],
        ),
        _firing(),
    )


def _trends() -> Panels:
    return (
        graph_panel(
            "배차 대기 주문 추이",
            "오래 배차를 기다리는 주문 수와 그 임계값입니다.",
            target(series("coldchain_orders_waiting"), "대기 {{instance}}"),
            unit=COUNT,
            size=(8, 7),
            decimals=0,
            limits=WAITING,
            runbooks=["ColdChainOrdersWaiting", "ColdChainBacklogGrowing"],
        ),
        graph_panel(
            "데이터베이스 응답 시간",
            "마지막 확인 질의의 왕복 시간과 그 임계값입니다. 연결이 끊긴 동안은 비어 있습니다.",
            target(series("coldchain_database_response_seconds"), "응답 {{instance}}"),
            unit="s",
            size=(8, 7),
            limits=SLOW,
            runbooks=["ColdChainDatabaseSlow", "ColdChainDatabaseDown"],
        ),
        graph_panel(
            "시스템 자원 추이",
            "CPU, 메모리, 가장 찬 파일 시스템의 사용률입니다. 임계값은 위의 계기와 ‘호스트와 데이터베이스’에 있습니다.",
            target(series("coldchain_host_cpu_usage_ratio"), "CPU {{instance}}"),
            target(series("coldchain_host_memory_usage_ratio"), "메모리 {{instance}}"),
            target(FULLEST, "디스크 {{instance}}"),
            unit="percentunit",
            size=(8, 7),
            ratio=True,
        ),
    )


def board() -> Board:
    """The dashboard's definition."""
    return Board(
        uid=OVERVIEW,
        description="당직자를 위한 첫 화면: 지금 괜찮은가, 무엇이 울리고 있는가, 업무와 자원은 어떤가.",
        jobs=JOBS,
        top=(*_health(), *_business(), *_now(), *_trends()),
    )


def _count(severity: str) -> str:
    selector = firing(f'severity="{severity}"')
    return f"count({selector}) or vector(0)"
