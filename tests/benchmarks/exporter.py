"""`make bench-exporter`: the exporter against its peers on one large database, as ratios of one run."""

from __future__ import annotations

import argparse
import http.client
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from tests.benchmarks import peers
from tests.benchmarks.measure import (
    Row,
    Target,
    interleaved,
    latencies,
    megabytes,
    milliseconds,
    quantile,
    requests_per_second,
    table,
)
from tests.databases import PostgreSQL, free_port
from tests.waiting import until

DISPATCHES = 200_000
VEHICLES = 500
LONG = "[1h, 3h, 6h, 12h, 24h, 72h, 168h]"  # so that the page has 150 samples on a host with one file system
DAYS = 180  # over which 1,000,000 orders are spread: 230 an hour


def fill(database: PostgreSQL, orders: int) -> None:
    """Orders spread evenly over the past, the newest now; nearly all delivered, as in a business that goes on."""
    database.clear()
    spread = f"interval '{DAYS * orders / 1_000_000} days'"
    database.execute(
        f"""
        INSERT INTO orders (order_number, order_date, temperature_zone, status, priority, customer_note,
                            created_at, updated_at)
        SELECT 'O-' || n, t::date, 'FROZEN',
               (CASE WHEN n > {orders} - 300 THEN 'PENDING' WHEN n > {orders} - 900 THEN 'IN_TRANSIT'
                     WHEN n % 50 = 0 THEN 'CANCELLED' ELSE 'DELIVERED' END)::orderstatus,
               n % 5, repeat('x', 60), t, t + interval '6 hours'
        FROM (SELECT n, now() - {spread} * (1 - n / {orders}.0) AS t FROM generate_series(1, {orders}) AS n) AS made
        """
    )
    database.execute(
        f"""
        INSERT INTO dispatches (dispatch_number, dispatch_date, vehicle_id, total_distance_km, status,
                                created_at, updated_at)
        SELECT 'D-' || n, t::date, n % {VEHICLES} + 1, n % 400,
               (CASE WHEN n > {DISPATCHES} - 60 THEN 'IN_PROGRESS' ELSE 'COMPLETED' END)::dispatchstatus, t, t
        FROM (SELECT n, now() - interval '{DAYS} days' * (1 - n / {DISPATCHES}.0) AS t
              FROM generate_series(1, {DISPATCHES}) AS n) AS made
        """
    )
    database.execute(
        f"""
        INSERT INTO vehicles (code, plate_number, vehicle_type, status, is_active)
        SELECT 'V-' || n, 'P-' || n, 'FROZEN',
               (CASE WHEN n % 3 = 0 THEN 'IN_USE' ELSE 'AVAILABLE' END)::vehiclestatus, true
        FROM generate_series(1, {VEHICLES}) AS n
        """
    )
    database.execute("VACUUM ANALYZE")


def our_exporter(folder: Path, database_url: str, windows: str = "[1h, 24h, 168h]") -> AbstractContextManager[Target]:
    """Ours, as it comes; more windows make a longer page."""
    port = free_port()
    (folder / "exporter.yaml").write_text(f"windows: {windows}\n")
    os.environ["DATABASE_URL"] = database_url
    command = [
        *(sys.executable, "-m", "exporter", f"--web.listen-address=127.0.0.1:{port}"),
        f"--config.file={folder / 'exporter.yaml'}",
    ]
    return peers.started("exporter", command, port, "/metrics", folder)


def value(page: bytes, name: str) -> float:
    """A sample's value."""
    found = [line for line in page.decode().splitlines() if line.startswith(name + " ")]
    return float(found[0].rpartition(" ")[2])


def database_seconds(target: Target, times: int) -> float:
    """The median of what one refresh of the sources takes in the database: the sum of their durations."""
    found: list[float] = []
    sources = ("database", "orders", "dispatches", "vehicles")
    last = 0.0
    while len(found) < times:
        page = target.get()
        stamp = value(page, 'coldchain_source_last_success_timestamp_seconds{source="orders"}')
        if stamp != last:
            last = stamp
            found.append(sum(value(page, f'coldchain_source_duration_seconds{{source="{name}"}}') for name in sources))
        time.sleep(0.2)
    return statistics.median(found)


