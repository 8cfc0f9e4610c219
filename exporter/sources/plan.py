"""From the settings to the sources: which there are, how often they look, and how each is made."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from exporter.databases import CONNECTIONS, Shared, open_reader, parse_url
from exporter.families import Family
from exporter.settings import ExporterSettings, QuerySettings, SourceSettings
from exporter.sources.database import DatabaseSource
from exporter.sources.dispatches import dispatches
from exporter.sources.host import HostSource
from exporter.sources.orders import orders
from exporter.sources.queries import QuerySource
from exporter.sources.table import TableSource
from exporter.sources.vehicles import VEHICLES
from exporter.tables import Table

__all__ = ["Plan", "Source", "plans", "tables"]


class Source(Protocol):
    """Something that is looked at again and again, by one thread of its own."""

    def wait(self, seconds: float) -> None:
        """Returns when it has what it shares with others, within so many seconds; raises DatabaseError."""

    def collect(self, now: datetime, timeout: float) -> tuple[Family, ...]:
        """What is there at `now` (aware), within `timeout` seconds; raises DatabaseError or OSError."""

    def check(self, now: datetime, timeout: float) -> None:
        """Whether the database would answer; raises DatabaseError."""

    def rest(self, seconds: float) -> None:
        """The next look is that far away."""

    def close(self) -> None:
        """The end; called by the thread that collected."""


@dataclass(frozen=True)
class Plan:
    """A source to be; equal plans are the same source, which a reload leaves alone."""

    name: str
    interval: float
    timeout: float
    basis: Hashable
    """All that `make` depends on beside the database."""
    make: Callable[[], Source] = field(compare=False)
    database: Hashable | None = None
    """The one that it reads; None for what reads none."""


def tables(settings: ExporterSettings) -> tuple[Table, Table, Table]:
    """Orders, dispatches and vehicles: each has a source of its name."""
    return (
        orders(settings.orders_waiting_after),
        dispatches(settings.dispatches_overdue_after, settings.timezone),
        VEHICLES,
    )


def plans(settings: ExporterSettings, shared: Shared | None = None) -> tuple[Plan, ...]:
    """The sources that are switched on; without a database that is the host alone.

    Those of `queries:` use the connections of `shared`, which is given as many as the others leave.
    """
    result = []
    shared = shared or Shared()

    def add(
        name: str,
        own: SourceSettings,
        basis: Hashable,
        make: Callable[[float], Source],
        database: Hashable | None = settings.database_url,
    ) -> None:
        interval = (own.interval or settings.default_interval).total_seconds()
        timeout = (own.timeout or settings.default_timeout).total_seconds()
        if own.enabled:
            result.append(Plan(name, interval, timeout, basis, lambda: make(timeout), database))

    paths, disk = settings.path, settings.disk
    add("host", settings.sources.host, (paths, disk), lambda _: HostSource(paths, disk), None)
    if settings.database_url is not None:
        url = parse_url(settings.database_url.get_secret_value())
        add("database", settings.sources.database, (), lambda t: DatabaseSource(open_reader(url, t)))

        def add_table(own: SourceSettings, table: Table, *basis: Hashable) -> None:
            add(
                table.name,
                own,
                (settings.windows, settings.database_timezone, *basis),
                lambda t: TableSource(table, open_reader(url, t), settings.windows, settings.database_timezone),
            )

        order_table, dispatch_table, vehicle_table = tables(settings)
        add_table(settings.sources.orders, order_table, settings.orders_waiting_after)
        late = (settings.dispatches_overdue_after, settings.timezone)
        add_table(settings.sources.dispatches, dispatch_table, *late)
        add_table(settings.sources.vehicles, vehicle_table)
        shared.resize(CONNECTIONS - sum(plan.database is not None for plan in result))

        patience = settings.default_timeout.total_seconds()

        def add_query(name: str, query: QuerySettings) -> None:
            zone = settings.database_timezone
            add(
                name,
                query,
                (zone, patience, query),
                lambda _: QuerySource(query, shared.reader(url, patience), zone),
            )

        for name, query in settings.queries.items():
            add_query(name, query)
    return tuple(result)
