"""Any period: exact on each database, asked once for all, within bounds, and at nobody's expense."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import pytest

from exporter.collector import next_interval
from exporter.databases import DatabaseError, Failure
from exporter.families import Family
from exporter.periods import SHARE_OF_TIME, Allowance, Answer, Desk, Periods, Question
from exporter.settings import ExporterSettings
from exporter.snapshot import Board, Snapshot
from exporter.sources import Plan, plans
from exporter.sources.table import TableSource
from tests.databases import PostgreSQL
from tests.exporter.awkward import NOW, Site, close, fill
from tests.exporter.running import Exporter, running
from tests.exporter.snapshots import STATES
from tests.exporter.test_exact import (  # noqa: F401 - fixtures
    mariadb_native_site,
    mariadb_site,
    postgresql_naive_site,
    postgresql_site,
    site,
    sqlite_berlin_site,
    sqlite_site,
)
from tests.waiting import until

DAY2 = timedelta(hours=48)
FAMILIES = (Family("coldchain_orders", "", ("window", "status"), {("48h", "pending"): 1}),)


# -- figures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [2, 25, 167])
def test_a_period_counts_as_hand_written_sql_counts_it(site: Site, hours: int) -> None:  # noqa: F811
    fill(site, NOW)
    settings = ExporterSettings.model_validate({"database_url": site.url, "database_timezone": site.zone or "UTC"})
    found: dict[tuple[str, ...], float] = {}
    for plan in plans(settings):
        if plan.name in {"orders", "dispatches"}:
            source = plan.make()
            assert isinstance(source, TableSource)
            for family in source.collect_window(NOW, 5, timedelta(hours=hours)):
                found |= {(family.name, *labels): value for labels, value in family.samples.items()}
            source.close()
    inside = f"{site.when('created_at', '>=', NOW - timedelta(hours=hours))} AND {site.when('created_at', '<=', NOW)}"
    expected: dict[tuple[str, ...], float] = {}
    for table, statuses in (
        ("orders", ("PENDING", "ASSIGNED", "IN_TRANSIT", "DELIVERED", "CANCELLED", "ON_HOLD")),
        ("dispatches", ("DRAFT", "CONFIRMED", "IN_PROGRESS", "COMPLETED", "CANCELLED")),
    ):
        for status in statuses:
            rows = site.one(f"SELECT count(*) FROM {table} WHERE {inside} AND status = '{status}'")
            expected[f"coldchain_{table}", f"{hours}h", status.lower()] = rows
    took = site.seconds.format(start="created_at", end="updated_at")
    mean = site.one(
        f"SELECT avg({took}) FROM orders WHERE {inside} AND status = 'DELIVERED' AND updated_at >= created_at"
    )
    expected["coldchain_orders_processing_seconds_mean", f"{hours}h"] = float(mean)
    mean = site.one(f"SELECT avg(total_distance_km) FROM dispatches WHERE {inside}")
    expected["coldchain_dispatches_distance_meters_mean", f"{hours}h"] = float(mean) * 1000
    assert found.keys() == expected.keys()
    assert {name for name, value in found.items() if not close(value, expected[name])} == set()


# -- what it may cost --------------------------------------------------------------------------------------------------


def test_questions_take_five_percent_of_the_time_after_a_second_that_is_saved_up() -> None:
    allowance, now, spent, begun = Allowance(), 1000.0, 0.0, []
    while now < 1200:
        if now >= allowance.free_at:
            begun.append(now)
            allowance, spent = allowance.spend(now, 0.25), spent + 0.25
        now += 0.25
    assert [moment - 1000 for moment in begun[:8]] == [0, 0.25, 0.5, 0.75, 1.0, 5.0, 10.0, 15.0]
    assert spent <= 1.25 + 200 * SHARE_OF_TIME


@pytest.mark.parametrize(
    ("duration", "failure", "asked", "interval"),
    [
        (0.2, None, 0.0, 15),
        (0.2, None, 1.0, 15),
        (0.2, None, 2.0, 22),
        (2.0, None, 1.0, 30),
        (5.0, DatabaseError("", Failure.SLOW), 1.0, 60),
        (5.0, DatabaseError("", Failure.BUSY), 2.0, 20),
        (5.0, DatabaseError("", Failure.UNREACHABLE), 0.0, 15),
    ],
)
def test_what_questions_cost_is_charged_to_the_source(
    duration: float, failure: DatabaseError | None, asked: float, interval: float
) -> None:
    plan = Plan("orders", 15, 5, (), lambda: None, "db")  # type: ignore[arg-type, return-value] # it is not made
    assert next_interval(plan, duration, failure, asked) == pytest.approx(interval)


# -- the desk ----------------------------------------------------------------------------------------------------------


def question(begin_within: float = 60) -> Question:
    now = time.monotonic()
    return Question(DAY2, now + begin_within, now + begin_within + 5)


def test_questions_are_taken_in_turn() -> None:
    desk, first, second = Desk(), question(), question()
    desk.ask(first)
    desk.ask(second)
    soon = time.monotonic() + 60
    assert desk.next(soon) is first
    assert desk.next(soon) is second


def test_nothing_is_taken_once_the_next_look_is_due() -> None:
    desk = Desk()
    desk.ask(question())
    assert desk.next(time.monotonic() - 1) is None


def test_a_question_that_cannot_begin_in_time_is_told_so() -> None:
    desk, late = Desk(), question(begin_within=0.1)
    desk.settle(FAMILIES, None, time.monotonic(), cost=10)
    desk.ask(late)
    assert desk.next(time.monotonic() + 1) is None
    assert late.answer.result(0) == Answer(None, "too much is asked of the database: try again in a few seconds")


def test_an_answer_is_kept_as_long_as_it_was_expensive() -> None:
    for cost, kept in ((0.0, 5), (0.1, 5), (1.0, 20)):
        desk, asked = Desk(lambda: 1000.0), Question(DAY2, 1005.0, 1010.0)
        desk.ask(asked)
        assert desk.next(until=1060.0) is asked
        desk.settle(FAMILIES, None, 999.0, cost)
        assert asked.answer.result(0) == Answer(FAMILIES, None, good_until=1000.0 + kept)


def test_a_desk_that_is_closed_leaves_nobody_waiting() -> None:
    desk, taken, waiting, late = Desk(), question(), question(), question()
    desk.ask(taken)
    desk.ask(waiting)
    desk.next(time.monotonic() + 60)
    desk.close()
    desk.ask(late)
    assert {one.answer.result(0).error for one in (taken, waiting, late)} == {"the source is switched off"}
    desk.settle(FAMILIES, None, time.monotonic(), 1)  # what was looked for has come after all
    assert desk.next(time.monotonic() + 60) is None


# -- sharing -----------------------------------------------------------------------------------------------------------


class Asked:
    """Notes what is asked, and answers when it is told to."""

    def __init__(self, board: Board | None = None) -> None:
        self.now = 100.0
        self.questions: list[tuple[str, Question]] = []
        self.board = board or Board(Snapshot(MappingProxyType(STATES)))
        self.periods = Periods(self.board, lambda name, asked: self.questions.append((name, asked)), lambda: self.now)

    async def find(self, callers: int = 1, window: timedelta = DAY2) -> list[dict[str, Answer]]:
        """What so many callers get at once, with all that is asked answered meanwhile."""
        tasks = [asyncio.create_task(self.periods.find(window)) for _ in range(callers)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for _, asked in self.questions:
            if not asked.answer.done():
                asked.answer.set_result(Answer(FAMILIES, None, good_until=self.now + 5))
        return await asyncio.gather(*tasks)


def test_callers_share_one_question_and_its_answer_for_a_while() -> None:
    asked = Asked()

    async def story() -> None:
        found = await asked.find(callers=20)
        assert found == [dict.fromkeys(("orders", "dispatches"), Answer(FAMILIES, None, 105.0))] * 20
        assert [name for name, _ in asked.questions] == ["orders", "dispatches"]
        asked.now = 104.9
        await asked.find()
        assert len(asked.questions) == 2
        await asked.find(window=timedelta(hours=49))
        assert len(asked.questions) == 4
        asked.now = 105.0
        await asked.find()
        assert len(asked.questions) == 6

    asyncio.run(story())


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (None, "the source is switched off"),
        (replace(STATES["orders"], error="locked", hint="by whom?"), "locked (by whom?)"),
        (
            replace(STATES["orders"], running_since=90.0),
            "no answer within the time-out (is it frozen, or the network dead?)",
        ),
    ],
)
def test_a_source_that_is_off_or_fails_is_not_asked(state: Any, error: str) -> None:
    states = {name: one for name, one in (STATES | {"orders": state}).items() if one is not None}
    asked = Asked(Board(Snapshot(MappingProxyType(states))))
    [found] = asyncio.run(asked.find())
    assert (found["orders"], found["dispatches"].error) == (Answer(None, error), None)
    assert [name for name, _ in asked.questions] == ["dispatches"]


# -- the running exporter ----------------------------------------------------------------------------------------------

ONCE = "default_interval: 500ms\ndefault_timeout: 1s\nsources: {host: {enabled: false}, orders: {interval: 1h}}\n"
"""Orders are looked at once; then only when somebody asks."""


def metrics(exporter: Exporter, hours: int) -> Any:
    # not by httpx, which takes so long to get ready for ten at once that a query of a second may be over by then
    url = f"http://127.0.0.1:{exporter.port}/api/v1/monitoring/metrics?period_hours={hours}"
    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.load(answer)


def order(database: PostgreSQL, number: int, age: str) -> None:
    database.execute(
        "INSERT INTO orders (order_number, order_date, temperature_zone, status, created_at) "
        f"VALUES ('P-{number}', '2026-01-27', 'FROZEN', 'ASSIGNED', now() - interval '{age}')"
    )


def test_a_window_of_the_settings_needs_no_query_and_any_other_does(tmp_path: Path, postgresql: PostgreSQL) -> None:
    postgresql.clear()
    order(postgresql, 1, "30 hours")
    with running(tmp_path, ONCE, database_url=postgresql.url) as exporter:
        until(lambda: exporter.up().get("orders") == 1, "orders are there")
        order(postgresql, 2, "31 hours")
        assert metrics(exporter, 168)["orders"]["total"] == 1
        assert metrics(exporter, 48)["orders"]["total"] == 2
        assert metrics(exporter, 24)["orders"]["total"] == 0
        order(postgresql, 3, "32 hours")
        assert metrics(exporter, 48)["orders"]["total"] == 2  # kept
        until(lambda: metrics(exporter, 48)["orders"]["total"] == 3, "it is asked again", pause=0.5)
        until(lambda: exporter.connections(postgresql.port) == 3, "that of orders is not kept for an hour")
    postgresql.clear()


def test_a_lock_costs_a_period_its_own_section(tmp_path: Path, postgresql: PostgreSQL) -> None:
    with running(tmp_path, ONCE, database_url=postgresql.url) as exporter:
        until(lambda: sum(exporter.up().values()) == 4, "all are up")
        with postgresql.connect() as connection, connection.transaction():
            connection.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
            document = metrics(exporter, 48)
            assert document["orders"] is None
            assert document["errors"] == {
                "orders": "waited in vain for a lock that another session holds",
                "system": "the source is switched off",
            }
            assert document["dispatches"] is not None
            assert exporter.up()["orders"] == 1  # its own last look was fine
        until(lambda: metrics(exporter, 49)["orders"] is not None, "orders are back")


def test_a_period_that_times_out_is_ended_by_the_server(tmp_path: Path, postgresql: PostgreSQL) -> None:
    with postgresql.connect() as connection:
        connection.execute("CREATE SCHEMA slow; GRANT USAGE ON SCHEMA slow TO coldchain_exporter")
        connection.execute("CREATE VIEW slow.orders AS SELECT * FROM public.orders")
        connection.execute("GRANT SELECT ON slow.orders TO coldchain_exporter")
        try:
            url = f"{postgresql.url}?options=-csearch_path%3Dslow,public"
            with running(tmp_path, ONCE, database_url=url) as exporter:
                until(lambda: exporter.up().get("orders") == 1, "orders are there")
                connection.execute(
                    "CREATE OR REPLACE VIEW slow.orders AS "
                    "SELECT o.* FROM pg_sleep(60) LEFT JOIN public.orders o ON true"
                )
                with ThreadPoolExecutor() as pool:
                    answers = [pool.submit(metrics, exporter, 48) for _ in range(10)]
                    busy = until(lambda: ours(postgresql), "a query of ours is running")
                    documents = [answer.result() for answer in answers]
                assert busy == 1
                assert {document["orders"] for document in documents} == {None}
                assert {document["errors"]["orders"] for document in documents} == {"the query ran into its time-out"}
                assert ours(postgresql) == 0
                assert exporter.up()["orders"] == 1
                # it cost a second, so the next but one has to wait, and nothing is asked meanwhile
                metrics(exporter, 49)
                assert metrics(exporter, 50)["errors"]["orders"].startswith("too much is asked of the database")
                assert ours(postgresql) == 0
        finally:
            connection.execute("DROP SCHEMA slow CASCADE")


def ours(postgresql: PostgreSQL) -> int:
    """How many queries of the exporter's on orders are running."""
    [(number,)] = postgresql.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'coldchain-exporter' AND state = 'active' "
        "AND query LIKE '%FROM orders%'"
    )
    return int(number)


