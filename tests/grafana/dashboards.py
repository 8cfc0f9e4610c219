"""The committed dashboards, read as Grafana reads them; and their queries with the variables filled in, to be run."""

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

FOLDER = Path(__file__).resolve().parents[2] / "grafana" / "dashboards"
FILES = sorted(FOLDER.glob("*.json"))
Json = dict[str, Any]

# What Grafana fills in by itself, for a scrape interval of 15 s, unless it is given.
BUILT_IN = {"__rate_interval": "1m", "__range": "1h"}
ALL = {"job": ".+", "instance": ".+", "window": "24h"}
VARIABLE = re.compile(r"\$(?:\{(\w+)(?::\w+)?\}|(\w+))")


def document(path: Path) -> Json:
    """The JSON of a dashboard."""
    loaded: Json = json.loads(path.read_text("utf-8"))
    return loaded


def panels(dashboard: Json) -> Iterator[Json]:
    """Every panel that is no heading, those of folded rows too."""
    for panel in dashboard["panels"]:
        yield from (each for each in [panel, *panel.get("panels", [])] if each["type"] != "row")


@dataclass(frozen=True)
class Query:
    """One query of a panel (or of an annotation: its name is the panel's then) as Prometheus gets it."""

    dashboard: str
    panel: str
    ref: str
    expr: str
    instant: bool

    def last(self, prometheus: str) -> list[float]:
        """The last number of each series within 5 seconds; nothing for one that is no number (a quantile of none)."""
        values = [series[-1] for series in self.run(prometheus, seconds=5)]
        return [value for value in values if not math.isnan(value)]

    def run(self, prometheus: str, *, seconds: float = 60, step: float = 1) -> list[list[float]]:
        """The values of each series, asked for as Grafana does: now, or over the last `seconds`.

        Raises AssertionError with Prometheus's own words where it cannot answer.
        """
        now = time.time()
        asked: dict[str, str | float] = {"query": self.expr}
        if not self.instant:
            asked |= {"start": now - seconds, "end": now, "step": step}
        way = "query" if self.instant else "query_range"
        answer = requests.post(f"{prometheus}/api/v1/{way}", data=asked, timeout=30).json()
        assert answer["status"] == "success", f"{self}: {answer.get('error')}"
        return [
            [float(value) for _, value in series.get("values", [series.get("value")])]
            for series in answer["data"]["result"]
        ]


def queries(dashboard: Json, variables: Mapping[str, str] = ALL) -> list[Query]:
    """Every query of a dashboard's panels and annotations; KeyError for a variable that is not given."""

    def filled(expr: str, interval: str = "15s") -> str:
        values = {**BUILT_IN, "__interval": interval, **variables}
        return VARIABLE.sub(lambda name: values[name[1] or name[2]], expr)

    return [
        Query(
            dashboard["uid"],
            panel["title"],
            target["refId"],
            filled(target["expr"], panel.get("interval", "15s")),
            bool(target.get("instant")),
        )
        for panel in panels(dashboard)
        for target in panel["targets"]
    ] + [
        Query(dashboard["uid"], mark["name"], "annotation", filled(mark["expr"]), instant=False)
        for mark in dashboard["annotations"]["list"]
    ]


# What may have no series while all is well, by dashboard, panel and, where it is not all of them, query; and why.
EMPTY_WHEN_CALM: dict[tuple[str, ...], str] = {
    ("coldchain-overview", "발생 중인 알림 목록"): "no alert fires",
    ("coldchain-delivery", "24시간 전달률"): "nothing has been delivered yet",
    ("coldchain-delivery", "채널 상태"): "a channel has no state before its first delivery",
    ("coldchain-delivery", "전달에 걸린 시간 (95%)"): "nothing has been delivered yet",
    ("coldchain-delivery", "전달에 걸린 시간 (중앙값)"): "nothing has been delivered yet",
    ("coldchain-delivery", "채널별 24시간 결과"): "nothing has been delivered yet",
    ("coldchain-delivery", "채널별 발송 (최근 1시간)"): "nothing has been delivered yet",
    ("coldchain-delivery", "하트비트 이후"): "the first heartbeat comes a minute after Prometheus has started",
    ("coldchain-delivery", "하트비트 간격"): "the first heartbeat comes a minute after Prometheus has started",
    ("coldchain-dispatch", "배차 대기 주문과 2시간 뒤 예상", "B"): "half an hour of history makes the first forecast",
    ("coldchain-host", "남은 공간과 24시간 뒤 예상", "B"): "an hour of history makes the first forecast",
    ("coldchain-host", "파일 시스템", "E"): "an hour of history makes the first trend",
    ("coldchain-host", "파일 시스템", "F"): "an hour of history makes the first forecast",
    ("coldchain-dispatch", "온도를 보내는 차량"): "only with the shipped temperature query",
    ("coldchain-dispatch", "적재함 온도: $plate"): "only with the shipped temperature query",
    ("coldchain-dispatch", "허용 한계에 가까운 적재함"): "only with the shipped temperature query",
    ("coldchain-dispatch", "무응답 센서 목록"): "no sensor is silent",
} | {
    (uid, name): "no alert fires"
    for uid in ("coldchain-overview", "coldchain-dispatch", "coldchain-host", "coldchain-delivery")
    for name in ("위험 알림", "경고 알림")
}


def may_be_empty(query: Query) -> bool:
    """Whether the query may find nothing in a system that is well and young."""
    panel = (query.dashboard, query.panel)
    return panel in EMPTY_WHEN_CALM or (*panel, query.ref) in EMPTY_WHEN_CALM


# What is to be seen then, and may be empty before.
SHOWN_IN_A_BACKLOG = {
    ("coldchain-overview", "발생 중인 알림 목록"),
    ("coldchain-overview", "경고 알림"),
    ("coldchain-dispatch", "경고 알림"),
    ("coldchain-delivery", "24시간 전달률"),
    ("coldchain-delivery", "전달에 걸린 시간 (95%)"),
    ("coldchain-delivery", "전달에 걸린 시간 (중앙값)"),
}
# What a backlog of orders that raises ColdChainOrdersWaiting and reaches a channel makes greater, in its query A.
MOVED_BY_A_BACKLOG = {
    ("coldchain-overview", "애플리케이션"),
    ("coldchain-overview", "배차 대기 주문"),
    ("coldchain-overview", "최장 배차 대기"),
    ("coldchain-overview", "배차 대기 주문 추이"),
    ("coldchain-dispatch", "배차 대기 주문"),
    ("coldchain-dispatch", "배차 대기 주문과 2시간 뒤 예상"),
    ("coldchain-dispatch", "최장 배차 대기 추이"),
    ("coldchain-delivery", "24시간 접수"),
    ("coldchain-delivery", "채널별 발송 (최근 1시간)"),
}
