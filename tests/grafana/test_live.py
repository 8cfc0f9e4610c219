"""Every query on a real Prometheus with the shipped rules: two exporters and a receiver, calm and then in trouble."""

import socket
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import httpx
import pytest

from deploy.prometheus.quicken import quicken
from tests.grafana.dashboards import ALL, FILES, Query, document, queries
from tests.grafana.exposition import CALM, TROUBLE, history, scrape, served
from tests.programs import newer_program, program
from tests.waiting import until

FILLED = {**ALL, "plate": "12가3456", "__rate_interval": "10s"}
TROUBLED = {  # panel → what its query A shows in trouble, the greatest of its series
    "전체 상태": 2,
    "데이터베이스": 2,
    "시스템 자원": 2,
    "애플리케이션": 2,
    "모니터링": 1,
    "배차 대기 주문": 14,
    "지연 배차": 8,
    "CPU": 0.95,
    "디스크 (가장 찬 곳)": 0.93,
    "데이터베이스 응답 시간": 1.2,
    "온도 이탈 적재함": 4,
    "가장 오래된 대기": 700,
}
CALMED = {
    "전체 상태": 0,
    "데이터베이스": 0,
    "시스템 자원": 0,
    "애플리케이션": 0,
    "모니터링": 0,
    "배차 대기 주문": 3,
    "온도 이탈 적재함": 0,
    "무응답 센서": 0,
    "수신기": 1,
}


@dataclass
class Company:
    """The address of Prometheus, and what the scrapes say from now on."""

    prometheus: str = ""
    values: dict[str, float] = field(default_factory=lambda: dict(CALM))

    def is_ready(self) -> bool:
        """Whether Prometheus answers."""
        try:
            return httpx.get(f"{self.prometheus}/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        found = httpx.get(f"{self.prometheus}/api/v1/alerts").json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in found if alert["state"] == "firing"}


@pytest.fixture(scope="module", params=[program, newer_program], ids=["installed", "newer"])
def company(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    """A Prometheus that scrapes each second, its rules' times divided by 60, with some hours of history."""
    prometheus: str = request.param("prometheus")
    promtool: str = request.param("promtool")
    folder, made, started = tmp_path_factory.mktemp("prometheus"), Company(), time.time()
    with ExitStack() as open_until_the_end:
        exporter, second, receiver = (
            open_until_the_end.enter_context(served(partial(_scrape, made, process, started)))
            for process in ("exporter", "exporter", "receiver")
        )
        quicken(folder, divide=60, scrape_interval="1s", exporter=exporter, receiver=receiver)
        configuration = folder / "prometheus.yml"
        text = configuration.read_text("utf-8")
        configuration.write_text(text.replace(f"- {exporter}", f"- {exporter}\n          - {second}"), "utf-8")
        (folder / "history").write_text(history([exporter, second], CALM, started), "utf-8")
        subprocess.run(
            [promtool, "tsdb", "create-blocks-from", "openmetrics", "history", "data"],
            cwd=folder,
            check=True,
            capture_output=True,
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        made.prometheus = f"http://{address}"
        with (folder / "log").open("wb") as log:
            running = subprocess.Popen(
                [
                    *(prometheus, f"--web.listen-address={address}", f"--config.file={configuration}"),
                    f"--storage.tsdb.path={folder / 'data'}",
                ],
                stdout=log,
                stderr=log,
            )
        try:
            until(made.is_ready, "Prometheus is ready")
            yield made
        finally:
            running.terminate()
            running.wait(20)


def _scrape(company: Company, process: str, started: float) -> str:
    return scrape(process, company.values, started)


def every_query() -> list[Query]:
    """The queries of all dashboards."""
    return [query for path in FILES for query in queries(document(path), FILLED)]


def shown(company: Company, panels: Mapping[str, float]) -> dict[str, float | None]:
    """What these panels show, the greatest of the series of their query A."""
    return {
        query.panel: max(query.last(company.prometheus), default=None)
        for query in every_query()
        if query.ref == "A" and query.panel in panels
    }


def nothing_shown(company: Company, but: Collection[str] = ()) -> list[Query]:
    """The queries without any number, those of some panels aside."""
    return [query for query in every_query() if query.panel not in but and not query.last(company.prometheus)]


def test_calm_first_and_then_trouble(company: Company) -> None:
    empty = {"발생 중인 알림 목록", "위험 알림", "경고 알림", "무응답 센서 목록"}
    until(lambda: not nothing_shown(company, empty), "every panel but those of what is wrong has data", 60, pause=2)
    assert shown(company, CALMED) == pytest.approx(CALMED)

    company.values = dict(TROUBLE)
    wanted = {
        *("ColdChainCpuHigh", "ColdChainDiskHigh", "ColdChainDatabaseSlow", "ColdChainOrdersWaiting"),
        *("ColdChainDispatchesOverdue", "ColdChainTemperatureOutOfRange", "ColdChainOutboxOld"),
    }
    until(lambda: wanted <= company.firing(), "the alerts fire", 60)
    assert shown(company, TROUBLED) == pytest.approx(TROUBLED)
    # But for the mark of a critical alert of the receiver's own, and a silent sensor: there is none in this trouble
    assert {(query.dashboard, query.panel) for query in nothing_shown(company)} == {
        ("coldchain-delivery", "위험 알림"),
        ("coldchain-dispatch", "무응답 센서 목록"),
    }
