"""A PostgreSQL that keeps its connections open and says nothing: who asks meanwhile is answered all the same."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from deploy.demo.sandbox import Sandbox
from receiver.outbox import Outbox
from receiver.store import Store, StoreUnavailableError, read_url
from tests.databases import PostgreSQL
from tests.receiver.conftest import new_database
from tests.receiver.test_process import Process, critical, running
from tests.waiting import until

SCRAPE_TIMEOUT = 10.0  # Prometheus' default
OF_THE_STORE = ("coldchain_receiver_outbox_deliveries{", "coldchain_receiver_outbox_oldest_seconds{")


@pytest.fixture
def process(sandbox: Sandbox, tmp_path: Path, postgresql: PostgreSQL) -> Iterator[Process]:
    """At work on a server that goes on at the end."""
    one = Process(sandbox, tmp_path, RECEIVER_DATABASE_URL=new_database(postgresql))
    with running(one):
        assert one.post(critical())[0] == 200
        until(lambda: set(one.states(1).values()) == {"delivered"}, "all arrive")
        try:
            yield one
        finally:
            postgresql.thaw()


def threads(process: Process) -> int:
    assert process.popen is not None
    return psutil.Process(process.popen.pid).num_threads()


def scraped(process: Process) -> list[str]:
    """The names of the store's series that a scrape shows, asked as Prometheus asks."""
    answer = process.client.get("/metrics", timeout=SCRAPE_TIMEOUT)
    assert answer.status_code == 200
    assert "coldchain_receiver_build_info{" in answer.text
    return [name for name in OF_THE_STORE if name in answer.text]


def test_scrapes_are_answered_without_the_stores_numbers_and_leave_no_threads(
    process: Process, postgresql: PostgreSQL
) -> None:
    assert scraped(process) == list(OF_THE_STORE)
    postgresql.freeze()
    assert scraped(process) == []
    before = threads(process)
    assert [scraped(process) for _ in range(3)] == [[], [], []]
    assert threads(process) <= before + 1  # one that has ended, or not quite
    postgresql.thaw()
    until(lambda: scraped(process) == list(OF_THE_STORE), "the numbers are back")


def test_whoever_asks_the_store_hears_that_it_is_unavailable_and_holds_nobody_up(
    process: Process, postgresql: PostgreSQL
) -> None:
    told = {"title": "t", "message": "m", "level": "info", "channels": ["slack"]}
    asked = [
        ("GET", "/api/v1/notifications", None),
        ("GET", "/api/v1/notifications/1", None),
        ("GET", "/api/v1/alerts", None),
        ("POST", "/api/v1/deliveries/1/retry", None),
        ("POST", "/api/v1/monitoring/notify", told),
    ]
    postgresql.freeze()
    with ThreadPoolExecutor(len(asked) + 1) as others:
        ready = others.submit(process.client.get, "/-/ready")
        answers = [others.submit(process.client.request, method, path, json=body) for method, path, body in asked]
        while not all(answer.done() for answer in (ready, *answers)):
            assert process.client.get("/-/healthy", timeout=5).text == "Healthy\n"
    unavailable = (503, {"detail": "the store is unavailable: try again"})
    assert [(one.result().status_code, one.result().json()) for one in answers] == [unavailable] * len(asked)
    assert (ready.result().status_code, ready.result().text) == (503, "Not ready: the store is unavailable\n")
    page = process.client.get("/")
    assert page.status_code == 200
    assert "connection timeout expired" in page.text


def test_what_was_under_way_fails_and_the_next_finds_the_server_that_goes_on(postgresql: PostgreSQL) -> None:
    store = Store(read_url(new_database(postgresql)))
    store.start()
    outbox = Outbox(store, "one")
    try:
        assert outbox.heartbeat() is None
        postgresql.freeze()
        with pytest.raises(StoreUnavailableError):
            outbox.heartbeat()
        postgresql.thaw()
        assert outbox.heartbeat() is None
    finally:
        postgresql.thaw()
        store.close()