def test_a_frozen_server_is_asked_once_and_answers_again_when_it_goes_on(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    with running(tmp_path, ONCE, database_url=postgresql.url) as exporter:
        until(lambda: sum(exporter.up().values()) == 4, "all are up")
        assert metrics(exporter, 48)["orders"] is not None
        postgresql.freeze()
        try:
            started = time.monotonic()
            document = metrics(exporter, 49)
            assert (document["orders"], document["dispatches"]) == (None, None)
            assert time.monotonic() - started < 10
            until(lambda: exporter.up()["orders"] == 0, "what hangs counts as failing")
            hangs = "no answer within the time-out"  # while a look hangs; between two of them, and later, it says more
            until(lambda: metrics(exporter, 50)["errors"]["orders"] == hangs, "the next period is told so at once")
            assert exporter.connections(postgresql.port) <= 4
        finally:
            postgresql.thaw()
        until(lambda: exporter.up()["orders"] == 1, "orders are looked at again")
        until(lambda: metrics(exporter, 51)["orders"] is not None, "periods are answered again")


def test_the_process_ends_at_once_while_a_period_is_waited_for(tmp_path: Path, postgresql: PostgreSQL) -> None:
    settings = "default_interval: 15s\nsources: {host: {enabled: false}}\n"
    with running(tmp_path, settings, database_url=postgresql.url) as exporter:
        until(lambda: sum(exporter.up().values()) == 4, "all are up")
        postgresql.freeze()
        try:
            with ThreadPoolExecutor() as pool:
                answer = pool.submit(metrics, exporter, 48)
                until(lambda: asks(exporter), "the question is under way")
                assert exporter.end(signal.SIGTERM, seconds=4) == 0  # the time-out is 5 s
                assert answer.result()["orders"] is None
            assert exporter.warnings() == []
        finally:
            postgresql.thaw()


def asks(exporter: Exporter) -> bool:
    """Whether somebody is connected to it, and waits."""
    found = psutil.Process(exporter.popen.pid).net_connections("tcp")
    return any(one.laddr.port == exporter.port and one.status == psutil.CONN_ESTABLISHED for one in found)
