"""`make bench-exporter`: the exporter against its peers on one large database, as ratios of one run."""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import psutil
from sqlalchemy.engine import make_url

from tests.benchmarks import peers, product
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

DISPATCHES = 200_000
VEHICLES = 500
SOURCES = ("database", "orders", "dispatches", "vehicles")  # in which they look in turn
FACTS = 60  # samples that query-exporter and sql_exporter have beside their filler, about
LEAST_SAMPLES = 150
LONG_PAGE = "windows: [1h, 3h, 6h, 12h, 24h, 72h, 168h]\n"  # more than 150 samples on a host with one file system too
OFTEN = "default_interval: 5s\n"  # the same work, in a third of the time
OUR_BUSINESS = (
    b"coldchain_vehicles_utilization_ratio ", b"coldchain_orders{", b"coldchain_orders_waiting ",
    b"coldchain_dispatches{",
)  # fmt: skip
THEIR_BUSINESS = (b"bench_vehicles{", b"bench_orders{", b"bench_orders_waiting{", b"bench_dispatches{")
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


def our_exporter(program: str, folder: Path, database_url: str, settings: str = "") -> AbstractContextManager[Target]:
    """Ours, as it comes but for `settings`."""
    port = free_port()
    (folder / "exporter.yaml").write_text(settings)
    command = [program, f"--web.listen-address=127.0.0.1:{port}", f"--config.file={folder / 'exporter.yaml'}"]
    return peers.started("exporter", command, port, "/metrics", folder, {"DATABASE_URL": database_url})


def value(page: bytes, name: str) -> float:
    """A sample's value."""
    found = [line for line in page.decode().splitlines() if line.startswith(name + " ")]
    return float(found[0].rpartition(" ")[2])


def refresh_seconds(target: Target, times: int, after_each: Callable[[], None] = lambda: None) -> float:
    """The median of what a refresh of all sources takes: the sum of their durations, ways to the database included."""
    found: list[float] = []
    last = 0.0
    while len(found) < times:
        page = target.get()
        stamp = value(page, f'coldchain_source_last_success_timestamp_seconds{{source="{SOURCES[-1]}"}}')
        if stamp != last:
            last = stamp
            found.append(sum(value(page, f'coldchain_source_duration_seconds{{source="{name}"}}') for name in SOURCES))
            after_each()
        time.sleep(0.1)
    return statistics.median(found)


class Counting:
    """Bare counts of the orders, on a connection that is open."""

    def __init__(self, database: PostgreSQL) -> None:
        self._connection = database.connect()
        self._found: list[float] = []

    def __call__(self) -> None:
        """Counts once more."""
        begin = time.perf_counter()
        self._connection.execute("SELECT count(*) FROM orders").fetchall()
        self._found.append(time.perf_counter() - begin)

    def seconds(self) -> float:
        """The median."""
        self._connection.close()
        return statistics.median(self._found)


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


@dataclass(frozen=True)
class Bench:
    """What every part of the benchmark needs."""

    database: PostgreSQL
    owner_url: str
    program: str
    run: Path
    quick: bool

    def ours(self, settings: str = "") -> AbstractContextManager[Target]:
        """Our exporter on this database."""
        return our_exporter(self.program, self.run, self.database.url, settings)

    def query_exporter(self, samples: int) -> AbstractContextManager[Target]:
        """query-exporter with a page of about so many samples."""
        return peers.query_exporter(self.run, self.owner_url, max(1, samples - FACTS))


