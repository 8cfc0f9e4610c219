"""호스트와 데이터베이스: what the business runs on, how full it is getting, and how fresh the figures are."""

from grafana.board import HOST, Board, Panels, Row
from grafana.panels import (
    COUNT,
    bar_panel,
    change,
    columns,
    gauge_panel,
    graph_panel,
    merged,
    stat_panel,
    state_panel,
    table_panel,
    words_column,
)
from grafana.queries import CPU, DISK, EXPORTER, MEMORY, SLOW, series, target
from grafana.words import (
    BLUE,
    GREEN,
    LIGHT_BLUE,
    LIGHT_PURPLE,
    ORANGE,
    PURPLE,
    RED,
    SOURCES,
    UP,
    YELLOW,
    Words,
)

CPU_MODES: Words = {
    "user": ("사용자", BLUE),
    "system": ("커널", ORANGE),
    "iowait": ("입출력 대기", RED),
    "nice": ("낮은 우선순위", LIGHT_BLUE),
    "irq": ("인터럽트", PURPLE),
    "softirq": ("소프트 인터럽트", LIGHT_PURPLE),
    "steal": ("빼앗긴 시간", YELLOW),
}
TIMES = "coldchain_host_cpu_seconds_total"
FILESYSTEM = "coldchain_host_filesystem"
STATES: Words = {"1": ("연결됨", GREEN), "0": ("끊김", RED)}


def board() -> Board:
    """The dashboard's definition."""
    return Board(
        uid=HOST,
        description="업무 시스템이 도는 호스트와 데이터베이스: 얼마나 찼고, 언제 가득 차며, 수치는 얼마나 새로운가.",
        jobs=EXPORTER,
        categories="system|database|monitoring",
        top=_now(),
        rows=(
            Row("프로세서와 메모리", _load()),
            Row("디스크", _disks()),
            Row("데이터베이스", _database()),
            Row("네트워크", _network()),
            Row("데이터 수집", _sources()),
        ),
    )


def _now() -> Panels:
    return (
        gauge_panel(
            "CPU",
            "수집기의 고정된 구간 동안 CPU가 일한 비율입니다. 테두리의 색은 수집기에 설정된 임계값입니다.",
            target(series("coldchain_host_cpu_usage_ratio"), "{{instance}}"),
            size=(4, 6),
            limits=CPU,
            runbooks=["ColdChainCpuHigh"],
        ),
        gauge_panel(
            "메모리",
            "사용할 수 없는 메모리의 비율입니다. 테두리의 색은 수집기에 설정된 임계값입니다.",
            target(series("coldchain_host_memory_usage_ratio"), "{{instance}}"),
            size=(4, 6),
            limits=MEMORY,
            runbooks=["ColdChainMemoryHigh"],
        ),
        bar_panel(
            "디스크",
            "파일 시스템의 사용률로, df와 같게 셉니다. 색은 수집기에 설정된 임계값을 따릅니다.",
            target(series(f"{FILESYSTEM}_usage_ratio"), "{{mountpoint}}", instant=True),
            unit="percentunit",
            size=(6, 6),
            decimals=1,
            limits=DISK,
            ratio=True,
            runbooks=["ColdChainDiskHigh"],
        ),
        stat_panel(
            "데이터베이스 연결",
            "마지막 확인 질의가 두 번 모두 실패하면 끊김입니다.",
            target(series("coldchain_database_up"), "{{instance}}", instant=True),
            unit="none",
            size=(3, 6),
            words=STATES,
            graph=False,
            runbooks=["ColdChainDatabaseDown"],
        ),
        stat_panel(
            "데이터베이스 응답",
            "마지막 확인 질의의 왕복 시간입니다. 색은 수집기에 설정된 임계값을 따릅니다.",
            target(series("coldchain_database_response_seconds"), "{{instance}}"),
            unit="s",
            size=(4, 6),
            limits=SLOW,
            runbooks=["ColdChainDatabaseSlow"],
        ),
        stat_panel(
            "24시간 연결률",
            "지난 24시간 가운데 데이터베이스에 연결되어 있던 비율입니다.",
            target(series("instance:coldchain_database_up:avg24h"), "{{instance}}", instant=True),
            unit="percentunit",
            size=(3, 6),
            decimals=2,
            steps=[(None, ORANGE), (0.999, GREEN)],
            graph=False,
        ),
    )