def count_seconds(database: PostgreSQL, times: int) -> float:
    """The median of a bare count of the orders, on a connection that is open."""
    found = []
    with database.connect() as connection:
        for _ in range(times):
            begin = time.perf_counter()
            connection.execute("SELECT count(*) FROM orders").fetchall()
            found.append(time.perf_counter() - begin)
    return statistics.median(found)


def while_locked(database: PostgreSQL, seconds: float, measure: Callable[[], list[float]]) -> list[float]:
    """What `measure` finds while nobody can read the orders."""
    locked, done = threading.Event(), threading.Event()

    def lock() -> None:
        with database.connect() as connection, connection.transaction():
            connection.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
            locked.set()
            done.wait(seconds)

    thread = threading.Thread(target=lock)
    thread.start()
    locked.wait()
    found = measure()
    thread.join()
    return found


def main() -> int:
    """Prints the table; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="bench-exporter")
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and no ten-fold history")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "coldchain-bench")
    options = parser.parse_args()
    run = options.cache / "run"
    run.mkdir(parents=True, exist_ok=True)
    peers.query_exporter_program(options.cache)
    database = PostgreSQL()
    try:
        rows = _measure(database, run, options.orders, quick=options.quick)
    finally:
        database.remove()
    print(table(rows))
    return 0 if all(row.reached for row in rows) else 1


def _say(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)


def _measure(database: PostgreSQL, run: Path, orders: int, *, quick: bool) -> list[Row]:
    owner = f"postgresql://owner@127.0.0.1:{database.port}/dispatch"
    database.execute("ALTER ROLE owner PASSWORD 'bench'")
    owner = owner.replace("owner@", "owner:bench@")
    rounds, times = (2, 150) if quick else (6, 400)
    rows: list[Row] = []

    _say(f"filling {orders:,} orders")
    fill(database, orders)
    bare = count_seconds(database, 9)

    _say("start to first scrape with business series")
    starts: dict[str, list[float]] = {"exporter": [], "query_exporter": []}
    for _ in range(2 if quick else 3):
        with our_exporter(run, database.url) as ours:
            starts["exporter"].append(ours.wait(b"coldchain_vehicles_utilization_ratio "))
            ours.wait(b"coldchain_orders{")
        with peers.query_exporter(run, owner, 40) as peer:
            starts["query_exporter"].append(peer.wait(b"bench_vehicles{"))
    first = {name: statistics.median(found) for name, found in starts.items()}
    rows.append(
        Row(
            "start to first business series, against query-exporter",
            milliseconds(first["exporter"]),
            milliseconds(first["query_exporter"]),
            first["exporter"] / first["query_exporter"],
            1,
        )
    )

    with our_exporter(run, database.url, LONG) as ours:
        ours.wait(b"coldchain_orders{")
        ours.wait(b"coldchain_dispatches{")
        samples = ours.samples()
        _say(f"our page has {samples} samples")
        with (
            peers.sql_exporter(run, owner, max(1, samples - 60)) as sql,
            peers.query_exporter(run, owner, max(1, samples - 60)) as query,
            peers.node_exporter(run) as node,
            peers.client_app(run, samples) as client,
        ):
            for target, text in ((sql, b"bench_filler"), (query, b"bench_filler{"), (node, b"node_"), (client, b"99")):
                target.wait(text)
            _say(f"samples: { ({each.name: each.samples() for each in (ours, sql, query, node, client)}) }")
            _say("scrapes in turn")
            found = {
                name: statistics.median(each)
                for name, each in interleaved((ours, sql, query, node), rounds, times).items()
            }
            for name, bar in (("sql_exporter", 1.0), ("node_exporter", 1 / 5), ("query_exporter", 1 / 3)):
                rows.append(
                    Row(
                        f"scrape p50, {samples} samples, against {name}",
                        milliseconds(found["exporter"]),
                        milliseconds(found[name]),
                        found["exporter"] / found[name],
                        bar,
                    )
                )
            _say("requests a second")
            rates: dict[str, list[float]] = {"exporter": [], "prometheus_client": []}
            for _ in range(1 if quick else 3):
                for target in (ours, client):
                    rates[target.name].append(requests_per_second(target))
            rate = {name: statistics.median(each) for name, each in rates.items()}
            rows.append(
                Row(
                    "requests/s at 8 connections, against prometheus_client's ASGI app",
                    f"{rate['exporter']:.0f}",
                    f"{rate['prometheus_client']:.0f}",
                    rate["exporter"] / rate["prometheus_client"],
                    6,
                    higher_is_better=True,
                )
            )
            _say("memory")
            rows.append(
                Row(
                    "resident memory after 1,000 scrapes, against query-exporter",
                    megabytes(ours.resident_bytes()),
                    megabytes(query.resident_bytes()),
                    ours.resident_bytes() / query.resident_bytes(),
                    1,
                )
            )
        before = ours.resident_bytes()
        latencies(ours, 2_000 if quick else 20_000)
        rows.append(
            Row(
                "resident memory, 20,000 scrapes later",
                megabytes(ours.resident_bytes()),
                megabytes(before),
                ours.resident_bytes() / before,
                1.02,
            )
        )

    with our_exporter(run, database.url) as ours:
        ours.wait(b"coldchain_orders{")
        _say("database time of a refresh")
        refresh = database_seconds(ours, 3 if quick else 7)
        rows.append(
            Row(
                "database time of one refresh, against count(*) of orders",
                milliseconds(refresh),
                milliseconds(bare),
                refresh / bare,
                3,
            )
        )

        seconds = 8.0 if quick else 30.0
        pages = int(seconds / 0.01)

        def calm() -> list[float]:
            return latencies(ours, pages, pause=0.008)

        _say("scrapes undisturbed, twice; with orders locked; with the database stopped")
        undisturbed, again = calm(), calm()
        rows.append(_tail("scrape p99, undisturbed twice (the noise)", again, undisturbed))
        rows.append(_tail("scrape p99 while orders is locked", while_locked(database, seconds, calm), undisturbed))
        database.freeze()
        rows.append(_tail("scrape p99 while the database is frozen", calm(), undisturbed))
        database.thaw()
        until(lambda: b"coldchain_orders{" in ours.get(), "the gauges are back", 60)

        _say("dashboard")
        dashboard = Target("exporter", ours.port, "/api/v1/monitoring/dashboard", ours.pid)
        try:
            page = statistics.median(latencies(dashboard, times))
        except (RuntimeError, http.client.HTTPException) as error:
            _say(f"no dashboard: {error}")
        else:
            rows.append(Row("GET dashboard p50, against 5 ms", milliseconds(page), "5 ms", page / 0.005, 1))

    if not quick:
        rows.append(_history(database, run, orders))
    return rows


def _tail(what: str, found: list[float], floor: list[float]) -> Row:
    ours, theirs = quantile(found, 0.99), quantile(floor, 0.99)
    return Row(what, milliseconds(ours), milliseconds(theirs), ours / theirs, 1.5)


def _history(database: PostgreSQL, run: Path, orders: int) -> Row:
    """With indexes, ten times the history must cost about the same."""
    found = []
    for amount in (orders, 10 * orders):
        _say(f"filling {amount:,} orders, with the indexes that doctor proposes")
        fill(database, amount)
        for statement in (
            "CREATE INDEX IF NOT EXISTS ix_orders_created_at ON orders (created_at)",
            "CREATE INDEX IF NOT EXISTS ix_orders_status ON orders (status) WHERE status = 'PENDING'",
            "CREATE INDEX IF NOT EXISTS ix_dispatches_created_at ON dispatches (created_at)",
            "CREATE INDEX IF NOT EXISTS ix_dispatches_status ON dispatches (status)",
            "VACUUM ANALYZE",
        ):
            database.execute(statement)
        with our_exporter(run, database.url) as ours:
            ours.wait(b"coldchain_orders{")
            found.append(database_seconds(ours, 7))
    return Row(
        "database time with indexes, ten times the history",
        milliseconds(found[1]),
        milliseconds(found[0]),
        found[1] / found[0],
        1.5,
    )


if __name__ == "__main__":
    sys.exit(main())
