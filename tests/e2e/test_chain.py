"""A real alert goes from the dispatch database to an inbox, and its end as well."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.databases import PostgreSQL
from tests.deploy.files import RULE_FILES, recorded, rules
from tests.deploy.promql import problems, scraped
from tests.e2e.chain import Chain, running_chain
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, postgresql: PostgreSQL) -> Iterator[Chain]:
    with running_chain(tmp_path_factory.mktemp("chain"), postgresql.url) as running:
        yield running


def business_series(chain: Chain) -> list[str]:
    """The names of what the exporter shows of the business."""
    prefixes = ("coldchain_orders", "coldchain_dispatches", "coldchain_vehicles")
    return [name for name in chain.metrics() if name.startswith(prefixes)]


def scrape(chain: Chain, times: int) -> None:
    """Raises where a scrape does not answer 200 within a second: far beyond what it takes, far below a time-out's."""
    with httpx.Client(timeout=1) as client:
        for _ in range(times):
            client.get(chain.url("exporter", "/metrics")).raise_for_status()


def test_from_the_database_to_the_inbox_and_back(chain: Chain, postgresql: PostgreSQL) -> None:
    backlog = "2시간 이상 배차 대기 중인 주문이 11건 있습니다"
    down = "데이터베이스에 연결할 수 없습니다"

    postgresql.clear()
    postgresql.execute(
        "INSERT INTO vehicles (code, plate_number, vehicle_type, status, is_active) "
        "VALUES ('V-1', '12가 3456', 'FROZEN', 'IN_USE', true)"
    )

    # 1. Eleven orders wait for over two hours: one warning by email and Slack, and no SMS.
    postgresql.execute(
        """
        INSERT INTO orders (order_number, order_date, temperature_zone, status, priority, created_at, updated_at)
        SELECT 'E2E-' || n, current_date, 'FROZEN', 'PENDING', 1, now() - interval '150 minutes', now()
        FROM generate_series(1, 11) AS n
        """
    )
    until(lambda: chain.mails(backlog) and chain.slacks(backlog), "the warning arrives", 90)
    assert ("ColdChainOrdersWaiting", "warning") in chain.alerts()
    assert (len(chain.mails(backlog)), len(chain.slacks(backlog))) == (1, 1)
    assert "배차 대기 주문 많음" in chain.mails(backlog)[0]["subject"]
    assert "[WARNING]" in chain.slacks(backlog)[0]
    assert chain.texts("배차") == []

    # 2. They are dispatched: a resolved message on the same channels.
    postgresql.execute("UPDATE orders SET status = 'ASSIGNED' WHERE order_number LIKE 'E2E-%'")
    resolved = until(
        lambda: [mail for mail in chain.mails("배차 대기 주문 많음") if "해소" in mail["subject"]],
        "the mail says that it is resolved",
        120,
    )
    until(lambda: [text for text in chain.slacks("배차 대기 주문 많음") if "해소" in text], "Slack says so too")
    assert len(resolved) == 1
    assert chain.texts("배차") == []

    # 3. The database stops: a critical alert on all three channels; scrapes go on, without business series.
    postgresql.stop()
    scrape(chain, 50)
    until(lambda: chain.mails(down) and chain.slacks(down) and chain.texts("데이터베이스"), "all three tell", 120)
    assert ("ColdChainDatabaseDown", "critical") in chain.alerts()
    assert "[CRITICAL]" in chain.slacks(down)[0]
    assert [text["receiver"] for text in chain.texts("데이터베이스")] == ["01087654321"]
    until(lambda: not business_series(chain), "no business series is shown", 60)
    assert chain.metrics()["coldchain_database_up"] == 0
    scrape(chain, 50)

    # 4. The database is back: resolved, and the gauges are back, without any restart.
    pids = {name: process.popen.pid for name, process in chain.processes.items()}
    postgresql.start()
    until(
        lambda: chain.metrics().get('coldchain_orders{status="assigned",window="24h"}') == 11, "the gauges are back", 60
    )
    until(lambda: [mail for mail in chain.mails("데이터베이스") if "해소" in mail["subject"]], "the mail says so", 120)
    until(lambda: [text for text in chain.slacks("데이터베이스") if "해소" in text], "Slack says so")
    until(lambda: [text for text in chain.texts("데이터베이스") if "해소" in text["msg"]], "the phone says so")
    assert {name: process.popen.poll() for name, process in chain.processes.items()} == dict.fromkeys(pids)


def test_rules_use_only_series_and_labels_of_a_real_scrape(chain: Chain) -> None:
    until(lambda: "coldchain_vehicles_utilization_ratio" in chain.metrics(), "the vehicles are counted")
    pages = [httpx.get(chain.url(name, "/metrics")).text for name in ("exporter", "receiver")]
    up = "up 1\n"  # Prometheus makes it of every scrape
    known = {**scraped(*pages, up), **recorded(RULE_FILES)}
    shipped = [rule["expr"] for path in RULE_FILES if path.stem != "cold-chain" for rule in rules([path])]
    assert problems(shipped, known) == []


def test_every_process_ends_cleanly_on_sigterm(chain: Chain) -> None:
    assert {name: chain.processes[name].end() for name in ("exporter", "receiver")} == {"exporter": 0, "receiver": 0}