def _load() -> Panels:
    idle = 'mode!="idle"'
    busy = f"sum by (mode) (rate({series(TIMES, idle)}[$__rate_interval]))"
    everything = f"sum (rate({series(TIMES)}[$__rate_interval]))"
    return (
        graph_panel(
            "CPU 사용률",
            "CPU가 일한 비율과 1시간 평균, 그리고 임계값입니다.",
            target(series("coldchain_host_cpu_usage_ratio"), "사용률 {{instance}}"),
            target(series("instance:coldchain_host_cpu_usage_ratio:avg1h"), "1시간 평균 {{instance}}"),
            unit="percentunit",
            size=(8, 8),
            limits=CPU,
            ratio=True,
            runbooks=["ColdChainCpuHigh"],
        ),
        graph_panel(
            "CPU 시간의 쓰임",
            "쉬지 않은 CPU 시간을 용도별로 쌓았습니다. 입출력 대기가 크면 디스크를 봅니다.",
            target(f"{busy}\n  / on () group_left ()\n{everything}", "{{mode}}"),
            unit="percentunit",
            size=(8, 8),
            names=CPU_MODES,
            stacked=True,
        ),
        graph_panel(
            "메모리 사용률",
            "사용할 수 없는 메모리의 비율과 1시간 평균, 그리고 임계값입니다.",
            target(series("coldchain_host_memory_usage_ratio"), "사용률 {{instance}}"),
            target(series("instance:coldchain_host_memory_usage_ratio:avg1h"), "1시간 평균 {{instance}}"),
            unit="percentunit",
            size=(8, 8),
            limits=MEMORY,
            ratio=True,
            runbooks=["ColdChainMemoryHigh"],
        ),
        stat_panel(
            "프로세서",
            "논리 프로세서의 수입니다.",
            target(series("coldchain_host_cpus"), "{{instance}}", instant=True),
            unit=COUNT,
            size=(4, 4),
            graph=False,
        ),
        stat_panel(
            "전체 메모리",
            "호스트에 달린 메모리입니다.",
            target(series("coldchain_host_memory_total_bytes"), "{{instance}}", instant=True),
            unit="bytes",
            size=(4, 4),
            graph=False,
        ),
        stat_panel(
            "사용 중인 메모리",
            "전체에서 사용할 수 있는 것을 뺀 메모리입니다.",
            target(series("coldchain_host_memory_used_bytes"), "{{instance}}"),
            unit="bytes",
            size=(8, 4),
        ),
        stat_panel(
            "사용할 수 있는 메모리",
            "스왑 없이 프로그램이 더 가져갈 수 있는 메모리입니다.",
            target(series("coldchain_host_memory_available_bytes"), "{{instance}}"),
            unit="bytes",
            size=(8, 4),
        ),
    )


def _disks() -> Panels:
    available = f"{FILESYSTEM}_available_bytes"
    # No trend and no forecast before there is an hour to go by.
    known = f"\n  and on (job, instance, mountpoint)\n{series(available)} offset 1h"
    forecast = series(f"instance_mountpoint:{available}:predict_linear6h_24h") + known
    trend = f"3600 * {series(f'instance_mountpoint:{available}:deriv6h')}{known}"
    each = "max by (instance, mountpoint)"
    names = {
        "instance": "대상",
        "mountpoint": "마운트",
        "Value #A": "전체",
        "Value #B": "사용",
        "Value #C": "남음",
        "Value #D": "사용률",
        "Value #E": "시간당 변화",
        "Value #F": "24시간 뒤 남음",
    }
    facts = (
        series(f"{FILESYSTEM}_size_bytes"),
        series(f"{FILESYSTEM}_used_bytes"),
        series(available),
        series(f"{FILESYSTEM}_usage_ratio"),
        trend,
        forecast,
    )
    return (
        graph_panel(
            "디스크 사용률",
            "파일 시스템마다의 사용률과 임계값입니다.",
            target(series(f"{FILESYSTEM}_usage_ratio"), "{{mountpoint}} {{instance}}"),
            unit="percentunit",
            size=(12, 8),
            limits=DISK,
            ratio=True,
            runbooks=["ColdChainDiskHigh"],
        ),
        graph_panel(
            "남은 공간과 24시간 뒤 예상",
            "지금 남은 공간(실선)과, 최근 6시간의 추세가 이어질 때 24시간 뒤에 남을 공간(점선)입니다.",
            target(series(available), "{{mountpoint}} {{instance}}"),
            target(forecast, "24시간 뒤 {{mountpoint}} {{instance}}"),
            unit="bytes",
            size=(12, 8),
            runbooks=["ColdChainDiskFillingUp"],
        ).override_by_regexp("/^24시간 뒤/", [change("custom.lineStyle", {"fill": "dot", "dash": [0, 6]})]),
        table_panel(
            "파일 시스템",
            "실제 파일 시스템마다의 크기와 남은 공간, 최근 6시간의 추세입니다. 변화가 음수면 차오르고 있습니다.",
            *(target(f"{each} ({fact})", table=True) for fact in facts),
            unit="bytes",
            size=(24, 6),
            sort="사용률",
            descending=True,
            runbooks=["ColdChainDiskHigh", "ColdChainDiskFillingUp"],
        )
        .with_transformation(merged())
        .with_transformation(columns(names, hidden=["Time"]))
        .override_by_name(
            "사용률",
            [
                change("unit", "percentunit"),
                change("decimals", 1),
                change("min", 0),
                change("max", 1),
                change("custom.cellOptions", {"type": "gauge", "mode": "basic"}),
                change("color", {"mode": "continuous-GrYlRd"}),
            ],
        ),
    )