def main() -> int:
    """Prints the table; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="bench-exporter")
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and no ten-fold history")
    parser.add_argument(
        "--cache", type=Path, default=Path("/var/tmp/coldchain-bench"), help="programs and data, on disk"
    )
    options = parser.parse_args()
    run = options.cache / "run"
    run.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(options.cache)  # the database's files too: /tmp may be memory
    print(f"load average at the start: {os.getloadavg()[0]:.2f} (a disturbed machine tells nothing)", flush=True)
    _say("installing the exporter and query-exporter, each into an environment of its own")
    program = str(product.installed(options.cache) / "coldchain-exporter")
    peers.query_exporter_program(options.cache)
    database = PostgreSQL()
    try:
        database.execute("ALTER ROLE owner PASSWORD 'bench'")
        owner = make_url(database.url).set(username="owner", password="bench")
        owner_url = owner.render_as_string(hide_password=False)
        rows = _measure(Bench(database, owner_url, program, run, options.quick), options.orders)
    finally:
        database.remove()
    print(table(rows))
    return 0 if all(row.reached for row in rows) else 1


_BEGIN = time.monotonic()


def _say(text: str) -> None:
    print(f"{time.monotonic() - _BEGIN:4.0f} s … {text}", file=sys.stderr, flush=True)


def _measure(bench: Bench, orders: int) -> list[Row]:
    _say(f"filling {orders:,} orders")
    fill(bench.database, orders)
    rows = [
        *_starts(bench),
        *_scrapes(bench),
        *_memory(bench),
        *_database_time(bench),
        *_calm_and_storm(bench),
        _ending(bench),
    ]
    if not bench.quick:
        rows.append(_history(bench, orders))
    return rows


def _starts(bench: Bench) -> list[Row]:
    _say("start to first scrape with business series, in turn")
    first: dict[str, list[float]] = {"exporter": [], "query_exporter": []}
    whole: dict[str, list[float]] = {"exporter": [], "query_exporter": []}
    for _ in range(3 if bench.quick else 7):
        for name, begin, texts in (
            ("exporter", bench.ours, OUR_BUSINESS),
            ("query_exporter", functools.partial(bench.query_exporter, 100), THEIR_BUSINESS),
        ):
            with begin() as target:
                first[name].append(target.wait(texts[0]))
                whole[name].append(first[name][-1] + target.wait(*texts))
    return [
        Row(
            f"start to the first scrape with {what}, against query-exporter",
            milliseconds(statistics.median(found["exporter"])),
            milliseconds(statistics.median(found["query_exporter"])),
            statistics.median(found["exporter"]) / statistics.median(found["query_exporter"]),
            1,
        )
        for what, found in (("business series", first), ("all business series", whole))
    ]


def _scrapes(bench: Bench) -> Iterator[Row]:
    rounds, times = (2, 150) if bench.quick else (6, 400)
    with bench.ours(LONG_PAGE) as ours:
        ours.wait(*OUR_BUSINESS)
        samples = ours.samples()
        if samples < LEAST_SAMPLES:
            raise RuntimeError(f"our page has {samples} samples, and not {LEAST_SAMPLES}")
        with (
            peers.sql_exporter(bench.run, bench.owner_url, max(1, samples - FACTS)) as sql,
            bench.query_exporter(samples) as query,
            peers.node_exporter(bench.run) as node,
            peers.client_app(bench.run, bench.program, samples) as client,
        ):
            for target, text in ((sql, b"bench_filler"), (query, b"bench_filler{"), (node, b"node_"), (client, b"99")):
                target.wait(text)
            _say(f"scrapes in turn; samples: { {one.name: one.samples() for one in (ours, sql, query, node, client)} }")
            found = {
                name: statistics.median(each)
                for name, each in interleaved((ours, sql, query, node), rounds, times).items()
            }
            for name, bar in (("sql_exporter", 1.0), ("node_exporter", 1 / 5), ("query_exporter", 1 / 3)):
                yield Row(
                    f"scrape p50, {samples} samples, against {name}",
                    milliseconds(found["exporter"]),
                    milliseconds(found[name]),
                    found["exporter"] / found[name],
                    bar,
                )
            _say("requests a second")
            rates: dict[str, list[float]] = {"exporter": [], "prometheus_client": []}
            for _ in range(1 if bench.quick else 3):
                for target in (ours, client):
                    rates[target.name].append(requests_per_second(target))
            rate = {name: statistics.median(each) for name, each in rates.items()}
            yield Row(
                "requests/s at 8 connections, against prometheus_client's ASGI app",
                f"{rate['exporter']:.0f}",
                f"{rate['prometheus_client']:.0f}",
                rate["exporter"] / rate["prometheus_client"],
                6,
                higher_is_better=True,
            )


def _memory(bench: Bench) -> Iterator[Row]:
    _say("memory")
    with bench.ours(LONG_PAGE) as ours:
        ours.wait(*OUR_BUSINESS)
        with bench.query_exporter(ours.samples()) as query:
            query.wait(*THEIR_BUSINESS)
            for target in (ours, query):
                latencies(target, 1000)
            before, peer = ours.resident_bytes(), query.resident_bytes()
        yield Row(
            "resident memory after 1,000 scrapes, against query-exporter",
            megabytes(before),
            megabytes(peer),
            before / peer,
            1,
        )
        more = 2_000 if bench.quick else 20_000
        latencies(ours, more)
        after = ours.resident_bytes()
        yield Row(f"resident memory, {more:,} scrapes later", megabytes(after), megabytes(before), after / before, 1.02)


def _database_time(bench: Bench) -> Iterator[Row]:
    _say("database time of a refresh")
    with bench.ours(OFTEN) as ours:
        ours.wait(*OUR_BUSINESS)
        count = Counting(bench.database)
        refresh = refresh_seconds(ours, 4 if bench.quick else 9, count)
        bare = count.seconds()
    yield Row(
        "database time of one refresh, against count(*) of orders",
        milliseconds(refresh),
        milliseconds(bare),
        refresh / bare,
        3,
    )


def _calm_and_storm(bench: Bench) -> Iterator[Row]:
    seconds = 8.0 if bench.quick else 30.0
    database = bench.database
    with bench.ours() as ours:
        ours.wait(*OUR_BUSINESS)

        def scrapes() -> list[float]:
            """For so many seconds, a hundred a second or so."""
            return latencies(ours, int(seconds / 0.01), pause=0.008)

        _say("scrapes undisturbed, twice")
        undisturbed, again = scrapes(), scrapes()
        yield _tail("scrape p99, undisturbed twice (the noise)", again, undisturbed)
        _say("scrapes with orders locked")
        yield _tail("scrape p99 while orders is locked", while_locked(database, seconds, scrapes), undisturbed)
        _say("scrapes with the database frozen (SIGSTOP)")
        database.freeze()
        try:
            yield _tail("scrape p99 while the database is frozen", scrapes(), undisturbed)
        finally:
            database.thaw()
        ours.wait(*OUR_BUSINESS)
        _say("scrapes with the database shut down")
        database.stop()
        yield _tail("scrape p99 while the database is shut down", scrapes(), undisturbed)
        database.start()
        ours.wait(*OUR_BUSINESS)
        _say("dashboard")
        dashboard = Target("exporter", ours.port, "/api/v1/monitoring/dashboard", ours.pid)
        page = statistics.median(latencies(dashboard, 150 if bench.quick else 2000))
        yield Row("GET dashboard p50, against 5 ms", milliseconds(page), "5 ms", page / 0.005, 1)


def _ending(bench: Bench) -> Row:
    """By SIGTERM, while every source waits for a server that will not answer."""
    _say("ending with the database frozen")
    with bench.ours(OFTEN) as ours:
        ours.wait(*OUR_BUSINESS)
        bench.database.freeze()
        try:
            ours.wait(b"coldchain_database_up 0.0")
            process = psutil.Process(ours.pid)
            begin = time.perf_counter()
            process.terminate()
            process.wait(30)
            seconds = time.perf_counter() - begin
        finally:
            bench.database.thaw()
    return Row("SIGTERM with the database frozen, against 2 s", f"{seconds:.2f} s", "2 s", seconds / 2, 1)


def _tail(what: str, found: list[float], floor: list[float]) -> Row:
    ours, theirs = quantile(found, 0.99), quantile(floor, 0.99)
    return Row(what, milliseconds(ours), milliseconds(theirs), ours / theirs, 1.5)


def proposed_indexes(bench: Bench) -> list[str]:
    """The statements that `doctor` prints, of this database as it is."""
    done = subprocess.run(
        [bench.program, "--web.listen-address=127.0.0.1:0", "doctor"],
        check=True,
        capture_output=True,
        text=True,
        cwd=bench.run,
        env=product.environment({"DATABASE_URL": bench.database.url}),
    )
    return [line.strip() for line in done.stdout.splitlines() if line.strip().startswith("CREATE INDEX ")]


def _history(bench: Bench, orders: int) -> Row:
    """With indexes, ten times the history must cost about the same."""
    found = []
    statements: list[str] = []
    for amount in (orders, 10 * orders):
        for statement in statements:
            bench.database.execute(f"DROP INDEX {statement.split()[3]}")  # CREATE INDEX CONCURRENTLY name
        _say(f"filling {amount:,} orders")
        fill(bench.database, amount)
        statements = proposed_indexes(bench)
        _say(f"creating the indexes that doctor proposes: {' '.join(statements)}")
        if not statements:
            raise RuntimeError("doctor proposes no index")
        for statement in statements:
            bench.database.execute(statement)
        bench.database.execute("VACUUM ANALYZE")
        with bench.ours(OFTEN) as ours:
            ours.wait(*OUR_BUSINESS)
            found.append(refresh_seconds(ours, 9))
    return Row(
        "database time with the doctor's indexes, ten times the history",
        milliseconds(found[1]),
        milliseconds(found[0]),
        found[1] / found[0],
        1.5,
    )


if __name__ == "__main__":
    sys.exit(main())
