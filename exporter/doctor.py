"""`coldchain-exporter doctor`: tries every outside thing that the exporter depends on, and says what to do."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TypeVar

import sqlalchemy

from exporter.check import offline
from exporter.databases import CONNECTIONS, DatabaseError, Reader, open_reader, parse_url
from exporter.databases.catalogue import Server, catalogue_for
from exporter.diagnosis import (
    Finding,
    Level,
    Look,
    judge_clock,
    judge_indexes,
    judge_look,
    judge_statuses,
    judge_zone,
    words,
)
from exporter.families import Family, family_of
from exporter.settings import ExporterSettings
from exporter.sources import Plan, plans, tables
from exporter.sources.host import HostSource
from exporter.tables import Table, indexes, label
from serving import door

__all__ = ["examine"]

T = TypeVar("T")

NEWEST_ROWS = 21


def examine(options: argparse.Namespace, settings: ExporterSettings) -> Iterator[Finding]:
    """One finding after the other, as they come in."""
    problems = list(offline(options, settings))
    yield from (Finding("settings", Level.FAULT, problem) for problem in problems)
    good, text = door.port(options, "exporter")
    if text not in problems:
        yield Finding("port", Level.OK if good else Level.FAULT, text)
    if settings.sources.host.enabled:
        yield _host(settings)
    if settings.database_url is None:
        yield Finding("database", Level.WARNING, "DATABASE_URL is not set: everything but the host is off")
        return
    url = parse_url(settings.database_url.get_secret_value())
    reader = open_reader(url, settings.default_timeout.total_seconds())
    try:
        yield from _Database(settings, url, reader).examine()
    finally:
        reader.close()


def _host(settings: ExporterSettings) -> Finding:
    source = HostSource(settings.path, settings.disk)
    try:
        families = source.collect(datetime.now(UTC), settings.default_timeout.total_seconds())
    except OSError as error:
        return Finding(
            "host", Level.FAULT, f"{error.strerror or error}: is --path.procfs={settings.path.procfs} a procfs?"
        )
    found = sorted(mountpoint for (mountpoint,) in family_of(families, "coldchain_host_filesystem_size_bytes").samples)
    if source.silent:
        text = f"{', '.join(sorted(source.silent))} does not answer and has no figures: is a network mount dead?"
        return Finding("host", Level.FAULT, text)
    if settings.disk.mountpoint not in found:
        text = f"disk.mountpoint {settings.disk.mountpoint} is none of the file systems shown: {', '.join(found)}"
        return Finding("host", Level.FAULT, text)
    return Finding("host", Level.OK, f"file systems: {', '.join(found)}")


class _Database:
    """Asks the database, on one connection beside that of the source that is measured."""

    def __init__(self, settings: ExporterSettings, url: sqlalchemy.URL, reader: Reader) -> None:
        self._settings = settings
        self._url = url
        self._reader = reader
        self._timeout = settings.default_timeout.total_seconds()
        self._catalogue = catalogue_for(url.get_backend_name())
        self._plans = {plan.name: plan for plan in plans(settings) if plan.database is not None}
        self._tables = [table for table in tables(settings) if table.name in self._plans]

    def examine(self) -> Iterator[Finding]:
        """Where it cannot be reached that is all."""
        names = [table.name for table in self._tables]
        started = datetime.now(UTC)
        try:
            server = self._ask(lambda connection: self._catalogue.server(connection, names))
        except DatabaseError as error:
            yield Finding("database", Level.FAULT, f"{self._place}: {words(error)}")
            return
        ended = datetime.now(UTC)
        yield from self._server(server)
        if server.clock is not None:
            yield judge_clock(server.clock, started, ended)
        self._reader.close()  # the exporter may be running, and the role has few connections beside its five
        looks = {}
        for name, plan in self._plans.items():
            looks[name] = _look(plan)
            yield judge_look(plan, looks[name])
        for table in self._tables:
            yield from self._table(table, looks[table.name])

    def _ask(self, work: Callable[[sqlalchemy.Connection], T]) -> T:
        return self._reader.read(work, self._timeout)

    @property
    def _place(self) -> str:
        """The database without user and password."""
        url = self._url
        if url.get_backend_name() == "sqlite":
            return str(url.database)
        return f"{url.host or 'local socket'}{f':{url.port}' if url.port else ''}/{url.database}"

    def _server(self, server: Server) -> Iterator[Finding]:
        who = f" as {server.role}" if server.role else ""
        replica = ", a replica" if server.replica else ""
        yield Finding("database", Level.OK, f"{server.version} at {self._place}{who}{replica}")
        if not server.role:
            return
        script = self._catalogue.role_script
        if server.writable:
            text = (
                f"{server.role} could change {', '.join(server.writable)}: the exporter does not, but use the role "
                f"that {script} makes, which can read alone"
            )
            yield Finding("role", Level.WARNING, text)
        else:
            yield Finding("role", Level.OK, f"{server.role} can read alone")
        if server.connections is not None and server.connections < CONNECTIONS:
            text = (
                f"{server.role} may have {server.connections} connections at once; allow it {CONNECTIONS}, as {script}"
            )
            yield Finding("role", Level.FAULT, text)

    def _table(self, table: Table, look: Look) -> Iterator[Finding]:
        if look.families:
            yield judge_statuses(table, look.families)
        if not indexes(table) or not (look.families or look.slow):
            return
        try:
            naive, wall, rows = self._ask(lambda connection: self._newest(connection, table))
            indexed = self._ask(lambda connection: self._catalogue.indexed(connection, table.name))
        except DatabaseError as error:
            yield Finding(table.name, Level.FAULT, words(error))
            return
        if naive and wall:
            settings = self._settings
            yield judge_zone(table.name, wall, settings.database_timezone, settings.timezone, datetime.now(UTC))
        window = label(max(self._settings.windows))
        found = family_of(look.families, f"coldchain_{table.name}").samples
        counted = int(sum(value for (own, _), value in found.items() if own == window))
        yield from judge_indexes(table, indexed, None if look.slow else look.seconds, rows, counted, self._catalogue)

    def _newest(self, connection: sqlalchemy.Connection, table: Table) -> tuple[bool, list[datetime], int]:
        """Whether timestamps carry no zone; those of the highest ids, as a clock on the wall; about how many rows."""
        dialect = self._reader.dialect
        naive = "created_at" in dialect.columns(connection, table.name).naive
        newest = connection.exec_driver_sql(
            f"SELECT id, created_at FROM {table.name} ORDER BY id DESC LIMIT {NEWEST_ROWS}"  # noqa: S608 - names of ours
        ).all()
        lowest = connection.exec_driver_sql(f"SELECT min(id) FROM {table.name}").scalar()  # noqa: S608 - a name of ours
        far = datetime.max.replace(tzinfo=UTC)
        return naive, [dialect.moment(row[1], UTC, far) for row in newest], newest[0][0] - lowest + 1 if newest else 0


def _look(plan: Plan) -> Look:
    """Looks twice, the second time on an open connection, unless the first has cost a second."""
    source = plan.make()
    seconds = 0.0
    families: tuple[Family, ...] = ()
    try:
        for _ in range(2):
            started = time.perf_counter()
            families = source.collect(datetime.now(UTC), plan.timeout)
            seconds = time.perf_counter() - started
            if seconds > 1:
                break
    except DatabaseError as error:
        return Look(error=error)
    finally:
        source.close()
    return Look(seconds, families)
