"""The awkward rows that every database is filled with, and what they come to by SQL that is written out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

# 01:30 of the 28th in Seoul, and still the 27th in UTC and in New York
NOW = datetime(2026, 1, 27, 16, 30, tzinfo=UTC)

ORDER_STATUSES = ("PENDING", "ASSIGNED", "IN_TRANSIT", "DELIVERED", "CANCELLED", "ON_HOLD")
DISPATCH_STATUSES = ("DRAFT", "CONFIRMED", "IN_PROGRESS", "COMPLETED", "CANCELLED")
VEHICLE_STATUSES = ("AVAILABLE", "IN_USE", "MAINTENANCE", "EMERGENCY_MAINTENANCE", "BREAKDOWN", "OUT_OF_SERVICE")

# on both sides of every edge: the windows', the waiting time's, and now's
AGES = (
    timedelta(0), timedelta(microseconds=1000), timedelta(minutes=59, seconds=59), timedelta(hours=1),
    timedelta(hours=1, milliseconds=1), timedelta(hours=1, seconds=1), timedelta(hours=1, minutes=59, seconds=59),
    timedelta(hours=2), timedelta(hours=2, milliseconds=1), timedelta(hours=23), timedelta(hours=24),
    timedelta(hours=24, seconds=1), timedelta(days=2, microseconds=250_000), timedelta(hours=168),
    timedelta(hours=168, milliseconds=1), timedelta(days=40),
    # to come
    timedelta(milliseconds=-1), timedelta(seconds=-1), timedelta(days=-1), timedelta(days=-400),
)  # fmt: skip

# how long an order took: not at all, less than nothing, a fraction, a week
TOOK = (
    timedelta(0),
    timedelta(hours=-3),
    timedelta(milliseconds=1500),
    timedelta(hours=6, minutes=30),
    timedelta(days=7),
)


@dataclass(frozen=True)
class Site:
    """A database as some site has it: how it writes a moment down, and how SQL counts seconds there."""

    url: str
    execute: Callable[[str], list[tuple[Any, ...]]]
    zone: ZoneInfo | None
    """Of its clock; None where timestamps carry their zone."""
    seconds: str
    """SQL for the seconds from {start} to {end}."""
    compare: str = "{column} {operator} '{moment}'"
    drop_rows: tuple[str, ...] = ("DELETE FROM orders", "DELETE FROM dispatches", "DELETE FROM vehicles")

    def write(self, moment: datetime) -> str:
        """The moment as this site writes it."""
        if self.zone is None:
            return moment.isoformat(sep=" ")
        return moment.astimezone(self.zone).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")

    def when(self, column: str, operator: str, moment: datetime) -> str:
        """A comparison of a column with a moment."""
        return self.compare.format(column=column, operator=operator, moment=self.write(moment))

    def one(self, sql: str) -> Any:
        """The single value of a query."""
        return self.execute(sql)[0][0]


def fill(site: Site, now: datetime) -> None:
    """Empties the tables, and writes the awkward rows."""
    for statement in site.drop_rows:
        site.execute(statement)
    rows = []
    for number, (status, age) in enumerate((s, a) for s in ORDER_STATUSES for a in AGES):
        created = now - age
        updated = created + TOOK[number % len(TOOK)]
        rows.append(
            f"('O-{number}', '2026-01-27', 'FROZEN', '{status}', '{site.write(created)}', '{site.write(updated)}')"
        )
    columns = "order_number, order_date, temperature_zone, status, created_at, updated_at"
    site.execute(f"INSERT INTO orders ({columns}) VALUES {', '.join(rows)}")

    days = [date(2026, 1, 26), date(2026, 1, 27), date(2026, 1, 28), date(2026, 1, 29), date(2020, 2, 29)]
    days += [now.date(), now.date() - timedelta(days=1), now.date() + timedelta(days=1)]
    rows = []
    for number, (status, age) in enumerate((s, a) for s in DISPATCH_STATUSES for a in AGES):
        distance = ("NULL", "0", "12.5", "417.25")[number % 4]
        rows.append(f"('D-{number}', '{days[number % len(days)]}', {distance}, '{status}', '{site.write(now - age)}')")
    columns = "dispatch_number, dispatch_date, total_distance_km, status, created_at"
    site.execute(f"INSERT INTO dispatches ({columns}) VALUES {', '.join(rows)}")

    rows = []
    fleet = ["AVAILABLE"] * 5 + ["IN_USE"] * 4 + ["MAINTENANCE", "EMERGENCY_MAINTENANCE", "BREAKDOWN"]
    for number, status in enumerate(fleet):
        rows.append(f"('V-{number}', '서울{number:04}', 'FROZEN', '{status}', {'true' if number % 3 else 'false'})")
    columns = "code, plate_number, vehicle_type, status, is_active"
    site.execute(f"INSERT INTO vehicles ({columns}) VALUES {', '.join(rows)}")


def expected(site: Site, now: datetime, today: date) -> dict[str, float]:
    """Every series of orders, dispatches and vehicles, each by a query of its own."""
    return {**dict(_orders(site, now)), **dict(_dispatches(site, now, today)), **dict(_vehicles(site))}


def _orders(site: Site, now: datetime) -> Iterator[tuple[str, float]]:
    until_now = site.when("created_at", "<=", now)
    for hours in (1, 24, 168):
        inside = f"{site.when('created_at', '>=', now - timedelta(hours=hours))} AND {until_now}"
        for status in ORDER_STATUSES:
            rows = site.one(f"SELECT count(*) FROM orders WHERE {inside} AND status = '{status}'")
            yield f'coldchain_orders{{window="{hours}h",status="{status.lower()}"}}', rows
        took = site.seconds.format(start="created_at", end="updated_at")
        mean = site.one(
            f"SELECT avg({took}) FROM orders WHERE {inside} AND status = 'DELIVERED' AND updated_at >= created_at"
        )
        if mean is not None:
            yield f'coldchain_orders_processing_seconds_mean{{window="{hours}h"}}', float(mean)
    two_hours_ago = site.when("created_at", "<", now - timedelta(hours=2))
    yield (
        "coldchain_orders_waiting",
        site.one(f"SELECT count(*) FROM orders WHERE status = 'PENDING' AND {two_hours_ago}"),
    )
    oldest = site.one(f"SELECT min(created_at) FROM orders WHERE status = 'PENDING' AND {until_now}")
    yield (
        "coldchain_orders_oldest_waiting_seconds",
        0 if oldest is None else (now - _aware(oldest, site)).total_seconds(),
    )
    newest = site.one(f"SELECT max(created_at) FROM orders WHERE {until_now}")
    if newest is not None:
        yield "coldchain_orders_newest_timestamp_seconds", _aware(newest, site).timestamp()


def _dispatches(site: Site, now: datetime, today: date) -> Iterator[tuple[str, float]]:
    for hours in (1, 24, 168):
        since, until = site.when("created_at", ">=", now - timedelta(hours=hours)), site.when("created_at", "<=", now)
        for status in DISPATCH_STATUSES:
            rows = site.one(f"SELECT count(*) FROM dispatches WHERE {since} AND {until} AND status = '{status}'")
            yield f'coldchain_dispatches{{window="{hours}h",status="{status.lower()}"}}', rows
        mean = site.one(f"SELECT avg(total_distance_km) FROM dispatches WHERE {since} AND {until}")
        if mean is not None:
            yield f'coldchain_dispatches_distance_meters_mean{{window="{hours}h"}}', mean * 1000
    yield (
        "coldchain_dispatches_active",
        site.one("SELECT count(*) FROM dispatches WHERE status = 'CONFIRMED' OR status = 'IN_PROGRESS'"),
    )
    yield (
        "coldchain_dispatches_overdue",
        site.one(f"SELECT count(*) FROM dispatches WHERE status = 'IN_PROGRESS' AND dispatch_date < '{today}'"),
    )


def _vehicles(site: Site) -> Iterator[tuple[str, float]]:
    for status in VEHICLE_STATUSES:
        rows = site.one(f"SELECT count(*) FROM vehicles WHERE status = '{status}'")
        yield f'coldchain_vehicles{{status="{status.lower()}"}}', rows
    total = site.one("SELECT count(*) FROM vehicles")
    if total:
        yield (
            "coldchain_vehicles_utilization_ratio",
            site.one("SELECT count(*) FROM vehicles WHERE status = 'IN_USE'") / total,
        )


def _aware(value: Any, site: Site) -> datetime:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment if moment.tzinfo else moment.replace(tzinfo=site.zone)


def close(a: float, b: float) -> bool:
    """Equal but for the last bits of a float: means are sums in another order."""
    return math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-9)