def _database() -> Panels:
    return (
        graph_panel(
            "데이터베이스 응답 시간",
            "확인 질의의 왕복 시간과 1시간 평균, 그리고 임계값입니다. 연결이 끊긴 동안은 비어 있습니다.",
            target(series("coldchain_database_response_seconds"), "응답 {{instance}}"),
            target(series("instance:coldchain_database_response_seconds:avg1h"), "1시간 평균 {{instance}}"),
            unit="s",
            size=(14, 8),
            limits=SLOW,
            runbooks=["ColdChainDatabaseSlow"],
        ),
        state_panel(
            "데이터베이스 연결 기록",
            "연결되어 있던 동안과 끊긴 동안입니다.",
            target(series("coldchain_database_up"), "{{instance}}"),
            words=STATES,
            size=(10, 8),
            runbooks=["ColdChainDatabaseDown"],
        ),
    )


def _network() -> Panels:
    received = "instance_device:coldchain_host_network_receive_bytes:rate5m"
    sent = "instance_device:coldchain_host_network_transmit_bytes:rate5m"
    return (
        graph_panel(
            "네트워크 수신",
            "장치마다의 초당 수신량입니다.",
            target(series(received), "{{device}} {{instance}}"),
            unit="binBps",
            size=(12, 7),
        ),
        graph_panel(
            "네트워크 송신",
            "장치마다의 초당 송신량입니다.",
            target(series(sent), "{{device}} {{instance}}"),
            unit="binBps",
            size=(12, 7),
        ),
    )


def _sources() -> Panels:
    each = "max by (instance, source)"
    age = f"time() - {series('coldchain_source_last_success_timestamp_seconds')}"
    names = {
        "instance": "대상",
        "source": "수집 항목",
        "Value #A": "상태",
        "Value #B": "마지막 성공 이후",
        "Value #C": "걸린 시간",
        "Value #D": "주기",
    }
    facts = (
        series("coldchain_source_up"),
        age,
        series("coldchain_source_duration_seconds"),
        series("coldchain_source_interval_seconds"),
    )
    listed = (
        table_panel(
            "수집 항목",
            "수집기가 읽는 곳마다의 상태입니다. 주기의 5배 동안 성공하지 못하면 그 수치를 더 보이지 않습니다.",
            *(target(f"{each} ({fact})", table=True) for fact in facts),
            unit="s",
            size=(12, 8),
            sort="마지막 성공 이후",
            descending=True,
            runbooks=["ColdChainSourceStale"],
        )
        .with_transformation(merged())
        .with_transformation(columns(names, hidden=["Time"]))
    )
    listed = words_column(listed, "상태", UP, 90)
    return (
        words_column(listed, "수집 항목", SOURCES),
        graph_panel(
            "수집에 걸린 시간",
            "항목마다 마지막 수집에 걸린 시간입니다. 오래 걸리는 항목은 데이터베이스를 아끼려고 드물게 읽습니다.",
            target(series("coldchain_source_duration_seconds"), "{{source}} {{instance}}"),
            unit="s",
            size=(12, 8),
            runbooks=["ColdChainSourceStale"],
        ),
    )
