"""Every query on the real chain: the demo company, watched by all four programs, goes through a backlog of orders."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.e2e.chain import running_chain
from tests.grafana.dashboards import (
    ALL,
    FILES,
    MOVED_BY_A_BACKLOG,
    SHOWN_IN_A_BACKLOG,
    Query,
    document,
    may_be_empty,
    queries,
)
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]
# With every limit on: one that is off has no line.
SETTINGS = "default_interval: 1s\n"


@contextmanager
def company(database: Path) -> Iterator[None]:
    """The demo company lives, without a backlog of its own accord."""
    command = [sys.executable, "-m", "deploy.demo.company"]
    running = subprocess.Popen([*command, "run", "--database", str(database), "--backlog-every", "0"])
    try:
        until(database.exists, "the company has its database")
        yield
    finally:
        running.terminate()
        running.wait(20)


def until_none(found: Callable[[], list[Query]], what: str) -> None:
    """Returns when nothing is found any more; AssertionError with what is, after 2 minutes."""
    last: list[Query] = []

    def none() -> bool:
        last[:] = found()
        return not last

    try:
        until(none, f"there are no {what}", 120, pause=3)
    except AssertionError as error:
        raise AssertionError(f"{error}: {last}") from None


def test_every_panel_has_data_and_follows_a_backlog(tmp_path: Path) -> None:
    filled = {**ALL, "plate": "-", "__rate_interval": "10s"}
    every = [query for path in FILES for query in queries(document(path), filled)]
    moved = [q for q in every if (q.dashboard, q.panel) in MOVED_BY_A_BACKLOG and q.ref == "A"]
    shown = [q for q in every if (q.dashboard, q.panel) in SHOWN_IN_A_BACKLOG]
    database = tmp_path / "company.db"
    with company(database), running_chain(tmp_path, f"sqlite:///{database}", SETTINGS) as chain:
        prometheus = chain.url("prometheus")

        def empty() -> list[Query]:
            return [query for query in every if not may_be_empty(query) and not query.last(prometheus)]

        def still() -> list[Query]:
            return [query for query in moved if not max(query.last(prometheus), default=0) > before[query]]

        until_none(empty, "panels without data")
        # An increase over a few seconds is extrapolated by as much as a backlog adds, if it began with alerts.
        scraped = Query("", "", "", "min(count_over_time(up[1h])) >= 30", instant=True)
        until(lambda: scraped.last(prometheus), "each has been scraped for a while", 120, pause=1)
        before = {query: max(query.last(prometheus), default=0) for query in moved}

        incident = ["-m", "deploy.demo.company", "incident", "--database", str(database)]
        subprocess.run([sys.executable, *incident], check=True, capture_output=True)
        until(lambda: ("ColdChainOrdersWaiting", "warning") in chain.alerts(), "the alert fires", 120, pause=1)
        until_none(still, "panels that a backlog has not moved")
        assert [query for query in shown if not query.last(prometheus)] == []
        assert empty() == []

        # The limit is changed in the exporter's file alone, and the line moves.
        (line,) = (q for q in every if q.panel == "배차 대기 주문 추이" and q.ref == "warning")
        assert line.last(prometheus) == [10]
        (tmp_path / "exporter.yaml").write_text(SETTINGS + "thresholds: {ColdChainOrdersWaiting: {warning: 20}}\n")
        httpx.post(chain.url("exporter", "/-/reload")).raise_for_status()
        until(lambda: line.last(prometheus) == [20], "the line has moved", 60, pause=1)
