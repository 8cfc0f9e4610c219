"""A limit changed in the exporter's file changes the alert: no rule is touched, Prometheus is not reloaded."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.databases import SQLite
from tests.e2e.chain import EXPORTER_SETTINGS, Chain, running_chain
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ALERT = ("ColdChainOrdersWaiting", "warning")


def limit(chain: Chain, value: str) -> None:
    """Writes the limit into the exporter's file and has it read again."""
    (chain.folder / "exporter.yaml").write_text(f"{EXPORTER_SETTINGS}  ColdChainOrdersWaiting: {{warning: {value}}}\n")
    httpx.post(chain.url("exporter", "/-/reload")).raise_for_status()


def test_a_changed_limit_changes_the_alert(tmp_path: Path, sqlite: SQLite) -> None:
    sqlite.execute(
        """
        WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 5)
        INSERT INTO orders (order_number, order_date, temperature_zone, status, priority, created_at, updated_at)
        SELECT 'L-' || n, date('now'), 'FROZEN', 'PENDING', 1, datetime('now', '-3 hours'), datetime('now') FROM n
        """
    )
    with running_chain(tmp_path, sqlite.url) as chain:
        until(lambda: chain.metrics().get("coldchain_orders_waiting") == 5, "the five are counted")
        assert ALERT not in chain.alerts()
        limit(chain, "4")
        until(lambda: ALERT in chain.alerts(), "the alert fires above the new limit", 60)
        until(lambda: chain.mails("대기 중인 주문이 5건"), "the mail tells of five", 60)
        limit(chain, "off")
        until(lambda: ALERT not in chain.alerts(), "the alert ends when it is switched off", 60)
        assert chain.metrics()['coldchain_alert_threshold{alert="ColdChainOrdersWaiting",severity="warning"}'] == float(
            "inf"
        )
